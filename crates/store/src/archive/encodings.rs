//! How each column of an archive is encoded: chosen by measurement (docs/benchmarks.md, "Archives"), by what a column holds.

use arrow::datatypes::SchemaRef;
use parquet::{
    arrow::ArrowSchemaConverter,
    basic::{Compression, Encoding, Type, ZstdLevel},
    errors::Result,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnDescriptor,
};

/// Of zstd's levels the one beyond which bytes fall by less than a hundredth.
const LEVEL: i32 = 3;

/// What a column's values are encoded as, before they are compressed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Choice {
    Dictionary,
    As(Encoding),
}

fn choice(column: &ColumnDescriptor) -> Choice {
    match column.physical_type() {
        // Bytes of a number side by side: exponents resemble each other, mantissas do not.
        Type::FLOAT => Choice::As(Encoding::BYTE_STREAM_SPLIT),
        // Text is the same in all rows, or nearly.
        Type::BYTE_ARRAY if column.name().starts_with("packed_") => Choice::As(Encoding::PLAIN),
        _ => Choice::Dictionary,
    }
}

/// The settings of an archive of batches of `schema`.
pub(super) fn properties(schema: &SchemaRef) -> Result<WriterProperties> {
    let parquet = ArrowSchemaConverter::new().convert(schema)?;
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(LEVEL)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        // Whoever opens a row group reads all of it, and nothing may lie between the last one and the footer.
        .set_offset_index_disabled(true)
        // A row group is one object, however many rows that has.
        .set_max_row_group_row_count(None);
    for column in parquet.columns() {
        let path = column.path().clone();
        builder = match choice(column) {
            Choice::Dictionary => builder.set_column_dictionary_enabled(path, true),
            Choice::As(encoding) => {
                builder.set_column_dictionary_enabled(path.clone(), false).set_column_encoding(path, encoding)
            }
        };
    }
    Ok(builder.build())
}
