//! A table for people: columns side by side where they fit, else one value a line. Sentences are wrapped, not cut.

use crate::cell::short;
use arrow::{array::RecordBatch, datatypes::Schema, error::ArrowError};

/// The longest a value gets, in characters, before the width of the line shortens it further.
const LONGEST: usize = 60;
/// The shortest a column is made to fit the line.
const SHORTEST: usize = 12;
/// Columns that hold a sentence or a line of a plan: wrapped where they are the last.
const SENTENCES: [&str; 2] = ["comment", "plan"];

/// Rows as short texts.
pub(crate) struct Table {
    names: Vec<String>,
    numbers: Vec<bool>,
    rows: Vec<Vec<String>>,
    width: usize,
}

impl Table {
    /// No rows yet.
    pub fn new(schema: &Schema, width: usize) -> Self {
        let names = schema.fields().iter().map(|field| tidy(field.name())).collect();
        let numbers = schema.fields().iter().map(|field| field.data_type().is_numeric()).collect();
        Self { names, numbers, rows: Vec::new(), width }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Appends rows.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().zip(&self.names).map(|(column, name)| {
                let cell = tidy(&short(column, row, LONGEST)?);
                Ok(if is_sentence(name) { cell } else { cut(&cell, LONGEST) })
            });
            self.rows.push(cells.collect::<Result<_, ArrowError>>()?);
        }
        Ok(())
    }

    /// The whole table, each line ended.
    pub fn render(&self) -> String {
        match self.widths() {
            Some(widths) => self.side_by_side(&widths),
            None => self.one_a_line(),
        }
    }

    /// Widths of the columns within the line; none if even short columns do not fit.
    fn widths(&self) -> Option<Vec<usize>> {
        let longest = |i: usize| self.rows.iter().map(|row| chars(&row[i])).fold(chars(&self.names[i]), usize::max);
        let mut widths: Vec<usize> = (0..self.names.len()).map(longest).collect();
        let room = self.width.saturating_sub(2 * widths.len().saturating_sub(1));
        while widths.iter().sum::<usize>() > room {
            // Numbers keep all their digits.
            let may_shrink = |i: &usize| !self.numbers[*i] && widths[*i] > SHORTEST.max(chars(&self.names[*i]));
            let widest = (0..widths.len()).filter(may_shrink).max_by_key(|i| widths[*i])?;
            widths[widest] -= 1;
        }
        Some(widths)
    }

    fn side_by_side(&self, widths: &[usize]) -> String {
        let mut out = self.line(widths, &self.names);
        out += &self.line(widths, &widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
        for row in &self.rows {
            let Some((last, others)) =
                row.split_last().filter(|_| self.names.last().is_some_and(|name| is_sentence(name)))
            else {
                out += &self.line(widths, row);
                continue;
            };
            for (i, part) in wrapped(last, widths[others.len()]).into_iter().enumerate() {
                let beside = if i == 0 { others.to_vec() } else { vec![String::new(); others.len()] };
                out += &self.line(widths, &[beside, vec![part]].concat());
            }
        }
        out
    }

    fn line(&self, widths: &[usize], cells: &[String]) -> String {
        let mut line = String::new();
        for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let cell = cut(cell, *width);
            let blank = " ".repeat(width - chars(&cell));
            let gap = if i == 0 { "" } else { "  " };
            line += &if self.numbers[i] { format!("{gap}{blank}{cell}") } else { format!("{gap}{cell}{blank}") };
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    }

    fn one_a_line(&self) -> String {
        let name_width = self.names.iter().map(|name| chars(name)).max().unwrap_or_default();
        let mut out = String::new();
        for (i, row) in self.rows.iter().enumerate() {
            out += &format!("-- row {}\n", i + 1);
            for (name, cell) in self.names.iter().zip(row) {
                out += &format!("{name:name_width$}  {cell}\n");
            }
        }
        out
    }
}

fn is_sentence(name: &str) -> bool {
    SENTENCES.contains(&name)
}

/// `text` in lines of at most `width` characters, broken between words; a word that is longer stands alone.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let (indent, words) = text.split_at(text.len() - text.trim_start().len());
    let mut lines = vec![indent.to_string()];
    for word in words.split(' ') {
        match lines.last_mut() {
            Some(line) if line.trim().is_empty() => line.push_str(word),
            Some(line) if chars(line) + 1 + chars(word) <= width => *line += &format!(" {word}"),
            _ => lines.push(word.into()),
        }
    }
    lines
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// At most `width` characters of `text`, the last a `…` where some are left out.
fn cut(text: &str, width: usize) -> String {
    if chars(text) <= width {
        return text.into();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// `text` on one line and without characters that move the cursor.
fn tidy(text: &str) -> String {
    let visible = |c: char| if c.is_control() { c.escape_debug().collect() } else { vec![c] };
    text.chars().flat_map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{
        array::{Float64Array, Int32Array, ListArray, StringArray},
        datatypes::Int32Type,
    };
    use std::sync::Arc;

    fn batch() -> RecordBatch {
        let ids = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some((0..100).map(Some).collect::<Vec<_>>()),
            Some(vec![]),
        ]);
        RecordBatch::try_from_iter([
            ("step", Arc::new(Int32Array::from(vec![7, 1234])) as _),
            ("batch", Arc::new(StringArray::from(vec!["u0\n-abc", &"x".repeat(80)])) as _),
            ("loss", Arc::new(Float64Array::from(vec![Some(1.0 / 3.0), None])) as _),
            ("response_ids", Arc::new(ids) as _),
        ])
        .unwrap()
    }

    fn rendered(width: usize) -> String {
        let mut table = Table::new(&batch().schema(), width);
        table.push(&batch()).unwrap();
        table.render()
    }

    #[test]
    fn columns_stand_side_by_side_and_keep_to_the_line() {
        for width in [52, 70, 100, 200] {
            let text = rendered(width);
            assert_eq!(text.lines().count(), 4, "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert!(text.contains("   7  u0\\n-abc"), "{text}");
            assert!(text.contains("…") && text.contains("0.333333") && text.contains("null"), "{text}");
        }
    }

    #[test]
    fn a_sentence_is_wrapped() {
        let texts = |text: &str| Arc::new(StringArray::from(vec![text, "b"])) as _;
        let batch =
            RecordBatch::try_from_iter([("name", texts("a")), ("comment", texts(&"word ".repeat(20)))]).unwrap();
        let mut table = Table::new(&batch.schema(), 40);
        table.push(&batch).unwrap();
        let text = table.render();
        assert_eq!(text.matches("word").count(), 20, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert!(text.contains("\na     word") && text.contains("\n      word"), "{text}");
    }

    #[test]
    fn what_does_not_fit_stands_one_value_a_line() {
        let text = rendered(30);
        assert!(text.starts_with("-- row 1\nstep          7\nbatch         u0\\n-abc\n"), "{text}");
        assert!(text.contains("response_ids  [0, 1, 2,"), "{text}");
    }
}
