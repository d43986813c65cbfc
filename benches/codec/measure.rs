//! The error of a decoded column, and how long coding takes.

use crate::{AnyError, material::Set};
use codec::TopColumn;
use std::time::Instant;

const REPETITIONS: usize = 5;

/// A row of the table.
pub struct Line {
    name: String,
    vocabulary: String,
    k: String,
    bytes_per_entry: f64,
    kl_mean: f64,
    kl_p99: f64,
    encode: f64,
    decode: f64,
}

impl Line {
    pub const HEADING: &str =
        " level                     B/entry  B/position    KL mean     KL p99   encode, M entries/s     decode";
    pub const CSV_HEADING: &str =
        "level,vocab,k,bytes_per_entry,kl_mean,kl_p99,encode_entries_per_s,decode_entries_per_s";

    pub fn csv(&self) -> String {
        let Self { name, vocabulary, k, bytes_per_entry, kl_mean, kl_p99, encode, decode } = self;
        format!("{name},{vocabulary},{k},{bytes_per_entry:.3},{kl_mean:.2e},{kl_p99:.2e},{encode:.3e},{decode:.3e}")
    }
}

/// Codes every batch of `set` by itself.
pub fn measure(
    name: &str,
    set: &Set,
    encode: impl Fn(&Set, usize) -> Result<Vec<u8>, AnyError>,
    decode: impl Fn(&[u8], &Set, usize) -> Result<TopColumn, AnyError>,
) -> Result<Line, AnyError> {
    let (mut encode_s, mut decode_s) = (Vec::new(), Vec::new());
    let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        packed = (0..set.batches.len()).map(|batch| encode(set, batch)).collect::<Result<Vec<_>, _>>()?;
        encode_s.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        unpacked =
            (0..set.batches.len()).map(|batch| decode(&packed[batch], set, batch)).collect::<Result<Vec<_>, _>>()?;
        decode_s.push(start.elapsed().as_secs_f64());
    }
    let mut kl = Vec::new();
    for (stored, decoded) in set.batches.iter().zip(&unpacked) {
        if (&stored.layout, &stored.ids) != (&decoded.layout, &decoded.ids) {
            return Err(format!("{name}: other ids came back").into());
        }
        kl.extend(codec::divergence(stored, decoded));
    }
    kl.sort_by(f64::total_cmp);
    let (entries, bytes) = (set.entries() as f64, packed.iter().map(Vec::len).sum::<usize>() as f64);
    let median = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        entries / seconds[REPETITIONS / 2]
    };
    let line = Line {
        name: name.into(),
        vocabulary: set.vocabulary_name(),
        k: set.k.clone(),
        bytes_per_entry: bytes / entries,
        kl_mean: kl.iter().sum::<f64>() / kl.len() as f64,
        kl_p99: kl[kl.len() * 99 / 100],
        encode: median(encode_s),
        decode: median(decode_s),
    };
    println!(
        " {name:<24} {:>8.3} {:>11.1}   {:>8.1e}   {:>8.1e}   {:>19.1} {:>10.1}",
        line.bytes_per_entry,
        bytes / set.positions() as f64,
        line.kl_mean,
        line.kl_p99,
        line.encode / 1e6,
        line.decode / 1e6
    );
    Ok(line)
}
