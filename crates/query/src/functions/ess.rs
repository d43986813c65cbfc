//! `ess`: how many equal weights are worth as much.

use arrow::{
    array::{ArrayRef, AsArray},
    datatypes::{DataType, Float64Type},
};
use datafusion::{
    common::ScalarValue,
    error::Result,
    logical_expr::{Accumulator, AggregateUDF, Volatility, create_udaf, function::AccumulatorArgs},
};
use std::sync::Arc;

pub(super) fn ess() -> AggregateUDF {
    let state = Arc::new(vec![DataType::Float64, DataType::Float64]);
    let empty = Arc::new(|_: AccumulatorArgs<'_>| Ok(Box::<Sums>::default() as Box<dyn Accumulator>));
    create_udaf("ess", vec![DataType::Float64], Arc::new(DataType::Float64), Volatility::Immutable, empty, state)
}

/// Sums over the weights that are not null.
#[derive(Debug, Default)]
struct Sums {
    weights: f64,
    squares: f64,
}

impl Accumulator for Sums {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for weight in values[0].as_primitive::<Float64Type>().iter().flatten() {
            self.weights += weight;
            self.squares += weight * weight;
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let sum = |i: usize| states[i].as_primitive::<Float64Type>().iter().flatten().sum::<f64>();
        self.weights += sum(0);
        self.squares += sum(1);
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.weights.into(), self.squares.into()])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        // No weight, or all of them 0: no sample, and no size of it.
        let size = (self.squares > 0.0).then(|| self.weights * self.weights / self.squares);
        Ok(ScalarValue::Float64(size))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
