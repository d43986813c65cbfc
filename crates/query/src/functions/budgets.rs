//! `top_k_budgets`: what each smaller top-k of the teacher would cost and keep, over many positions. One pass over the entries
//! gives all of them.

use super::lists::bytes_of;
use crate::QueryError;
use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, StructArray},
    buffer::OffsetBuffer,
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Fields, Float32Type, Float64Type},
};
use datafusion::{
    common::{ScalarValue, plan_err},
    error::Result,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
    },
};
use std::sync::Arc;

const NAME: &str = "top_k_budgets";
/// The top-k that are tried.
const KS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

pub(super) fn top_k_budgets(lacks: Option<String>) -> AggregateUDF {
    AggregateUDF::from(Budgets { signature: Signature::any(1, Volatility::Immutable), lacks })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Budgets {
    signature: Signature,
    lacks: Option<String>,
}

fn fields() -> Fields {
    let real = |name: &str| Field::new(name, DataType::Float64, false);
    let whole = |name: &str| Field::new(name, DataType::Int64, false);
    Fields::from(vec![whole("k"), whole("positions"), real("entries"), real("bytes"), real("teacher_mass")])
}

fn item() -> FieldRef {
    Arc::new(Field::new("item", DataType::Struct(fields()), false))
}

impl AggregateUDFImpl for Budgets {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        match given {
            [DataType::List(entries)] if entries.data_type().is_floating() => Ok(DataType::List(item())),
            other => {
                let found = other.first().map_or("nothing".into(), DataType::to_string);
                plan_err!("`{NAME}(teacher_top_logprobs)`: expected a list of floats, found {found}")
            }
        }
    }

    fn state_fields(&self, _: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let sums = DataType::new_list(DataType::Float64, true);
        Ok(vec![Arc::new(Field::new("sums", sums, true))])
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        // Not when it is planned: a view uses it that nobody may ask for.
        match &self.lacks {
            Some(lacks) => Err(QueryError::Lacks { function: NAME, lacks: lacks.clone() }.into()),
            None => Ok(Box::<Sums>::default()),
        }
    }
}

/// Sums over positions, each for every k.
#[derive(Debug, Default)]
struct Sums {
    positions: f64,
    entries: [f64; KS.len()],
    bytes: [f64; KS.len()],
    mass: [f64; KS.len()],
}

impl Sums {
    fn add(&mut self, logprobs: impl ExactSizeIterator<Item = f64>) {
        let found = logprobs.len();
        let (mut mass, mut seen, mut logprobs) = (0.0, 0, logprobs);
        self.positions += 1.0;
        for (i, k) in KS.into_iter().enumerate() {
            let kept = k.min(found);
            mass += logprobs.by_ref().take(kept - seen).map(f64::exp).sum::<f64>();
            seen = kept;
            self.entries[i] += kept as f64;
            self.bytes[i] += bytes_of(kept as i64, 0) as f64;
            self.mass[i] += mass;
        }
    }

    /// All of them in one row, for another of its kind to add.
    fn numbers(&self) -> Vec<f64> {
        [&[self.positions][..], &self.entries, &self.bytes, &self.mass].concat()
    }

    fn merge(&mut self, numbers: &[f64]) {
        let [positions, rest @ ..] = numbers else { return };
        self.positions += positions;
        for (sums, numbers) in
            [&mut self.entries, &mut self.bytes, &mut self.mass].into_iter().zip(rest.chunks(KS.len()))
        {
            sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
        }
    }
}

impl Accumulator for Sums {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let lists = values[0].as_list::<i32>();
        let rows = (0..lists.len()).filter(|row| lists.is_valid(*row));
        let range = |row: usize| lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
        match lists.values().as_primitive_opt::<Float32Type>() {
            Some(entries) => {
                rows.for_each(|row| self.add(entries.values()[range(row)].iter().map(|logprob| f64::from(*logprob))))
            }
            None => {
                let entries = cast(lists.values(), &DataType::Float64)?;
                let entries = entries.as_primitive::<Float64Type>();
                rows.for_each(|row| self.add(entries.values()[range(row)].iter().copied()));
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = states[0].as_list::<i32>();
        for sums in lists.iter().flatten() {
            self.merge(sums.as_primitive::<Float64Type>().values());
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let numbers: Vec<ScalarValue> = self.numbers().into_iter().map(ScalarValue::from).collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list(&numbers, &DataType::Float64, true))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        // Without a position there is no mean of any.
        let rows = if self.positions > 0.0 { KS.len() } else { 0 };
        let means = |sums: &[f64; KS.len()]| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(sums.iter().take(rows).map(|sum| sum / self.positions)))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(KS.into_iter().take(rows).map(|k| k as i64))),
            Arc::new(Int64Array::from_value(self.positions as i64, rows)),
            means(&self.entries),
            means(&self.bytes),
            means(&self.mass),
        ];
        let budgets = StructArray::try_new(fields(), columns, None)?;
        let list = ListArray::try_new(item(), OffsetBuffer::from_lengths([rows]), Arc::new(budgets), None)?;
        Ok(ScalarValue::List(Arc::new(list)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
