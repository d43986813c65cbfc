//! What is next for each job: pure functions of a snapshot, so that tests and simulations can drive every interleaving.

use crate::{
    config::Pipeline,
    pace::{Pace, WhenStale},
    verdicts::Verdicts,
};
use record::{BatchId, BatchRows, DropReason, Dropped, PolicyVersion, RowSet, UnitRows};
use std::collections::{BTreeMap, BTreeSet};
use store::{Batch, SelectedBatch, Snapshot, UnitClaim};

/// Whether a worker has been silent for so long that its claims count no more.
pub type Lapsed<'a> = &'a dyn Fn(&str) -> bool;

/// What a job does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next<T> {
    /// This.
    Do(T),
    /// Nothing yet.
    Wait,
    /// Nothing any more.
    Done,
}

/// What a rollout worker does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Rollout {
    /// Sample these rows, which are its own by claim.
    Sample(UnitRows),
    /// Claim these rows first.
    Claim(UnitRows),
}

/// The rollout job: its own claim first, then what can be claimed.
pub fn rollout(now: &Snapshot, worker: &str, pace: Pace, lapsed: Lapsed<'_>) -> Next<Rollout> {
    if now.finished {
        return Next::Done;
    }
    if let Some(own) = now.unit_claims.iter().find(|claim| claim.worker == worker) {
        return Next::Do(Rollout::Sample(own.of.clone()));
    }
    claimable_unit(now, None, pace, lapsed).map_or(Next::Wait, |of| Next::Do(Rollout::Claim(of)))
}

/// The batches in which these rows of a unit are delivered, one a teacher, in the order of their first rows. `teacher_of`
/// says who scores a row of the unit.
pub fn parts<'a>(of: &UnitRows, teacher_of: impl Fn(u32) -> &'a str) -> Vec<(String, UnitRows)> {
    let mut rows: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for row in of.rows.iter() {
        rows.entry(teacher_of(row)).or_default().push(row);
    }
    let mut parts: Vec<_> = rows.into_iter().collect();
    parts.sort_by_key(|(_, rows)| rows[0]);
    let part = |(teacher, rows): (&str, Vec<u32>)| {
        (teacher.to_string(), UnitRows { unit: of.unit, rows: rows.into_iter().collect() })
    };
    parts.into_iter().map(part).collect()
}

/// Whether a part of a unit that was sampled with `version` is still to be delivered: nobody was first. Where the learner waits
/// for rows, one who was slow must not deliver older ones than whoever took the claim over was counted on for.
pub fn is_wanted(now: &Snapshot, part: &UnitRows, version: PolicyVersion, pace: Pace) -> bool {
    let has = |claim: &UnitClaim| claim.of.unit == part.unit && claim.of.rows.contains_all(&part.rows);
    let in_time = |claim: &UnitClaim| pace.when_stale != WhenStale::Wait || version >= pace.oldest(claim);
    !now.finished && now.unit_claims.iter().any(|claim| has(claim) && in_time(claim))
}

/// Rows that a worker may take on: those whose claim lapsed, those to be sampled again, the next unit. What it delivers in
/// the same commit is not among them, even where another took it over and fell silent too.
///
/// Back-pressure: work ahead of the learner never exceeds [`Pace::room`], so nothing is born stale. Only where what is there is less than
/// a minibatch, because a selection has rejected rows or the run's own part of a minibatch is no whole number of units, a whole unit is
/// added all the same: it exceeds the room by less than a unit. Rows that were rejected do not count as those that the run has to sample.
pub fn claimable_unit(
    now: &Snapshot,
    delivered: Option<&UnitRows>,
    pace: Pace,
    lapsed: Lapsed<'_>,
) -> Option<UnitRows> {
    let left = |claim: &UnitClaim| {
        let delivered = delivered.filter(|of| of.unit == claim.of.unit);
        let rows = delivered.map_or_else(|| claim.of.rows.clone(), |of| claim.of.rows.minus(&of.rows));
        (!rows.is_empty()).then_some(UnitRows { unit: claim.of.unit, rows })
    };
    if let Some(of) = now.unit_claims.iter().filter(|claim| lapsed(&claim.worker)).find_map(left) {
        return Some(of);
    }
    if let Some((unit, rows)) = now.reissue.first_key_value() {
        return Some(UnitRows { unit: *unit, rows: rows.clone() });
    }
    let unit_rows = u64::from(now.run.units.rows());
    let (ahead, room) = (now.rows_ahead(), pace.room(now));
    let fits = ahead + unit_rows <= room || ahead < room.min(pace.rows_from(now.version, 1));
    let rejected = now.ended.dropped.get(&DropReason::Selection).copied().unwrap_or(0);
    let is_left = (now.next_unit * unit_rows).saturating_sub(rejected) < pace.rows(pace.steps);
    (fits && is_left).then(|| UnitRows { unit: now.next_unit, rows: RowSet::first(now.run.units.rows()) })
}

/// What a score worker does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Score {
    /// Score this batch, which is its own by claim.
    Score(BatchId),
    /// Claim this batch first.
    Claim(BatchId),
}

/// What a score worker can do.
#[derive(Clone, Debug, PartialEq)]
pub struct Serves {
    /// The score set it fills.
    pub score_set: String,
    /// Ids of the teachers it has.
    pub teachers: BTreeSet<String>,
}

/// The score job: its own claim first, then what can be claimed, in the order the learner takes rows.
pub fn score(now: &Snapshot, worker: &str, serves: &Serves, lapsed: Lapsed<'_>) -> Next<Score> {
    if now.finished {
        return Next::Done;
    }
    if let Some((id, _)) = unscored(now, serves).find(|(_, batch)| batch.scoring.as_deref() == Some(worker)) {
        return Next::Do(Score::Score(id.clone()));
    }
    claimable_batch(now, None, serves, lapsed).map_or(Next::Wait, |id| Next::Do(Score::Claim(id)))
}

/// The first batch that nobody scores and that is not `delivered` in the same commit.
pub fn claimable_batch(
    now: &Snapshot,
    delivered: Option<&BatchId>,
    serves: &Serves,
    lapsed: Lapsed<'_>,
) -> Option<BatchId> {
    let free = |batch: &Batch| batch.scoring.as_deref().is_none_or(lapsed);
    unscored(now, serves).find(|(id, batch)| Some(*id) != delivered && free(batch)).map(|(id, _)| id.clone())
}

fn unscored<'a>(now: &'a Snapshot, serves: &Serves) -> impl Iterator<Item = (&'a BatchId, &'a Batch)> {
    now.pending().filter(move |(_, batch)| {
        serves.teachers.contains(&batch.teacher_id) && !batch.scores.contains_key(&serves.score_set)
    })
}

/// What the learner does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Learn {
    /// Train on these rows, in this order.
    Step(Vec<SelectedBatch>),
    /// End these rows without a step: those too stale, which are sampled again, and those that the selection rejects.
    Drop(Vec<Dropped>),
    /// The last step is made: end the run, and with it these rows.
    Finish(Vec<Dropped>),
}

/// The learner: rows in the order (unit, sample) as soon as a whole minibatch of them is scored; with `verdicts`, of those that
/// pass. What is rejected ends with the next step, or without one where it stands in the way of sampling.
pub fn learn(now: &Snapshot, score_set: &str, pace: Pace, verdicts: Option<&Verdicts>) -> Next<Learn> {
    if now.finished {
        return Next::Done;
    }
    let rejected = rejected(now, verdicts);
    let dropped = |stale_only: bool, reason: DropReason| -> Vec<Dropped> {
        let ended = now.pending().filter(|(_, batch)| !stale_only || pace.is_past(now, batch.policy_version));
        let kept =
            ended.map(|(id, batch)| (id, verdicts.map_or_else(|| batch.pending.clone(), |of| of.kept(id, batch))));
        kept.filter(|(_, rows)| !rows.is_empty())
            .map(|(id, rows)| Dropped { of: BatchRows { batch: id.clone(), rows }, reason, reissue: stale_only })
            .collect()
    };
    if now.version.0 >= pace.steps {
        return Next::Do(Learn::Finish([dropped(false, DropReason::Finished), rejected].concat()));
    }
    let stale = dropped(true, DropReason::Stale);
    if !stale.is_empty() {
        return Next::Do(Learn::Drop([stale, rejected].concat()));
    }
    if let Some(minibatch) = pace.minibatch(now, score_set, verdicts) {
        return Next::Do(Learn::Step(minibatch));
    }
    let is_in_the_way = !rejected.is_empty() && claimable_unit(now, None, pace, &|_| false).is_none();
    if is_in_the_way { Next::Do(Learn::Drop(rejected)) } else { Next::Wait }
}

/// The rows that a selection rejects, of those that have not ended. They are not sampled again: they would be rejected again.
pub fn rejected(now: &Snapshot, verdicts: Option<&Verdicts>) -> Vec<Dropped> {
    let Some(verdicts) = verdicts else { return Vec::new() };
    let of = |(id, batch): (&BatchId, &Batch)| {
        let rows = verdicts.rejected(id, batch);
        let (batch, reason) = (id.clone(), DropReason::Selection);
        (!rows.is_empty()).then_some(Dropped { of: BatchRows { batch, rows }, reason, reissue: false })
    };
    now.pending().filter_map(of).collect()
}

/// Whether `version` is to be evaluated: the first, each `every` steps, the last.
pub fn is_eval_due(version: PolicyVersion, every: u64, steps: u64) -> bool {
    version.0 == 0 || version.0 == steps || (every > 0 && version.0.is_multiple_of(every))
}

/// The eval job: the oldest published version that is due and not yet evaluated on one of `sets`.
pub fn eval(now: &Snapshot, sets: &[String], every: u64, steps: u64) -> Next<(PolicyVersion, String)> {
    for version in now.policies.keys().filter(|version| is_eval_due(**version, every, steps)) {
        for set in sets {
            if !now.evaluated.get(set).is_some_and(|done| done.contains(version)) {
                return Next::Do((*version, set.clone()));
            }
        }
    }
    if now.finished { Next::Done } else { Next::Wait }
}

/// Whether `version` is to be evaluated on some set and has not been.
pub fn awaits_eval(now: &Snapshot, pipeline: &Pipeline, version: PolicyVersion) -> bool {
    pipeline.eval.as_ref().is_some_and(|eval| {
        let done = |set: &String| now.evaluated.get(set).is_some_and(|done| done.contains(&version));
        is_eval_due(version, eval.every, pipeline.learn.steps) && !eval.sets.keys().all(done)
    })
}

/// Policy versions and moments that nobody needs any more: all but the first, the newest `keep`, the checkpoint, those that are
/// pinned, and versions that wait for an evaluation.
pub fn retire(
    now: &Snapshot,
    keep: usize,
    awaits_eval: &dyn Fn(PolicyVersion) -> bool,
) -> (Vec<PolicyVersion>, Vec<PolicyVersion>) {
    let newest: BTreeSet<_> = now.policies.keys().rev().take(keep.max(1)).collect();
    let kept = |version: &&PolicyVersion| {
        version.0 == 0 || newest.contains(version) || **version == now.checkpoint || awaits_eval(**version)
    };
    let free = |version: &&PolicyVersion| now.pin_of(**version).is_none();
    let policies = now.policies.keys().filter(|version| !kept(version)).filter(free).copied().collect();
    let moments = now.moments.keys().filter(|version| **version != now.checkpoint).filter(free).copied().collect();
    (policies, moments)
}

/// Whether giving these up is worth a commit: they are many or large.
pub fn is_worth_retiring(now: &Snapshot, policies: &[PolicyVersion], moments: &[PolicyVersion]) -> bool {
    const MANY: usize = 8;
    const LARGE: u64 = 64 << 20;
    let weights = policies.iter().filter_map(|version| now.policies.get(version)).map(|policy| policy.weights.bytes);
    let moments_bytes = moments.iter().filter_map(|version| now.moments.get(version)).map(|object| object.bytes);
    policies.len() >= MANY || moments.len() >= MANY || weights.chain(moments_bytes).sum::<u64>() >= LARGE
}

/// Whether all that the pace allows is sampled and scored, so that nothing more comes without a learner.
pub fn is_collected(now: &Snapshot, score_set: &str, pace: Pace) -> bool {
    let scored = now.pending().all(|(_, batch)| batch.scores.contains_key(score_set));
    scored && now.unit_claims.is_empty() && claimable_unit(now, None, pace, &|_| false).is_none()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
