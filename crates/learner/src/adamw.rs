//! AdamW with moments that can be looked at, saved and loaded (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2).
//!
//! Weight decay is decoupled, and spares what has one dimension (norms). Gradients are clipped by their global norm first.
//! Invariant: an update is applied to all parameters or to none.

use crate::{LearnError, Result, schedule::Schedule};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Settings of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The schedule's full height.
    pub learning_rate: f64,
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of a weight that a step at learning rate 1 takes away.
    pub weight_decay: f64,
    /// Gradients with a larger global norm are scaled down to it; 0 turns that off.
    pub max_grad_norm: f64,
    /// The learning rate over the steps.
    pub schedule: Schedule,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            schedule: Schedule::default(),
        }
    }
}

impl OptimizerConfig {
    /// Refuses settings without a meaning.
    ///
    /// # Errors
    /// [`LearnError::Setting`] with the key.
    pub fn validate(&self) -> Result<()> {
        let at_least_0 = |x: f64| x.is_finite() && x >= 0.0;
        let refuse = |key, expected: &str, found: f64| {
            Err(LearnError::Setting { key, expected: expected.into(), found: found.to_string() })
        };
        if !at_least_0(self.learning_rate) || self.learning_rate == 0.0 {
            return refuse("optimizer.learning_rate", "a number above 0", self.learning_rate);
        }
        if let Some(beta) = self.betas.into_iter().find(|beta| !(0.0..1.0).contains(beta)) {
            return refuse("optimizer.betas", "numbers from 0 up to, not including, 1", beta);
        }
        if !at_least_0(self.eps) || self.eps == 0.0 {
            return refuse("optimizer.eps", "a number above 0", self.eps);
        }
        if !at_least_0(self.weight_decay) {
            return refuse("optimizer.weight_decay", "0 or more", self.weight_decay);
        }
        if !at_least_0(self.max_grad_norm) {
            return refuse("optimizer.max_grad_norm", "0 (off) or more", self.max_grad_norm);
        }
        self.schedule.validate()
    }
}

/// The optimizer's state: two moments a parameter, and how many updates made them.
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    /// One entry a parameter, in the parameters' order.
    pub(crate) moments: Vec<Moments>,
    /// Updates made so far.
    pub(crate) step: u64,
}

/// The moments of one parameter; float32, of its shape.
#[derive(Debug)]
pub struct Moments {
    /// The parameter's name.
    pub name: String,
    /// Running mean of the gradient.
    pub m: Tensor,
    /// Running mean of its square.
    pub v: Tensor,
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The learning rate that was, or would have been, used.
    pub learning_rate: f64,
    /// Whether weights and moments moved; not, if a gradient was not finite.
    pub applied: bool,
}

impl AdamW {
    /// Zero moments for these parameters.
    ///
    /// # Errors
    /// A setting without a meaning.
    pub fn new(config: OptimizerConfig, parameters: &[(String, Tensor)]) -> Result<Self> {
        config.validate()?;
        let _guard = tch::no_grad_guard();
        let zero = |(name, parameter): &(String, Tensor)| -> Result<Moments> {
            Ok(Moments { name: name.clone(), m: parameter.f_zeros_like()?, v: parameter.f_zeros_like()? })
        };
        Ok(Self { config, moments: parameters.iter().map(zero).collect::<Result<_>>()?, step: 0 })
    }

    /// Its settings.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Updates made so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The moments, in the parameters' order.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// One update of `parameters`, in place, by `gradients` in the same order. A gradient that is not finite leaves everything
    /// as it is and says so.
    ///
    /// # Errors
    /// Only what libtorch refuses.
    pub fn update(&mut self, parameters: &[(String, Tensor)], gradients: &mut [Tensor]) -> Result<Update> {
        let _guard = tch::no_grad_guard();
        let learning_rate = self.config.learning_rate * self.config.schedule.factor(self.step);
        let grad_norm = global_norm(gradients)?;
        if !grad_norm.is_finite() {
            return Ok(Update { grad_norm, learning_rate, applied: false });
        }
        let clip = self.config.max_grad_norm;
        let scale = if clip > 0.0 && grad_norm > clip { clip / grad_norm } else { 1.0 };
        self.step += 1;
        let [beta_m, beta_v] = self.config.betas;
        let (unbias_m, unbias_v) = (1.0 - power(beta_m, self.step), 1.0 - power(beta_v, self.step));
        for (((_, parameter), gradient), Moments { m, v, .. }) in
            parameters.iter().zip(gradients).zip(&mut self.moments)
        {
            if scale != 1.0 {
                let _ = gradient.f_mul_scalar_(scale)?;
            }
            let _ = m.f_mul_scalar_(beta_m)?.f_add_(&gradient.f_mul_scalar(1.0 - beta_m)?)?;
            let _ = v.f_mul_scalar_(beta_v)?.f_addcmul_(&gradient.f_mul_scalar(1.0 - beta_v)?, gradient)?;
            let root = v.f_div_scalar(unbias_v)?.f_sqrt()?.f_add_scalar(self.config.eps)?;
            // The handle shares the parameter's memory, so the network computes with what is written here.
            let mut parameter = parameter.shallow_clone();
            if self.config.weight_decay > 0.0 && parameter.dim() > 1 {
                let _ = parameter.f_mul_scalar_(1.0 - learning_rate * self.config.weight_decay)?;
            }
            let _ = parameter.f_addcdiv_(&m.f_mul_scalar(-learning_rate / unbias_m)?, &root)?;
        }
        Ok(Update { grad_norm, learning_rate, applied: true })
    }
}

/// `base^exponent`; exponents past `i32` are all the same to a base below 1.
fn power(base: f64, exponent: u64) -> f64 {
    base.powi(i32::try_from(exponent).unwrap_or(i32::MAX))
}

/// Square root of the sum of all squares; one transfer from the device.
pub(crate) fn global_norm(gradients: &[Tensor]) -> Result<f64> {
    if gradients.is_empty() {
        return Ok(0.0);
    }
    let norms =
        gradients.iter().map(|g| g.f_norm()?.f_to_kind(Kind::Double)).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{estimator::oracle::numbers, schedule::Shape};

    fn tensor(seed: u64, shape: &[i64]) -> Tensor {
        Tensor::from_slice(&numbers(seed, shape.iter().product())).to_kind(Kind::Float).view(shape)
    }

    fn config() -> OptimizerConfig {
        let schedule = Schedule { name: Shape::Cosine, warmup_steps: 2, total_steps: 6, floor: 0.1 };
        OptimizerConfig { learning_rate: 0.05, weight_decay: 0.3, max_grad_norm: 2.0, schedule, ..Default::default() }
    }

    fn parameters() -> Vec<(String, Tensor)> {
        vec![("norm".into(), tensor(1, &[5])), ("weight".into(), tensor(2, &[3, 4]))]
    }

    fn gradients(step: u64) -> Vec<Tensor> {
        vec![tensor(10 + step, &[5]), tensor(20 + step, &[3, 4])]
    }

    fn flat(t: &Tensor) -> Vec<f64> {
        Vec::try_from(t.to_kind(Kind::Double).reshape([-1])).unwrap()
    }

    #[test]
    fn each_number_moves_as_written_by_hand() {
        tch::set_num_threads(1);
        let (config, parameters) = (config(), parameters());
        let mut optimizer = AdamW::new(config, &parameters).unwrap();
        // (weight, m, v, decays) of every number, in float64.
        let mut by_hand: Vec<(f64, f64, f64, bool)> = parameters
            .iter()
            .flat_map(|(_, p)| flat(p).into_iter().map(|x| (x, 0.0, 0.0, p.dim() > 1)).collect::<Vec<_>>())
            .collect();
        for step in 0..8 {
            let update = optimizer.update(&parameters, &mut gradients(step)).unwrap();
            let all: Vec<f64> = gradients(step).iter().flat_map(flat).collect();
            let norm = all.iter().map(|g| g * g).sum::<f64>().sqrt();
            let rate = config.learning_rate * config.schedule.factor(step);
            assert!((update.grad_norm - norm).abs() < 1e-5 && update.learning_rate == rate && update.applied);
            let t = step as i32 + 1;
            for (number, gradient) in by_hand.iter_mut().zip(&all) {
                let (weight, m, v, decays) = number;
                let g = gradient * (config.max_grad_norm / norm).min(1.0);
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                if *decays {
                    *weight -= rate * config.weight_decay * *weight;
                }
                *weight -= rate * (*m / (1.0 - 0.9f64.powi(t))) / ((*v / (1.0 - 0.999f64.powi(t))).sqrt() + config.eps);
            }
            let found: Vec<f64> = parameters.iter().flat_map(|(_, p)| flat(p)).collect();
            for (found, (expected, ..)) in found.iter().zip(&by_hand) {
                assert!((found - expected).abs() < 1e-5, "step {step}: {found} {expected}");
            }
        }
        assert_eq!(optimizer.step(), 8);
    }

    #[test]
    fn a_gradient_that_is_not_finite_moves_nothing() {
        tch::set_num_threads(1);
        let parameters = parameters();
        let mut optimizer = AdamW::new(config(), &parameters).unwrap();
        optimizer.update(&parameters, &mut gradients(0)).unwrap();
        let before = (flat(&parameters[0].1), optimizer.to_safetensors().unwrap());
        for bad in [f64::NAN, f64::INFINITY] {
            let mut gradients = gradients(1);
            gradients[1] = gradients[1].fill(bad);
            let update = optimizer.update(&parameters, &mut gradients).unwrap();
            assert!(!update.applied && !update.grad_norm.is_finite());
            assert_eq!((flat(&parameters[0].1), optimizer.to_safetensors().unwrap()), before);
        }
        assert_eq!(optimizer.step(), 1);
    }

    #[test]
    fn a_round_trip_through_bytes_goes_on_bit_for_bit() {
        tch::set_num_threads(1);
        let (straight, resumed) = (parameters(), parameters());
        let mut optimizer = AdamW::new(config(), &straight).unwrap();
        let mut first = AdamW::new(config(), &resumed).unwrap();
        for step in 0..3 {
            optimizer.update(&straight, &mut gradients(step)).unwrap();
            first.update(&resumed, &mut gradients(step)).unwrap();
        }
        let bytes = first.to_safetensors().unwrap();
        assert_eq!(bytes, first.to_safetensors().unwrap(), "the same moments are the same bytes");
        let mut second = AdamW::new(config(), &resumed).unwrap();
        second.load_safetensors(&bytes).unwrap();
        assert_eq!(second.step(), 3);
        for step in 3..6 {
            optimizer.update(&straight, &mut gradients(step)).unwrap();
            second.update(&resumed, &mut gradients(step)).unwrap();
        }
        assert_eq!(second.to_safetensors().unwrap(), optimizer.to_safetensors().unwrap());
        for ((_, a), (_, b)) in straight.iter().zip(&resumed) {
            assert_eq!(flat(a), flat(b));
        }
    }

    #[test]
    fn settings_without_a_meaning_are_refused_by_key() {
        let refuse = |config: OptimizerConfig| AdamW::new(config, &[]).unwrap_err().to_string();
        assert!(refuse(OptimizerConfig { learning_rate: -1.0, ..config() }).contains("optimizer.learning_rate"));
        assert!(refuse(OptimizerConfig { betas: [0.9, 1.0], ..config() }).contains("optimizer.betas"));
        assert!(refuse(OptimizerConfig { eps: 0.0, ..config() }).contains("optimizer.eps"));
        assert!(refuse(OptimizerConfig { weight_decay: f64::NAN, ..config() }).contains("optimizer.weight_decay"));
        assert!(refuse(OptimizerConfig { max_grad_norm: -1.0, ..config() }).contains("optimizer.max_grad_norm"));
    }
}
