//! The store's only sense of time passing: monotonic, and a simulation's own within one.

use crate::simulated;
use futures::future::{Either, select};
use std::{
    future::Future,
    pin::pin,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Time since some moment of this process.
pub(crate) fn now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    simulated::now().unwrap_or_else(|| START.get_or_init(Instant::now).elapsed())
}

pub(crate) async fn sleep(time: Duration) {
    match simulated::sleep(time) {
        Some(sleep) => sleep.await,
        None => tokio::time::sleep(time).await,
    }
}

/// What `work` gives, or `None` if it takes longer than `time`; it is dropped then.
pub(crate) async fn timeout<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    match select(pin!(work), pin!(sleep(time))).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}
