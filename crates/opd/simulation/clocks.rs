//! Whether it matters what time a writer takes it to be: whole runs whose commits are dated again, each by a clock that is wrong by up to
//! two days, fold to the same states and lead to the same plans.

use super::{Chance, SET, Shape, any_shape, simulate, teacher};
use crate::plan::{self, Serves};
use record::{Commit, PolicyVersion};
use std::collections::BTreeSet;
use store::Snapshot;

const DAY_MS: i64 = 86_400_000;

/// The same commits by clocks that jump about.
fn dated_again(commits: &[Commit], seed: u64) -> Vec<Commit> {
    let mut chance = Chance(seed);
    let mut wrong = |at: i64| at + chance.below(4 * DAY_MS as u64) as i64 - 2 * DAY_MS;
    let again = commits.iter().cloned().map(|mut commit| {
        commit.at = wrong(commit.at);
        commit.work.started = wrong(commit.work.started);
        commit
    });
    again.collect()
}

/// All that jobs decide at a state, for each worker that there is and one that is new. Workers of odd names have fallen silent: what
/// tells that is the observer's own clock, which no commit can reach.
fn decisions(now: &Snapshot, shape: Shape) -> String {
    let lapsed = |worker: &str| worker.len() % 2 == 1;
    let serves = Serves { score_set: SET.into(), teachers: (0..shape.teachers).map(teacher).collect::<BTreeSet<_>>() };
    let workers = now.workers.keys().map(String::as_str).chain(["rollout-new"]);
    let each = workers.map(|worker| {
        let sampled = plan::rollout(now, worker, shape.pace, &lapsed);
        format!("{sampled:?} {:?}\n", plan::score(now, worker, &serves, &lapsed))
    });
    let evaluated = plan::eval(now, &["heldout".to_string()], 2, shape.pace.steps);
    let retired = plan::retire(now, 1, &|version: PolicyVersion| version.0.is_multiple_of(2));
    each.collect::<String>() + &format!("{:?} {evaluated:?} {retired:?}", plan::learn(now, SET, shape.pace, None))
}

/// The state without the times that it shows to people.
fn timeless(now: &Snapshot) -> Snapshot {
    let mut now = now.clone();
    now.workers.values_mut().for_each(|worker| worker.last_at = 0);
    now
}

#[test]
fn no_clock_changes_a_state_or_a_plan() {
    for seed in 0..20 {
        let shape = any_shape(seed);
        let outcome = simulate(shape, seed).unwrap();
        let dated = dated_again(&outcome.commits, seed);
        assert_ne!(dated, outcome.commits);
        let (mut now, mut wrong) = (Snapshot::start(&outcome.commits[0]).unwrap(), Snapshot::start(&dated[0]).unwrap());
        for (commit, again) in outcome.commits.iter().zip(&dated).skip(1) {
            now.apply(commit).unwrap();
            wrong.apply(again).unwrap();
            assert_eq!(timeless(&now), timeless(&wrong), "seed {seed}, commit {}", commit.seq);
            assert_eq!(decisions(&now, shape), decisions(&wrong, shape), "seed {seed}, commit {}", commit.seq);
        }
    }
}
