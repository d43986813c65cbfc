//! The store: scored rows streamed from a folder against the same rows in Parquet and in JSON lines, and commits a second.
//!
//!     cargo bench --profile dev --bench store                       # what a newcomer's build runs
//!     cargo bench --bench store                                     # all optimised; compiles everything again
//!     storage/with-s3.sh cargo bench --profile dev --bench store    # with an S3 server
//!
//! - `material`: rows shaped like those of the arith pipeline, written to a store, a Parquet file and JSON lines;
//! - `reading`: the three readers;
//! - `commits`: 1 and 8 writers of one log, in a folder, in a folder with fsync, and in a bucket.

mod commits;
mod material;
mod reading;

use std::fs;

type AnyError = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let folder = tempfile::tempdir()?;
    let mut csv = reading::reading(folder.path()).await?;
    println!();
    csv.extend(commits::commits(folder.path()).await?);
    println!();
    csv.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// What all threads of this process took so far, ended ones included; the kernel counts it in steps of 10 ms.
fn cpu_seconds() -> Result<f64, AnyError> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Behind the name in parentheses: fields 14 and 15 of proc(5), in ticks of which Linux has 100 a second.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    match fields.get(11..13) {
        Some([user, system]) => Ok((user.parse::<f64>()? + system.parse::<f64>()?) / 100.0),
        _ => Err(format!("/proc/self/stat is `{stat}`, expected 52 fields").into()),
    }
}
