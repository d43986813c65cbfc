//! Bytes of format version 1 as it was first written. They must decode for ever; `OPD_GOLDEN=write` makes those that are missing.
//!
//! That encoders still give the same bytes is a notice, not a promise: one may learn to do better. zstd's own output is not
//! compared, for it may change with its version.

use codec::{DrawColumn, Layout, Level, PackedDraws, PackedTop, TopColumn, encode_draws, encode_top};
use std::{env, fs, path::PathBuf};

const VOCABULARY: u32 = 151_936;

fn layout(rows: &[&[usize]]) -> Layout {
    let mut layout = Layout::new();
    for row in rows {
        row.iter().for_each(|n| layout.push_list(*n));
        layout.end_row();
    }
    layout
}

/// Two rows; a flat, a certain, an empty and a long list. Literals: no platform's `exp` has a say.
fn top() -> TopColumn {
    let mut column = TopColumn {
        layout: layout(&[&[3, 2, 0], &[10]]),
        ids: vec![5, 151_935, 17, 5, 6, 0, 5, 17, 4, 1000, 70_000, 3, 2, 1, 9],
        logprobs: vec![-0.5, -1.5, -3.0, -1e-6, f32::NEG_INFINITY],
        tails: vec![-2.115, -13.8, 0.0, -1.207],
    };
    // Ties almost, gaps, and what is as good as nothing.
    column.logprobs.extend([-1.6, -1.8, -2.1, -2.5, -3.0, -3.3, -3.33, -5.0, -9.25, -40.0]);
    column
}

fn draws() -> DrawColumn {
    DrawColumn {
        layout: layout(&[&[2, 1], &[], &[3]]),
        ids: vec![9, 151_000, 9, 40_000, 9, 8],
        counts: vec![15, 1, 16, 3, 1, 12],
        logprobs: vec![-0.125, -4.75, -1e-7, -2.2, -0.3, -17.5],
    }
}

fn stored(name: &str, made: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/codec/golden").join(name);
    if env::var("OPD_GOLDEN").is_ok_and(|word| word == "write") && !path.exists() {
        let lines: Vec<String> =
            made.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn version_1_of_a_top_k_is_read() {
    let column = top();
    for level in Level::ALL {
        let made = encode_top(&column, level, VOCABULARY).unwrap();
        let bytes = stored(&format!("top-{}-v1.hex", level.name()), &made);
        let back = PackedTop::parse(&bytes).unwrap().decode(usize::MAX).unwrap();
        assert_eq!((&back.layout, &back.ids), (&column.layout, &column.ids));
        if level == Level::Lossless {
            assert_eq!(back, column);
            continue;
        }
        assert_eq!(made, bytes, "{} is written otherwise than when version 1 began", level.name());
        let tails = [-2.115_234_4, -13.796_875, 0.0, -1.207_031_2];
        assert_eq!(back.tails, tails);
        // By docs/codec.md in another language; a platform's `ln` may differ in the last place.
        let due: [f32; 15] = match level {
            Level::Fast => FAST,
            _ => COMPACT,
        };
        for (found, due) in back.logprobs.iter().zip(due) {
            assert!(*found == due || (found - due).abs() < 1e-4, "{}: {:?}", level.name(), back.logprobs);
        }
    }
}

const FAST: [f32; 15] = [
    -0.5,
    -1.4999,
    -3.0019,
    -0.0,
    f32::NEG_INFINITY,
    -1.5996,
    -1.8027,
    -2.0996,
    -2.498,
    -2.998,
    -3.3027,
    -3.3262,
    -5.0137,
    -9.2988,
    -37.875,
];
const COMPACT: [f32; 15] = [
    -0.5001,
    -1.5001,
    -3.0001,
    -0.0,
    f32::NEG_INFINITY,
    -1.5978,
    -1.8009,
    -2.0978,
    -2.5041,
    -3.0041,
    -3.3009,
    -3.3322,
    -5.0041,
    -9.2541,
    -40.0041,
];

#[test]
fn version_1_of_draws_is_read() {
    let column = draws();
    for level in Level::ALL {
        let made = encode_draws(&column, level, VOCABULARY).unwrap();
        let bytes = stored(&format!("draws-{}-v1.hex", level.name()), &made);
        assert_eq!(PackedDraws::parse(&bytes).unwrap().decode().unwrap(), column);
        if level != Level::Lossless {
            assert_eq!(made, bytes, "{} is written otherwise than when version 1 began", level.name());
        }
    }
}
