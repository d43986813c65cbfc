//! Looking after a store: what is in it and whether it is sound, what is kept, and what may go.

mod archive;
mod du;
mod gc;
mod grid;
mod pin;
mod quantity;
pub(crate) mod retain;
mod verify;

pub use archive::Archive;
pub use du::Du;
pub use gc::Gc;
pub use pin::{PinArgs, Unpin};
pub use retain::Retain;
pub use verify::Verify;

use crate::error::Result;
use record::{Job, Work};
use store::{Store, StoreOptions};

async fn open(url: &str) -> Result<Store> {
    Ok(Store::open(url, StoreOptions::default()).await?)
}

/// What the commits of such a command say of who made them.
pub(crate) fn work(worker: &str) -> Work {
    Work {
        worker: worker.into(),
        incarnation: store::unique_id(),
        job: Job::Store,
        started: store::now_ms(),
        busy_s: 0.0,
        waited_s: 0.0,
        tokens: 0,
    }
}
