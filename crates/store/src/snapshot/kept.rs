//! What is given up, the pins that keep it from being so, and what lies in archives.

use super::Snapshot;
use record::{Archive, Pin, PolicyVersion, Retirement};
use std::collections::HashSet;

impl Snapshot {
    pub(super) fn retire(&mut self, retired: &Retirement) -> Result<(), String> {
        let Retirement { policies, moments, batches, steps } = retired;
        for version in policies {
            if self.newest_policy().version == *version || self.checkpoint == *version {
                return Err(format!("policy {version} is still needed"));
            }
            self.check_unpinned("policy", *version)?;
            self.policies.remove(version);
            self.evaluated.values_mut().for_each(|versions| {
                versions.remove(version);
            });
        }
        for version in moments {
            if self.checkpoint == *version {
                return Err(format!("the moments of {version} are still needed"));
            }
            self.check_unpinned("the moments of", *version)?;
            self.moments.remove(version);
        }
        if let Some(id) = batches.iter().find(|id| self.batches.contains_key(*id)) {
            return Err(format!("batch `{id}` is still needed"));
        }
        if let Some(step) = steps.iter().find(|step| **step > self.version.0) {
            return Err(format!("there is no step {step} yet"));
        }
        Ok(())
    }

    /// The pin that covers weights and moments of `version`, if there is one.
    pub fn pin_of(&self, version: PolicyVersion) -> Option<&Pin> {
        self.pins.values().find(|pin| pin.covers_version(version))
    }

    fn check_unpinned(&self, what: &str, version: PolicyVersion) -> Result<(), String> {
        match self.pin_of(version) {
            Some(pin) => Err(format!("{what} {version} is kept by the pin `{}`", pin.name)),
            None => Ok(()),
        }
    }

    pub(super) fn pin(&mut self, pin: &Pin) -> Result<(), String> {
        if pin.upto > self.seq {
            return Err(format!("it covers commits up to {}, the log ends at {}", pin.upto, self.seq));
        }
        if pin.first > pin.last || pin.last > self.version {
            return Err(format!("it covers {} to {}, the learner is at {}", pin.first, pin.last, self.version));
        }
        match self.pins.insert(pin.name.clone(), pin.clone()) {
            Some(other) if other != *pin => Err(format!("there is another pin `{}`", pin.name)),
            _ => Ok(()),
        }
    }
    /// Only what no job plans with is moved: jobs need not look for it.
    pub(super) fn archive(&mut self, archive: &Archive, seq: u64) -> Result<(), String> {
        archive.check()?;
        let of_batch = |batch: &'_ super::Batch| -> Vec<String> {
            std::iter::once(&batch.object).chain(batch.scores.values()).map(|object| object.key.clone()).collect()
        };
        let live: HashSet<String> = self.batches.values().flat_map(of_batch).collect();
        if let Some(of) = archive.moves.iter().find(|of| live.contains(&of.key)) {
            return Err(format!("`{}` is of a live batch", of.key));
        }
        self.archives.push(seq);
        Ok(())
    }
}
