//! Streaming scored rows for training: the store against `torch.save` files, HF datasets (Arrow), Mosaic StreamingDataset and
//! LitData that hold the same rows, each on one core, files in the page cache.
//!
//!     make bench-stream                       # rows of a stated recipe, top-k of 64
//!     make bench-stream STORE=runs/demo       # and the first 4,096 rows of a run
//!
//! - `material`: the rows, in a store of plain columns and in one packed as `fast`;
//! - `reading`: the store's side; `peers.py` writes the peers' files from the plain store's own and measures them.
//!
//! A reader hands each batch's arrays over: tokens, sampler logprobs, the teacher's top-k ids and logprobs, its lengths, tails.
//! Speed is by a second of CPU time, all threads of the reader's process together, so other work on the machine changes it little;
//! the times to a first batch are medians by the clock. Once, untimed, everything is added up, and all sums have to agree; when timed, a number of each 4 KiB is used.

mod material;
#[path = "../shared/process.rs"]
mod process;
mod reading;
#[path = "../shared/run.rs"]
mod run;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

type AnyError = Box<dyn std::error::Error>;

/// What a reader says of itself; the peers print the same columns.
const HEADER: &str = "rows,reader,rows_per_cpu_s,entries_per_cpu_s,bytes,first_batch_ms,resume_ms";

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, store, name] = arguments.as_slice()
        && command == "measure"
    {
        reading::measure(store, name).await?.iter().for_each(|line| println!("{line}"));
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut csv = vec![HEADER.to_string()];
    let mut materials = vec![("synthetic", None)];
    let run = std::env::var("STORE").ok().filter(|store| !store.is_empty());
    materials.extend(run.iter().map(|store| ("of a run", Some(store.as_str()))));
    for (rows, run) in materials {
        let written = material::write(&folder.path().join(rows.replace(' ', "-")), run).await?;
        println!("{rows}: {}\n", written.says);
        println!(
            "reader                             rows/CPU s   M entries/s   MiB on disk   first batch, ms   resumed, ms"
        );
        let mut sums: Vec<String> = Vec::new();
        for line in measured(&written)? {
            let fields: Vec<&str> = line.split(',').collect();
            let [reader, rows_per_s, entries_per_s, bytes, first, resume, sum] = fields.as_slice() else {
                return Err(format!("a reader said `{line}`").into());
            };
            let (entries, mib) = (entries_per_s.parse::<f64>()? / 1e6, bytes.parse::<f64>()? / 1048576.0);
            println!("{reader:34} {rows_per_s:>9} {entries:>13.1} {mib:>13.1} {first:>17} {resume:>13}");
            csv.push(format!("{rows},{}", fields[..6].join(",")));
            // What was packed with loss has other logprobs.
            if !reader.contains("packed") {
                sums.push(sum.to_string());
            }
        }
        println!();
        if sums.iter().any(|sum| *sum != sums[0]) {
            return Err(format!("the readers disagree: {sums:?}").into());
        }
    }
    csv.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// The lines of all readers, each measured by a process of its own on the first core.
fn measured(written: &material::Written) -> Result<Vec<String>, AnyError> {
    let pinned = |program: &Path, arguments: &[&Path]| -> Result<Vec<String>, AnyError> {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(program).args(arguments).env("OMP_NUM_THREADS", "1");
        let output = command.stderr(std::process::Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("{}: {}", program.display(), output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?.lines().map(str::to_string).collect())
    };
    let own = std::env::current_exe()?;
    let mut lines = Vec::new();
    for (store, name) in [(&written.plain, "the store plain"), (&written.packed, "the store packed fast")] {
        lines.extend(pinned(&own, &[Path::new("measure"), store, Path::new(name)])?);
    }
    let python = std::env::var("PEERS").map_err(|_| "PEERS is not set: `make bench-stream` installs the peers")?;
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/stream/peers.py");
    lines.extend(pinned(Path::new(&python), &[&script, &written.plain, &written.peers])?);
    Ok(lines)
}
