//! Whether what was stored is what an estimator reads.

use crate::{
    config::Pipeline,
    error::{CommandError, Result},
};
use learner::{EstimatorConfig, estimator::Needs};
use record::{Codec, DrawsKept, ScoreSet};

/// Checks that a score set of a store, and the rollouts it scores, hold what an estimator reads.
///
/// # Errors
/// The first column that has less, with both numbers.
pub fn check(store: &str, name: &str, set: &ScoreSet, estimator: &EstimatorConfig) -> Result<()> {
    let (needs, rule) = (estimator.needs(), estimator.estimator().name());
    // A log that does not say what it keeps of the sampler is found out row by row.
    let sampler_top_k = set.sampler_top_k.map(|kept| kept.max);
    // Draws are always of the whole distribution: no run keeps any where top_p cuts it.
    for (column, read, kept, key) in [
        ("teacher_top_ids", needs.teacher_top_k, Some(set.top_k_max), "top_k"),
        ("sampler_top_ids", needs.sampler_top_k, sampler_top_k, "top_k"),
        ("draw_teacher_logprobs", needs.draws, Some(set.draws), "draws"),
        ("teacher_draw_ids", needs.teacher_draws, Some(set.teacher_draws), "draws"),
    ] {
        if let Some(kept) = kept.filter(|kept| read > *kept as usize) {
            let what =
                format!("estimator `{rule}` reads {read} of `{column}`, score set `{name}` of `{store}` keeps {kept}");
            let hint = match kept {
                0 => format!("take an estimator that does without `{column}`, or a store that was scored with it"),
                _ => format!("set estimator.{key} = {kept}, or take a store that keeps more"),
            };
            return Err(CommandError::new(what).hint(hint));
        }
    }
    if let Some((what, hint)) = lacks_draws(set.draws_kept, sampler_top_k.unwrap_or(0), &needs) {
        let what =
            format!("estimator `{rule}` {what}; score set `{name}` of `{store}` has `draw_ids` of the tail alone");
        return Err(CommandError::new(what).hint(format!("{hint}, or take a store that keeps all draws")));
    }
    Ok(())
}

/// The pipeline as it would be if rollouts and scores held all that its estimator reads: so it is checked for a job that reads none of it.
pub fn as_if_enough(pipeline: &Pipeline) -> Pipeline {
    let (needs, mut pipeline) = (pipeline.learn.estimator.needs(), pipeline.clone());
    let (rollout, score) = (&mut pipeline.rollout, &mut pipeline.score);
    for (kept, read) in [
        (&mut rollout.draws, needs.draws),
        (&mut rollout.top_k_max, needs.sampler_top_k),
        (&mut score.top_k_max, needs.teacher_top_k),
        (&mut score.draws, needs.teacher_draws),
    ] {
        *kept = (*kept).max(read as u32);
    }
    (rollout.draws_kept, rollout.codec) = (DrawsKept::All, Codec::Plain);
    pipeline
}

/// What an estimator makes of the draws that no estimator can be given where only those outside the sampler's top-k, of at most
/// `top_k` ids, are kept; and what to do.
pub fn lacks_draws(kept: DrawsKept, top_k: u32, needs: &Needs) -> Option<(String, String)> {
    if kept == DrawsKept::All || needs.draws == 0 {
        return None;
    }
    if needs.all_draws {
        let hint = "take `reverse_kl_hybrid` with the student's top-k for its head".into();
        return Some(("reads all draws of a position".into(), hint));
    }
    let of_head = needs.sampler_top_k;
    (of_head < top_k as usize).then(|| {
        let what =
            format!("has a head of {of_head} ids and reads all draws outside it, but those kept lie outside {top_k}");
        (what, format!("set estimator.top_k = {top_k}"))
    })
}

/// Checks that the sampler's top-k was not rounded where an estimator reads its probabilities as they were. `what` names the setting or
/// the batch that has `codec`.
///
/// # Errors
/// If it was.
pub fn check_sampler(what: &str, codec: Codec, estimator: &EstimatorConfig) -> Result<()> {
    if !codec.rounds() || !estimator.needs().exact_sampler_top_k {
        return Ok(());
    }
    let (rule, codec) = (estimator.estimator().name(), codec.as_str());
    let what = format!(
        "estimator `{rule}` reads the sampler's probabilities in `sampler_top_logprobs`, and {what} is `{codec}`, which rounds them"
    );
    Err(CommandError::new(what).hint("roll out with rollout.codec = \"lossless\" or \"plain\", or take an estimator over draws: their log-probabilities stay exact"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::from_table, preflight::check_settings};

    #[test]
    fn a_job_that_reads_no_columns_is_not_refused_for_what_they_lack() {
        let small = r#"
            name = "small"
            store.url = "runs/small"
            student.model = "student"
            teacher.model = "teacher"
            prompts.path = "train.jsonl"
            rollout = { prompts_per_unit = 4, max_new_tokens = 6, draws = 2, top_k_max = 4, draws_kept = "tail" }
            score = { top_k_max = 8 }
            learn = { steps = 4, rows_per_step = 8, estimator = ESTIMATOR }
        "#;
        for estimator in [
            r#"{ name = "forward_kl", top_k = 9 }"#,
            r#"{ name = "reverse_kl_mc", draws = 3 }"#,
            r#"{ name = "reverse_kl_hybrid", top_k = 5, draws = 3 }"#,
            r#"{ name = "forward_kl_mc", draws = 2, from = "teacher" }"#,
        ] {
            let table = toml::from_str(&small.replace("ESTIMATOR", estimator)).unwrap();
            let pipeline: Pipeline = from_table("pipeline", table).unwrap();
            assert!(check_settings(&pipeline).is_err(), "{estimator}");
            assert_eq!(check_settings(&as_if_enough(&pipeline)), Ok(()), "{estimator}");
        }
    }

    /// A store says what it holds; one of an earlier program says nothing of the sampler's top-k or of what later ones added.
    #[test]
    fn a_score_set_of_an_earlier_program_is_read_and_believed() {
        let old: ScoreSet =
            serde_json::from_str(r#"{"top_k_mass": 0.999, "top_k_max": 8, "draws": 4, "codec": "plain"}"#).unwrap();
        assert_eq!((old.draws_kept, old.sampler_top_k, old.teacher_draws), (DrawsKept::All, None, 0));
        let said = |set: &ScoreSet, estimator: &str| {
            let estimator: EstimatorConfig = serde_json::from_str(estimator).unwrap();
            check("runs/old", "main", set, &estimator).err().map(|error| error.to_string())
        };
        let hybrid = r#"{"name": "reverse_kl_hybrid", "top_k": 4, "draws": 4}"#;
        assert_eq!(said(&old, hybrid), None, "its rows will tell");
        for (estimator, says) in [
            (r#"{"name": "forward_kl", "top_k": 9}"#, ["reads 9 of `teacher_top_ids`", "`main` of `runs/old` keeps 8"]),
            (r#"{"name": "reverse_kl_mc", "draws": 5}"#, ["reads 5 of `draw_teacher_logprobs`", "keeps 4"]),
            (
                r#"{"name": "forward_kl_mc", "draws": 2, "from": "teacher"}"#,
                ["reads 2 of `teacher_draw_ids`", "keeps 0"],
            ),
        ] {
            let said = said(&old, estimator).unwrap();
            assert!(says.iter().all(|words| said.contains(words)) && said.contains("hint:"), "{said}");
        }
        // What is not used is not written: an earlier program reads it.
        assert_eq!(
            serde_json::to_string(&old).unwrap(),
            r#"{"top_k_mass":0.999,"top_k_max":8,"draws":4,"codec":"plain"}"#
        );
        let new = ScoreSet {
            sampler_top_k: Some(record::SamplerTopK { mass: 1.0, max: 3, floor: 0.0 }),
            draws_kept: DrawsKept::Tail,
            ..old
        };
        let too_many = said(&new, hybrid).unwrap();
        assert!(too_many.contains("reads 4 of `sampler_top_ids`") && too_many.contains("keeps 3"), "{too_many}");
        let all = said(&new, r#"{"name": "reverse_kl_mc", "draws": 4}"#).unwrap();
        assert!(all.contains("reads all draws") && all.contains("`draw_ids` of the tail alone"), "{all}");
    }
}
