//! A bucket read without copies on disk, with a cache that is empty yet, and with one that has everything: the learner's stream, and
//! weights as a rollout worker fetches them.

use crate::{
    AnyError, in_bucket,
    material::{BATCHES, Chance, batch, start},
    process::{cpu_seconds, median},
    reading::read_store,
    run::{ROWS, commit},
};
use record::{ObjectRef, PolicyVersion};
use std::{path::Path, time::Instant};
use store::{CacheOptions, Store, StoreOptions};

const REPETITIONS: usize = 5;
/// Bytes of the weights: those of 16 million parameters in float32.
const WEIGHTS: usize = 64 << 20;

/// The table goes out; the CSV comes back.
pub async fn cache(folder: &Path) -> Result<Vec<String>, AnyError> {
    let Some(url) = in_bucket() else {
        println!("cache: not measured, there is no bucket (storage/with-s3.sh brings one)");
        return Ok(vec![]);
    };
    let store = Store::open(&url, StoreOptions::default()).await?;
    let (mut follower, mut chance) = (start(&store).await?, Chance::new(1));
    for unit in 0..BATCHES {
        commit(&mut follower, unit, &batch(unit, &mut chance)?, None).await?;
    }
    let weights = store.put_policy(PolicyVersion(1), vec![1_u8; WEIGHTS]).await?;
    let rows = f64::from(ROWS) * BATCHES as f64;
    println!("{rows} scored rows and {} MiB of weights from a bucket, median of {REPETITIONS}\n", WEIGHTS >> 20);
    println!(" copies on disk        rows/s    CPU, ms a 1,000 rows    weights, ms");
    let mut csv = vec!["copies,rows_per_s,cpu_ms_per_1000_rows,weights_ms".to_string()];
    for copies in ["no cache", "none yet", "all"] {
        let mut rounds = Vec::new();
        for round in 0..REPETITIONS {
            // With all copies there, the folder is the one that the rounds before have filled.
            let path = folder.join(if copies == "none yet" { format!("empty-{round}") } else { "full".into() });
            let cache = (copies != "no cache").then_some(CacheOptions { path, bytes: 1 << 30 });
            let store = Store::open(&url, StoreOptions { cache, ..StoreOptions::default() }).await?;
            if copies == "all" && round == 0 {
                measure(&store, &weights).await?;
            }
            rounds.push(measure(&store, &weights).await?);
        }
        let per_s = rows / median(rounds.iter().map(|round| round.seconds));
        let cpu = rounds.iter().map(|round| round.cpu).sum::<f64>() / REPETITIONS as f64 * 1e6 / rows;
        let weights_ms = median(rounds.iter().map(|round| round.weights_ms));
        println!(" {copies:<16}    {per_s:>8.0}    {cpu:>20.1}    {weights_ms:>11.1}");
        csv.push(format!("{copies},{per_s:.0},{cpu:.2},{weights_ms:.2}"));
    }
    Ok(csv)
}

struct Round {
    seconds: f64,
    cpu: f64,
    weights_ms: f64,
}

async fn measure(store: &Store, weights: &ObjectRef) -> Result<Round, AnyError> {
    let (begin, cpu) = (Instant::now(), cpu_seconds("self")?);
    let sum = read_store(store).await?;
    if sum.rows != u64::from(ROWS) * BATCHES {
        return Err(format!("{} rows were read, expected {}", sum.rows, u64::from(ROWS) * BATCHES).into());
    }
    let (seconds, cpu, begin) = (begin.elapsed().as_secs_f64(), cpu_seconds("self")? - cpu, Instant::now());
    store.get(weights).await?;
    Ok(Round { seconds, cpu, weights_ms: begin.elapsed().as_secs_f64() * 1e3 })
}
