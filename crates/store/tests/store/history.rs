//! Snapshots and history segments change nothing but speed.

use crate::{
    bed::{Bed, on_every_backend},
    material::*,
};
use record::{BatchRows, RowSet};
use store::{Snapshot, StoreOptions};

const EVERY: u64 = 8;

on_every_backend!(a_snapshot_is_the_fold_of_the_whole_log, a_missed_mark_is_made_up_for);

fn marked(bed: &Bed) -> StoreOptions {
    StoreOptions { snapshot_every: EVERY, ..bed.options() }
}

/// A state without the names of segments, which the fold of single entries does not know.
fn bare(snapshot: &Snapshot) -> Snapshot {
    Snapshot { history: vec![], ..snapshot.clone() }
}

async fn fold(store: &store::Store) -> Snapshot {
    let commits = store.history(None).await.unwrap();
    let mut snapshot = Snapshot::start(&commits[0]).unwrap();
    commits[1..].iter().for_each(|commit| snapshot.apply(commit).unwrap());
    snapshot
}

async fn a_snapshot_is_the_fold_of_the_whole_log(bed: Bed) {
    let store = bed.open_with(marked(&bed)).await;
    let mut writer = start(&store).await;
    for unit in 0..6 {
        claim(&mut writer, 1).await;
        deliver(&mut writer, unit, unit.saturating_sub(1)).await;
        score(&mut writer, unit).await;
        if unit > 0 {
            step(&mut writer, vec![BatchRows { batch: format!("u{}", unit - 1), rows: RowSet::first(ROWS) }]).await;
        }
        let restarted = bed.open_with(marked(&bed)).await.follow().await.unwrap();
        assert_eq!(bare(restarted.snapshot()), bare(writer.snapshot()));
        assert_eq!(restarted.snapshot().history.len() as u64, (writer.snapshot().seq + 1) / EVERY);
    }
    assert_eq!(bare(&fold(&store).await), bare(writer.snapshot()));
    for at in [0, 6, 7, 8, 15, 20] {
        assert_eq!(store.snapshot(Some(at)).await.unwrap().seq, at);
        assert!(store.history(Some(at)).await.unwrap().iter().map(|commit| commit.seq).eq(0..=at));
    }
}

/// Writers that never reach a mark themselves leave it to the next one.
async fn a_missed_mark_is_made_up_for(bed: Bed) {
    let careless = StoreOptions { snapshot_every: 1000, ..bed.options() };
    let mut writer = start(&bed.open_with(careless).await).await;
    for i in 0..20 {
        writer.append(work("w"), |_| Some(note(i.to_string()))).await.unwrap();
    }
    let store = bed.open_with(marked(&bed)).await;
    let mut careful = store.follow().await.unwrap();
    for i in 20..24 {
        careful.append(work("w"), |_| Some(note(i.to_string()))).await.unwrap();
    }
    let restarted = store.follow().await.unwrap();
    let keys: Vec<_> = restarted.snapshot().history.iter().map(|segment| &segment.key[12..53]).collect();
    let range = |from: u64| format!("{from:020}-{:020}", from + EVERY - 1);
    assert_eq!(keys, [range(0), range(8), range(16)]);
    assert_eq!(store.history(None).await.unwrap().iter().filter_map(note_of).count(), 24);
}

#[tokio::test]
async fn a_snapshot_does_not_grow_with_the_run() {
    let bed = Bed::folder(false);
    let store = bed.open_with(marked(&bed)).await;
    let mut writer = start(&store).await;
    let mut sizes = Vec::new();
    for unit in 0..60 {
        claim(&mut writer, 1).await;
        deliver(&mut writer, unit, unit).await;
        score(&mut writer, unit).await;
        step(&mut writer, vec![BatchRows { batch: format!("u{unit}"), rows: RowSet::first(ROWS) }]).await;
        let retired = record::PolicyVersion(writer.snapshot().version.0 - 1);
        let event = record::Event::Retire(record::Retirement {
            policies: vec![retired],
            moments: vec![retired],
            ..record::Retirement::default()
        });
        writer.append(work("learn"), |_| Some(event.clone())).await.unwrap();
        sizes.push(serde_json::to_vec(&bare(writer.snapshot())).unwrap().len());
    }
    assert!(sizes[59] < sizes[5] + 100, "{} bytes after 5 units, {} after 60", sizes[5], sizes[59]);
}

#[tokio::test]
async fn a_damaged_snapshot_or_segment_is_passed_over() {
    let bed = Bed::folder(false);
    let store = bed.open_with(marked(&bed)).await;
    let mut writer = start(&store).await;
    for i in 0..30 {
        writer.append(work("w"), |_| Some(note(i.to_string()))).await.unwrap();
    }
    let log = std::path::Path::new(&bed.url()).join("log");
    let expected = store.history(None).await.unwrap();
    let newest = log.join("snapshot").join(format!("{:020}.json", 23));
    let bytes = std::fs::read(&newest).unwrap();
    for damaged in [&bytes[..bytes.len() / 2], b"", b"{}\n{}"] {
        std::fs::write(&newest, damaged).unwrap();
        let restarted = store.follow().await.unwrap();
        assert_eq!(bare(restarted.snapshot()), bare(writer.snapshot()));
        assert_eq!(restarted.snapshot().history.len(), 2);
        assert_eq!(store.history(None).await.unwrap(), expected);
    }
    let mut flipped = bytes.clone();
    let at = flipped.len() - 20;
    flipped[at] ^= 1;
    std::fs::write(&newest, flipped).unwrap();
    assert_eq!(store.follow().await.unwrap().snapshot().history.len(), 2);
    std::fs::write(&newest, bytes).unwrap();
    for segment in std::fs::read_dir(log.join("history")).unwrap() {
        std::fs::write(segment.unwrap().path(), "torn").unwrap();
    }
    assert_eq!(store.history(None).await.unwrap(), expected);
    assert_eq!(store.history(Some(17)).await.unwrap(), expected[..18]);
}
