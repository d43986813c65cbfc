//! What the jobs store: batches of rollouts and of scores, step records, weights and moments.

use crate::{Key, Result, Store, StoreError, ipc};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use bytes::Bytes;
use record::{
    Budget, Codec, ObjectRef, Packing, PolicyVersion, RecordError, RolloutBatch, ScoredBatch,
    schema::{self, ROLLOUTS, SCORES, STEPS},
};

impl Store {
    /// Stores a batch of rollouts.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn put_rollouts(&self, batch: &str, rollouts: &RolloutBatch) -> Result<ObjectRef> {
        let key = Key::rollouts(rollouts.policy_version(), batch);
        self.put_columns(key, rollouts.as_record_batch().clone()).await
    }

    /// Stores the scores of a batch.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn put_scores(&self, score_set: &str, batch: &str, scored: &ScoredBatch) -> Result<ObjectRef> {
        self.put_columns(Key::scores(score_set, batch), scored.scores().clone()).await
    }

    /// Stores a batch of rollouts with its draws and its sampler's top-k packed; ids are below `vocabulary`.
    ///
    /// # Errors
    /// As [`Store::put`]; [`StoreError::Invalid`] with the first entry that `codec` refuses.
    pub async fn put_packed_rollouts(
        &self,
        batch: &str,
        rollouts: &RolloutBatch,
        codec: Codec,
        vocabulary: u32,
    ) -> Result<(ObjectRef, Packing)> {
        let key = Key::rollouts(rollouts.policy_version(), batch);
        self.put_packed(key, rollouts.as_record_batch().clone(), codec, vocabulary).await
    }

    /// Stores the scores of a batch with the teacher's top-k and draws packed; ids are below `vocabulary`.
    ///
    /// # Errors
    /// As [`Store::put_packed_rollouts`].
    pub async fn put_packed_scores(
        &self,
        score_set: &str,
        batch: &str,
        scored: &ScoredBatch,
        codec: Codec,
        vocabulary: u32,
    ) -> Result<(ObjectRef, Packing)> {
        self.put_packed(Key::scores(score_set, batch), scored.scores().clone(), codec, vocabulary).await
    }

    /// Stores what the learner saw in a step; `rows` is from [`record::encode_step`].
    ///
    /// # Errors
    /// As [`Store::put`]; [`StoreError::Invalid`] if `rows` is no step record.
    pub async fn put_step_record(&self, step: u64, rows: RecordBatch) -> Result<ObjectRef> {
        let key = Key::step(step);
        schema::check(&rows, &STEPS).map_err(|reason| StoreError::Invalid { key: key.as_str().into(), reason })?;
        self.put_columns(key, rows).await
    }

    /// Stores the weights of a policy version.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn put_policy(&self, version: PolicyVersion, safetensors: impl Into<Bytes>) -> Result<ObjectRef> {
        self.put(Key::weights(version), safetensors).await
    }

    /// Stores the optimizer's moments at a policy version.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn put_moments(&self, version: PolicyVersion, safetensors: impl Into<Bytes>) -> Result<ObjectRef> {
        self.put(Key::moments(version), safetensors).await
    }

    /// A batch of rollouts; mapped, not copied, where the store is local.
    ///
    /// # Errors
    /// As [`Store::get`]; [`StoreError::Corrupt`] or [`StoreError::Invalid`] if it is no batch of rollouts.
    pub async fn get_rollouts(&self, object: &ObjectRef) -> Result<RolloutBatch> {
        self.get_rollouts_within(object, Budget::default()).await
    }

    /// As [`Store::get_rollouts`], decoding no more than `budget` asks for. Draws of which some are wanted are all there.
    ///
    /// # Errors
    /// As [`Store::get_rollouts`].
    pub async fn get_rollouts_within(&self, object: &ObjectRef, budget: Budget) -> Result<RolloutBatch> {
        let check = move |batch| RolloutBatch::try_new(record::unpack_within(batch, &budget)?);
        self.get_columns(object, &ROLLOUTS, budget, check).await
    }

    /// The columns of a batch of scores, checked against their schema alone.
    ///
    /// # Errors
    /// As [`Store::get_rollouts`].
    pub async fn get_scores(&self, object: &ObjectRef) -> Result<RecordBatch> {
        self.get_scores_within(object, Budget::default()).await
    }

    /// As [`Store::get_scores`], decoding no more than `budget` asks for. Draws of which some are wanted are all there.
    ///
    /// # Errors
    /// As [`Store::get_rollouts`].
    pub async fn get_scores_within(&self, object: &ObjectRef, budget: Budget) -> Result<RecordBatch> {
        let check = move |batch| schema::up_to_date(record::unpack_within(batch, &budget)?, &SCORES);
        self.get_columns(object, &SCORES, budget, check).await
    }

    /// What the learner saw in a step.
    ///
    /// # Errors
    /// As [`Store::get_rollouts`].
    pub async fn get_step_record(&self, object: &ObjectRef) -> Result<RecordBatch> {
        self.get_columns(object, &STEPS, Budget::default(), |batch| schema::up_to_date(batch, &STEPS)).await
    }

    /// A batch of rollouts with one of its score sets, zipped.
    ///
    /// # Errors
    /// As [`Store::get_rollouts`]; [`StoreError::Invalid`], naming the scores, if they do not fit the rollouts.
    pub async fn get_scored(&self, rollouts: &ObjectRef, scores: &ObjectRef) -> Result<ScoredBatch> {
        self.get_scored_within(rollouts, scores, Budget::default()).await
    }

    /// As [`Store::get_scored`], with no more at a position than `budget` asks for; of packed columns no more is decoded.
    ///
    /// # Errors
    /// As [`Store::get_scored`].
    pub async fn get_scored_within(
        &self,
        rollouts: &ObjectRef,
        scores: &ObjectRef,
        budget: Budget,
    ) -> Result<ScoredBatch> {
        let (of_rollouts, of_scores) =
            (self.get_rollouts_within(rollouts, budget), self.get_scores_within(scores, budget));
        let (rollouts, columns) = futures::future::try_join(of_rollouts, of_scores).await?;
        let key = scores.key.clone();
        let zip = move || {
            ScoredBatch::zip_within(rollouts, columns, &budget).map_err(|reason| StoreError::Invalid { key, reason })
        };
        self.blocking(&scores.key, zip).await
    }

    async fn put_packed(
        &self,
        key: Key,
        batch: RecordBatch,
        codec: Codec,
        vocabulary: u32,
    ) -> Result<(ObjectRef, Packing)> {
        let name = key.as_str().to_string();
        let pack =
            move || record::pack(&batch, codec, vocabulary).map_err(|reason| StoreError::Invalid { key: name, reason });
        let (batch, packing) = self.blocking(key.as_str(), pack).await?;
        Ok((self.put_columns(key, batch).await?, packing))
    }

    async fn put_columns(&self, key: Key, batch: RecordBatch) -> Result<ObjectRef> {
        let name = key.as_str().to_string();
        let encode = move || {
            let invalid = |reason| StoreError::Invalid { key: name, reason };
            ipc::encode(&batch).map_err(|error| invalid(RecordError::from(error)))
        };
        let bytes = self.blocking(key.as_str(), encode).await?;
        self.put(key, bytes).await
    }

    /// Of columns that `budget` asks nothing of, `check` may see empty ones.
    async fn get_columns<T: Send + 'static>(
        &self,
        object: &ObjectRef,
        schema: &SchemaRef,
        budget: Budget,
        check: impl FnOnce(RecordBatch) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T> {
        let batch = self.get_batch(object, schema, budget).await?;
        let key = object.key.clone();
        self.blocking(&object.key, move || check(batch).map_err(|reason| StoreError::Invalid { key, reason })).await
    }

    /// The columns of an object as they lie in it, wherever its rows lie by now.
    async fn get_batch(&self, object: &ObjectRef, schema: &SchemaRef, budget: Budget) -> Result<RecordBatch> {
        if let Some(place) = self.place_of(&object.key) {
            return self.get_moved(object, place, schema, budget).await;
        }
        let missing = match self.get_own(object, schema).await {
            Err(missing @ StoreError::Missing { .. }) => missing,
            read => return read,
        };
        // Moved since the log was read, or before, by a process that knows of it from a snapshot alone.
        match self.look_for(&object.key).await {
            Ok(Some(place)) => self.get_moved(object, place, schema, budget).await,
            Err(error) if !error.is_of_one_object() => Err(error),
            // It is gone; that the log is damaged as well is told by whoever reads it.
            Ok(None) | Err(_) => Err(missing),
        }
    }

    /// The columns of an object that lies where it was put.
    pub(crate) async fn get_own(&self, object: &ObjectRef, schema: &SchemaRef) -> Result<RecordBatch> {
        let bytes = self.get(object).await?;
        let (key, schema) = (object.key.clone(), schema.clone());
        let decode = move || {
            ipc::decode(bytes, &schema).map_err(|fault| match fault {
                ipc::Fault::Malformed(found) => {
                    StoreError::Corrupt { key, expected: "a batch as an Arrow file".into(), found }
                }
                ipc::Fault::Newer(found, newest) => StoreError::NewerFormat { key, found, newest },
            })
        };
        self.blocking(&object.key, decode).await
    }
}
