//! Keys and values of the tokens already seen, so that each new token costs one column and not a whole pass.

use crate::Result;
use crate::config::ModelConfig;
use tch::{Device, Kind, Tensor};

/// Columns added at a time, so that a long allowance costs nothing until it is used.
const GROWTH: i64 = 64;

/// Keys and values of every layer, `[B, key heads, capacity, head_dim]`, of which the first `length` columns are filled.
pub(crate) struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    length: i64,
    capacity: i64,
}

impl Cache {
    /// Room for `rows` rows of `columns` tokens and some more.
    pub(crate) fn new(config: &ModelConfig, rows: i64, columns: i64, device: Device) -> Result<Self> {
        let capacity = columns + GROWTH;
        let shape = [rows, config.num_key_value_heads as i64, capacity, config.head_dim as i64];
        let empty = || Tensor::f_empty(shape, (Kind::Float, device));
        let layers = (0..config.num_hidden_layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<_>>()?;
        Ok(Self { layers, length: 0, capacity })
    }

    /// Filled columns.
    pub(crate) fn length(&self) -> i64 {
        self.length
    }

    /// Writes the next columns of one layer, `[B, key heads, T, head_dim]`, and gives all of its columns back. The length grows
    /// only at [`Cache::advance`], when every layer has written.
    pub(crate) fn append(&mut self, layer: usize, key: &Tensor, value: &Tensor) -> Result<(Tensor, Tensor)> {
        let added = key.size4()?.2;
        let filled = self.length + added;
        if filled > self.capacity {
            self.rebuild(0, filled + GROWTH, None)?;
        }
        let (keys, values) = &self.layers[layer];
        keys.f_narrow(2, self.length, added)?.f_copy_(key)?;
        values.f_narrow(2, self.length, added)?.f_copy_(value)?;
        Ok((keys.f_narrow(2, 0, filled)?, values.f_narrow(2, 0, filled)?))
    }

    /// Counts columns that every layer has written.
    pub(crate) fn advance(&mut self, columns: i64) {
        self.length += columns;
    }

    /// Keeps the given rows (int64 `[kept]`), without their first `skip` columns.
    pub(crate) fn keep(&mut self, rows: &Tensor, skip: i64) -> Result<()> {
        self.rebuild(skip, self.length - skip + GROWTH, Some(rows))?;
        self.length -= skip;
        Ok(())
    }

    fn rebuild(&mut self, skip: i64, capacity: i64, rows: Option<&Tensor>) -> Result<()> {
        let length = self.length - skip;
        let rebuilt = |old: &Tensor| -> Result<Tensor> {
            let (all, heads, _, width) = old.size4()?;
            let kept = rows.map_or(all, |rows| rows.numel() as i64);
            let new = Tensor::f_empty([kept, heads, capacity, width], (old.f_kind()?, old.device()))?;
            let filled = old.f_narrow(2, skip, length)?;
            let filled = rows.map_or_else(|| Ok(filled.shallow_clone()), |rows| filled.f_index_select(0, rows))?;
            new.f_narrow(2, 0, length)?.f_copy_(&filled)?;
            Ok(new)
        };
        for (keys, values) in &mut self.layers {
            (*keys, *values) = (rebuilt(keys)?, rebuilt(values)?);
        }
        self.capacity = capacity;
        Ok(())
    }
}
