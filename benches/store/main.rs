//! The store: scored rows streamed from a folder against the same rows in Parquet and in JSON lines, and what its log can take.
//!
//!     cargo bench --profile dev --bench store                       # what a newcomer's build runs
//!     cargo bench --bench store                                     # all optimised; compiles everything again
//!     storage/with-s3.sh cargo bench --profile dev --bench store    # with an S3 server
//!     storage/with-s3.sh cargo bench --profile dev --bench store -- commits visible    # only these parts
//!
//! - `reading`: rows shaped like those of the arith pipeline ([`material`]), in a store, a Parquet file and JSON lines, read back;
//! - `commits`: 1, 8 and 32 writers of one log, in a folder, in a folder with fsync, and in a bucket;
//! - `cache`: a bucket read without copies on disk, with none yet, and with all;
//! - `visible`: from the put of a batch's scores until the learner has it, a process for each job;
//! - `log`: start, status and SQL on a log of 100,000 commits;
//! - `memory`: resident memory of the learner's stream and of SQL on a store ten times as large;
//! - `encodings`, `archive`: columns of the store that `STORE` names in Parquet's encodings, and a copy of it before and after `opd archive`.

mod archive;
mod cache;
mod commits;
mod encodings;
mod log;
mod material;
mod memory;
mod reading;
mod visible;

use std::{env, fs, path::Path};

type AnyError = Box<dyn std::error::Error>;

const PARTS: [&str; 8] = ["reading", "commits", "cache", "visible", "log", "memory", "encodings", "archive"];

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    // cargo adds an option of its own.
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        // This program as one process of a part.
        ["as", "stream", url] => return memory::stream(url).await,
        ["as", job, url, poll_ms, work_ms] => return visible::play(job, url, poll_ms.parse()?, work_ms.parse()?).await,
        _ => {}
    }
    if let Some(unknown) = words.iter().find(|word| !PARTS.contains(word)) {
        return Err(format!("there is no part `{unknown}`: {}", PARTS.join(", ")).into());
    }
    let folder = tempfile::tempdir()?;
    let mut csv = Vec::new();
    for part in PARTS.into_iter().filter(|part| words.is_empty() || words.contains(part)) {
        let folder = folder.path().join(part);
        fs::create_dir(&folder)?;
        csv.extend(measure(part, &folder).await?);
        println!();
        fs::remove_dir_all(&folder)?;
    }
    csv.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// The part's table goes out; the CSV comes back.
async fn measure(part: &str, folder: &Path) -> Result<Vec<String>, AnyError> {
    match part {
        "reading" => reading::reading(folder).await,
        "commits" => commits::commits(folder).await,
        "cache" => cache::cache(folder).await,
        "visible" => visible::visible(folder).await,
        "log" => log::log(folder).await,
        "encodings" => encodings::encodings(),
        "archive" => archive::archive(folder).await,
        _ => memory::memory(folder).await,
    }
}

/// A prefix of its own in the bucket that `storage/with-s3.sh` brings, if there is one.
fn in_bucket() -> Option<String> {
    env::var("OPD_TEST_S3_URL").ok().map(|url| format!("{url}/{}", store::unique_id()))
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// What all threads of a process took so far, ended ones included; the kernel counts it in steps of 10 ms.
fn cpu_seconds(process: &str) -> Result<f64, AnyError> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name in parentheses: fields 14 and 15 of proc(5), in ticks of which Linux has 100 a second.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    match fields.get(11..13) {
        Some([user, system]) => Ok((user.parse::<f64>()? + system.parse::<f64>()?) / 100.0),
        _ => Err(format!("/proc/{process}/stat is `{stat}`, expected 52 fields").into()),
    }
}

/// The most resident memory that a process has had so far, in MiB; `None` once it has ended.
fn peak_mib(process: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}
