//! `score_sets`: one row is one score set, with what it came to.

use crate::{columns::Columns, log::Log};
use arrow::{array::RecordBatch, error::ArrowError};
use record::{Commit, Event, Packing, ScoreSet};

/// A score set as a commit begins it, and its scores.
struct Row<'a> {
    seq: u64,
    name: &'a str,
    parent: Option<&'a str>,
    holds: &'a ScoreSet,
    sum: Sum,
}

/// What its batches add up to.
#[derive(Default)]
struct Sum {
    batches: u64,
    tokens: u64,
    bytes: u64,
    packed: Packing,
}

impl Sum {
    fn of(log: &Log, name: &str) -> Self {
        let mut sum = Self::default();
        for (scores, rollouts, _) in log.scorings().filter(|(scores, ..)| scores.score_set == name) {
            sum.batches += 1;
            sum.tokens += rollouts.tokens;
            sum.bytes += scores.object.bytes;
            sum.packed = sum.packed.and(&scores.packing.unwrap_or_default());
        }
        sum
    }

    fn kl(&self) -> Option<f64> {
        (self.packed.positions > 0).then_some(self.packed.kl)
    }
}

pub(super) fn score_sets(log: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let row = |seq, name, parent, holds| Row { seq, name, parent, holds, sum: Sum::of(log, name) };
    let begun = commits.iter().flat_map(|commit| match &commit.event {
        Event::Run(run) => {
            run.score_sets.iter().map(|(name, holds)| row(commit.seq, name.as_str(), None, holds)).collect()
        }
        Event::ScoreSet(set) => vec![row(commit.seq, &set.score_set, set.parent.as_deref(), &set.holds)],
        _ => vec![],
    });
    let rows: Vec<Row> = begun.collect();
    let each = || rows.iter();
    columns
        .text("score_set", "Its name.", each().map(|row| row.name))
        .maybe_text("parent", "The score set it was made from without asking a teacher; null where teachers scored.", each().map(|row| row.parent))
        .text("codec", "How its columns are packed: plain, lossless, fast, compact.", each().map(|row| &row.holds.codec))
        .int("top_k_max", "The most ids of the teacher's top-k at a position.", each().map(|row| row.holds.top_k_max.into()))
        .real("top_k_mass", "The mass at which it is cut.", each().map(|row| row.holds.top_k_mass))
        .int("teacher_draws", "Draws of the teacher at a position.", each().map(|row| row.holds.teacher_draws.into()))
        .int("draws", "Draws of the sampler at a position, m, which the rollouts hold.", each().map(|row| row.holds.draws.into()))
        .int("batches", "Batches with scores in it.", each().map(|row| row.sum.batches))
        .int("tokens", "Response tokens of them.", each().map(|row| row.sum.tokens))
        .int("bytes", "Bytes of its objects.", each().map(|row| row.sum.bytes))
        .int("packed_bytes", "Bytes of what is packed in them.", each().map(|row| row.sum.packed.bytes))
        .int("packed_entries", "Entries in that.", each().map(|row| row.sum.packed.entries))
        .maybe_real(
            "codec_kl",
            "Mean KL of what was packed from what will be read, over positions with a top-k; nats. Null where nothing is.",
            each().map(|row| row.sum.kl()),
        )
        .int("seq", "The commit that begins it.", each().map(|row| row.seq))
        .into_batch("One row is one score set of the run, its own or made beside it.")
}
