//! What the jobs store: batches of rollouts and of scores, step records, weights and moments.

use crate::{Key, Result, Store, StoreError, archive::Place, ipc, object::Fetched};
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
        self.get_columns(object, &ROLLOUTS, budget, move |batch| open_rollouts(batch, &budget)).await
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
        self.get_columns(object, &SCORES, budget, move |batch| open_scores(batch, &budget)).await
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
        let is_moved = |object: &ObjectRef| self.place_of(&object.key).is_some();
        if !is_moved(rollouts) && !is_moved(scores) {
            match self.get_both(rollouts, scores, budget).await {
                // It may have been moved since the log was read.
                Err(StoreError::Missing { .. }) => {}
                read => return read,
            }
        }
        let (of_rollouts, of_scores) =
            (self.get_rollouts_within(rollouts, budget), self.get_scores_within(scores, budget));
        let (rollouts, columns) = futures::future::try_join(of_rollouts, of_scores).await?;
        let key = scores.key.clone();
        let zip = move || {
            ScoredBatch::zip_within(rollouts, columns, &budget).map_err(|reason| StoreError::Invalid { key, reason })
        };
        self.blocking(&scores.key, zip).await
    }

    /// The same of objects that lie where they were put: one piece of work for both, as to hand a batch from thread to thread takes longer
    /// than to map it.
    async fn get_both(&self, rollouts: &ObjectRef, scores: &ObjectRef, budget: Budget) -> Result<ScoredBatch> {
        let fetched = futures::future::try_join(self.fetch(rollouts), self.fetch(scores)).await?;
        let (store, rollouts, scores) = (self.clone(), rollouts.clone(), scores.clone());
        self.blocking(&scores.key.clone(), move || {
            let rollouts =
                store.decode(&rollouts, fetched.0, &ROLLOUTS, |_| true, |batch| open_rollouts(batch, &budget))?;
            let columns = store.decode(&scores, fetched.1, &SCORES, |_| true, |batch| open_scores(batch, &budget))?;
            let zipped = ScoredBatch::zip_within(rollouts, columns, &budget);
            zipped.map_err(|reason| StoreError::Invalid { key: scores.key, reason })
        })
        .await
    }

    /// The columns of a batch or step record that are called `columns`, in that order; `schema` is one of [`record::schema`]. No others
    /// are looked at, and these are checked against their schema alone: what they say of each other is not.
    ///
    /// # Errors
    /// As [`Store::get_rollouts`]; [`StoreError::Invalid`] if the schema has no column of one of the names.
    pub async fn get_some(
        &self,
        object: &ObjectRef,
        schema: &'static SchemaRef,
        columns: Vec<String>,
    ) -> Result<RecordBatch> {
        let (budget, stored) = (packed_columns(&columns), record::stored_columns(&columns));
        // Of what was moved, the groups that are not wanted are there and empty.
        let select = move |batch| schema::select(record::unpack_within(batch, &budget)?, schema, &columns);
        self.get_wanted(object, schema, budget, move |name| stored.contains(name), select).await
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
        schema: &'static SchemaRef,
        budget: Budget,
        check: impl FnOnce(RecordBatch) -> Result<T, RecordError> + Clone + Send + 'static,
    ) -> Result<T> {
        self.get_wanted(object, schema, budget, |_| true, check).await
    }

    /// What `check` makes of the columns of an object that are `wanted`, wherever its rows lie by now.
    async fn get_wanted<T: Send + 'static>(
        &self,
        object: &ObjectRef,
        schema: &'static SchemaRef,
        budget: Budget,
        wanted: impl Fn(&str) -> bool + Clone + Send + 'static,
        check: impl FnOnce(RecordBatch) -> Result<T, RecordError> + Clone + Send + 'static,
    ) -> Result<T> {
        if let Some(place) = self.place_of(&object.key) {
            let damaged = match self.get_archived(object, place, schema, budget, check.clone()).await {
                Err(damaged) if damaged.is_of_one_object() => damaged,
                read => return read,
            };
            // Where it was put it may lie yet, or again.
            return match self.get_put(object, schema, wanted, check).await {
                Err(error) if error.is_of_one_object() => Err(damaged),
                read => read,
            };
        }
        let missing = match self.get_put(object, schema, wanted, check.clone()).await {
            Err(missing @ StoreError::Missing { .. }) => missing,
            read => return read,
        };
        // Moved since the log was read, or before, by a process that knows of it from a snapshot alone.
        match self.look_for(&object.key).await {
            Ok(Some(place)) => self.get_archived(object, place, schema, budget, check).await,
            Err(error) if !error.is_of_one_object() => Err(error),
            // It is gone; that the log is damaged as well is told by whoever reads it.
            Ok(None) | Err(_) => Err(missing),
        }
    }

    /// The same of an object whose rows were moved.
    async fn get_archived<T: Send + 'static>(
        &self,
        object: &ObjectRef,
        place: Place,
        schema: &SchemaRef,
        budget: Budget,
        check: impl FnOnce(RecordBatch) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T> {
        let batch = self.get_moved(object, place, schema, budget).await?;
        let key = object.key.clone();
        self.blocking(&object.key, move || check(batch).map_err(|reason| StoreError::Invalid { key, reason })).await
    }

    /// The same of an object that lies where it was put.
    async fn get_put<T: Send + 'static>(
        &self,
        object: &ObjectRef,
        schema: &SchemaRef,
        wanted: impl Fn(&str) -> bool + Send + 'static,
        check: impl FnOnce(RecordBatch) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T> {
        let fetched = self.fetch(object).await?;
        let (store, object, schema) = (self.clone(), object.clone(), schema.clone());
        self.blocking(&object.key.clone(), move || store.decode(&object, fetched, &schema, wanted, check)).await
    }

    /// The columns of an object that lies where it was put, as they lie in it.
    pub(crate) async fn get_own(&self, object: &ObjectRef, schema: &SchemaRef) -> Result<RecordBatch> {
        self.get_put(object, schema, |_| true, Ok).await
    }

    /// What `check` makes of the batch in `object`. Blocks.
    fn decode<T>(
        &self,
        object: &ObjectRef,
        fetched: Fetched,
        schema: &SchemaRef,
        wanted: impl Fn(&str) -> bool,
        check: impl FnOnce(RecordBatch) -> Result<T, RecordError>,
    ) -> Result<T> {
        let key = || object.key.clone();
        let bytes = self.open_object(object, fetched)?;
        let batch = ipc::decode(bytes, schema, wanted).map_err(|fault| match fault {
            ipc::Fault::Malformed(found) => {
                StoreError::Corrupt { key: key(), expected: "a batch as an Arrow file".into(), found }
            }
            ipc::Fault::Newer(found, newest) => StoreError::NewerFormat { key: key(), found, newest },
        })?;
        check(batch).map_err(|reason| StoreError::Invalid { key: key(), reason })
    }
}

/// Nothing of the groups of columns of which none is wanted. What a teacher says of draws or of a top-k goes with them.
fn packed_columns(columns: &[String]) -> Budget {
    let read = |group: &[&str]| match group.iter().any(|name| columns.iter().any(|column| column == name)) {
        true => None,
        false => Some(0),
    };
    Budget {
        draws: read(&["draw_ids", "draw_counts", "draw_logprobs", "draw_teacher_logprobs"]),
        teacher_draws: read(&["teacher_draw_ids", "teacher_draw_counts", "teacher_draw_logprobs"]),
        teacher_top_k: read(&["teacher_top_ids", "teacher_top_logprobs", "teacher_tail_logprobs"]),
        sampler_top_k: read(&[
            "sampler_top_ids",
            "sampler_top_logprobs",
            "sampler_tail_logprobs",
            "sampler_top_teacher_logprobs",
            "sampler_top_teacher_tail_logprobs",
        ]),
    }
}

fn open_rollouts(batch: RecordBatch, budget: &Budget) -> Result<RolloutBatch, RecordError> {
    RolloutBatch::try_new(record::unpack_within(batch, budget)?)
}

fn open_scores(batch: RecordBatch, budget: &Budget) -> Result<RecordBatch, RecordError> {
    schema::up_to_date(record::unpack_within(batch, budget)?, &SCORES)
}
