//! The plain columns that are packed: ragged lists at each position of each row.

use crate::{EncodeError, Level};

/// Ids are below this; larger vocabularies do not exist, and tables by id stay small.
pub const MAX_VOCABULARY: u32 = 1 << 24;
/// Entries of the longest list.
pub const MAX_LIST: usize = 65_535;
/// Rows, positions and entries fit Arrow's 32-bit offsets.
pub const MAX_ENTRIES: usize = i32::MAX as usize;
/// How far above 0 a log-probability may be by rounding.
const ROUNDING: f32 = 1e-3;
/// How far from 1 the masses of a list and its tail may add up, where they are to be normalised.
const MASS: f64 = 1e-2;

/// Which positions a row has, and which entries a position. Offsets, each one longer than what they divide.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    rows: Vec<u32>,
    lists: Vec<u32>,
}

impl Default for Layout {
    fn default() -> Self {
        Self { rows: vec![0], lists: vec![0] }
    }
}

impl Layout {
    /// No rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a position with `entries` entries to the row that is being made.
    pub fn push_list(&mut self, entries: usize) {
        // More than 2^32 entries are refused when the column is packed.
        let entries = u32::try_from(entries).unwrap_or(u32::MAX);
        self.lists.push(self.lists[self.lists.len() - 1].saturating_add(entries));
    }

    /// Ends the row that is being made.
    pub fn end_row(&mut self) {
        self.rows.push(self.positions() as u32);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len() - 1
    }

    /// Positions of all rows.
    pub fn positions(&self) -> usize {
        self.lists.len() - 1
    }

    /// Entries of all positions.
    pub fn entries(&self) -> usize {
        self.lists[self.lists.len() - 1] as usize
    }

    /// The positions of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> std::ops::Range<usize> {
        self.rows[i] as usize..self.rows[i + 1] as usize
    }

    /// The entries of position `t`, counted over all rows.
    ///
    /// # Panics
    /// If there is no such position.
    pub fn list(&self, t: usize) -> std::ops::Range<usize> {
        self.lists[t] as usize..self.lists[t + 1] as usize
    }

    /// Offsets of rows in positions, and of positions in entries.
    pub fn offsets(&self) -> (&[u32], &[u32]) {
        (&self.rows, &self.lists)
    }

    /// The longest list.
    pub fn longest(&self) -> usize {
        (0..self.positions()).map(|t| self.list(t).len()).max().unwrap_or(0)
    }

    fn check(&self) -> Result<(), EncodeError> {
        if self.rows[self.rows()] as usize != self.positions() {
            return Err(EncodeError::shape(
                "rows",
                format!("{} positions, all in rows", self.positions()),
                self.rows[self.rows()],
            ));
        }
        let sum: usize = self.lists.windows(2).map(|w| w[1].wrapping_sub(w[0]) as usize).sum();
        if sum != self.entries() || sum > MAX_ENTRIES || self.positions() > MAX_ENTRIES {
            return Err(EncodeError::shape("entries", format!("at most {MAX_ENTRIES}"), sum));
        }
        if self.longest() > MAX_LIST {
            return Err(EncodeError::shape("list", format!("at most {MAX_LIST} entries"), self.longest()));
        }
        Ok(())
    }
}

/// The most likely ids at each position with their log-probabilities, most likely first, and the log of the mass outside.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopColumn {
    /// Rows, positions, entries.
    pub layout: Layout,
    /// An id an entry; no id twice at one position.
    pub ids: Vec<i32>,
    /// A log-probability an entry, nats.
    pub logprobs: Vec<f32>,
    /// A log tail mass a position, nats; -inf where nothing is outside.
    pub tails: Vec<f32>,
}

/// The distinct ids drawn at each position, how often, and the log-probability they were drawn with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DrawColumn {
    /// Rows, positions, entries.
    pub layout: Layout,
    /// An id an entry; no id twice at one position.
    pub ids: Vec<i32>,
    /// A count an entry, from 1.
    pub counts: Vec<i32>,
    /// A log-probability an entry, nats. Importance weights hang on it: exact at every level.
    pub logprobs: Vec<f32>,
}

impl TopColumn {
    /// Checks that it can be packed at `level`. Floats are opaque bits to `lossless`.
    pub(crate) fn check(&self, level: Level, vocabulary: u32) -> Result<(), EncodeError> {
        check_parts(&self.layout, &self.ids, &self.logprobs, vocabulary)?;
        if self.tails.len() != self.layout.positions() {
            return Err(EncodeError::shape("tails", self.layout.positions(), self.tails.len()));
        }
        if level == Level::Lossless {
            return Ok(());
        }
        each_position(&self.layout, |t, range| {
            check_logprobs(&self.logprobs[range.clone()])?;
            check_logprobs(&[self.tails[t]]).map_err(|(_, expected, found)| ("tails", expected, found))?;
            let list = &self.logprobs[range];
            if let Some(w) = list.windows(2).find(|w| w[1] > w[0]) {
                return Err(("logprobs", "the most likely first".into(), format!("{} before {}", w[0], w[1])));
            }
            let mass: f64 = list.iter().chain([&self.tails[t]]).map(|x| f64::from(*x).exp()).sum();
            // An empty list has no mass to be normalised.
            match list.is_empty() || (mass - 1.0).abs() <= MASS {
                true => Ok(()),
                false => {
                    Err(("logprobs", format!("masses that add up to 1 with the tail, within {MASS}"), mass.to_string()))
                }
            }
        })
    }
}

impl DrawColumn {
    pub(crate) fn check(&self, level: Level, vocabulary: u32) -> Result<(), EncodeError> {
        check_parts(&self.layout, &self.ids, &self.logprobs, vocabulary)?;
        if self.counts.len() != self.ids.len() {
            return Err(EncodeError::shape("counts", self.ids.len(), self.counts.len()));
        }
        each_position(&self.layout, |_, range| {
            if level != Level::Lossless {
                check_logprobs(&self.logprobs[range.clone()])?;
            }
            let counts = &self.counts[range];
            if let Some(count) = counts.iter().find(|count| **count < 1) {
                return Err(("counts", "from 1".into(), count.to_string()));
            }
            let sum: i64 = counts.iter().map(|count| i64::from(*count)).sum();
            match i32::try_from(sum) {
                Ok(_) => Ok(()),
                Err(_) => Err(("counts", format!("at most {} in all", i32::MAX), sum.to_string())),
            }
        })
    }
}

type Fault = (&'static str, String, String);

fn check_parts(layout: &Layout, ids: &[i32], logprobs: &[f32], vocabulary: u32) -> Result<(), EncodeError> {
    layout.check()?;
    if !(1..=MAX_VOCABULARY).contains(&vocabulary) {
        return Err(EncodeError::shape("vocabulary", format!("1 to {MAX_VOCABULARY}"), vocabulary));
    }
    for (what, length) in [("ids", ids.len()), ("logprobs", logprobs.len())] {
        if length != layout.entries() {
            return Err(EncodeError::shape(what, layout.entries(), length));
        }
    }
    // The position, from 1, at which an id was seen last.
    let mut seen = vec![0_u32; vocabulary as usize];
    each_position(layout, |t, range| {
        for id in &ids[range] {
            let Some(at) = usize::try_from(*id).ok().and_then(|id| seen.get_mut(id)) else {
                return Err(("ids", format!("ids from 0 to {}", vocabulary - 1), id.to_string()));
            };
            if *at == t as u32 + 1 {
                return Err(("ids", "each id once".into(), format!("{id} twice")));
            }
            *at = t as u32 + 1;
        }
        Ok(())
    })
}

fn check_logprobs(logprobs: &[f32]) -> Result<(), Fault> {
    match logprobs.iter().find(|x| x.is_nan() || **x > ROUNDING) {
        Some(x) => Err(("logprobs", "numbers of at most 0".into(), x.to_string())),
        None => Ok(()),
    }
}

fn each_position(
    layout: &Layout,
    mut check: impl FnMut(usize, std::ops::Range<usize>) -> Result<(), Fault>,
) -> Result<(), EncodeError> {
    for row in 0..layout.rows() {
        let positions = layout.row(row);
        let first = positions.start;
        for t in positions {
            check(t, layout.list(t)).map_err(|(column, expected, found)| EncodeError::Entry {
                row,
                position: t - first,
                column,
                expected,
                found,
            })?;
        }
    }
    Ok(())
}
