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
#[path = "../shared/process.rs"]
mod process;
mod reading;
#[path = "../shared/run.rs"]
mod run;
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
