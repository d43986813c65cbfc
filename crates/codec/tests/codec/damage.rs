use crate::{
    allocation::most_held,
    support::{VOCABULARY, draws, reseal, top},
};
use codec::{DecodeError, Level, PackedDraws, PackedTop, encode_draws, encode_top};

/// Small columns of every kind and level.
pub fn samples() -> Vec<(bool, Vec<u8>)> {
    let lengths = [vec![3, 0, 40], vec![], vec![1, 12]];
    let (top, draws) = (top(2, &lengths, VOCABULARY), draws(2, &lengths, VOCABULARY));
    let tops = Level::ALL.map(|level| (true, encode_top(&top, level, VOCABULARY).unwrap()));
    let draws = Level::ALL.map(|level| (false, encode_draws(&draws, level, VOCABULARY).unwrap()));
    tops.into_iter().chain(draws).collect()
}

pub fn decode(is_top: bool, bytes: &[u8]) -> Result<(), DecodeError> {
    match is_top {
        true => PackedTop::parse(bytes)?.decode(usize::MAX).map(drop),
        false => PackedDraws::parse(bytes)?.decode().map(drop),
    }
}

#[test]
fn every_truncation_is_an_error() {
    for (is_top, bytes) in samples() {
        assert_eq!(decode(is_top, &bytes), Ok(()));
        for end in 0..bytes.len() {
            assert!(decode(is_top, &bytes[..end]).is_err(), "{end} of {} bytes", bytes.len());
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(decode(is_top, &longer).is_err());
    }
}

#[test]
fn every_flipped_bit_is_an_error() {
    for (is_top, bytes) in samples() {
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(is_top, &flipped).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn errors_say_what_it_is_and_where() {
    let (_, bytes) = &samples()[2];
    let message = |bytes: &[u8]| decode(true, bytes).unwrap_err().to_string();
    assert_eq!(message(b"PAR1...."), "expected [4f, 50, 44, 43], found [50, 41, 52, 31]: it is not that packed column");
    assert_eq!(message(b"OP"), "expected [4f, 50, 44, 43], found [4f, 50]: it is not that packed column");
    let mut newer = bytes.clone();
    newer[4] = 9;
    assert_eq!(
        message(&newer),
        "the packed column has format version 9, expected at most 1: read it with a newer build"
    );
    let (_, other) = &samples()[5];
    assert_eq!(message(other), "expected a column of top-k, found a column of draws: it is not that packed column");
    let end = bytes.len();
    let mut flipped = bytes.clone();
    flipped[end - 5] ^= 1;
    let error = message(&flipped);
    assert!(error.starts_with(&format!("row 2: the checksum at byte {} is ", end - 4)), "{error}");
    assert!(message(&bytes[..end - 1]).ends_with(&format!("expected {end} bytes, found {}", end - 1)));
    let error = PackedTop::parse(bytes).unwrap().row(3, 9).unwrap_err();
    assert_eq!(error.to_string(), "row 3: expected one of 3 rows");
}

/// Every number of the header made as large as it goes, with checksums that fit: an error, and no memory asked for.
#[test]
fn a_header_that_promises_much_gets_little() {
    for (is_top, bytes) in samples() {
        for (at, size) in [(8, 4), (12, 4), (16, 4), (20, 4), (26, 2), (28, 4), (32, 4)] {
            for fill in [0x7f, 0xff, 0x10] {
                let mut hostile = bytes.clone();
                hostile[at..at + size].fill(fill);
                reseal(&mut hostile);
                let (_, held) = most_held(|| decode(is_top, &hostile));
                assert!(held < 2 << 20, "{held} bytes held for {} read, {at} filled with {fill:#x}", hostile.len());
            }
        }
    }
}
