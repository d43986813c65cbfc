use crate::support::{VOCABULARY, draws, top};
use codec::{DrawColumn, Level, TopColumn, encode_draws, encode_top};

/// The message for a column of 2 rows with 2 positions of 3 entries each, with entry 10, the second of row 1's second position, changed.
fn message(level: Level, change: impl Fn(&mut TopColumn)) -> String {
    let mut column = top(1, &[vec![3, 3], vec![3, 3]], VOCABULARY);
    change(&mut column);
    encode_top(&column, level, VOCABULARY).unwrap_err().to_string()
}

fn draws_message(change: impl Fn(&mut DrawColumn)) -> String {
    let mut column = draws(1, &[vec![3, 3], vec![3, 3]], VOCABULARY);
    change(&mut column);
    encode_draws(&column, Level::Fast, VOCABULARY).unwrap_err().to_string()
}

#[test]
fn what_would_be_a_wrong_answer_later() {
    type Change = fn(&mut TopColumn);
    let cases: [(&str, Change); 8] = [
        ("row 1, position 1, `ids`: expected ids from 0 to 299, found 300", |c| c.ids[10] = 300),
        ("row 1, position 1, `ids`: expected ids from 0 to 299, found -1", |c| c.ids[10] = -1),
        ("row 1, position 1, `ids`: expected each id once, found 7 twice", |c| c.ids[9..11].fill(7)),
        ("row 1, position 1, `logprobs`: expected numbers of at most 0, found NaN", |c| c.logprobs[10] = f32::NAN),
        ("row 1, position 1, `logprobs`: expected numbers of at most 0, found 0.5", |c| c.logprobs[10] = 0.5),
        ("row 1, position 1, `tails`: expected numbers of at most 0, found inf", |c| c.tails[3] = f32::INFINITY),
        ("row 1, position 1, `logprobs`: expected the most likely first, found -3 before -2", |c| {
            (c.logprobs[10], c.logprobs[11]) = (-3.0, -2.0);
        }),
        ("row 1, position 1, `logprobs`: expected masses that add up to 1 with the tail, within 0.01, found 0", |c| {
            (c.logprobs[9..12].fill(-800.0), c.tails[3] = -800.0).0
        }),
    ];
    for level in [Level::Fast, Level::Compact] {
        for (expected, change) in cases {
            assert_eq!(message(level, change), expected, "{}", level.name());
        }
    }
    // What floats say is no business of a level that keeps their bits; ids are.
    assert_eq!(message(Level::Lossless, cases[0].1), cases[0].0);
    assert_eq!(message(Level::Lossless, cases[2].1), cases[2].0);
}

#[test]
fn parts_that_do_not_fit_each_other() {
    assert_eq!(message(Level::Fast, |c| c.ids.truncate(11)), "`ids`: expected 12, found 11");
    assert_eq!(message(Level::Fast, |c| c.tails.push(0.0)), "`tails`: expected 4, found 5");
    assert_eq!(message(Level::Fast, |c| c.layout.push_list(2)), "`rows`: expected 5 positions, all in rows, found 4");
    assert_eq!(
        message(Level::Fast, |c| {
            c.layout.push_list(usize::MAX);
            c.layout.end_row()
        }),
        "`entries`: expected at most 2147483647, found 4294967295"
    );
    assert_eq!(
        message(Level::Fast, |c| {
            c.layout.push_list(70_000);
            c.layout.end_row()
        }),
        "`list`: expected at most 65535 entries, found 70000"
    );
    let column = top(1, &[vec![1]], VOCABULARY);
    for vocabulary in [0, 1 << 25] {
        let error = encode_top(&column, Level::Fast, vocabulary).unwrap_err().to_string();
        assert_eq!(error, format!("`vocabulary`: expected 1 to 16777216, found {vocabulary}"));
    }
}

#[test]
fn counts_below_1_or_beyond_32_bits_in_all() {
    assert_eq!(draws_message(|c| c.counts[10] = 0), "row 1, position 1, `counts`: expected from 1, found 0");
    assert_eq!(draws_message(|c| c.counts[10] = -4), "row 1, position 1, `counts`: expected from 1, found -4");
    let error = draws_message(|c| c.counts[9..12].fill(1 << 30));
    assert_eq!(error, "row 1, position 1, `counts`: expected at most 2147483647 in all, found 3221225472");
    assert_eq!(draws_message(|c| c.counts.truncate(11)), "`counts`: expected 12, found 11");
}
