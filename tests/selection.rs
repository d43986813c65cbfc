//! `learn.where`: a learner that takes the rows that meet a predicate.

use crate::support::{Small, succeeded, text};

#[test]
fn a_run_trains_on_what_meets_its_predicate_and_drops_the_rest() {
    for (staleness, condition) in [(0, "prompt_id % 3 <> 0"), (2, "prompt_id % 3 <> 0 and teacher_logprobs[1] < 0")] {
        let small = Small::new();
        let (staleness, selects) = (format!("learn.max_staleness={staleness}"), format!("learn.where={condition}"));
        let sets = [staleness.as_str(), &selects];
        succeeded(&small.run(&sets));
        assert_eq!(small.sql("select count(*), sum(rows) from steps"), ["4,32"]);
        let ended = "select r.prompt_id % 3 = 0 as rejected, d.reason, count(*) as n from rollouts r \
            left join dropped d on d.rollout_id = r.rollout_id left join consumed c on c.rollout_id = r.rollout_id \
            where c.step is not null or d.reason is not null group by 1, 2 order by 1, 2";
        let rows = small.sql(ended);
        let count = |of: &str| rows.iter().find_map(|row| row.strip_prefix(of)?.parse::<u64>().ok()).unwrap_or(0);
        assert_eq!(count("false,,"), 32, "{rows:?}");
        assert!(count("true,selection,") > 4, "{rows:?}");
        assert_eq!((count("true,,"), count("false,selection,")), (0, 0), "{rows:?}");
        assert_eq!(small.sql("select count(*) from dropped where reason = 'selection' and reissued"), ["0"]);
        // Each row ended once, and the step says by what it was chosen.
        let all = "select count(*) = (select count(*) from consumed) + (select count(*) from dropped) from rollouts";
        assert_eq!(small.sql(all), ["true"]);
        let recorded = format!(
            "select count(*) from commits where kind = 'step' and json like '%\"where\":\"{}%'",
            condition.split(' ').next().unwrap()
        );
        assert_eq!(small.sql(&recorded), ["4"]);
        // What the step's commit dropped stands in `steps`, what stood in the way of sampling has a commit of its own.
        let by_kind = "select c.kind, sum(1) from dropped d join commits c on c.seq = d.seq \
            where d.reason = 'selection' group by 1 order by 1";
        assert!(!small.sql(by_kind).is_empty());
    }
}

#[test]
fn a_run_that_is_stopped_goes_on_with_its_selection() {
    let (stopped, whole) = (Small::new(), Small::new());
    let selects = "learn.where=sample = 0 and unit % 2 = 0 or prompt_id > 8";
    succeeded(&whole.run(&[selects]));
    succeeded(&stopped.command("run", &[selects]).env("OPD_FAILPOINT", "learn.after_commit:2").output().unwrap());
    let digests = "select step, weights_digest from steps order by step";
    assert_eq!(stopped.sql(digests), whole.sql(digests));
    assert_eq!(stopped.sql("select count(*), count(distinct rollout_id) from consumed"), ["32,32"]);
}

#[test]
fn a_predicate_that_cannot_be_asked_is_refused_before_any_work() {
    let small = Small::new();
    for (set, says) in [
        ("learn.where=finsh = 'stop'", &["learn.where: there is no column `finsh`", "did you mean `finish`?"][..]),
        ("learn.where=prompt_id", &["learn.where: the predicate `prompt_id` is refused", "no truth"]),
        ("learn.where=random() < 0.5", &["`random` gives another value each time"]),
        ("learn.where=max(prompt_id) > 3", &["`max` is of many rows"]),
        ("learn.where=unit in (select unit from consumed)", &["it has a subquery"]),
        ("learn.where=cardinality(teacher_top_ids) > 1", &["`teacher_top_ids` has a list at each position"]),
    ] {
        for command in ["run", "learn"] {
            let mut program = small.command(command, &[set]);
            if command == "run" {
                program.arg("--dry-run");
            }
            let output = program.output().unwrap();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command} {set}: {said}");
            assert!(says.iter().all(|words| said.contains(words)), "{set} should say {says:?}: {said}");
        }
    }
    let waits = ["learn.where=sample = 0", "learn.when_stale=wait"];
    let said = text(&small.run(&waits).stderr);
    assert!(
        said.contains("when_stale is `wait` at learn.max_staleness = 0") && said.contains("max_staleness = 1"),
        "{said}"
    );
    assert!(!small.path("store").exists(), "nothing is written");
}
