//! `opd estimate`: what each estimator's gradient is worth, asked of a small run's store.

use crate::support::{Small, opd, succeeded, text};
use std::{collections::BTreeSet, process::Output};

/// A run of which every policy is kept.
fn run() -> Small {
    let small = Small::new();
    succeeded(&small.run(&["learn.keep_policies=9", "learn.max_staleness=1"]));
    small
}

fn ask(small: &Small, args: &[&str]) -> Output {
    opd().args(["estimate", &small.store()]).args(args).output().unwrap()
}

fn refused(small: &Small, args: &[&str], says: &[&str]) {
    let output = ask(small, args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    for words in says {
        assert!(said.contains(words), "{args:?} should say {words:?}:\n{said}");
    }
    assert!(!said.contains("panicked") && output.stdout.is_empty(), "{args:?}: {said}");
}

#[test]
fn csv_has_every_estimator_and_budget_by_staleness() {
    let small = run();
    let plot = small.path("plot.svg").display().to_string();
    let output = ask(&small, &["--format", "csv", "--positions", "60", "--plot", &plot]);
    succeeded(&output);
    let csv = text(&output.stdout);
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("estimator,k,m,bytes_per_token,staleness,bias,variance,cosine"));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    let number = |row: &[&str], i: usize| row[i].parse::<f64>().unwrap();
    assert!(rows.iter().all(|row| row.len() == 8 && (1..8).all(|i| number(row, i).is_finite())), "{csv}");
    let staleness: BTreeSet<&str> = rows.iter().map(|row| row[4]).collect();
    assert!(staleness.len() > 1, "by staleness: {csv}");
    // What the store keeps: 4 draws, 8 of the teacher's ids, 4 of the sampler's.
    for (name, k, m) in [
        ("reverse_kl_mc", "0", "4"),
        ("reverse_kl_mc/constant_baseline", "0", "1"),
        ("reverse_kl_mc/m2po", "0", "4"),
        ("forward_kl", "8", "0"),
        ("reverse_kl_student_top_k", "4", "0"),
        ("reverse_kl_hybrid", "2", "4"),
        ("reverse_kl_hybrid/leave_one_out", "4", "2"),
    ] {
        let of = rows.iter().filter(|row| row[..3] == [name, k, m]).collect::<Vec<_>>();
        assert_eq!(of.len(), staleness.len(), "{name} {k} {m}: {csv}");
        let (is_exact, is_unbiased) = (m == "0", ["reverse_kl_mc", "reverse_kl_hybrid"].contains(&name));
        assert!(of.iter().all(|row| is_exact == (number(row, 6) == 0.0)), "{name}: variance {of:?}");
        assert!(of.iter().all(|row| !is_unbiased || number(row, 5) == 0.0), "{name}: bias {of:?}");
    }
    assert!(!rows.iter().any(|row| row[0] == "forward_kl" && row[1] == "16"), "no more than is stored");
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("reverse_kl_hybrid") && svg.contains("bytes per token") && svg.contains("student v"));
    // The same question has the same answer.
    assert_eq!(text(&ask(&small, &["--format", "csv", "--positions", "60"]).stdout), csv);
    let more = ask(&small, &["--positions", "8", "--top-k", "16", "--student", "0"]);
    succeeded(&more);
    let table = text(&more.stdout);
    assert!(table.contains("staleness 0, 8 positions") && table.contains("bytes/token"), "{table}");
    assert!(text(&more.stderr).contains("rows of later policies than"), "{}", text(&more.stderr));
}

#[test]
fn a_budget_gives_lines_that_a_run_takes() {
    let small = run();
    let output = ask(&small, &["--positions", "40", "--budget", "60"]);
    succeeded(&output);
    let said = text(&output.stdout);
    let sets: Vec<&str> = said.lines().filter(|line| line.contains(" = ") && line.contains('.')).take(6).collect();
    assert!(sets.iter().any(|set| set.starts_with("rollout.top_k_floor")) && said.contains("to be expected"), "{said}");
    assert!(said.contains("instead: variance"), "{said}");
    std::fs::remove_dir_all(small.path("store")).unwrap();
    succeeded(&small.command("run", &sets).arg("--dry-run").output().unwrap());
    assert!(said.contains("tenth 10") && said.contains("reverse_kl_student_top_k"), "{said}");
}

#[test]
fn what_cannot_be_asked_is_said() {
    let small = Small::new();
    refused(&small, &[], &["no run"]);
    succeeded(&small.run(&["learn.steps=12"]));
    refused(&small, &["--student", "13"], &["has no policy 13", "the run is at version 12", "kept: 12"]);
    refused(&small, &["--student", "3"], &["has no policy 3", "retired", "learn.keep_policies", "kept: 0, 9"]);
    refused(&small, &["--student", "newest"], &["--student", "is `newest`", "or `latest`"]);
    refused(&small, &["--where", "policy_verson = 1"], &["--where", "policy_verson", "did you mean `policy_version`?"]);
    refused(&small, &["--where", "unit ="], &["--where `unit =`"]);
    refused(&small, &["--where", "unit = 999"], &["--where `unit = 999` selects no rollout"]);
    refused(
        &small,
        &["--where", "policy_version = 4"],
        &["none of the 8 rollouts", "weights are kept of 0, 9", "learn.keep_policies"],
    );
    refused(&small, &["--teacher", "nowhere"], &["--teacher", "nowhere", "no such folder"]);
    refused(&small, &["--budget", "2"], &["--budget 2", "give it more than"]);
    refused(&small, &["--budget", "90", "--format", "csv"], &["--budget with --format csv"]);
    refused(&small, &["--plot", "/nowhere/plot.svg"], &["--plot", "/nowhere/plot.svg"]);
    refused(&small, &["--positions", "0"], &["--positions"]);
    let other = small.path("other");
    small.write_model("other", 4, 16);
    let tokenizer = std::fs::read_to_string(other.join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let (word, id) = vocabulary.iter().next().map(|(word, id)| (word.clone(), id.clone())).unwrap();
    vocabulary.remove(&word);
    vocabulary.insert("never".into(), id);
    std::fs::write(other.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    refused(&small, &["--teacher", &other.display().to_string()], &["--teacher", "tokenizer is not the student's"]);
    std::fs::rename(small.path("teacher"), small.path("moved")).unwrap();
    refused(&small, &[], &["teacher `teacher`", "no such folder", "--teacher DIR"]);
    succeeded(&ask(&small, &["--teacher", &small.path("moved").display().to_string(), "--positions", "4"]));
    std::fs::rename(small.path("moved"), small.path("teacher")).unwrap();
    small.write_model("teacher", 9, 24);
    refused(&small, &[], &["teacher `teacher`", "whose config and weights have", "the run's had", "--teacher DIR"]);
}

#[test]
fn parameters_are_compared_with_the_exact_gradient() {
    let small = Small::new();
    // Of policies only the first and the newest are kept: samplers are not needed.
    succeeded(&small.run(&["learn.max_staleness=1", "score.top_k_max=4096", "score.top_k_mass=1.0"]));
    let output = ask(&small, &["--parameters", "--positions", "60", "--format", "csv"]);
    succeeded(&output);
    let (csv, said) = (text(&output.stdout), text(&output.stderr));
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("estimator,k,m,staleness,relative_error,cosine"));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    let number = |row: &[&str], i: usize| row[i].parse::<f64>().unwrap();
    assert!(rows.iter().all(|row| row.len() == 6 && (1..6).all(|i| number(row, i).is_finite())), "{csv}");
    let staleness: BTreeSet<&str> = rows.iter().map(|row| row[3]).collect();
    assert!(staleness.len() > 1, "by staleness: {csv}");
    let of = |name: &str| rows.iter().filter(|row| row[0] == name).collect::<Vec<_>>();
    // The teacher's list has every id: exact against itself.
    for row in of("forward_kl").into_iter().chain(of("reverse_kl_teacher_top_k")) {
        assert!(number(row, 4) < 1e-2 && (number(row, 5) - 1.0).abs() < 1e-4, "{row:?}");
    }
    for (name, k, m) in [("reverse_kl_mc", "0", "4"), ("reverse_kl_mc/m2po", "0", "4"), ("reverse_kl_hybrid", "4", "4")]
    {
        let of = of(name);
        assert!(of.len() == staleness.len() && of.iter().all(|row| row[1..3] == [k, m]), "{name}: {csv}");
        assert!(of.iter().all(|row| number(row, 5) < 0.9999), "{name}: {of:?}");
    }
    assert!(of("forward_kl_mc/teacher").is_empty() && said.contains("left out: `forward_kl_mc/teacher`"), "{said}");
    assert!(said.contains("teacher_draw_ids"), "{said}");
    let table = ask(&small, &["--parameters", "--positions", "8", "--where", "policy_version = 0"]);
    succeeded(&table);
    let table = text(&table.stdout);
    assert!(table.contains("staleness 4, 8 positions") && table.contains("relative error"), "{table}");

    refused(&small, &["--parameters", "--budget", "60"], &["--parameters", "--budget"]);
    small.write_model("other", 9, 24);
    let other = small.path("other").display().to_string();
    refused(&small, &["--parameters", "--teacher", &other], &["teacher `teacher`", "the run's had", "--teacher DIR"]);
}

#[test]
fn parameters_have_one_teacher() {
    let small = Small::new().with_two_teachers();
    succeeded(&small.run(&[]));
    refused(
        &small,
        &["--parameters"],
        &["--parameters: the rows have 2 teachers", "`second`", "--where \"teacher_id = 'second'\""],
    );
    let of_one = ask(&small, &["--parameters", "--positions", "20", "--where", "teacher_id = 'second'"]);
    succeeded(&of_one);
}

#[test]
fn a_store_without_the_samplers_top_k_is_asked_about_the_rest() {
    let small = Small::new();
    succeeded(&small.run(&["rollout.top_k_max=0", "learn.steps=2"]));
    let output = ask(&small, &["--format", "csv", "--positions", "8"]);
    succeeded(&output);
    let csv = text(&output.stdout);
    assert!(csv.contains("reverse_kl_mc,0,4,") && !csv.contains("reverse_kl_student_top_k"), "{csv}");
}
