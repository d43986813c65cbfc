//! Recorded rows, trained on again: bit for bit where nothing is changed, and said why not where something is.

use crate::support::{Small, in_bucket, opd, refused, succeeded, text};
use std::{path::Path, process::Output};

const DIGESTS: &str = "select step, weights_digest from steps order by step";
const ROWS: &str = "select step, rollout_id, staleness from consumed";

/// A run of four steps whose rows are of staleness 0 and 1, with all its weights kept.
fn parent() -> Small {
    let small = Small::new();
    succeeded(&small.run(&["learn.max_staleness=1", "score.codec=fast"]));
    small
}

/// `opd replay --from STORE --into STORE/../INTO ARGS small.toml --set ...`
fn replay(small: &Small, into: &str, args: &[&str], sets: &[&str]) -> Output {
    command(small, into, args, sets).output().unwrap()
}

fn command(small: &Small, into: &str, args: &[&str], sets: &[&str]) -> std::process::Command {
    let mut program = opd();
    program.args(["replay", "--from", &small.store(), "--into"]).arg(small.path(into)).args(args);
    program.arg(small.path("small.toml")).args(["--set", "score.codec=fast", "--set", "learn.max_staleness=1"]);
    program.args(sets.iter().flat_map(|set| ["--set", set]));
    program
}

fn ask(store: &Path, query: &str) -> Vec<String> {
    let output = opd().arg("sql").arg(store).args([query, "--format", "csv"]).output().unwrap();
    succeeded(&output);
    text(&output.stdout).lines().skip(1).map(str::to_string).collect()
}

#[test]
fn with_nothing_changed_every_step_gives_the_parents_weights() {
    let small = parent();
    let output = replay(&small, "again", &[], &[]);
    succeeded(&output);
    assert_eq!(text(&output.stdout), "4 steps, every weights digest equal to the parent's\n");
    let child = small.path("again");
    assert_eq!(ask(&child, DIGESTS), small.sql(DIGESTS));
    assert_eq!(ask(&child, ROWS), small.sql(ROWS));
    // Nothing was copied, and what the child reads it finds with its parent.
    assert!(!child.join("rollouts").exists() && !child.join("scores").exists());
    let run_id = &small.sql("select json from commits where kind = 'run'")[0];
    let origin = ask(&child, "select distinct origin from consumed");
    assert!(origin.len() == 1 && run_id.contains(&origin[0]), "{origin:?}: {run_id}");
    assert_eq!(small.sql("select count(*) from consumed where origin is not null"), ["0"]);
    let tokens = "select step, staleness, rollout_id, position, token_id, round(teacher_logprob, 5), round(learner_logprob, 5) \
                  from tokens where step is not null order by 1, 3, 4";
    assert_eq!(ask(&child, tokens), small.sql(tokens));
    let joined = "select count(*) from consumed c join rollouts r on r.rollout_id = c.rollout_id";
    assert_eq!(ask(&child, joined), ["32"]);
    // Once more: there is nothing left to do.
    let again = replay(&small, "again", &[], &[]);
    succeeded(&again);
    assert_eq!(again.stdout, output.stdout);

    // It is a run like any other: it stands, it is evaluated, it is exported.
    let status = opd().arg("status").arg(&child).output().unwrap();
    succeeded(&status);
    let stands = text(&status.stdout);
    assert!(stands.contains(&format!("replays      {} (", small.store())), "{stands}");
    assert!(stands.contains("32 consumed, 0 pending"), "{stands}");
    let mut eval = opd();
    eval.arg("eval").arg(small.path("small.toml")).arg("--set").arg(format!("store.url={}", child.display()));
    succeeded(&eval.args(["--set", "score.codec=fast", "--set", "learn.max_staleness=1"]).output().unwrap());
    let evals = "select policy_version, accuracy, sampled_accuracy from evals order by 1";
    assert_eq!(ask(&child, evals), small.sql(evals));
    for store in [&child, &small.path("store")] {
        succeeded(&opd().arg("verify").arg(store).output().unwrap());
    }
    let pins = opd().arg("pin").arg(small.path("store")).output().unwrap();
    assert!(text(&pins.stdout).contains("replay-"), "{}", text(&pins.stdout));
    let mut export = opd();
    succeeded(&export.arg("export-policy").arg(&child).arg("4").arg(small.path("exported")).output().unwrap());

    // No other job takes it for one of its own.
    for job in ["rollout", "learn", "run"] {
        let mut program = opd();
        program.arg(job).arg(small.path("small.toml")).arg("--set").arg(format!("store.url={}", child.display()));
        let output = program.args(["--set", "score.codec=fast", "--set", "learn.max_staleness=1"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{job}: {}", text(&output.stderr));
        let said = text(&output.stderr);
        assert!(said.contains("replay") || said.contains("its parent is run"), "{job}: {said}");
    }

    // Without its parent the log still says what it trained on; the parent's columns are missing, and that is said.
    std::fs::rename(small.path("store"), small.path("moved")).unwrap();
    assert_eq!(ask(&child, "select count(*), max(staleness) from consumed")[0].split(',').next(), Some("32"));
    let output =
        opd().arg("sql").arg(&child).args(["select count(*) as n from tokens", "--format", "csv"]).output().unwrap();
    succeeded(&output);
    assert_eq!(text(&output.stdout), "n\n0\n");
    assert!(text(&output.stderr).contains("which cannot be read"), "{}", text(&output.stderr));
}

#[test]
fn another_estimator_gives_other_weights_from_the_same_rows_and_is_named() {
    let small = parent();
    let sets = ["learn.estimator={ name = \"forward_kl\", top_k = 8 }", "learn.optimizer.learning_rate=2e-3"];
    let output = replay(&small, "forward", &[], &sets);
    succeeded(&output);
    let said = text(&output.stdout);
    for words in [
        "4 steps, weights differ from the parent's from step 1 on\n",
        "  learn.estimator.name: \"reverse_kl_mc\" in the parent, \"forward_kl\" here\n",
        "  learn.optimizer.learning_rate: 0.01 in the parent, 0.002 here\n",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("learn.threads") && !said.contains("rows:"), "{said}");
    let child = small.path("forward");
    assert_eq!(ask(&child, ROWS), small.sql(ROWS));
    let (ours, theirs) = (ask(&child, DIGESTS), small.sql(DIGESTS));
    assert!(ours.iter().zip(&theirs).all(|(a, b)| a != b), "{ours:?}");
    // Fewer steps are the first of them.
    let output = replay(&small, "short", &["--at", "1000000"], &["learn.steps=2"]);
    refused(&output, &["--from", "the log ends at commit"]);
    let output = replay(&small, "short", &[], &["learn.steps=2"]);
    succeeded(&output);
    assert_eq!(text(&output.stdout), "2 steps (of 4), every weights digest equal to the parent's\n");
}

#[test]
fn an_order_is_its_seeds_and_a_condition_leaves_the_rows_it_names() {
    let small = parent();
    let of = |into: &str, args: &[&str], sets: &[&str]| {
        let output = replay(&small, into, args, sets);
        succeeded(&output);
        text(&output.stdout) + &text(&output.stderr)
    };
    let seeded = ["--order", "seeded"];
    of("a", &seeded, &["store.prefetch=1"]);
    of("b", &seeded, &["store.prefetch=7"]);
    let said = of("c", &seeded, &["seed=4"]);
    assert!(said.contains("rows: step 1 trained on 8 rows in the parent, on other 8 here"), "{said}");
    let (a, b, c) = (small.path("a"), small.path("b"), small.path("c"));
    assert_eq!(ask(&a, ROWS), ask(&b, ROWS));
    assert_eq!(ask(&a, DIGESTS), ask(&b, DIGESTS));
    assert_ne!(ask(&a, ROWS), ask(&c, ROWS));
    for store in [&a, &c] {
        assert_eq!(ask(store, "select count(*), count(distinct rollout_id) from consumed"), ["32,32"]);
    }
    // A row that is taken before the learner came to its version has no staleness, wherever it is asked.
    let later = ask(&a, "select count(*) from consumed where policy_version > step - 1");
    assert_ne!(later, ["0"]);
    assert_eq!(ask(&a, "select count(*) from consumed where staleness is null"), later);
    assert_eq!(ask(&a, "select count(*) from step_records where staleness is null"), later);
    assert_eq!(
        ask(&a, "select count(distinct rollout_id) from tokens where step is not null and staleness is null"),
        later
    );
    let mean = ask(&a, "select round(avg(staleness), 2) from consumed").remove(0);
    let of_steps =
        "select round(sum(numerator) / sum(denominator), 2) from metrics where name = 'sample/staleness_mean'";
    assert_eq!(ask(&a, of_steps), [mean.as_str()]);
    let status = text(&opd().arg("status").arg(&a).output().unwrap().stdout);
    let mean: f64 = mean.parse().unwrap();
    assert!(status.contains(&format!("mean {mean:.2}, max ")), "{mean}: {status}");
    // Of prompts with even numbers, in the recorded order, as many whole steps as there are.
    let condition = "prompt_id % 2 = 0";
    let count: u64 = small.sql(&format!("select count(*) from scored where {condition}"))[0].parse().unwrap();
    let said = of("even", &["--where", condition], &[]);
    let steps = count / 8;
    assert!((1..4).contains(&steps), "{count}");
    assert!(said.contains(&format!("rows for {steps} steps, learn.steps is 4")), "{said}");
    let expected = small.sql(&format!(
        "select c.rollout_id from consumed c join rollouts r on r.rollout_id = c.rollout_id where r.{condition} \
         order by c.step, c.unit, c.row limit {}",
        8 * steps
    ));
    assert_eq!(ask(&small.path("even"), "select rollout_id from consumed order by step, unit, \"row\""), expected);
    // Another number of rows a step cuts them anew, no multiple of a unit as well; how the pipeline would pack rollouts means nothing.
    let ppo = "learn.estimator={ name = \"top_k_ppo\", top_k = 4 }";
    of("narrow", &[], &["learn.rows_per_step=15", "rollout.codec=compact", ppo]);
    assert_eq!(ask(&small.path("narrow"), "select step, rows from steps order by 1"), ["1,15", "2,15"]);
}

#[test]
fn a_replay_that_is_killed_goes_on_to_the_same_weights() {
    let small = parent();
    for point in ["before_put", "after_put", "after_commit"] {
        let into = format!("killed {point}");
        let failpoint = format!("learn.{point}:2");
        let mut deaths = 0;
        loop {
            let output = command(&small, &into, &[], &[]).env("OPD_FAILPOINT", &failpoint).output().unwrap();
            if output.status.success() {
                assert_eq!(text(&output.stdout), "4 steps, every weights digest equal to the parent's\n", "{point}");
                break;
            }
            assert_eq!(output.status.code(), None, "it was killed: {}", text(&output.stderr));
            deaths += 1;
            assert!(deaths < 12, "{point}: it makes no headway");
        }
        assert!(deaths > 0, "{point}");
        let child = small.path(&into);
        assert_eq!(ask(&child, DIGESTS), small.sql(DIGESTS), "{point}");
        assert_eq!(ask(&child, "select count(*), count(distinct rollout_id) from consumed"), ["32,32"], "{point}");
    }
    // One that goes on is asked for the same rows.
    let output = replay(&small, "killed after_put", &["--order", "seeded"], &[]);
    refused(&output, &["its parent is run", "in recorded order", "in seeded order"]);
}

#[test]
fn a_replay_goes_on_with_the_rows_it_began_with_or_not_at_all() {
    let small = parent();
    let all = ["--where", "prompt_id >= 0"];
    let killed = command(&small, "killed", &all, &[]).env("OPD_FAILPOINT", "learn.after_commit:3").output().unwrap();
    assert_eq!(killed.status.code(), None, "{}", text(&killed.stderr));
    let made = ask(&small.path("killed"), DIGESTS);
    assert!((1..4).contains(&made.len()), "{made:?}");
    // Without the pin, retention gives up what the first steps were of.
    let pins = text(&opd().arg("pin").arg(small.path("store")).output().unwrap().stdout);
    let pin = pins.split_whitespace().find(|word| word.starts_with("replay-")).unwrap();
    succeeded(&opd().arg("unpin").arg(small.path("store")).arg(pin).output().unwrap());
    succeeded(&opd().arg("retain").arg(small.path("store")).args(["--keep-versions", "3"]).output().unwrap());
    let output = replay(&small, "killed", &all, &[]);
    let by = " by --where `prompt_id >= 0`";
    refused(&output, &["step 1 took row ", "; now it would take row ", by, "begin anew in another store"]);
    assert_eq!(ask(&small.path("killed"), DIGESTS), made);
    // What the steps took is there until gc comes, and is not trained on any more; what is kept is shuffled without it.
    refused(&replay(&small, "none", &[], &[]), &["--from: ", "has given up ", "batches that are read: `u0", "--where"]);
    succeeded(&replay(&small, "kept", &["--order", "seeded"], &["learn.steps=1"]));
    assert_eq!(ask(&small.path("kept"), "select count(*) > 0, min(policy_version) > 0 from consumed"), ["true,true"]);
}

#[test]
fn rows_that_are_damaged_or_lost_are_named() {
    let small = parent();
    let key = small.sql("select o.key from objects o where o.kind = 'rollouts' order by o.seq desc limit 1").remove(0);
    let path = small.path("store").join(&key);
    let whole = std::fs::read(&path).unwrap();
    let step = small.sql(&format!(
        "select min(c.step) from consumed c join objects o on o.key like '%' || c.batch || '%' where o.key = '{key}'"
    ));
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&path, &bytes).unwrap();
    let output = replay(&small, "tampered", &[], &[]);
    refused(
        &output,
        &[&format!("step {} cannot be replayed", step[0]), &key, "is damaged: expected sha256:", "found sha256:"],
    );
    // What came before it stands, and a whole copy lets it go on.
    std::fs::write(&path, &whole).unwrap();
    let output = replay(&small, "tampered", &[], &[]);
    succeeded(&output);
    assert_eq!(text(&output.stdout), "4 steps, every weights digest equal to the parent's\n");
    // A lost object is found before any step, and so is one of another length.
    for bytes in [None, Some(&whole[..whole.len() - 1])] {
        match bytes {
            None => std::fs::remove_file(&path).unwrap(),
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
        }
        let output = replay(&small, "lost", &[], &[]);
        refused(&output, &["lost 1 of the 16 objects", &key, "bytes"]);
        assert!(!small.path("lost").join("log").exists(), "nothing is written");
    }
}

#[test]
fn what_cannot_be_replayed_is_said_before_anything_is_written() {
    let small = parent();
    let estimator = "learn.estimator={ name = \"forward_kl_mc\", draws = 2, from = \"teacher\" }";
    let many = "learn.estimator={ name = \"forward_kl\", top_k = 64 }";
    for (args, sets, says) in [
        (&["--where", "prompt_id > 999"][..], &[][..], &["selects no row", "hint:"][..]),
        (&["--where", "prompt > 1"], &[], &["--where `prompt > 1`", "prompt_id"]),
        (&["--where", "prompt_id = 3"], &[], &["leaves", "a step takes 8"]),
        (
            &["--order", "seeded"],
            &["learn.where=sample = 0"],
            &["learn.where is `sample = 0`", "--order seeded takes every scored row", "--where"],
        ),
        (&["--where", "random() < 0.9"], &[], &["--where `random() < 0.9`: `random` gives another value each time"]),
        (&[], &[estimator], &["reads 2 of `teacher_draw_ids`", "keeps 0"]),
        (&[], &[many], &["reads 64 of `teacher_top_ids`", "keeps 8"]),
        (&[], &["score.set=other"], &["has no score set `other`", "it has `main`"]),
        (&["--at", "3"], &[], &["has no steps up to commit 3", "--order seeded"]),
        (&["--order", "backwards"], &[], &["invalid value 'backwards'"]),
    ] {
        let output = replay(&small, "none", args, sets);
        refused(&output, says);
        assert!(!small.path("none").exists(), "{says:?}");
    }
    // A parent that is not there, that is the child itself, that is a replay, or of a later program.
    let mut gone = opd();
    gone.args(["replay", "--from"]).arg(small.path("gone")).arg("--into").arg(small.path("none"));
    refused(&gone.arg(small.path("small.toml")).output().unwrap(), &["--from: there is no run at"]);
    refused(&replay(&small, "store", &[], &[]), &["its parent is none"]);
    succeeded(&replay(&small, "child", &[], &["learn.steps=1"]));
    let mut of_child = opd();
    of_child.args(["replay", "--from"]).arg(small.path("child")).arg("--into").arg(small.path("none"));
    let output = of_child.arg(small.path("small.toml")).output().unwrap();
    refused(&output, &["is itself a replay", &format!("--from {}", small.store())]);
    let last = small.sql("select max(seq) from commits")[0].parse::<u64>().unwrap() + 1;
    let newer = format!("{{\"format\":999,\"seq\":{last},\"id\":\"x\",\"kind\":\"dream\"}}");
    std::fs::write(small.path(&format!("store/log/{last:020}.json")), newer).unwrap();
    refused(&replay(&small, "none", &[], &[]), &["--from", "has format 999", "use a newer `opd`"]);
    assert!(!small.path("none").exists());
}

#[test]
fn an_estimator_is_evaluated_on_recorded_steps_as_the_learner_saw_them() {
    let small = parent();
    let evaluate = |args: &[&str], sets: &[&str]| {
        let mut program = opd();
        program.args(["replay", "--evaluate", "--from", &small.store(), "--format", "csv"]).args(args);
        program.arg(small.path("small.toml")).args(["--set", "score.codec=fast", "--set", "learn.max_staleness=1"]);
        program.args(sets.iter().flat_map(|set| ["--set", set])).output().unwrap()
    };
    let numbers = |lines: &[String]| -> Vec<Vec<f64>> {
        lines.iter().map(|line| line.split(',').map(|number| number.parse().unwrap()).collect()).collect()
    };
    let columns =
        "select step, step - 1, rows, loss, reverse_kl, forward_kl, is_ess, grad_norm from steps order by step";
    let recorded = numbers(&small.sql(columns));
    let output = evaluate(&[], &[]);
    succeeded(&output);
    let lines: Vec<String> = text(&output.stdout).lines().map(str::to_string).collect();
    assert_eq!(lines[0], "step,policy_version,rows,loss,reverse_kl,forward_kl,ess,grad_norm");
    let found = numbers(&lines[1..]);
    assert_eq!(found.len(), 4);
    for (found, recorded) in found.iter().flatten().zip(recorded.iter().flatten()) {
        assert!((found - recorded).abs() <= 1e-9 * recorded.abs(), "{found} {recorded}");
    }
    // Another estimator on the same weights and rows: another loss, the same divergences.
    let output = evaluate(&["--steps", "3"], &["learn.estimator={ name = \"forward_kl\", top_k = 8 }"]);
    succeeded(&output);
    let found = numbers(&[text(&output.stdout).lines().nth(1).unwrap().to_string()]);
    assert_eq!(found[0][..3], recorded[2][..3]);
    assert!((found[0][3] - recorded[2][3]).abs() > 1e-6, "{found:?}");
    assert!((found[0][5] - recorded[2][5]).abs() < 1e-6, "{found:?} {recorded:?}");
    assert_eq!(small.sql("select count(*) from steps"), ["4"], "nothing was trained");
    // Of each step the rows that meet a condition, with the weights from before that step; another cut of the pipeline means nothing.
    let condition = "rollout_id in (select rollout_id from consumed where step in (2, 3)) and prompt_id % 3 > 0";
    let counted = small.sql(
        "select step, step - 1, count(*) from consumed c join rollouts r using (rollout_id) \
         where step in (2, 3) and prompt_id % 3 > 0 group by 1 order by 1",
    );
    assert_eq!(counted.len(), 2);
    let output = evaluate(&["--where", condition], &["learn.rows_per_step=4"]);
    succeeded(&output);
    let found: Vec<String> = text(&output.stdout)
        .lines()
        .skip(1)
        .map(|line| line.split(',').take(3).collect::<Vec<_>>().join(","))
        .collect();
    assert_eq!(found, counted);
    assert!(
        text(&output.stderr).contains("left out: 2 steps of which --where leaves no row"),
        "{}",
        text(&output.stderr)
    );
    let whole = evaluate(&["--where", "true"], &["learn.rows_per_step=4"]);
    assert_eq!(whole.stdout, evaluate(&[], &[]).stdout);
    refused(&evaluate(&["--where", condition, "--steps", "1"], &[]), &["--where leaves no row of the steps 1 to 1"]);
    refused(&evaluate(&["--order", "seeded"], &[]), &["--evaluate is of recorded steps", "--order is seeded"]);
    refused(&evaluate(&["--steps", "9"], &[]), &["--steps begins with 9", "rows for 4 steps"]);
    refused(&evaluate(&["--steps", "0..4"], &[]), &["--steps is `0..4`", "hint:"]);
}

#[test]
fn weights_that_are_not_kept_are_said_with_those_that_are() {
    let small = Small::new();
    // Too few for eight to be given up at once, were they not so many steps.
    succeeded(&small.run(&["learn.steps=12", "learn.keep_policies=1", "eval.sets={}"]));
    let mut program = opd();
    program.args(["replay", "--evaluate", "--from", &small.store(), "--steps", "3"]);
    let output = program.arg(small.path("small.toml")).args(["--set", "learn.steps=12"]).output().unwrap();
    refused(&output, &["keeps no weights from before the steps 3 to 3", "weights are kept from before `1`"]);
}

#[test]
fn a_bucket_is_replayed_into_a_folder_and_pinned_by_whoever_may_write_there() {
    let Some(bucket) = in_bucket() else { return };
    let sets = ["learn.max_staleness=1", "score.codec=fast", "eval.sets={}"];
    succeeded(&bucket.run(&sets));
    let pins = || text(&opd().args(["pin", &bucket.store()]).output().unwrap().stdout);
    let reader = |name: &str| std::env::var(name).unwrap();
    for (into, may_write) in [("read", false), ("written", true)] {
        let mut program = command(&bucket, into, &[], &["eval.sets={}"]);
        if !may_write {
            program.env("AWS_ACCESS_KEY_ID", reader("OPD_TEST_S3_READER_KEY_ID"));
            program.env("AWS_SECRET_ACCESS_KEY", reader("OPD_TEST_S3_READER_SECRET"));
        }
        let output = program.output().unwrap();
        succeeded(&output);
        assert_eq!(text(&output.stdout), "4 steps, every weights digest equal to the parent's\n");
        assert_eq!(ask(&bucket.path(into), DIGESTS), bucket.sql(DIGESTS));
        let said = text(&output.stderr);
        assert_eq!(said.contains("is not pinned: "), !may_write, "{said}");
        assert_eq!(said.contains("can pin it with `opd pin`"), !may_write, "{said}");
        assert_eq!(pins().contains("replay-"), may_write, "{}", pins());
    }
}
