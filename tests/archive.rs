//! `opd archive`: every question is answered as before, whoever asks, whenever it was; killed at any moment it goes on; and damage is
//! found.

use crate::support::{Small, asked, collect, done, in_bucket, opd, refused, succeeded, text};
use arrow::{array::RecordBatch, compute::concat_batches};
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use tokio::runtime::Runtime;

/// Each of five versions samples two batches; scores are packed, rollouts are not; snapshots lie between.
const SETS: [&str; 4] = ["learn.steps=5", "learn.keep_policies=100", "score.codec=compact", "store.snapshot_every=8"];
/// Questions to every table whose rows lie in objects, and to some whose rows the log tells.
const QUESTIONS: [&str; 8] = [
    "select * from rollouts order by rollout_id",
    "select * from scores order by score_set, rollout_id",
    "select * from scored where policy_version = 1 order by rollout_id",
    "select * from step_records order by step, rollout_id",
    "select * from tokens order by rollout_id, position",
    "select step, rollout_id, staleness from consumed order by 1, 2",
    "select policy_version, avg(cardinality(response_ids)), min(source) from rollouts group by 1 order by 1",
    "select * from staleness order by 1",
];

/// The answers to all questions at some moments of the log, from a session that begins for each.
fn answers(small: &Small, moments: &[&str]) -> Vec<RecordBatch> {
    let runtime = Runtime::new().unwrap();
    moments.iter().flat_map(|at| answered(&runtime, &session(&runtime, small, Some(at.parse().unwrap())))).collect()
}

/// A session in this process, which has read the log by now.
fn session(runtime: &Runtime, small: &Small, at: Option<u64>) -> query::Session {
    runtime.block_on(async {
        let store = store::Store::open(&small.store(), store::StoreOptions::default()).await.unwrap();
        query::open(&store, at).await.unwrap()
    })
}

fn answered(runtime: &Runtime, session: &query::Session) -> Vec<RecordBatch> {
    let ask = async |question: &str| {
        let rows = session.run(question).await.unwrap().collect().await.unwrap();
        assert!(!rows.is_empty(), "{question}");
        concat_batches(&rows[0].schema(), &rows).unwrap()
    };
    QUESTIONS.iter().map(|question| runtime.block_on(ask(question))).collect()
}

fn sound(small: &Small) {
    let (found, said) = done(small, "verify", &[]);
    assert!(found.is_empty() && said.contains("all is as it should be"), "{found}{said}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn answers_as_before(small: &Small) {
    succeeded(&small.run(&SETS));
    // Two that begin before: one is asked at once, the other when all is over.
    let runtime = Runtime::new().unwrap();
    let (held, warm) = (session(&runtime, small, None), session(&runtime, small, None));
    let rows = answered(&runtime, &warm);
    let last = small.sql("select max(seq) from commits").remove(0);
    let second = small.sql("select seq from steps where step = 2").remove(0);
    let moments = [second.as_str(), last.as_str()];
    let before = answers(small, &moments);
    let usage = done(small, "du", &["--format", "csv"]).0;

    let (would, said) = done(small, "archive", &["--dry-run"]);
    assert!(would.contains("step") && said.contains("would be moved"), "{would}{said}");
    assert_eq!(done(small, "du", &["--format", "csv"]).0, usage, "nothing is done by asking");
    // What the first two versions sampled, and then the rest.
    let (some, _) = done(small, "archive", &["--before", "v2"]);
    assert!(some.lines().any(|line| line.starts_with("rollouts") && line.contains("0..1")), "{some}");
    assert!(answers(small, &moments) == before, "while some of it is moved");
    let (all, said) = done(small, "archive", &[]);
    assert_eq!(all.lines().count(), 4, "a header and three kinds: {all}");
    assert!(said.contains("moved into archives of") && said.contains("opd gc"), "{said}");
    assert!(answers(small, &moments) == before, "archived");
    sound(small);
    let (nothing, said) = done(small, "archive", &[]);
    assert!(nothing.is_empty() && said.contains("nothing to archive"), "{nothing}{said}");

    // What was moved goes, and only that; a session that began before finds the rows.
    let moved = small.sql("select key from objects where archive is not null order by key");
    let young = done(small, "gc", &[]);
    assert!(young.0.lines().count() == 1 && young.1.contains("not for 1d 0h yet"), "{young:?}");
    let deleted = collect(small);
    let mut keys: Vec<&str> = deleted
        .lines()
        .filter(|line| line.starts_with("archived by commit"))
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    keys.sort();
    assert_eq!(keys, moved);
    assert!(small.sql("select distinct kind from objects where archive is not null order by 1").len() == 3);
    assert!(answered(&runtime, &held) == rows && answered(&runtime, &warm) == rows);
    assert!(answers(small, &moments) == before, "collected");
    sound(small);
    let usage = done(small, "du", &[]).0;
    assert!(usage.lines().any(|line| line.starts_with("archive") && line.contains("kept")), "{usage}");
    assert!(!usage.lines().any(|line| line.starts_with("rollouts") || line.contains("moved")), "{usage}");

    // Whoever takes recorded rows takes them from there.
    succeeded(&asked(small, "compact", &["--codec", "compact", "--set", "k4", "--top-k", "4"]));
    let same = small.sql("select count(*) = (select count(*) from scored) from scored_in('k4')");
    assert_eq!(same, ["true"]);
    let usage = done(small, "du", &["--format", "csv"]).0;
    assert!(usage.contains(",k4,compact,kept,"), "a set that was made later has a codec, too: {usage}");
    // A limit gives up what is above it, once: of an archive that stays what is given up counts as gone.
    let kept = small.sql("select sum(bytes) from objects where not retired and archive is null").remove(0);
    let limit = format!("{}B", kept.parse::<u64>().unwrap() - 1);
    let (given_up, said) = done(small, "retain", &["--max-bytes", &limit]);
    assert!(given_up.lines().count() == 2 && said.contains("such a file goes as a whole"), "{given_up}{said}");
    let (again, said) = done(small, "retain", &["--max-bytes", &limit]);
    assert!(again.lines().count() == 1 && said.starts_with("0 B "), "{again}{said}");
    // Given up, an archive goes as a whole.
    done(small, "retain", &["--keep-versions", "2"]);
    assert_eq!(small.sql("select distinct policy_version from rollouts"), ["4"]);
    let deleted = collect(small);
    assert!(deleted.lines().any(|line| line.contains("archive/rollouts/v00000000-v00000001-")), "{deleted}");
    sound(small);
}

#[test]
fn a_folder_answers_as_before() {
    answers_as_before(&Small::new());
}

#[test]
fn a_bucket_answers_as_before() {
    if let Some(small) = in_bucket() {
        answers_as_before(&small);
    }
}

#[test]
fn a_replay_of_archived_rows_gives_the_same_weights() {
    let small = Small::new();
    succeeded(&small.run(&SETS));
    done(&small, "archive", &[]);
    collect(&small);
    assert!(files(&small.path("store/rollouts")).is_empty() && files(&small.path("store/scores")).is_empty());
    let mut replay = opd();
    replay.args(["replay", "--from", &small.store(), "--into"]).arg(small.path("again")).arg(small.path("small.toml"));
    let output = replay.args(SETS.iter().flat_map(|set| ["--set", set])).output().unwrap();
    succeeded(&output);
    assert_eq!(text(&output.stdout), "5 steps, every weights digest equal to the parent's\n");
    let count = "select count(*), sum(token_id) from tokens where step is not null";
    let ask = |store: &Path| {
        let output = opd().arg("sql").arg(store).args([count, "--format", "csv"]).output().unwrap();
        succeeded(&output);
        text(&output.stdout)
    };
    assert_eq!(ask(&small.path("again")), ask(&small.path("store")));

    // An export of it has the same rows.
    let to = small.path("out").display().to_string();
    succeeded(
        &opd().args(["export", &small.store(), &to, "--tables", "rollouts,scores,step_records"]).output().unwrap(),
    );
    assert!(!files(&small.path("out/rollouts")).is_empty());
}

#[test]
fn killed_at_any_moment_it_goes_on() {
    let small = Small::new();
    succeeded(&small.run(&SETS));
    let last = small.sql("select max(seq) from commits").remove(0);
    let before = answers(&small, &[&last]);
    for point in ["store.after_put:1", "store.after_commit:1", "store.after_put:2"] {
        let killed = opd().args(["archive", &small.store()]).env("OPD_FAILPOINT", point).output().unwrap();
        assert_eq!(killed.status.code(), None, "{point}: {}", text(&killed.stderr));
        assert!(answers(&small, &[&last]) == before, "{point}");
        sound(&small);
    }
    let deleted = collect(&small);
    let left = deleted.lines().filter(|line| line.starts_with("named by no commit") && line.contains("archive/"));
    assert_eq!(left.count(), 2, "{deleted}");
    done(&small, "archive", &[]);
    collect(&small);
    assert!(answers(&small, &[&last]) == before);
    sound(&small);
    assert_eq!(collect(&small).lines().count(), 1, "once is enough");
}

#[test]
fn beside_a_run_only_what_has_ended_is_moved() {
    let (small, whole) = (Small::new(), Small::new());
    let sets = [&SETS[..], &["learn.checkpoint_every=2", "eval.sets={}"]].concat();
    succeeded(&whole.run(&sets));
    let mut run = small.command("run", &sets).spawn().unwrap();
    let mut archived = 0;
    while run.try_wait().unwrap().is_none() {
        let output = asked(&small, "archive", &[]);
        // Before there is a run, it says so.
        archived += usize::from(output.status.success() && text(&output.stdout).lines().count() > 1);
        assert!(
            output.status.success() || text(&output.stderr).contains("there is no run"),
            "{}",
            text(&output.stderr)
        );
    }
    assert!(run.wait().unwrap().success() && archived > 0, "{archived}");
    done(&small, "archive", &[]);
    collect(&small);
    sound(&small);
    let read = "select count(*) from rollouts r join scores s on r.rollout_id = s.rollout_id \
                where cardinality(r.response_ids) = cardinality(s.teacher_logprobs)";
    let trained = "select count(*) from consumed";
    assert_eq!((small.sql(trained), small.sql(read)), (whole.sql(trained), whole.sql(read)));
}

#[test]
fn a_learner_goes_on_after_what_it_trained_on_was_moved() {
    let (small, whole) = (Small::new(), Small::new());
    let sets = ["learn.steps=6", "learn.max_staleness=5", "learn.checkpoint_every=4", "eval.sets={}"];
    for of in [&small, &whole] {
        succeeded(&of.command("run", &sets).arg("--collect").output().unwrap());
    }
    succeeded(&whole.command("learn", &sets).output().unwrap());
    // Step 4 is the checkpoint; step 5 will be executed again from its rows, and step 6 was about to be committed.
    let killed = small.command("learn", &sets).env("OPD_FAILPOINT", "learn.after_put:6").output().unwrap();
    assert_eq!(killed.status.code(), None, "{}", text(&killed.stderr));
    let (moved, _) = done(&small, "archive", &[]);
    assert!(moved.lines().any(|line| line.starts_with("steps") && line.contains("1..4")), "{moved}");
    collect(&small);
    succeeded(&small.command("learn", &sets).output().unwrap());
    let digests = "select step, weights_digest from steps order by step";
    assert_eq!((small.sql(digests).len(), small.sql(digests)), (6, whole.sql(digests)));
    sound(&small);
}

#[test]
fn damage_is_found_and_the_archive_named() {
    let small = Small::new();
    const READ: &str = "select count(*), sum(cardinality(response_ids)) from rollouts";
    succeeded(&small.run(&["learn.steps=2", "eval.sets={}"]));
    let rows = small.sql(READ);
    done(&small, "archive", &[]);
    let key = small.sql("select key from objects where kind = 'archive' order by seq").remove(0);
    let file = small.path("store").join(&key);
    let mut bytes = std::fs::read(&file).unwrap();
    // Without it nothing is deleted that was moved there, and everything is read from where it was.
    std::fs::remove_file(&file).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    refused(&asked(&small, "gc", &["--grace", "0s"]), &["archived objects stay", &key, "hint: bring them back"]);
    assert_eq!(small.sql(READ), rows);
    std::fs::write(&file, &bytes).unwrap();
    collect(&small);
    bytes[100] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let output = asked(&small, "verify", &[]);
    let found = text(&output.stdout);
    assert_eq!((output.status.code(), found.lines().count()), (Some(1), 2), "{found}");
    assert!(found.lines().all(|line| line.contains(&key)), "{found}");
    assert!(found.lines().any(|line| line.starts_with("rollouts/")), "which batch it is: {found}");
    let refusal = asked(&small, "sql", &["select sum(cardinality(response_ids)) from rollouts"]);
    refused(&refusal, &[&key, "row group", "sha256:"]);
    // Its length is what it was; without it nothing of it is there.
    assert!(done(&small, "verify", &["--quick"]).0.is_empty());
    std::fs::remove_file(&file).unwrap();
    let output = asked(&small, "verify", &["--quick"]);
    let found = text(&output.stdout);
    assert!(output.status.code() == Some(1) && found.starts_with(&format!("{key}: ")), "{found}");
    assert_eq!(found.lines().count(), 1, "{found}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let small = Small::new();
    refused(&asked(&small, "archive", &[]), &["there is no run"]);
    assert!(!small.path("store").exists(), "nothing is made by looking");
    succeeded(&small.command("run", &["learn.steps=1", "eval.sets={}"]).arg("--collect").output().unwrap());
    let (nothing, said) = done(&small, "archive", &[]);
    assert!(nothing.is_empty() && said.contains("nothing to archive"), "all is live: {nothing}{said}");
    succeeded(&small.run(&["learn.steps=1", "eval.sets={}"]));
    refused(&asked(&small, "archive", &["--before", "v9"]), &["--before 9", "the run is at v1", "hint:"]);
    refused(&asked(&small, "archive", &["--before", "newest"]), &["newest", "a policy version, as in 100"]);
    refused(&asked(&small, "archive", &["--older-than", "3 weeks"]), &["3 weeks", "as in 30d"]);
    assert!(done(&small, "archive", &["--older-than", "1d"]).1.contains("nothing to archive"));
    // What is damaged stays where it is; the rest is moved.
    let key = small.sql("select key from objects where kind = 'scores' order by seq").remove(0);
    let file = small.path("store").join(&key);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, "torn").unwrap();
    let output = asked(&small, "archive", &[]);
    refused(&output, &["left where it is", &key, "1 objects cannot be read"]);
    assert!(text(&output.stdout).lines().any(|line| line.starts_with("scores")), "{}", text(&output.stdout));
    std::fs::write(&file, whole).unwrap();
    let (rest, _) = done(&small, "archive", &[]);
    assert!(rest.lines().count() == 2 && rest.contains("scores"), "{rest}");
    sound(&small);
    // A program that does not know of archives refuses the store: its format says so.
    let format = small.sql("select max(json) from commits where kind = 'archive'").remove(0);
    assert!(format.contains("\"\"format\"\":4"), "{format}");
    let others = small.sql("select count(*) from commits where kind <> 'archive' and json not like '%\"format\":3%'");
    assert_eq!(others, ["0"]);
}

/// Two at once: both end well, and nothing is moved twice that counts.
#[test]
fn two_at_once_do_no_harm() {
    let small = Small::new();
    succeeded(&small.run(&SETS));
    let last = small.sql("select max(seq) from commits").remove(0);
    let before = answers(&small, &[&last]);
    let start = || -> Command {
        let mut command = opd();
        command.args(["archive", &small.store()]);
        command
    };
    let both = [start().spawn().unwrap(), start().spawn().unwrap()];
    for mut one in both {
        assert!(one.wait().unwrap().success());
    }
    collect(&small);
    assert!(answers(&small, &[&last]) == before);
    sound(&small);
    let archives = small.sql("select count(*), count(distinct key) from objects where kind = 'archive'");
    assert_eq!(archives, ["3,3"]);
}
