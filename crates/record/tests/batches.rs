//! Batches as views: what goes in comes out, and what does not fit is refused by row, column and both values.

use arrow::{
    array::{Array, ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch, StringArray, new_null_array},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Schema},
};
use proptest::prelude::*;
use record::{
    ConsumedRollout, Draws, Finish, NewRollout, PolicyVersion, Ragged, RecordError, RolloutBatch, RolloutBatchInfo,
    Sample, Score, ScoredBatch, encode_step, schema,
};
use std::sync::Arc;

fn info() -> RolloutBatchInfo {
    RolloutBatchInfo {
        batch: "u00000007-abc".into(),
        policy_version: PolicyVersion(3),
        teacher_id: "teacher".into(),
        temperature: 0.7,
        top_p: 1.0,
        started_at: 1,
        finished_at: 2,
    }
}

/// A response of `length` tokens with `support` draws and top-k entries a position.
fn sample(length: usize, support: usize) -> (Sample, Score) {
    let ids = |t: usize| (0..support as i32).map(move |j| t as i32 + j);
    let logs = |_: usize| (0..support).map(|j| -1.5 - j as f32);
    let sample = Sample {
        response_ids: (0..length as i32).collect(),
        sampler_logprobs: vec![-0.5; length],
        draw_ids: (0..length).map(ids).collect(),
        draws_taken: None,
        draw_counts: (0..length).map(|_| (0..support).map(|_| 2)).collect(),
        draw_logprobs: (0..length).map(logs).collect(),
        sampler_top_ids: (0..length).map(ids).collect(),
        sampler_top_logprobs: (0..length).map(logs).collect(),
        sampler_tail_logprobs: vec![-3.0; length],
        finish: Some(Finish::Stop),
    };
    let score = Score {
        teacher_logprobs: vec![-0.25; length],
        teacher_top_ids: (0..length).map(ids).collect(),
        teacher_top_logprobs: (0..length).map(logs).collect(),
        teacher_tail_logprobs: vec![f32::NEG_INFINITY; length],
        draw_teacher_logprobs: (0..length).map(logs).collect(),
        sampler_top_teacher_logprobs: (0..length).map(logs).collect(),
        sampler_top_teacher_tail_logprobs: if support == 0 { vec![] } else { vec![-4.0; length] },
        teacher_draws: Some(Draws {
            ids: (0..length).map(|t| [t as i32, 3 + t as i32]).collect(),
            counts: (0..length).map(|_| [2, 1]).collect(),
            logprobs: (0..length).map(|_| [-0.5, -2.0]).collect(),
        }),
        teacher_entropy: Some(vec![1.25; length]),
    };
    (sample, score)
}

fn row(prompt_id: u64, prompt: usize, sample: Sample) -> NewRollout {
    NewRollout {
        unit: 7,
        prompt_id,
        sample_index: 1,
        source: "arith".into(),
        prompt_ids: (0..prompt as i32).collect(),
        seed: u64::MAX - prompt_id,
        sample,
    }
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(shapes in proptest::collection::vec((1usize..6, 1usize..9, 0usize..4), 1..6)) {
        let support = shapes[0].2;
        let (samples, scores): (Vec<_>, Vec<_>) = shapes.iter().map(|(_, length, _)| sample(*length, support)).unzip();
        let rows: Vec<NewRollout> =
            shapes.iter().zip(&samples).enumerate().map(|(i, (shape, sample))| row(i as u64, shape.0, sample.clone())).collect();
        let rollouts = RolloutBatch::encode(&info(), &rows).unwrap();
        prop_assert_eq!(rollouts.len(), rows.len());
        prop_assert_eq!(rollouts.policy_version(), PolicyVersion(3));
        prop_assert_eq!(rollouts.tokens(), shapes.iter().map(|shape| shape.1).sum::<usize>());
        let scored = ScoredBatch::encode(rollouts, &scores).unwrap();
        for (i, (scored, (sample, score))) in scored.rows().zip(samples.iter().zip(&scores)).enumerate() {
            let rollout = scored.rollout;
            prop_assert_eq!(rollout.rollout_id, format!("u00000007-abc-{i}"));
            prop_assert_eq!((rollout.unit, rollout.prompt_id, rollout.sample), (7, i as u64, 1));
            prop_assert_eq!(rollout.response_ids, &sample.response_ids);
            prop_assert_eq!(rollout.draw_ids.to_ragged(), sample.draw_ids.clone());
            prop_assert_eq!(rollout.draw_counts.to_ragged(), sample.draw_counts.clone());
            prop_assert_eq!(rollout.sampler_top_logprobs.to_ragged(), sample.sampler_top_logprobs.clone());
            prop_assert_eq!(rollout.finish, "stop");
            prop_assert_eq!(scored.teacher_logprobs, &score.teacher_logprobs);
            prop_assert_eq!(scored.teacher_top_ids.to_ragged(), score.teacher_top_ids.clone());
            prop_assert_eq!(scored.draw_teacher_logprobs.values(), score.draw_teacher_logprobs.values());
            prop_assert_eq!(scored.sampler_top_teacher_tail_logprobs, &score.sampler_top_teacher_tail_logprobs);
            prop_assert_eq!(scored.teacher_entropy, score.teacher_entropy.as_deref());
            let draws = score.teacher_draws.clone().unwrap();
            prop_assert_eq!(scored.teacher_draw_ids.unwrap().to_ragged(), draws.ids);
            prop_assert_eq!(scored.teacher_draw_counts.unwrap().to_ragged(), draws.counts);
            prop_assert_eq!(scored.teacher_draw_logprobs.unwrap().to_ragged(), draws.logprobs);
        }
    }
}

/// The column a fault is found in, when `spoil` is done to the second of two rows.
fn fault_of_sample(spoil: impl Fn(&mut Sample)) -> (usize, &'static str) {
    let (good, _) = sample(3, 2);
    let mut bad = good.clone();
    spoil(&mut bad);
    match RolloutBatch::encode(&info(), &[row(0, 2, good), row(1, 2, bad)]).unwrap_err() {
        RecordError::Row { row, column, .. } => (row, column),
        other => panic!("{other}"),
    }
}

#[test]
fn a_sample_that_contradicts_itself_is_refused() {
    assert_eq!(fault_of_sample(|s| s.sampler_logprobs[1] = f32::NAN), (1, "sampler_logprobs"));
    assert_eq!(fault_of_sample(|s| s.sampler_logprobs[1] = 0.5), (1, "sampler_logprobs"));
    assert_eq!(fault_of_sample(|s| s.sampler_logprobs.truncate(2)), (1, "sampler_logprobs"));
    assert_eq!(fault_of_sample(|s| s.draw_ids.truncate(2)), (1, "draw_ids"));
    assert_eq!(fault_of_sample(|s| s.response_ids[0] = 99), (1, "draw_ids"));
    assert_eq!(fault_of_sample(|s| s.response_ids[0] = -1), (1, "response_ids"));
    assert_eq!(fault_of_sample(|s| s.draw_counts = [[0, 1]; 3].into_iter().collect()), (1, "draw_counts"));
    assert_eq!(fault_of_sample(|s| s.draw_counts = [[1]; 3].into_iter().collect()), (1, "draw_counts"));
    assert_eq!(
        fault_of_sample(|s| s.draw_logprobs = [[f32::NEG_INFINITY, -1.0]; 3].into_iter().collect()),
        (1, "draw_logprobs")
    );
    assert_eq!(fault_of_sample(|s| s.sampler_top_logprobs = Ragged::new()), (1, "sampler_top_logprobs"));
    assert_eq!(fault_of_sample(|s| s.sampler_tail_logprobs[2] = f32::NAN), (1, "sampler_top_logprobs"));
    assert_eq!(fault_of_sample(|s| *s = Sample::default()), (1, "response_ids"));
}

/// Draws 5 and 6, kept because they lie outside the top-k, of `taken` draws at each of three positions.
fn tail_draws(s: &mut Sample, taken: i32) {
    s.draw_ids = [[5, 6]; 3].into_iter().collect();
    s.draws_taken = Some(vec![taken; 3]);
}

#[test]
fn where_only_draws_of_the_tail_are_kept_the_sampled_token_may_be_missing() {
    let (mut tail, _) = sample(3, 2);
    tail_draws(&mut tail, 9);
    tail.sampler_top_ids = [[0, 1], [1, 2], [2, 3]].into_iter().collect();
    let batch = RolloutBatch::encode(&info(), &[row(0, 2, tail), row(1, 2, sample(3, 2).0)]).unwrap();
    assert_eq!(batch.row(0).draws_taken, Some(&[9, 9, 9][..]));
    assert_eq!(batch.row(1).draws_taken, None);
    // The sampled tokens are 0, 1 and 2: first of the draws, or inside the top-k.
    let inside = |s: &mut Sample| s.sampler_top_ids = [[0, 5], [1, 8], [2, 8]].into_iter().collect();
    assert_eq!(fault_of_sample(|s| (tail_draws(s, 9), inside(s)).1), (1, "draw_ids"));
    let outside = |s: &mut Sample| s.sampler_top_ids = [[7, 8]; 3].into_iter().collect();
    assert_eq!(fault_of_sample(|s| (tail_draws(s, 9), outside(s)).1), (1, "draw_ids"));
    assert_eq!(fault_of_sample(|s| tail_draws(s, 3)), (1, "draws_taken"), "four are kept");
    assert_eq!(fault_of_sample(|s| s.draws_taken = Some(vec![9])), (1, "draws_taken"));
}

#[test]
fn a_batch_of_version_1_is_read_and_has_all_its_draws() {
    let (sample, _) = sample(2, 1);
    let batch = RolloutBatch::encode(&info(), &[row(0, 1, sample)]).unwrap().as_record_batch().clone();
    let columns: Vec<usize> = (0..batch.num_columns() - 1).collect();
    let old = batch.project(&columns).unwrap();
    let mut metadata = old.schema().metadata().clone();
    metadata.insert(schema::SCHEMA_VERSION.into(), "1".into());
    let of_version_1 = Schema::new_with_metadata(old.schema().fields().clone(), metadata);
    let old = RecordBatch::try_new(Arc::new(of_version_1), old.columns().to_vec()).unwrap();
    let read = RolloutBatch::try_new(old.clone()).unwrap();
    assert_eq!(read.row(0).draws_taken, None);
    assert_eq!(read.as_record_batch().schema().fields(), schema::ROLLOUTS.fields());
    // A column that every version has may not be missing.
    let fewer: Vec<usize> = (0..old.num_columns() - 1).collect();
    let error = RolloutBatch::try_new(old.project(&fewer).unwrap()).unwrap_err().to_string();
    assert!(error.contains("column `finished_at`: expected no nulls, found 1 nulls"), "{error}");
}

fn fault_of_score(spoil: impl Fn(&mut Score)) -> (usize, &'static str) {
    let (good, score) = sample(3, 2);
    let mut bad = score.clone();
    spoil(&mut bad);
    let rollouts = RolloutBatch::encode(&info(), &[row(0, 2, good.clone()), row(1, 2, good)]).unwrap();
    match ScoredBatch::encode(rollouts, &[score, bad]).unwrap_err() {
        RecordError::Row { row, column, .. } => (row, column),
        other => panic!("{other}"),
    }
}

#[test]
fn a_score_that_does_not_fit_its_rollout_is_refused() {
    assert_eq!(fault_of_score(|s| s.teacher_logprobs.truncate(2)), (1, "teacher_logprobs"));
    assert_eq!(fault_of_score(|s| s.teacher_logprobs[0] = f32::NEG_INFINITY), (1, "teacher_logprobs"));
    assert_eq!(
        fault_of_score(|s| s.draw_teacher_logprobs = [[-1.0]; 3].into_iter().collect()),
        (1, "draw_teacher_logprobs")
    );
    assert_eq!(
        fault_of_score(|s| s.teacher_top_logprobs = [[0.1, -1.0]; 3].into_iter().collect()),
        (1, "teacher_top_logprobs")
    );
    assert_eq!(fault_of_score(|s| s.teacher_tail_logprobs[1] = f32::NAN), (1, "teacher_top_logprobs"));
    assert_eq!(
        fault_of_score(|s| s.sampler_top_teacher_tail_logprobs.clear()),
        (1, "sampler_top_teacher_tail_logprobs")
    );
    assert_eq!(
        fault_of_score(|s| s.sampler_top_teacher_logprobs = [[f32::NAN, -1.0]; 3].into_iter().collect()),
        (1, "sampler_top_teacher_logprobs")
    );
    assert_eq!(
        fault_of_score(|s| s.draw_teacher_logprobs = [[0.5, -1.0]; 3].into_iter().collect()),
        (1, "draw_teacher_logprobs")
    );
    assert_eq!(fault_of_score(|s| s.teacher_entropy = Some(vec![1.0])), (1, "teacher_entropy"));
    let draws = |count: i32, logprob: f32| {
        let (ids, counts) = ([[4]; 3].into_iter().collect(), [[count]; 3].into_iter().collect());
        Some(Draws { ids, counts, logprobs: [[logprob]; 3].into_iter().collect() })
    };
    assert_eq!(fault_of_score(|s| s.teacher_draws = draws(0, -1.0)), (1, "teacher_draw_counts"));
    assert_eq!(fault_of_score(|s| s.teacher_draws = draws(1, f32::NEG_INFINITY)), (1, "teacher_draw_logprobs"));
    assert_eq!(fault_of_score(|s| s.teacher_draws = Some(Draws::default())), (1, "teacher_draw_ids"));
    let halved =
        |s: &mut Score| s.teacher_draws = draws(1, -1.0).map(|d| Draws { counts: [[]; 3].into_iter().collect(), ..d });
    assert_eq!(fault_of_score(halved), (1, "teacher_draw_counts"));
}

/// The same batch with another column in the place of `name`.
fn with_column(batch: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let schema = batch.schema();
    let place = schema.index_of(name).unwrap();
    let mut columns = batch.columns().to_vec();
    let mut fields: Vec<_> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[place] = fields[place].clone().with_data_type(column.data_type().clone()).with_nullable(true);
    columns[place] = column;
    RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())), columns).unwrap()
}

#[test]
fn a_batch_that_is_not_of_its_schema_is_refused() {
    let (sample, score) = sample(2, 1);
    let rollouts = RolloutBatch::encode(&info(), &[row(0, 1, sample.clone()), row(1, 1, sample)]).unwrap();
    let batch = rollouts.as_record_batch().clone();
    let says = |batch: RecordBatch| RolloutBatch::try_new(batch).unwrap_err().to_string();

    let other: ArrayRef = Arc::new(Float32Array::from(vec![1.0, 2.0]));
    assert!(says(with_column(&batch, "unit", other)).contains("expected `unit` Int64, found `unit` Float32"));
    let nulls = new_null_array(&DataType::Utf8, 2);
    assert!(says(with_column(&batch, "source", nulls)).contains("column `source`: expected no nulls, found 2 nulls"));
    let mixed: ArrayRef = Arc::new(Int64Array::from(vec![3, 4]));
    assert!(says(with_column(&batch, "policy_version", mixed)).contains("row 1, column `policy_version`: expected 3"));
    let mixed: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    assert!(says(with_column(&batch, "teacher_id", mixed)).contains("expected `a`, as in row 0, found b"));
    let cold: ArrayRef = Arc::new(Float32Array::from(vec![0.7, 0.0]));
    assert!(says(with_column(&batch, "temperature", cold)).contains("row 1, column `temperature`"));
    assert!(says(batch.slice(0, 0)).contains("rows: expected at least 1"));
    let fewer: Vec<usize> = (0..batch.num_columns() - 1).collect();
    assert!(says(batch.project(&fewer).unwrap()).contains("`draws_taken`, found nothing"));

    let newer = Schema::new_with_metadata(batch.schema().fields().clone(), {
        let mut metadata = batch.schema().metadata().clone();
        metadata.insert(schema::SCHEMA_VERSION.into(), "9".into());
        metadata
    });
    let newer = RecordBatch::try_new(Arc::new(newer), batch.columns().to_vec()).unwrap();
    assert!(says(newer).contains("metadata `opd.version`: expected 2, found 9"));

    let scored = ScoredBatch::encode(rollouts.clone(), &[score.clone(), score.clone()]).unwrap();
    let other: ArrayRef = Arc::new(StringArray::from(vec!["u00000007-abc-0", "u00000007-abc-7"]));
    let error = ScoredBatch::zip(rollouts.clone(), with_column(scored.scores(), "rollout_id", other)).unwrap_err();
    assert!(error.to_string().contains("row 1, column `rollout_id`: expected `u00000007-abc-1`"), "{error}");
    let other: ArrayRef = Arc::new(StringArray::from(vec!["teacher", "other"]));
    let error = ScoredBatch::zip(rollouts.clone(), with_column(scored.scores(), "teacher_id", other)).unwrap_err();
    assert!(error.to_string().contains("row 1, column `teacher_id`: expected `teacher`"), "{error}");
    let error = ScoredBatch::encode(rollouts, &[score]).unwrap_err();
    assert!(error.to_string().contains("rows of the score batch: expected 2, as in the rollout batch, found 1"));
}

/// The same batch with `versions` in turn as those that sampled its second row.
fn with_spans(batch: &RecordBatch, versions: &[i64]) -> RecordBatch {
    let schema = batch.schema();
    let DataType::List(item) = schema.field_with_name("span_versions").unwrap().data_type() else { panic!("a list") };
    let (values, lengths) = (Arc::new(Int64Array::from(versions.to_vec())), [0, versions.len()]);
    let valid = NullBuffer::from(vec![false, true]);
    let spans = ListArray::new(item.clone(), OffsetBuffer::from_lengths(lengths), values, Some(valid));
    with_column(batch, "span_versions", Arc::new(spans))
}

#[test]
fn a_row_that_several_versions_sampled_is_of_the_oldest() {
    let (sample, _) = sample(4, 1);
    let rollouts = RolloutBatch::encode(&info(), &[row(0, 1, sample.clone()), row(1, 1, sample)]).unwrap();
    let batch = rollouts.as_record_batch();
    for versions in [&[3, 4, 9][..], &[5, 3], &[3]] {
        let spanned = RolloutBatch::try_new(with_spans(batch, versions)).unwrap();
        assert_eq!(spanned.policy_version(), PolicyVersion(3));
        let kept = spanned.as_record_batch().column_by_name("span_versions").unwrap();
        assert_eq!((kept.is_null(0), kept.is_null(1)), (true, false));
    }
    for (versions, oldest) in [(&[2, 3][..], 2), (&[4, 5], 4)] {
        let error = RolloutBatch::try_new(with_spans(batch, versions)).unwrap_err().to_string();
        let says = format!("row 1, column `span_versions`: expected 3 as the oldest, found {oldest}");
        assert!(error.contains(&says), "{error}");
    }
}

#[test]
fn a_step_record_has_a_value_for_each_position_it_names() {
    let consumed = ConsumedRollout {
        rollout_id: "r".into(),
        staleness: Some(2),
        learner_logprobs: vec![-1.0, -2.0],
        reverse_kl: Some(vec![0.5, f32::NAN]),
        forward_kl: None,
        entropy: vec![1.0, 1.0],
    };
    let batch = encode_step(4, std::slice::from_ref(&consumed)).unwrap();
    assert_eq!(batch.num_rows(), 1);
    assert_eq!(batch.column_by_name("forward_kl").unwrap().null_count(), 1);
    let short = ConsumedRollout { entropy: vec![1.0], ..consumed };
    let error = encode_step(4, &[short]).unwrap_err().to_string();
    assert!(error.contains("row 0, column `entropy`: expected 2 positions"), "{error}");
}
