//! Whether what a replay is to read of its parent can be read: kept, whole, and as exact as the estimator needs it. Found out before
//! anything is written.

use super::parent::ParentRun;
use crate::{
    error::{CommandError, Result},
    score_set,
};
use futures::{StreamExt, TryStreamExt};
use learner::EstimatorConfig;
use record::{BatchId, Event, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};

/// Objects that are looked up at once.
const AT_ONCE: usize = 16;
/// Of those that are not whole, so many are named.
const NAMED: usize = 3;

impl ParentRun {
    /// Checks that none of these batches was given up: what lies there still will be deleted, pinned or not.
    ///
    /// # Errors
    /// How many were, the first few by name.
    pub fn check_kept<'a>(&self, batches: impl Iterator<Item = &'a BatchId>) -> Result<()> {
        let named: Vec<&BatchId> = batches.collect();
        let lost: Vec<&str> = named.iter().filter(|id| self.given_up.contains(**id)).map(|id| id.as_str()).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let first = lost.iter().take(NAMED).map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ");
        let more = if lost.len() > NAMED { format!(" and {} more", lost.len() - NAMED) } else { String::new() };
        let what = format!(
            "{}: `{}` has given up {} of the {} batches that are read: {first}{more}",
            self.keys.from,
            self.store.url(),
            lost.len(),
            named.len()
        );
        Err(CommandError::new(what).hint(format!("read a copy that keeps them, {}", self.keys.without_lost)))
    }

    /// Checks that of these batches none has a sampler's top-k that was rounded, where the estimator reads its probabilities as they were.
    ///
    /// # Errors
    /// The first batch that has, in the order of the log.
    pub fn check_codecs<'a>(
        &self,
        batches: impl Iterator<Item = &'a BatchId>,
        estimator: &EstimatorConfig,
    ) -> Result<()> {
        let (batches, url): (BTreeSet<&BatchId>, _) = (batches.collect(), self.store.url());
        let delivered = self.commits.iter().filter_map(|commit| match &commit.event {
            Event::Rollouts(rollouts) if batches.contains(&rollouts.batch) => Some(rollouts),
            _ => None,
        });
        for rollouts in delivered {
            let what = format!("the codec of batch `{}` of `{url}`", rollouts.batch);
            score_set::check_sampler(&what, rollouts.codec.unwrap_or_default(), estimator)
                .map_err(|error| error.at(self.keys.from))?;
        }
        Ok(())
    }

    /// Checks that every one of some objects is there with its length. Digests are checked as they are read.
    ///
    /// # Errors
    /// How many are not, the first few by key.
    pub async fn check_objects(&self, objects: impl Iterator<Item = &ObjectRef>) -> Result<()> {
        let objects: BTreeMap<_, _> = objects.map(|object| (&object.key, object)).collect();
        let total = objects.len();
        let looked = futures::stream::iter(objects.into_values())
            .map(|object| async move {
                match self.store.check_length(object).await {
                    Err(error) if error.is_of_one_object() => Ok(Some(error.to_string())),
                    other => other.map(|()| None),
                }
            })
            .buffered(AT_ONCE);
        let lost: Vec<String> = looked.try_filter_map(|found| std::future::ready(Ok(found))).try_collect().await?;
        if lost.is_empty() {
            return Ok(());
        }
        let first: Vec<&str> = lost.iter().take(NAMED).filter_map(|text| text.lines().next()).collect();
        let more = if lost.len() > NAMED { format!("\n  and {} more", lost.len() - NAMED) } else { String::new() };
        let what = format!(
            "{}: `{}` lost {} of the {total} objects that are read:\n  {}{more}",
            self.keys.from,
            self.store.url(),
            lost.len(),
            first.join("\n  ")
        );
        Err(CommandError::new(what).hint(format!("bring them back from a copy, {}", self.keys.without_lost)))
    }
}
