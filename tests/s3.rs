//! The closed loop in a bucket. `storage/with-s3.sh` starts a server and says where it is.

use crate::support::{ROWS_PER_STEP, Small, in_bucket, opd, succeeded, text};

const DIGESTS: &str = "select step, weights_digest from steps order by step";

#[test]
fn a_run_in_a_bucket_makes_the_same_weights_as_one_in_a_folder() {
    let Some(bucket) = in_bucket() else { return };
    let folder = Small::new();
    succeeded(&folder.run(&[]));
    let run = bucket.run(&[]);
    succeeded(&run);
    let digests = bucket.sql(DIGESTS);
    assert_eq!(digests.len(), 4);
    assert_eq!(digests, folder.sql(DIGESTS));
    let consumed = "select count(*), count(distinct rollout_id), max(staleness) from consumed";
    assert_eq!(bucket.sql(consumed), ["32,32,0"]);
    assert_eq!(bucket.sql("select policy_version from evals order by 1"), ["0", "4"]);
    // Objects are read, not only the log.
    let tokens = "select count(*) from (select unnest(teacher_logprobs) from scored)";
    assert_eq!(bucket.sql(tokens), folder.sql(tokens));
    let status = opd().args(["status", &bucket.store()]).output().unwrap();
    succeeded(&status);
    assert_eq!(text(&status.stdout), text(&run.stdout));
    assert!(!bucket.path("store").exists());
}

#[test]
fn jobs_that_die_between_object_and_commit_lose_nothing_in_a_bucket() {
    let (Some(whole), Some(killed)) = (in_bucket(), in_bucket()) else { return };
    succeeded(&whole.run(&[]));
    let points = "rollout.after_put:2,score.after_put:2,learn.after_put:2,eval.after_commit:1";
    let output = killed.command("run", &[]).env("OPD_FAILPOINT", points).output().unwrap();
    succeeded(&output);
    assert!(text(&output.stderr).contains("learn-0 died (signal 9)"), "{}", text(&output.stderr));
    assert_eq!(killed.sql(DIGESTS), whole.sql(DIGESTS));
    assert_eq!(killed.sql("select count(*), count(distinct rollout_id) from consumed"), ["32,32"]);
}

#[test]
fn an_asynchronous_run_in_a_bucket_stays_within_its_staleness() {
    let Some(bucket) = in_bucket() else { return };
    let sets =
        ["learn.max_staleness=3", "learn.publish_every=2", "learn.steps=8", "rollout.workers=2", "score.workers=2"];
    succeeded(&bucket.run(&sets));
    let rows = bucket.sql("select count(*), count(distinct rollout_id) from consumed");
    assert_eq!(rows, [format!("{0},{0}", 8 * ROWS_PER_STEP)]);
    let most: u64 = bucket.sql("select max(staleness) from consumed")[0].parse().unwrap();
    assert!(most <= 3, "{most}");
    // Odd versions are made but not published.
    assert_eq!(bucket.sql("select count(*) from rollouts where policy_version % 2 = 1"), ["0"]);
}

/// Copies on disk change nothing but what is fetched, whether everything fits or nothing does.
#[test]
fn a_run_through_a_cache_makes_the_same_weights() {
    let Some(plain) = in_bucket() else { return };
    let sets = ["learn.max_staleness=0", "rollout.workers=2"];
    succeeded(&plain.run(&sets));
    for bytes in [100, 30_000, 100_000_000_u64] {
        let (Some(bucket), cache) = (in_bucket(), tempfile::tempdir().unwrap()) else { return };
        let set = format!("store.cache={{ path = \"{}\", bytes = {bytes} }}", cache.path().display());
        succeeded(&bucket.run(&[sets[0], sets[1], &set]));
        assert_eq!(bucket.sql(DIGESTS), plain.sql(DIGESTS), "{bytes}");
        let copies = std::fs::read_dir(cache.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
        let kept: u64 = copies.sum();
        assert!(kept <= bytes && (kept > 0 || bytes < 1000), "{kept} of {bytes}");
    }
}

#[test]
fn a_wrong_key_is_refused_before_any_work() {
    let Ok(url) = std::env::var("OPD_TEST_S3_URL") else {
        eprintln!("not run: no OPD_TEST_S3_URL (storage/with-s3.sh sets it)");
        return;
    };
    let small = Small::stored_at(url.clone());
    for (name, wrong) in [("AWS_SECRET_ACCESS_KEY", "another"), ("AWS_ACCESS_KEY_ID", "nobody")] {
        let output = small.command("run", &[]).env(name, wrong).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for words in
            [url.as_str(), "cannot be opened with the credentials of the environment", "hint: see AWS_ACCESS_KEY_ID"]
        {
            assert!(said.contains(words), "{name} should say {words:?}: {said}");
        }
        // What was given is a secret, even where it is wrong.
        assert!(!said.contains(wrong) && !said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_bucket_that_does_not_exist_and_a_prefix_that_holds_something_else() {
    let Some(used) = in_bucket() else { return };
    let refused = |url: String, says: &[&str]| {
        let small = Small::stored_at(url);
        let output = small.run(&[]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(says.iter().all(|words| said.contains(words)), "{says:?}: {said}");
    };
    let missing = format!("s3://no-such-{}/run", store::unique_id());
    refused(missing.clone(), &[&missing, "there is no bucket `no-such-", "create it first"]);
    // A store within a prefix is something else to whoever takes the prefix for a store.
    succeeded(&used.run(&["learn.steps=1"]));
    let url = used.store();
    let (above, _) = url.rsplit_once('/').unwrap();
    refused(above.into(), &["holds something else and no run", "a folder or prefix of its own"]);
    // One beside it is none of its business.
    succeeded(&Small::stored_at(format!("{}-beside", used.store())).run(&["learn.steps=1"]));
    assert_eq!(used.sql("select count(*) from steps"), ["1"]);
}
