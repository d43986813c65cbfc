//! What archiving a store saves, what it takes, and what reading from archives costs beside reading the objects themselves. The store is a
//! copy, made for this, of the one that `STORE` names, without its weights.

use crate::{
    AnyError,
    encodings::arrow_files,
    process::{cpu_seconds, median},
};
use record::{Event, ObjectRef};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};
use store::{Store, StoreOptions};

/// How often everything is read.
const TIMES: usize = 5;
/// Questions of every sort: plain columns of all batches, every position of all, and one version alone.
const QUESTIONS: [(&str, &str); 3] = [
    ("length by version", "select policy_version, avg(cardinality(response_ids)) from rollouts group by 1 order by 1"),
    ("staleness (tokens)", "select * from staleness order by 1"),
    ("one version's tokens", "select count(*), avg(teacher_logprob) from tokens where policy_version = 3"),
];

/// What the log names.
struct Named {
    scored: Vec<(ObjectRef, ObjectRef)>,
    records: Vec<ObjectRef>,
}

/// CPU time of reading everything, ms, and wall time of each question, ms.
struct Read {
    scored_ms: f64,
    records_ms: f64,
    answers: Vec<(String, f64)>,
}

/// The table's rows go out; the CSV comes back.
pub async fn archive(folder: &Path) -> Result<Vec<String>, AnyError> {
    let Ok(source) = std::env::var("STORE") else {
        println!("archive: not measured, STORE names no store");
        return Ok(vec![]);
    };
    let copy = folder.join("store");
    for part in ["log", "rollouts", "scores", "steps", "policies"] {
        copy_files(&Path::new(&source).join(part), &copy.join(part))?;
    }
    let url = copy.display().to_string();
    let before = read(&url).await?;
    let bytes = |kind: &str| -> Result<u64, AnyError> {
        Ok(arrow_files(&copy.join(kind))?.iter().map(|file| fs::metadata(file).map_or(0, |meta| meta.len())).sum())
    };
    let sizes = [bytes("rollouts")?, bytes("scores")?, bytes("steps")?];
    let began = Instant::now();
    let said = opd(&["archive", &url])?;
    let took = began.elapsed().as_secs_f64();
    opd(&["gc", &url, "--grace", "0s"])?;
    let after = read(&url).await?;
    let archived = |kind: &str| size_of(&copy.join("archive").join(kind));
    let mut csv = vec!["what,before,after".to_string()];
    let mut row = |what: &str, before: f64, after: f64, unit: &str| {
        println!(" {what:<36} {before:>10.1} {after:>10.1} {unit:<4} {:>6.2} x", after / before);
        csv.push(format!("{what},{before:.3},{after:.3}"));
    };
    println!("{said}\narchived in {took:.1} s\n");
    println!(" {:<36} {:>10} {:>10}", source, "objects", "archives");
    for (kind, before) in ["rollouts", "scores", "steps"].into_iter().zip(sizes) {
        row(kind, before as f64 / 1e6, archived(kind) as f64 / 1e6, "MB");
    }
    row("CPU to read all rollouts and scores", before.scored_ms, after.scored_ms, "ms");
    row("CPU to read all step records", before.records_ms, after.records_ms, "ms");
    for ((name, before), (_, after)) in before.answers.iter().zip(&after.answers) {
        row(name, *before, *after, "ms");
    }
    Ok(csv)
}

fn opd(arguments: &[&str]) -> Result<String, AnyError> {
    let output = Command::new(env!("CARGO_BIN_EXE_opd")).args(arguments).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

/// Copies what is no weights.
fn copy_files(from: &Path, to: &Path) -> Result<(), AnyError> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let to = to.join(path.file_name().unwrap_or_default());
        match path.is_dir() {
            true => copy_files(&path, &to)?,
            false if path.extension().is_some_and(|it| it == "safetensors") => {}
            false => drop(fs::copy(&path, to)?),
        }
    }
    Ok(())
}

fn size_of(path: &Path) -> u64 {
    let below = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    match path.is_dir() {
        true => below(path).iter().map(|path| size_of(path)).sum(),
        false => fs::metadata(path).map_or(0, |meta| meta.len()),
    }
}

async fn named(store: &Store) -> Result<Named, AnyError> {
    let (mut rollouts, mut named) = (HashMap::new(), Named { scored: vec![], records: vec![] });
    for commit in store.history(None).await? {
        match commit.event {
            Event::Rollouts(of) => drop(rollouts.insert(of.batch, of.object)),
            Event::Scores(of) => named.scored.extend(rollouts.get(&of.batch).map(|it| (it.clone(), of.object))),
            Event::Step(step) => named.records.push(step.record),
            _ => {}
        }
    }
    Ok(named)
}

async fn read(url: &str) -> Result<Read, AnyError> {
    let store = Store::open(url, StoreOptions::default()).await?;
    let named = named(&store).await?;
    let cpu = cpu_seconds("self")?;
    for _ in 0..TIMES {
        for (rollouts, scores) in &named.scored {
            std::hint::black_box(store.get_scored(rollouts, scores).await?);
        }
    }
    let between = cpu_seconds("self")?;
    for _ in 0..TIMES {
        for record in &named.records {
            std::hint::black_box(store.get_step_record(record).await?);
        }
    }
    let end = cpu_seconds("self")?;
    let per_round = |seconds: f64| seconds * 1e3 / TIMES as f64;
    let session = query::open(&store, None).await?;
    let mut answers = Vec::new();
    for (name, question) in QUESTIONS {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let began = Instant::now();
            std::hint::black_box(session.run(question).await?.collect().await?);
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        answers.push((name.to_string(), median(times.into_iter())));
    }
    Ok(Read { scored_ms: per_round(between - cpu), records_ms: per_round(end - between), answers })
}
