//! Whole runs over an object store that fails, on one thread: each job is a task with its own view of the log, which dies at any
//! await and is started again; requests are slow, fail, hang, are made and not acknowledged, or made twice; what is read comes cut
//! short. After each turn an [`Audit`] reads the log afresh.

use super::{
    Shape, any_shape,
    audit::Audit,
    identity,
    jobs::{At, LearnerFault, live},
};
use crate::keep::retain;
use record::Job;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use store::{
    Key, Store, StoreError, StoreOptions,
    simulated::{Faulty, Tasks, at_once, below, pause},
};

/// What happens to a run.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Of 100 puts, and of 1,000 reads, those that go wrong.
    faults: u64,
    /// Of 10,000 turns, those at which a job dies.
    kills: u64,
    /// Learners that think they are the one.
    learners: u32,
    /// What they do wrong.
    fault: LearnerFault,
    /// Whether somebody gives up and deletes what is not needed all the while.
    collected: bool,
}

const CALM: Weather = Weather { faults: 0, kills: 0, learners: 1, fault: LearnerFault::None, collected: false };

/// Twice what a commit may take from when it is planned until it lands, late and after a lost answer.
const GRACE: Duration = Duration::from_secs(240);

/// Generous: a run that needs more turns than this is stuck.
const TURNS: u64 = 1_000_000;

/// How a run went.
struct Outcome {
    trained: Vec<(u64, u32)>,
    weights: Vec<u8>,
    commits: u64,
    kills: u64,
    deleted: u64,
    met: BTreeMap<String, u64>,
}

/// Gives up every batch that nobody needs, and deletes, again and again, as `opd retain` and `opd gc` do.
async fn collect(store: Store, deleted: Rc<Cell<u64>>, audit: Rc<RefCell<Audit>>) {
    loop {
        pause(Duration::from_millis(below(60_000))).await;
        match retain::give_up_all(&store).await {
            Err(error) if error.to_string().contains("contradicts") => audit.borrow_mut().fail(error.to_string()),
            _ => {}
        }
        let Ok(inventory) = store.inventory(true).await else { continue };
        let Ok(found) = store.collection(&inventory, GRACE, |_, _| {}).await else { continue };
        for garbage in found.old {
            deleted.set(deleted.get() + u64::from(store.delete_garbage(&garbage).await.is_ok()));
        }
    }
}

fn simulate(shape: Shape, weather: Weather, seed: u64) -> Result<Outcome, String> {
    let mut tasks = Tasks::new(seed);
    let objects = Arc::new(Faulty::by_chance(weather.faults, Duration::from_millis(60)));
    let mut run = identity(shape.unit_rows, shape.teachers, seed);
    let sound = Store::with_backend(objects.sound(), StoreOptions::default());
    let first = b"weights".to_vec();
    let put = at_once(sound.put(Key::weights(run.policy.version), first.clone()));
    run.policy.weights = put.map_err(|error| error.to_string())?;
    let audit = Rc::new(RefCell::new(Audit::new(shape, &objects, run, first)));
    let options = StoreOptions {
        snapshot_every: 8 + seed % 13,
        poll: Duration::from_millis(500),
        attempts: 3,
        timeout: Duration::from_secs(5),
        grace: GRACE,
        ..StoreOptions::default()
    };
    let deleted = Rc::new(Cell::new(0));
    if weather.collected {
        let store = Store::with_backend(objects.clone(), options.clone());
        tasks.start(collect(store, deleted.clone(), audit.clone()));
    }
    let workers = 0..shape.workers as u32;
    let jobs = workers.flat_map(|i| [(Job::Rollout, i), (Job::Score, i)]);
    // Two begin the run at once, and two evaluate it.
    let jobs = jobs.chain((0..weather.learners).map(|i| (Job::Learn, i)));
    let jobs = jobs.chain([Job::Run, Job::Eval].into_iter().flat_map(|job| [(job, 0), (job, 1)]));
    let mut lives: Vec<(Job, u32, Option<u64>)> = jobs.map(|(job, number)| (job, number, None)).collect();
    let mut kills = 0;
    for _ in 0..TURNS {
        let finished = audit.borrow().now().is_some_and(|now| now.finished);
        let is_evaluated = audit.borrow().is_evaluated();
        for (job, number, life) in lives.iter_mut().filter(|(job, ..)| *job != Job::Run || !finished) {
            if life.is_some_and(|id| tasks.is_alive(id)) {
                continue;
            }
            // The last evaluation comes after the last step.
            if finished && (*job != Job::Eval || is_evaluated) {
                *life = None;
                continue;
            }
            let (job, number, audit) = (*job, *number, audit.clone());
            // A process has its own view of everything.
            let store = Store::with_backend(objects.clone(), options.clone());
            *life = Some(tasks.start(async move {
                pause(Duration::from_millis(below(4_000))).await;
                let at = At { shape, store, job, number, fault: weather.fault, audit: audit.clone() };
                // A faulty store ends jobs; a contradiction must not.
                if let Err(error @ (StoreError::Fold(_) | StoreError::OtherRun { .. })) = live(at).await {
                    audit.borrow_mut().fail(format!("{}-{number}: {error}", job.as_str()));
                }
                if job == Job::Run {
                    pause(Duration::from_secs(1 << 30)).await;
                }
            }));
        }
        if !finished && below(10_000) < weather.kills {
            let (_, _, life) = lives[below(lives.len() as u64) as usize];
            life.into_iter().for_each(|id| tasks.kill(id));
            kills += 1;
        }
        let ended = |(job, _, life): &(Job, u32, Option<u64>)| *job == Job::Run || life.is_none();
        if finished && lives.iter().all(ended) {
            let audit = audit.borrow();
            audit.check_end()?;
            let (trained, weights) = (audit.trained.clone(), audit.weights.clone());
            let commits = audit.now().map_or(0, |now| now.seq + 1);
            return Ok(Outcome { trained, weights, commits, kills, deleted: deleted.get(), met: objects.met() });
        }
        if !tasks.turn() {
            return Err("nothing can go on, and the run is not finished".into());
        }
        let mut audit = audit.borrow_mut();
        audit.look();
        if let Some(what) = audit.fault.take() {
            return Err(what);
        }
    }
    let audit = audit.borrow();
    Err(format!("not finished after {TURNS} turns, at step {:?}", audit.now().map(|now| now.version)))
}

fn check(shape: Shape, weather: Weather, seed: u64) -> Outcome {
    simulate(shape, weather, seed)
        .unwrap_or_else(|error| panic!("OPD_SIM_SEED={seed} replays this: {error}\n{shape:?}, {weather:?}"))
}

fn any_weather(seed: u64) -> Weather {
    let mut chance = super::Chance(seed ^ 0x5eed);
    Weather { faults: chance.below(25), kills: chance.below(40), learners: 1 + chance.below(4) as u32 / 3, ..CALM }
}

/// A run of few steps, in any way a run can be.
fn short(seed: u64) -> Shape {
    let mut shape = any_shape(seed);
    shape.pace.steps = 4;
    shape
}

#[test]
fn a_run_over_a_faulty_store_ends_each_row_once() {
    let seeds = super::seeds(16);
    let (mut commits, mut kills, mut met) = (0, 0, BTreeMap::<String, u64>::new());
    for seed in seeds.clone() {
        let outcome = check(short(seed), any_weather(seed), seed);
        commits += outcome.commits;
        kills += outcome.kills;
        outcome.met.into_iter().for_each(|(fault, times)| *met.entry(fault).or_default() += times);
    }
    println!("over a store that fails, {commits} commits, {kills} kills, faults {met:?}");
    println!("seeds {} to {}: all held", seeds.start, seeds.end - 1);
    // A test in which nothing went wrong says nothing.
    assert!(seeds.end - seeds.start < 10 || (kills > 0 && met.len() == 10), "{kills} kills, {met:?}");
}

#[test]
fn strictly_synchronous_a_run_over_a_faulty_store_makes_the_same_weights_as_an_undisturbed_one() {
    for seed in 0..3 {
        let mut shape = short(seed);
        shape.pace = super::tests::shape(0, 2, 0, 0).pace;
        shape.pace.steps = 5;
        shape.publish_every = 1;
        // What it rejects is a matter of batches' names, which differ from run to run.
        shape.rejects_percent = 0;
        let calm = check(shape, CALM, seed);
        let weather = Weather { faults: 20, kills: 30, learners: 2, ..CALM };
        let disturbed = check(shape, weather, seed);
        assert_eq!((disturbed.trained, disturbed.weights), (calm.trained, calm.weights), "seed {seed}");
    }
}

/// The negative control: what the audit is for, it finds.
#[test]
fn a_learner_that_goes_on_after_another_took_over_is_found() {
    for (fault, says) in [
        (LearnerFault::GoesOnBefore, "trains on what is due at"),
        (LearnerFault::GoesOnAfter, "goes on after another's step"),
    ] {
        // So many that one often comes to the log just as another has made a step.
        let weather = Weather { learners: 4, fault, ..CALM };
        let found = (0..60).find_map(|seed| simulate(short(seed), weather, seed).err());
        assert!(found.as_ref().is_some_and(|what| what.contains(says)), "{fault:?}: {found:?}");
    }
}

#[test]
fn giving_up_and_deleting_while_a_run_goes_on_loses_nothing() {
    let (seeds, mut deleted) = (super::seeds(4), 0);
    for seed in seeds.clone() {
        let mut shape = any_shape(seed);
        shape.pace.steps = 8;
        let weather = Weather { faults: 20, kills: 40, learners: 2, collected: true, ..CALM };
        deleted += check(shape, weather, seed).deleted;
    }
    println!("over a store that is collected, {deleted} objects deleted");
    println!("seeds {} to {}: all held", seeds.start, seeds.end - 1);
    // A collector that finds nothing says nothing.
    assert!(seeds.end - seeds.start < 4 || deleted > 0, "{deleted}");
}

#[test]
fn a_seed_is_a_run() {
    let runs = [1, 2].map(|_| check(short(7), any_weather(7), 7));
    assert_eq!(runs[0].met, runs[1].met);
    assert_eq!((runs[0].commits, runs[0].kills), (runs[1].commits, runs[1].kills));
    assert_eq!(runs[0].weights, runs[1].weights);
}
