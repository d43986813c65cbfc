//! `opd plan`: what other workers would make of a run.

use crate::support::{Small, opd, succeeded, text};

#[test]
fn a_plan_is_made_from_what_the_stages_of_a_run_took() {
    let small = Small::new();
    let plan = |args: &[&str]| opd().arg("plan").args(args).output().unwrap();
    let refused = |output: std::process::Output, says: &str| {
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(says), "{}", text(&output.stderr));
    };
    refused(plan(&[&small.store()]), "there is no run at");
    succeeded(&small.run(&[]));
    let output = plan(&[&small.store(), "--max-staleness=2", "--cores=2", "--csv"]);
    succeeded(&output);
    let lines: Vec<Vec<String>> =
        text(&output.stdout).lines().map(|line| line.split(',').map(String::from).collect()).collect();
    let column = |name: &str| lines[0].iter().position(|column| column == name).unwrap();
    let number = |line: &[String], name: &str| line[column(name)].parse::<f64>().unwrap();
    assert_eq!((number(&lines[1], "max_staleness"), number(&lines[1], "ratio")), (0.0, 1.0));
    assert_eq!(number(&lines[2], "max_staleness"), 2.0);
    assert!(number(&lines[2], "ratio") > 1.0, "what overlaps is faster: {lines:?}");
    assert!(lines[1..].iter().all(|line| number(line, "staleness_max") <= 2.0));
    let shown = plan(&["--stages", "3,1,2"]);
    succeeded(&shown);
    assert!(text(&shown.stdout).contains("rollout.workers = 2 and score.workers = 1 keep the learner busy"));
    refused(plan(&["--stages", "3,1"]), "--stages `3,1`: expected three numbers");
    refused(plan(&["--stages", "3,1,0"]), "the last above 0");
    refused(plan(&["--stages", "3,1,2", "--cores=0"]), "--cores is 0");
}
