//! A minibatch cut into microbatches, and the pass over them that some estimators need before the one that learns: the network
//! forwards, without autograd, and of its head's logits only what falls on candidates is kept.
//!
//! Such a pass costs a forward of network and head more, next to the forward and backward of the pass that learns.

use crate::{
    Result,
    estimator::{Candidates, Estimator, Pass},
    head::{Proximal, gather},
    pack::{self, Place},
    row::TrainRow,
};
use model::Transformer;
use tch::Tensor;

/// Rows that go through the network together, and their trained positions, of which there is one at least.
pub(crate) struct Microbatch {
    rows: Vec<usize>,
    pub places: Vec<Place>,
}

impl Microbatch {
    /// All rows with a trained position, in microbatches of at most `tokens` tokens.
    pub fn cut(rows: &[TrainRow], tokens: usize) -> Vec<Self> {
        let lengths: Vec<usize> = rows.iter().map(TrainRow::input_len).collect();
        let batches = pack::microbatches(&lengths, tokens).into_iter();
        let places = |batch: &[usize]| pack::places(rows, batch, lengths[batch[0]]);
        batches.map(|rows| Self { places: places(&rows), rows }).filter(|batch| !batch.places.is_empty()).collect()
    }

    /// The hidden states that predict the trained positions, `[N, D]`.
    pub fn hidden(&self, network: &Transformer, rows: &[TrainRow]) -> Result<Tensor> {
        let input = |row: &TrainRow| [row.prompt_ids, &row.response_ids[..row.response_ids.len() - 1]].concat();
        let inputs: Vec<Vec<i32>> = self.rows.iter().map(|row| input(&rows[*row])).collect();
        let hidden = network.hidden(&network.right_padded(&inputs)?)?;
        let at: Vec<i64> = self.places.iter().map(|place| place.hidden).collect();
        let at = Tensor::f_from_slice(&at)?.f_to_device(network.device())?;
        Ok(hidden.f_flatten(0, 1)?.f_index_select(0, &at)?)
    }
}

/// The head of the real vocabulary, `[V, D]`, without autograd.
pub(crate) fn head(network: &Transformer) -> Result<Tensor> {
    Ok(network.head().f_detach()?.f_narrow(0, 0, network.real_vocab() as i64)?)
}

/// What is known of a whole minibatch before its first position is ruled on.
pub(crate) struct Before {
    /// The rule of this minibatch, where it is not the estimator itself.
    pub settled: Option<Box<dyn Estimator>>,
    /// log p of the proximal weights, for each microbatch.
    pub proximal: Vec<Proximal>,
}

impl Before {
    /// Makes the pass that `estimator` asks for. `proximal`: the weights from before the batch, where they are not the student's.
    pub fn of(
        estimator: &dyn Estimator,
        student: &Transformer,
        proximal: Option<&Transformer>,
        rows: &[TrainRow],
        minibatch: &[Microbatch],
        chunk: usize,
    ) -> Result<Self> {
        let gathered = |network: &Transformer, batch: &Microbatch| -> Result<Vec<Candidates>> {
            let _guard = tch::no_grad_guard();
            let positions = pack::positions(rows, &batch.places, estimator.support(), network.device())?;
            gather(&batch.hidden(network, rows)?, &head(network)?, &positions, chunk)
        };
        let logprobs = |network: &Transformer, batch: &Microbatch| {
            let chunks = gathered(network, batch)?;
            let logprobs: Vec<&Tensor> = chunks.iter().map(|chunk| &chunk.learner_logprobs).collect();
            Ok(Proximal::Gathered(Tensor::f_cat(&logprobs, 0)?))
        };
        let mut before = Self { settled: None, proximal: Vec::new() };
        match (estimator.pass(), proximal) {
            (Pass::None, _) => before.proximal.extend(minibatch.iter().map(|_| Proximal::Unknown)),
            (Pass::Statistics, _) => {
                let parts = minibatch.iter().map(|batch| gathered(student, batch)).collect::<Result<Vec<_>>>()?;
                before.settled = estimator.settle(&parts.into_iter().flatten().collect::<Vec<_>>());
                before.proximal.extend(minibatch.iter().map(|_| Proximal::Unknown));
            }
            (Pass::Proximal { .. }, None) => before.proximal.extend(minibatch.iter().map(|_| Proximal::Learner)),
            (Pass::Proximal { .. }, Some(network)) => {
                before.proximal = minibatch.iter().map(|batch| logprobs(network, batch)).collect::<Result<_>>()?;
            }
        }
        Ok(before)
    }
}
