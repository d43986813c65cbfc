//! Score sets beside the run's own: begun at any time, filled batch by batch, and no part of the learner's queue.

use crate::material::{self, ROWS, SET, claim, deliver, start, work};
use record::{
    BatchRows, Claims, Digest, Event, PolicyVersion, RowSet, ScoreCommit, ScoreSet, ScoreSetCommit, StepCommit,
};
use store::{Follower, Store, StoreError};

fn beside(name: &str, parent: Option<&str>, follower: &Follower) -> Event {
    let run = &follower.snapshot().run;
    Event::ScoreSet(ScoreSetCommit {
        score_set: name.into(),
        holds: ScoreSet { codec: "compact".into(), ..run.score_sets[SET].clone() },
        parent: parent.map(str::to_string),
        teachers: run.teachers.clone(),
    })
}

async fn append(follower: &mut Follower, event: Event) -> Result<u64, StoreError> {
    let commit = follower.append(work("compact"), |_| Some(event.clone())).await?;
    Ok(commit.unwrap().seq)
}

async fn scores(follower: &mut Follower, batch: &str, score_set: &str, claims: Claims) -> Event {
    let scored = material::scored(material::rollouts(batch, 0, 0));
    let object = follower.store().put_scores(score_set, batch, &scored).await.unwrap();
    let (batch, score_set) = (batch.into(), score_set.into());
    Event::Scores(ScoreCommit { batch, score_set, parent: Some(SET.into()), object, packing: None, claims })
}

fn refused(result: Result<u64, StoreError>, words: &str) {
    let said = result.unwrap_err().to_string();
    assert!(said.contains(words), "{said}");
}

#[tokio::test]
async fn a_score_set_is_begun_once_and_takes_scores_of_any_batch_for_ever() {
    let store = Store::memory();
    let mut follower = start(&store).await;
    claim(&mut follower, 2).await;
    deliver(&mut follower, 0, 0).await;

    let early = scores(&mut follower, "u0", "small", Claims::default()).await;
    refused(append(&mut follower, early.clone()).await, "no score set `small`");
    let of_nothing = beside("small", Some("large"), &follower);
    refused(append(&mut follower, of_nothing).await, "no score set `large` to make `small` from");
    let begun = beside("small", Some(SET), &follower);
    append(&mut follower, begun.clone()).await.unwrap();
    refused(append(&mut follower, begun).await, "is a score set `small` already");
    let of_own_name = beside(SET, None, &follower);
    refused(append(&mut follower, of_own_name).await, "is a score set `main` already");
    let mut smaller = beside("smaller", Some("small"), &follower);
    append(&mut follower, smaller.clone()).await.unwrap();
    assert_eq!(follower.snapshot().score_set("smaller").unwrap().codec, "compact");

    // The batch waits for its own scores as before, whoever is at work on them.
    append(&mut follower, Event::Claim(Claims { batches: vec!["u0".into()], units: vec![] })).await.unwrap();
    append(&mut follower, early.clone()).await.unwrap();
    let batch = |follower: &Follower| follower.snapshot().batches["u0"].clone();
    assert_eq!(batch(&follower).scoring.as_deref(), Some("compact"));
    assert!(!batch(&follower).scores.contains_key(SET) && batch(&follower).scores.contains_key("small"));
    let first = batch(&follower).scores["small"].clone();
    let again = scores(&mut follower, "u0", "small", Claims::default()).await;
    append(&mut follower, again).await.unwrap();
    assert_eq!(batch(&follower).scores["small"], first, "the first count");
    let claiming = Claims { batches: vec!["u0".into()], units: vec![] };
    let claims = scores(&mut follower, "u0", "small", claiming).await;
    refused(append(&mut follower, claims).await, "claim nothing");

    // The batch ends, and then the run.
    let own = scores(&mut follower, "u0", SET, Claims::default()).await;
    append(&mut follower, own).await.unwrap();
    let step = StepCommit {
        step: 1,
        consumed: vec![BatchRows { batch: "u0".into(), rows: RowSet::first(ROWS) }],
        replayed: Vec::new(),
        dropped: vec![],
        score_set: SET.into(),
        record: first.clone(),
        weights_digest: Digest::of(b"w1"),
        policy: Some(record::Policy {
            version: PolicyVersion(1),
            weights: store.put_policy(PolicyVersion(1), "w1").await.unwrap(),
        }),
        moments: Some(first.clone()),
        settings: serde_json::Value::Null,
        metrics: Default::default(),
    };
    append(&mut follower, Event::Step(Box::new(step))).await.unwrap();
    assert!(follower.snapshot().batches.is_empty());
    append(&mut follower, Event::Finish { dropped: vec![] }).await.unwrap();
    refused(append(&mut follower, Event::Claim(Claims::default())).await, "the run is finished");
    let late = scores(&mut follower, "u0", "smaller", Claims::default()).await;
    append(&mut follower, late).await.unwrap();
    let own = scores(&mut follower, "u0", SET, Claims::default()).await;
    refused(append(&mut follower, own).await, "the run is finished");
    if let Event::ScoreSet(set) = &mut smaller {
        set.score_set = "smallest".into();
    }
    append(&mut follower, smaller).await.unwrap();
    let fresh = store.follow().await.unwrap();
    assert_eq!(fresh.snapshot().score_sets.keys().collect::<Vec<_>>(), ["small", "smaller", "smallest"]);
    assert_eq!(fresh.snapshot(), follower.snapshot());
}
