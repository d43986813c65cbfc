//! Many writers, one log: every commit lands once, at a number of its own.

use crate::{
    bed::{Bed, on_every_backend},
    material::*,
};
use futures::future::try_join_all;
use record::{Claims, Event, RowSet, UnitRows};
use std::collections::BTreeSet;

const WRITERS: usize = 8;
const EACH: usize = 6;

on_every_backend!(every_append_lands_once, a_unit_is_claimed_once, one_of_many_creates_the_run);

async fn every_append_lands_once(bed: Bed) {
    start(&bed.open().await).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut follower = bed.open().await.follow().await.unwrap();
        writers.push(tokio::spawn(async move {
            for i in 0..EACH {
                let event = note(format!("{writer}.{i}"));
                follower.append(work(&format!("w{writer}")), |_| Some(event.clone())).await.unwrap().unwrap();
            }
        }));
    }
    try_join_all(writers).await.unwrap();
    let commits = bed.open().await.history(None).await.unwrap();
    assert!(commits.iter().map(|commit| commit.seq).eq(0..(WRITERS * EACH) as u64 + 1));
    let landed: Vec<&str> = commits.iter().filter_map(note_of).collect();
    assert_eq!(landed.len(), WRITERS * EACH);
    assert_eq!(landed.into_iter().collect::<BTreeSet<_>>().len(), WRITERS * EACH);
    for writer in 0..WRITERS {
        let own = commits.iter().filter(|commit| commit.work.worker == format!("w{writer}")).filter_map(note_of);
        assert!(own.eq((0..EACH).map(|i| format!("{writer}.{i}"))), "in the order they were made");
    }
}

async fn a_unit_is_claimed_once(bed: Bed) {
    start(&bed.open().await).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut follower = bed.open().await.follow().await.unwrap();
        writers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            let mut claimed = true;
            while claimed {
                let mut unit = None;
                let plan = |now: &store::Snapshot| {
                    unit = (now.next_unit < 20).then_some(now.next_unit);
                    let units = vec![UnitRows { unit: unit?, rows: RowSet::first(ROWS) }];
                    Some(Event::Claim(Claims { units, batches: vec![] }))
                };
                claimed = follower.append(work(&format!("w{writer}")), plan).await.unwrap().is_some();
                mine.extend(unit);
            }
            mine
        }));
    }
    let mut claimed: Vec<u64> = try_join_all(writers).await.unwrap().concat();
    claimed.sort_unstable();
    assert!(claimed.into_iter().eq(0..20));
    assert_eq!(bed.open().await.follow().await.unwrap().snapshot().unit_claims.len(), 20);
}

async fn one_of_many_creates_the_run(bed: Bed) {
    let run = run(&bed.open().await).await;
    let mut starters = Vec::new();
    for i in 0..WRITERS {
        let (store, mut run) = (bed.open().await, run.clone());
        run.run_id = format!("run {i}");
        starters.push(tokio::spawn(async move {
            store.create(run, work("run")).await.unwrap().snapshot().run.run_id.clone()
        }));
    }
    let ids = try_join_all(starters).await.unwrap();
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>().len(), 1);
}
