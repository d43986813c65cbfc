//! How the columns of an archive are encoded: chosen by measurement (docs/benchmarks.md, "Archives"; `benches/store/encodings.rs`).
//!
//! Bytes of a number of the same weight stand side by side (`BYTE_STREAM_SPLIT`): exponents of log-probabilities, and the high bytes of ids and
//! counts, resemble each other, and zstd finds that. It beats dictionaries, whose indices zstd no longer sees through, and deltas. Text, the same in
//! all rows but for a few characters, is left to zstd, and so is what the codec has packed.

use arrow::datatypes::SchemaRef;
use parquet::{
    arrow::ArrowSchemaConverter,
    basic::{Compression, Encoding, Type, ZstdLevel},
    errors::Result,
    file::properties::{EnabledStatistics, WriterProperties},
};

/// Beyond it bytes fall by a hundredth and writing takes several times as long.
const LEVEL: i32 = 3;

/// The settings of an archive of batches of `schema`.
pub(super) fn properties(schema: &SchemaRef) -> Result<WriterProperties> {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(LEVEL)?))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        // Whoever opens a row group reads all of it, and nothing may lie between the last one and the footer.
        .set_offset_index_disabled(true)
        // A row group is one object, however many rows that has.
        .set_max_row_group_row_count(None);
    for column in ArrowSchemaConverter::new().convert(schema)?.columns() {
        let encoding = match column.physical_type() {
            Type::INT32 | Type::INT64 | Type::FLOAT => Encoding::BYTE_STREAM_SPLIT,
            _ => Encoding::PLAIN,
        };
        builder = builder.set_column_encoding(column.path().clone(), encoding);
    }
    Ok(builder.build())
}
