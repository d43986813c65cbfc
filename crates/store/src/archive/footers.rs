//! Footers that were read: to fetch and to parse one takes about as long as to read a row group.

use super::file::Layout;
use crate::Result;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::OnceCell;

/// The most that is kept of them in memory. That of an archive of a thousand row groups takes some megabytes.
const BYTES: usize = 64 << 20;

/// The footers that were used last, the latest at the end; together at most so many bytes, or a single one.
#[derive(Debug, Default)]
pub(crate) struct Footers(Mutex<VecDeque<Kept>>);

/// One that was read, or is being read.
#[derive(Debug)]
struct Kept {
    /// The archive's key.
    of: String,
    layout: Arc<OnceCell<Arc<Layout>>>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.layout.get().map_or(0, |layout| layout.bytes())
    }
}

impl Footers {
    /// The footer of the archive at `key`; it is `read` where it is not kept, by one of those who want it at once, for all of them.
    pub async fn get<F: Future<Output = Result<Layout>>>(
        &self,
        key: &str,
        read: impl FnOnce() -> F,
    ) -> Result<Arc<Layout>> {
        let cell = self.use_of(key);
        if let Some(layout) = cell.get() {
            return Ok(layout.clone());
        }
        // Where it fails the next one tries again.
        let layout = cell.get_or_try_init(|| async { Ok(Arc::new(read().await?)) }).await.cloned();
        self.make_room(BYTES);
        layout
    }

    /// The place of the footer of `key`, which is the latest from now on.
    fn use_of(&self, key: &str) -> Arc<OnceCell<Arc<Layout>>> {
        // Nobody panics while holding it; and if so, the list is still one.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there = kept.iter().position(|kept| kept.of == key).and_then(|at| kept.remove(at));
        let used = there.unwrap_or_else(|| Kept { of: key.into(), layout: Arc::default() });
        let layout = used.layout.clone();
        kept.push_back(used);
        layout
    }

    /// Lets go of the oldest while there are more than `most` bytes; of the latest never.
    fn make_room(&self, most: usize) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes: usize = kept.iter().map(Kept::bytes).sum();
        while bytes > most && kept.len() > 1 {
            bytes -= kept.pop_front().map_or(0, |oldest| oldest.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StoreError, archive::tests::footer};
    use std::cell::Cell;

    fn failed() -> StoreError {
        StoreError::NoRun { url: "memory:///".into() }
    }

    #[tokio::test]
    async fn as_many_are_kept_as_there_is_room_for_and_those_used_last() {
        let (footers, reads) = (Footers::default(), Cell::new(0));
        let get = async |key: String| {
            let read = async || {
                reads.set(reads.get() + 1);
                Ok(footer())
            };
            footers.get(&key, read).await.unwrap()
        };
        // Round and round over more archives than a few.
        for _ in 0..3 {
            for i in 0..20 {
                get(i.to_string()).await;
            }
        }
        assert_eq!(reads.get(), 20);
        let one = get("0".into()).await.bytes();
        assert!(one > 0);
        footers.make_room(3 * one);
        for key in ["18", "19", "0"] {
            get(key.into()).await;
        }
        assert_eq!(reads.get(), 20, "those used last");
        get("17".into()).await;
        assert_eq!(reads.get(), 21);
        footers.make_room(0);
        get("17".into()).await;
        assert_eq!(reads.get(), 21, "the latest is kept, however large");
    }

    #[tokio::test]
    async fn one_reads_for_all_who_wait_and_after_a_failure_another_tries() {
        let (footers, reads) = (Footers::default(), Cell::new(0));
        let get = async || {
            let read = async || {
                reads.set(reads.get() + 1);
                tokio::task::yield_now().await;
                if reads.get() == 1 { Err(failed()) } else { Ok(footer()) }
            };
            footers.get("a", read).await.is_ok()
        };
        let read = futures::future::join_all((0..8).map(|_| get())).await;
        assert_eq!((reads.get(), read.iter().filter(|is_ok| **is_ok).count()), (2, 7));
    }
}
