//! What a step saw and did: each row's positions, and metrics as sums over all of them.

use crate::{Result, Update, estimator::LOG_RHO_LIMIT, head::HeadOutput, pack::Place, row::TrainRow};
use record::Ratio;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// What a step saw and did.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// One entry a row, in the order the rows were given.
    pub rows: Vec<RowReport>,
    /// Metrics by name, as (numerator, denominator); each finite, no denominator 0.
    pub metrics: BTreeMap<String, Ratio>,
    /// |M|, the positions trained on.
    pub trained_tokens: usize,
    /// What the optimizer did; `None` where there was no trained position, so nothing to do.
    pub update: Option<Update>,
}

/// One row as the learner saw it, before the update. Lists run along the response, NaN where a position is not trained.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowReport {
    /// log p of the response's tokens, nats.
    pub learner_logprobs: Vec<f32>,
    /// Unbiased estimate of KL(learner || teacher), nats; `None` where the row has no draws.
    pub reverse_kl: Option<Vec<f32>>,
    /// KL(teacher || learner) over the teacher's top-k and a tail bucket, nats; `None` where the row has no top-k.
    pub forward_kl: Option<Vec<f32>>,
    /// Entropy of the learner, nats.
    pub entropy: Vec<f32>,
}

/// Sums that become metrics.
#[derive(Default)]
struct Sums(BTreeMap<String, Ratio>);

impl Sums {
    fn add(&mut self, name: &str, numerator: f64, denominator: f64) {
        match self.0.get_mut(name) {
            Some(sums) => (sums.0, sums.1) = (sums.0 + numerator, sums.1 + denominator),
            None => drop(self.0.insert(name.to_owned(), (numerator, denominator))),
        }
    }
}

/// A [`StepReport`] in the making.
pub(crate) struct Reporter {
    rows: Vec<RowReport>,
    sums: Sums,
    /// Sum of importance ratios at the sampled tokens, of their squares, and their number.
    ratios: [f64; 3],
    trained: usize,
    exact: bool,
}

impl Reporter {
    /// `exact`: whether both divergences are computed at every position, whatever the rows hold.
    pub fn new(rows: &[TrainRow], exact: bool) -> Self {
        let blank = |row: &TrainRow| {
            let nan = || vec![f32::NAN; row.response_ids.len()];
            RowReport {
                learner_logprobs: nan(),
                reverse_kl: (exact || row.has_draws()).then(nan),
                forward_kl: (exact || !row.teacher_top_k.ids.is_empty()).then(nan),
                entropy: nan(),
            }
        };
        let mut sums = Sums::default();
        for row in rows {
            sums.add("completions/mean_length", row.response_ids.len() as f64, 1.0);
            if let Some(staleness) = row.staleness.filter(|_| !row.sampler_logprobs.is_empty()) {
                sums.add("sample/staleness_mean", staleness as f64, 1.0);
                let most = sums.0.entry("sample/staleness_max".into()).or_insert((0.0, 1.0));
                most.0 = most.0.max(staleness as f64);
            }
        }
        Self { rows: rows.iter().map(blank).collect(), sums, ratios: [0.0; 3], trained: 0, exact }
    }

    /// Takes in the head's output at the positions of one microbatch.
    pub fn add(&mut self, rows: &[TrainRow], places: &[Place], output: &HeadOutput) -> Result<()> {
        let value = numbers(&output.value)?;
        let learner = numbers(&output.learner_logprobs)?;
        let entropy = numbers(&output.entropy)?;
        let reverse = output.reverse_kl.as_ref().map(numbers).transpose()?;
        let forward = output.forward_kl.as_ref().map(numbers).transpose()?;
        for (i, at) in places.iter().enumerate() {
            let (row, report, t) = (&rows[at.row], &mut self.rows[at.row], at.t);
            self.sums.add("loss", value[i], 1.0);
            self.sums.add("entropy", entropy[i], 1.0);
            report.learner_logprobs[t] = learner[i] as f32;
            report.entropy[t] = entropy[i] as f32;
            let has_top_k = self.exact || row.teacher_top_k.ids.get(t).is_some_and(|ids| !ids.is_empty());
            for (name, values, is_there, to) in [
                ("reverse_kl", &reverse, self.exact || row.draws_at(t) > 0, &mut report.reverse_kl),
                ("forward_kl", &forward, has_top_k, &mut report.forward_kl),
            ] {
                if let (Some(values), Some(to)) = (values, to)
                    && is_there
                    && values[i].is_finite()
                {
                    to[t] = values[i] as f32;
                    self.sums.add(name, values[i], 1.0);
                }
            }
            if let Some(entropy) = row.teacher_entropy.get(t) {
                self.sums.add("teacher_entropy", f64::from(*entropy), 1.0);
            }
            if let Some(tail) = row.teacher_top_k.teacher_tail.get(t) {
                self.sums.add("teacher_mass", 1.0 - f64::from(*tail).exp(), 1.0);
            }
            if let Some(sampler) = row.sampler_logprobs.get(t) {
                let log_rho = (learner[i] - f64::from(*sampler)).clamp(-LOG_RHO_LIMIT, LOG_RHO_LIMIT);
                let rho = log_rho.exp();
                let [sum, squares, n] = self.ratios;
                self.ratios = [sum + rho, squares + rho * rho, n + 1.0];
                if row.staleness == Some(0) {
                    // E_b[rho - 1 - log rho] = KL(b || p), and no term is negative: 0 iff sampler and learner agree.
                    self.sums.add("mismatch_kl", rho - 1.0 - log_rho, 1.0);
                }
            }
        }
        for (name, (numerator, denominator)) in &output.tallies {
            self.sums.add(name, *numerator, *denominator);
        }
        self.trained += places.len();
        Ok(())
    }

    pub fn finish(mut self, update: Option<Update>) -> StepReport {
        let [sum, squares, n] = self.ratios;
        self.sums.add("is/mean", sum, n);
        self.sums.add("is/ess", sum * sum, n * squares);
        if let Some(update) = update {
            self.sums.add("grad_norm", update.grad_norm, 1.0);
            self.sums.add("lr", update.learning_rate, 1.0);
        }
        let skipped = update.is_none_or(|update| !update.applied);
        self.sums.add("skipped_steps", f64::from(u8::from(skipped)), 1.0);
        let mut metrics = self.sums.0;
        metrics.retain(|_, (numerator, denominator)| {
            numerator.is_finite() && denominator.is_finite() && *denominator != 0.0
        });
        StepReport { rows: self.rows, metrics, trained_tokens: self.trained, update }
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::<f64>::try_from(tensor.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?)
}
