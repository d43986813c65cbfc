//! What a Delta table says of each of its files, so that readers can pass files over: rows, and the least, the greatest and
//! the number of missing values of plain columns.

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::{max, max_string, min, min_string},
    datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Texts above this many bytes have no bounds: they would weigh more than they save.
const LONGEST: usize = 64;

/// Of one file.
#[derive(Debug, Default)]
pub struct Stats {
    rows: usize,
    columns: BTreeMap<String, Column>,
}

#[derive(Debug, Default)]
struct Column {
    nulls: usize,
    bounds: Bounds,
}

/// Least and greatest value so far.
#[derive(Clone, Debug, Default, PartialEq)]
enum Bounds {
    /// No value yet.
    #[default]
    None,
    Int(i64, i64),
    /// Microseconds since 1970.
    Time(i64, i64),
    Float(f64, f64),
    Text(String, String),
    /// Not to be said: infinite, too long, or of a type without an order.
    Unsaid,
}

impl Stats {
    /// Takes rows in.
    pub fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows();
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            if field.data_type().is_nested() {
                continue;
            }
            let column = self.columns.entry(field.name().clone()).or_default();
            column.nulls += array.null_count();
            column.bounds = std::mem::take(&mut column.bounds).with(Bounds::of(array));
        }
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// As Delta writes them.
    pub fn to_json(&self) -> Value {
        let (mut least, mut greatest, mut nulls) = (Map::new(), Map::new(), Map::new());
        for (name, column) in &self.columns {
            nulls.insert(name.clone(), column.nulls.into());
            if let Some((min, max)) = column.bounds.said() {
                least.insert(name.clone(), min);
                greatest.insert(name.clone(), max);
            }
        }
        json!({"numRecords": self.rows, "minValues": least, "maxValues": greatest, "nullCount": nulls})
    }
}

impl Bounds {
    fn of(array: &ArrayRef) -> Self {
        fn pair<T, U>(bounds: (Option<T>, Option<T>), make: impl Fn(T, T) -> U, none: U) -> U {
            bounds.0.zip(bounds.1).map_or(none, |(min, max)| make(min, max))
        }
        let none = Bounds::None;
        match array.data_type() {
            DataType::Int32 => {
                let array = array.as_primitive::<Int32Type>();
                pair((min(array), max(array)), |min, max| Bounds::Int(min.into(), max.into()), none)
            }
            DataType::Int64 => {
                let array = array.as_primitive::<Int64Type>();
                pair((min(array), max(array)), Bounds::Int, none)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let array = array.as_primitive::<TimestampMicrosecondType>();
                pair((min(array), max(array)), Bounds::Time, none)
            }
            DataType::Float32 => {
                let array = array.as_primitive::<Float32Type>();
                pair((min(array), max(array)), |min, max| Bounds::Float(min.into(), max.into()), none)
            }
            DataType::Float64 => {
                let array = array.as_primitive::<Float64Type>();
                pair((min(array), max(array)), Bounds::Float, none)
            }
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                pair((min_string(array), max_string(array)), |min, max| Bounds::Text(min.into(), max.into()), none)
            }
            _ => Bounds::Unsaid,
        }
    }

    fn with(self, other: Self) -> Self {
        use Bounds::{Float, Int, None, Text, Time, Unsaid};
        match (self, other) {
            (None, bounds) | (bounds, None) => bounds,
            (Int(a, b), Int(c, d)) => Int(a.min(c), b.max(d)),
            (Time(a, b), Time(c, d)) => Time(a.min(c), b.max(d)),
            // A NaN is at an end of its batch's order, and must not get lost here.
            (Float(a, b), Float(c, d)) if [a, b, c, d].iter().all(|end| end.is_finite()) => Float(a.min(c), b.max(d)),
            (Text(a, b), Text(c, d)) => Text(a.min(c), b.max(d)),
            _ => Unsaid,
        }
    }

    /// Both ends as JSON; `None` where they cannot or need not be said.
    fn said(&self) -> Option<(Value, Value)> {
        match self {
            Bounds::Int(min, max) => Some(((*min).into(), (*max).into())),
            Bounds::Float(min, max) if min.is_finite() && max.is_finite() => Some(((*min).into(), (*max).into())),
            Bounds::Text(min, max) if min.len().max(max.len()) <= LONGEST => {
                Some((min.as_str().into(), max.as_str().into()))
            }
            // Times here are whole milliseconds, which is what Delta's bounds hold.
            Bounds::Time(min, max) => Some((time(*min)?.into(), time(*max)?.into())),
            _ => None,
        }
    }
}

/// `1970-01-01T00:00:00.000Z`
fn time(microseconds: i64) -> Option<String> {
    let time = arrow::temporal_conversions::timestamp_us_to_datetime(microseconds)?;
    Some(time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{
        array::{BooleanArray, Float32Array, Int64Array, StringArray, TimestampMicrosecondArray},
        datatypes::Field,
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
        RecordBatch::try_from_iter_with_nullable(nullable).unwrap()
    }

    proptest! {
        #[test]
        fn bounds_and_counts_are_those_of_all_rows(
            parts in prop::collection::vec(prop::collection::vec(prop::option::of(any::<i64>()), 0..9), 1..5),
        ) {
            let mut stats = Stats::default();
            for part in &parts {
                let text: StringArray = part.iter().map(|value| value.map(|value| value.to_string())).collect();
                let ints: ArrayRef = Arc::new(Int64Array::from(part.clone()));
                stats.add(&batch(vec![("int", ints), ("text", Arc::new(text))]));
            }
            let all: Vec<Option<i64>> = parts.concat();
            let values = || all.iter().flatten();
            let json = stats.to_json();
            prop_assert_eq!(&json["numRecords"], &json!(all.len()));
            prop_assert_eq!(&json["nullCount"]["int"], &json!(all.len() - values().count()));
            prop_assert_eq!(&json["minValues"]["int"], &values().min().map_or(Value::Null, |least| json!(least)));
            prop_assert_eq!(&json["maxValues"]["int"], &values().max().map_or(Value::Null, |most| json!(most)));
            let most = values().map(i64::to_string).max();
            prop_assert_eq!(&json["maxValues"]["text"], &most.map_or(Value::Null, |most| json!(most)));
        }
    }

    #[test]
    fn what_has_no_finite_bounds_has_none() {
        let floats = |values: Vec<f32>| -> ArrayRef { Arc::new(Float32Array::from(values)) };
        let mut stats = Stats::default();
        stats.add(&batch(vec![("a", floats(vec![1.5, 2.0])), ("b", floats(vec![f32::NEG_INFINITY, 2.0]))]));
        stats.add(&batch(vec![("a", floats(vec![f32::NAN, 0.0])), ("b", floats(vec![1.0, 1.0]))]));
        stats.add(&batch(vec![("a", floats(vec![0.5, 1.0])), ("b", floats(vec![1.0, 1.0]))]));
        let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(65), "a".into()]));
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
        stats.add(&batch(vec![("long", long), ("flag", flags)]));
        assert_eq!(stats.rows(), 8);
        assert_eq!((&stats.to_json()["minValues"], &stats.to_json()["maxValues"]), (&json!({}), &json!({})));
    }

    #[test]
    fn times_are_texts_and_lists_are_left_out() {
        let times = TimestampMicrosecondArray::from(vec![1_500_000, 86_400_000_000]).with_timezone("UTC");
        let item = Arc::new(Field::new("item", DataType::Int32, false));
        let lists = arrow::array::new_empty_array(&DataType::List(item));
        let mut stats = Stats::default();
        stats.add(&batch(vec![("at", Arc::new(times))]));
        stats.add(&batch(vec![("lists", lists)]));
        let json = stats.to_json();
        assert_eq!(json["minValues"], json!({"at": "1970-01-01T00:00:01.500Z"}));
        assert_eq!(json["maxValues"], json!({"at": "1970-01-02T00:00:00.000Z"}));
        assert_eq!(json["nullCount"], json!({"at": 0}));
    }
}
