//! A store of at least 10 million positions: all of a finished run's commits, batches and step records again and again, each time
//! with units, policy versions and names that go on from the time before. Scores, weights and
//! moments are named and not there.

use crate::AnyError;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use record::{
    BatchRows, Claims, Commit, Dropped, EvalCommit, Event, Policy, PolicyVersion, Retirement, RolloutBatch,
    RolloutCommit, Run, ScoreCommit, StepCommit, UnitRows, Work,
};
use std::{path::Path, sync::Arc};
use store::{Follower, Store, StoreOptions};

const POSITIONS: u64 = 10_000_000;

pub async fn write(from: &str, into: &Path) -> Result<(), AnyError> {
    let source = Store::open(from, StoreOptions::default()).await?;
    let commits = source.history(None).await?;
    let end = source.snapshot(None).await?;
    let Some(Event::Run(run)) = commits.first().map(|commit| &commit.event) else { return Err("no run".into()) };
    let store = Store::open(&into.display().to_string(), StoreOptions::default()).await?;
    let run = Run { run_id: store::unique_id(), ..run.as_ref().clone() };
    let mut follower = store.create(run, commits[0].work.clone()).await?;
    let sampled = |commit: &Commit| match &commit.event {
        Event::Rollouts(rollouts) => rollouts.tokens,
        _ => 0,
    };
    let tokens: u64 = commits.iter().map(sampled).sum();
    let times = POSITIONS.div_ceil(tokens.max(1));
    for time in 0..times {
        let again = Again { time, units: time * end.next_unit, versions: time * end.version.0, source: &source };
        for commit in &commits[1..] {
            if let Some(event) = again.event(follower.store(), &commit.event).await? {
                append(&mut follower, commit.work.clone(), event).await?;
            }
        }
        eprintln!("{} of {times} times {tokens} positions", time + 1);
    }
    Ok(())
}

async fn append(follower: &mut Follower, work: Work, event: Event) -> Result<(), AnyError> {
    follower.append(work, |_| Some(event.clone())).await?.map(drop).ok_or_else(|| "not appended".into())
}

/// One more time of the run.
struct Again<'a> {
    time: u64,
    units: u64,
    versions: u64,
    source: &'a Store,
}

impl Again<'_> {
    async fn event(&self, into: &Store, event: &Event) -> Result<Option<Event>, AnyError> {
        Ok(Some(match event {
            Event::Run(_) | Event::Config { .. } => return Ok(None),
            Event::Claim(claims) => Event::Claim(self.claims(claims)),
            Event::Rollouts(of) => {
                let (batch, version) = (self.batch(&of.batch), self.version(of.policy_version));
                let rows = self.source.get_rollouts(&of.object).await?.as_record_batch().clone();
                let unit = of.of.unit + self.units;
                let rows = with(&rows, "rollout_id", self.ids(&rows)?)?;
                let rows = with(&rows, "unit", same(unit, &rows))?;
                let rows = with(&rows, "policy_version", same(version.0, &rows))?;
                let object = into.put_rollouts(&batch, &RolloutBatch::try_new(rows)?).await?;
                let (of_rows, claims) = (UnitRows { unit, ..of.of.clone() }, self.claims(&of.claims));
                Event::Rollouts(RolloutCommit {
                    batch,
                    of: of_rows,
                    policy_version: version,
                    object,
                    claims,
                    ..of.clone()
                })
            }
            // The trend queries open no scores: they are named and not there.
            Event::Scores(of) => {
                let (batch, claims) = (self.batch(&of.batch), self.claims(&of.claims));
                Event::Scores(ScoreCommit { batch, claims, ..of.clone() })
            }
            Event::Step(of) => {
                let step = of.step + self.versions;
                let rows = self.source.get_step_record(&of.record).await?;
                let rows = with(&rows, "step", same(step, &rows))?;
                let record = into.put_step_record(step, with(&rows, "rollout_id", self.ids(&rows)?)?).await?;
                let policy = |policy: &Policy| Policy { version: self.version(policy.version), ..policy.clone() };
                let policy = of.policy.as_ref().map(policy);
                let consumed = of.consumed.iter().map(|rows| self.rows(rows)).collect();
                Event::Step(Box::new(StepCommit {
                    step,
                    record,
                    policy,
                    consumed,
                    dropped: self.dropped(&of.dropped),
                    ..of.as_ref().clone()
                }))
            }
            Event::Drop { dropped } => Event::Drop { dropped: self.dropped(dropped) },
            Event::Eval(of) => {
                Event::Eval(EvalCommit { policy_version: self.version(of.policy_version), ..of.clone() })
            }
            Event::Retire(Retirement { policies, moments, batches, steps }) => {
                let shifted =
                    |versions: &[PolicyVersion]| versions.iter().map(|version| self.version(*version)).collect();
                Event::Retire(Retirement {
                    policies: shifted(policies),
                    moments: shifted(moments),
                    batches: batches.iter().map(|batch| self.batch(batch)).collect(),
                    steps: steps.iter().map(|step| self.version(PolicyVersion(*step)).0).collect(),
                })
            }
            // What is kept, where it lies, and scores of other sets change no trend.
            Event::ScoreSet(_) | Event::Pin(_) | Event::Unpin { .. } | Event::Archive(_) => return Ok(None),
            Event::Finish { dropped } => Event::Drop { dropped: self.dropped(dropped) },
        }))
    }

    fn batch(&self, batch: &str) -> String {
        format!("{batch}.{:03}", self.time)
    }

    fn version(&self, version: PolicyVersion) -> PolicyVersion {
        PolicyVersion(version.0 + self.versions)
    }

    fn rows(&self, of: &BatchRows) -> BatchRows {
        BatchRows { batch: self.batch(&of.batch), rows: of.rows.clone() }
    }

    fn dropped(&self, dropped: &[Dropped]) -> Vec<Dropped> {
        dropped.iter().map(|one| Dropped { of: self.rows(&one.of), ..one.clone() }).collect()
    }

    fn claims(&self, claims: &Claims) -> Claims {
        let unit = |of: &UnitRows| UnitRows { unit: of.unit + self.units, ..of.clone() };
        let batches = claims.batches.iter().map(|batch| self.batch(batch));
        Claims { units: claims.units.iter().map(unit).collect(), batches: batches.collect() }
    }

    /// The rollout ids under the batches' new names: the row's number stands behind the last hyphen.
    fn ids(&self, rows: &RecordBatch) -> Result<ArrayRef, AnyError> {
        let ids = rows.column_by_name("rollout_id").and_then(|column| column.as_string_opt::<i32>());
        let renamed = ids.ok_or("no rollout_id")?.iter().flatten().map(|id| match id.rsplit_once('-') {
            Some((batch, row)) => format!("{}-{row}", self.batch(batch)),
            None => id.to_string(),
        });
        Ok(Arc::new(StringArray::from_iter_values(renamed)))
    }
}

fn same(value: u64, rows: &RecordBatch) -> ArrayRef {
    Arc::new(Int64Array::from_value(value as i64, rows.num_rows()))
}

fn with(rows: &RecordBatch, name: &str, column: ArrayRef) -> Result<RecordBatch, AnyError> {
    let mut columns = rows.columns().to_vec();
    columns[rows.schema().index_of(name)?] = column;
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
}
