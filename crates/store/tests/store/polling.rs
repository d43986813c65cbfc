//! How often an observer looks while it waits, and how soon it sees what it waits for: in a simulation's time, so exactly.

use crate::material::*;
use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use store::{
    Store, StoreOptions,
    simulated::{Faulty, Tasks, now, pause},
};

const POLL: Duration = Duration::from_secs(1);

/// How long after the commit an observer sees it that has waited for `time` until then, and how often it has asked.
fn wait_for(time: Duration, seed: u64) -> (Duration, usize) {
    let mut tasks = Tasks::new(seed);
    let objects = Arc::new(Faulty::default());
    let open = || Store::with_backend(objects.clone(), StoreOptions { poll: POLL, ..StoreOptions::default() });
    let (reader, writer) = (open(), open());
    let (seen, asked) = (Rc::new(Cell::new(Duration::ZERO)), Rc::new(Cell::new(0)));
    let (sees, asks, requests) = (seen.clone(), asked.clone(), objects.clone());
    let id = tasks.start(async move {
        // Its own last commit: from here on it waits.
        let mut follower = start(&reader).await;
        requests.gets.store(0, Ordering::SeqCst);
        while follower.snapshot().seq < 1 {
            follower.wait().await.unwrap();
        }
        sees.set(now().unwrap());
        asks.set(requests.gets.load(Ordering::SeqCst));
    });
    tasks.start(async move {
        pause(time).await;
        let mut follower = writer.follow().await.unwrap();
        follower.append(work("w"), |_| Some(note("now".into()))).await.unwrap().unwrap();
    });
    while tasks.is_alive(id) {
        assert!(tasks.turn());
    }
    (seen.get() - time, asked.get())
}

#[test]
fn what_is_waited_for_is_seen_soon_and_a_quiet_store_is_seldom_asked() {
    for (seconds, within, looks) in
        [(0.2, 0.08, 12), (1.0, 0.16, 24), (5.0, 0.8, 44), (60.0, 1.5, 110), (600.0, 1.5, 680)]
    {
        for seed in 0..20 {
            let (late, asked) = wait_for(Duration::from_secs_f64(seconds), seed);
            assert!(late.as_secs_f64() <= within, "seed {seed}: {late:?} after {seconds} s");
            // Besides the looks, the writer reads what is there, and the reader what comes.
            assert!(asked <= looks + 6, "seed {seed}: {asked} requests in {seconds} s");
        }
    }
    let mean: f64 = (0..200).map(|seed| wait_for(Duration::from_secs(5), seed).0.as_secs_f64()).sum::<f64>() / 200.0;
    assert!((0.15..0.35).contains(&mean), "a twentieth of 5 s, but {mean}");
}
