//! What came of a sweep: a row a run, made of the run's own log.

use super::grid::{Member, Sweep, short};
use crate::{error::Result, recorded, trace::stages_busy};
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use record::{Commit, Event, Job, Ratio, Run};
use std::sync::Arc;
use store::Store;
use toml::Value;

/// What is measured of a run that is finished; a field is empty where the run has none of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Optimizer steps.
    pub steps: u64,
    /// Share of held-out problems solved greedily by the last version, over all its sets.
    pub accuracy: Option<f64>,
    /// The same of samples.
    pub sampled_accuracy: Option<f64>,
    /// KL(student || teacher) of the last version on held-out prompts, nats a position.
    pub reverse_kl: Option<f64>,
    /// KL(learner || teacher) in training, over the last tenth of the steps.
    pub training_reverse_kl: Option<f64>,
    /// KL(teacher || learner) in training, over the last tenth of the steps.
    pub training_forward_kl: Option<f64>,
    /// Effective sample size of the importance ratios as a share, the least of any step.
    pub least_ess: Option<f64>,
    /// Mean staleness of the rows trained on.
    pub staleness: f64,
    /// Rows that ended untrained.
    pub dropped: u64,
    /// Seconds from the first commit to the last step.
    pub seconds: f64,
    /// Response tokens trained on.
    pub tokens: u64,
    /// Of rollouts, scores and learner, how many were at work at once on average.
    pub stages_busy: Option<f64>,
    /// Bytes of score objects for each token scored, in the run's own score set.
    pub score_bytes_per_token: Option<f64>,
}

/// The columns of the results that say which run it is, beside the grid's.
pub const IDENTITY: [&str; 3] = ["run", "arm", "seed"];

/// The columns of the results that are measured, in their order.
pub const MEASURED: [&str; 13] = [
    "steps",
    "accuracy",
    "sampled_accuracy",
    "reverse_kl",
    "training_reverse_kl",
    "training_forward_kl",
    "least_ess",
    "staleness",
    "dropped",
    "seconds",
    "tokens",
    "stages_busy",
    "score_bytes_per_token",
];

impl Measured {
    /// Reads the log of a run.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn of(store: &Store) -> Result<Self> {
        let follower = store.follow().await?;
        let now = follower.snapshot();
        let commits = store.history(Some(now.seq)).await?;
        let steps = recorded::steps(&commits);
        let last = &steps[steps.len() - steps.len().div_ceil(10)..];
        let tokens_of = |job: Job| commits.iter().filter(move |of| of.work.job == job).map(|of| of.work.tokens).sum();
        let until = commits.iter().rfind(|commit| matches!(commit.event, Event::Step(_)));
        let since = commits.first().map_or(0, |first| first.at);
        Ok(Self {
            steps: now.version.0,
            accuracy: of_last_eval(&commits, |eval| Some(eval.accuracy)),
            sampled_accuracy: of_last_eval(&commits, |eval| Some(eval.sampled_accuracy)),
            reverse_kl: of_last_eval(&commits, |eval| eval.metrics.get("reverse_kl").copied()),
            training_reverse_kl: pooled(last.iter().filter_map(|step| step.metrics.get("reverse_kl").copied())),
            training_forward_kl: pooled(last.iter().filter_map(|step| step.metrics.get("forward_kl").copied())),
            least_ess: steps.iter().filter_map(|step| share(*step.metrics.get("is/ess")?)).reduce(f64::min),
            staleness: now.ended.staleness_mean().unwrap_or(0.0),
            dropped: now.ended.dropped.values().sum(),
            seconds: until.map_or(0, |last| last.at - since) as f64 / 1000.0,
            tokens: tokens_of(Job::Learn),
            stages_busy: stages_busy(&commits),
            score_bytes_per_token: pooled(commits.iter().filter_map(|commit| scored(commit, &now.run))),
        })
    }

    fn values(&self) -> [Option<f64>; MEASURED.len()] {
        [
            Some(self.steps as f64),
            self.accuracy,
            self.sampled_accuracy,
            self.reverse_kl,
            self.training_reverse_kl,
            self.training_forward_kl,
            self.least_ess,
            Some(self.staleness),
            Some(self.dropped as f64),
            Some(self.seconds),
            Some(self.tokens as f64),
            self.stages_busy,
            self.score_bytes_per_token,
        ]
    }

    /// The value of a column of the results.
    pub fn value(&self, column: &str) -> Option<f64> {
        let at = MEASURED.iter().position(|name| *name == column)?;
        self.values()[at]
    }

    /// The columns there are.
    pub fn columns() -> &'static [&'static str] {
        &MEASURED
    }
}

/// Bytes and tokens of a batch that was scored in a set of the run's own. As it was committed: what was archived since takes less.
fn scored(commit: &Commit, run: &Run) -> Option<Ratio> {
    match &commit.event {
        Event::Scores(scores) if run.score_sets.contains_key(&scores.score_set) => {
            Some((scores.object.bytes as f64, commit.work.tokens as f64))
        }
        _ => None,
    }
}

fn share((sum, count): Ratio) -> Option<f64> {
    (count > 0.0).then(|| sum / count)
}

/// One ratio over several.
fn pooled(ratios: impl Iterator<Item = Ratio>) -> Option<f64> {
    share(ratios.fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1)))
}

fn of_last_eval(commits: &[Commit], ratio: impl Fn(&record::EvalCommit) -> Option<Ratio>) -> Option<f64> {
    let evals = || {
        commits.iter().filter_map(|commit| match &commit.event {
            Event::Eval(eval) => Some(eval),
            _ => None,
        })
    };
    let last = evals().map(|eval| eval.policy_version).max()?;
    pooled(evals().filter(|eval| eval.policy_version == last).filter_map(ratio))
}

/// The results as a table: `run`, `arm`, a column for each key of the grid, `seed`, and what was measured.
///
/// # Errors
/// Never, but for a fault of ours.
pub fn table(sweep: &Sweep, done: &[(&Member, Measured)]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&Member) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(done.iter().map(|(member, _)| of(member))))
    };
    let mut columns: Vec<(String, ArrayRef)> =
        vec![("run".into(), text(&|member| member.name.clone())), ("arm".into(), text(&|member| member.arm.clone()))];
    for (i, name) in sweep.point_columns().into_iter().enumerate() {
        let numbers: Option<Vec<f64>> = done.iter().map(|(member, _)| number(&member.point[i])).collect();
        let column: ArrayRef = match numbers {
            Some(numbers) => Arc::new(Float64Array::from(numbers)),
            None => text(&|member| short(&member.point[i])),
        };
        columns.push((name, column));
    }
    columns.push(("seed".into(), Arc::new(UInt64Array::from_iter_values(done.iter().map(|(member, _)| member.seed)))));
    for (i, name) in MEASURED.into_iter().enumerate() {
        let values: Float64Array = done.iter().map(|(_, measured)| measured.values()[i]).collect();
        columns.push((name.into(), Arc::new(values)));
    }
    RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, column)| (name, column.clone(), true)))
        .map_err(|error| crate::error::CommandError::new(format!("the results are no table: {error}")))
}

/// The number that a value is.
pub fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|number| number as f64))
}

/// The question that is asked unless another is: each arm and point over its seeds.
pub fn summary(sweep: &Sweep) -> String {
    let mut keys = if sweep.arms.is_empty() { Vec::new() } else { vec!["arm".to_string()] };
    keys.extend(sweep.point_columns().iter().map(|name| format!("\"{name}\"")));
    let by = keys.join(", ");
    let (select, group) = match keys.len() {
        0 => (String::new(), String::new()),
        _ => (format!("{by}, "), format!(" group by {by} order by {by}")),
    };
    format!(
        "select {select}count(*) as runs, avg(accuracy) as accuracy, stddev(accuracy) as sd, \
         avg(sampled_accuracy) as sampled, avg(reverse_kl) as reverse_kl, stddev(reverse_kl) as kl_sd, \
         avg(staleness) as staleness, avg(seconds) as seconds from results{group}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation;
    use record::{Claims, Digest, ObjectRef, ScoreCommit};

    #[test]
    fn bytes_of_scores_are_of_the_runs_own_set_and_none_are_not_zero() {
        let run = simulation::identity(1, 1, 1);
        let own = run.score_sets.keys().next().unwrap().clone();
        let commit = |(set, bytes, tokens): (&str, u64, u64)| {
            let object = ObjectRef { key: "x".into(), bytes, digest: Digest::of(b"x") };
            let (score_set, claims) = (set.to_string(), Claims::default());
            let scores = ScoreCommit { batch: "a".into(), score_set, parent: None, object, packing: None, claims };
            let mut commit = simulation::commit(1, "score-0", Job::Score, Event::Scores(scores));
            commit.work.tokens = tokens;
            commit
        };
        let bytes = |of: &[(&str, u64, u64)]| {
            let commits: Vec<Commit> = of.iter().copied().map(commit).collect();
            pooled(commits.iter().filter_map(|commit| scored(commit, &run)))
        };
        assert_eq!(bytes(&[(&own, 300, 10), ("small", 50, 0), ("large", 900, 10), (&own, 100, 10)]), Some(20.0));
        assert_eq!(bytes(&[("small", 50, 10)]), None);
    }

    #[tokio::test]
    async fn whatever_the_grid_varies_the_results_can_be_asked() {
        let text = r#"
            name = "s"
            pipeline = []
            into = "x"
            seeds = [1]
            grid = { "learn.steps" = [1], "rollout.lag" = [1], "a.tokens" = [1], "a.seed" = [1] }
        "#;
        let sweep: Sweep = toml::from_str(text).unwrap();
        let answer = query::ask("results", table(&sweep, &[]).unwrap(), &summary(&sweep)).await.unwrap();
        let text = query::render(answer, query::Format::Csv).await.unwrap();
        assert!(text.starts_with("a_seed,a_tokens,learn_steps,lag,runs,accuracy,"), "{text}");
    }
}
