//! Commits a second: writers that each open the store for themselves, follow its log and append what any state takes. Each
//! commit waits for its answer; whoever loses a number folds the winner's commit and tries the next.

use crate::{
    AnyError, in_bucket,
    material::{Chance, start},
    process::median,
    run::work,
};
use futures::future::try_join_all;
use record::Event;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use store::{Store, StoreError, StoreOptions};

/// Rounds per place and number of writers; each begins a new log.
const ROUNDS: usize = 3;

/// The table goes out; the CSV comes back.
pub async fn commits(folder: &Path) -> Result<Vec<String>, AnyError> {
    let folder = |name: &str| folder.join(name).display().to_string();
    let mut places = vec![("folder", folder("log"), false, 800), ("folder, fsync", folder("log-fsync"), true, 192)];
    // In a bucket, if there is one: it is what many writers share.
    let last = in_bucket().map_or_else(|| folder("paced"), |url| format!("{url}-s"));
    if in_bucket().is_some() {
        places.push(("S3", last.clone(), false, 192));
    }
    println!("commits of all writers together, median of {ROUNDS} rounds\n");
    println!(" place           writers   commits   commits/s    ms a commit, median    ms, 99 of 100");
    let mut csv = vec!["place,writers,commits,commits_per_s,median_ms,p99_ms".to_string()];
    for (place, url, fsync, commits) in places {
        for writers in [1, 8, 32] {
            let mut rounds = Vec::new();
            for round in 0..ROUNDS {
                let options = StoreOptions { fsync, ..StoreOptions::default() };
                rounds
                    .push(race(&format!("{url}-{writers}-{round}"), &options, writers, commits, Duration::ZERO).await?);
            }
            let per_s = median(rounds.iter().map(|round| commits as f64 / round.seconds));
            let mut each: Vec<f64> = rounds.into_iter().flat_map(|round| round.each_ms).collect();
            each.sort_by(f64::total_cmp);
            let (middle, late) = (each[each.len() / 2], each[each.len() * 99 / 100]);
            println!(" {place:<13}   {writers:>7}   {commits:>7}   {per_s:>9.0}    {middle:>19.2}    {late:>13.2}");
            csv.push(format!("{},{writers},{commits},{per_s:.1},{middle:.3},{late:.3}", place.replace(", ", " ")));
        }
    }
    csv.extend(paced(&last).await?);
    Ok(csv)
}

/// 32 writers as a run has them: each commits now and then, 5 times a second all together.
async fn paced(url: &str) -> Result<Vec<String>, AnyError> {
    let (writers, commits, between) = (32, 192, Duration::from_millis(6_400));
    let mut round = race(&format!("{url}-paced"), &StoreOptions::default(), writers, commits, between).await?;
    round.each_ms.sort_by(f64::total_cmp);
    let (middle, late) = (round.each_ms[commits / 2], round.each_ms[commits * 99 / 100]);
    let per_s = commits as f64 / round.seconds;
    println!(
        "\n {writers} writers that each commit once in {between:.1?}: {per_s:.1} commits/s, {middle:.1} ms at the median, 99 of 100 within {late:.1} ms"
    );
    Ok(vec![
        "paced_writers,commits_per_s,median_ms,p99_ms".into(),
        format!("{writers},{per_s:.2},{middle:.2},{late:.2}"),
    ])
}

struct Round {
    seconds: f64,
    each_ms: Vec<f64>,
}

async fn race(
    url: &str,
    options: &StoreOptions,
    writers: usize,
    commits: usize,
    between: Duration,
) -> Result<Round, AnyError> {
    start(&Store::open(url, options.clone()).await?).await?;
    let mut followers = Vec::new();
    for _ in 0..writers {
        followers.push(Store::open(url, options.clone()).await?.follow().await?);
    }
    let begin = Instant::now();
    let tasks = followers.into_iter().enumerate().map(|(writer, mut follower)| {
        tokio::spawn(async move {
            let (mut each_ms, mut chance) = (Vec::new(), Chance::new(writer as u64));
            for i in 0..commits / writers {
                let event = Event::Config { settings: serde_json::json!({ "writer": writer, "i": i }) };
                // A timer takes a millisecond at least, whatever it is set to.
                if !between.is_zero() {
                    // From half of the time to half as much again, so that they do not keep step.
                    tokio::time::sleep(between.mul_f64(0.5 + chance.below(1000) as f64 / 1000.0)).await;
                }
                let start = Instant::now();
                follower.append(work(&format!("w{writer}")), |_| Some(event.clone())).await?;
                each_ms.push(start.elapsed().as_secs_f64() * 1e3);
            }
            Ok::<_, StoreError>(each_ms)
        })
    });
    let each_ms = try_join_all(tasks).await?.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    let seconds = begin.elapsed().as_secs_f64();
    let last = Store::open(url, options.clone()).await?.snapshot(None).await?.seq;
    if last != commits as u64 {
        return Err(format!("`{url}` ends at commit {last}, expected {commits}").into());
    }
    Ok(Round { seconds, each_ms })
}
