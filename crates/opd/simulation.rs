//! A seeded simulation of whole runs on one thread: the jobs' plans over the fold of one log, workers that act in any order,
//! vanish at any moment and come back, without clock, disk or network. `over_store` has the same jobs as tasks over a store that
//! fails.

#[cfg(test)]
mod audit;
#[cfg(test)]
mod clocks;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod over_store;
#[cfg(test)]
mod tests;

use crate::{
    events,
    pace::Pace,
    plan::{self, Learn, Next, Rollout, Score, Serves},
    verdicts::Verdicts,
};
use record::{
    BatchRows, Claims, Commit, Digest, Event, FORMAT, Job, ObjectRef, Policy, PolicyVersion, PromptSet, RolloutCommit,
    RowSet, Run, ScoreCommit, ScoreSet, StepCommit, UnitRows, Units, Work,
};
use std::collections::{BTreeMap, BTreeSet};
use store::Snapshot;

pub(crate) const SET: &str = "main";

/// What a run does in a simulation.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows of a unit.
    pub unit_rows: u32,
    /// Teachers, whose rows of a unit come in turns.
    pub teachers: u32,
    /// How it is paced.
    pub pace: Pace,
    /// Rollout workers, and score workers: if there are enough of these, each serves one teacher, else all serve all.
    pub workers: usize,
    /// Steps between two published versions.
    pub publish_every: u64,
    /// How likely it is, in percent, that a worker falls silent at its turn: it is dead, with what it had in hand, or
    /// only slow, and will deliver what others may have taken over.
    pub silent_percent: u64,
    /// How likely it is, in percent, that a stored batch turns out to be damaged.
    pub corrupt_percent: u64,
    /// How likely it is, in percent, that a row does not meet the learner's predicate; without one at 0.
    pub rejects_percent: u64,
}

impl Shape {
    /// What the score worker of a number has.
    fn serves(self, number: u32) -> Serves {
        let (count, all) = (self.teachers, self.workers < self.teachers as usize);
        let teachers = (0..count).filter(|i| all || number % count == *i).map(teacher).collect();
        Serves { score_set: SET.into(), teachers }
    }

    /// Whether a row meets the predicate: a matter of the row alone.
    pub(crate) fn passes(self, batch: &str, row: u32) -> bool {
        let seed = format!("{batch} {row}").bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
        Chance(seed).below(100) >= self.rejects_percent
    }

    /// Looks at the scored batches that `verdicts` do not know yet.
    pub(crate) fn judge(self, now: &Snapshot, verdicts: &mut Verdicts) {
        verdicts.forget_ended(now);
        let new = now.pending().filter(|(id, batch)| batch.scores.contains_key(SET) && !verdicts.knows(id));
        let new: Vec<(String, RowSet)> = new
            .map(|(id, batch)| (id.clone(), (0..batch.of.rows.len()).filter(|row| self.passes(id, *row)).collect()))
            .collect();
        new.into_iter().for_each(|(id, passing)| verdicts.insert(id, passing));
    }

    /// What the learner plans with.
    pub(crate) fn asked(self, verdicts: &Verdicts) -> Option<&Verdicts> {
        (self.rejects_percent > 0).then_some(verdicts)
    }

    /// Most rows that may lie ahead of the learner, those to be sampled again included.
    pub(crate) fn room(self) -> u64 {
        // A selection is given a whole unit where part of one would do, and so is a step that another run's rows are part of; of these
        // one step may take a row less than another.
        let mixes = !self.pace.share.is_none();
        let over = if self.rejects_percent > 0 || mixes { u64::from(self.unit_rows) - 1 } else { 0 };
        self.pace.rows(self.pace.max_staleness + 1) + over + u64::from(mixes)
    }

    /// Whether a step's weights are published, and whether it is a checkpoint.
    fn keeps(self, step: u64) -> (bool, bool) {
        let is_published = step.is_multiple_of(self.publish_every) || step == self.pace.steps;
        (is_published, step.is_multiple_of(3 * self.publish_every))
    }
}

/// The number at the end of a worker's name.
fn number(worker: &str) -> u32 {
    worker.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// The state at its end.
    pub end: Snapshot,
    /// The log.
    pub commits: Vec<Commit>,
    /// Rows that were delivered in all.
    pub delivered: u64,
    /// (unit, row of the unit) of each row trained on, in order.
    pub trained: Vec<(u64, u32)>,
    /// The learner's version and the row's staleness, of each.
    pub ages: Vec<(u64, u64)>,
}

#[cfg(test)]
impl Outcome {
    /// Each batch and how many rows it has.
    fn batches(&self) -> impl Iterator<Item = (&str, u32)> {
        self.commits.iter().filter_map(|commit| match &commit.event {
            Event::Rollouts(rollouts) => Some((rollouts.batch.as_str(), rollouts.of.rows.len())),
            _ => None,
        })
    }
}

/// A splitmix64 sequence: chance is the seed's alone.
pub(crate) struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// What a worker holds between planning and committing: while it does, others may commit.
#[derive(Clone, Debug)]
enum InHand {
    Nothing,
    Rollouts { parts: Vec<(String, UnitRows)>, version: PolicyVersion },
    Scores { batch: String },
    Step { rows: Vec<BatchRows>, version: PolicyVersion },
}

struct Simulation {
    shape: Shape,
    chance: Chance,
    now: Snapshot,
    commits: Vec<Commit>,
    names: u64,
    delivered: u64,
    trained: Vec<(u64, u32)>,
    ages: Vec<(u64, u64)>,
    units_of: BTreeMap<String, UnitRows>,
    /// Workers that have not been heard of for long: their claims may be taken over.
    silent: BTreeSet<String>,
    verdicts: Verdicts,
}

/// Runs a seed to its end.
///
/// # Errors
/// What contradicts the log, or that the run does not end.
pub fn simulate(shape: Shape, seed: u64) -> Result<Outcome, String> {
    let mut simulation = Simulation::new(shape, seed)?;
    let jobs = (0..shape.workers).flat_map(|i| [(Job::Rollout, i), (Job::Score, i)]).chain([(Job::Learn, 0)]);
    let mut workers: Vec<(Job, String, InHand)> =
        jobs.map(|(job, i)| (job, format!("{}-{i}", job.as_str()), InHand::Nothing)).collect();
    // Generous: a run that needs more turns than this is stuck.
    let turns = 2_000 * (shape.pace.steps + 10) * (shape.workers as u64 + 1);
    for _ in 0..turns {
        let i = simulation.chance.below(workers.len() as u64) as usize;
        let (job, name, in_hand) = &mut workers[i];
        if simulation.chance.below(100) < shape.silent_percent {
            if simulation.chance.below(2) == 0 {
                *in_hand = InHand::Nothing;
            }
            simulation.silent.insert(name.clone());
            continue;
        }
        simulation.silent.remove(name);
        let held = std::mem::replace(in_hand, InHand::Nothing);
        *in_hand = simulation.act(*job, name, held)?;
        if simulation.now.finished {
            let Simulation { now, commits, delivered, trained, ages, .. } = simulation;
            return Ok(Outcome { end: now, commits, delivered, trained, ages });
        }
    }
    let now = &simulation.now;
    Err(format!("not finished after {turns} turns, at step {}, {:?}", now.version.0, now.ended))
}

impl Simulation {
    fn new(shape: Shape, seed: u64) -> Result<Self, String> {
        let first = commit(0, "run", Job::Run, Event::Run(Box::new(identity(shape.unit_rows, shape.teachers, seed))));
        let now = Snapshot::start(&first).map_err(|error| error.to_string())?;
        let (commits, trained, ages) = (vec![first], Vec::new(), Vec::new());
        let (units_of, silent) = (BTreeMap::new(), BTreeSet::new());
        let chance = Chance(seed);
        let verdicts = Verdicts::default();
        Ok(Self { shape, chance, now, commits, names: 0, delivered: 0, trained, ages, units_of, silent, verdicts })
    }

    /// One turn of a worker: it plans and takes something in hand, or commits what it has in hand.
    fn act(&mut self, job: Job, worker: &str, held: InHand) -> Result<InHand, String> {
        let silent = self.silent.clone();
        let lapsed = |name: &str| silent.contains(name);
        match (job, held) {
            (Job::Rollout, InHand::Rollouts { mut parts, version }) => {
                let (teacher, of) = parts.remove(0);
                self.deliver(worker, teacher, of, version, parts.is_empty(), &lapsed)?;
                if !parts.is_empty() {
                    return Ok(InHand::Rollouts { parts, version });
                }
            }
            (Job::Rollout, _) => match plan::rollout(&self.now, worker, self.shape.pace, &lapsed) {
                Next::Do(Rollout::Sample(of)) => {
                    let teachers: Vec<String> = (0..self.shape.teachers).map(teacher).collect();
                    let parts = plan::parts(&of, |row| &teachers[(row % self.shape.teachers) as usize]);
                    return Ok(InHand::Rollouts { parts, version: self.shape.pace.sampling_version(&self.now) });
                }
                Next::Do(Rollout::Claim(of)) => {
                    self.append(worker, job, Event::Claim(Claims { units: vec![of], ..Claims::default() }))?;
                }
                Next::Wait | Next::Done => {}
            },
            (Job::Score, InHand::Scores { batch }) => self.score(worker, batch, &lapsed)?,
            (Job::Score, _) => match plan::score(&self.now, worker, &self.shape.serves(number(worker)), &lapsed) {
                Next::Do(Score::Score(batch)) => return Ok(InHand::Scores { batch }),
                Next::Do(Score::Claim(id)) => {
                    self.append(worker, job, Event::Claim(Claims { batches: vec![id], ..Claims::default() }))?;
                }
                Next::Wait | Next::Done => {}
            },
            (_, InHand::Step { rows, version }) => self.step(worker, rows, version)?,
            (_, _) => match self.plan_learn() {
                Next::Do(Learn::Step(selected)) => {
                    let rows = selected.into_iter().map(|of| BatchRows { batch: of.batch, rows: of.rows }).collect();
                    return Ok(InHand::Step { rows, version: self.now.version });
                }
                Next::Do(Learn::Drop(dropped)) => self.append(worker, job, Event::Drop { dropped })?,
                Next::Do(Learn::Finish(dropped)) => self.append(worker, job, Event::Finish { dropped })?,
                Next::Wait | Next::Done => {}
            },
        }
        Ok(InHand::Nothing)
    }

    fn plan_learn(&mut self) -> Next<Learn> {
        self.shape.judge(&self.now, &mut self.verdicts);
        plan::learn(&self.now, SET, self.shape.pace, self.shape.asked(&self.verdicts))
    }

    fn deliver(
        &mut self,
        worker: &str,
        teacher_id: String,
        of: UnitRows,
        version: PolicyVersion,
        is_last: bool,
        lapsed: plan::Lapsed<'_>,
    ) -> Result<(), String> {
        self.names += 1;
        let rollouts = RolloutCommit {
            batch: format!("u{:08}-{}", of.unit, self.names),
            of,
            policy_version: version,
            teacher_id,
            object: ObjectRef { key: "r".into(), bytes: 1, digest: Digest::of(b"r") },
            codec: None,
            tokens: 1,
            claims: Claims::default(),
        };
        let Some(event) = events::rollouts(&self.now, &rollouts, self.shape.pace, lapsed, is_last) else {
            return Ok(());
        };
        self.delivered += u64::from(rollouts.of.rows.len());
        self.units_of.insert(rollouts.batch, rollouts.of);
        self.append(worker, Job::Rollout, event)
    }

    fn score(&mut self, worker: &str, batch: String, lapsed: plan::Lapsed<'_>) -> Result<(), String> {
        let Some(live) = self.now.batches.get(&batch).filter(|live| !live.scores.contains_key(SET)) else {
            return Ok(());
        };
        if live.pending.is_empty() {
            return Ok(());
        }
        if self.chance.below(100) < self.shape.corrupt_percent {
            return events::damaged(&self.now, &batch).map_or(Ok(()), |event| self.append(worker, Job::Score, event));
        }
        let scores = ScoreCommit {
            batch,
            score_set: SET.into(),
            parent: None,
            object: ObjectRef { key: "s".into(), bytes: 1, digest: Digest::of(b"s") },
            packing: None,
            claims: Claims::default(),
        };
        let event = events::scores(&self.now, &scores, &self.shape.serves(number(worker)), lapsed, true);
        event.map_or(Ok(()), |event| self.append(worker, Job::Score, event))
    }

    fn step(&mut self, worker: &str, consumed: Vec<BatchRows>, version: PolicyVersion) -> Result<(), String> {
        if self.now.version != version {
            return Ok(());
        }
        for BatchRows { batch, rows } in &consumed {
            if let Some(row) = rows.iter().find(|row| !self.shape.passes(batch, *row)) {
                return Err(format!("row {row} of batch `{batch}` is trained on, and does not meet the predicate"));
            }
            let of = &self.units_of[batch];
            let all: Vec<u32> = of.rows.iter().collect();
            self.trained.extend(rows.iter().map(|row| (of.unit, all[row as usize])));
            let age = version.staleness_of(self.now.batches[batch].policy_version);
            self.ages.extend(rows.iter().map(|_| (version.0, age)));
        }
        let step = version.0 + 1;
        let (is_published, is_checkpoint) = self.shape.keeps(step);
        let weights = ObjectRef { key: format!("w{step}"), bytes: 1, digest: Digest::of(&step.to_le_bytes()) };
        let event = StepCommit {
            step,
            consumed,
            replayed: Vec::new(),
            dropped: Vec::new(),
            score_set: SET.into(),
            record: weights.clone(),
            weights_digest: weights.digest,
            policy: is_published.then(|| Policy { version: PolicyVersion(step), weights: weights.clone() }),
            moments: is_checkpoint.then_some(weights),
            settings: serde_json::Value::Null,
            metrics: BTreeMap::new(),
        };
        // The rows were there when it was planned, and one learner alone ends rows that are scored.
        match events::step(&self.now, &event, self.shape.asked(&self.verdicts)) {
            Some(event) => self.append(worker, Job::Learn, event),
            None => Err(format!("step {step} is not to be had")),
        }
    }

    fn append(&mut self, worker: &str, job: Job, event: Event) -> Result<(), String> {
        let commit = commit(self.now.seq + 1, worker, job, event);
        self.now.apply(&commit).map_err(|error| error.to_string())?;
        self.commits.push(commit);
        let room = self.shape.room();
        let again: u64 = self.now.reissue.values().map(|rows| u64::from(rows.len())).sum();
        if self.now.rows_ahead() + again > room {
            return Err(format!("{} rows ahead of the learner, {room} are allowed", self.now.rows_ahead() + again));
        }
        Ok(())
    }
}

/// The id of a simulation's teacher.
pub(crate) fn teacher(i: u32) -> String {
    format!("teacher-{i}")
}

/// The identity of a run that needs no files.
pub(crate) fn identity(unit_rows: u32, teachers: u32, seed: u64) -> Run {
    let object = ObjectRef { key: "x".into(), bytes: 1, digest: Digest::of(b"x") };
    Run {
        run_id: "simulation".into(),
        pipeline: "simulation".into(),
        seed,
        tokenizer: object.digest,
        teachers: (0..teachers).map(|i| (teacher(i), object.digest)).collect(),
        prompts: PromptSet { digest: object.digest, count: 1_000 },
        units: Units { prompts: unit_rows, samples: 1 },
        score_sets: BTreeMap::from([(
            SET.to_string(),
            ScoreSet {
                top_k_mass: 1.0,
                top_k_max: 4,
                top_k_floor: 0.0,
                draws: 1,
                draws_kept: record::DrawsKept::All,
                sampler_top_k: None,
                teacher_draws: 0,
                codec: "plain".into(),
            },
        )]),
        student_config: object.clone(),
        student_tokenizer: object.clone(),
        student_files: BTreeMap::new(),
        policy: Policy { version: PolicyVersion(0), weights: object },
        parent: None,
    }
}

pub(crate) fn commit(seq: u64, worker: &str, job: Job, event: Event) -> Commit {
    let work = Work {
        worker: worker.into(),
        incarnation: worker.into(),
        job,
        started: 0,
        busy_s: 0.0,
        waited_s: 0.0,
        tokens: 0,
    };
    Commit { format: FORMAT, seq, id: seq.to_string(), at: 0, work, event }
}

/// A run of any shape, from a seed alone.
#[cfg(test)]
fn any_shape(seed: u64) -> Shape {
    let mut chance = Chance(!seed);
    let mut pick = |least: u64, end: u64| least + chance.below(end - least);
    let max_staleness = pick(0, 6);
    let publish_every = pick(1, 7).min(max_staleness + 1);
    let lag = if publish_every == 1 { pick(0, max_staleness + 1) } else { 0 };
    let min_staleness = pick(0, lag + 1);
    use crate::{pace::WhenStale, share::Share};
    let when_stale = [WhenStale::Drop, WhenStale::Wait, WhenStale::Reweight][pick(0, 3) as usize];
    let plain = tests::shape(max_staleness, pick(1, 5) as usize, pick(0, 30), pick(0, 10));
    let pace = Pace { lag, min_staleness, when_stale, ..plain.pace };
    let teachers = pick(1, 4) as u32;
    // As the pipeline's check has it: a learner that waits needs room for what a selection or a share leaves of a unit.
    let has_room = when_stale != WhenStale::Wait || max_staleness >= publish_every.max(lag + 1);
    let rejects_percent = if has_room { [0, pick(1, 40), pick(40, 90)][pick(0, 3) as usize] } else { 0 };
    let shares = [Share::NONE, Share::of(0.25).unwrap(), Share::of(pick(1, 80) as f64 / 100.0).unwrap()];
    let pace = Pace { share: if has_room { shares[pick(0, 3) as usize] } else { Share::NONE }, ..pace };
    Shape { publish_every, teachers, pace, rejects_percent, ..plain }
}

/// The first seeds: `OPD_SIM_SEEDS=n` of them, `usual` without, or `OPD_SIM_SEED=s` alone, to replay it.
#[cfg(test)]
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("OPD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("OPD_SIM_SEEDS").unwrap_or(usual),
    }
}
