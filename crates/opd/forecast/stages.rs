//! What each stage's work takes, measured: seconds from a run's own log, or given.

use crate::error::{CommandError, Result};
use record::{Commit, Event};

/// Seconds of work, one number for each unit sampled, batch scored and step made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stages {
    /// Of each unit.
    pub rollout: Vec<f64>,
    /// Of each batch.
    pub score: Vec<f64>,
    /// Of each step.
    pub learn: Vec<f64>,
}

impl Stages {
    /// What the log says. The first of each stage is left out where there are more: it includes what is done once, such as
    /// loading a model.
    ///
    /// # Errors
    /// If a stage has no work in the log.
    pub fn recorded(commits: &[Commit]) -> Result<Self> {
        let mut stages = Self::default();
        // A unit for several teachers is sampled once and delivered in several commits, all but the first of which take no time.
        let mut unit = None;
        for commit in commits {
            let (stage, seconds) = match &commit.event {
                Event::Rollouts(rollouts) => {
                    let place = Some((commit.work.worker.clone(), rollouts.of.unit));
                    let is_same = std::mem::replace(&mut unit, place.clone()) == place;
                    match stages.rollout.last_mut().filter(|_| is_same) {
                        Some(last) => {
                            *last += commit.work.busy_s;
                            continue;
                        }
                        None => (&mut stages.rollout, commit.work.busy_s),
                    }
                }
                Event::Scores(_) => (&mut stages.score, commit.work.busy_s),
                Event::Step(_) => (&mut stages.learn, commit.work.busy_s),
                _ => continue,
            };
            stage.push(seconds);
        }
        for (name, stage) in
            [("sampled unit", &mut stages.rollout), ("scored batch", &mut stages.score), ("step", &mut stages.learn)]
        {
            match stage.len() {
                0 => {
                    return Err(CommandError::new(format!("the log has no {name} yet"))
                        .hint("let the run make a few steps first"));
                }
                1 => {}
                _ => drop(stage.remove(0)),
            }
        }
        Ok(stages)
    }

    /// `rollout,score,learn`: seconds of a step's worth of each.
    ///
    /// # Errors
    /// If they are not three numbers of 0 or more, the learner's above 0.
    pub fn given(text: &str) -> Result<Self> {
        let fault = || {
            CommandError::new(format!("--stages `{text}`: expected three numbers of seconds, the last above 0"))
                .hint("what a step's worth of sampling, scoring and learning takes: --stages 3.2,1,0.8")
        };
        let numbers: Vec<f64> =
            text.split(',').map(|number| number.trim().parse()).collect::<Result<_, _>>().map_err(|_| fault())?;
        match numbers[..] {
            [rollout, score, learn] if numbers.iter().all(|s| s.is_finite() && *s >= 0.0) && learn > 0.0 => {
                Ok(Self { rollout: vec![rollout], score: vec![score], learn: vec![learn] })
            }
            _ => Err(fault()),
        }
    }
}

/// Mean of seconds, and their standard deviation to the mean.
pub fn mean_and_spread(seconds: &[f64]) -> (f64, f64) {
    let count = seconds.len().max(1) as f64;
    let mean = seconds.iter().sum::<f64>() / count;
    let variance = seconds.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / count;
    (mean, if mean > 0.0 { variance.sqrt() / mean } else { 0.0 })
}
