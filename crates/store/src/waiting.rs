//! Objects that this process has put and not committed yet, and since when. A collector may delete what no commit names once
//! it is older than the grace period, so what has waited for half of that is put again, under another key, before it is named.

use crate::{Result, Store, clock, keys};
use record::{Event, ObjectRef};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Since when an object waits, by its key and this process's own monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<HashMap<String, Duration>>);

impl Waiting {
    /// Nobody panics while holding it; and if so, a map is still one.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called before the put, so that nothing is taken for younger than it is.
    pub fn begin(&self, key: &str) {
        self.lock().insert(key.into(), clock::now());
    }

    /// What a commit names waits no more.
    pub fn end(&self, event: &Event) {
        let mut waiting = self.lock();
        for (_, object) in event.objects() {
            waiting.remove(&object.key);
        }
    }

    fn age(&self, key: &str) -> Duration {
        self.lock().get(key).map_or(Duration::ZERO, |since| clock::now().saturating_sub(*since))
    }
}

impl Store {
    /// Puts again what `event` names and has waited too long, and names that instead. `renewed` remembers it, for when the
    /// same event is planned again.
    pub(crate) async fn renew(&self, event: &mut Event, renewed: &mut HashMap<String, ObjectRef>) -> Result<()> {
        for object in event.objects_mut() {
            if let Some(newer) = renewed.get(&object.key) {
                object.clone_from(newer);
            }
            if self.waiting().age(&object.key) <= self.options().grace / 2 {
                continue;
            }
            // A file stored by its content has one key only, and is never collected.
            let Some(key) = keys::renewed(&object.key) else { continue };
            let bytes = self.get(object).await?;
            tracing::info!(old = object.key, new = key.as_str(), "an object that waited long is put again");
            let newer = self.put(key, bytes).await?;
            renewed.insert(object.key.clone(), newer.clone());
            *object = newer;
        }
        Ok(())
    }
}
