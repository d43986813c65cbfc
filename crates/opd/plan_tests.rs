//! Each plan by itself, on states made by hand; `simulation` drives them together.

use super::*;
use crate::share::Share;
use record::{
    Claims, Commit, Digest, EvalCommit, Event, FORMAT, Job, ObjectRef, Policy, Retirement, RolloutCommit, ScoreCommit,
    StepCommit, Work,
};
use std::collections::BTreeMap;

const SET: &str = "main";
const NOBODY: Lapsed<'static> = &|_| false;
const PACE: Pace = Pace {
    rows_per_step: 8,
    steps: 20,
    min_staleness: 0,
    max_staleness: 3,
    when_stale: WhenStale::Drop,
    lag: 0,
    share: Share::NONE,
};

/// A log with units of four rows.
struct Log(Snapshot);

impl Log {
    fn new() -> Self {
        Self(Snapshot::start(&commit(0, "run", Event::Run(Box::new(crate::simulation::identity(4, 2, 0))))).unwrap())
    }

    fn apply(&mut self, worker: &str, event: Event) {
        self.0.apply(&commit(self.0.seq + 1, worker, event)).unwrap();
    }

    /// Claims what can be claimed; says what.
    fn claim(&mut self, worker: &str, lapsed: Lapsed<'_>) -> Option<UnitRows> {
        let of = claimable_unit(&self.0, None, PACE, lapsed)?;
        self.apply(worker, Event::Claim(Claims { units: vec![of.clone()], ..Claims::default() }));
        Some(of)
    }

    /// A batch of `of`, sampled by the newest policy.
    fn deliver(&mut self, worker: &str, of: UnitRows, lapsed: Lapsed<'_>) {
        self.deliver_to("teacher-0", worker, of, lapsed);
    }

    fn deliver_to(&mut self, teacher: &str, worker: &str, of: UnitRows, lapsed: Lapsed<'_>) {
        let units = claimable_unit(&self.0, Some(&of), PACE, lapsed).into_iter().collect();
        let rollouts = RolloutCommit {
            // Names that do not sort as their rows do: that must not matter.
            batch: format!("u{}-{}", of.unit, 1_000 - self.0.seq),
            of,
            policy_version: self.0.newest_policy().version,
            teacher_id: teacher.into(),
            object: object("rollouts"),
            codec: None,
            tokens: 1,
            claims: Claims { units, ..Claims::default() },
        };
        self.apply(worker, Event::Rollouts(rollouts));
    }

    fn score(&mut self, worker: &str, batch: BatchId, claims: Claims) {
        self.apply(
            worker,
            Event::Scores(ScoreCommit {
                batch,
                score_set: SET.into(),
                parent: None,
                object: object("scores"),
                packing: None,
                claims,
            }),
        );
    }

    /// Samples and scores whatever fits, by one worker each.
    fn fill(&mut self) {
        while let Some(of) = self.claim("rollout-0", NOBODY) {
            // Alone, nothing is claimed with a delivery: that is taken up by the next turn.
            let mut of = Some(of);
            while let Some(next) = of {
                self.deliver("rollout-0", next, NOBODY);
                of = self.0.unit_claims.first().map(|claim| claim.of.clone());
            }
        }
        while let Some(batch) = claimable_batch(&self.0, None, &serves(&["teacher-0"]), NOBODY) {
            self.score("score-0", batch, Claims::default());
        }
    }

    /// The learner's next step, published or not, with or without moments.
    fn step(&mut self, is_published: bool, has_moments: bool) {
        let Next::Do(Learn::Step(rows)) = learn(&self.0, SET, PACE, None) else {
            panic!("{:?}", learn(&self.0, SET, PACE, None))
        };
        let version = PolicyVersion(self.0.version.0 + 1);
        let weights = object(&version.to_string());
        let step = StepCommit {
            step: version.0,
            consumed: rows.into_iter().map(|of| BatchRows { batch: of.batch, rows: of.rows }).collect(),
            replayed: Vec::new(),
            dropped: Vec::new(),
            score_set: SET.into(),
            record: weights.clone(),
            weights_digest: weights.digest,
            policy: is_published.then(|| Policy { version, weights: weights.clone() }),
            moments: has_moments.then_some(weights),
            settings: serde_json::Value::Null,
            metrics: BTreeMap::new(),
        };
        self.apply("learn-0", Event::Step(Box::new(step)));
    }

    fn evaluate(&mut self, set: &str, version: u64) {
        let eval = EvalCommit {
            eval_set: set.into(),
            policy_version: PolicyVersion(version),
            accuracy: (1.0, 2.0),
            sampled_accuracy: (1.0, 2.0),
            metrics: BTreeMap::new(),
        };
        self.apply("eval-0", Event::Eval(eval));
    }
}

fn serves(teachers: &[&str]) -> Serves {
    Serves { score_set: SET.into(), teachers: teachers.iter().map(|id| id.to_string()).collect() }
}

fn rows(of: &[u32]) -> RowSet {
    of.iter().copied().collect()
}

fn object(name: &str) -> ObjectRef {
    ObjectRef { key: name.into(), bytes: 1, digest: Digest::of(name.as_bytes()) }
}

fn commit(seq: u64, worker: &str, event: Event) -> Commit {
    let (worker, incarnation) = (worker.to_string(), worker.to_string());
    let work = Work { worker, incarnation, job: Job::Run, started: 0, busy_s: 0.0, waited_s: 0.0, tokens: 0 };
    Commit { format: FORMAT, seq, id: seq.to_string(), at: 0, work, event }
}

fn versions(numbers: &[u64]) -> Vec<PolicyVersion> {
    numbers.iter().copied().map(PolicyVersion).collect()
}

#[test]
fn work_ahead_shrinks_with_every_step_that_is_not_published() {
    let mut log = Log::new();
    // (published, rows ahead after filling up): at most (3 + 1 - born) steps of 8 rows, where rows are born as stale as the
    // newest policy already is.
    log.fill();
    assert_eq!(log.0.rows_ahead(), 32);
    for (is_published, ahead) in [(false, 24), (false, 16), (true, 32), (false, 24), (true, 32)] {
        log.step(is_published, false);
        log.fill();
        assert_eq!(log.0.rows_ahead(), ahead, "after step {}", log.0.version);
    }
    // None of what was stored becomes stale, however long nothing is published.
    while log.0.rows_ahead() >= 8 && log.0.version.staleness_of(log.0.newest_policy().version) < 3 {
        log.step(false, false);
    }
    assert!(log.0.ended.staleness_max <= PACE.max_staleness, "{:?}", log.0.ended);
    assert!(log.0.ended.dropped.is_empty(), "{:?}", log.0.ended);
}

#[test]
fn a_bound_without_an_end_and_steps_without_number_are_just_large() {
    let mut log = Log::new();
    let pace = Pace { steps: u64::MAX, max_staleness: u64::MAX, ..PACE };
    assert_eq!(claimable_unit(&log.0, None, pace, NOBODY), Some(UnitRows { unit: 0, rows: RowSet::first(4) }));
    log.fill();
    assert_eq!(claimable_unit(&log.0, None, pace, NOBODY).map(|of| of.unit), Some(8));
}

#[test]
fn no_unit_is_begun_that_no_step_would_take() {
    let mut log = Log::new();
    let pace = Pace { steps: 1, ..PACE };
    for _ in 0..2 {
        assert!(claimable_unit(&log.0, None, pace, NOBODY).is_some());
        log.claim("rollout-0", NOBODY);
    }
    assert_eq!(claimable_unit(&log.0, None, pace, NOBODY), None);
}

#[test]
fn a_lapsed_claim_is_taken_over_once_and_whoever_delivers_first_wins() {
    let mut log = Log::new();
    let of = log.claim("rollout-0", NOBODY).unwrap();
    assert_eq!(rollout(&log.0, "rollout-0", PACE, NOBODY), Next::Do(Rollout::Sample(of.clone())));
    // To others it is taken while it is live, and the first to be had once it has lapsed.
    let lapsed = |worker: &str| worker == "rollout-0";
    assert_eq!(rollout(&log.0, "rollout-1", PACE, &lapsed), Next::Do(Rollout::Claim(of.clone())));
    assert_ne!(rollout(&log.0, "rollout-1", PACE, NOBODY), Next::Do(Rollout::Claim(of.clone())));
    assert_eq!(log.claim("rollout-1", &lapsed), Some(of.clone()));
    assert_eq!(rollout(&log.0, "rollout-1", PACE, &lapsed), Next::Do(Rollout::Sample(of.clone())));
    assert_ne!(rollout(&log.0, "rollout-2", PACE, &lapsed), Next::Do(Rollout::Claim(of.clone())));
    assert_eq!(log.0.rows_ahead(), 4);
    // The one who was only slow delivers first, while the other has fallen silent: no claim of it is left, none is made.
    log.deliver("rollout-0", of.clone(), &|worker| worker == "rollout-1");
    assert!(log.0.unit_claims.iter().all(|claim| claim.of != of && claim.worker == "rollout-0"));
    assert_eq!(log.0.pending().count(), 1);
}

#[test]
fn a_unit_of_two_teachers_comes_in_two_batches_in_the_order_of_their_first_rows() {
    let mut log = Log::new();
    let unit = log.claim("rollout-0", NOBODY).unwrap();
    let of = |part: &[u32]| UnitRows { unit: 0, rows: rows(part) };
    let parts = parts(&unit, |row| if row == 0 || row == 3 { "teacher-1" } else { "teacher-0" });
    assert_eq!(parts, [("teacher-1".to_string(), of(&[0, 3])), ("teacher-0".to_string(), of(&[1, 2]))]);
    // The first is delivered; what is left stays the worker's, and is the first to be had when it falls silent.
    log.deliver_to("teacher-1", "rollout-0", parts[0].1.clone(), NOBODY);
    let lapsed = |worker: &str| worker == "rollout-0";
    let wanted = |part: &UnitRows| is_wanted(&log.0, part, PolicyVersion(0), PACE);
    assert!(!wanted(&parts[0].1) && wanted(&parts[1].1));
    assert_eq!(rollout(&log.0, "rollout-0", PACE, NOBODY), Next::Do(Rollout::Sample(of(&[1, 2]))));
    assert_eq!(rollout(&log.0, "rollout-1", PACE, &lapsed), Next::Do(Rollout::Claim(of(&[1, 2]))));
    // With the last of it nothing of the unit is left to be claimed in the same commit, with half of it the other half is.
    assert_ne!(claimable_unit(&log.0, Some(&of(&[1, 2])), PACE, &lapsed).map(|of| of.unit), Some(0));
    assert_eq!(claimable_unit(&log.0, Some(&of(&[1])), PACE, &lapsed), Some(of(&[2])));
    log.deliver_to("teacher-0", "rollout-0", of(&[1, 2]), NOBODY);
    let order: Vec<RowSet> = log.0.pending().map(|(_, batch)| batch.of.rows.clone()).collect();
    assert_eq!(order, [rows(&[0, 3]), rows(&[1, 2])]);
    // Each score worker takes what is for the teachers it has.
    let ids: Vec<BatchId> = log.0.pending().map(|(id, _)| id.clone()).collect();
    let first = |teachers: &[&str]| claimable_batch(&log.0, None, &serves(teachers), NOBODY);
    assert_eq!(first(&["teacher-0"]), Some(ids[1].clone()));
    assert_eq!(first(&["teacher-1"]), Some(ids[0].clone()));
    assert_eq!(first(&["teacher-0", "teacher-1"]), Some(ids[0].clone()));
    // Rows of a damaged batch are again those of the unit.
    let of_batch = BatchRows { batch: ids[0].clone(), rows: RowSet::first(2) };
    let dropped = vec![Dropped { of: of_batch, reason: DropReason::Corrupt, reissue: true }];
    log.apply("score-0", Event::Drop { dropped });
    assert_eq!(log.0.reissue, BTreeMap::from([(0, rows(&[0, 3]))]));
}

#[test]
fn what_no_worker_could_mean_is_no_delivery() {
    let mut log = Log::new();
    log.claim("rollout-0", NOBODY).unwrap();
    let refused = |of: &[u32], teacher: &str, says: &str| {
        let rollouts = RolloutCommit {
            batch: "u0".into(),
            of: UnitRows { unit: 0, rows: rows(of) },
            policy_version: PolicyVersion(0),
            teacher_id: teacher.into(),
            object: object("rollouts"),
            codec: None,
            tokens: 1,
            claims: Claims::default(),
        };
        let error = log.0.clone().apply(&commit(log.0.seq + 1, "rollout-0", Event::Rollouts(rollouts))).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    };
    refused(&[], "teacher-0", "never claimed");
    refused(&[3, 4], "teacher-0", "never claimed");
    refused(&[0, 1], "teacher-7", "the run has no teacher `teacher-7`");
}

#[test]
fn a_batch_is_scored_by_one_worker_and_by_another_when_that_falls_silent() {
    let mut log = Log::new();
    for _ in 0..2 {
        let of = log.claim("rollout-0", NOBODY).unwrap();
        log.deliver("rollout-0", of, &|_| true);
    }
    let ids: Vec<BatchId> = log.0.pending().map(|(id, _)| id.clone()).collect();
    let lapsed = |worker: &str| worker == "score-0";
    assert_eq!(score(&log.0, "score-0", &serves(&["teacher-0"]), NOBODY), Next::Do(Score::Claim(ids[0].clone())));
    log.apply("score-0", Event::Claim(Claims { batches: vec![ids[0].clone()], ..Claims::default() }));
    assert_eq!(score(&log.0, "score-0", &serves(&["teacher-0"]), NOBODY), Next::Do(Score::Score(ids[0].clone())));
    assert_eq!(score(&log.0, "score-1", &serves(&["teacher-0"]), NOBODY), Next::Do(Score::Claim(ids[1].clone())));
    assert_eq!(score(&log.0, "score-1", &serves(&["teacher-0"]), &lapsed), Next::Do(Score::Claim(ids[0].clone())));
    // What is delivered in the same commit is not claimed with it, though the last who claimed it is silent.
    assert_eq!(claimable_batch(&log.0, Some(&ids[0]), &serves(&["teacher-0"]), &lapsed), Some(ids[1].clone()));
    log.score("score-1", ids[0].clone(), Claims { batches: vec![ids[1].clone()], ..Claims::default() });
    assert_eq!(score(&log.0, "score-0", &serves(&["teacher-0"]), NOBODY), Next::Wait);
    assert_eq!(score(&log.0, "score-1", &serves(&["teacher-0"]), NOBODY), Next::Do(Score::Score(ids[1].clone())));
}

#[test]
fn evaluations_take_the_oldest_version_that_is_due_and_end_with_the_run() {
    let pace = Pace { steps: 4, ..PACE };
    let sets = ["a".to_string(), "b".to_string()];
    let mut log = Log::new();
    let next = |log: &Log| match eval(&log.0, &sets, 2, pace.steps) {
        Next::Do((version, set)) => format!("{version} {set}"),
        other => format!("{other:?}"),
    };
    assert_eq!(next(&log), "v0 a");
    log.evaluate("a", 0);
    assert_eq!(next(&log), "v0 b");
    log.evaluate("b", 0);
    assert_eq!(next(&log), "Wait");
    for version in 1..=4 {
        log.fill();
        log.step(true, false);
        // Version 1 is not due, 2 and 4 are; the older comes first.
        assert_eq!(next(&log), if version == 1 { "Wait" } else { "v2 a" });
    }
    let Next::Do(Learn::Finish(dropped)) = learn(&log.0, SET, pace, None) else {
        panic!("{:?}", learn(&log.0, SET, pace, None))
    };
    log.apply("learn-0", Event::Finish { dropped });
    // The end of training is not the end of evaluations.
    for (version, set) in [(2, "a"), (2, "b"), (4, "a"), (4, "b")] {
        assert_eq!(next(&log), format!("v{version} {set}"));
        log.evaluate(set, version);
    }
    assert_eq!(next(&log), "Done");
    // `every = 0` is the first and the last alone.
    let due = |every| (0..=4).filter(|version| is_eval_due(PolicyVersion(*version), every, 4)).collect::<Vec<_>>();
    assert_eq!((due(0), due(3)), (vec![0, 4], vec![0, 3, 4]));
}

#[test]
fn what_is_retired_is_needed_by_nobody() {
    let mut log = Log::new();
    for step in 1..=8 {
        log.fill();
        log.step(true, step % 3 == 0);
    }
    // Kept: the first, the newest two, the checkpoint (6), what waits for an evaluation (4).
    let awaits = |version: PolicyVersion| version.0 == 4;
    assert_eq!(retire(&log.0, 2, &awaits), (versions(&[1, 2, 3, 5]), versions(&[3])));
    // The newest is kept whatever is asked for.
    assert_eq!(retire(&log.0, 0, &|_| false).0, versions(&[1, 2, 3, 4, 5, 7]));
    let (policies, moments) = retire(&log.0, 2, &awaits);
    log.apply("learn-0", Event::Retire(Retirement { policies, moments, ..Retirement::default() }));
    assert_eq!(retire(&log.0, 2, &awaits), (Vec::new(), Vec::new()));
    assert_eq!(log.0.policies.keys().copied().collect::<Vec<_>>(), versions(&[0, 4, 6, 7, 8]));
    assert_eq!(log.0.moments.keys().copied().collect::<Vec<_>>(), versions(&[6]));
}

#[test]
fn little_is_retired_many_at_a_time_and_much_at_once() {
    let mut log = Log::new();
    for step in 1..=10 {
        log.fill();
        log.step(true, step % 5 == 0);
    }
    let is_worth = |log: &Log, policies: &[u64], moments: &[u64]| {
        is_worth_retiring(&log.0, &versions(policies), &versions(moments))
    };
    assert!(!is_worth(&log, &[], &[]));
    assert!(!is_worth(&log, &[1, 2, 3, 4, 5, 6, 7], &[5]), "a few bytes each");
    assert!(is_worth(&log, &[1, 2, 3, 4, 5, 6, 7, 8], &[]));
    for (version, bytes) in [(1, (64 << 20) - 1), (2, 1), (3, 300 << 20)] {
        log.0.policies.get_mut(&PolicyVersion(version)).unwrap().weights.bytes = bytes;
    }
    assert!(!is_worth(&log, &[1], &[]) && is_worth(&log, &[1, 2], &[]) && is_worth(&log, &[3], &[]));
    log.0.moments.get_mut(&PolicyVersion(5)).unwrap().bytes = 600 << 20;
    assert!(is_worth(&log, &[], &[5]));
}

#[test]
fn a_store_is_collected_when_all_that_the_pace_allows_is_scored() {
    let mut log = Log::new();
    let pace = Pace { steps: 3, ..PACE };
    let is_collected = |log: &Log| is_collected(&log.0, SET, pace);
    assert!(!is_collected(&log));
    for unit in 0..6 {
        assert!(claimable_unit(&log.0, None, pace, NOBODY).is_some());
        let of = log.claim("rollout-0", NOBODY).unwrap();
        assert!(!is_collected(&log), "unit {unit} is being sampled");
        let rollouts = RolloutCommit {
            batch: format!("u{unit}"),
            of,
            policy_version: PolicyVersion(0),
            teacher_id: "teacher-0".into(),
            object: object("rollouts"),
            codec: None,
            tokens: 1,
            claims: Claims::default(),
        };
        log.apply("rollout-0", Event::Rollouts(rollouts));
        assert!(!is_collected(&log), "unit {unit} is not scored");
        log.score("score-0", format!("u{unit}"), Claims::default());
    }
    // Three steps of 8 rows.
    assert!(is_collected(&log));
    let of = BatchRows { batch: "u3".into(), rows: RowSet::first(4) };
    log.apply("learn-0", Event::Drop { dropped: vec![Dropped { of, reason: DropReason::Corrupt, reissue: true }] });
    assert!(!is_collected(&log), "a damaged batch is to be sampled again");
}
