//! Packed scores and rollouts through the program: fewer bytes, the same columns, the same training but for the rounding.

use crate::support::{Small, opd, refused, succeeded, text};

const TOP: [&str; 3] = ["score.top_k_max=16", "rollout.top_k_max=8", "learn.steps=3"];
/// Every number that a group holds, whatever it is packed by.
const PLAIN: &str = "with s as (select rollout_id, unnest(teacher_top_ids) as ids, unnest(teacher_top_logprobs) as logprobs, \
    unnest(teacher_tail_logprobs) as tail from scores) \
    select count(*), sum(array_length(ids)), bool_and(array_length(ids) = array_length(logprobs)), bool_and(tail <= 0) from s";
const DRAWS: &str = "with d as (select unnest(draw_ids) as ids, unnest(draw_counts) as counts, unnest(draw_logprobs) as logprobs, \
    unnest(sampler_top_ids) as top, unnest(sampler_top_logprobs) as tops from rollouts) \
    select count(*), sum(array_length(ids)), bool_and(array_length(ids) = array_length(counts)), \
    bool_and(array_length(top) = array_length(tops)) from d";

fn run(codec: &str) -> Small {
    let small = Small::new();
    let (score, rollout) = (format!("score.codec={codec}"), format!("rollout.codec={codec}"));
    succeeded(&small.run(&[&TOP[..], &[&score, &rollout]].concat()));
    small
}

#[test]
fn every_level_gives_the_same_columns_in_fewer_bytes() {
    let plain = run("plain");
    let (scores, draws) = (plain.sql(PLAIN), plain.sql(DRAWS));
    assert_eq!(plain.sql("select count(codec_kl), count(packed_bytes) from commits"), ["0,0"]);
    for codec in ["lossless", "fast", "compact"] {
        let packed = run(codec);
        if codec == "lossless" {
            // Nothing is rounded, so the same rows are sampled and the same scores read.
            assert_eq!((packed.sql(PLAIN), packed.sql(DRAWS)), (scores.clone(), draws.clone()));
            let last = "select digest from policies where policy_version = 3";
            assert_eq!(packed.sql(last), plain.sql(last));
        }
        // What is told of a batch adds up to what is in it.
        let entries = packed.sql(
            "select (select sum(packed_entries) from commits) = (select sum(array_length(ids)) from \
             (select unnest(teacher_top_ids) as ids from scores))",
        );
        assert_eq!(entries, ["true"], "{codec}");
        let said = packed.sql(
            "select bool_and(codec_kl < 1e-4), bool_and(packed_bytes / packed_entries < 8), count(codec_kl) = count(*) \
             from commits where kind = 'scores'",
        );
        assert_eq!(said, ["true,true,true"], "{codec}");
        assert_eq!(packed.sql("select count(*) from step_records"), plain.sql("select count(*) from step_records"));
    }
}

/// Fewer draws and ids than are stored: the same rows are learned from whatever the codec, and the step says what it read.
#[test]
fn the_learner_reads_what_its_estimator_takes() {
    let run = |draws: u32, codec: &str| {
        let small = Small::new();
        let estimator = format!("learn.estimator={{ name = \"reverse_kl_mc\", draws = {draws} }}");
        let codecs = ["score.codec", "rollout.codec"].map(|key| format!("{key}={codec}"));
        succeeded(&small.run(&["learn.steps=2", "eval.sets={}", &estimator, &codecs[0], &codecs[1]]));
        let step = small.sql("select json from commits where kind = 'step' limit 1").remove(0).replace("\"\"", "\"");
        let read = format!("\"read\":{{\"draws\":{draws},\"sampler_top_k\":0,\"teacher_draws\":0}}");
        assert!(step.contains(&read), "{step}");
        small.sql("select digest from policies where policy_version = 2").remove(0)
    };
    let two = run(2, "plain");
    assert_eq!(run(2, "lossless"), two);
    assert_ne!(run(4, "plain"), two);
}

#[test]
fn a_codec_that_there_is_not_and_one_that_the_run_did_not_begin_with() {
    let small = run("compact");
    // What a replay reads is packed as the parent's batches are, whatever the pipeline says.
    let mut program = opd();
    program.args(["replay", "--from", &small.store(), "--into"]).arg(small.path("again")).arg(small.path("small.toml"));
    program.args(["--set", "learn.estimator={ name = \"top_k_ppo\", top_k = 4 }", "--set", "rollout.codec=lossless"]);
    let says = ["--from: estimator `top_k_ppo`", "the codec of batch `u0", "is `compact`, which rounds them"];
    refused(&program.output().unwrap(), &says);
    assert!(!small.path("again").exists());
    for (set, says) in [
        ("score.codec=zip", &["score.codec", "zip", "plain", "lossless", "fast", "compact"][..]),
        ("score.codec=fast", &["belongs to another run", "score sets", "compact", "fast"][..]),
    ] {
        let output = small.command("score", &[&TOP[..], &[set]].concat()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{set}: {said}");
        assert!(says.iter().all(|words| said.contains(words)), "{set} should say {says:?}: {said}");
    }
}
