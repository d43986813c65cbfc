//! A run that goes on takes the rows that it began with: what its log says steps took of the parent is held against what they take now.

use super::parent::ParentRun;
use crate::error::{CommandError, Result};
use record::{Replayed, StepCommit};

/// Rows of a batch that are named.
const NAMED: usize = 8;

/// Checks that each of these steps took what `now` gives for it.
///
/// # Errors
/// The first step that did not, with the first rows that differ.
pub(super) fn check<'a>(
    parent: &ParentRun,
    condition: Option<&str>,
    steps: impl IntoIterator<Item = &'a StepCommit>,
    mut now: impl FnMut(&StepCommit) -> Vec<Replayed>,
) -> Result<()> {
    let by = condition.map_or(String::new(), |condition| format!(" by {} `{condition}`", parent.keys.condition));
    for step in steps {
        let takes = now(step);
        if let Some((was, is)) = difference(&step.replayed, &takes) {
            let (number, url) = (step.step, parent.store.url());
            return Err(CommandError::new(format!("step {number} took {was} of `{url}`; now it would take {is}{by}"))
                .hint(
                    "a run that goes on takes the rows that it began with: give the settings and the parent's rows as they were, or begin anew in \
                     another store; `opd pin` keeps a parent's rows",
                ));
        }
    }
    Ok(())
}

/// The first place at which two lists of rows differ, in words.
fn difference(were: &[Replayed], are: &[Replayed]) -> Option<(String, String)> {
    let at = (0..were.len().max(are.len())).find(|at| were.get(*at) != are.get(*at))?;
    let words = |rows: &[Replayed]| match rows.get(at) {
        None => "no more rows".to_string(),
        Some(Replayed { of, .. }) => {
            let named: Vec<String> = of.rows.iter().take(NAMED).map(|row| row.to_string()).collect();
            let more = if of.rows.len() as usize > NAMED { ", ..." } else { "" };
            format!("row {}{more} of batch `{}`", named.join(", "), of.batch)
        }
    };
    Some((words(were), words(are)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{BatchRows, PolicyVersion, RowSet};

    fn rows(batch: &str, rows: &[u32]) -> Replayed {
        let of = BatchRows { batch: batch.into(), rows: rows.iter().copied().collect::<RowSet>() };
        Replayed { of, unit: 1, policy_version: PolicyVersion(0), epoch: 0 }
    }

    #[test]
    fn the_first_rows_that_differ_are_named() {
        let were = [rows("a", &[0, 1]), rows("b", &[2])];
        assert_eq!(difference(&were, &were), None);
        let said = |are: &[Replayed]| difference(&were, are).unwrap();
        assert_eq!(
            said(&[rows("a", &[0, 1]), rows("c", &[3])]),
            ("row 2 of batch `b`".into(), "row 3 of batch `c`".into())
        );
        assert_eq!(said(&were[..1]), ("row 2 of batch `b`".into(), "no more rows".into()));
        let many: Vec<u32> = (0..9).collect();
        assert_eq!(said(&[rows("a", &many)]).1, "row 0, 1, 2, 3, 4, 5, 6, 7, ... of batch `a`");
        // Another epoch of the same rows is another place in the order.
        let later = Replayed { epoch: 1, ..rows("b", &[2]) };
        assert!(difference(&were, &[rows("a", &[0, 1]), later]).is_some());
    }
}
