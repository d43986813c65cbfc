//! Which tables are exported, and the questions whose answers are a table's new rows. Pure.

use record::{BatchId, Commit, Event};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The column that batches of rollouts and of scores are parted by.
pub const PARTITION: &str = "policy_version";

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
}

/// A question, and the partition that its answer's rows belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// SQL.
    pub sql: String,
    /// The value of [`PARTITION`]; `None` in a table without.
    pub partition: Option<u64>,
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
        let select = |conditions: Vec<String>, partition| {
            let conditions = if conditions.is_empty() { "true".into() } else { conditions.join(" and ") };
            let sql = format!("select {columns} from \"{}\" where {conditions}", self.name);
            Question { sql, partition }
        };
        let among = |of: &str| wanted.map(|wanted| format!("rollout_id in (select rollout_id from rollouts where {of}({wanted}))"));
        match self.new {
            New::Rollouts | New::Scores => {
                let parts = self.batches(since);
                let question = |(version, mut conditions): (u64, Vec<String>)| {
                    let of_version = format!("{PARTITION} = {version}");
                    conditions.insert(0, of_version.clone());
                    match self.new {
                        New::Rollouts => conditions.extend(wanted.map(|wanted| format!("({wanted})"))),
                        _ => conditions.extend(among(&format!("{of_version} and "))),
                    }
                    select(conditions, Some(version))
                };
                parts.into_iter().map(question).collect()
            }
            New::Step => {
                let last = since.after.and_then(|after| last_step(since.commits, after));
                let mut conditions: Vec<String> = last.map(|last| format!("step > {last}")).into_iter().collect();
                conditions.extend(among("").filter(|_| self.name == "step_records"));
                let any = last_step(since.commits, u64::MAX) > last;
                if any || since.after.is_none() { vec![select(conditions, None)] } else { vec![] }
            }
            New::Seq => vec![select(since.after.map(|after| format!("seq > {after}")).into_iter().collect(), None)],
            New::Whole => vec![select(vec![], None)],
        }
    }

    /// Policy versions with new batches in their order, and for each of their score sets the conditions that choose them.
    fn batches(&self, since: Since<'_>) -> Vec<(u64, Vec<String>)> {
        // By (policy version, score set): all batches, and the new ones.
        let mut parts: BTreeMap<(u64, &str), (usize, BTreeSet<&BatchId>)> = BTreeMap::new();
        let mut versions: HashMap<&BatchId, u64> = HashMap::new();
        for commit in since.commits {
            let (batch, set) = match &commit.event {
                Event::Rollouts(rollouts) => {
                    versions.insert(&rollouts.batch, rollouts.policy_version.0);
                    (&rollouts.batch, None)
                }
                Event::Scores(scores) => (&scores.batch, Some(scores.score_set.as_str())),
                _ => continue,
            };
            if set.is_some() != (self.new == New::Scores) {
                continue;
            }
            // A batch is delivered before it is scored.
            let Some(version) = versions.get(batch) else { continue };
            let (all, new) = parts.entry((*version, set.unwrap_or_default())).or_default();
            *all += 1;
            if since.after.is_none_or(|after| commit.seq > after) {
                new.insert(batch);
            }
        }
        let conditions = |((version, set), (all, new)): ((u64, &str), (usize, BTreeSet<&BatchId>))| {
            let names = || new.iter().map(|batch| quoted(batch)).collect::<Vec<_>>().join(", ");
            let of_set = (self.new == New::Scores).then(|| format!("score_set = {}", quoted(set)));
            let of_batches = (new.len() < all).then(|| format!("batch in ({})", names()));
            (!new.is_empty()).then(|| (version, of_set.into_iter().chain(of_batches).collect()))
        };
        parts.into_iter().filter_map(conditions).collect()
    }
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
        Event::Scores(ScoreCommit { batch, score_set, object: object(), packing: None, claims: Claims::default() })
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

    fn asked(name: &str, commits: &[Commit], after: Option<u64>, wanted: Option<&str>) -> Vec<(String, Option<u64>)> {
        let questions = table(name).questions(&["a"], Since { commits, after }, wanted);
        let begin = format!("select \"a\" from \"{name}\" where ");
        questions.into_iter().map(|q| (q.sql.strip_prefix(&begin).unwrap().to_string(), q.partition)).collect()
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
        let all = [("policy_version = 0".to_string(), Some(0)), ("policy_version = 1".into(), Some(1))];
        assert_eq!(asked("rollouts", &commits, None, None), all);
        assert_eq!(asked("rollouts", &commits, Some(0), None), all[1..]);
        let one = [("policy_version = 1 and batch in ('c')".to_string(), Some(1))];
        assert_eq!(asked("rollouts", &commits, Some(1), None), one);
        assert_eq!(asked("rollouts", &commits, Some(3), None), []);
        let scored = asked("scores", &commits, Some(2), None);
        let sets = ["'x''y'", "'z'"].map(|set| (format!("policy_version = 1 and score_set = {set}"), Some(1)));
        assert_eq!(scored, sets);
    }

    #[test]
    fn what_is_wanted_is_asked_of_rollouts() {
        let commits = log(vec![rollouts("a", 2), scores("a", "x")]);
        let wanted = Some("finish = 'stop' or sample = 0");
        assert_eq!(
            asked("rollouts", &commits, None, wanted)[0].0,
            "policy_version = 2 and (finish = 'stop' or sample = 0)"
        );
        let of = "rollout_id in (select rollout_id from rollouts where";
        assert_eq!(
            asked("scores", &commits, None, wanted)[0].0,
            format!("policy_version = 2 and score_set = 'x' and {of} policy_version = 2 and (finish = 'stop' or sample = 0))")
        );
        assert_eq!(asked("step_records", &commits, None, wanted)[0].0, format!("{of} (finish = 'stop' or sample = 0))"));
        assert_eq!(asked("consumed", &commits, None, wanted)[0].0, "true");
    }

    #[test]
    fn tables_of_the_log_are_asked_for_what_is_new_or_whole() {
        let commits = log(vec![rollouts("a", 2)]);
        assert_eq!(asked("commits", &commits, Some(7), None), [("seq > 7".to_string(), None)]);
        assert_eq!(asked("objects", &commits, Some(7), None), [("true".to_string(), None)]);
        assert_eq!(asked("consumed", &commits, Some(7), None), []);
        assert_eq!(asked("consumed", &commits, None, None), [("true".to_string(), None)]);
    }
}
