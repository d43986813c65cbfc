//! Runs over a log in memory.

use super::*;
use crate::{pace::WhenStale, share::Share};
use record::DropReason;

pub(super) fn shape(max_staleness: u64, workers: usize, silent_percent: u64, corrupt_percent: u64) -> Shape {
    let when_stale = WhenStale::Drop;
    let pace =
        Pace { rows_per_step: 8, steps: 12, min_staleness: 0, max_staleness, when_stale, lag: 0, share: Share::NONE };
    let (teachers, publish_every, rejects_percent) = (1, 1, 0);
    Shape { unit_rows: 4, teachers, pace, workers, publish_every, silent_percent, corrupt_percent, rejects_percent }
}

fn check(shape: Shape, seed: u64) -> Outcome {
    let outcome = simulate(shape, seed).unwrap_or_else(|error| panic!("seed {seed}, {shape:?}: {error}"));
    let (end, pace) = (&outcome.end, shape.pace);
    assert_eq!(end.version.0, pace.steps);
    assert_eq!(end.ended.consumed, pace.rows(pace.steps), "seed {seed}");
    if pace.when_stale != WhenStale::Reweight {
        assert!(end.ended.staleness_max <= pace.max_staleness, "seed {seed}: {:?}", end.ended);
    }
    if pace.when_stale != WhenStale::Drop {
        assert!(!end.ended.dropped.contains_key(&DropReason::Stale), "seed {seed}: {:?}", end.ended);
    }
    let rejected = end.ended.dropped.get(&DropReason::Selection).copied().unwrap_or(0);
    let not_passing = outcome.batches().flat_map(|(id, rows)| (0..rows).map(move |row| (id, row)));
    let not_passing = not_passing.filter(|(id, row)| !shape.passes(id, *row)).count() as u64;
    assert!(rejected <= not_passing, "seed {seed}: {rejected} of {not_passing}");
    for (version, age) in &outcome.ages {
        // A sampler that lags makes nothing fresher than it is itself, and nothing fresher is taken.
        let least = pace.lag.max(pace.min_staleness).min(*version);
        assert!(*age >= least, "seed {seed}: staleness {age} at version {version}");
    }
    let dropped: u64 = end.ended.dropped.values().sum();
    assert_eq!(outcome.delivered, end.ended.consumed + dropped, "seed {seed}: each row ends once");
    let once: BTreeSet<_> = outcome.trained.iter().collect();
    assert_eq!(once.len(), outcome.trained.len(), "seed {seed}: no row of a unit is trained on twice");
    assert_eq!(end.pending().count(), 0);
    outcome
}

#[test]
fn strictly_synchronous_runs_train_in_prompt_order_whatever_happens() {
    let order: Vec<(u64, u32)> = (0..24).flat_map(|unit| (0..4).map(move |row| (unit, row))).collect();
    for seed in 0..40 {
        assert_eq!(check(shape(0, 2, 10, 3), seed).trained, order, "seed {seed}");
    }
}

#[test]
fn with_several_teachers_each_unit_is_trained_on_teacher_by_teacher_whatever_happens() {
    let order: Vec<(u64, u32)> = (0..24).flat_map(|unit| [0, 2, 1, 3].map(move |row| (unit, row))).collect();
    for seed in 0..40 {
        let workers = 1 + seed as usize % 3;
        let shape = Shape { teachers: 2, ..shape(0, workers, 10, 3) };
        assert_eq!(check(shape, seed).trained, order, "seed {seed}");
    }
}

#[test]
fn without_accidents_nothing_is_dropped_and_nothing_sampled_twice() {
    for seed in 0..40 {
        for publish_every in 1..=3 {
            let teachers = 1 + seed as u32 % 3;
            let outcome = check(Shape { publish_every, teachers, ..shape(2, 1, 0, 0) }, seed);
            assert!(outcome.end.ended.dropped.is_empty(), "seed {seed}: {:?}", outcome.end.ended);
        }
    }
}

#[test]
fn a_lag_at_the_bound_fixes_the_staleness_whatever_happens() {
    for seed in 0..40 {
        let plain = shape(3, 2, 10, 3);
        let pace = Pace { lag: 3, min_staleness: 3, ..plain.pace };
        let outcome = check(Shape { pace, ..plain }, seed);
        assert!(outcome.ages.iter().all(|(version, age)| *age == 3.min(*version)), "seed {seed}");
    }
}

#[test]
fn where_rows_are_reweighted_those_too_stale_are_trained_on() {
    let ages = (0..40).flat_map(|seed| {
        let plain = shape(1, 3, 20, 0);
        let pace = Pace { when_stale: WhenStale::Reweight, ..plain.pace };
        check(Shape { pace, ..plain }, seed).ages
    });
    assert!(ages.map(|(_, age)| age).max() > Some(1), "slow workers deliver rows past the bound");
}

#[test]
fn a_selection_trains_on_what_passes_and_samples_for_what_does_not() {
    for seed in 0..40 {
        for (max_staleness, rejects_percent) in [(0, 30), (0, 80), (3, 30), (3, 80)] {
            let shape = Shape { rejects_percent, ..shape(max_staleness, 2, 10, 3) };
            let outcome = check(shape, seed);
            let rejected = outcome.end.ended.dropped[&DropReason::Selection];
            // Of what was looked at, about as many as the predicate says; units that are cut short blur it.
            let share = rejected as f64 / (rejected + outcome.end.ended.consumed) as f64;
            assert!((share * 100.0 - rejects_percent as f64).abs() < 25.0, "seed {seed}: {share}");
        }
    }
}

#[test]
fn beside_another_runs_rows_a_run_samples_only_its_own_share() {
    for seed in 0..40 {
        for (max_staleness, percent) in [(0, 25), (0, 70), (3, 10), (3, 70)] {
            let plain = shape(max_staleness, 2, 10, 3);
            let pace = Pace { share: Share::of(f64::from(percent) / 100.0).unwrap(), ..plain.pace };
            let outcome = check(Shape { pace, ..plain }, seed);
            let of_steps: Vec<u64> = outcome
                .commits
                .iter()
                .filter_map(|commit| match &commit.event {
                    Event::Step(step) => Some(step.rows()),
                    _ => None,
                })
                .collect();
            let exact = 8.0 * f64::from(100 - percent) / 100.0;
            assert!(of_steps.iter().all(|rows| (*rows as f64 - exact).abs() < 1.0), "seed {seed}: {of_steps:?}");
            let all = of_steps.iter().sum::<u64>() as f64;
            assert!((all - 12.0 * exact).abs() <= 0.5, "seed {seed}: {of_steps:?}");
        }
    }
}

#[test]
fn a_predicate_that_nothing_meets_goes_on_sampling_and_says_so_in_the_log() {
    let shape = Shape { rejects_percent: 100, ..shape(1, 2, 0, 0) };
    let error = simulate(shape, 3).unwrap_err();
    let rows: u64 = error.split("Selection: ").nth(1).unwrap().split('}').next().unwrap().parse().unwrap();
    assert!(error.contains("not finished") && rows > 1_000, "{error}");
}

#[test]
fn the_state_is_a_function_of_the_log() {
    let outcome = check(shape(4, 3, 10, 5), 11);
    let mut again = Snapshot::start(&outcome.commits[0]).unwrap();
    for commit in &outcome.commits[1..] {
        let json = commit.to_json().unwrap();
        again.apply(&Commit::from_json(&json).unwrap()).unwrap();
    }
    assert_eq!(again, outcome.end);
    let json = serde_json::to_string(&again).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), again);
}

#[test]
fn a_run_over_a_log_in_memory_ends_each_row_once() {
    let seeds = seeds(1_000);
    for seed in seeds.clone() {
        check(any_shape(seed), seed);
    }
    println!("over a log in memory");
    println!("seeds {} to {}: all held", seeds.start, seeds.end - 1);
}
