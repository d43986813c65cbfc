//! Settings that contradict each other, found without opening a file.

use super::*;
use crate::config::from_table;

const SMALL: &str = r#"
    name = "small"
    store.url = "runs/small"
    student.model = "student"
    teacher.model = "teacher"
    prompts.path = "train.jsonl"
    rollout = { prompts_per_unit = 4, max_new_tokens = 6, draws = 4, top_k_max = 4 }
    score = { top_k_max = 8 }
    learn = { steps = 4, rows_per_step = 8 }
"#;

/// The small pipeline with this estimator and these settings; what is wrong with it.
fn said(estimator: &str, sets: &[&str]) -> Option<String> {
    check_settings(&small(estimator, sets)).err().map(|error| error.to_string())
}

fn small(estimator: &str, sets: &[&str]) -> Pipeline {
    let mut table = toml::from_str(SMALL).unwrap();
    let sets: Vec<String> =
        sets.iter().map(|set| set.to_string()).chain([format!("learn.estimator={estimator}")]).collect();
    crate::config::apply_sets(&mut table, &sets).unwrap();
    from_table("pipeline", table).unwrap_or_else(|error| panic!("{estimator} {sets:?}: {error}"))
}

#[test]
fn a_replay_has_no_units_and_packs_no_rollouts() {
    let ppo = r#"{ name = "top_k_ppo", top_k = 4 }"#;
    for (set, says) in
        [("learn.rows_per_step=6", "a unit has 4 rows"), ("rollout.codec=compact", "rollout.codec is `compact`")]
    {
        let said = said(ppo, &[set]).unwrap_or_else(|| panic!("{set} passes"));
        assert!(said.contains(says), "{set} should say {says:?}: {said}");
        assert_eq!(check_replay_settings(&small(ppo, &[set])), Ok(()), "{set}");
    }
}

#[test]
fn an_estimator_that_reads_what_nobody_stores() {
    let hybrid = |top_k: u32, draws: u32, more: &str| {
        format!(r#"{{ name = "reverse_kl_hybrid", top_k = {top_k}, draws = {draws}{more} }}"#)
    };
    let of_teacher = r#", head = "teacher_top_k""#;
    let mc = |name: &str, more: &str| format!(r#"{{ name = "{name}", draws = 2{more} }}"#);
    let (tail, of_exact) = ("rollout.draws_kept=tail", r#"{ name = "exact", divergence = "jsd" }"#);
    let ppo = r#"{ name = "top_k_ppo", top_k = 4 }"#;
    for (estimator, sets, says) in [
        (hybrid(8, 4, ""), &[][..], &["reads 8", "rollout.top_k_max stores 4", "rollout.top_k_max = 8"][..]),
        (hybrid(9, 4, of_teacher), &[], &["reads 9", "score.top_k_max stores 8"]),
        (hybrid(4, 9, ""), &[], &["reverse_kl_hybrid", "reads 9", "rollout.draws stores 4"]),
        (hybrid(4, 4, ""), &["rollout.top_p=0.9"], &["rollout.top_p is 0.9", "reverse_kl_hybrid", "rollout.top_p = 1"]),
        (mc("forward_kl_mc", ""), &["rollout.top_p=0.9"], &["rollout.top_p is 0.9", "forward_kl_mc"]),
        (mc("reverse_kl_mc", ""), &[tail], &["reverse_kl_mc", "reads all draws", "rollout.draws_kept is `tail`"]),
        (mc("forward_kl_mc", ""), &[tail], &["forward_kl_mc", "reads all draws", "rollout.draws_kept = \"all\""]),
        (hybrid(3, 4, ""), &[tail], &["a head of 3 ids", "lie outside 4", "set estimator.top_k = 4"]),
        (hybrid(4, 4, of_teacher), &[tail], &["reads all draws", "the student's top-k for its head"]),
        (hybrid(4, 4, ""), &[tail, "rollout.top_k_max=0"], &["rollout.top_k_max stores 0"]),
        (mc("forward_kl_mc", r#", from = "teacher""#), &[], &["reads 2", "score.draws stores 0", "score.draws = 2"]),
        (
            ppo.into(),
            &["rollout.codec=fast"],
            &["`top_k_ppo`", "`sampler_top_logprobs`", "rollout.codec is `fast`", "\"lossless\""],
        ),
        (of_exact.into(), &[tail, "rollout.top_k_max=0"], &["rollout.draws_kept is `tail`", "rollout.top_k_max 0"]),
        (of_exact.into(), &["teachers.math.model=x"], &["the teacher beside the learner; the pipeline has 2"]),
        (of_exact.into(), &["rollout.top_k_floor=1"], &["rollout.top_k_floor is 1", "below 1"]),
        (of_exact.into(), &["score.top_k_floor=-0.1"], &["score.top_k_floor is -0.1", "0 or more"]),
    ] {
        let said = said(&estimator, sets).unwrap_or_else(|| panic!("{estimator} {sets:?} passes"));
        assert!(says.iter().all(|words| said.contains(words)), "{estimator} {sets:?} should say {says:?}: {said}");
    }
}

#[test]
fn what_is_stored_is_enough() {
    let tail = "rollout.draws_kept=tail";
    for (estimator, sets) in [
        (r#"{ name = "reverse_kl_hybrid", top_k = 4, draws = 4 }"#, &[tail, "rollout.top_k_floor=0.002"][..]),
        (r#"{ name = "reverse_kl_hybrid", top_k = 8, draws = 1, head = "union" }"#, &[tail, "rollout.top_k_max=8"]),
        (r#"{ name = "reverse_kl_hybrid", top_k = 3, draws = 4 }"#, &[]),
        (r#"{ name = "reverse_kl_hybrid", top_k = 8, draws = 4, head = "teacher_top_k" }"#, &[]),
        // Draws of the teacher are whole however the student samples.
        (
            r#"{ name = "forward_kl_mc", draws = 4, from = "teacher" }"#,
            &["score.draws=4", "rollout.top_p=0.9", "rollout.draws=0", "rollout.top_k_max=0"],
        ),
        (r#"{ name = "forward_kl", top_k = 8 }"#, &[tail]),
        (r#"{ name = "exact", divergence = "forward_kl" }"#, &["score.top_k_max=0", "rollout.draws=0"]),
    ] {
        assert_eq!(said(estimator, sets), None, "{estimator} {sets:?}");
    }
}
