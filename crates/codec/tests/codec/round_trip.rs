use crate::support::{VOCABULARY, draws, lengths, top};
use codec::{DrawColumn, Layout, Level, PackedDraws, PackedTop, TopColumn, encode_draws, encode_top, thin, truncate};
use proptest::prelude::*;

const ALL: usize = usize::MAX;

fn exp(x: f32) -> f64 {
    f64::from(x).exp()
}

/// KL(stored || decoded) at position `t`, over the entries and the tail.
fn kl(stored: &TopColumn, decoded: &TopColumn, t: usize) -> f64 {
    let range = stored.layout.list(t);
    let pairs = stored.logprobs[range.clone()].iter().zip(&decoded.logprobs[range]);
    let terms = pairs.chain([(&stored.tails[t], &decoded.tails[t])]).filter(|(p, _)| p.is_finite());
    terms.map(|(p, q)| exp(*p) * (f64::from(*p) - f64::from(*q))).sum()
}

fn check_lossy(stored: &TopColumn, decoded: &TopColumn, step: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(&decoded.layout, &stored.layout);
    prop_assert_eq!(&decoded.ids, &stored.ids);
    for t in 0..stored.layout.positions() {
        let range = stored.layout.list(t);
        let list = &decoded.logprobs[range.clone()];
        prop_assert!(list.iter().all(|x| *x <= 0.0) && list.windows(2).all(|w| w[0] >= w[1]));
        prop_assert!((decoded.tails[t] - stored.tails[t]).abs() <= stored.tails[t].abs() / 2048.0 + 6e-8);
        if range.is_empty() {
            continue;
        }
        let mass: f64 = list.iter().chain([&decoded.tails[t]]).map(|x| exp(*x)).sum();
        prop_assert!((mass - 1.0).abs() < 1e-5, "position {} has mass {}", t, mass);
        // Rounding by at most half a step, and the same again where it is normalised.
        prop_assert!(kl(stored, decoded, t) < step * step, "position {}: {}", t, kl(stored, decoded, t));
    }
    Ok(())
}

proptest! {
    #[test]
    fn lossless_keeps_every_bit(seed: u64, lengths in lengths(), patterns in prop::collection::vec(any::<u32>(), 1..50)) {
        let mut column = top(seed, &lengths, VOCABULARY);
        // NaNs with payloads, infinities, denormals and whatever else 32 bits can be.
        for (x, bits) in column.logprobs.iter_mut().zip(&patterns) { *x = f32::from_bits(*bits); }
        for (x, bits) in column.tails.iter_mut().zip(patterns.iter().rev()) { *x = f32::from_bits(*bits); }
        let bytes = encode_top(&column, Level::Lossless, VOCABULARY).unwrap();
        let back = PackedTop::parse(&bytes).unwrap().decode(ALL).unwrap();
        let bits = |floats: &[f32]| floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(&back.layout, &column.layout);
        prop_assert_eq!(&back.ids, &column.ids);
        prop_assert_eq!(bits(&back.logprobs), bits(&column.logprobs));
        prop_assert_eq!(bits(&back.tails), bits(&column.tails));
    }

    #[test]
    fn fast_is_within_its_error(seed: u64, lengths in lengths()) {
        let column = top(seed, &lengths, VOCABULARY);
        let bytes = encode_top(&column, Level::Fast, VOCABULARY).unwrap();
        check_lossy(&column, &PackedTop::parse(&bytes).unwrap().decode(ALL).unwrap(), 1.0 / 64.0)?;
    }

    #[test]
    fn compact_is_within_its_error(seed: u64, lengths in lengths()) {
        let column = top(seed, &lengths, VOCABULARY);
        let bytes = encode_top(&column, Level::Compact, VOCABULARY).unwrap();
        check_lossy(&column, &PackedTop::parse(&bytes).unwrap().decode(ALL).unwrap(), 1.0 / 64.0)?;
    }

    #[test]
    fn a_row_alone_is_the_row_of_the_whole(seed: u64, lengths in lengths(), keep in 0_usize..160) {
        let column = top(seed, &lengths, VOCABULARY);
        for level in Level::ALL {
            let bytes = encode_top(&column, level, VOCABULARY).unwrap();
            let packed = PackedTop::parse(&bytes).unwrap();
            let all = packed.decode(keep).unwrap();
            for row in 0..lengths.len() {
                let alone = packed.row(row, keep).unwrap();
                for (t, u) in all.layout.row(row).zip(0..) {
                    let (a, b) = (all.layout.list(t), alone.layout.list(u));
                    prop_assert_eq!(&all.ids[a.clone()], &alone.ids[b.clone()]);
                    prop_assert_eq!(&all.logprobs[a], &alone.logprobs[b]);
                    prop_assert_eq!(all.tails[t], alone.tails[u]);
                }
            }
            prop_assert!(packed.row(lengths.len(), keep).is_err());
        }
    }

    /// Reading few entries is decoding all and dropping the others into the tail.
    #[test]
    fn a_budget_read_is_the_truncation_of_the_whole(seed: u64, lengths in lengths(), keep in 0_usize..160) {
        let column = top(seed, &lengths, VOCABULARY);
        for level in Level::ALL {
            let bytes = encode_top(&column, level, VOCABULARY).unwrap();
            let packed = PackedTop::parse(&bytes).unwrap();
            let (few, cut) = (packed.decode(keep).unwrap(), truncate(packed.decode(ALL).unwrap(), keep));
            prop_assert_eq!(&few.layout, &cut.layout);
            prop_assert_eq!(&few.ids, &cut.ids);
            prop_assert_eq!(&few.logprobs, &cut.logprobs);
            for (a, b) in few.tails.iter().zip(&cut.tails) {
                prop_assert!(a == b || (exp(*a) - exp(*b)).abs() < 1e-6, "{} against {}", a, b);
            }
        }
    }

    #[test]
    fn draws_keep_every_bit_at_every_level(seed: u64, lengths in lengths(), large in 1_i32..i32::MAX / 2) {
        let mut column = draws(seed, &lengths, VOCABULARY);
        if let Some(count) = column.counts.first_mut() { *count = large; }
        for level in Level::ALL {
            let bytes = encode_draws(&column, level, VOCABULARY).unwrap();
            let packed = PackedDraws::parse(&bytes).unwrap();
            prop_assert_eq!(&packed.decode().unwrap(), &column);
            for row in 0..lengths.len() {
                let alone = packed.row(row).unwrap();
                let range = column.layout.row(row);
                prop_assert_eq!(alone.layout.positions(), range.len());
                let entries: Vec<usize> = range.flat_map(|t| column.layout.list(t)).collect();
                prop_assert_eq!(alone.counts, entries.iter().map(|at| column.counts[*at]).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn thinning_keeps_the_sampled_token_and_takes_m_of_what_was_drawn(seed: u64, lengths in lengths(), m in 1_u32..40) {
        let column = draws(seed, &lengths, VOCABULARY);
        let keys: Vec<u64> = (0..lengths.len() as u64).collect();
        let thinned = thin(&column, m, 5, &keys);
        prop_assert_eq!(&thinned, &thin(&column, m, 5, &keys));
        prop_assert_eq!(thinned.layout.positions(), column.layout.positions());
        for t in 0..column.layout.positions() {
            let (all, few) = (column.layout.list(t), thinned.layout.list(t));
            let sum = |counts: &[i32]| counts.iter().sum::<i32>();
            prop_assert_eq!(sum(&thinned.counts[few.clone()]), sum(&column.counts[all.clone()]).min(m as i32));
            if !all.is_empty() {
                prop_assert_eq!(column.ids[all.start], thinned.ids[few.start]);
            }
            for at in few {
                let from = all.clone().find(|from| column.ids[*from] == thinned.ids[at]).unwrap();
                prop_assert!(thinned.counts[at] <= column.counts[from]);
                prop_assert_eq!(thinned.logprobs[at], column.logprobs[from]);
            }
        }
    }
}

/// 1 + 3 + 2 draws thinned to 3: two of the five others, each pair with the same chance.
#[test]
fn thinning_is_multivariate_hypergeometric() {
    let mut layout = Layout::new();
    layout.push_list(3);
    layout.end_row();
    let column = DrawColumn { layout, ids: vec![5, 6, 7], counts: vec![1, 3, 2], logprobs: vec![-1.0; 3] };
    let trials = 20_000_u64;
    let mut seen = [0_u32; 3];
    for key in 0..trials {
        let thinned = thin(&column, 3, 1, &[key]);
        let of_6 = thinned.ids.iter().position(|id| *id == 6).map_or(0, |at| thinned.counts[at]);
        seen[of_6 as usize] += 1;
    }
    // C(3, n) C(2, 2 - n) / C(5, 2); the standard deviation of a share is at most 0.0035.
    for (n, due) in [(0, 0.1), (1, 0.6), (2, 0.3)] {
        let share = f64::from(seen[n]) / trials as f64;
        assert!((share - due).abs() < 0.015, "{n}: {share}, expected {due}");
    }
}

#[test]
fn minus_infinity_and_a_certain_token_come_back() {
    let mut layout = Layout::new();
    layout.push_list(3);
    layout.push_list(1);
    layout.end_row();
    let logprobs = vec![-1e-7, -16.0, f32::NEG_INFINITY, 0.0];
    let column = TopColumn { layout, ids: vec![1, 2, 3, 4], logprobs, tails: vec![f32::NEG_INFINITY; 2] };
    for level in [Level::Fast, Level::Compact] {
        let bytes = encode_top(&column, level, VOCABULARY).unwrap();
        let back = PackedTop::parse(&bytes).unwrap().decode(ALL).unwrap();
        assert_eq!(back.tails, column.tails);
        assert_eq!((back.logprobs[2], back.logprobs[3]), (f32::NEG_INFINITY, 0.0));
        assert!(back.logprobs[0].abs() < 1e-6 && (back.logprobs[1] + 16.0).abs() < 0.5, "{:?}", back.logprobs);
    }
}

#[test]
fn a_header_says_what_is_in_it() {
    let column = top(3, &[vec![2, 5], vec![1]], VOCABULARY);
    let bytes = encode_top(&column, Level::Compact, VOCABULARY).unwrap();
    let header = PackedTop::parse(&bytes).unwrap().header().clone();
    assert_eq!((header.version, header.level, header.vocabulary, header.steps), (1, Level::Compact, VOCABULARY, 64));
    assert_eq!((header.rows, header.positions, header.entries, header.longest), (2, 3, 8, 5));
}
