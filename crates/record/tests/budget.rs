//! What a reader asks for is what it gets: the same whatever the batch is packed by, and nothing else is decoded.

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch};
use proptest::prelude::*;
use record::{
    Budget, Codec, Draws, Finish, NewRollout, PolicyVersion, Ragged, RecordError, RolloutBatch, RolloutBatchInfo,
    Sample, Score, ScoredBatch, pack, unpack, unpack_within,
};
use std::sync::Arc;

const VOCABULARY: u32 = 60;

/// What stands at a position: the sampled token and what was drawn.
struct Position {
    token: i32,
    /// Ids and counts of the sampler's draws that are kept.
    draws: Vec<(i32, i32)>,
    taken: Option<i32>,
}

fn batch(rows: &[(u64, Vec<Position>)]) -> ScoredBatch {
    let info = RolloutBatchInfo {
        batch: "u00000000-a".into(),
        policy_version: PolicyVersion(0),
        teacher_id: "teacher".into(),
        temperature: 1.0,
        top_p: 1.0,
        started_at: 0,
        finished_at: 1,
    };
    // Four ids with 1/2, 1/4, 1/8 and 1/16 of the mass, the head of tail draws among them, and 1/16 outside.
    let top: Vec<f32> = (1..5).map(|i| 0.5_f32.powi(i).ln()).collect();
    let (head, tail) = ([0, 40, 41, 42], 0.0625_f32.ln());
    let row = |(i, (seed, positions)): (usize, &(u64, Vec<Position>))| {
        let n = positions.len();
        let each = || positions.iter();
        let sample = Sample {
            response_ids: each().map(|t| t.token).collect(),
            sampler_logprobs: vec![-1.0; n],
            draw_ids: each().map(|t| t.draws.iter().map(|draw| draw.0)).collect(),
            draw_counts: each().map(|t| t.draws.iter().map(|draw| draw.1)).collect(),
            draw_logprobs: each().map(|t| t.draws.iter().map(|draw| -0.5 - draw.0 as f32)).collect(),
            draws_taken: each().map(|t| t.taken).collect(),
            sampler_top_ids: (0..n).map(|_| head).collect(),
            sampler_top_logprobs: (0..n).map(|_| top.clone()).collect(),
            sampler_tail_logprobs: vec![tail; n],
            finish: Some(Finish::Stop),
        };
        let (sample_index, prompt_ids) = (i as u32, vec![1, 2]);
        NewRollout { unit: 0, prompt_id: 0, sample_index, source: "s".into(), prompt_ids, seed: *seed, sample }
    };
    let rows: Vec<NewRollout> = rows.iter().enumerate().map(row).collect();
    let score = |row: &NewRollout| {
        let n = row.sample.response_ids.len();
        Score {
            teacher_logprobs: vec![-1.5; n],
            teacher_top_ids: (0..n).map(|_| [4, 7, 0, 9]).collect(),
            teacher_top_logprobs: (0..n).map(|_| top.clone()).collect(),
            teacher_tail_logprobs: vec![tail; n],
            draw_teacher_logprobs: row
                .sample
                .draw_ids
                .iter()
                .map(|ids| ids.iter().map(|id| -1.0 - *id as f32))
                .collect(),
            sampler_top_teacher_logprobs: (0..n).map(|_| top.iter().rev().copied()).collect(),
            sampler_top_teacher_tail_logprobs: vec![tail; n],
            teacher_draws: Some(Draws {
                ids: (0..n).map(|_| [4, 8, 9]).collect(),
                counts: (0..n).map(|_| [2, 1, 3]).collect(),
                logprobs: (0..n).map(|_| [-0.5, -2.0, -3.0]).collect(),
            }),
            teacher_entropy: None,
        }
    };
    let scores: Vec<Score> = rows.iter().map(score).collect();
    ScoredBatch::encode(RolloutBatch::encode(&info, &rows).unwrap(), &scores).unwrap()
}

fn drawn(token: i32, draws: &[(i32, i32)]) -> Position {
    Position { token, draws: draws.to_vec(), taken: None }
}

/// Three rows of 1, 3 and 2 positions, with all draws.
fn whole() -> ScoredBatch {
    let position = |t: i32| drawn(5 + t, &[(5 + t, 3), (20 + t, 1), (30, 2)]);
    batch(&[(11, vec![position(0)]), (12, (0..3).map(position).collect()), (13, (1..3).map(position).collect())])
}

/// As it is read from files packed with `codec`.
fn read(batch: &ScoredBatch, codec: Codec, budget: &Budget) -> ScoredBatch {
    let packed = |columns: &RecordBatch| pack(columns, codec, VOCABULARY).unwrap().0;
    let rollouts = unpack_within(packed(batch.rollouts().as_record_batch()), budget).unwrap();
    let scores = unpack_within(packed(batch.scores()), budget).unwrap();
    ScoredBatch::zip_within(RolloutBatch::try_new(rollouts).unwrap(), scores, budget).unwrap()
}

fn any_limit(most: u32) -> impl Strategy<Value = Option<u32>> {
    prop_oneof![Just(None), (0..=most).prop_map(Some)]
}

#[test]
fn some_rows_of_a_batch_are_those_rows_and_hold_nothing_of_the_others() {
    let budget = Budget { draws: Some(2), teacher_draws: None, teacher_top_k: Some(3), sampler_top_k: Some(0) };
    for (codec, budget) in [(Codec::Plain, Budget::default()), (Codec::Lossless, budget)] {
        let all = read(&whole(), codec, &budget);
        let some = all.only(&[0, 2].into_iter().collect()).unwrap();
        assert_eq!(some.len(), 2);
        let columns = |of: &ScoredBatch| [of.rollouts().as_record_batch().clone(), of.scores().clone()];
        for (of_some, of_all) in columns(&some).iter().zip(&columns(&all)) {
            for (to, from) in [(0, 0), (1, 2)] {
                assert_eq!(of_some.slice(to, 1), of_all.slice(from, 1));
            }
            assert!(of_some.get_array_memory_size() < of_all.get_array_memory_size());
        }
        let ids: Vec<&str> = some.rows().map(|row| row.rollout.rollout_id).collect();
        assert_eq!(ids, [all.row(0).rollout.rollout_id, all.row(2).rollout.rollout_id]);
        let error = all.only(&[3].into_iter().collect()).unwrap_err().to_string();
        assert!(error.contains("expected at least 4, found 3"), "{error}");
    }
}

proptest! {
    #[test]
    fn a_budget_gives_the_same_whatever_the_codec(
        draws in any_limit(7), teacher_draws in any_limit(7), teacher_top_k in any_limit(5), sampler_top_k in any_limit(5),
    ) {
        let budget = Budget { draws, teacher_draws, teacher_top_k, sampler_top_k };
        let all = whole();
        let (plain, lossless) = (read(&all, Codec::Plain, &budget), read(&all, Codec::Lossless, &budget));
        prop_assert_eq!(plain.rollouts().as_record_batch(), lossless.rollouts().as_record_batch());
        prop_assert_eq!(plain.scores(), lossless.scores());
        for codec in [Codec::Fast, Codec::Compact] {
            let rounded = read(&all, codec, &budget);
            for (a, b) in plain.rows().zip(rounded.rows()) {
                prop_assert_eq!(a.rollout.draw_ids.to_ragged(), b.rollout.draw_ids.to_ragged());
                prop_assert_eq!(a.rollout.draw_counts.to_ragged(), b.rollout.draw_counts.to_ragged());
                prop_assert_eq!(a.teacher_top_ids.to_ragged(), b.teacher_top_ids.to_ragged());
                prop_assert_eq!(a.draw_teacher_logprobs.to_ragged(), b.draw_teacher_logprobs.to_ragged());
                prop_assert_eq!(a.sampler_top_teacher_logprobs.to_ragged(), b.sampler_top_teacher_logprobs.to_ragged());
                let near = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.02);
                prop_assert!(near(a.teacher_top_logprobs.values(), b.teacher_top_logprobs.values()));
                prop_assert!(near(a.teacher_tail_logprobs, b.teacher_tail_logprobs));
            }
        }
        for (before, row) in all.rows().zip(plain.rows()) {
            for t in 0..row.rollout.response_ids.len() {
                let m = row.rollout.draw_counts.get(t).iter().sum::<i32>();
                prop_assert_eq!(m, 6.min(draws.map_or(6, |m| m as i32)));
                prop_assert_eq!(row.draw_teacher_logprobs.get(t).len(), row.rollout.draw_ids.get(t).len());
                // The teacher's word on a draw stays with it.
                for (id, x) in row.rollout.draw_ids.get(t).iter().zip(row.draw_teacher_logprobs.get(t)) {
                    prop_assert_eq!(*x, -1.0 - *id as f32);
                }
                let mass = |list: &[f32], tail: f32| list.iter().map(|x| x.exp()).sum::<f32>() + tail.exp();
                prop_assert!((mass(row.teacher_top_logprobs.get(t), row.teacher_tail_logprobs[t]) - 1.0).abs() < 1e-5);
                let k = teacher_top_k.map_or(4, |k| k.min(4)) as usize;
                prop_assert_eq!(row.teacher_top_ids.get(t), &before.teacher_top_ids.get(t)[..k]);
                let k = sampler_top_k.map_or(4, |k| k.min(4)) as usize;
                let of_sampler = row.sampler_top_teacher_logprobs.get(t);
                prop_assert_eq!(of_sampler.len(), k);
                let tail = row.sampler_top_teacher_tail_logprobs[t];
                prop_assert!((mass(of_sampler, tail) - 1.0).abs() < 1e-5);
            }
            prop_assert_eq!(row.teacher_draw_ids.is_none(), teacher_draws == Some(0));
            if let Some(counts) = row.teacher_draw_counts {
                let m = teacher_draws.map_or(6, |m| m.min(6) as i32);
                prop_assert!(counts.iter().all(|counts| counts.iter().sum::<i32>() == m));
            }
        }
    }
}

/// Every sequence of four draws from b over three ids, as a position each, in many rows; `head` is not kept one by one.
fn every_sequence(rows: u64, b: [f64; 3], is_kept: impl Fn(i32) -> bool) -> (ScoredBatch, Vec<f64>) {
    let (mut chances, mut positions) = (Vec::new(), Vec::new());
    for outcome in 0..81_i32 {
        let sequence: Vec<i32> = (0..4).map(|i| outcome / 3_i32.pow(i) % 3).collect();
        chances.push(sequence.iter().map(|id| b[*id as usize]).product());
        let mut draws: Vec<(i32, i32)> = Vec::new();
        for id in sequence.iter().filter(|id| is_kept(**id)) {
            match draws.iter_mut().find(|draw| draw.0 == *id) {
                Some(draw) => draw.1 += 1,
                None => draws.push((*id, 1)),
            }
        }
        positions.push((sequence[0], draws));
    }
    let tail_only = !is_kept(0);
    let row = |seed| {
        let of = |(token, draws): &(i32, Vec<(i32, i32)>)| Position {
            taken: tail_only.then_some(4),
            ..drawn(*token, draws)
        };
        (seed, positions.iter().map(of).collect())
    };
    (batch(&(0..rows).map(row).collect::<Vec<_>>()), chances)
}

/// Over all sequences of draws, and what thinning makes of each in many rows, n_j / m is b_j in expectation: so what is linear in the
/// draws estimates the same from fewer of them. The standard deviation of each mean is below 0.005.
#[test]
fn thinned_draws_are_draws_of_the_sampler() {
    let b = [0.5, 0.3, 0.2];
    for (name, ids, is_kept) in [("all", 0..3, (|_| true) as fn(i32) -> bool), ("tail", 1..3, |id| id != 0)] {
        let (all, chances) = every_sequence(400, b, is_kept);
        for m in [1_u32, 2, 3] {
            let thinned = read(&all, Codec::Plain, &Budget { draws: Some(m), ..Budget::default() });
            let mut shares = [0.0; 3];
            for row in thinned.rows() {
                for (t, chance) in chances.iter().enumerate() {
                    let r = &row.rollout;
                    let taken = r.draws_taken.map_or_else(|| r.draw_counts.get(t).iter().sum(), |taken| taken[t]);
                    assert_eq!(taken, m as i32, "{name}");
                    for (id, count) in r.draw_ids.get(t).iter().zip(r.draw_counts.get(t)) {
                        shares[*id as usize] += chance * f64::from(*count) / f64::from(taken) / 400.0;
                    }
                }
            }
            for id in ids.clone() {
                let (share, due) = (shares[id], b[id]);
                assert!((share - due).abs() < 0.02, "{name}, m = {m}: {share} of id {id}, expected {due}");
            }
        }
    }
}

#[test]
fn thinning_is_the_rows_own_and_not_that_of_what_is_read_with_it() {
    let position = || drawn(5, &[(5, 3), (20, 2), (30, 2), (31, 1)]);
    let budget = Budget { draws: Some(3), ..Budget::default() };
    let together = read(&batch(&[(7, vec![position(), position()]), (8, vec![position()])]), Codec::Plain, &budget);
    let alone = read(&batch(&[(8, vec![position()])]), Codec::Plain, &budget);
    let counts = |of: &ScoredBatch, row: usize| -> (Ragged<i32>, Ragged<i32>) {
        let row = of.row(row).rollout;
        (row.draw_ids.to_ragged(), row.draw_counts.to_ragged())
    };
    assert_eq!(counts(&together, 1), counts(&alone, 0));
    assert_eq!(together.row(0).rollout.draw_ids.get(0)[0], 5, "the sampled token stays");
}

/// Draws outside a head say nothing without all of it.
#[test]
fn tail_draws_come_with_the_whole_of_their_head() {
    let tail = Position { token: 0, draws: vec![(20, 1), (30, 2)], taken: Some(5) };
    let all = batch(&[(3, vec![tail])]);
    let limit = |draws| Budget { draws, sampler_top_k: Some(1), ..Budget::default() };
    for codec in [Codec::Plain, Codec::Compact] {
        let some = read(&all, codec, &limit(Some(2)));
        assert_eq!(some.row(0).rollout.sampler_top_ids.get(0), [0, 40, 41, 42]);
        assert_eq!(some.row(0).sampler_top_teacher_logprobs.get(0).len(), 4);
        assert_eq!(some.row(0).rollout.draws_taken, Some(&[2][..]));
        let none = read(&all, codec, &limit(Some(0)));
        assert_eq!(none.row(0).rollout.sampler_top_ids.get(0), [0]);
        assert_eq!(none.row(0).rollout.draw_ids.get(0), [0; 0]);
    }
}

#[test]
fn what_is_not_asked_for_is_not_decoded() {
    let all = whole();
    let damaged = |batch: &RecordBatch, name: &str| {
        let (packed, _) = pack(batch, Codec::Fast, VOCABULARY).unwrap();
        let at = packed.schema().index_of(name).unwrap();
        let column = packed.column(at).as_binary::<i32>();
        let mut bytes = column.value(0).to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let mut values = vec![None; column.len()];
        values[0] = Some(bytes.as_slice());
        let mut columns = packed.columns().to_vec();
        columns[at] = Arc::new(BinaryArray::from_opt_vec(values));
        RecordBatch::try_new(packed.schema(), columns).unwrap()
    };
    let (rollouts, scores) = (all.rollouts().as_record_batch(), all.scores());
    for (batch, name, budget) in [
        (rollouts, "packed_draws", Budget { draws: Some(0), ..Budget::default() }),
        (rollouts, "packed_sampler_top", Budget { sampler_top_k: Some(0), ..Budget::default() }),
        (scores, "packed_teacher_top", Budget { teacher_top_k: Some(0), ..Budget::default() }),
        (scores, "packed_teacher_draws", Budget { teacher_draws: Some(0), ..Budget::default() }),
    ] {
        let damaged = damaged(batch, name);
        let said = unpack(damaged.clone()).unwrap_err();
        assert!(matches!(said, RecordError::Packed { column, .. } if column == name), "{said}");
        let read = unpack_within(damaged, &budget).unwrap();
        assert_eq!(read.schema(), batch.schema(), "{name}");
    }
}
