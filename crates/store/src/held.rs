//! Bytes that one reader leaves for the next: a selection looks at a batch that the learner then trains on.

use bytes::Bytes;
use record::ObjectRef;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// Verified bytes of objects, the latest last; together at most so many.
#[derive(Debug, Default)]
pub(crate) struct Held {
    objects: Mutex<Objects>,
}

#[derive(Debug, Default)]
struct Objects {
    queue: VecDeque<(ObjectRef, Bytes)>,
    bytes: u64,
}

impl Held {
    /// Leaves `bytes` for whoever reads the object next; what was left first makes room. One that alone is more than `most` is not left.
    pub fn leave(&self, object: &ObjectRef, bytes: &Bytes, most: u64) {
        if object.bytes > most {
            return;
        }
        let mut held = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        held.take(object);
        held.bytes += object.bytes;
        held.queue.push_back((object.clone(), bytes.clone()));
        while held.bytes > most
            && let Some((first, _)) = held.queue.pop_front()
        {
            held.bytes -= first.bytes;
        }
    }

    /// Takes what was left of the object: once.
    pub fn take(&self, object: &ObjectRef) -> Option<Bytes> {
        // Nothing panics while it holds the lock; and if it did, the queue would still be one.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).take(object)
    }
}

impl Objects {
    fn take(&mut self, object: &ObjectRef) -> Option<Bytes> {
        let at = self.queue.iter().position(|(of, _)| of == object)?;
        let (_, bytes) = self.queue.remove(at)?;
        self.bytes -= object.bytes;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::Digest;

    fn object(name: &str, bytes: usize) -> (ObjectRef, Bytes) {
        let content = Bytes::from(vec![name.as_bytes()[0]; bytes]);
        (ObjectRef { key: name.into(), bytes: bytes as u64, digest: Digest::of(&content) }, content)
    }

    #[test]
    fn what_is_left_is_taken_once_and_the_oldest_makes_room() {
        let (held, [a, b, c]) = (Held::default(), ["a", "b", "c"].map(|name| object(name, 4)));
        for (object, bytes) in [&a, &b, &c] {
            held.leave(object, bytes, 10);
        }
        assert_eq!(held.take(&a.0), None, "it made room");
        assert_eq!((held.take(&b.0), held.take(&b.0)), (Some(b.1.clone()), None));
        let (large, bytes) = object("d", 11);
        held.leave(&large, &bytes, 10);
        assert_eq!((held.take(&large), held.take(&c.0)), (None, Some(c.1)));
        // The same twice counts once, and another of its name is not it.
        held.leave(&a.0, &a.1, 10);
        held.leave(&a.0, &a.1, 10);
        held.leave(&b.0, &b.1, 10);
        let other = ObjectRef { digest: Digest::of(b"other"), ..a.0.clone() };
        assert_eq!((held.take(&other), held.take(&a.0)), (None, Some(a.1)));
    }
}
