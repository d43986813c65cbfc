//! Which tables are exported, and the questions whose answers are a table's new rows. Pure.

use record::{BatchId, Commit, Event};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The column that batches of rollouts and of scores are parted by.
pub const PARTITION: &str = "policy_version";
/// Bytes of batches, as they lie in the store, that one question may ask for: their partitions' files are all open at once.
const TOGETHER: u64 = 8 << 20;

/// A table of the store as it is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name in SQL, and its folder's.
    pub name: &'static str,
    new: New,
}

/// How new rows are told from those that were exported before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum New {
    /// By batch, parted by policy version.
    Rollouts,
    /// By batch and score set, parted by policy version.
    Scores,
    /// By the column `step`.
    Step,
    /// By the column `seq`.
    Seq,
    /// Not at all: rows may have changed, so the table is replaced.
    Whole,
}

/// Every table that can be exported. `scored` and `tokens` are joins of the first three.
pub const TABLES: [Table; 13] = [
    Table { name: "rollouts", new: New::Rollouts },
    Table { name: "scores", new: New::Scores },
    Table { name: "step_records", new: New::Step },
    Table { name: "steps", new: New::Seq },
    Table { name: "metrics", new: New::Step },
    Table { name: "consumed", new: New::Step },
    Table { name: "dropped", new: New::Seq },
    Table { name: "policies", new: New::Whole },
    Table { name: "evals", new: New::Seq },
    Table { name: "eval_metrics", new: New::Whole },
    Table { name: "objects", new: New::Whole },
    Table { name: "work", new: New::Seq },
    Table { name: "commits", new: New::Seq },
];

/// Commits whose rows are wanted: those behind `after`, or all.
#[derive(Clone, Copy, Debug)]
pub struct Since<'a> {
    /// All of the log that is exported.
    pub commits: &'a [Commit],
    /// The last commit that was exported before.
    pub after: Option<u64>,
    /// Whether the tables have rows of another run, too. Policy versions are theirs as well, so that own batches are asked for by name.
    pub mixes: bool,
}

/// A question for new rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// SQL.
    pub sql: String,
    /// How many policy versions its rows are of; 0 in a table that is not parted.
    pub versions: usize,
}

/// New batches of one policy version and one score set.
struct Part<'a> {
    version: u64,
    set: &'a str,
    /// Batches of this kind in all.
    all: usize,
    new: Vec<&'a BatchId>,
    /// Bytes of the new ones in the store.
    bytes: u64,
}

impl Table {
    /// The column that the table's files are parted by.
    pub fn partition(&self) -> Option<&'static str> {
        matches!(self.new, New::Rollouts | New::Scores).then_some(PARTITION)
    }

    /// Whether new rows take the place of all earlier ones.
    pub fn is_replaced(&self) -> bool {
        self.new == New::Whole
    }

    /// The questions for `columns` of the table's new rows; where `wanted` is given, for those of rollouts that it selects.
    pub fn questions(&self, columns: &[&str], since: Since<'_>, wanted: Option<&str>) -> Vec<Question> {
        let columns = columns.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let select = |conditions: Vec<String>, versions| {
            let conditions = if conditions.is_empty() { "true".into() } else { conditions.join(" and ") };
            Question { sql: format!("select {columns} from \"{}\" where {conditions}", self.name), versions }
        };
        let of_wanted = |wanted: String| format!("rollout_id in (select rollout_id from rollouts where {wanted})");
        match self.new {
            New::Rollouts | New::Scores => {
                let groups = grouped(self.parts(since));
                let question = |group: &[Part]| {
                    let versions: BTreeSet<u64> = group.iter().map(|part| part.version).collect();
                    let listed = versions.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
                    let of_versions = format!("{PARTITION} in ({listed})");
                    let mut conditions = vec![of_versions.clone()];
                    if self.new == New::Scores {
                        conditions.push(format!("score_set = {}", quoted(group[0].set)));
                    }
                    if since.mixes || group.iter().any(|part| part.new.len() < part.all) {
                        let new = group.iter().flat_map(|part| &part.new).map(|batch| quoted(batch));
                        conditions.push(format!("batch in ({})", new.collect::<Vec<_>>().join(", ")));
                    }
                    conditions.extend(wanted.map(|wanted| match self.new {
                        New::Rollouts => format!("({wanted})"),
                        _ => of_wanted(format!("{of_versions} and ({wanted})")),
                    }));
                    select(conditions, versions.len())
                };
                groups.iter().map(|group| question(group)).collect()
            }
            New::Step => {
                let last = since.after.and_then(|after| last_step(since.commits, after));
                let mut conditions: Vec<String> = last.map(|last| format!("step > {last}")).into_iter().collect();
                let wanted = wanted.filter(|_| self.name == "step_records");
                conditions.extend(wanted.map(|wanted| of_wanted(format!("({wanted})"))));
                let any = last_step(since.commits, u64::MAX) > last;
                if any || since.after.is_none() { vec![select(conditions, 0)] } else { vec![] }
            }
            New::Seq => vec![select(since.after.map(|after| format!("seq > {after}")).into_iter().collect(), 0)],
            New::Whole => vec![select(vec![], 0)],
        }
    }

    /// What is new, by score set and policy version.
    fn parts<'a>(&self, since: Since<'a>) -> Vec<Part<'a>> {
        let mut parts: BTreeMap<(&str, u64), Part> = BTreeMap::new();
        let mut versions: HashMap<&BatchId, u64> = HashMap::new();
        for commit in since.commits {
            let (batch, set, object) = match &commit.event {
                Event::Rollouts(rollouts) => {
                    versions.insert(&rollouts.batch, rollouts.policy_version.0);
                    (&rollouts.batch, None, &rollouts.object)
                }
                Event::Scores(scores) => (&scores.batch, Some(scores.score_set.as_str()), &scores.object),
                _ => continue,
            };
            if set.is_some() != (self.new == New::Scores) {
                continue;
            }
            // A batch is delivered before it is scored.
            let Some(version) = versions.get(batch).copied() else { continue };
            let set = set.unwrap_or_default();
            let part = parts.entry((set, version)).or_insert(Part { version, set, all: 0, new: vec![], bytes: 0 });
            part.all += 1;
            if since.after.is_none_or(|after| commit.seq > after) {
                part.new.push(batch);
                part.bytes += object.bytes;
            }
        }
        parts.into_values().filter(|part| !part.new.is_empty()).collect()
    }
}

/// Parts that are asked for together: of one score set, and with what may be held in memory at once.
fn grouped(parts: Vec<Part<'_>>) -> Vec<Vec<Part<'_>>> {
    let mut groups: Vec<(u64, Vec<Part>)> = Vec::new();
    for part in parts {
        match groups.last_mut() {
            Some((bytes, group)) if group[0].set == part.set && *bytes + part.bytes <= TOGETHER => {
                *bytes += part.bytes;
                group.push(part);
            }
            _ => groups.push((part.bytes, vec![part])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The last step made up to commit `upto`.
fn last_step(commits: &[Commit], upto: u64) -> Option<u64> {
    let step = |commit: &Commit| match &commit.event {
        Event::Step(step) => Some(step.step),
        _ => None,
    };
    commits.iter().take_while(|commit| commit.seq <= upto).filter_map(step).last()
}

/// Text as SQL has it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Claims, Digest, Job, ObjectRef, PolicyVersion, RolloutCommit, RowSet, ScoreCommit, UnitRows, Work};

    fn object() -> ObjectRef {
        ObjectRef { key: "k".into(), bytes: 0, digest: Digest::of(b"") }
    }

    fn rollouts(batch: &str, version: u64) -> Event {
        Event::Rollouts(RolloutCommit {
            codec: None,
            batch: batch.into(),
            of: UnitRows { unit: 0, rows: RowSet::first(4) },
            policy_version: PolicyVersion(version),
            teacher_id: "t".into(),
            object: object(),
            tokens: 1,
            claims: Claims::default(),
        })
    }

    fn scores(batch: &str, set: &str) -> Event {
        let (batch, score_set) = (batch.into(), set.into());
        Event::Scores(ScoreCommit {
            batch,
            score_set,
            object: object(),
            packing: None,
            parent: None,
            claims: Claims::default(),
        })
    }

    fn log(events: Vec<Event>) -> Vec<Commit> {
        let (worker, incarnation) = ("w".to_string(), "i".to_string());
        let work = Work { worker, incarnation, job: Job::Run, started: 0, busy_s: 0.0, waited_s: 0.0, tokens: 0 };
        let commit = |(seq, event)| Commit { format: 2, seq, id: String::new(), at: 0, work: work.clone(), event };
        (0..).zip(events).map(commit).collect()
    }

    fn table(name: &str) -> Table {
        *TABLES.iter().find(|table| table.name == name).unwrap()
    }

    fn asked(name: &str, commits: &[Commit], after: Option<u64>, wanted: Option<&str>) -> Vec<(String, usize)> {
        asked_of(name, Since { commits, after, mixes: false }, wanted)
    }

    fn asked_of(name: &str, since: Since<'_>, wanted: Option<&str>) -> Vec<(String, usize)> {
        let questions = table(name).questions(&["a"], since, wanted);
        let begin = format!("select \"a\" from \"{name}\" where ");
        questions.into_iter().map(|q| (q.sql.strip_prefix(&begin).unwrap().to_string(), q.versions)).collect()
    }

    #[test]
    fn batches_are_asked_for_by_version_and_named_where_only_some_are_new() {
        let commits = log(vec![
            rollouts("a", 0),
            rollouts("b", 1),
            scores("a", "x'y"),
            rollouts("c", 1),
            scores("b", "x'y"),
            scores("b", "z"),
        ]);
        let one = |conditions: &str, versions| [(conditions.to_string(), versions)];
        assert_eq!(asked("rollouts", &commits, None, None), one("policy_version in (0, 1)", 2));
        assert_eq!(asked("rollouts", &commits, Some(0), None), one("policy_version in (1)", 1));
        assert_eq!(asked("rollouts", &commits, Some(1), None), one("policy_version in (1) and batch in ('c')", 1));
        assert_eq!(asked("rollouts", &commits, Some(3), None), []);
        let sets = ["'x''y'", "'z'"].map(|set| (format!("policy_version in (1) and score_set = {set}"), 1));
        assert_eq!(asked("scores", &commits, Some(2), None), sets);
    }

    #[test]
    fn where_another_runs_rows_are_there_own_batches_are_named() {
        let commits = log(vec![rollouts("a", 0), rollouts("b", 1), scores("a", "x")]);
        let since = Since { commits: &commits, after: None, mixes: true };
        let of_both = "policy_version in (0, 1) and batch in ('a', 'b')";
        assert_eq!(asked_of("rollouts", since, None), [(of_both.to_string(), 2)]);
        let scored = "policy_version in (0) and score_set = 'x' and batch in ('a')";
        assert_eq!(asked_of("scores", since, None), [(scored.to_string(), 1)]);
    }

    #[test]
    fn one_question_asks_for_no_more_than_memory_holds() {
        let mut commits = log((0..8).map(|version| rollouts(&version.to_string(), version)).collect());
        for (commit, mib) in commits.iter_mut().zip([2, 2, 4, 1, 7, 16, 1, 1]) {
            let Event::Rollouts(rollouts) = &mut commit.event else { unreachable!() };
            rollouts.object.bytes = mib << 20;
        }
        let groups = ["0, 1, 2", "3, 4", "5", "6, 7"].map(|versions| format!("policy_version in ({versions})"));
        let asked: Vec<String> = asked("rollouts", &commits, None, None).into_iter().map(|(sql, _)| sql).collect();
        assert_eq!(asked, groups);
    }

    #[test]
    fn what_is_wanted_is_asked_of_rollouts() {
        let commits = log(vec![rollouts("a", 2), scores("a", "x")]);
        let wanted = Some("finish = 'stop' or sample = 0");
        let sql = |table: &str| asked(table, &commits, None, wanted)[0].0.clone();
        assert_eq!(sql("rollouts"), "policy_version in (2) and (finish = 'stop' or sample = 0)");
        let of = |more: &str| {
            format!("rollout_id in (select rollout_id from rollouts where {more}(finish = 'stop' or sample = 0))")
        };
        let of_scores = of("policy_version in (2) and ");
        assert_eq!(sql("scores"), format!("policy_version in (2) and score_set = 'x' and {of_scores}"));
        assert_eq!(sql("step_records"), of(""));
        assert_eq!(sql("consumed"), "true");
    }

    #[test]
    fn tables_of_the_log_are_asked_for_what_is_new_or_whole() {
        let commits = log(vec![rollouts("a", 2)]);
        assert_eq!(asked("commits", &commits, Some(7), None), [("seq > 7".to_string(), 0)]);
        assert_eq!(asked("objects", &commits, Some(7), None), [("true".to_string(), 0)]);
        assert_eq!(asked("consumed", &commits, Some(7), None), []);
        assert_eq!(asked("consumed", &commits, None, None), [("true".to_string(), 0)]);
    }
}
