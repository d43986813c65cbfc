//! What is kept and what is given up: the fold refuses a retirement that takes what is still needed.

use crate::{bed::Bed, material::*};
use record::{BatchRows, Event, Pin, PolicyVersion, Retirement, RowSet};
use store::{Follower, StoreError};

async fn append(follower: &mut Follower, event: Event) -> Result<(), String> {
    match follower.append(work("retain"), |_| Some(event.clone())).await {
        Ok(_) => Ok(()),
        Err(StoreError::Fold(error)) => Err(error.what),
        Err(error) => panic!("{error}"),
    }
}

fn pin(name: &str, upto: u64, first: u64, last: u64) -> Event {
    Event::Pin(Pin { name: name.into(), upto, first: PolicyVersion(first), last: PolicyVersion(last) })
}

fn retire(policies: &[u64], batches: &[&str], steps: &[u64]) -> Event {
    Event::Retire(Retirement {
        policies: policies.iter().copied().map(PolicyVersion).collect(),
        moments: vec![],
        batches: batches.iter().map(|id| id.to_string()).collect(),
        steps: steps.to_vec(),
    })
}

/// Two units sampled and scored, the first trained on; then a second step without rows, so that the first is no checkpoint.
async fn two_steps(bed: &Bed) -> Follower {
    let mut follower = start(&bed.open().await).await;
    for unit in 0..2 {
        claim(&mut follower, 1).await;
        deliver(&mut follower, unit, 0).await;
        score(&mut follower, unit).await;
    }
    step(&mut follower, vec![BatchRows { batch: "u0".into(), rows: RowSet::first(ROWS) }]).await;
    step(&mut follower, vec![BatchRows { batch: "u1".into(), rows: RowSet::first(1) }]).await;
    follower
}

#[tokio::test]
async fn what_is_needed_is_not_given_up() {
    let bed = Bed::memory();
    let mut follower = two_steps(&bed).await;
    for (event, says) in [
        (retire(&[2], &[], &[]), "policy v2 is still needed"),
        (retire(&[], &["u0", "u1"], &[]), "batch `u1` is still needed"),
        (retire(&[], &[], &[3]), "there is no step 3 yet"),
    ] {
        assert_eq!(append(&mut follower, event).await.unwrap_err(), says);
    }
    append(&mut follower, retire(&[1], &["u0"], &[1])).await.unwrap();
    assert!(!follower.snapshot().policies.contains_key(&PolicyVersion(1)));
    assert!(bed.open().await.follow().await.unwrap().snapshot() == follower.snapshot());
}

#[tokio::test]
async fn a_pin_keeps_weights_until_it_is_taken_away() {
    let bed = Bed::memory();
    let mut follower = two_steps(&bed).await;
    let end = follower.snapshot().seq;
    for (event, says) in [
        (pin("a", end + 1, 0, 1), format!("it covers commits up to {}, the log ends at {end}", end + 1)),
        (pin("a", end, 0, 3), "it covers v0 to v3, the learner is at v2".into()),
        (pin("a", end, 2, 1), "it covers v2 to v1, the learner is at v2".into()),
        (Event::Unpin { name: "a".into() }, "there is no pin `a`".into()),
    ] {
        assert_eq!(append(&mut follower, event).await.unwrap_err(), says);
    }
    // Made again by whoever was killed before it saw its own, it is the same pin.
    for _ in 0..2 {
        append(&mut follower, pin("a", end, 1, 1)).await.unwrap();
    }
    assert_eq!(append(&mut follower, pin("a", end, 0, 1)).await.unwrap_err(), "there is another pin `a`");
    assert_eq!(append(&mut follower, retire(&[1], &[], &[])).await.unwrap_err(), "policy v1 is kept by the pin `a`");
    append(&mut follower, retire(&[0], &[], &[])).await.unwrap();
    append(&mut follower, Event::Unpin { name: "a".into() }).await.unwrap();
    append(&mut follower, retire(&[1], &[], &[])).await.unwrap();
}
