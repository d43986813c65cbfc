//! From put to visible: the time from the start of the put of a batch's scores until the learner's stream hands the batch over. One job of
//! each kind, each a process of its own that waits for its turn as real jobs do and works for a set time.

use crate::{
    AnyError, in_bucket,
    material::{Chance, batch, start},
    run::{ROWS, SET, batch_name, work},
};
use futures::StreamExt;
use record::*;
use std::{
    collections::BTreeMap,
    env,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use store::{Follower, Selection, Store, StoreOptions};

/// Batches that go round, one after another.
const ROUNDS: u64 = 60;
const JOBS: [&str; 3] = ["rollout", "score", "learn"];
/// Bytes of the weights that a step publishes: those of the arith student.
const WEIGHTS: usize = 2 << 20;

/// The table goes out; the CSV comes back.
pub async fn visible(folder: &Path) -> Result<Vec<String>, AnyError> {
    let mut places = vec![("folder", folder.join("run").display().to_string(), 20)];
    if let Some(url) = in_bucket() {
        places.push(("S3", url, 200));
    }
    println!(
        "put to visible, {ROUNDS} batches, one process for each job; what each job takes for a batch besides: work\n"
    );
    println!(" place       poll, ms    work, ms    p50, ms    p99, ms    looks a batch, all jobs");
    let mut csv = vec!["place,poll_ms,work_ms,p50_ms,p99_ms,looks_per_batch".to_string()];
    for (place, url, poll) in places {
        for work in [0, 100, 400] {
            let (mut each, looks) = run(&format!("{url}-{work}"), poll, work).await?;
            each.sort_by(f64::total_cmp);
            let (middle, late) = (each[each.len() / 2], each[each.len() * 99 / 100]);
            let looks = looks as f64 / ROUNDS as f64;
            println!(" {place:<8}    {poll:>8}    {work:>8}    {middle:>7.1}    {late:>7.1}    {looks:>23.0}");
            csv.push(format!("{place},{poll},{work},{middle:.2},{late:.2},{looks:.1}"));
        }
    }
    Ok(csv)
}

/// The time of each batch in milliseconds, and how often the jobs looked for a commit while they waited.
async fn run(url: &str, poll: u64, work: u64) -> Result<(Vec<f64>, u64), AnyError> {
    start(&Store::open(url, StoreOptions::default()).await?).await?;
    let mut jobs = Vec::new();
    for job in JOBS {
        let mut program = Command::new(env::current_exe()?);
        program.args(["as", job, url]).args([poll, work].map(|number| number.to_string()));
        jobs.push(program.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    }
    let (mut put, mut seen, mut looks) = (BTreeMap::new(), BTreeMap::new(), 0);
    for (name, job) in JOBS.into_iter().zip(jobs) {
        let output = job.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("{name} ended with {}", output.status).into());
        }
        for line in String::from_utf8(output.stdout)?.lines() {
            let (what, number) = line.split_once(' ').ok_or("a line of two words")?;
            match (what, name) {
                ("looks", _) => looks += number.parse::<u64>()?,
                (unit, "score") => drop(put.insert(unit.to_string(), number.parse::<u64>()?)),
                (unit, _) => drop(seen.insert(unit.to_string(), number.parse::<u64>()?)),
            }
        }
    }
    let since = |(unit, seen): (&String, &u64)| Some(seen.checked_sub(*put.get(unit)?)? as f64 / 1e3);
    let each: Vec<f64> = seen.iter().filter_map(since).collect();
    match each.len() as u64 {
        ROUNDS => Ok((each, looks)),
        some => Err(format!("{some} batches came round, expected {ROUNDS}").into()),
    }
}

/// One job, as a process: says when it put, or saw, each batch.
pub async fn play(job: &str, url: &str, poll_ms: u64, work_ms: u64) -> Result<(), AnyError> {
    let options = StoreOptions { poll: Duration::from_millis(poll_ms), ..StoreOptions::default() };
    let follower = Store::open(url, options).await?.follow().await?;
    let mut player = Player { follower, work: Duration::from_millis(work_ms), looks: 0 };
    for unit in 0..ROUNDS {
        match job {
            "rollout" => player.sample(unit).await?,
            "score" => player.score(unit).await?,
            _ => player.learn(unit).await?,
        }
    }
    println!("looks {}", player.looks);
    Ok(())
}

struct Player {
    follower: Follower,
    work: Duration,
    looks: u64,
}

impl Player {
    async fn wait_until(&mut self, is_there: impl Fn(&store::Snapshot) -> bool) -> Result<(), AnyError> {
        while !is_there(self.follower.snapshot()) {
            self.looks += 1;
            self.follower.wait().await?;
        }
        tokio::time::sleep(self.work).await;
        Ok(())
    }

    async fn append(&mut self, job: &str, event: Event) -> Result<(), AnyError> {
        self.follower.append(work(job), |_| Some(event.clone())).await?;
        Ok(())
    }

    /// Samples with each version.
    async fn sample(&mut self, unit: u64) -> Result<(), AnyError> {
        let of = UnitRows { unit, rows: RowSet::first(ROWS) };
        self.append("rollout", Event::Claim(Claims { units: vec![of.clone()], batches: vec![] })).await?;
        self.wait_until(|now| now.version.0 == unit).await?;
        let scored = batch(unit, &mut Chance::new(unit))?;
        let (batch, rollouts) = (batch_name(unit), scored.rollouts());
        let object = self.follower.store().put_rollouts(&batch, rollouts).await?;
        let event = Event::Rollouts(RolloutCommit {
            codec: None,
            batch,
            of,
            policy_version: PolicyVersion(0),
            teacher_id: "teacher".into(),
            object,
            tokens: rollouts.tokens() as u64,
            claims: Claims::default(),
        });
        self.append("rollout", event).await
    }

    async fn score(&mut self, unit: u64) -> Result<(), AnyError> {
        let name = batch_name(unit);
        self.wait_until(|now| now.batches.contains_key(&name)).await?;
        let store = self.follower.store().clone();
        store.get_rollouts(&self.follower.snapshot().batches[&name].object).await?;
        let scored = batch(unit, &mut Chance::new(unit))?;
        println!("{unit} {}", now_us()?);
        let object = store.put_scores(SET, &name, &scored).await?;
        let (score_set, claims) = (SET.into(), Claims::default());
        self.append(
            "score",
            Event::Scores(ScoreCommit { batch: name, score_set, object, packing: None, parent: None, claims }),
        )
        .await
    }

    async fn learn(&mut self, unit: u64) -> Result<(), AnyError> {
        let selection = Selection::scored_in(SET);
        let work = std::mem::take(&mut self.work);
        self.wait_until(|now| !selection.batches(now).is_empty()).await?;
        self.work = work;
        let store = self.follower.store().clone();
        let scored = store.scored(self.follower.snapshot(), &selection).next().await.ok_or("a batch")??;
        println!("{unit} {}", now_us()?);
        tokio::time::sleep(work).await;
        let step = unit + 1;
        let record = store.put_step_record(step, encode_step(step, &[])?).await?;
        let weights = store.put_policy(PolicyVersion(step), vec![step as u8; WEIGHTS]).await?;
        let event = Event::Step(Box::new(StepCommit {
            replayed: Vec::new(),
            step,
            consumed: vec![BatchRows { batch: scored.batch, rows: scored.rows }],
            dropped: vec![],
            score_set: SET.into(),
            record,
            weights_digest: weights.digest,
            policy: Some(Policy { version: PolicyVersion(step), weights }),
            moments: None,
            settings: serde_json::Value::Null,
            metrics: BTreeMap::new(),
        }));
        self.append("learn", event).await
    }
}

/// Microseconds since 1970: a clock that all processes of this machine share.
#[expect(clippy::disallowed_methods, reason = "what is measured lies between two processes, and 1 ms is too coarse")]
fn now_us() -> Result<u64, AnyError> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64)
}
