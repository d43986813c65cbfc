//! Resident memory on a store ten times as large: of the learner's stream, and of SQL over all rows.

use crate::{
    AnyError, in_bucket,
    log::program,
    material::{BATCHES, Chance, batch, start},
    process::peak_mib,
    reading::read_store,
    run::{ROWS, commit},
};
use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};
use store::{Store, StoreOptions};

const QUERY: &str = "select teacher_id, count(*), avg(cardinality(response_ids)), sum(teacher_logprobs[1]) \
                     from scored group by teacher_id";

/// The table goes out; the CSV comes back.
pub async fn memory(folder: &Path) -> Result<Vec<String>, AnyError> {
    println!("resident memory at most, MiB\n");
    println!(" what                     {BATCHES} batches    {} batches    ratio", 10 * BATCHES);
    let mut csv = vec!["what,mib,mib_at_ten_times,ratio".to_string()];
    let mut places = vec![("folder", folder.join("run").display().to_string())];
    places.extend(in_bucket().map(|url| ("S3", url)));
    for (place, url) in places {
        let (mut streams, mut queries) = (Vec::new(), Vec::new());
        for times in [1, 10] {
            let url = format!("{url}-{times}");
            fill(&url, times * BATCHES).await?;
            streams.push(stream_in_a_process(&url)?);
            queries.push(program(&["sql", &url, QUERY])?.mib);
        }
        for (what, mib) in [("the learner's stream", streams), ("opd sql", queries)] {
            let (what, ratio) = (format!("{place}: {what}"), mib[1] / mib[0]);
            println!(" {what:<28} {:>6.0}    {:>11.0}    {ratio:>5.2}", mib[0], mib[1]);
            csv.push(format!("{what},{:.1},{:.1},{ratio:.3}", mib[0], mib[1]));
        }
    }
    Ok(csv)
}

async fn fill(url: &str, batches: u64) -> Result<(), AnyError> {
    let (store, mut chance) = (Store::open(url, StoreOptions::default()).await?, Chance::new(1));
    let mut follower = start(&store).await?;
    for unit in 0..batches {
        commit(&mut follower, unit, &batch(unit, &mut chance)?, None).await?;
    }
    Ok(())
}

/// A process has no memory of what others did before. It allocates as the jobs of `opd run` do, in two arenas.
fn stream_in_a_process(url: &str) -> Result<f64, AnyError> {
    let output = Command::new(env::current_exe()?)
        .args(["as", "stream", url])
        .env("MALLOC_ARENA_MAX", "2")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let said = String::from_utf8(output.stdout)?;
    said.trim().parse().map_err(|_| format!("a stream ended with {} and said `{said}`", output.status).into())
}

/// Streams a store's rows as a learner does, and says how much memory that took.
pub async fn stream(url: &str) -> Result<(), AnyError> {
    let sum = read_store(&Store::open(url, StoreOptions::default()).await?).await?;
    if sum.rows == 0 || !sum.rows.is_multiple_of(u64::from(ROWS)) {
        return Err(format!("{} rows were read", sum.rows).into());
    }
    println!("{}", peak_mib("self").ok_or("/proc/self/status has no VmHWM")?);
    Ok(())
}
