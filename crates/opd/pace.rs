//! How far sampling may run ahead of the learner, and what becomes of rows that grow old meanwhile.

use crate::{share::Share, verdicts::Verdicts};
use record::{PolicyVersion, RowSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use store::{SelectedBatch, Selection, Snapshot, Staleness, UnitClaim};

/// The numbers that pace a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Rollouts in one step's minibatch.
    pub rows_per_step: u32,
    /// Steps of the whole run.
    pub steps: u64,
    /// The least staleness a consumed row may have, as soon as there are versions enough.
    pub min_staleness: u64,
    /// The greatest staleness a consumed row may have; 0 is strictly synchronous.
    pub max_staleness: u64,
    /// How that bound is kept.
    pub when_stale: WhenStale,
    /// How many versions before the newest published one samples.
    pub lag: u64,
    /// How many of a minibatch's rows another run has sampled: so many less are waited for.
    pub share: Share,
}

/// What becomes of a row whose staleness would exceed `max_staleness`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenStale {
    /// It is dropped, and its place in the prompt order sampled again.
    #[default]
    Drop,
    /// It does not come to that: the learner takes no step that would make it so.
    Wait,
    /// It is consumed all the same; correcting for it is the estimator's work. The bound only holds sampling back.
    Reweight,
}

impl Pace {
    /// Rows of the run's own that the first `steps` steps take. Saturates, since a staleness or a number of steps without a bound
    /// is written as a huge number.
    pub fn rows(self, steps: u64) -> u64 {
        self.rows_from(PolicyVersion(0), steps)
    }

    /// Rows of the run's own that the `steps` steps take which the learner makes from `version` on.
    pub fn rows_from(self, version: PolicyVersion, steps: u64) -> u64 {
        let first = |steps: u64| {
            u128::from(steps) * u128::from(self.rows_per_step) - self.share.rows(steps, self.rows_per_step)
        };
        let rows = first(version.0.saturating_add(steps)) - first(version.0);
        u64::try_from(rows).unwrap_or(u64::MAX)
    }

    /// The version that samples now: the newest published one less the lag, or the first where there are not so many. Where an
    /// older setting kept fewer versions than the lag needs, the oldest of those since.
    pub fn sampling_version(self, now: &Snapshot) -> PolicyVersion {
        let newest = now.newest_policy().version;
        let wanted = PolicyVersion(newest.0.saturating_sub(self.lag));
        now.policies.range(wanted..).next().map_or(newest, |(version, _)| *version)
    }

    /// Most rows that may lie ahead of the learner: a row that is sampled now is as stale as its version is already, and
    /// waits for no more steps than that leaves it.
    pub fn room(self, now: &Snapshot) -> u64 {
        let born = now.version.staleness_of(self.sampling_version(now));
        self.rows_from(now.version, self.max_staleness.saturating_add(1).saturating_sub(born))
    }

    /// Whether rows of `version` are to be dropped.
    pub fn is_past(self, now: &Snapshot, version: PolicyVersion) -> bool {
        self.when_stale != WhenStale::Reweight && now.version.staleness_of(version) > self.max_staleness
    }

    /// The oldest version that rows of a claim may be of.
    pub fn oldest(self, claim: &UnitClaim) -> PolicyVersion {
        PolicyVersion(claim.newest.0.saturating_sub(self.lag))
    }

    /// The next step's rows of the run's own, whole, or `None` as long as the learner waits for them. With `verdicts` they are of those
    /// that pass.
    pub fn minibatch(self, now: &Snapshot, score_set: &str, verdicts: Option<&Verdicts>) -> Option<Vec<SelectedBatch>> {
        let max = if self.when_stale == WhenStale::Reweight { u64::MAX } else { self.max_staleness };
        let staleness = Staleness { against: now.version, min: self.min_staleness.min(now.version.0), max };
        let selection = Selection { staleness: Some(staleness), ..Selection::scored_in(score_set) };
        let mut batches = selection.batches(now);
        if let Some(verdicts) = verdicts {
            batches.iter_mut().for_each(|of| of.rows = verdicts.passing(&of.batch, &now.batches[&of.batch]));
            batches.retain(|of| !of.rows.is_empty());
        }
        if self.when_stale == WhenStale::Wait {
            // Whose time runs out first, goes first; the sort is stable, so within a version the prompt order stays.
            batches.sort_by_key(|batch| batch.policy_version);
        }
        // At most `rows_per_step`, which is a u32; none only where a step takes another run's rows alone, which no settings allow.
        let mut missing = u32::try_from(self.rows_from(now.version, 1)).unwrap_or(self.rows_per_step);
        let mut minibatch = Vec::new();
        for mut batch in batches {
            batch.rows = batch.rows.take(missing);
            missing -= batch.rows.len();
            minibatch.push(batch);
            if missing == 0 {
                let fits = self.when_stale != WhenStale::Wait || self.leaves_time(now, &minibatch, verdicts);
                return fits.then_some(minibatch);
            }
        }
        None
    }

    /// Whether every row that a step on `minibatch` leaves behind, stored or still being sampled, can be consumed in time by
    /// later steps.
    ///
    /// By Hall's condition for unit jobs with deadlines: for each version v', the rows of v' and older fit into the steps that
    /// are left to v'. Back-pressure keeps that so for the rows whose time runs out first, so a minibatch of these is taken
    /// whether or not it holds, and no setting that was changed under way can make the learner wait for ever.
    fn leaves_time(self, now: &Snapshot, minibatch: &[SelectedBatch], verdicts: Option<&Verdicts>) -> bool {
        let taken: BTreeMap<&str, &RowSet> = minibatch.iter().map(|of| (of.batch.as_str(), &of.rows)).collect();
        let stored = now.pending().map(|(id, batch)| {
            let taken = taken.get(id.as_str()).map_or(0, |rows| rows.len());
            // What is rejected ends with the step.
            let rejected = verdicts.map_or(0, |verdicts| verdicts.rejected(id, batch).len());
            (batch.policy_version, batch.pending.len() - taken - rejected)
        });
        let claimed = now.unit_claims.iter().map(|claim| (self.oldest(claim), claim.of.rows.len()));
        let mut left: BTreeMap<PolicyVersion, u64> = BTreeMap::new();
        for (version, rows) in stored.chain(claimed).filter(|(_, rows)| *rows > 0) {
            *left.entry(version).or_default() += u64::from(rows);
        }
        let youngest = minibatch.iter().map(|of| of.policy_version).max();
        let oldest_left = left.first_key_value().map(|(version, _)| *version);
        if oldest_left >= youngest {
            return true;
        }
        let mut due = 0;
        left.into_iter().all(|(version, rows)| {
            due += rows;
            // The steps that find the learner at a version from the next one to `version + max_staleness`.
            let steps = version.0.saturating_add(self.max_staleness).saturating_sub(now.version.0);
            due <= self.rows_from(PolicyVersion(now.version.0 + 1), steps)
        })
    }
}
