//! What a run says of its caches and its teachers.

use super::rows::Row;
use crate::{
    error::{CommandError, Result, off_thread},
    identity, preflight,
    teachers::{TEACHER, listed},
};
use model::{Device, Tokenizer, Transformer};
use record::{Digest, SamplerTopK};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use store::Snapshot;

/// What the store keeps a position.
pub(super) struct Kept {
    pub draws: usize,
    pub teacher_top_k: Cut,
    pub sampler_top_k: Cut,
}

/// How a top-k is cut.
pub(super) struct Cut {
    pub most: usize,
    pub mass: f64,
    pub floor: f64,
}

impl Kept {
    /// Of the score set that keeps the most of the teacher.
    pub fn of(now: &Snapshot) -> Self {
        let set = now.run.score_sets.values().max_by_key(|set| set.top_k_max);
        // A log that does not say what it keeps of the sampler may say so in its settings.
        let setting = |key: &str| now.settings.as_ref().and_then(|settings| settings["rollout"][key].as_f64());
        let of_settings = || Cut {
            most: setting("top_k_max").map_or(0, |most| most as usize),
            mass: setting("top_k_mass").unwrap_or(1.0),
            floor: 0.0,
        };
        let of_log = |kept: SamplerTopK| Cut { most: kept.max as usize, mass: kept.mass, floor: kept.floor };
        Self {
            draws: set.map_or(0, |set| set.draws as usize),
            teacher_top_k: set.map_or(Cut { most: 0, mass: 1.0, floor: 0.0 }, |set| Cut {
                most: set.top_k_max as usize,
                mass: set.top_k_mass,
                floor: set.top_k_floor,
            }),
            sampler_top_k: set.and_then(|set| set.sampler_top_k).map_or_else(of_settings, of_log),
        }
    }
}

/// The teachers of the rows: the run's own by id, or one for all.
pub(super) struct Teachers {
    given: Option<PathBuf>,
    /// Directory and digest of each of the run's.
    own: BTreeMap<String, (Option<PathBuf>, Digest)>,
    tokenizer: Arc<Tokenizer>,
}

impl Teachers {
    /// Those of the run in `now`, or the one in `given`.
    ///
    /// # Errors
    /// A `given` that is no model, or whose tokenizer is not the student's.
    pub fn new(now: &Snapshot, given: Option<&Path>, tokenizer: &Arc<Tokenizer>) -> Result<Self> {
        let settings = now.settings.clone().unwrap_or_default();
        let dir = |id: &str| {
            let section = if id == TEACHER && settings["teacher"].is_object() {
                &settings["teacher"]
            } else {
                &settings["teachers"][id]
            };
            section["model"].as_str().map(PathBuf::from)
        };
        let own = now.run.teachers.iter().map(|(id, digest)| (id.clone(), (dir(id), *digest))).collect();
        let teachers = Self { given: given.map(Path::to_path_buf), own, tokenizer: tokenizer.clone() };
        if let Some(given) = given {
            teachers.check_vocabulary("--teacher", given)?;
        }
        Ok(teachers)
    }

    /// That the teachers of `rows` are at hand, and the run's own are what they were.
    ///
    /// # Errors
    /// The first that is not.
    pub async fn check(&self, rows: &[Row]) -> Result<()> {
        if self.given.is_some() {
            return Ok(());
        }
        let ids: BTreeSet<&String> = rows.iter().map(|row| &row.teacher).collect();
        for id in ids {
            let dir = self.own_dir(id)?.to_path_buf();
            self.check_vocabulary(&format!("teacher `{id}`"), &dir)
                .map_err(|error| error.hint("name its directory: --teacher DIR"))?;
            self.check_digest(id, &dir).await?;
        }
        Ok(())
    }

    /// That the teacher at hand for the rows of `id` is the one that scored them.
    ///
    /// # Errors
    /// If it is not, or not at hand.
    pub async fn check_scored_by(&self, id: &str) -> Result<()> {
        match &self.given {
            Some(dir) => self.check_digest(id, dir).await,
            None => self.check_digest(id, self.own_dir(id)?).await,
        }
    }

    async fn check_digest(&self, id: &str, dir: &Path) -> Result<()> {
        let wanted = self.own.get(id).map(|(_, digest)| *digest);
        let (place, dir) = (dir.display().to_string(), dir.to_path_buf());
        let found = off_thread(move || identity::model_digest(&dir)).await?;
        if wanted == Some(found) {
            return Ok(());
        }
        let wanted = wanted.map_or("none".into(), |digest| digest.to_string());
        let what =
            format!("teacher `{id}` is `{place}`, whose config and weights have {found}; the run's had {wanted}");
        let hint = "name the directory that it was begun with, or that one if it is meant: --teacher DIR";
        Err(CommandError::new(what).hint(hint))
    }

    fn own_dir(&self, id: &str) -> Result<&Path> {
        if let Some((Some(dir), _)) = self.own.get(id) {
            return Ok(dir);
        }
        let known = listed(self.own.keys().map(String::as_str));
        let what = format!("the run does not say where its teacher `{id}` is; it names {known}");
        Err(CommandError::new(what).hint("name its directory: --teacher DIR"))
    }

    fn check_vocabulary(&self, key: &str, dir: &Path) -> Result<()> {
        let tokenizer = preflight::check_tokenizer(key, dir)?;
        match self.tokenizer.first_difference(&tokenizer) {
            None => Ok(()),
            Some(difference) => {
                let what = format!("{key} is `{}`, whose tokenizer is not the student's: {difference}", dir.display());
                Err(CommandError::new(what)
                    .hint("both must have one token map: their distributions are compared id by id"))
            }
        }
    }

    /// The network of the teacher `id`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn load(&self, id: &str) -> Result<Transformer> {
        let dir = match &self.given {
            Some(dir) => dir.clone(),
            None => self.own_dir(id)?.to_path_buf(),
        };
        off_thread(move || Ok(Transformer::load(&dir, Device::Cpu)?)).await
    }
}
