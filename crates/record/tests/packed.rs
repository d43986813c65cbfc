//! Batches as they lie in a file, and as they are read.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch};
use record::{
    Codec, Finish, NewRollout, PolicyVersion, Ragged, RolloutBatch, RolloutBatchInfo, Sample, Score, ScoredBatch, pack,
    unpack,
};
use std::sync::Arc;

const VOCABULARY: u32 = 50;
const PACKED: [Codec; 3] = [Codec::Lossless, Codec::Fast, Codec::Compact];

/// A batch of 3 rows of 1, 3 and 2 tokens; the last keeps no sampler's top-k.
fn batch() -> ScoredBatch {
    let info = RolloutBatchInfo {
        batch: "u00000000-a".into(),
        policy_version: PolicyVersion(0),
        teacher_id: "teacher".into(),
        temperature: 1.0,
        top_p: 1.0,
        started_at: 0,
        finished_at: 1,
    };
    let lists = |n: usize, list: &[f32]| (0..n).map(|_| list.iter().copied()).collect::<Ragged<f32>>();
    let ids = |n: usize, list: &[i32]| (0..n).map(|_| list.iter().copied()).collect::<Ragged<i32>>();
    let (half, quarter) = (0.5_f32.ln(), 0.25_f32.ln());
    let top = [half, quarter];
    let row = |(sample_index, n): (usize, usize)| {
        let has_top = sample_index < 2;
        let sample = Sample {
            response_ids: vec![7; n],
            sampler_logprobs: vec![half; n],
            draw_ids: ids(n, &[7, 3]),
            draw_counts: ids(n, &[3, 1]),
            draw_logprobs: lists(n, &[half, -3.7]),
            sampler_top_ids: ids(n, if has_top { &[7, 49] } else { &[] }),
            sampler_top_logprobs: lists(n, if has_top { &top } else { &[] }),
            sampler_tail_logprobs: vec![if has_top { quarter } else { 0.0 }; n],
            finish: Some(Finish::Stop),
            ..Sample::default()
        };
        let prompt_ids = vec![1, 2];
        NewRollout {
            unit: 0,
            prompt_id: 0,
            sample_index: sample_index as u32,
            source: "s".into(),
            prompt_ids,
            seed: 1,
            sample,
        }
    };
    let rows: Vec<NewRollout> = [1, 3, 2].into_iter().enumerate().map(row).collect();
    let score = |row: &NewRollout| {
        let n = row.sample.response_ids.len();
        let top = row.sample.sampler_top_ids.values().len();
        Score {
            teacher_logprobs: vec![-1.5; n],
            teacher_top_ids: ids(n, &[4, 7, 0]),
            teacher_top_logprobs: lists(n, &[half, -1.7, -2.5]),
            teacher_tail_logprobs: vec![(0.5_f32 - (-1.7_f32).exp() - (-2.5_f32).exp()).ln(); n],
            draw_teacher_logprobs: lists(n, &[-1.5, -9.0]),
            sampler_top_teacher_logprobs: lists(n, if top > 0 { &[-1.5, -2.0] } else { &[] }),
            sampler_top_teacher_tail_logprobs: if top > 0 { vec![-0.5; n] } else { vec![] },
            teacher_draws: None,
            teacher_entropy: None,
        }
    };
    let scores: Vec<Score> = rows.iter().map(score).collect();
    ScoredBatch::encode(RolloutBatch::encode(&info, &rows).unwrap(), &scores).unwrap()
}

fn packed_names(batch: &RecordBatch) -> Vec<String> {
    let names = batch.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    names.into_iter().filter(|name| name.starts_with("packed_")).collect()
}

#[test]
fn a_packed_batch_is_read_as_the_plain_one() {
    let plain = batch();
    for codec in PACKED {
        let (rollouts, of_rollouts) = pack(plain.rollouts().as_record_batch(), codec, VOCABULARY).unwrap();
        let (scores, of_scores) = pack(plain.scores(), codec, VOCABULARY).unwrap();
        assert_eq!(packed_names(&rollouts), ["packed_draws", "packed_sampler_top"]);
        assert_eq!(packed_names(&scores), ["packed_teacher_top"], "no draws from the teacher were taken");
        assert_eq!(scores.column_by_name("teacher_top_ids").unwrap().as_list::<i32>().values().len(), 0);
        assert_eq!((of_rollouts.entries, of_rollouts.positions), (6 * 2 + 4 * 2, 4));
        assert_eq!((of_scores.entries, of_scores.positions), (6 * 3, 6));
        assert!(of_scores.bytes > 0 && (0.0..1e-4).contains(&of_scores.kl.abs()), "{of_scores:?}");

        let read = ScoredBatch::zip(RolloutBatch::try_new(rollouts).unwrap(), unpack(scores).unwrap()).unwrap();
        assert_eq!(read.scores().schema(), plain.scores().schema());
        assert_eq!(read.rollouts().as_record_batch().schema(), plain.rollouts().as_record_batch().schema());
        if codec == Codec::Lossless {
            assert_eq!(read.scores(), plain.scores());
            assert_eq!(read.rollouts().as_record_batch(), plain.rollouts().as_record_batch());
        }
        for i in 0..plain.len() {
            let (read, plain) = (read.row(i), plain.row(i));
            assert_eq!(read.rollout.draw_ids.to_ragged(), plain.rollout.draw_ids.to_ragged());
            assert_eq!(read.rollout.draw_counts.to_ragged(), plain.rollout.draw_counts.to_ragged());
            assert_eq!(read.rollout.draw_logprobs.to_ragged(), plain.rollout.draw_logprobs.to_ragged());
            assert_eq!(read.rollout.sampler_top_ids.to_ragged(), plain.rollout.sampler_top_ids.to_ragged());
            assert_eq!(read.teacher_top_ids.to_ragged(), plain.teacher_top_ids.to_ragged());
            assert_eq!(read.teacher_logprobs, plain.teacher_logprobs);
            let near = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.01);
            assert!(near(read.teacher_top_logprobs.values(), plain.teacher_top_logprobs.values()));
            assert!(near(read.teacher_tail_logprobs, plain.teacher_tail_logprobs));
            assert!(near(read.rollout.sampler_tail_logprobs, plain.rollout.sampler_tail_logprobs));
        }
    }
}

#[test]
fn plain_stays_as_it_is() {
    let scored = batch();
    let (same, packing) = pack(scored.scores(), Codec::Plain, VOCABULARY).unwrap();
    assert_eq!(&same, scored.scores());
    assert_eq!(packing, record::Packing::default());
    assert_eq!(unpack(same).unwrap(), *scored.scores());
}

#[test]
fn what_a_level_refuses_is_told_by_column_row_and_position() {
    let scored = batch();
    let refused = |codec, vocabulary| pack(scored.scores(), codec, vocabulary).unwrap_err().to_string();
    let error = refused(Codec::Lossless, 7);
    assert_eq!(error, "row 0, column `teacher_top_ids`: expected ids from 0 to 6, found 7 at position 0");
    // The same lists with a tail of half the mass.
    let mut columns = scored.scores().columns().to_vec();
    let at = scored.scores().schema().index_of("teacher_tail_logprobs").unwrap();
    columns[at] = batch().scores().column_by_name("teacher_logprobs").unwrap().clone();
    let odd = RecordBatch::try_new(scored.scores().schema(), columns).unwrap();
    let error = pack(&odd, Codec::Compact, VOCABULARY).unwrap_err().to_string();
    let says =
        "row 0, column `teacher_top_logprobs`: expected masses that add up to 1 with the tail, within 0.01, found 0.98";
    assert!(error.starts_with(says) && error.ends_with(" at position 0"), "{error}");
    pack(&odd, Codec::Lossless, VOCABULARY).unwrap();
}

#[test]
fn a_damaged_value_is_told_by_its_column() {
    let (good, _) = pack(batch().scores(), Codec::Compact, VOCABULARY).unwrap();
    let at = good.num_columns() - 1;
    let value = good.column(at).as_binary::<i32>().value(0).to_vec();
    let with = |values: Vec<Option<&[u8]>>| {
        let mut columns = good.columns().to_vec();
        columns[at] = Arc::new(BinaryArray::from_opt_vec(values)) as ArrayRef;
        unpack(RecordBatch::try_new(good.schema(), columns).unwrap()).unwrap_err().to_string()
    };
    let mut flipped = value.clone();
    flipped[50] ^= 4;
    let error = with(vec![Some(&flipped), None, None]);
    assert!(error.starts_with("column `packed_teacher_top`: header: the checksum at byte"), "{error}");
    let error = with(vec![None, Some(&value), None]);
    assert_eq!(error, "column `packed_teacher_top`: expected a value in the first row, found none");
    // A value of another batch: right in itself, of another number of rows.
    let (other, _) = pack(&batch().scores().slice(0, 2), Codec::Compact, VOCABULARY).unwrap();
    let other = other.column(at).as_binary::<i32>().value(0).to_vec();
    let error = with(vec![Some(&other), None, None]);
    assert_eq!(error, "column `packed_teacher_top`: expected 3 rows, found 2");
    let draws = pack(batch().rollouts().as_record_batch(), Codec::Compact, VOCABULARY).unwrap().0;
    let draws = draws.column_by_name("packed_draws").unwrap().as_binary::<i32>().value(0).to_vec();
    let error = with(vec![Some(&draws), None, None]);
    assert!(error.contains("expected a column of top-k, found a column of draws"), "{error}");
}
