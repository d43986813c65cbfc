//! A log of 100,000 commits: how long a job takes to start on it, and what reads it whole. As bad as it gets: the newest snapshot is
//! nearly `snapshot_every` commits old.

use crate::{
    AnyError, in_bucket,
    material::start,
    process::{cpu_seconds, median, peak_mib},
    run::{ROWS, SET, work},
};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, aws::AmazonS3Builder};
use record::*;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use store::{Store, StoreOptions};

/// Commits whose last is the last before a snapshot, then as many as there can be without one.
const SEGMENTS: u64 = 99;
const REPETITIONS: usize = 5;

/// The table goes out; the CSV comes back.
pub async fn log(folder: &Path) -> Result<Vec<String>, AnyError> {
    let every = StoreOptions::default().snapshot_every;
    let commits = SEGMENTS * every + every - 1;
    let root = folder.join("run");
    let unsaved = build(&root, SEGMENTS * every, commits).await?;
    println!("a log of {commits} commits, {} of them behind the newest snapshot; median of {REPETITIONS}\n", every - 1);
    println!(" what                                           seconds    CPU, s    resident memory at most, MiB");
    let mut csv = vec!["what,seconds,cpu_s,mib".to_string()];
    let mut line = |what: &str, seconds: f64, cpu: f64, mib: Option<f64>| {
        let mib = mib.map_or(String::new(), |mib| format!("{mib:.0}"));
        println!(" {what:<42}    {seconds:>8.2}    {cpu:>6.2}    {mib:>28}");
        csv.push(format!("{what},{seconds:.3},{cpu:.2},{mib}"));
    };
    line("folder: a job's start without any snapshot", unsaved.seconds, unsaved.cpu, None);
    let mut places = vec![("folder", root.display().to_string())];
    places.extend(in_bucket().map(|url| ("S3", url)));
    for (place, url) in places {
        if place == "S3" {
            copy(&root.join("log"), &url).await?;
        }
        let (mut seconds, cpu) = (Vec::new(), cpu_seconds("self")?);
        for _ in 0..REPETITIONS {
            let begin = Instant::now();
            let follower = Store::open(&url, StoreOptions::default()).await?.follow().await?;
            seconds.push(begin.elapsed().as_secs_f64());
            if follower.snapshot().seq != commits - 1 {
                return Err(format!("the log ends at {}, expected {}", follower.snapshot().seq, commits - 1).into());
            }
        }
        let cpu = (cpu_seconds("self")? - cpu) / REPETITIONS as f64;
        line(&format!("{place}: a job's start"), median(seconds.into_iter()), cpu, None);
        let count = "select kind, count(*) from commits group by 1";
        for (what, arguments) in [("opd status", vec!["status", &url]), ("opd sql", vec!["sql", &url, count])] {
            let Took { seconds, cpu, mib } = program(&arguments)?;
            line(&format!("{place}: {what}"), seconds, cpu, Some(mib));
        }
    }
    Ok(csv)
}

/// What something took: time by the clock, time of processors, the most memory that was seen.
pub struct Took {
    seconds: f64,
    cpu: f64,
    pub mib: f64,
}

/// Runs `opd`.
pub fn program(arguments: &[&str]) -> Result<Took, AnyError> {
    let begin = Instant::now();
    let mut program = Command::new(env!("CARGO_BIN_EXE_opd"));
    let mut child = program.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let (id, mut cpu, mut mib) = (child.id().to_string(), 0.0_f64, 0.0_f64);
    let status = loop {
        // Until it is waited for, its processor time can still be read.
        (cpu, mib) = (cpu_seconds(&id).unwrap_or(cpu), peak_mib(&id).unwrap_or(mib));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    match status.success() {
        true => Ok(Took { seconds: begin.elapsed().as_secs_f64(), cpu, mib }),
        false => Err(format!("opd {} ended with {status}", arguments.join(" ")).into()),
    }
}

/// Writes a log of `commits` commits with snapshots and history up to `marked`; what following it took before there was any.
async fn build(root: &Path, marked: u64, commits: u64) -> Result<Took, AnyError> {
    let url = root.display().to_string();
    let store = Store::open(&url, StoreOptions::default()).await?;
    start(&store).await?;
    let mut events = Events::default();
    // All but the last by hand, as they would lie there.
    for seq in 1..marked - 1 {
        write(root, seq, events.next().ok_or("an event")?)?;
    }
    let (begin, cpu) = (Instant::now(), cpu_seconds("self")?);
    let mut follower = store.follow().await?;
    let took = Took { seconds: begin.elapsed().as_secs_f64(), cpu: cpu_seconds("self")? - cpu, mib: 0.0 };
    // Whoever appends the last commit before a mark writes what is missing of history.
    let event = events.next().ok_or("an event")?;
    follower.append(work("rollout"), |_| Some(event.clone())).await?;
    for seq in marked..commits {
        write(root, seq, events.next().ok_or("an event")?)?;
    }
    Ok(took)
}

fn write(root: &Path, seq: u64, event: Event) -> Result<(), AnyError> {
    let work = Work { worker: event.kind().into(), busy_s: 0.31, waited_s: 0.042, tokens: 1376, ..work("") };
    let commit = Commit { format: FORMAT, seq, id: store::unique_id(), at: store::now_ms(), work, event };
    Ok(fs::write(root.join(format!("log/{seq:020}.json")), commit.to_json()?)?)
}

/// What a run commits, for ever: a unit is claimed, delivered and scored, a step made on it, and every eighth step gives up weights.
#[derive(Default)]
struct Events {
    unit: u64,
    turn: u32,
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let (unit, version, rows) = (self.unit, PolicyVersion(self.unit + 1), RowSet::first(ROWS));
        let (batch, claims) = (batch_name(unit), Claims::default());
        self.turn += 1;
        Some(match self.turn {
            1 => Event::Claim(Claims { units: vec![UnitRows { unit, rows }], batches: vec![] }),
            2 => Event::Rollouts(RolloutCommit {
                codec: None,
                batch,
                of: UnitRows { unit, rows },
                policy_version: PolicyVersion(unit),
                teacher_id: "teacher".into(),
                object: object("rollouts", unit),
                tokens: 1376,
                claims,
            }),
            3 => {
                let (score_set, object) = (SET.into(), object("scores", unit));
                Event::Scores(ScoreCommit { batch, score_set, object, packing: None, parent: None, claims })
            }
            4 => Event::Step(Box::new(StepCommit {
                replayed: Vec::new(),
                step: version.0,
                consumed: vec![BatchRows { batch, rows }],
                dropped: vec![],
                score_set: SET.into(),
                record: object("steps", unit),
                weights_digest: object("policies", unit).digest,
                policy: Some(Policy { version, weights: object("policies", unit) }),
                moments: Some(object("optimizer", unit)),
                settings: serde_json::json!({ "estimator": { "name": "reverse_kl_mc", "draws": 16 }, "threads": 1 }),
                metrics: (0..12).map(|i| (format!("metric/number_{i}"), (f64::from(i), 1376.0))).collect(),
            })),
            _ => {
                (self.unit, self.turn) = (unit + 1, 0);
                if !version.0.is_multiple_of(8) {
                    return self.next();
                }
                let before = || (version.0 - 8..version.0).filter(|old| *old > 0).map(PolicyVersion).collect();
                Event::Retire(Retirement { policies: before(), moments: before(), ..Retirement::default() })
            }
        })
    }
}

fn batch_name(unit: u64) -> String {
    format!("u{unit:08}-01hzy3k9v0ab3cd4ef5g")
}

fn object(kind: &str, unit: u64) -> ObjectRef {
    let key = format!("{kind}/v{unit:08}/{}-01hzy3k9v0zz00aa11bb.arrow", batch_name(unit));
    ObjectRef { key, bytes: 430_000 + unit, digest: Digest::of(kind.as_bytes()) }
}

/// Copies a log into a bucket.
async fn copy(log: &Path, url: &str) -> Result<(), AnyError> {
    let (bucket, prefix) =
        url.strip_prefix("s3://").and_then(|rest| rest.split_once('/')).ok_or("s3://bucket/prefix")?;
    let objects = AmazonS3Builder::from_env().with_bucket_name(bucket).build()?;
    let mut files = Vec::new();
    for folder in ["", "snapshot", "history"] {
        for file in fs::read_dir(log.join(folder))? {
            let file = file?;
            if file.file_type()?.is_file() {
                files.push(Path::new(folder).join(file.file_name()));
            }
        }
    }
    let put = |name: PathBuf| {
        let to = object_store::path::Path::from(format!("{prefix}/log/{}", name.display()));
        let (objects, bytes) = (&objects, fs::read(log.join(&name)));
        async move {
            objects.put(&to, bytes?.into()).await?;
            Ok::<_, AnyError>(())
        }
    };
    stream::iter(files).map(put).buffer_unordered(32).try_collect::<Vec<()>>().await?;
    Ok(())
}
