//! Answers as text: CSV and JSON whole and row by row, a table for people.

use crate::{
    Answer, QueryError, Result,
    cell::{json, json_text, plain},
    table::Table,
};
use arrow::{array::RecordBatch, datatypes::DataType};
use std::io::{ErrorKind, Write};

/// Rows of a table; there are other formats for more.
pub const TABLE_ROWS: usize = 1_000;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people: fits into `width` characters, floats rounded, long values cut, at most [`TABLE_ROWS`] rows.
    Table {
        /// Characters of a line.
        width: usize,
    },
    /// RFC 4180 with a header line; null is an empty field, an empty text is `""`, lists are JSON.
    Csv,
    /// One array of objects, one a line; NaN and infinities, which JSON lacks, are `null`.
    Json,
}

/// Writes `answer` to `out` as it is computed, and returns how many rows were written. A reader that has seen enough
/// (`| head`) ends it without an error.
///
/// # Errors
/// As [`Answer::next`], and [`QueryError::Write`] if `out` refuses.
pub async fn write(answer: Answer, format: Format, out: &mut impl Write) -> Result<usize> {
    let mut rows = 0;
    match write_all(answer, format, out, &mut rows).await {
        Err(QueryError::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(rows),
        done => done.map(|()| rows),
    }
}

async fn write_all(mut answer: Answer, format: Format, out: &mut impl Write, rows: &mut usize) -> Result<()> {
    match format {
        Format::Csv => {
            let schema = answer.schema();
            let names: Vec<_> = schema.fields().iter().map(|field| quoted(field.name(), false)).collect();
            writeln!(out, "{}", names.join(","))?;
            while let Some(batch) = answer.next().await? {
                csv_rows(&batch, out)?;
                *rows += batch.num_rows();
            }
        }
        Format::Json => {
            out.write_all(b"[")?;
            while let Some(batch) = answer.next().await? {
                json_rows(&batch, *rows, out)?;
                *rows += batch.num_rows();
            }
            out.write_all(if *rows == 0 { b"]\n" } else { b"\n]\n" })?;
        }
        Format::Table { width } => {
            let mut table = Table::new(&answer.schema(), width);
            let mut more = false;
            while let Some(batch) = answer.next().await? {
                let room = TABLE_ROWS - table.len();
                more = batch.num_rows() > room;
                table.push(&batch.slice(0, batch.num_rows().min(room)))?;
                if more {
                    break;
                }
            }
            *rows = table.len();
            out.write_all(table.render().as_bytes())?;
            match (more, *rows) {
                (true, _) => writeln!(out, "(the first {rows} rows; csv and json give all)")?,
                (false, 1) => writeln!(out, "(1 row)")?,
                (false, _) => writeln!(out, "({rows} rows)")?,
            }
        }
    }
    Ok(out.flush()?)
}

/// An answer as one text, for answers known to be small.
///
/// # Errors
/// As [`Answer::next`].
pub async fn render(answer: Answer, format: Format) -> Result<String> {
    let mut out = Vec::new();
    write(answer, format, &mut out).await?;
    // `write` writes nothing but strings.
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn csv_rows(batch: &RecordBatch, out: &mut impl Write) -> Result<()> {
    let mut line = String::new();
    for row in 0..batch.num_rows() {
        line.clear();
        for (i, column) in batch.columns().iter().enumerate() {
            line.push_str(if i == 0 { "" } else { "," });
            if !column.is_null(row) && *column.data_type() != DataType::Null {
                line.push_str(&quoted(&plain(column, row)?, true));
            }
        }
        line.push('\n');
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// A CSV field; `is_value` quotes the empty text, so that it is not a null.
fn quoted(text: &str, is_value: bool) -> String {
    if text.contains(['"', ',', '\n', '\r']) || (is_value && text.is_empty()) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

fn json_rows(batch: &RecordBatch, before: usize, out: &mut impl Write) -> Result<()> {
    let schema = batch.schema();
    let mut line = String::new();
    for row in 0..batch.num_rows() {
        line.clear();
        line.push_str(if before + row == 0 { "\n{" } else { ",\n{" });
        for (i, (field, column)) in schema.fields().iter().zip(batch.columns()).enumerate() {
            line.push_str(if i == 0 { "" } else { ", " });
            json_text(field.name(), &mut line);
            line.push_str(": ");
            json(column, row, &mut line)?;
        }
        line.push('}');
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}
