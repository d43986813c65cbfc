//! A run in virtual time: the jobs' own plans over the fold of a log, each piece of work taking what the stage took when it
//! was measured. Busy workers share the cores evenly.

use super::stages::Stages;
use crate::{
    error::{CommandError, Result},
    events,
    pace::Pace,
    plan::{self, Lapsed, Learn, Next, Rollout, Score, Serves},
    simulation::{self, Chance},
};
use record::{
    BatchRows, Claims, Digest, Event, Job, ObjectRef, Policy, PolicyVersion, RolloutCommit, ScoreCommit, StepCommit,
    UnitRows,
};
use std::collections::BTreeMap;
use store::Snapshot;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setup {
    /// How the run is paced; `pace.steps` steps are made.
    pub pace: Pace,
    /// Rows of a unit.
    pub unit_rows: u32,
    /// Rollout workers.
    pub rollout_workers: usize,
    /// Score workers.
    pub score_workers: usize,
    /// Cores that all jobs share; a job works on one at a time.
    pub cores: f64,
    /// Seconds between two looks of a job that waits.
    pub poll_s: f64,
    /// Seconds for which what is done is on its way before it can be seen.
    pub handover_s: f64,
    /// Steps between two published versions.
    pub publish_every: u64,
}

/// What would come of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Steps a second, once the run is under way.
    pub steps_per_s: f64,
    /// How many of the three stages are at work at once, on average.
    pub stages_busy: f64,
    /// The share of the time in which the learner is at work.
    pub learner_busy: f64,
    /// Staleness of the rows trained on: mean.
    pub staleness_mean: f64,
    /// And the greatest.
    pub staleness_max: u64,
}

/// What a worker is at.
enum State {
    /// Nothing to do: it looks again at this time, or, without one, after the next commit.
    Waits(Option<f64>),
    /// At work for so many seconds more, if it has a core to itself.
    Works(f64, Work),
}

enum Work {
    Sample { of: UnitRows, version: PolicyVersion },
    Score { batch: String },
    Step { rows: Vec<BatchRows> },
}

struct Worker {
    job: Job,
    name: String,
    state: State,
    /// When it last committed something.
    since: f64,
}

struct Run<'a> {
    stages: &'a Stages,
    setup: Setup,
    chance: Chance,
    now: Snapshot,
    clock: f64,
    names: u64,
}

const SET: &str = simulation::SET;
/// Nobody falls silent here.
const NOBODY: Lapsed<'static> = &|_| false;

/// Runs `setup` as a part of a longer run: the first fifth of the steps is not counted, and nothing runs dry at the end.
///
/// # Errors
/// If the run comes to a halt, which would be a fault of its plans.
pub fn forecast(stages: &Stages, setup: Setup, seed: u64) -> Result<Forecast> {
    let first =
        simulation::commit(0, "run", Job::Run, Event::Run(Box::new(simulation::identity(setup.unit_rows, 1, seed))));
    let now = Snapshot::start(&first).map_err(|error| CommandError::new(error.to_string()))?;
    let steps = setup.pace.steps;
    let pace = Pace { steps: u64::MAX, ..setup.pace };
    let setup = Setup { pace, ..setup };
    let mut run = Run { stages, setup, chance: Chance(seed), now, clock: 0.0, names: 0 };
    let mut workers: Vec<Worker> =
        [(Job::Rollout, setup.rollout_workers), (Job::Score, setup.score_workers), (Job::Learn, 1)]
            .into_iter()
            .flat_map(|(job, count)| (0..count).map(move |i| (job, i)))
            .map(|(job, i)| Worker {
                job,
                name: format!("{}-{i}", job.as_str()),
                state: State::Waits(Some(0.0)),
                since: 0.0,
            })
            .collect();
    let warm = steps / 5;
    let (mut counted_from, mut busy, mut learner_busy) = (None, 0.0, 0.0);
    while run.now.version.0 < steps {
        let working = workers.iter().filter(|worker| matches!(worker.state, State::Works(..))).count();
        let rate = (setup.cores / working.max(1) as f64).min(1.0);
        let due = |worker: &Worker| match &worker.state {
            State::Works(left, _) => Some(left / rate),
            State::Waits(at) => at.map(|at| at - run.clock),
        };
        let next = workers.iter().enumerate().filter_map(|(i, worker)| Some((due(worker)?, i)));
        let Some((wait, i)) = next.min_by(|a, b| a.0.total_cmp(&b.0)) else {
            return Err(CommandError::new(format!("the run would come to a halt at step {}", run.now.version.0)));
        };
        let wait = wait.max(0.0);
        let is_at_work = |job| workers.iter().any(|w| w.job == job && matches!(w.state, State::Works(..)));
        let stages_at_work = [Job::Rollout, Job::Score, Job::Learn].into_iter().filter(|job| is_at_work(*job)).count();
        if counted_from.is_some() {
            busy += wait * stages_at_work as f64;
            learner_busy += if is_at_work(Job::Learn) { wait } else { 0.0 };
        }
        run.clock += wait;
        for worker in &mut workers {
            if let State::Works(left, _) = &mut worker.state {
                *left -= wait * rate;
            }
        }
        let seq = run.now.seq;
        let worker = &mut workers[i];
        let done = match std::mem::replace(&mut worker.state, State::Waits(None)) {
            State::Works(_, work) => Some(work),
            State::Waits(_) => None,
        };
        if done.is_some() {
            worker.since = run.clock;
        }
        worker.state = run.turn(worker, done)?;
        if run.now.seq != seq {
            // Who waits sees the new commits at its next look: as `Follower::wait` has it, a tenth of the wait lies between two.
            for worker in &mut workers {
                if let State::Waits(at @ None) = &mut worker.state {
                    let between = ((run.clock - worker.since) / 10.0).clamp(setup.poll_s / 20.0, setup.poll_s);
                    *at = Some(run.clock + setup.handover_s + run.share() * between);
                }
            }
        }
        if counted_from.is_none() && run.now.version.0 >= warm {
            counted_from = Some((run.clock, run.now.version.0, run.now.ended.consumed, run.now.ended.staleness_sum));
        }
    }
    let (from, step, consumed, staleness) = counted_from.unwrap_or_default();
    let (time, ended) = ((run.clock - from).max(f64::MIN_POSITIVE), &run.now.ended);
    Ok(Forecast {
        steps_per_s: (run.now.version.0 - step) as f64 / time,
        stages_busy: busy / time,
        learner_busy: learner_busy / time,
        staleness_mean: (ended.staleness_sum - staleness) as f64 / (ended.consumed - consumed).max(1) as f64,
        staleness_max: ended.staleness_max,
    })
}

impl Run<'_> {
    /// A number in [0, 1).
    fn share(&mut self) -> f64 {
        self.chance.below(1 << 53) as f64 / (1u64 << 53) as f64
    }

    /// One of the times that a stage took.
    fn draw(&mut self, seconds: &[f64]) -> f64 {
        seconds[self.chance.below(seconds.len() as u64) as usize]
    }

    /// A worker commits what it has done and takes on what its plan says.
    fn turn(&mut self, worker: &Worker, done: Option<Work>) -> Result<State> {
        let (name, pace) = (&worker.name, self.setup.pace);
        let serves = Serves { score_set: SET.into(), teachers: self.now.run.teachers.keys().cloned().collect() };
        if let Some(work) = done {
            self.deliver(worker, work, &serves)?;
        }
        loop {
            let state = match worker.job {
                Job::Rollout => match plan::rollout(&self.now, name, pace, NOBODY) {
                    Next::Do(Rollout::Sample(of)) => {
                        let version = pace.sampling_version(&self.now);
                        State::Works(self.draw(&self.stages.rollout), Work::Sample { of, version })
                    }
                    Next::Do(Rollout::Claim(_)) => {
                        self.append(worker, events::claim_rows(&self.now, name, pace, NOBODY))?;
                        continue;
                    }
                    Next::Wait | Next::Done => State::Waits(None),
                },
                Job::Score => match plan::score(&self.now, name, &serves, NOBODY) {
                    Next::Do(Score::Score(batch)) => State::Works(self.draw(&self.stages.score), Work::Score { batch }),
                    Next::Do(Score::Claim(_)) => {
                        self.append(worker, events::claim_batch(&self.now, name, &serves, NOBODY))?;
                        continue;
                    }
                    Next::Wait | Next::Done => State::Waits(None),
                },
                _ => match plan::learn(&self.now, SET, pace, None) {
                    Next::Do(Learn::Step(of)) => {
                        let rows = of.into_iter().map(|of| BatchRows { batch: of.batch, rows: of.rows }).collect();
                        State::Works(self.draw(&self.stages.learn), Work::Step { rows })
                    }
                    Next::Do(Learn::Drop(_) | Learn::Finish(_)) => {
                        self.append(worker, events::end_rows(&self.now, SET, pace, None))?;
                        continue;
                    }
                    Next::Wait | Next::Done => State::Waits(None),
                },
            };
            return Ok(state);
        }
    }

    fn deliver(&mut self, worker: &Worker, work: Work, serves: &Serves) -> Result<()> {
        let object = || ObjectRef { key: "x".into(), bytes: 1, digest: Digest::of(b"x") };
        match work {
            Work::Sample { of, version } => {
                self.names += 1;
                let rollouts = RolloutCommit {
                    batch: format!("u{:08}-{}", of.unit, self.names),
                    of,
                    policy_version: version,
                    teacher_id: simulation::teacher(0),
                    object: object(),
                    codec: None,
                    tokens: 1,
                    claims: Claims::default(),
                };
                self.append(worker, events::rollouts(&self.now, &rollouts, self.setup.pace, NOBODY, false))
            }
            Work::Score { batch } => {
                let (score_set, packing) = (SET.into(), None);
                let scores = ScoreCommit {
                    batch,
                    score_set,
                    parent: None,
                    object: object(),
                    packing,
                    claims: Claims::default(),
                };
                self.append(worker, events::scores(&self.now, &scores, serves, NOBODY, false))
            }
            Work::Step { rows } => {
                let version = PolicyVersion(self.now.version.0 + 1);
                let weights = ObjectRef { digest: Digest::of(&version.0.to_le_bytes()), ..object() };
                let is_published = version.0.is_multiple_of(self.setup.publish_every);
                let step = StepCommit {
                    step: version.0,
                    consumed: rows,
                    replayed: Vec::new(),
                    dropped: Vec::new(),
                    score_set: SET.into(),
                    record: object(),
                    weights_digest: weights.digest,
                    policy: is_published.then(|| Policy { version, weights: weights.clone() }),
                    // A checkpoint at once, so that the fold forgets what it need not keep.
                    moments: is_published.then_some(weights),
                    settings: serde_json::Value::Null,
                    metrics: BTreeMap::new(),
                };
                self.append(worker, events::step(&self.now, &step, None))
            }
        }
    }

    /// Commits what a job has to, if there is anything.
    fn append(&mut self, worker: &Worker, event: Option<Event>) -> Result<()> {
        let Some(event) = event else { return Ok(()) };
        let commit = simulation::commit(self.now.seq + 1, &worker.name, worker.job, event);
        self.now.apply(&commit).map_err(|error| CommandError::new(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pace::WhenStale, share::Share};

    fn setup(max_staleness: u64, workers: usize, cores: f64) -> Setup {
        let pace = Pace {
            rows_per_step: 4,
            steps: 200,
            min_staleness: 0,
            max_staleness,
            when_stale: WhenStale::Drop,
            lag: 0,
            share: Share::NONE,
        };
        Setup {
            pace,
            unit_rows: 4,
            rollout_workers: workers,
            score_workers: 1,
            cores,
            poll_s: 0.0,
            handover_s: 0.0,
            publish_every: 1,
        }
    }

    fn stages(rollout: f64, score: f64, learn: f64) -> Stages {
        Stages { rollout: vec![rollout], score: vec![score], learn: vec![learn] }
    }

    fn close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 0.01, "{found} instead of {expected}");
    }

    #[test]
    fn in_turns_the_stages_times_add_up() {
        let found = forecast(&stages(3.0, 1.0, 2.0), setup(0, 1, 8.0), 1).unwrap();
        close(found.steps_per_s, 1.0 / 6.0);
        close(found.stages_busy, 1.0);
        close(found.learner_busy, 2.0 / 6.0);
        assert_eq!((found.staleness_mean, found.staleness_max), (0.0, 0));
    }

    #[test]
    fn overlapped_the_slowest_stage_sets_the_pace() {
        let found = forecast(&stages(3.0, 1.0, 2.0), setup(4, 1, 8.0), 1).unwrap();
        close(found.steps_per_s, 1.0 / 3.0);
        close(found.stages_busy, 2.0);
        assert!(found.staleness_max <= 4);
        // Two that sample: now it is the learner.
        let found = forecast(&stages(3.0, 1.0, 2.0), setup(4, 2, 8.0), 1).unwrap();
        close(found.steps_per_s, 1.0 / 2.0);
        close(found.learner_busy, 1.0);
    }

    #[test]
    fn on_too_few_cores_work_is_conserved() {
        // Six seconds of work a step on two cores, none of which ever rests.
        let found = forecast(&stages(2.0, 2.0, 2.0), setup(6, 2, 2.0), 1).unwrap();
        close(found.steps_per_s, 2.0 / 6.0);
        let found = forecast(&stages(2.0, 2.0, 2.0), setup(6, 2, 1.0), 1).unwrap();
        close(found.steps_per_s, 1.0 / 6.0);
    }

    /// AsyncOPD (arXiv 2606.24143) reports how many times as fast asynchronous training was, and that in turns 0.8 stages were at
    /// work at once, but no stage's seconds. So its ratios are turned round: the slowest stage takes what the ratio leaves it, the
    /// others share the rest evenly, and a fifth of a step goes into hand-overs.
    #[test]
    fn the_papers_ratios_come_of_stages_that_are_possible() {
        let idle = 0.2;
        for (ratio, name) in [(1.66, "4B"), (1.94, "8B"), (2.70, "1.7B"), (3.28, "1.7B, m = 1")] {
            let slowest = 1.0 / ratio;
            let others = (1.0 - idle - slowest) / 2.0;
            assert!(others > 0.0 && others <= slowest, "{name}");
            let times = stages(slowest, others, others);
            let of = |max_staleness| Setup { handover_s: idle / 3.0, ..setup(max_staleness, 1, 8.0) };
            let (turns, overlapped) = (forecast(&times, of(0), 1).unwrap(), forecast(&times, of(8), 1).unwrap());
            let found = overlapped.steps_per_s / turns.steps_per_s;
            assert!((found / ratio - 1.0).abs() < 0.05, "{name}: {found} instead of {ratio}");
            assert!((turns.stages_busy - 0.8).abs() < 0.02, "{name}: {}", turns.stages_busy);
            if name == "1.7B" {
                assert!(
                    (2.05..2.35).contains(&overlapped.stages_busy),
                    "2.1 to 2.3 reported: {}",
                    overlapped.stages_busy
                );
            }
        }
        // 3.82 (4B, long answers) leaves the slowest stage 26 % of a step: with a fifth idle the others would have to be slower.
        assert!((1.0 - idle - 1.0 / 3.82) / 2.0 > 1.0 / 3.82);
    }

    #[test]
    fn who_waits_sees_a_commit_after_a_twentieth_of_its_wait_on_average_or_half_a_poll() {
        let slow = Setup { poll_s: 1.0, ..setup(0, 1, 8.0) };
        let found = forecast(&stages(3.0, 1.0, 2.0), slow, 1).unwrap();
        // Three hand-overs a step, to jobs that have waited for 3, 4 and 5 seconds and for the hand-overs in between.
        assert!((1.0 / found.steps_per_s - 6.67).abs() < 0.1, "{}", 1.0 / found.steps_per_s);
        let found = forecast(&stages(300.0, 100.0, 200.0), slow, 1).unwrap();
        assert!((1.0 / found.steps_per_s - 601.5).abs() < 0.3, "{}", 1.0 / found.steps_per_s);
    }
}
