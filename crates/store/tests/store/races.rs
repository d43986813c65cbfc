//! Many writers, one log: every commit lands once, at a number of its own.

use crate::{
    bed::{Bed, on_every_backend},
    material::*,
};
use async_trait::async_trait;
use futures::{future::try_join_all, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, memory::InMemory, path::Path,
};
use record::{Claims, Event, RowSet, UnitRows};
use std::{collections::BTreeSet, fmt, sync::Arc};
use store::{Store, StoreOptions};

const WRITERS: usize = 8;
const EACH: usize = 6;

on_every_backend!(every_append_lands_once, a_unit_is_claimed_once, one_of_many_creates_the_run);

async fn every_append_lands_once(bed: Bed) {
    start(&bed.open().await).await;
    let mut stores = Vec::new();
    for _ in 0..WRITERS {
        stores.push(bed.open().await);
    }
    race(stores).await.unwrap();
}

/// Writers that append as fast as they can, each to its own view of one log; the first thing that a sound backend does not do.
async fn race(stores: Vec<Store>) -> Result<(), String> {
    let mut writers = Vec::new();
    for (writer, store) in stores.iter().enumerate() {
        let mut follower = store.follow().await.unwrap();
        writers.push(tokio::spawn(async move {
            for i in 0..EACH {
                let event = note(format!("{writer}.{i}"));
                follower.append(work(&format!("w{writer}")), |_| Some(event.clone())).await.unwrap().unwrap();
            }
        }));
    }
    try_join_all(writers).await.unwrap();
    let commits = stores[0].history(None).await.unwrap();
    if !commits.iter().map(|commit| commit.seq).eq(0..(WRITERS * EACH) as u64 + 1) {
        return Err(format!("{} commits of {}", commits.len(), WRITERS * EACH + 1));
    }
    let landed: Vec<&str> = commits.iter().filter_map(note_of).collect();
    let once: BTreeSet<&str> = landed.iter().copied().collect();
    if (landed.len(), once.len()) != (WRITERS * EACH, WRITERS * EACH) {
        return Err(format!("{} notes landed, {} different ones", landed.len(), once.len()));
    }
    for writer in 0..WRITERS {
        let own = commits.iter().filter(|commit| commit.work.worker == format!("w{writer}")).filter_map(note_of);
        if !own.eq((0..EACH).map(|i| format!("{writer}.{i}"))) {
            return Err(format!("the notes of writer {writer} are not in the order they were made"));
        }
    }
    Ok(())
}

/// The negative control: a backend that takes the condition of a put and does not heed it, as S3 servers did that did not know it.
/// That the race is lost there shows that it can be.
#[tokio::test]
async fn a_backend_that_ignores_the_condition_loses_commits_and_the_race_shows_it() {
    let careless = Arc::new(Careless(InMemory::new()));
    let open = || Store::with_backend(careless.clone(), StoreOptions::default());
    start(&open()).await;
    let lost = race((0..WRITERS).map(|_| open()).collect()).await.unwrap_err();
    assert!(lost.contains("commits of 49"), "{lost}");
}

/// Overwrites whatever is there.
#[derive(Debug)]
struct Careless(InMemory);

impl fmt::Display for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("careless")
    }
}

#[async_trait]
impl ObjectStore for Careless {
    async fn put_opts(&self, at: &Path, payload: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        // A request takes its time, in which others come.
        tokio::task::yield_now().await;
        self.0.put_opts(at, payload, PutOptions::default()).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.0.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
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
