//! A store that cannot be reached for a while is no reason to end a job: its log is read again, less and less often, for a stated
//! time, and people are told.

use crate::stop::Stop;
use std::time::{Duration, Instant};
use store::{Follower, StoreError};

/// The longest time between two attempts.
const LONGEST: Duration = Duration::from_secs(10);

/// Folds in what is new. Where the store cannot be reached it is tried again for `limit`, but not once the end is asked for.
///
/// # Errors
/// As reading the log, if that would fail again or has failed for `limit`.
pub async fn refresh(follower: &mut Follower, limit: Duration, stop: &Stop, say: impl Fn(&str)) -> store::Result<()> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(250);
    let mut said = false;
    loop {
        let error = match follower.refresh().await {
            Ok(_) => {
                if said {
                    say(&format!("`{}` can be read again, after {:.0?}", follower.store().url(), begun.elapsed()));
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if !may_pass(&error) || stop.is_asked() || begun.elapsed() >= limit {
            return Err(error);
        }
        if !said {
            let what = error.to_string();
            let what = what.lines().next().unwrap_or_default();
            say(&format!("{what}; trying again for {limit:.0?} (run.patience_s)"));
            said = true;
        }
        stop.sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

/// Whether the same may succeed a little later.
pub fn may_pass(error: &StoreError) -> bool {
    matches!(error, StoreError::Unreachable { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::identity;
    use record::{Job, Work};
    use std::{cell::RefCell, sync::Arc};
    use store::{
        Store, StoreOptions,
        simulated::{Faulty, ReadFault},
    };

    async fn followed() -> (Arc<Faulty>, Follower) {
        let objects = Arc::new(Faulty::default());
        // So that what fails once is not tried again below.
        let store = Store::with_backend(objects.clone(), StoreOptions { attempts: 1, ..StoreOptions::default() });
        let (worker, incarnation) = ("run".to_string(), "a".to_string());
        let work = Work { worker, incarnation, job: Job::Run, started: 0, busy_s: 0.0, waited_s: 0.0, tokens: 0 };
        let follower = store.create(identity(4, 1, 0), work).await.unwrap();
        (objects, follower)
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_is_tried_again_and_people_are_told() {
        let (objects, mut follower) = followed().await;
        objects.fail_reads([ReadFault::Fails, ReadFault::Fails]);
        let said = RefCell::new(Vec::new());
        let say = |line: &str| said.borrow_mut().push(line.to_string());
        let stop = Stop::never();
        refresh(&mut follower, Duration::from_secs(60), &stop, say).await.unwrap();
        let said = said.into_inner();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].contains("cannot read `log/00000000000000000001.json`") && said[0].contains("for 60s"),
            "{said:?}"
        );
        assert!(said[1].contains("can be read again"), "{said:?}");
    }

    #[tokio::test]
    async fn patience_ends_at_its_limit_and_for_what_cannot_pass() {
        let (objects, mut follower) = followed().await;
        objects.fail_reads([ReadFault::Fails; 10]);
        let stop = Stop::never();
        let error = refresh(&mut follower, Duration::from_millis(300), &stop, |_| {}).await.unwrap_err();
        assert!(may_pass(&error), "{error}");
        assert!(objects.reads_left() >= 7, "it waits in between");
        assert!(!may_pass(&StoreError::NoRun { url: String::new() }));
    }
}
