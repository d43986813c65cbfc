//! Looking after a store through the program: what it says of a sound one and of a damaged one, and that what is given up and
//! deleted is what nobody needs.

use crate::support::{Small, asked, collect, done, in_bucket, opd, succeeded, text};

/// Few policies of many steps are kept, and half of the batches are old.
const SETS: [&str; 3] = ["learn.steps=6", "learn.keep_policies=100", "store.snapshot_every=8"];
/// A question that only the log answers, and one of objects.
const LOG: &str = "select (select count(*) from consumed) as c, (select count(*) from steps) as s, (select sum(rows) from steps) as r";
const ROWS: &str = "select count(*), min(policy_version) from rollouts";

fn refused(small: &Small, command: &str, args: &[&str], says: &[&str]) {
    let output = asked(small, command, args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(says.iter().all(|words| said.contains(words)) && !said.contains("panicked"), "{says:?}: {said}");
}

fn keeps_and_gives_up(small: &Small) {
    succeeded(&small.run(&SETS));
    let sound = |what: &str| {
        let (found, said) = done(small, "verify", &[]);
        assert!(found.is_empty() && said.contains("all is as it should be"), "{what}: {found}{said}");
    };
    sound("a finished run");
    let (log, rows) = (small.sql(LOG), small.sql(ROWS));
    assert_eq!((log[0].as_str(), rows[0].as_str()), ("48,6,48", "48,0"));

    // Nothing that a pin covers is given up; nothing is given up by asking.
    done(small, "pin", &["first", "--versions", "0..1"]);
    assert!(done(small, "pin", &[]).0.contains("first"));
    let before = done(small, "du", &["--format", "csv"]).0;
    let (would, said) = done(small, "retain", &["--keep-versions", "2", "--dry-run"]);
    assert!(would.contains("rollouts and scores") && said.contains("would be given up"), "{would}{said}");
    assert_eq!(done(small, "du", &["--format", "csv"]).0, before);

    let (given_up, _) = done(small, "retain", &["--keep-versions", "2"]);
    assert_eq!(given_up, would);
    sound("retained");
    // Versions 0 and 1 are pinned, 5 and 6 are the newest; 6 sampled nothing any more.
    assert_eq!(small.sql("select distinct policy_version from rollouts order by 1"), ["0", "1", "5"]);
    assert_eq!(small.sql("select distinct step from step_records order by 1"), ["1", "5", "6"]);
    assert_eq!(small.sql("select policy_version from policies where not retired order by 1"), ["0", "1", "5", "6"]);
    assert_eq!(small.sql(LOG), log);
    let gone = "select kind, count(*) from objects where retired group by 1 order by 1";
    let gone = small.sql(gone);
    assert!(gone.iter().any(|line| line.starts_with("rollouts,")), "{gone:?}");

    // What was given up is deleted; nothing else was left by these jobs.
    let young = done(small, "gc", &[]);
    assert!(young.0.lines().count() == 1 && young.1.contains("not for 1d 0h yet"), "{young:?}");
    let deleted = collect(small);
    let count: u64 = gone.iter().map(|line| line.split_once(',').unwrap().1.parse::<u64>().unwrap()).sum();
    assert!(deleted.lines().skip(1).all(|line| line.starts_with("given up by commit ")), "{deleted}");
    // The learner deletes moments itself when it gives them up.
    let retired =
        small.sql("select count(*) from objects where retired and kind = 'moments'")[0].parse::<u64>().unwrap();
    let lines = deleted.lines().count() as u64 - 1;
    assert!((count - retired..=count).contains(&lines), "{lines} of {count}: {deleted}");
    sound("collected");
    assert_eq!(small.sql(LOG), log);
    assert_eq!(
        small.sql("select count(*) from tokens where policy_version = 5"),
        small.sql("select sum(cardinality(response_ids)) from rollouts where policy_version = 5")
    );
    assert_eq!(collect(small).lines().count(), 1, "once is enough");

    // The pin taken away, the rest goes; the newest and the first policy stay.
    done(small, "unpin", &["first"]);
    done(small, "retain", &["--max-bytes", "0B"]);
    collect(small);
    sound("as little as can be");
    assert_eq!(small.sql("select count(*) from rollouts"), ["0"]);
    assert_eq!(small.sql("select policy_version from policies where not retired order by 1"), ["0", "6"]);
    assert_eq!(small.sql(LOG), log);
    succeeded(&opd().args(["export-policy", &small.store(), "latest"]).arg(small.path("out")).output().unwrap());
}

#[test]
fn a_folder_keeps_what_is_needed_and_gives_up_the_rest() {
    keeps_and_gives_up(&Small::new());
}

#[test]
fn a_bucket_keeps_what_is_needed_and_gives_up_the_rest() {
    if let Some(small) = in_bucket() {
        keeps_and_gives_up(&small);
    }
}

/// Everything is sampled and scored, then learned from in a process of its own.
const COLLECTED: [&str; 4] = ["learn.steps=6", "learn.max_staleness=5", "learn.checkpoint_every=4", "eval.sets={}"];

#[test]
fn a_learner_goes_on_after_all_that_can_be_was_given_up() {
    let (small, whole) = (Small::new(), Small::new());
    for of in [&small, &whole] {
        succeeded(&of.command("run", &COLLECTED).arg("--collect").output().unwrap());
    }
    succeeded(&whole.command("learn", &COLLECTED).output().unwrap());
    // Step 4 is the checkpoint; step 5 will be executed again from its rows, and step 6 was about to be committed.
    let killed = small.command("learn", &COLLECTED).env("OPD_FAILPOINT", "learn.after_put:6").output().unwrap();
    assert_eq!(killed.status.code(), None, "{}", text(&killed.stderr));
    let (given_up, said) = done(&small, "retain", &["--max-bytes", "0B"]);
    assert!(given_up.contains("rollouts and scores") && said.contains("is still needed"), "{given_up}{said}");
    assert!(said.contains("learn.keep_policies"), "{said}");
    // What the learner had put and not committed goes with what was given up.
    let deleted = collect(&small);
    assert!(deleted.contains("named by no commit") && deleted.contains("given up by commit"), "{deleted}");
    succeeded(&small.command("learn", &COLLECTED).output().unwrap());
    let digests = "select step, weights_digest from steps order by step";
    assert_eq!((small.sql(digests).len(), small.sql(digests)), (6, whole.sql(digests)));
    let (found, _) = done(&small, "verify", &[]);
    assert!(found.is_empty(), "{found}");
}

#[test]
fn damage_is_told_a_line_a_finding() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=2", "eval.sets={}"]));
    let key = &small.sql("select key from objects where kind = 'scores' order by seq")[0];
    let file = small.path("store").join(key);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let output = asked(&small, "verify", &[]);
    let (found, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{found}{said}");
    assert!(found.lines().count() == 1 && found.starts_with(&format!("{key}: expected sha256:")), "{found}");
    assert!(said.contains(": 1 finding") && !said.contains("error"), "{said}");
    // Its length is what it was.
    assert!(done(&small, "verify", &["--quick"]).0.is_empty());
    std::fs::write(&file, "x").unwrap();
    let output = asked(&small, "verify", &["--quick"]);
    assert_eq!((output.status.code(), text(&output.stdout).lines().count()), (Some(1), 1));
}

#[test]
fn what_cannot_be_done_is_said() {
    let small = Small::new();
    for command in ["verify", "du", "gc", "pin"] {
        refused(&small, command, &[], &["there is no run"]);
    }
    assert!(!small.path("store").exists(), "nothing is made by looking");
    succeeded(&small.run(&["learn.steps=1", "eval.sets={}"]));
    refused(&small, "retain", &[], &["--keep-versions", "--older-than", "--max-bytes"]);
    refused(&small, "retain", &["--keep-versions", "0"], &["0 is not in 1.."]);
    refused(&small, "retain", &["--older-than", "3 weeks"], &["3 weeks", "as in 30d"]);
    refused(&small, "retain", &["--max-bytes", "10"], &["as in 10GB"]);
    refused(&small, "gc", &["--grace", "soon"], &["soon", "as in 30d"]);
    refused(&small, "pin", &["a", "--at", "9999"], &["9999", "the log ends at commit"]);
    refused(&small, "pin", &["a", "--versions", "0..7"], &["--versions goes to 7", "the run was at v1"]);
    refused(&small, "pin", &["a", "--versions", "7..0"], &["as in 0..100"]);
    done(&small, "pin", &["a"]);
    done(&small, "pin", &["a", "--at", &small.sql("select max(seq) - 1 from commits")[0]]);
    refused(&small, "pin", &["a", "--versions", "0"], &["another pin `a`", "opd unpin"]);
    refused(&small, "unpin", &["b"], &["no pin `b`", "there are: a"]);
    std::fs::write(small.path("store").join("notes.txt"), "mine").unwrap();
    assert!(done(&small, "gc", &["--grace", "0s"]).1.contains("`notes.txt` is no part of a store and stays"));
    assert!(small.path("store/notes.txt").exists());
}
