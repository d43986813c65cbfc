//! Rows of prompt and response, run through a network a bounded number of tokens at a time.

use crate::{Error, Result, Transformer};
use tch::Tensor;

/// Prompt and response, borrowed.
pub(crate) type Sequence<'a> = (&'a [i32], &'a [i32]);

/// A response position: row, and index in its response.
pub(crate) type Position = (usize, usize);

/// Refuses a row without a prompt, one too long for the model, and ids that it does not know.
pub(crate) fn check(model: &Transformer, row: usize, (prompt, response): Sequence) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::Row { row, reason: "the prompt is empty, expected at least one token".into() });
    }
    model.check_length(row, prompt.len() + response.len())?;
    model.check_ids(row, prompt)?;
    model.check_ids(row, response)
}

/// Some rows that go through a network together.
pub(crate) struct Batch {
    ids: Vec<Vec<i32>>,
    positions: Vec<Position>,
    /// Where the hidden state that predicts each position's token is among `[B * T]`: one before the token itself.
    index: Vec<i64>,
}

impl Batch {
    /// All rows, those of like length together, each batch within `most` tokens as it will be padded; a longer row is alone.
    pub(crate) fn all(rows: &[Sequence], most: usize) -> Vec<Self> {
        let tokens = |&i: &usize| rows[i].0.len() + rows[i].1.len();
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(tokens);
        let mut batches: Vec<Vec<usize>> = Vec::new();
        for i in order {
            match batches.last_mut() {
                // Ascending order: row i is the longest of the batch it joins.
                Some(batch) if (batch.len() + 1) * tokens(&i) <= most => batch.push(i),
                _ => batches.push(vec![i]),
            }
        }
        batches.iter().map(|batch| Self::of(rows, batch)).collect()
    }

    fn of(rows: &[Sequence], batch: &[usize]) -> Self {
        let ids: Vec<Vec<i32>> = batch.iter().map(|&i| [rows[i].0, rows[i].1].concat()).collect();
        let columns = ids.iter().map(Vec::len).max().unwrap_or(0);
        let (mut positions, mut index) = (Vec::new(), Vec::new());
        for (b, &i) in batch.iter().enumerate() {
            let (prompt, response) = rows[i];
            let first = b * columns + prompt.len() - 1;
            positions.extend((0..response.len()).map(|t| (i, t)));
            index.extend((0..response.len()).map(|t| (first + t) as i64));
        }
        Self { ids, positions, index }
    }

    /// Hidden states of all tokens and of the padding, `[B * T, D]`.
    pub(crate) fn hidden(&self, model: &Transformer) -> Result<Tensor> {
        Ok(model.hidden(&model.right_padded(&self.ids)?)?.f_flatten(0, 1)?)
    }

    /// The response positions, `size` at a time, each with where in [`Batch::hidden`] its token is predicted.
    pub(crate) fn chunks(&self, size: usize) -> impl Iterator<Item = (&[Position], &[i64])> {
        self.positions.chunks(size).zip(self.index.chunks(size))
    }
}
