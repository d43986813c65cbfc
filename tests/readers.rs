//! A store read without us: its batches by pyarrow and Polars, its archives by these and DuckDB, its export by DuckDB, delta-rs and Polars.

use crate::support::{Small, in_bucket, opd, refused, succeeded, text};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Python with the readers.
fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/readers/bin/python");
    assert!(python.exists(), "{}: run `make readers` first", python.display());
    python
}

/// A run of four steps with packed scores, and the commit of its second step.
fn run_of_four(small: &Small) -> String {
    succeeded(&small.run(&["learn.max_staleness=1", "score.codec=compact", "score.top_k_max=16"]));
    small.sql("select seq from steps where step = 2").remove(0)
}

fn export(small: &Small, to: &str, options: &[&str]) -> Output {
    opd().args(["export", &small.store(), to]).args(options).output().unwrap()
}

fn said(output: &Output) -> String {
    succeeded(output);
    text(&output.stdout)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    found.sort();
    found
}

#[test]
fn programs_that_know_nothing_of_us_read_batches_and_exports_alike() {
    let (python, small) = (python(), Small::new());
    let second = run_of_four(&small);
    // Polars does not find a Delta table below a folder with a blank in its name, as the run's is.
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("out").display().to_string();
    said(&export(&small, &to, &["--at", &second]));
    said(&export(&small, &to, &[]));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside_readers.py");
    let output =
        Command::new(python).arg(script).args([env!("CARGO_BIN_EXE_opd"), &small.store(), &to, &second]).output();
    let output = output.unwrap();
    succeeded(&output);
    assert_eq!(text(&output.stdout), "batches: agree\nparquet: agree\ndelta: agree\narchives: agree\n");
}

#[test]
fn an_export_adds_what_is_new_and_nothing_twice() {
    let small = Small::new();
    let second = run_of_four(&small);
    let (out, whole) = (small.path("out"), small.path("whole"));
    let [to, at_once] = [&out, &whole].map(|path| path.display().to_string());
    let tables = ["--tables", "rollouts,steps,objects"];
    said(&export(&small, &to, &[&tables[..], &["--at", &second]].concat()));
    let first = files(&out);
    let again = said(&export(&small, &to, &[&tables[..], &["--at", &second]].concat()));
    assert!(again.contains(&format!("up to commit {second} is in {to} already")), "{again}");
    assert_eq!(files(&out), first);
    // What is there stays as it is; rows of both versions together are those of an export made at once.
    let later = said(&export(&small, &to, &tables));
    assert!(first.iter().all(|file| files(&out).contains(file)));
    let once = said(&export(&small, &at_once, &tables));
    let rows = |said: &str, table: &str| -> u64 {
        let line = said.lines().find(|line| line.starts_with(table)).unwrap_or_else(|| panic!("{table}: {said}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = small.sql(&format!("select count(*) from objects where kind = 'rollouts' and seq <= {second}"));
    assert_eq!(rows(&later, "rollouts") + 4 * before[0].parse::<u64>().unwrap(), rows(&once, "rollouts"));
    assert_eq!((rows(&later, "steps"), rows(&once, "steps")), (2, 4));
    // Objects may be given up meanwhile: the table is replaced.
    assert_eq!(rows(&later, "objects"), rows(&once, "objects"));
    refused(
        &export(&small, &to, &[&tables[..], &["--at", &second]].concat()),
        &["rollouts/", &format!("--at is {second}"), "an earlier moment needs a folder of its own"],
    );
}

#[test]
fn an_export_that_was_interrupted_goes_on() {
    let small = Small::new();
    run_of_four(&small);
    let out = small.path("out");
    let to = out.display().to_string();
    let whole = said(&export(&small, &to, &[]));
    // As if killed before the table's version was put: its files have no name.
    for table in ["rollouts", "steps"] {
        std::fs::remove_dir_all(out.join(table).join("_delta_log")).unwrap();
    }
    let left = files(&out.join("rollouts")).len();
    let rest = said(&export(&small, &to, &[]));
    let lines = |said: &str| -> Vec<String> {
        let words = |line: &str| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        said.lines().filter(|line| line.starts_with("rollouts") || line.starts_with("steps")).map(words).collect()
    };
    assert_eq!(lines(&rest), lines(&whole));
    assert_eq!(rest.lines().count(), 4, "{rest}");
    assert_eq!(files(&out.join("rollouts")).len(), 2 * left + 1);
}

#[test]
fn a_condition_chooses_rollouts_and_belongs_to_the_export() {
    let small = Small::new();
    run_of_four(&small);
    let to = small.path("out").display().to_string();
    let said = said(&export(&small, &to, &["--where", "sample = 0 and prompt_id < 12 -- some"]));
    let rows = |table: &str| {
        let line = said.lines().find(|line| line.starts_with(&format!("{table} "))).unwrap();
        line.split_whitespace().nth(1).unwrap().to_string()
    };
    let wanted = "rollout_id in (select rollout_id from rollouts where sample = 0 and prompt_id < 12)";
    for table in ["rollouts", "scores", "step_records"] {
        let count = small.sql(&format!("select count(*) from {table} where {wanted}"));
        assert_ne!(count[0], "0");
        assert_eq!(rows(table), count[0], "{table}");
    }
    assert_eq!(rows("consumed"), small.sql("select count(*) from consumed")[0]);
    refused(&export(&small, &to, &[]), &["was exported with --where `sample = 0", "not none"]);
}

#[test]
fn a_folder_that_holds_something_else_is_refused_by_name() {
    let (small, other) = (Small::new(), Small::new());
    succeeded(&small.run(&["learn.steps=1"]));
    succeeded(&other.run(&["learn.steps=1"]));
    let to = small.path("out").display().to_string();
    said(&export(&small, &to, &["--tables", "steps"]));
    refused(&export(&other, &to, &[]), &["is the export of another run", &to, "hint:"]);
    let used = small.path("student").display().to_string();
    refused(&export(&small, &used, &[]), &["holds something else and no export", "there is `"]);
    let within = small.path("store/out").display().to_string();
    refused(&export(&small, &within, &[]), &["lies in the store", "beside it"]);
    refused(&export(&small, &small.store(), &[]), &["lies in the store"]);
    let new = small.path("new").display().to_string();
    refused(&export(&small, &new, &["--tables", "rollout"]), &["no table `rollout`", "rollouts, scores"]);
    refused(&export(&small, &new, &["--where", "finsh = 'stop'"]), &["--where", "finsh", "did you mean `finish`"]);
    refused(&export(&small, &new, &["--at", "9999"]), &["the log ends at commit"]);
    assert!(!small.path("new").exists());
    // Another program's doing in the table's log.
    let log = small.path("out/steps/_delta_log/00000000000000000001.json");
    std::fs::write(log, "{\"protocol\":{\"minReaderVersion\":3,\"minWriterVersion\":7}}\n").unwrap();
    refused(&export(&small, &to, &["--tables", "steps"]), &["steps/_delta_log/00000000000000000001.json", "(3, 7)"]);
}

#[test]
fn an_export_to_a_bucket_is_read_from_there() {
    let Some(bucket) = in_bucket() else { return };
    let python = python();
    succeeded(&bucket.run(&["learn.steps=2"]));
    let to = format!("{}-export", bucket.store());
    said(&export(&bucket, &to, &["--at", &bucket.sql("select seq from steps where step = 1")[0]]));
    said(&export(&bucket, &to, &[]));
    // Not a tidy exit: threads of the clients for S3 sometimes abort the interpreter then.
    let script = "import os, sys, deltalake, polars as pl\n\
        options = {k: os.environ[k] for k in ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_REGION']}\n\
        options |= {'AWS_ENDPOINT_URL': os.environ['AWS_ENDPOINT'], 'AWS_ALLOW_HTTP': 'true'}\n\
        table = deltalake.DeltaTable(sys.argv[1] + '/rollouts', storage_options=options)\n\
        frame = pl.scan_delta(sys.argv[1] + '/steps', storage_options=options).select('step').collect()\n\
        print(table.version(), table.to_pyarrow_table().num_rows, frame['step'].sort().to_list(), flush=True)\n\
        os._exit(0)";
    let output = Command::new(python).args(["-c", script, &to]).output().unwrap();
    succeeded(&output);
    let rows = bucket.sql("select count(*) from rollouts");
    assert_eq!(text(&output.stdout), format!("1 {} [1, 2]\n", rows[0]));
}

/// `make test-slow` sets it to a Python with Sail.
#[test]
fn a_distributed_engine_answers_from_a_bucket() {
    let Ok(python) = std::env::var("OPD_TEST_SAIL") else {
        eprintln!("not run: no OPD_TEST_SAIL (make test-slow sets it)");
        return;
    };
    let Some(bucket) = in_bucket() else { return };
    succeeded(&bucket.run(&["learn.max_staleness=1"]));
    let to = format!("{}-export", bucket.store());
    said(&export(&bucket, &to, &["--tables", "rollouts,consumed,step_records"]));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/distributed_sql.py");
    let mut command = Command::new("timeout");
    command.args(["180", &python]).arg(script).args([env!("CARGO_BIN_EXE_opd"), &bucket.store(), &to]);
    let output = command.output().unwrap();
    succeeded(&output);
    assert_eq!(text(&output.stdout).lines().last(), Some("agree on 3 queries with at least two workers"));
}
