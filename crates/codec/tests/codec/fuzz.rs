//! Damage without end: packed columns of many shapes are mutated, mostly with their checksums repaired, so that it gets to the decoders.
//!
//! `OPD_FUZZ_SECONDS` (default 2) and `OPD_FUZZ_SEED` choose how long and where to begin. A failure names the seed of its case.

use crate::{
    allocation::most_held,
    support::{Numbers, VOCABULARY, draws, reseal, top},
};
use codec::{DecodeError, Level, PackedDraws, PackedTop, encode_draws, encode_top};
use std::{
    env,
    panic::catch_unwind,
    time::{Duration, Instant},
};

/// What a decoder may hold: a fixed part for its tables, and so much a byte read.
const HELD: usize = 2 << 20;
const HELD_PER_BYTE: usize = 2048;

const CASES_PER_COLUMN: u64 = 64;

struct Case {
    is_top: bool,
    keep: usize,
    bytes: Vec<u8>,
    sealed: bool,
    changed: bool,
}

/// A column as it was packed; many cases are damage to the same one.
struct Original {
    is_top: bool,
    bytes: Vec<u8>,
}

fn original(seed: u64) -> Original {
    let mut numbers = Numbers::new(seed);
    let vocabulary = [VOCABULARY, 49_152, 151_936][numbers.below(3)];
    let rows = 1 + numbers.below(3);
    let lengths: Vec<Vec<usize>> = (0..rows)
        .map(|_| (0..numbers.below(6)).map(|_| [0, 1, 2, 7, 9, 33, 130][numbers.below(7)]).collect())
        .collect();
    let level = Level::ALL[numbers.below(3)];
    let is_top = numbers.below(3) > 0;
    let packed = match is_top {
        true => encode_top(&top(numbers.next(), &lengths, vocabulary), level, vocabulary),
        false => encode_draws(&draws(numbers.next(), &lengths, vocabulary), level, vocabulary),
    };
    Original { is_top, bytes: packed.unwrap() }
}

fn case(seed: u64, original: &Original) -> Case {
    let mut numbers = Numbers::new(!seed);
    let mut bytes = original.bytes.clone();
    for _ in 0..1 + numbers.below(4) {
        mutate(&mut bytes, &mut numbers);
    }
    let sealed = numbers.below(8) > 0;
    if sealed {
        reseal(&mut bytes);
    }
    let keep = [usize::MAX, 0, 1, 8, 50][numbers.below(5)];
    Case { is_top: original.is_top, keep, sealed, changed: bytes != original.bytes, bytes }
}

fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    const NOTABLE: [u32; 10] = [0, 1, 2, 0x7f, 0x80, 0xff, 0xffff, 0x10000, 0x7fff_ffff, 0xffff_ffff];
    if bytes.is_empty() {
        return;
    }
    let at = numbers.below(bytes.len());
    match numbers.below(9) {
        0 => bytes[at] ^= 1 << numbers.below(8),
        1 => bytes[at] = numbers.next() as u8,
        2 => bytes.truncate(at),
        3 => bytes.insert(at, numbers.next() as u8),
        4 => drop(bytes.remove(at)),
        // The fixed part of the header, as whole numbers.
        5 => {
            let field = 8 + 4 * numbers.below(7);
            let value = NOTABLE[numbers.below(NOTABLE.len())].to_le_bytes();
            bytes.iter_mut().skip(field).zip(value).for_each(|(byte, new)| *byte = new);
        }
        // Anywhere: a run of one byte, as lengths and counts in varints are made large by.
        6 => {
            let run = 1 + numbers.below(6);
            let value = [0, 0x7f, 0x80, 0xff][numbers.below(4)];
            bytes.iter_mut().skip(at).take(run).for_each(|byte| *byte = value);
        }
        // Part of itself, elsewhere.
        7 => {
            let from = numbers.below(bytes.len());
            let part: Vec<u8> = bytes[from..].iter().take(1 + numbers.below(40)).copied().collect();
            bytes.iter_mut().skip(at).zip(part).for_each(|(byte, new)| *byte = new);
        }
        // Behind the header: sizes of sections stay right, so repaired checksums let it through.
        _ => {
            let at = bytes.len() / 3 + numbers.below(bytes.len() - bytes.len() / 3);
            bytes[at] ^= 1 << numbers.below(8);
        }
    }
}

/// Decodes, and checks what a column promises; gives whether it decoded.
fn decode(case: &Case) -> bool {
    let outcome = match case.is_top {
        true => decode_top(&case.bytes, case.keep),
        false => decode_draws(&case.bytes),
    };
    outcome.is_ok()
}

fn decode_top(bytes: &[u8], keep: usize) -> Result<(), DecodeError> {
    let packed = PackedTop::parse(bytes)?;
    let header = packed.header();
    let column = packed.decode(keep)?;
    assert_eq!((column.layout.rows(), column.layout.positions()), (header.rows as usize, column.tails.len()));
    assert_eq!((column.layout.entries(), column.ids.len()), (column.logprobs.len(), column.logprobs.len()));
    assert!(column.layout.longest() <= keep.min(usize::from(header.longest)));
    assert!(column.ids.iter().all(|id| (0..header.vocabulary as i32).contains(id)));
    if header.level != Level::Lossless {
        assert!(column.logprobs.iter().chain(&column.tails).all(|x| *x <= 0.0));
    }
    if header.rows > 0 {
        packed.row(header.rows as usize - 1, keep)?;
    }
    Ok(())
}

fn decode_draws(bytes: &[u8]) -> Result<(), DecodeError> {
    let packed = PackedDraws::parse(bytes)?;
    let header = packed.header();
    let column = packed.decode()?;
    assert_eq!((column.layout.rows(), column.layout.entries()), (header.rows as usize, column.ids.len()));
    assert_eq!((column.counts.len(), column.logprobs.len()), (column.ids.len(), column.ids.len()));
    assert!(column.ids.iter().all(|id| (0..header.vocabulary as i32).contains(id)));
    assert!(column.counts.iter().all(|count| *count >= 1));
    Ok(())
}

#[test]
fn no_damage_gets_past() {
    let number = |key: &str, default: u64| env::var(key).ok().map_or(default, |text| text.parse().unwrap());
    let (seconds, first) = (number("OPD_FUZZ_SECONDS", 2), number("OPD_FUZZ_SEED", 1));
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut seed, mut decoded) = (first, 0_u64);
    let mut column = original(seed / CASES_PER_COLUMN);
    while Instant::now() < end {
        if seed.is_multiple_of(CASES_PER_COLUMN) {
            column = original(seed / CASES_PER_COLUMN);
        }
        let outcome = catch_unwind(|| {
            let case = case(seed, &column);
            let (decoded, held) = most_held(|| decode(&case));
            let most = HELD + HELD_PER_BYTE * case.bytes.len();
            assert!(held <= most, "{held} bytes held for {} read", case.bytes.len());
            assert!(case.sealed || !case.changed || !decoded, "damage that its checksums do not show");
            decoded
        });
        match outcome {
            Ok(was_decoded) => decoded += u64::from(was_decoded),
            Err(_) => panic!("OPD_FUZZ_SEED={seed} fails"),
        }
        seed += 1;
    }
    let cases = seed - first;
    println!("{cases} cases in {seconds} s, {decoded} decoded");
    // Mutation must not stop at the door: some damaged columns have to decode, and some not.
    assert!(seconds == 0 || (decoded > cases / 50 && decoded < cases), "{decoded} of {cases} decoded");
}
