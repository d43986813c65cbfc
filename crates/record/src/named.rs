//! The objects that a commit names.

use crate::{BatchId, Event, ObjectRef, PolicyVersion};

/// What an object is to the commit that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A file of the student's, by its name.
    File(String),
    /// The weights of a policy version.
    Weights(PolicyVersion),
    /// The optimizer's moments at a policy version.
    Moments(PolicyVersion),
    /// A batch of rollouts.
    Rollouts(BatchId),
    /// The scores of a batch.
    Scores {
        /// The batch.
        batch: BatchId,
        /// The score set.
        score_set: String,
    },
    /// What the learner saw in a step.
    StepRecord(u64),
    /// An archive of batches or step records.
    Archive,
}

impl Event {
    /// Every object of this store that the commit names, with what it is.
    pub fn objects(&self) -> Vec<(What, &ObjectRef)> {
        match self {
            Event::Run(run) => {
                let own = [("config.json", &run.student_config), ("tokenizer.json", &run.student_tokenizer)];
                let others = run.student_files.iter().map(|(name, file)| (name.as_str(), file));
                let files = own.into_iter().chain(others).map(|(name, file)| (What::File(name.into()), file));
                files.chain([(What::Weights(run.policy.version), &run.policy.weights)]).collect()
            }
            Event::Rollouts(rollouts) => vec![(What::Rollouts(rollouts.batch.clone()), &rollouts.object)],
            Event::Scores(scores) => {
                let (batch, score_set) = (scores.batch.clone(), scores.score_set.clone());
                vec![(What::Scores { batch, score_set }, &scores.object)]
            }
            Event::Step(step) => {
                let version = PolicyVersion(step.step);
                let weights = step.policy.iter().map(|policy| (What::Weights(version), &policy.weights));
                let moments = step.moments.iter().map(|moments| (What::Moments(version), moments));
                [(What::StepRecord(step.step), &step.record)].into_iter().chain(weights).chain(moments).collect()
            }
            Event::Archive(archive) => vec![(What::Archive, &archive.object)],
            _ => Vec::new(),
        }
    }

    /// The same objects, to be named anew: what a commit names may have had to be put again.
    pub fn objects_mut(&mut self) -> Vec<&mut ObjectRef> {
        match self {
            Event::Run(run) => {
                let files = [&mut run.student_config, &mut run.student_tokenizer].into_iter();
                files.chain(run.student_files.values_mut()).chain([&mut run.policy.weights]).collect()
            }
            Event::Rollouts(rollouts) => vec![&mut rollouts.object],
            Event::Scores(scores) => vec![&mut scores.object],
            Event::Step(step) => {
                let weights = step.policy.iter_mut().map(|policy| &mut policy.weights);
                [&mut step.record].into_iter().chain(weights).chain(&mut step.moments).collect()
            }
            Event::Archive(archive) => vec![&mut archive.object],
            _ => Vec::new(),
        }
    }
}
