//! The error of a decoded column, and how long coding takes.

use crate::{AnyError, material::Set};
use codec::TopColumn;

/// Repetitions, as far as `PATIENCE` goes.
const REPETITIONS: usize = 7;
const PATIENCE_S: f64 = 3.0;

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
    let batches = 0..set.batches.len();
    let (encode_s, packed) = timed(|| batches.clone().map(|batch| encode(set, batch)).collect::<Result<Vec<_>, _>>())?;
    let (decode_s, unpacked) =
        timed(|| batches.clone().map(|batch| decode(&packed[batch], set, batch)).collect::<Result<Vec<_>, _>>())?;
    let mut kl = Vec::new();
    for (stored, decoded) in set.batches.iter().zip(&unpacked) {
        if (&stored.layout, &stored.ids) != (&decoded.layout, &decoded.ids) {
            return Err(format!("{name}: other ids came back").into());
        }
        kl.extend(codec::divergence(stored, decoded));
    }
    kl.sort_by(f64::total_cmp);
    let (entries, bytes) = (set.entries() as f64, packed.iter().map(Vec::len).sum::<usize>() as f64);
    let line = Line {
        name: name.into(),
        vocabulary: set.vocabulary_name(),
        k: set.k.clone(),
        bytes_per_entry: bytes / entries,
        kl_mean: kl.iter().sum::<f64>() / kl.len() as f64,
        kl_p99: kl[kl.len() * 99 / 100],
        encode: entries / encode_s,
        decode: entries / decode_s,
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

/// What this thread had of a processor so far, seconds: other work on the machine does not count.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, and every Linux thread has this clock.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(outcome, 0, "no clock of the thread's processor time");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The median time that `work` takes, and what it gives.
fn timed<T>(work: impl Fn() -> Result<T, AnyError>) -> Result<(f64, T), AnyError> {
    let mut seconds = Vec::new();
    loop {
        let start = cpu_seconds();
        let result = work()?;
        seconds.push(cpu_seconds() - start);
        if seconds.len() == REPETITIONS || seconds.iter().sum::<f64>() > PATIENCE_S {
            seconds.sort_by(f64::total_cmp);
            return Ok((seconds[seconds.len() / 2], result));
        }
    }
}
