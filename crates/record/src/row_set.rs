//! Sets of row numbers, kept as ranges.

use crate::RecordError;
use serde::{Deserialize, Serialize};

/// Rows of one batch, or of one unit: sorted, disjoint, non-touching half-open ranges. In JSON `[[0, 32], [40, 48]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub struct RowSet(Vec<(u32, u32)>);

impl RowSet {
    /// The rows `0..n`.
    pub fn first(n: u32) -> Self {
        Self(if n == 0 { vec![] } else { vec![(0, n)] })
    }

    /// Number of rows.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether it holds no row.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(start, end)| *start..*end)
    }

    /// Whether `row` is in the set.
    pub fn contains(&self, row: u32) -> bool {
        self.0.iter().any(|(start, end)| (*start..*end).contains(&row))
    }

    /// Whether every row of `other` is in the set.
    pub fn contains_all(&self, other: &RowSet) -> bool {
        other.0.iter().all(|(s, e)| self.0.iter().any(|(start, end)| start <= s && e <= end))
    }

    /// One past the last row; 0 if empty.
    pub fn end(&self) -> u32 {
        self.0.last().map_or(0, |(_, end)| *end)
    }

    /// The first `n` rows, or all if there are fewer.
    pub fn take(&self, n: u32) -> RowSet {
        self.iter().take(n as usize).collect()
    }

    /// The rows of the set that are not in `other`.
    pub fn minus(&self, other: &RowSet) -> RowSet {
        self.iter().filter(|row| !other.contains(*row)).collect()
    }

    /// The rows of both.
    pub fn intersection(&self, other: &RowSet) -> RowSet {
        self.iter().filter(|row| other.contains(*row)).collect()
    }

    /// The rows of either.
    pub fn union(&self, other: &RowSet) -> RowSet {
        let mut rows: Vec<u32> = self.iter().chain(other.iter()).collect();
        rows.sort_unstable();
        rows.into_iter().collect()
    }
}

/// From rows in ascending order; a row named twice counts once.
impl FromIterator<u32> for RowSet {
    fn from_iter<I: IntoIterator<Item = u32>>(rows: I) -> Self {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for row in rows {
            match ranges.last_mut() {
                Some((_, end)) if *end == row => *end += 1,
                Some((_, end)) if *end > row => debug_assert!(*end == row + 1, "rows come in ascending order"),
                _ => ranges.push((row, row + 1)),
            }
        }
        Self(ranges)
    }
}

impl From<RowSet> for Vec<(u32, u32)> {
    fn from(rows: RowSet) -> Self {
        rows.0
    }
}

impl TryFrom<Vec<(u32, u32)>> for RowSet {
    type Error = RecordError;

    fn try_from(ranges: Vec<(u32, u32)>) -> Result<Self, RecordError> {
        let ordered = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if ordered && ranges.iter().all(|(start, end)| start < end) {
            return Ok(Self(ranges));
        }
        Err(RecordError::Parse { text: format!("{ranges:?}"), expected: "a list of ascending, disjoint row ranges" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn rows() -> impl Strategy<Value = BTreeSet<u32>> {
        proptest::collection::btree_set(0u32..64, 0..48)
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(a in rows(), b in rows(), n in 0u32..70) {
            let (x, y): (RowSet, RowSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            let set = |rows: &RowSet| rows.iter().collect::<BTreeSet<_>>();
            prop_assert_eq!(set(&x), a.clone());
            prop_assert_eq!(x.len() as usize, a.len());
            prop_assert_eq!(set(&x.minus(&y)), &a - &b);
            prop_assert_eq!(set(&x.union(&y)), &a | &b);
            prop_assert_eq!(set(&x.intersection(&y)), &a & &b);
            prop_assert_eq!(x.contains_all(&y), a.is_superset(&b));
            prop_assert_eq!(set(&x.take(n)), a.iter().copied().take(n as usize).collect::<BTreeSet<_>>());
            prop_assert_eq!(x.end(), a.last().map_or(0, |last| last + 1));
            let json = serde_json::to_string(&x).unwrap();
            prop_assert_eq!(serde_json::from_str::<RowSet>(&json).unwrap(), x);
        }
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_refused() {
        for bad in ["[[3,3]]", "[[0,4],[4,8]]", "[[0,4],[2,8]]", "[[5,6],[0,1]]"] {
            assert!(serde_json::from_str::<RowSet>(bad).is_err(), "{bad}");
        }
    }
}
