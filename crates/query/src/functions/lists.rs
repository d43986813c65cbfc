//! What the functions of one row compute. Null in an argument gives null.

use crate::{QueryError, tokenizer::Vocabulary};
use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, PrimitiveArray, StringArray},
    compute::cast,
    datatypes::{ArrowPrimitiveType, Float64Type, Int32Type, Int64Type},
};
use datafusion::error::Result;
use std::sync::Arc;

/// A list in every row, its entries as numbers of one type.
struct Lists<T: ArrowPrimitiveType> {
    lists: ListArray,
    entries: PrimitiveArray<T>,
}

impl<T: ArrowPrimitiveType> Lists<T> {
    fn new(array: &ArrayRef) -> Result<Self> {
        let lists = array.as_list::<i32>().clone();
        let entries = cast(lists.values(), &T::DATA_TYPE)?.as_primitive::<T>().clone();
        Ok(Self { lists, entries })
    }

    fn row(&self, row: usize) -> Option<&[T::Native]> {
        let offsets = self.lists.value_offsets();
        let entries = offsets[row] as usize..offsets[row + 1] as usize;
        self.lists.is_valid(row).then(|| &self.entries.values()[entries])
    }
}

fn number<T: ArrowPrimitiveType>(array: &ArrayRef, row: usize) -> Option<T::Native> {
    let numbers = array.as_primitive::<T>();
    numbers.is_valid(row).then(|| numbers.value(row))
}

fn floats(values: impl Iterator<Item = Option<f64>>) -> Result<ArrayRef> {
    Ok(Arc::new(values.collect::<Float64Array>()))
}

/// Sum n (log p - log q) / sum n over draws of p.
pub(super) fn reverse_kl(args: &[ArrayRef]) -> Result<ArrayRef> {
    let (counts, sampler) = (Lists::<Int64Type>::new(&args[0])?, Lists::<Float64Type>::new(&args[1])?);
    let teacher = Lists::<Float64Type>::new(&args[2])?;
    let mut estimates = Vec::with_capacity(args[0].len());
    for row in 0..args[0].len() {
        let (Some(n), Some(p), Some(q)) = (counts.row(row), sampler.row(row), teacher.row(row)) else {
            estimates.push(None);
            continue;
        };
        if n.len() != p.len() || n.len() != q.len() {
            let lengths = format!("{}, {} and {}", n.len(), p.len(), q.len());
            let message = format!("reverse_kl needs three lists of the same draws, found {lengths} entries");
            return Err(QueryError::Run(message).into());
        }
        let sum: f64 = n.iter().zip(p.iter().zip(q)).map(|(n, (p, q))| *n as f64 * (p - q)).sum();
        let draws: i64 = n.iter().sum();
        estimates.push((draws > 0).then(|| sum / draws as f64));
    }
    floats(estimates.into_iter())
}

pub(super) fn teacher_mass(args: &[ArrayRef]) -> Result<ArrayRef> {
    let logprobs = Lists::<Float64Type>::new(&args[0])?;
    floats((0..args[0].len()).map(|row| {
        let k = usize::try_from(number::<Int64Type>(&args[1], row)?).unwrap_or(0);
        Some(logprobs.row(row)?.iter().take(k).fold(0.0, |mass, logprob| mass + logprob.exp()))
    }))
}

/// `-p log p`, which is 0 where p is.
fn surprise(logprob: f64) -> f64 {
    if logprob == f64::NEG_INFINITY { 0.0 } else { -logprob * logprob.exp() }
}

pub(super) fn entropy(args: &[ArrayRef]) -> Result<ArrayRef> {
    let logprobs = Lists::<Float64Type>::new(&args[0])?;
    floats((0..args[0].len()).map(|row| {
        let tail = surprise(number::<Float64Type>(&args[1], row)?);
        let logprobs = logprobs.row(row)?;
        // Without a top-k all mass is the tail, and its entropy is unknown, not 0.
        (!logprobs.is_empty()).then(|| logprobs.iter().map(|logprob| surprise(*logprob)).sum::<f64>() + tail)
    }))
}

pub(super) fn overlap_ratio(args: &[ArrayRef]) -> Result<ArrayRef> {
    let (a, b) = (Lists::<Int64Type>::new(&args[0])?, Lists::<Int64Type>::new(&args[1])?);
    floats((0..args[0].len()).map(|row| {
        let (a, b) = (a.row(row)?, b.row(row)?);
        let common = a.iter().filter(|id| b.contains(id)).count();
        (!a.is_empty()).then(|| common as f64 / a.len() as f64)
    }))
}

/// The bytes of a position with `k` entries of a top-k and `m` distinct draws. 4 bytes each: the sampled token's and the tail's teacher logprob; an id and a logprob an entry of the top-k; id, count and
/// two logprobs a draw; and one offset for each of these lists that is kept.
pub(super) fn bytes_of(k: i64, m: i64) -> i64 {
    let lists = |entries: i64, columns: i64| if entries > 0 { 4 * columns * (entries + 1) } else { 0 };
    8 + lists(k, 2) + lists(m, 4)
}

pub(super) fn cache_bytes(args: &[ArrayRef]) -> Result<ArrayRef> {
    let bytes = (0..args[0].len()).map(|row| {
        let (k, m) = (number::<Int64Type>(&args[0], row)?, number::<Int64Type>(&args[1], row)?);
        Some(bytes_of(k, m))
    });
    Ok(Arc::new(bytes.collect::<Int64Array>()))
}

pub(super) fn detokenize(args: &[ArrayRef], vocabulary: Option<&Vocabulary>) -> Result<ArrayRef> {
    let Some(vocabulary) = vocabulary else {
        return Err(QueryError::Run("detokenize was planned before the tokenizer was read: ask again".into()).into());
    };
    let ids = Lists::<Int32Type>::new(&args[0])?;
    let texts = (0..args[0].len()).map(|row| ids.row(row).map(|ids| vocabulary.text(ids)));
    Ok(Arc::new(texts.collect::<StringArray>()))
}
