//! `opd compact`: a score set once more in fewer bytes, with the same rows; taken up where it was left, and refused where it gains
//! nothing.

use crate::support::{Small, opd, succeeded, text};
use std::process::Output;

fn small() -> Small {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=3", "score.draws=3", "eval.sets={}"]));
    small
}

fn compact(small: &Small, args: &[&str]) -> Output {
    opd().arg("compact").arg(small.store()).args(args).output().unwrap()
}

/// Rows with the identity and what must not change, of a score set.
fn rows(small: &Small, set: &str) -> Vec<String> {
    small.sql(&format!(
        "select rollout_id, batch, \"row\", array_to_string(teacher_logprobs, ' '), array_to_string(array_sort(\
         flatten(draw_teacher_logprobs)), ' ') from scored_in('{set}') order by batch, \"row\""
    ))
}

#[test]
fn a_finished_run_gets_a_smaller_score_set_beside_its_own() {
    let small = small();
    let (before, batches) = (rows(&small, "main"), small.sql("select count(*) from scores"));
    let output = compact(&small, &["--codec", "compact", "--set", "k4", "--top-k", "4", "--draws", "2"]);
    succeeded(&output);
    let said = text(&output.stdout);
    assert!(said.starts_with("k4: ") && said.contains("batches of main"), "{said}");
    assert!(said.contains("bytes an entry") && said.contains("nats a position"), "{said}");
    assert_eq!(rows(&small, "k4"), before);

    // Fewer entries, the first of those that were there; the default is the run's own as before.
    let cut = small.sql(
        "with a as (select rollout_id, position, teacher_top_ids as ids, teacher_draw_counts as draws from tokens), \
         b as (select rollout_id, position, teacher_top_ids as ids, teacher_draw_counts as draws from tokens_in('k4')) \
         select count(*) = (select count(*) from a), bool_and(array_slice(a.ids, 1, 4) = b.ids), max(array_length(a.ids)) \
         from a join b on a.rollout_id = b.rollout_id and a.position = b.position",
    );
    assert_eq!(cut, ["true,true,8"]);
    let sets = small.sql(
        "select score_set, parent, codec, top_k_max, teacher_draws, batches = (select count(*) from rollouts where \"row\" = 0), \
         codec_kl < 1e-4 from score_sets order by score_set",
    );
    assert_eq!(sets, ["k4,main,compact,4,2,true,true", "main,,plain,8,3,true,"]);
    let objects =
        small.sql("select score_set, codec, count(*) > 0 from objects where kind = 'scores' group by 1, 2 order by 1");
    assert_eq!(objects, ["k4,compact,true", "main,plain,true"]);
    assert_eq!(small.sql("select count(*) from scores where score_set = 'main'"), batches);

    // Again it is there already. A program that was killed in between goes on: its last commits were never written.
    let commits = || small.sql("select count(*) from commits");
    let whole = commits();
    assert_eq!(
        text(&compact(&small, &["--codec", "compact", "--set", "k4", "--top-k", "4", "--draws", "2"]).stdout),
        said
    );
    assert_eq!(commits(), whole);
    let log = std::path::PathBuf::from(small.store()).join("log");
    let mut entries: Vec<_> = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.retain(|path| path.extension().is_some_and(|it| it == "json"));
    entries.sort();
    for entry in entries.iter().rev().take(2) {
        std::fs::remove_file(entry).unwrap();
    }
    let again = compact(&small, &["--codec", "compact", "--set", "k4", "--top-k", "4", "--draws", "2"]);
    succeeded(&again);
    assert_eq!(text(&again.stdout), said);
    assert_eq!((commits(), rows(&small, "k4")), (whole, before));

    // Rounded once more, which is said.
    let twice = compact(&small, &["--codec", "compact", "--set", "k2", "--from", "k4", "--top-k", "2"]);
    succeeded(&twice);
    assert!(text(&twice.stderr).contains("the errors of both add up"), "{}", text(&twice.stderr));

    for (args, says) in [
        (
            &["--codec", "lossless", "--set", "wide", "--from", "k4"][..],
            &["`k4` is `compact` already", "gains nothing"][..],
        ),
        (&["--codec", "fast", "--set", "wide", "--from", "k4"], &["`k4` is `compact` already"]),
        (&["--codec", "compact", "--set", "k4", "--top-k", "3"], &["`k4` is there", "top-k 4", "asked for", "top-k 3"]),
        (&["--codec", "compact", "--set", "main"], &["`main` is a score set that is there"]),
        (&["--codec", "compact", "--set", "a", "--from", "mian"], &["no such score set", "hint: it has", "k4", "main"]),
        (&["--codec", "compact", "--set", "a", "--top-k", "9"], &["--top-k 9", "keeps 8", "from 1 to 8"]),
        (&["--codec", "compact", "--set", "a", "--draws", "4"], &["--draws 4", "keeps 3 draws of the teacher"]),
        (&["--codec", "plain", "--set", "a"], &["would hold what `main` does", "another --codec"]),
        (&["--codec", "plain", "--set", "a/b"], &["--set `a/b`", "letters"]),
        (&["--codec", "zip", "--set", "a"], &["zip", "plain, lossless, fast, compact"]),
    ] {
        let output = compact(&small, args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(says.iter().all(|words| said.contains(words)), "{args:?} should say {says:?}: {said}");
    }
    let output = opd().args(["sql", &small.store(), "select * from tokens_in('mian')"]).output().unwrap();
    assert!(
        text(&output.stderr).contains("no score set `mian`\nhint: did you mean `main`?"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_batch_that_is_damaged_is_left_out_and_told() {
    let small = small();
    let object = small.sql("select key from objects where kind = 'scores' order by seq limit 1").remove(0);
    let path = std::path::PathBuf::from(small.store()).join(object);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let output = compact(&small, &["--codec", "fast", "--set", "fast"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("is left out") && said.contains("1 of ") && said.contains("cannot be read"), "{said}");
    std::fs::write(&path, whole).unwrap();
    succeeded(&compact(&small, &["--codec", "fast", "--set", "fast"]));
    assert_eq!(rows(&small, "fast"), rows(&small, "main"));
}

#[test]
fn batches_that_were_given_up_are_passed_over() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=6", "learn.keep_policies=100", "eval.sets={}"]));
    let all: u64 = small.sql("select count(*) from (select distinct batch from rollouts)")[0].parse().unwrap();
    let said_by = |args: &[&str]| {
        let output = opd().arg(args[0]).arg(small.store()).args(&args[1..]).output().unwrap();
        succeeded(&output);
        text(&output.stdout) + &text(&output.stderr)
    };
    said_by(&["retain", "--keep-versions", "2"]);
    let kept: u64 = small.sql("select count(*) from (select distinct batch from rollouts)")[0].parse().unwrap();
    assert!(0 < kept && kept < all, "{kept} of {all}");
    // What was given up still lies there at first; later it does not.
    for (set, other) in [("lying", "anew.lying"), ("deleted", "anew.deleted")] {
        let said = said_by(&["compact", "--codec", "compact", "--set", set]);
        assert!(said.contains(&format!("{set}: {kept} batches of main")) && !said.contains("left out"), "{said}");
        assert_eq!(rows(&small, set), rows(&small, "main"));
        let teacher = small.path("teacher");
        let said = said_by(&["score", "--set", other, "--teacher", teacher.to_str().unwrap()]);
        let all_of_them = format!("score set `{other}`: {kept} of {kept} batches, {kept} of them scored now");
        assert!(said.contains(&all_of_them) && !said.contains("left out"), "{said}");
        let made = format!("select count(*) from objects where kind = 'scores' and score_set in ('{set}', '{other}')");
        assert_eq!(small.sql(&made), [(2 * kept).to_string()]);
        said_by(&["gc", "--grace", "0s"]);
    }
    let missing = said_by(&["verify"]);
    assert!(missing.contains("all is as it should be"), "{missing}");
}
