//! What each job commits, as a pure function of the state that the commit would follow: asked anew after every commit that came
//! first, `None` where there is nothing to commit any more.

use crate::{
    pace::Pace,
    plan::{self, Lapsed, Learn, Next, Rollout, Score, Serves},
    verdicts::Verdicts,
};
use record::{
    BatchRows, Claims, DropReason, Dropped, Event, PolicyVersion, RolloutCommit, ScoreCommit, StepCommit, UnitRows,
};
use store::Snapshot;

/// A claim of what is next to sample, unless the worker has something claimed.
pub fn claim_rows(now: &Snapshot, worker: &str, pace: Pace, lapsed: Lapsed<'_>) -> Option<Event> {
    match plan::rollout(now, worker, pace, lapsed) {
        Next::Do(Rollout::Claim(of)) => Some(Event::Claim(Claims { units: vec![of], ..Claims::default() })),
        _ => None,
    }
}

/// The delivery of a batch that is still wanted; where the worker `goes_on`, together with a claim of what is next.
pub fn rollouts(now: &Snapshot, batch: &RolloutCommit, pace: Pace, lapsed: Lapsed<'_>, goes_on: bool) -> Option<Event> {
    let next = || plan::claimable_unit(now, Some(&batch.of), pace, lapsed);
    plan::is_wanted(now, &batch.of, batch.policy_version, pace).then(|| {
        let units: Vec<UnitRows> = if goes_on { next().into_iter().collect() } else { Vec::new() };
        Event::Rollouts(RolloutCommit { claims: Claims { units, ..Claims::default() }, ..batch.clone() })
    })
}

/// A claim of the batch that is next to score, unless the worker has one claimed.
pub fn claim_batch(now: &Snapshot, worker: &str, serves: &Serves, lapsed: Lapsed<'_>) -> Option<Event> {
    match plan::score(now, worker, serves, lapsed) {
        Next::Do(Score::Claim(id)) => Some(Event::Claim(Claims { batches: vec![id], ..Claims::default() })),
        _ => None,
    }
}

/// The delivery of scores that nobody delivered before; where the worker `goes_on`, together with a claim of the next batch.
pub fn scores(
    now: &Snapshot,
    scores: &ScoreCommit,
    serves: &Serves,
    lapsed: Lapsed<'_>,
    goes_on: bool,
) -> Option<Event> {
    let next = || plan::claimable_batch(now, Some(&scores.batch), serves, lapsed);
    let is_unscored = now.batches.get(&scores.batch).is_some_and(|batch| !batch.scores.contains_key(&scores.score_set));
    (!now.finished && is_unscored).then(|| {
        let batches = if goes_on { next().into_iter().collect() } else { Vec::new() };
        Event::Scores(ScoreCommit { claims: Claims { batches, ..Claims::default() }, ..scores.clone() })
    })
}

/// The end of what is left of a batch whose object is damaged; its rows are sampled again.
pub fn damaged(now: &Snapshot, id: &str) -> Option<Event> {
    let rows = now.batches.get(id).filter(|batch| !batch.pending.is_empty())?.pending.clone();
    let of = BatchRows { batch: id.into(), rows };
    Some(Event::Drop { dropped: vec![Dropped { of, reason: DropReason::Corrupt, reissue: true }] })
}

/// What the learner ends without a step: rows too old or rejected, or the run.
pub fn end_rows(now: &Snapshot, score_set: &str, pace: Pace, verdicts: Option<&Verdicts>) -> Option<Event> {
    match plan::learn(now, score_set, pace, verdicts) {
        Next::Do(Learn::Drop(dropped)) => Some(Event::Drop { dropped }),
        Next::Do(Learn::Finish(dropped)) => Some(Event::Finish { dropped }),
        _ => None,
    }
}

/// A step, as long as it is the next one and nobody has ended its rows: a score worker that was slow may have found a batch damaged
/// that another scored, or another learner. What `verdicts` reject ends with it.
pub fn step(now: &Snapshot, step: &StepCommit, verdicts: Option<&Verdicts>) -> Option<Event> {
    let is_there = |of: &BatchRows| {
        let batch = now.batches.get(&of.batch);
        batch.is_some_and(|batch| batch.pending.contains_all(&of.rows) && batch.scores.contains_key(&step.score_set))
    };
    let is_next = now.version.0 + 1 == step.step && !now.finished;
    (is_next && step.consumed.iter().all(is_there))
        .then(|| Event::Step(Box::new(StepCommit { dropped: plan::rejected(now, verdicts), ..step.clone() })))
}

/// Whether another learner has made a step since this one was at `version`: whichever commits first goes on.
pub fn is_fenced(now: &Snapshot, version: PolicyVersion, incarnation: &str) -> bool {
    now.version > version && now.learner.as_deref() != Some(incarnation)
}
