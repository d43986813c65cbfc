//! Recorded rows of another run among each step's own: which, as what the log names them, and what is said where that is not possible.

use crate::support::{Small, in_bucket, opd, refused, succeeded, text};
use std::{collections::BTreeMap, path::Path, process::Output};

const DIGESTS: &str = "select step, weights_digest from steps order by step";
/// The parent's rows, in the order of training.
const ROWS: &str = "select step, rollout_id, epoch from consumed where origin is not null";

/// A run of four steps of eight rows in `parent`.
fn parent(small: &Small) {
    succeeded(&small.run(&[&store(small, "parent"), "eval.sets={}"]));
}

fn store(small: &Small, name: &str) -> String {
    format!("store.url={}", small.path(name).display())
}

/// `learn.replay` from `parent`.
fn replay(small: &Small, rest: &str) -> String {
    format!("learn.replay={{ from = \"{}\", {rest} }}", small.path("parent").display())
}

/// A run into `into` with a quarter of each step's rows from the rows of `parent` that `condition` selects.
fn mixed(small: &Small, into: &str, condition: &str, sets: &[&str]) -> std::process::Command {
    let replay = replay(small, &format!("share = 0.25, where = \"{condition}\""));
    small.command("run", &[&[store(small, into).as_str(), &replay, "eval.sets={}"], sets].concat())
}

fn ask(store: &Path, query: &str) -> Vec<String> {
    let output = opd().arg("sql").arg(store).args([query, "--format", "csv"]).output().unwrap();
    succeeded(&output);
    text(&output.stdout).lines().skip(1).map(str::to_string).collect()
}

/// Five or more, and fewer than the eight that four steps take: the pool is gone round.
const FEW: &str = "prompt_id < 5";

#[test]
fn a_quarter_of_each_step_is_the_parents_and_is_named_as_such() {
    let small = Small::new();
    parent(&small);
    let run = |into: &str, sets: &[&str]| {
        succeeded(&mixed(&small, into, FEW, sets).output().unwrap());
        small.path(into)
    };
    let (of, mix) = (small.path("parent"), run("mix", &[]));
    let per_step = "select step, rows, replayed_rows from steps order by step";
    assert_eq!(ask(&mix, per_step), ["1,8,2", "2,8,2", "3,8,2", "4,8,2"]);
    let by_origin = "select count(*), count(origin), count(staleness), count(epoch) from consumed";
    assert_eq!(ask(&mix, by_origin), ["32,8,24,8"]);
    let run_id = ask(&of, "select json from commits where kind = 'run'").remove(0);
    let origin = ask(&mix, "select distinct origin from consumed where staleness is null");
    assert!(origin.len() == 1 && run_id.contains(&origin[0]), "{origin:?}: {run_id}");
    // In a step the run's own rows come first, and the versions of the others are compared with nothing.
    assert_eq!(ask(&mix, "select count(*) from step_records where staleness is null"), ["8"]);
    assert_eq!(ask(&mix, "select max(staleness_max), min(staleness_mean) from steps"), ["0,0"]);
    let positions =
        "select count(*) > 0, count(distinct rollout_id) from tokens where step is not null and staleness is null";
    let pool = ask(&of, &format!("select rollout_id from scored where {FEW} order by 1"));
    assert!((5..8).contains(&pool.len()), "{pool:?}");
    assert_eq!(ask(&mix, positions), [format!("true,{}", pool.len())]);
    // Each of the parent's rows once before any a second time.
    let mut epochs: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in ask(&mix, "select epoch, rollout_id from consumed where epoch is not null order by 1, 2") {
        let (epoch, id) = line.split_once(',').unwrap();
        epochs.entry(epoch.parse().unwrap()).or_default().push(id.into());
    }
    assert_eq!(epochs.keys().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(epochs[&0], pool);
    assert!(epochs[&1].len() == 8 - pool.len() && epochs[&1].iter().all(|id| pool.contains(id)), "{epochs:?}");
    // Nothing was copied, and both stores are sound; the parent keeps what is read.
    let own = ask(&mix, "select count(*) from objects where kind = 'rollouts'");
    assert_eq!(own, ask(&mix, "select count(*) from commits where kind = 'rollouts'"));
    for store in [&mix, &of] {
        succeeded(&opd().arg("verify").arg(store).output().unwrap());
    }
    let pins = opd().arg("pin").arg(&of).output().unwrap();
    assert!(text(&pins.stdout).contains("replay-"), "{}", text(&pins.stdout));
    let status = opd().arg("status").arg(&mix).output().unwrap();
    let stands = text(&status.stdout);
    assert!(stands.contains("mixes        25.0 % of ") && stands.contains("where prompt_id < 5"), "{stands}");
    assert!(stands.contains("32 consumed (8 of them recorded by another run)"), "{stands}");

    // An export has the run's own rows, all of them; the parent's are exported from its store.
    let out = small.path("out").display().to_string();
    let export = opd().arg("export").arg(&mix).args([out.as_str(), "--tables", "rollouts,scores"]).output().unwrap();
    succeeded(&export);
    let shown = text(&export.stdout);
    let theirs =
        "select batch from rollouts where rollout_id in (select rollout_id from consumed where origin is not null)";
    for table in ["rollouts", "scores"] {
        let own = ask(&mix, &format!("select count(*) from {table} where batch not in ({theirs})")).remove(0);
        let rows = shown.lines().find_map(|line| line.strip_prefix(table)?.split_whitespace().next());
        assert_eq!(rows, Some(own.as_str()), "{table}: {shown}");
    }

    // The order is the seed's: how far is read ahead does not matter, and neither does a death at any point.
    for (into, sets) in [("narrow", &["store.prefetch=1"][..]), ("wide", &["store.prefetch=9", "rollout.workers=2"])] {
        let again = run(into, sets);
        assert_eq!(ask(&again, ROWS), ask(&mix, ROWS), "{into}");
        assert_eq!(ask(&again, DIGESTS), ask(&mix, DIGESTS), "{into}");
    }
    let failpoints = "learn.after_put:2,rollout.after_commit:2";
    let killed = mixed(&small, "killed", FEW, &[]).env("OPD_FAILPOINT", failpoints).output().unwrap();
    succeeded(&killed);
    assert!(text(&killed.stderr).contains("learn-0 died (signal 9)"), "{}", text(&killed.stderr));
    assert_eq!(ask(&small.path("killed"), ROWS), ask(&mix, ROWS));
    assert_eq!(ask(&small.path("killed"), DIGESTS), ask(&mix, DIGESTS));
    assert_eq!(ask(&small.path("killed"), "select count(*) from consumed"), ["32"]);
}

#[test]
fn a_share_is_exact_over_time_and_what_a_unit_has_over_waits_or_is_sampled_again() {
    let small = Small::new();
    parent(&small);
    // 2.4 rows a step; a learner without importance weights takes them as it takes stale ones.
    let replay = replay(&small, "share = 0.3");
    let estimator = "learn.estimator={ name = \"forward_kl\", top_k = 8 }";
    for (into, staleness, when) in [("fresh", 0, "drop"), ("drop", 2, "drop"), ("wait", 2, "wait")] {
        let (bound, when) = (format!("learn.max_staleness={staleness}"), format!("learn.when_stale={when}"));
        let output =
            small.run(&[&store(&small, into), &replay, estimator, &bound, &when, "learn.steps=5", "eval.sets={}"]);
        succeeded(&output);
        let mix = small.path(into);
        assert_eq!(ask(&mix, "select replayed_rows from steps order by step"), ["2", "3", "2", "3", "2"], "{into}");
        assert_eq!(
            ask(&mix, "select count(*), max(staleness) <= 2, count(distinct rollout_id) from consumed"),
            ["40,true,40"]
        );
        let ended = "select (select count(*) from consumed where origin is null) + (select count(*) from dropped)";
        let delivered =
            ask(&mix, "select count(*) from commits where kind = 'rollouts'")[0].parse::<u64>().unwrap() * 4;
        if into != "fresh" {
            assert_eq!(ask(&mix, ended), [delivered.to_string()], "{into}");
            assert_eq!(ask(&mix, "select count(*) from dropped where reason = 'stale'"), ["0"], "{into}");
        }
    }
}

#[test]
fn what_cannot_be_mixed_in_is_said_by_its_key_before_anything_is_written() {
    let small = Small::new();
    parent(&small);
    let gone = format!("learn.replay={{ from = \"{}\", share = 0.25 }}", small.path("gone").display());
    let of_itself = format!("learn.replay={{ from = \"{}\", share = 0.25 }}", small.path("none").display());
    let quarter = |rest: &str| replay(&small, &format!("share = 0.25{rest}"));
    let said = |sets: &[&str], says: &[&str]| {
        refused(&small.run(&[&[store(&small, "none").as_str(), "eval.sets={}"], sets].concat()), says);
        assert!(!small.path("none").join("log").exists(), "{says:?}");
    };
    said(&[&gone], &["learn.replay.from: there is no run at"]);
    said(&[&of_itself], &["learn.replay.from is", "the store of the run itself"]);
    for share in ["0.0", "1.0", "-0.5", "nan"] {
        let share = replay(&small, &format!("share = {share}"));
        said(&[&share], &["learn.replay.share is", "above 0, below 1"]);
    }
    said(
        &[&replay(&small, "share = 0.9")],
        &["learn.replay.share is 0.9 of learn.rows_per_step = 8", "no row of its own"],
    );
    said(&[&quarter(", where = \"prompt_id > 999\"")], &["learn.replay.where `prompt_id > 999` selects no row of"]);
    said(
        &[&quarter(", where = \"random() < 0.9\"")],
        &["learn.replay.where `random() < 0.9`: `random` gives another value each time"],
    );
    said(&[&quarter(", where = \"prompt > 1\"")], &["learn.replay.where `prompt > 1`", "prompt_id"]);
    said(&[&quarter(", where = \"prompt_id = 3\""), "learn.rows_per_step=32"], &["learn.replay: ", "a step takes 8"]);
    said(
        &[&quarter(""), "learn.when_stale=wait"],
        &["learn.when_stale is `wait` at learn.max_staleness = 0 with learn.replay"],
    );
    said(&[&quarter(""), "score.set=other"], &["learn.replay.from: ", "has no score set `other`", "it has `main`"]);
    let wide = "learn.estimator={ name = \"forward_kl\", top_k = 16 }";
    said(
        &[&quarter(""), wide, "score.top_k_max=16"],
        &["learn.replay.from: ", "reads 16 of `teacher_top_ids`", "keeps 8"],
    );
    // A replay holds no rows; a lost object, a later program's log, other tokens.
    let child = small.path("child").display().to_string();
    let mut program = opd();
    program.args(["replay", "--from"]).arg(small.path("parent")).args(["--into", &child]).arg(small.path("small.toml"));
    succeeded(&program.args(["--set", "learn.steps=1"]).output().unwrap());
    let of_child = format!("learn.replay={{ from = \"{child}\", share = 0.25 }}");
    said(&[&of_child], &["learn.replay.from: the run in", "is itself a replay"]);
    let key = ask(&small.path("parent"), "select key from objects where kind = 'scores' limit 1").remove(0);
    let object = small.path("parent").join(&key);
    std::fs::rename(&object, small.path("aside")).unwrap();
    said(&[&quarter("")], &["learn.replay.from: ", "lost 1 of the 16 objects", &key, "learn.replay.where"]);
    std::fs::rename(small.path("aside"), &object).unwrap();
    let dry = small.command("run", &[&store(&small, "none"), &gone]).arg("--dry-run").output().unwrap();
    refused(&dry, &["learn.replay.from: there is no run at"]);
    for model in ["student", "teacher"] {
        let path = small.path(model).join("tokenizer.json");
        let swapped = std::fs::read_to_string(&path).unwrap();
        let mut tokenizer: serde_json::Value = serde_json::from_str(&swapped).unwrap();
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let (one, two) = (vocabulary["1"].clone(), vocabulary["2"].clone());
        vocabulary.insert("1".into(), two);
        vocabulary.insert("2".into(), one);
        std::fs::write(&path, tokenizer.to_string()).unwrap();
    }
    said(&[&quarter("")], &["learn.replay.from: student.model is", "with the tokenizer", "both need one token map"]);
}

#[test]
fn a_run_that_mixes_goes_on_as_it_began_and_is_replayed_only_as_far_as_it_can_be() {
    let small = Small::new();
    parent(&small);
    let quarter = replay(&small, "share = 0.25");
    let (into, whole) = (store(&small, "mix"), [quarter.as_str(), "eval.sets={}"]);
    let run = |sets: &[&str]| small.run(&[&[into.as_str()], sets].concat());
    // A damaged batch ends the learner by name, and a whole copy lets it go on with the same rows.
    let reference = small.run(&[&[store(&small, "reference").as_str()], &whole[..]].concat());
    succeeded(&reference);
    let batch =
        ask(&small.path("reference"), "select batch from consumed where step = 3 and origin is not null").remove(0);
    let key = ask(
        &small.path("parent"),
        &format!("select key from objects where kind = 'rollouts' and key like '%{batch}%'"),
    );
    let object = small.path("parent").join(&key[0]);
    let bytes = std::fs::read(&object).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 0x40;
    std::fs::write(&object, &damaged).unwrap();
    let output = run(&whole);
    refused(
        &output,
        &["learn.replay: step ", &format!("takes rows of batch `{batch}`"), "is damaged", "learn-0 cannot go on"],
    );
    std::fs::write(&object, &bytes).unwrap();
    // Other settings are another run's.
    refused(&run(&["eval.sets={}"]), &["learn.replay", "a share of 0.25", "none"]);
    refused(&run(&[&replay(&small, "share = 0.5")]), &["learn.replay", "a share of 0.25", "a share of 0.5"]);
    refused(
        &run(&[&replay(&small, "share = 0.25, where = \"true\"")]),
        &["learn.replay", "a share of 0.25 where true"],
    );
    // The parent may be moved, but not be another run.
    std::fs::rename(small.path("parent"), small.path("moved")).unwrap();
    succeeded(&small.run(&[&store(&small, "parent"), "seed=9", "learn.steps=8", "eval.sets={}"]));
    refused(&run(&whole), &["learn.replay.from is", "this run was begun with"]);
    let moved = format!("learn.replay={{ from = \"{}\", share = 0.25 }}", small.path("moved").display());
    succeeded(&run(&[&moved, "eval.sets={}"]));
    assert_eq!(ask(&small.path("mix"), DIGESTS), ask(&small.path("reference"), DIGESTS));
    assert_eq!(ask(&small.path("mix"), ROWS), ask(&small.path("reference"), ROWS));

    // A run that has ended needs its parent no more: what is left is to evaluate it.
    std::fs::rename(small.path("moved"), small.path("away")).unwrap();
    assert_eq!(ask(&small.path("mix"), "select count(*) from evals"), ["0"]);
    succeeded(&run(&[&moved]));
    assert_ne!(ask(&small.path("mix"), "select count(*) from evals"), ["0"]);
    std::fs::rename(small.path("away"), small.path("moved")).unwrap();

    // Its steps are not of its own rows alone; those that it sampled can be trained on like any.
    let again = |args: &[&str], sets: &[&str]| -> Output {
        let mut program = opd();
        program.args(["replay", "--from"]).arg(small.path("mix")).arg("--into").arg(small.path("again")).args(args);
        program.arg(small.path("small.toml")).args(sets.iter().flat_map(|set| ["--set", set])).output().unwrap()
    };
    refused(&again(&[], &[]), &["--from: the steps of the run in", "(learn.replay)", "--order seeded"]);
    assert!(!small.path("again").join("log").exists());
    succeeded(&again(&["--order", "seeded"], &[]));
    assert_eq!(ask(&small.path("again"), "select step, rows from steps order by 1"), ["1,8", "2,8", "3,8"]);
}

#[test]
fn rows_from_a_bucket_are_mixed_into_a_local_run() {
    let Some(bucket) = in_bucket() else { return };
    succeeded(&bucket.run(&["eval.sets={}"]));
    let replay = format!("learn.replay={{ from = \"{}\", share = 0.25 }}", bucket.store());
    succeeded(&bucket.run(&[&store(&bucket, "mix"), &replay, "eval.sets={}"]));
    assert_eq!(ask(&bucket.path("mix"), "select sum(rows), sum(replayed_rows) from steps"), ["32,8"]);
}
