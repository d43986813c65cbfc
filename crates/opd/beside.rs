//! Score sets beside a run's own: what `opd score --set` and `opd compact` ask before they begin one.

use crate::error::{CommandError, Result};
use record::Parent;
use store::Snapshot;

/// That a score set may be called so.
///
/// # Errors
/// If it may not.
pub fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match (1..=100).contains(&name.len()) && name.chars().all(is_plain) {
        true => Ok(()),
        false => {
            Err(CommandError::new(format!("--set `{name}`"))
                .hint("a name is 1 to 100 letters, digits, `-`, `_` and `.`"))
        }
    }
}

/// That the run in `url` has rollouts of its own.
///
/// # Errors
/// If it is a replay.
pub fn check_has_rows(url: &str, now: &Snapshot) -> Result<()> {
    match now.run.parent.as_ref().filter(|parent| parent.is_replayed_whole()) {
        None => Ok(()),
        Some(Parent { url: parent, .. }) => {
            let what = format!("the run in `{url}` is a replay: its rollouts and scores are those of `{parent}`");
            Err(CommandError::new(what).hint(format!("name `{parent}` instead")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_a_key_of_the_store() {
        for (name, fits) in [("k4", true), ("a.B-c_1", true), ("", false), ("a/b", false), ("a b", false), ("é", false)]
        {
            assert_eq!(check_name(name).is_ok(), fits, "{name}");
        }
        assert!(check_name(&"a".repeat(100)).is_ok() && check_name(&"a".repeat(101)).is_err());
    }
}
