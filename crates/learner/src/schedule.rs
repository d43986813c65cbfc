//! The learning rate as a pure function of the step.

use crate::{LearnError, Result};
use serde::{Deserialize, Serialize};

/// How the learning rate moves: up over `warmup_steps`, then by `name` down to `floor` at `total_steps`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Its shape after the warm-up.
    pub name: Shape,
    /// Steps over which the rate grows in a straight line to its full height.
    pub warmup_steps: u64,
    /// The step at which the floor is reached; not read by `constant`.
    pub total_steps: u64,
    /// Share of the full height at the end; not read by `constant`.
    pub floor: f64,
}

/// Shape of a schedule after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Full height throughout.
    #[default]
    Constant,
    /// A straight line.
    Linear,
    /// Half a cosine.
    Cosine,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { name: Shape::Constant, warmup_steps: 0, total_steps: 0, floor: 0.0 }
    }
}

impl Schedule {
    /// Share of the full learning rate for the update that follows `step` updates; in [0, 1].
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / span as f64).min(1.0);
        match self.name {
            Shape::Constant => 1.0,
            Shape::Linear => 1.0 - (1.0 - self.floor) * progress,
            Shape::Cosine => self.floor + (1.0 - self.floor) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }

    /// Refuses settings without a meaning.
    ///
    /// # Errors
    /// [`LearnError::Setting`] with the key.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.floor) {
            let (expected, found) = ("a share from 0 to 1".into(), self.floor.to_string());
            return Err(LearnError::Setting { key: "schedule.floor", expected, found });
        }
        if self.name != Shape::Constant && self.total_steps <= self.warmup_steps {
            let expected = format!("more than `schedule.warmup_steps` ({})", self.warmup_steps);
            return Err(LearnError::Setting {
                key: "schedule.total_steps",
                expected,
                found: self.total_steps.to_string(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn up_then_down() {
        let at = |name, step| Schedule { name, warmup_steps: 4, total_steps: 12, floor: 0.2 }.factor(step);
        for name in [Shape::Constant, Shape::Linear, Shape::Cosine] {
            assert_eq!([at(name, 0), at(name, 1), at(name, 3), at(name, 4)], [0.25, 0.5, 1.0, 1.0]);
        }
        assert_eq!([at(Shape::Constant, 8), at(Shape::Constant, 100)], [1.0, 1.0]);
        assert!((at(Shape::Linear, 8) - 0.6).abs() < 1e-12 && (at(Shape::Linear, 12) - 0.2).abs() < 1e-12);
        assert!((at(Shape::Cosine, 8) - 0.6).abs() < 1e-12 && (at(Shape::Cosine, 500) - 0.2).abs() < 1e-12);
        assert!(at(Shape::Cosine, 5) > at(Shape::Linear, 5), "a cosine starts flat");
    }

    proptest! {
        #[test]
        fn never_above_one_nor_below_the_floor(step in 0u64..1000, total in 11u64..900, floor in 0.0f64..1.0) {
            for name in [Shape::Linear, Shape::Cosine] {
                let schedule = Schedule { name, warmup_steps: 10, total_steps: total, floor };
                prop_assert!(schedule.validate().is_ok());
                let factor = schedule.factor(step);
                prop_assert!(factor <= 1.0 && (step < 10 || factor >= floor - 1e-12), "{}", factor);
            }
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let never = Schedule { name: Shape::Linear, warmup_steps: 9, total_steps: 9, floor: 0.0 };
        assert!(never.validate().unwrap_err().to_string().contains("schedule.total_steps"));
        let high = Schedule { floor: 1.5, ..Schedule::default() };
        assert!(high.validate().unwrap_err().to_string().contains("schedule.floor"));
    }
}
