//! Top-k by mass: how much of a distribution is worth keeping, and the log mass of what is not.

use crate::{Error, Result};

/// Keep the fewest ids whose mass reaches `mass`, never more than `max`, and none but the first that is less likely than `floor`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopK {
    /// Mass in (0, 1] to reach; 1 keeps exactly `max` ids.
    pub mass: f64,
    /// Most ids to keep.
    pub max: usize,
    /// Least probability in [0, 1) of an id to keep: what an entry costs, it must be worth.
    pub floor: f64,
}

impl TopK {
    /// Refuses a mass outside (0, 1], a floor outside [0, 1) and a `max` of 0.
    pub fn check(&self) -> Result<()> {
        if !(self.mass > 0.0 && self.mass <= 1.0) {
            return Err(Error::Setting {
                key: "top_k.mass",
                expected: "in (0, 1]".into(),
                found: self.mass.to_string(),
            });
        }
        if !(0.0..1.0).contains(&self.floor) {
            let found = self.floor.to_string();
            return Err(Error::Setting { key: "top_k.floor", expected: "in [0, 1)".into(), found });
        }
        if self.max == 0 {
            return Err(Error::Setting { key: "top_k.max", expected: "at least 1".into(), found: "0".into() });
        }
        Ok(())
    }

    /// How many of the most likely ids to keep, given their logprobs, most likely first, and the log mass of the ids that
    /// are not among them; and the log mass outside what is kept.
    ///
    /// The tail is a sum over the complement (the ids not listed, and those listed but not kept), never one minus the mass
    /// kept: in float32 that difference is wrong below 1e-6.
    pub fn keep(&self, logprobs: &[f32], log_rest: f32) -> (usize, f32) {
        let most = logprobs.len().min(self.max);
        let mut kept = most;
        if self.mass < 1.0 {
            let mut mass = 0.0;
            for (i, &logprob) in logprobs[..most].iter().enumerate() {
                mass += f64::from(logprob).exp();
                if mass >= self.mass {
                    kept = i + 1;
                    break;
                }
            }
        }
        if self.floor > 0.0 {
            let likely = logprobs[..kept].iter().take_while(|logprob| f64::from(**logprob).exp() >= self.floor).count();
            kept = likely.max(1).min(kept);
        }
        (kept, log_add(&logprobs[kept..], log_rest))
    }
}

/// log(exp(`rest`) + sum of exp(`terms`)), in float64.
fn log_add(terms: &[f32], rest: f32) -> f32 {
    let largest = terms.iter().fold(rest, |a, &b| a.max(b));
    if terms.is_empty() || largest == f32::NEG_INFINITY {
        return largest;
    }
    let shift = f64::from(largest);
    let sum: f64 = terms.iter().chain([&rest]).map(|&x| (f64::from(x) - shift).exp()).sum();
    (shift + sum.ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_the_fewest_that_reach_the_mass() {
        let logprobs = [0.5_f32, 0.25, 0.125, 0.0625].map(f32::ln);
        let rest = 0.0625_f32.ln();
        let keep = |mass, max| TopK { mass, max, floor: 0.0 }.keep(&logprobs, rest).0;
        assert_eq!([keep(0.4, 4), keep(0.49, 4), keep(0.51, 4), keep(0.8, 4), keep(0.99, 4)], [1, 1, 2, 3, 4]);
        assert_eq!(keep(0.99, 2), 2);
        assert_eq!(keep(1.0, 3), 3);
    }

    #[test]
    fn a_floor_leaves_out_the_unlikely_but_never_the_first() {
        let logprobs = [0.5_f32, 0.25, 0.125].map(f32::ln);
        let keep = |floor, mass| TopK { mass, max: 3, floor }.keep(&logprobs, 0.125_f32.ln());
        assert_eq!([0.0, 0.12, 0.2, 0.3, 0.9].map(|floor| keep(floor, 1.0).0), [3, 3, 2, 1, 1]);
        assert_eq!(keep(0.2, 0.49).0, 1, "mass is reached first");
        assert!((keep(0.3, 1.0).1.exp() - 0.5).abs() < 1e-6, "what is left out is in the tail");
    }

    #[test]
    fn an_empty_complement_has_no_mass() {
        assert_eq!(TopK { mass: 1.0, max: 8, floor: 0.0 }.keep(&[0.0], f32::NEG_INFINITY), (1, f32::NEG_INFINITY));
    }

    #[test]
    fn a_bad_rule_is_refused_by_key() {
        for mass in [0.0, -1.0, 1.5, f64::NAN] {
            assert!(TopK { mass, max: 1, floor: 0.0 }.check().unwrap_err().to_string().contains("top_k.mass"));
        }
        for floor in [-0.1, 1.0, f64::NAN] {
            assert!(TopK { mass: 1.0, max: 1, floor }.check().unwrap_err().to_string().contains("top_k.floor"));
        }
        assert!(TopK { mass: 0.5, max: 0, floor: 0.0 }.check().unwrap_err().to_string().contains("top_k.max"));
        TopK { mass: 1.0, max: 1, floor: 0.0 }.check().unwrap();
    }

    proptest! {
        /// Kept mass is enough, one id fewer is not, and the tail is the float64 sum of the complement, however small.
        #[test]
        fn mass_and_tail_agree_with_float64(
            logits in prop::collection::vec(-30.0_f64..0.0, 2..40), mass in 0.01_f64..0.9999, max in 1_usize..50, listed in 1_usize..40,
        ) {
            let total = logits.iter().map(|z| z.exp()).sum::<f64>().ln();
            let mut logprobs: Vec<f64> = logits.iter().map(|z| z - total).collect();
            logprobs.sort_by(|a, b| b.total_cmp(a));
            let listed = listed.min(logprobs.len());
            let sum = |range: &[f64]| range.iter().map(|x| x.exp()).sum::<f64>();
            let top: Vec<f32> = logprobs[..listed].iter().map(|&x| x as f32).collect();
            let (kept, tail) = TopK { mass, max, floor: 0.0 }.keep(&top, sum(&logprobs[listed..]).ln() as f32);
            prop_assert!(kept >= 1 && kept <= max.min(listed));
            if kept < max.min(listed) {
                prop_assert!(sum(&logprobs[..kept]) >= mass - 1e-6);
            }
            prop_assert!(kept == 1 || sum(&logprobs[..kept - 1]) < mass + 1e-6);
            let expected = sum(&logprobs[kept..]).ln();
            prop_assert!(expected == f64::NEG_INFINITY && tail == f32::NEG_INFINITY || (f64::from(tail) - expected).abs() < 1e-5);
        }
    }
}
