//! One value of a column as text: whole for CSV and JSON, short for people.

use arrow::{
    array::{Array, AsArray, downcast_dictionary_array},
    datatypes::{DataType, Float16Type, Float32Type, Float64Type, Int32Type, Int64Type},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use std::fmt::Write;

/// Appends row `row` of `array` as JSON. JSON has no NaN and no infinity: they become `null`.
pub(crate) fn json(array: &dyn Array, row: usize, out: &mut String) -> Result<(), ArrowError> {
    if array.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    if let Some((float, text)) = float(array, row) {
        out.push_str(if float.is_finite() { &text } else { "null" });
        return Ok(());
    }
    match array.data_type() {
        DataType::Null => out.push_str("null"),
        DataType::Boolean => out.push_str(if array.as_boolean().value(row) { "true" } else { "false" }),
        DataType::List(_) => json_list(&array.as_list::<i32>().value(row), out)?,
        DataType::LargeList(_) => json_list(&array.as_list::<i64>().value(row), out)?,
        DataType::FixedSizeList(..) => json_list(&array.as_fixed_size_list().value(row), out)?,
        DataType::Struct(fields) => {
            out.push('{');
            for (i, field) in fields.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                json_text(field.name(), out);
                out.push(':');
                json(array.as_struct().column(i), row, out)?;
            }
            out.push('}');
        }
        DataType::Dictionary(..) => downcast_dictionary_array!(
            // The row is not null, so it has a key.
            array => json(array.values(), array.key(row).unwrap_or_default(), out)?,
            _ => unreachable!("every dictionary is one"),
        ),
        number if number.is_integer() || number.is_decimal() => out.push_str(&plain(array, row)?),
        _ => json_text(&plain(array, row)?, out),
    }
    Ok(())
}

fn json_list(items: &dyn Array, out: &mut String) -> Result<(), ArrowError> {
    out.push('[');
    for i in 0..items.len() {
        out.push_str(if i == 0 { "" } else { "," });
        json(items, i, out)?;
    }
    out.push(']');
    Ok(())
}

/// Appends `text` as a JSON string.
pub(crate) fn json_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Row `row` of `array`, which is not null, as a CSV field holds it: lists and structs as JSON.
pub(crate) fn plain(array: &dyn Array, row: usize) -> Result<String, ArrowError> {
    if let Some((_, text)) = float(array, row) {
        return Ok(text);
    }
    match array.data_type() {
        DataType::Int32 => Ok(array.as_primitive::<Int32Type>().value(row).to_string()),
        DataType::Int64 => Ok(array.as_primitive::<Int64Type>().value(row).to_string()),
        DataType::Utf8 => Ok(array.as_string::<i32>().value(row).to_string()),
        nested if nested.is_nested() => {
            let mut text = String::new();
            json(array, row, &mut text)?;
            Ok(text)
        }
        _ => Ok(ArrayFormatter::try_new(array, &FormatOptions::default())?.value(row).to_string()),
    }
}

/// Row `row` for people: floats rounded to 6 digits, long lists cut. `width` is the longest a list may get.
pub(crate) fn short(array: &dyn Array, row: usize, width: usize) -> Result<String, ArrowError> {
    if array.is_null(row) {
        return Ok("null".into());
    }
    if let Some((value, _)) = float(array, row) {
        return Ok(readable(value));
    }
    match array.data_type() {
        DataType::List(_) => short_list(&array.as_list::<i32>().value(row), width),
        DataType::LargeList(_) => short_list(&array.as_list::<i64>().value(row), width),
        _ => plain(array, row),
    }
}

fn short_list(items: &dyn Array, width: usize) -> Result<String, ArrowError> {
    let mut out = String::from("[");
    for i in 0..items.len() {
        let item = short(items, i, width / 2)?;
        let comma = if i == 0 { "" } else { ", " };
        let last = i + 1 == items.len();
        // Room for the item, and for "]" or ", …]" behind it.
        let room = width.saturating_sub(out.chars().count() + if last { 1 } else { 4 });
        if comma.len() + item.chars().count() > room {
            let _ = write!(out, "{comma}…"); // A String takes everything.
            break;
        }
        out.push_str(comma);
        out.push_str(&item);
    }
    out.push(']');
    Ok(out)
}

/// A float with 6 significant digits, in a form that a person reads.
fn readable(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".into() } else { value.to_string() };
    }
    if !(1e-4..1e9).contains(&size) {
        return format!("{value:.4e}");
    }
    let decimals = (5 - size.log10().floor() as i64).clamp(0, 9) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// A float and its shortest text that reads back the same.
fn float(array: &dyn Array, row: usize) -> Option<(f64, String)> {
    fn exact<T: Copy + Into<f64> + std::fmt::Display + std::fmt::LowerExp>(value: T) -> (f64, String) {
        let wide: f64 = value.into();
        let plain = wide == 0.0 || !wide.is_finite() || (1e-5..1e16).contains(&wide.abs());
        (wide, if plain { value.to_string() } else { format!("{value:e}") })
    }
    match array.data_type() {
        DataType::Float16 => Some(exact(array.as_primitive::<Float16Type>().value(row).to_f32())),
        DataType::Float32 => Some(exact(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => Some(exact(array.as_primitive::<Float64Type>().value(row))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{
        array::{Float32Array, Float64Array, ListArray, StringArray, TimestampMillisecondArray, new_null_array},
        datatypes::Float32Type,
    };
    use proptest::prelude::*;

    fn as_json(array: &dyn Array) -> serde_json::Value {
        let mut out = String::new();
        json(array, 0, &mut out).unwrap();
        serde_json::from_str(&out).unwrap()
    }

    proptest! {
        #[test]
        fn floats_and_text_read_back_the_same(x in any::<f64>(), y in any::<f32>(), text in any::<String>()) {
            let double: Float64Array = vec![x].into();
            prop_assert_eq!(plain(&double, 0).unwrap().parse::<f64>().unwrap().to_bits() == x.to_bits(), !x.is_nan());
            let single: Float32Array = vec![y].into();
            prop_assert_eq!(plain(&single, 0).unwrap().parse::<f32>().unwrap().to_bits() == y.to_bits(), !y.is_nan());
            if x.is_finite() {
                prop_assert_eq!(as_json(&double).as_f64().unwrap(), x);
            }
            let texts: StringArray = vec![text.as_str()].into();
            prop_assert_eq!(as_json(&texts), serde_json::Value::from(text));
        }

        #[test]
        fn a_short_float_is_near_and_short(x in -1e12f64..1e12) {
            let text = readable(x);
            prop_assert!(text.len() <= 12, "{text}");
            prop_assert!((text.parse::<f64>().unwrap() - x).abs() <= x.abs() * 1e-4, "{x} as {text}");
        }

        #[test]
        fn a_short_list_keeps_to_its_width(values in prop::collection::vec(-1e3f32..1e3, 0..40), width in 8usize..60) {
            let list = ListArray::from_iter_primitive::<Float32Type, _, _>([Some(values.iter().copied().map(Some))]);
            let text = short(&list, 0, width).unwrap();
            prop_assert!(text.chars().count() <= width.max(12), "{text}");
            prop_assert!(text.ends_with(']'));
        }
    }

    #[test]
    fn floats_are_readable() {
        let cases = [(0.0, "0"), (1.0, "1"), (0.8125, "0.8125"), (1.0 / 3.0, "0.333333"), (2e-5, "2.0000e-5")];
        for (x, text) in cases.into_iter().chain([(1e12, "1.0000e12"), (123456.7, "123457"), (-0.5, "-0.5")]) {
            assert_eq!(readable(x), text);
        }
        assert_eq!(readable(f64::NEG_INFINITY), "-inf");
    }

    #[test]
    fn json_has_lists_nulls_and_times() {
        let list = [Some(vec![Some(1.5), None, Some(f32::NEG_INFINITY)])];
        let list = ListArray::from_iter_primitive::<Float32Type, _, _>(list);
        assert_eq!(as_json(&list), serde_json::json!([1.5, null, null]));
        assert_eq!(as_json(&new_null_array(&DataType::Int64, 1)), serde_json::Value::Null);
        let time = TimestampMillisecondArray::from(vec![1_500]).with_timezone("UTC");
        assert_eq!(as_json(&time), serde_json::json!("1970-01-01T00:00:01.500Z"));
    }
}
