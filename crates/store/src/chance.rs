//! The store's only chance and its only wall clock: unique ids, jitter, time stamps.

use crate::simulated;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The characters of a unique id.
pub(crate) const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A name nobody else makes: 9 characters of time (milliseconds, so that names sort by age) and 11 of randomness
/// (55 bits), in Crockford's base 32.
pub fn unique_id() -> String {
    let (mut time, mut random) = (now_ms() as u64, random());
    let mut text = [0; 20];
    for slot in text[9..].iter_mut() {
        *slot = ALPHABET[(random % 32) as usize];
        random /= 32;
    }
    for slot in text[..9].iter_mut().rev() {
        *slot = ALPHABET[(time % 32) as usize];
        time /= 32;
    }
    text.iter().map(|byte| char::from(*byte)).collect()
}

/// Milliseconds since 1970 by this machine's clock. For people: nothing depends on clocks that agree.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now_ms() -> i64 {
    if let Some(now) = simulated::wrong_now_ms() {
        return now;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// `mean` times a number between 0.5 and 1.5, so that jobs do not poll or retry in step.
pub(crate) fn jittered(mean: Duration) -> Duration {
    mean.mul_f64(0.5 + (random() % 1024) as f64 / 1024.0)
}

/// The wait before attempt `attempt + 1`: doubles from 50 ms to 2 s.
pub(crate) fn backoff(attempt: u32) -> Duration {
    jittered(Duration::from_millis(50 << attempt.min(6)).min(Duration::from_secs(2)))
}

pub(crate) fn random() -> u64 {
    if let Some(random) = simulated::random() {
        return random;
    }
    // Without randomness no id is unique, and a store that goes on may overwrite: there is nothing safe left to do.
    getrandom::u64().expect("the operating system gives randomness")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_differ_are_plain_and_sort_by_age() {
        let ids: Vec<String> = (0..2000).map(|_| unique_id()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        assert!(ids.iter().all(|id| id.len() == 20 && id.bytes().all(|byte| ALPHABET.contains(&byte))));
        std::thread::sleep(Duration::from_millis(2));
        assert!(ids.iter().all(|id| *id < unique_id()));
    }

    #[test]
    fn waits_grow_and_end_at_three_seconds() {
        for attempt in 0..40 {
            let wait = backoff(attempt);
            assert!(wait >= Duration::from_millis(25) && wait <= Duration::from_secs(3), "{attempt}: {wait:?}");
        }
    }
}
