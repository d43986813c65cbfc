//! What people see.

use crate::support::{Small, arith, opd, succeeded, text};

#[test]
fn help_names_every_command_and_fits_a_terminal() {
    let output = opd().arg("--help").output().unwrap();
    succeeded(&output);
    let help = text(&output.stdout);
    for command in [
        "run",
        "rollout",
        "score",
        "learn",
        "eval",
        "sft",
        "estimate",
        "export-policy",
        "status",
        "plan",
        "replay",
        "trace",
        "sql",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}:\n{help}");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
}

#[test]
fn a_misspelt_command_is_an_error_with_a_hint() {
    let output = opd().arg("rollot").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'rollout'"), "{}", text(&output.stderr));
}

#[test]
fn a_dry_run_prints_the_pipeline_and_does_nothing() {
    let small = Small::new();
    let output = small.command("run", &["learn.steps=7"]).arg("--dry-run").output().unwrap();
    succeeded(&output);
    let toml: toml::Table = toml::from_str(&text(&output.stdout)).unwrap();
    assert_eq!(toml["learn"]["steps"].as_integer(), Some(7));
    assert!(!small.path("store").exists());
}

#[test]
fn a_run_ends_with_a_summary_and_status_shows_the_same() {
    let small = Small::new();
    let run = small.run(&[]);
    succeeded(&run);
    let status = opd().args(["status", &small.store()]).output().unwrap();
    succeeded(&status);
    assert_eq!(text(&run.stdout), text(&status.stdout));
    let summary = text(&status.stdout);
    for row in [
        "run ",
        "accuracy ",
        "steps ",
        "reverse_kl ",
        "rollouts ",
        "staleness ",
        "rollout ",
        "score ",
        "learn ",
        "store ",
    ] {
        assert!(summary.lines().any(|line| line.starts_with(row)), "{row}:\n{summary}");
    }
    assert!(summary.contains("32 consumed, 0 pending"), "{summary}");
}

#[test]
fn answers_come_as_table_csv_and_json() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=2"]));
    let ask = |format: &str| {
        let query = "select step, count(*) as rows from consumed group by step order by step";
        let output = opd().args(["sql", &small.store(), query, "--format", format]).output().unwrap();
        succeeded(&output);
        text(&output.stdout)
    };
    assert_eq!(ask("csv"), "step,rows\n1,8\n2,8\n");
    let json: serde_json::Value = serde_json::from_str(&ask("json")).unwrap();
    assert_eq!(json, serde_json::json!([{"step": 1, "rows": 8}, {"step": 2, "rows": 8}]));
    let table = ask("table");
    assert!(table.contains("step") && table.contains("rows"), "{table}");
    // The past: before the first step nothing was consumed.
    let output = opd()
        .args(["sql", &small.store(), "select count(*) from consumed", "--at", "1", "--format", "csv"])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout).lines().last(), Some("0"));
}

#[test]
fn the_questions_that_the_demos_ask_have_answers() {
    let small = Small::new();
    succeeded(&small.run(&[]));
    for pipeline in ["arith", "smollm2"] {
        let path = arith().with_file_name(pipeline).join("questions.sql");
        let file = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = file.lines().collect();
        assert_eq!(lines.len(), 4, "{pipeline}: two questions, each a line of words and a line of SQL");
        for question in lines.chunks(2) {
            assert!(question[0].starts_with("-- ") && question[0].ends_with('?'), "{}", question[0]);
            small.sql(question[1]);
        }
    }
}
