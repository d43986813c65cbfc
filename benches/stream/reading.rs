//! The store's side: batches of the stream, in the order rows are taken.

use crate::{
    AnyError,
    process::{cpu_seconds, median},
    run::SET,
};
use futures::StreamExt;
use std::time::{Duration, Instant};
use store::{Kind, Scored, SelectedBatch, Selection, Store, StoreOptions};

/// Passes over all rows: as many as fit into this, but three at least.
const TIME: Duration = Duration::from_secs(6);

/// Two lines of the table, without the rows' name: each batch for the first time in a process, which computes its SHA-256, and again.
pub async fn measure(url: &str, name: &str) -> Result<Vec<String>, AnyError> {
    // What was changed just now is checked again each time: the store's rule, and no matter of speed.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut whole = Sum::default();
    let (known, batches) = open(url).await?;
    read(&known, batches.clone(), |row| whole.all(row)).await?;
    let usage = known.usage().await?;
    let bytes: u64 = [Kind::Rollouts, Kind::Scores].iter().filter_map(|kind| usage.get(kind)).map(|of| of.bytes).sum();
    let mut latencies = Vec::new();
    for begin in [0, batches.len() / 2] {
        let mut times = Vec::new();
        for _ in 0..9 {
            let start = Instant::now();
            let (store, batches) = open(url).await?;
            let first = batches[begin..].iter().take(1).cloned().collect();
            let mut used = 0;
            read(&store, first, |row| used += touch(row)).await?;
            std::hint::black_box(used);
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        latencies.push(format!("{:.1}", median(times.into_iter())));
    }
    let mut lines = Vec::new();
    for (time, latencies) in [("first", latencies.join(",")), ("again", ",".into())] {
        let (mut passes, begun, cpu) = (0, Instant::now(), cpu_seconds("self")?);
        while passes < 3 || begun.elapsed() < TIME {
            let store = match time {
                "first" => Store::open(url, StoreOptions::default()).await?,
                _ => known.clone(),
            };
            let mut used = 0;
            read(&store, batches.clone(), |row| used += touch(row)).await?;
            std::hint::black_box(used);
            passes += 1;
        }
        // The clock of CPU time is coarse, so all passes together.
        let seconds = (cpu_seconds("self")? - cpu) / f64::from(passes);
        let (rows, entries) = (whole.rows as f64 / seconds, whole.entries as f64 / seconds);
        let sum = format!("{} {} {}", whole.rows, whole.ids, whole.bits);
        lines.push(format!("{name}: {time},{rows:.0},{entries:.0},{bytes},{latencies},{sum}"));
    }
    Ok(lines)
}

/// What a learner does before its first batch: the log is read, and the selection made.
async fn open(url: &str) -> Result<(Store, Vec<SelectedBatch>), AnyError> {
    let store = Store::open(url, StoreOptions::default()).await?;
    let snapshot = store.snapshot(None).await?;
    let batches = Selection::scored_in(SET).batches(&snapshot);
    Ok((store, batches))
}

async fn read(store: &Store, batches: Vec<SelectedBatch>, mut take: impl FnMut(&Scored)) -> Result<(), AnyError> {
    let mut stream = store.stream(batches, None);
    while let Some(scored) = stream.next().await {
        take(&scored?);
    }
    Ok(())
}

/// Uses a number of each 4 KiB of every array.
fn touch(scored: &Scored) -> u64 {
    let mut used = 0u64;
    for row in scored.rows.iter() {
        let row = scored.data.row(row as usize);
        for ids in [row.rollout.response_ids, row.teacher_top_ids.values()] {
            used = ids.iter().step_by(1024).fold(used, |used, id| used.wrapping_add(*id as u64));
        }
        for logprobs in [row.rollout.sampler_logprobs, row.teacher_top_logprobs.values(), row.teacher_tail_logprobs] {
            used = logprobs.iter().step_by(1024).fold(used, |used, p| used.wrapping_add(p.to_bits().into()));
        }
    }
    used
}

/// Everything of the top-k, added up: ids, and logprobs by their bits.
#[derive(Default)]
struct Sum {
    rows: u64,
    entries: u64,
    ids: i64,
    bits: i64,
}

impl Sum {
    fn all(&mut self, scored: &Scored) {
        for row in scored.rows.iter() {
            let row = scored.data.row(row as usize);
            self.rows += 1;
            self.entries += row.teacher_top_ids.values().len() as u64;
            self.ids += row.teacher_top_ids.values().iter().map(|id| i64::from(*id)).sum::<i64>();
            // As NumPy adds up a view of int32.
            self.bits += row.teacher_top_logprobs.values().iter().map(|p| i64::from(p.to_bits() as i32)).sum::<i64>();
        }
    }
}
