//! Rows that grow token by token over one cache.
//!
//! Prompts are aligned at their right ends: row r has `pads[r]` unused columns first, so that every row's next token goes into
//! the same column. Unused columns are masked with -inf, and positions count from a row's own first token, so what a row
//! computes does not depend on the others.

use crate::cache::Cache;
use crate::transformer::{Attend, Transformer};
use crate::{Result, host};
use std::collections::HashMap;
use tch::{Kind, Tensor};

pub(crate) struct Decoder<'a> {
    model: &'a Transformer,
    cache: Cache,
    pads: Vec<i64>,
}

impl<'a> Decoder<'a> {
    /// Reads the prompts (none is empty) and gives the hidden state of each one's last token, `[B, D]`. A prompt that several rows
    /// continue is read once.
    pub(crate) fn start<'p>(model: &'a Transformer, prompts: &[&'p [i32]]) -> Result<(Self, Tensor)> {
        let (mut distinct, mut places) = (Vec::new(), HashMap::new());
        let place = |ids: &&'p [i32]| {
            *places.entry(*ids).or_insert_with(|| {
                distinct.push(*ids);
                distinct.len() - 1
            })
        };
        let of: Vec<usize> = prompts.iter().map(place).collect();
        let (mut decoder, hidden) = Self::read(model, &distinct)?;
        if distinct.len() == prompts.len() {
            return Ok((decoder, hidden));
        }
        decoder.keep(&of)?;
        let of: Vec<i64> = of.iter().map(|&row| row as i64).collect();
        let hidden = hidden.f_index_select(0, &host::ids(&of, &[of.len()], model.device())?)?;
        Ok((decoder, hidden))
    }

    fn read(model: &'a Transformer, prompts: &[&[i32]]) -> Result<(Self, Tensor)> {
        let columns = prompts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let pads: Vec<i64> = prompts.iter().map(|ids| (columns - ids.len()) as i64).collect();
        let mut ids = vec![0; prompts.len() * columns];
        for (row, prompt) in prompts.iter().enumerate() {
            let start = row * columns + columns - prompt.len();
            ids[start..start + prompt.len()].iter_mut().zip(*prompt).for_each(|(to, &id)| *to = i64::from(id));
        }
        let ids = host::ids(&ids, &[prompts.len(), columns], model.device())?;
        let cache = Cache::new(model.config(), prompts.len() as i64, columns as i64, model.device())?;
        let mut decoder = Self { model, cache, pads };
        let hidden = decoder.run(&ids)?;
        Ok((decoder, hidden.f_select(1, columns as i64 - 1)?))
    }

    /// Appends one token to every row and gives its hidden state, `[B, D]`.
    pub(crate) fn step(&mut self, ids: &[i64]) -> Result<Tensor> {
        let ids = host::ids(ids, &[ids.len(), 1], self.model.device())?;
        Ok(self.run(&ids)?.f_select(1, 0)?)
    }

    /// Keeps the given rows, in that order; one may be kept several times.
    pub(crate) fn keep(&mut self, rows: &[usize]) -> Result<()> {
        let pads: Vec<i64> = rows.iter().map(|&row| self.pads[row]).collect();
        let skip = pads.iter().copied().min().unwrap_or(0);
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        self.cache.keep(&host::ids(&rows, &[rows.len()], self.model.device())?, skip)?;
        self.pads = pads.iter().map(|pad| pad - skip).collect();
        Ok(())
    }

    /// The next columns of every row, ids `[B, T]`, through the network.
    fn run(&mut self, ids: &Tensor) -> Result<Tensor> {
        let (rows, added) = ids.size2()?;
        let (start, device) = (self.cache.length(), self.model.device());
        let options = (Kind::Int64, device);
        let pads = host::ids(&self.pads, &[self.pads.len(), 1], device)?;
        let queries = Tensor::f_arange_start(start, start + added, options)?;
        // Unused columns come out at position 0; nothing looks at them.
        let rope = self.model.rope(&queries.f_sub(&pads)?.f_clamp_min(0)?.f_unsqueeze(1)?)?;

        let mask = if added == 1 && self.pads.iter().all(|&pad| pad == 0) {
            None
        } else {
            let keys = Tensor::f_arange(start + added, options)?.f_view([1, 1, -1])?;
            let queries = queries.f_view([1, -1, 1])?;
            // An unused column still looks at itself: a softmax over nothing would be NaN.
            let unused = keys.f_lt_tensor(&pads.f_view([-1, 1, 1])?)?.f_logical_and(&keys.f_ne_tensor(&queries)?)?;
            let hidden = unused.f_logical_or(&keys.f_gt_tensor(&queries)?)?;
            let zeros = Tensor::f_zeros([rows, 1, added, start + added], (Kind::Float, device))?;
            Some(zeros.f_masked_fill(&hidden.f_unsqueeze(1)?, f64::NEG_INFINITY)?)
        };
        self.model.forward(ids, &rope, &mut Attend::Cached { cache: &mut self.cache, mask: mask.as_ref() })
    }
}
