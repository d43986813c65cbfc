//! Bytes and decoding time of each column of a store's batches in each encoding that Parquet has for it: what the encodings of archives
//! (`crates/store/src/archive/encodings.rs`) were chosen by. It reads the store that `STORE` names, one that has no archives yet.

use crate::{AnyError, process::cpu_seconds};
use arrow::{array::RecordBatch, datatypes::Schema, ipc::reader::FileReader};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowSchemaConverter, ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, Encoding, Type, ZstdLevel},
    file::properties::{EnabledStatistics, WriterProperties},
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// Batches of each kind that are measured, taken evenly over the run.
const BATCHES: usize = 16;
/// Levels of zstd; 0 is none.
const LEVELS: [i32; 4] = [0, 1, 3, 9];
/// The kernel counts CPU time in steps of 10 ms, so each decoding is repeated for so many seconds.
const SECONDS: f64 = 0.12;

/// None is a dictionary.
type Choice = Option<Encoding>;

/// The table's rows go out; the CSV comes back.
pub fn encodings() -> Result<Vec<String>, AnyError> {
    let Ok(store) = std::env::var("STORE") else {
        println!("encodings: not measured, STORE names no store");
        return Ok(vec![]);
    };
    let mut csv = vec!["kind,column,encoding,zstd,arrow_bytes,bytes,decode_ms".to_string()];
    println!("{BATCHES} batches of each kind: per cent of their Arrow bytes, and CPU time to decode all, ms\n");
    println!(
        " column and encoding, Arrow kB                              no zstd         zstd 1         zstd 3         zstd 9"
    );
    for kind in ["rollouts", "scores", "steps"] {
        let batches = read(&Path::new(&store).join(kind))?;
        let Some(first) = batches.first() else { continue };
        for (i, field) in first.schema().fields().iter().enumerate() {
            let columns: Vec<RecordBatch> =
                batches.iter().map(|batch| batch.project(&[i])).collect::<Result<_, _>>()?;
            // Of a file that was read as a whole, the column's own share.
            let arrow = columns.iter().map(|batch| batch.column(0).to_data().get_slice_memory_size());
            let arrow = arrow.sum::<Result<usize, _>>()?;
            println!(" {kind}.{}, {:.0}", field.name(), arrow as f64 / 1e3);
            for choice in choices(&columns[0].schema())? {
                let name = choice.map_or("DICTIONARY".into(), |encoding| encoding.to_string());
                let mut cells = String::new();
                for level in LEVELS {
                    let (file, bytes) = encode(&columns, choice, level)?;
                    let ms = decode_ms(&file)?;
                    cells += &format!("  {:>5.1} {ms:>7.2}", 100.0 * bytes as f64 / arrow as f64);
                    csv.push(format!("{kind},{},{name},{level},{arrow},{bytes},{ms:.3}", field.name()));
                }
                println!("   {name:<48}{cells}");
            }
        }
    }
    Ok(csv)
}

/// Some of the batches below a folder.
fn read(folder: &Path) -> Result<Vec<RecordBatch>, AnyError> {
    let mut files = arrow_files(folder)?;
    files.sort();
    let mut batches = Vec::new();
    for file in files.iter().step_by(files.len().div_ceil(BATCHES).max(1)) {
        batches.extend(FileReader::try_new(File::open(file)?, None)?.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(batches)
}

/// The Arrow files below a folder.
pub fn arrow_files(folder: &Path) -> Result<Vec<PathBuf>, AnyError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(arrow_files(&path)?),
            false => files.extend(path.extension().is_some_and(|it| it == "arrow").then_some(path)),
        }
    }
    Ok(files)
}

fn choices(column: &Schema) -> Result<Vec<Choice>, AnyError> {
    let parquet = ArrowSchemaConverter::new().convert(column)?;
    let others: &[Encoding] = match parquet.column(0).physical_type() {
        Type::INT32 | Type::INT64 => &[Encoding::PLAIN, Encoding::DELTA_BINARY_PACKED, Encoding::BYTE_STREAM_SPLIT],
        Type::FLOAT => &[Encoding::PLAIN, Encoding::BYTE_STREAM_SPLIT],
        _ => &[Encoding::PLAIN, Encoding::DELTA_BYTE_ARRAY],
    };
    Ok(std::iter::once(None).chain(others.iter().copied().map(Some)).collect())
}

/// A file with a row group a batch, and the bytes of its column.
fn encode(columns: &[RecordBatch], choice: Choice, level: i32) -> Result<(Bytes, i64), AnyError> {
    let compression = match level {
        0 => Compression::UNCOMPRESSED,
        level => Compression::ZSTD(ZstdLevel::try_new(level)?),
    };
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_dictionary_enabled(choice.is_none());
    let properties = match choice {
        Some(encoding) => properties.set_encoding(encoding),
        None => properties,
    };
    let mut writer = ArrowWriter::try_new(Vec::new(), columns[0].schema(), Some(properties.build()))?;
    for column in columns {
        // Metadata may differ from batch to batch.
        writer.write(&RecordBatch::try_new(Arc::clone(&columns[0].schema()), column.columns().to_vec())?)?;
        writer.flush()?;
    }
    let bytes = writer.flushed_row_groups().iter().map(|group| group.compressed_size()).sum();
    Ok((writer.into_inner()?.into(), bytes))
}

fn decode_ms(file: &Bytes) -> Result<f64, AnyError> {
    let (began, cpu, mut times) = (Instant::now(), cpu_seconds("self")?, 0);
    while times < 3 || began.elapsed().as_secs_f64() < SECONDS {
        for batch in ParquetRecordBatchReaderBuilder::try_new(file.clone())?.with_batch_size(1 << 20).build()? {
            std::hint::black_box(batch?);
        }
        times += 1;
    }
    Ok((cpu_seconds("self")? - cpu) * 1e3 / f64::from(times))
}
