//! `--parameters`: the parameters' gradient by each estimator, from the scores that are stored, beside the exact one.

use super::{
    Format, Seen, Work,
    rows::Row,
    table::{exact, short},
};
use crate::{
    error::{CommandError, Result, off_thread},
    output::say,
    progress, recorded,
    teachers::listed,
};
use futures::TryStreamExt;
use learner::{
    LearnError, Learner, LearnerSettings, OptimizerConfig, TrainRow,
    estimate::{InParameters, in_parameters},
};
use record::{ScoredBatch, rollout_id};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use store::{SelectedBatch, Versions};

/// The header of the csv, which is fixed.
const COLUMNS: &str = "estimator,k,m,staleness,relative_error,cosine";

/// A row with its scores, of which the chosen positions are trained.
struct Stored {
    data: Arc<ScoredBatch>,
    row: usize,
    mask: Vec<i32>,
}

/// Lines by staleness.
pub(super) type Lines = BTreeMap<u64, Vec<InParameters>>;

impl Work {
    /// Lines for each staleness among `rows`, and the staleness of each position.
    ///
    /// # Errors
    /// Rows of several teachers, a teacher other than the one that scored, no scores, a row that is damaged.
    pub async fn in_parameters(&self, rows: Vec<Row>) -> Result<(Lines, Vec<u64>)> {
        let teacher = one_teacher(&rows)?;
        self.teachers.check_scored_by(&teacher).await?;
        let stored = self.stored(rows).await?;
        let student = self.load(self.version, None).await?.network;
        let mut learner = Learner::new(student, OptimizerConfig::default(), LearnerSettings::default())?;
        learner.set_teacher(Some(self.teachers.load(&teacher).await?))?;

        let mut line = progress::Line::new("estimate");
        let (groups, mut lines, mut staleness) = (stored.len(), Lines::new(), Vec::new());
        let mut left_out = BTreeSet::new();
        for (i, (group, rows)) in stored.into_iter().enumerate() {
            let positions: usize =
                rows.iter().map(|row| row.mask.iter().filter(|trained| **trained != 0).count()).sum();
            staleness.extend(std::iter::repeat_n(group, positions));
            let found;
            (learner, line, found) = off_thread(move || {
                let show = |taken, total| {
                    line.show(&format!("staleness {group}, {} of {groups}: gradient {} of {total}", i + 1, taken + 1));
                };
                let found = gradients(&learner, &rows, group, show)?;
                Ok((learner, line, found))
            })
            .await?;
            for (name, why) in found.left_out {
                if left_out.insert(name) {
                    say(&format!("left out: `{name}`: {why}"));
                }
            }
            lines.insert(group, found.lines);
        }
        line.clear();
        Ok((lines, staleness))
    }

    /// The rows' scores in the set that keeps the most of the teacher, by staleness.
    async fn stored(&self, rows: Vec<Row>) -> Result<BTreeMap<u64, Vec<Stored>>> {
        let sets = &self.now.run.score_sets;
        let Some((set, _)) = sets.iter().max_by_key(|(_, set)| set.top_k_max) else {
            return Err(CommandError::new("the run has no score set").hint("`opd score` makes one"));
        };
        let versions = Versions::Only(rows.iter().map(|row| row.version).collect());
        let wanted: BTreeMap<String, Row> = rows.into_iter().map(|row| (row.rollout_id.clone(), row)).collect();
        let commits = self.store.history(Some(self.now.seq)).await?;
        let chosen = recorded::scored(&commits, set, &versions).into_iter().filter_map(|recorded| {
            let all = recorded.selected;
            let is_wanted = |row: &u32| wanted.contains_key(&rollout_id(&all.batch, *row as usize));
            let rows = all.rows.iter().filter(is_wanted).collect();
            Some(SelectedBatch { rows, ..all }).filter(|batch| !batch.rows.is_empty())
        });
        let mut batches = self.store.stream(chosen.collect(), None);
        let (mut stored, mut found) = (BTreeMap::<u64, Vec<Stored>>::new(), 0);
        while let Some(read) = batches.try_next().await.map_err(|failed| failed.error)? {
            let data = Arc::new(read.data);
            for row in read.rows.iter().map(|row| row as usize) {
                let Some(chosen) = wanted.get(&rollout_id(&read.batch, row)) else { continue };
                let mut mask = vec![0; chosen.response_ids.len()];
                chosen.positions.iter().for_each(|t| mask[*t] = 1);
                let staleness = self.version.staleness_of(chosen.version);
                stored.entry(staleness).or_default().push(Stored { data: data.clone(), row, mask });
                found += 1;
            }
        }
        match wanted.len() - found {
            0 => Ok(stored),
            lost if found > 0 => {
                say(&format!("left out: {lost} rows without scores in `{set}`"));
                Ok(stored)
            }
            lost => {
                let what = format!("none of the {lost} rollouts chosen has scores in `{set}`");
                Err(CommandError::new(what).hint("`opd score` makes them; `opd status` shows how far it is"))
            }
        }
    }
}

/// What the stored columns say of the rows of one staleness.
fn gradients(
    learner: &Learner,
    stored: &[Stored],
    staleness: u64,
    show: impl FnMut(usize, usize),
) -> Result<learner::estimate::FoundInParameters> {
    let scored: Vec<_> = stored.iter().map(|stored| stored.data.row(stored.row)).collect();
    let rows: Vec<TrainRow> = scored
        .iter()
        .zip(stored)
        .map(|(scored, stored)| TrainRow { loss_mask: Some(&stored.mask), ..TrainRow::scored(scored, Some(staleness)) })
        .collect();
    in_parameters(learner, &rows, show).map_err(|error| match error {
        LearnError::Row { row, .. } | LearnError::Fault { row, .. } => {
            CommandError::from(error).at(format!("rollout `{}`", scored[row].rollout.rollout_id))
        }
        other => other.into(),
    })
}

/// The one teacher of the rows: one exact gradient has one.
fn one_teacher(rows: &[Row]) -> Result<String> {
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.teacher.as_str()).collect();
    match ids.first().copied() {
        Some(id) if ids.len() == 1 => Ok(id.to_string()),
        first => {
            let what = format!("--parameters: the rows have {} teachers, {}", ids.len(), listed(ids.iter().copied()));
            let hint = format!("choose the rows of one: --where \"teacher_id = '{}'\"", first.unwrap_or_default());
            Err(CommandError::new(what).hint(hint))
        }
    }
}

/// As it was asked for.
pub(super) fn render(lines: &Lines, seen: &Seen<'_>) -> String {
    let is_csv = seen.args.format == Format::Csv;
    let mut text = if is_csv { format!("{COLUMNS}\n") } else { format!("{}\n", seen.title()) };
    for (staleness, lines) in lines {
        if !is_csv {
            let positions = seen.staleness.iter().filter(|of| *of == staleness).count();
            text += &format!("\nstaleness {staleness}, {positions} positions\n");
            text += &format!("{:<32} {:>5} {:>5} {:>14} {:>7}\n", "estimator", "k", "m", "relative error", "cosine");
        }
        for InParameters { estimator, k, m, relative_error, cosine } in lines {
            let count = |n: usize| if n == 0 { "-".to_string() } else { n.to_string() };
            text += &match seen.args.format {
                Format::Csv => {
                    format!("{estimator},{k},{m},{staleness},{},{}\n", exact(*relative_error), exact(*cosine))
                }
                Format::Table => {
                    let (k, m, error) = (count(*k), count(*m), short(*relative_error));
                    format!("{estimator:<32} {k:>5} {m:>5} {error:>14} {cosine:>7.4}\n")
                }
            };
        }
    }
    text
}
