//! Trend queries over a store of 10 million positions: `query` against DuckDB and Polars on the same store's export.
//!
//!     make bench-sql                # of runs/demo, which `make demo` makes; kept in the cache
//!
//! - `material`: a run's batches again and again under new names, until there are positions enough;
//! - `queries`: what is asked; `peers.py` asks DuckDB and Polars the same.
//!
//! Each engine is a process of its own with two threads. First is the first time in a session whose store is open, warm the median
//! of five more. All answers have to agree.

mod material;
#[path = "../shared/process.rs"]
mod process;
mod queries;

use process::{cpu_seconds, median, peak_mib};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};
use store::{Store, StoreOptions};

type AnyError = Box<dyn std::error::Error>;

const REPETITIONS: usize = 5;
const HEADER: &str = "query,engine,first_s,warm_s,warm_cpu_s,bytes";
/// What the queries read of an export.
const TABLES: &str = "steps,evals,consumed,dropped,work,step_records";

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "measure", store] => return measure(store).await,
        [_, "make", from, into] => return material::write(from, Path::new(into)).await,
        _ => {}
    }
    let folder = PathBuf::from(std::env::var("OPD_BENCH_SQL").map_err(|_| "run `make bench-sql`")?);
    let from = std::env::var("STORE").unwrap_or_else(|_| "runs/demo".into());
    let own = std::env::current_exe()?;
    let (store, export, done) = (folder.join("store"), folder.join("export"), folder.join("done"));
    if !done.exists() {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        lines(Command::new(&own).arg("make").arg(&from).arg(&store))?;
        let opd = std::env::var("OPD").map_err(|_| "run `make bench-sql`")?;
        lines(Command::new(opd).arg("export").arg(&store).arg(&export).args(["--tables", TABLES]))?;
        std::fs::write(&done, "")?;
    }
    let python = std::env::var("READERS").map_err(|_| "run `make bench-sql`")?;
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/sql/peers.py");
    let mut found = lines(Command::new(&own).arg("measure").arg(&store))?;
    for engine in ["duckdb", "polars"] {
        found.extend(lines(Command::new(&python).arg(&script).arg(engine).arg(&export))?);
    }
    report(&found)
}

/// The lines that a program prints.
fn lines(command: &mut Command) -> Result<Vec<String>, AnyError> {
    let begun = Instant::now();
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{:?}: {}", command, output.status).into());
    }
    eprintln!("{:?}: {:.0} s", command.get_args().take(2).collect::<Vec<_>>(), begun.elapsed().as_secs_f64());
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_string).collect())
}

/// The table, then the same as CSV. A line is `query|engine|first|warm|CPU|bytes|answer` or a note.
fn report(found: &[String]) -> Result<(), AnyError> {
    let mut csv = vec![HEADER.to_string()];
    println!(
        "{:38} {:7} {:>9} {:>8} {:>12} {:>9}",
        "query", "engine", "first, s", "warm, s", "warm, CPU s", "MiB read"
    );
    for (query, ..) in queries::QUERIES {
        let of_query = found.iter().filter_map(|line| line.strip_prefix(&format!("{query}|")));
        let mut answers: Vec<Vec<f64>> = Vec::new();
        for line in of_query {
            let fields: Vec<&str> = line.split('|').collect();
            let [engine, first, warm, cpu, bytes, answer] = fields.as_slice() else {
                return Err(format!("an engine said `{line}`").into());
            };
            let mib = bytes.parse::<f64>().map_or("-".into(), |bytes| format!("{:.1}", bytes / 1048576.0));
            println!("{query:38} {engine:7} {first:>9} {warm:>8} {cpu:>12} {mib:>9}");
            csv.push(format!("{query},{engine},{first},{warm},{cpu},{bytes}"));
            answers.push(answer.split(' ').map(str::parse).collect::<Result<_, _>>()?);
        }
        let near = |a: &f64, b: &f64| (a - b).abs() <= 1e-4 * a.abs().max(b.abs()).max(1e-2);
        if answers
            .iter()
            .any(|answer| answer.len() != answers[0].len() || !answer.iter().zip(&answers[0]).all(|(a, b)| near(a, b)))
        {
            return Err(format!("{query}: the engines disagree: {answers:?}").into());
        }
    }
    println!();
    found.iter().filter_map(|line| line.strip_prefix("note|")).for_each(|note| println!("{note}"));
    println!();
    csv.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// Our side.
async fn measure(url: &str) -> Result<(), AnyError> {
    let begun = Instant::now();
    let store = Store::open(url, StoreOptions::default()).await?;
    let session = query::open(&store, None).await?;
    let opened = begun.elapsed().as_secs_f64();
    for (name, sql, opened_objects) in queries::QUERIES {
        let mut times = Vec::new();
        let mut answer = Vec::new();
        let before = session.objects_opened();
        let mut cpu = 0.0;
        for repetition in 0..=REPETITIONS {
            if repetition == 1 {
                cpu = cpu_seconds("self")?;
            }
            let begun = Instant::now();
            answer = session.run(sql).await?.collect().await?;
            times.push(begun.elapsed().as_secs_f64());
        }
        let cpu = (cpu_seconds("self")? - cpu) / REPETITIONS as f64;
        let objects = (session.objects_opened() - before) / (REPETITIONS as u64 + 1);
        let bytes = bytes_of(&session, opened_objects).await?;
        eprintln!("{name}: {objects} objects opened");
        let (first, warm) = (times.remove(0), median(times.into_iter()));
        println!("{name}|opd|{first:.3}|{warm:.3}|{cpu:.3}|{bytes}|{}", queries::sums(&answer)?);
    }
    println!(
        "note|opd: {opened:.2} s to open the store (its whole log), peak memory {:.0} MiB",
        peak_mib("self").unwrap_or(0.0)
    );
    Ok(())
}

/// Bytes of the objects that a query opens, each once.
async fn bytes_of(session: &query::Session, opened: &str) -> Result<u64, AnyError> {
    if opened.is_empty() {
        return Ok(0);
    }
    let sql = format!("select cast(sum(bytes) as bigint) as bytes from objects where {opened}");
    let answer = session.run(&sql).await?.collect().await?;
    Ok(queries::sums(&answer)?.parse::<f64>()? as u64)
}
