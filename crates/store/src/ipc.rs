//! Record batches as Arrow IPC files: written uncompressed, read without a copy, and never trusted.
//!
//! arrow's own reader panics on some malformed files. What it takes for granted is checked here first: the columns have
//! only types that a schema of ours can have, and every length and offset lies within the file.

use arrow::{
    array::RecordBatch,
    buffer::Buffer,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    ipc::{
        self, Block, CompressionType, MessageHeader, Precision,
        convert::fb_to_schema,
        reader::{FileDecoder, read_footer_length},
        writer::{FileWriter, IpcWriteOptions},
    },
};
use bytes::Bytes;
use record::schema::{SCHEMA_NAME, SCHEMA_VERSION};
use std::sync::Arc;

const MAGIC: &[u8; 6] = b"ARROW1";
const CONTINUATION: [u8; 4] = [0xff; 4];
/// The footer's length and the magic word.
const TRAILER: usize = 10;
/// How deep lists may lie in lists; ours are two deep.
const DEPTH: usize = 4;

/// Why a file was not read.
#[derive(Debug, PartialEq)]
pub(crate) enum Fault {
    /// It is no such file, or a damaged one.
    Malformed(String),
    /// Its schema is of a later version: (its version, the newest that is known).
    Newer(String, String),
}

impl From<ArrowError> for Fault {
    fn from(error: ArrowError) -> Self {
        Fault::Malformed(error.to_string())
    }
}

fn malformed(what: &str) -> Fault {
    Fault::Malformed(what.into())
}

/// `batch` as an IPC file of one record batch.
pub(crate) fn encode(batch: &RecordBatch) -> Result<Bytes, ArrowError> {
    let size: usize = batch.columns().iter().map(|column| column.get_array_memory_size()).sum();
    let mut writer =
        FileWriter::try_new_with_options(Vec::with_capacity(size + 8192), &batch.schema(), IpcWriteOptions::default())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?.into())
}

/// The record batch of an IPC file that follows `expected`, as views into `bytes`: the columns alone whose names are `wanted`. The values
/// of others are not looked at.
pub(crate) fn decode(bytes: Bytes, expected: &SchemaRef, wanted: impl Fn(&str) -> bool) -> Result<RecordBatch, Fault> {
    let file = Buffer::from(bytes);
    if file.len() < 8 + TRAILER || !file.starts_with(MAGIC) {
        return Err(malformed("it is not an Arrow file"));
    }
    let trailer = file.len() - TRAILER;
    let footer_length = read_footer_length(fixed(&file[trailer..]))?;
    let footer_start =
        trailer.checked_sub(footer_length).ok_or_else(|| malformed("its footer is longer than the file"))?;
    let footer = ipc::root_as_footer(&file[footer_start..trailer])
        .map_err(|error| Fault::Malformed(format!("its footer is damaged: {error}")))?;
    let schema = footer.schema().ok_or_else(|| malformed("it has no schema"))?;
    let of = |wanted: &str| {
        let entries = schema.custom_metadata()?;
        entries.iter().find(|entry| entry.key() == Some(wanted))?.value()
    };
    check_name(of(SCHEMA_NAME).unwrap_or_default(), of(SCHEMA_VERSION).unwrap_or_default(), expected)?;
    let (mut layout, mut projection) = (Vec::new(), Vec::new());
    for (i, field) in schema.fields().ok_or_else(|| malformed("its schema has no columns"))?.iter().enumerate() {
        check_type(&field, DEPTH, &mut layout)?;
        if field.name().is_some_and(&wanted) {
            projection.push(i);
        }
    }
    if footer.dictionaries().is_some_and(|dictionaries| !dictionaries.is_empty()) {
        return Err(malformed("it has dictionaries"));
    }
    let blocks = footer.recordBatches().ok_or_else(|| malformed("it has no record batch"))?;
    if blocks.len() != 1 {
        return Err(Fault::Malformed(format!("it has {} record batches, not 1", blocks.len())));
    }
    let block = blocks.get(0);
    let data = cut(&file, block, footer_start)?;
    check_message(&data, block, &layout)?;
    let decoder = FileDecoder::new(Arc::new(fb_to_schema(schema)), footer.version()).with_projection(projection);
    decoder.read_record_batch(block, &data)?.ok_or_else(|| malformed("its record batch is empty"))
}

/// Checks a file's schema name, and that its version is not newer than ours.
pub(crate) fn check_name(name: &str, version: &str, expected: &Schema) -> Result<(), Fault> {
    let ours = |key: &str| expected.metadata().get(key).cloned().unwrap_or_default();
    if name != ours(SCHEMA_NAME) {
        return Err(Fault::Malformed(format!("its schema is `{name}`, not `{}`", ours(SCHEMA_NAME))));
    }
    match (version.parse::<u32>(), ours(SCHEMA_VERSION).parse::<u32>()) {
        (Ok(theirs), Ok(newest)) if theirs > newest => Err(Fault::Newer(version.into(), newest.to_string())),
        (Ok(_), _) => Ok(()),
        (Err(_), _) => Err(Fault::Malformed(format!("its schema version is `{version}`"))),
    }
}

/// How a node of a column lies in a record batch: validity bits, then a buffer of values or offsets, then perhaps text.
struct Node {
    buffers: usize,
    /// Bytes of an element of the second buffer.
    width: i64,
}

/// Checks that a column's type is one that a schema of ours can have, and adds its nodes, outer first, to `layout`.
fn check_type(field: &ipc::Field<'_>, depth: usize, layout: &mut Vec<Node>) -> Result<(), Fault> {
    let name = field.name().ok_or_else(|| malformed("a column has no name"))?;
    let foreign = || Fault::Malformed(format!("column `{name}` has a type that no schema here has"));
    if field.dictionary().is_some() {
        return Err(foreign());
    }
    let int = field.type_as_int().filter(|int| matches!(int.bitWidth(), 32 | 64) && int.is_signed());
    let float = field.type_as_floating_point().filter(|float| float.precision() == Precision::SINGLE);
    match field.type_type() {
        ipc::Type::Int => {
            let width = i64::from(int.ok_or_else(foreign)?.bitWidth() / 8);
            layout.push(Node { buffers: 2, width });
        }
        ipc::Type::FloatingPoint if float.is_some() => layout.push(Node { buffers: 2, width: 4 }),
        ipc::Type::Utf8 | ipc::Type::Binary => layout.push(Node { buffers: 3, width: 4 }),
        ipc::Type::List if depth > 0 && field.children().is_some_and(|items| items.len() == 1) => {
            layout.push(Node { buffers: 2, width: 4 });
            let items = field.children().ok_or_else(foreign)?;
            check_type(&items.get(0), depth - 1, layout)?;
        }
        _ => return Err(foreign()),
    }
    Ok(())
}

/// The bytes of a block, which must lie before the footer.
fn cut(file: &Buffer, block: &Block, footer_start: usize) -> Result<Buffer, Fault> {
    let outside = || malformed("its record batch lies outside the file");
    let size = |value: i64| usize::try_from(value).map_err(|_| outside());
    let (offset, metadata) = (size(block.offset())?, size(i64::from(block.metaDataLength()))?);
    let length = metadata.checked_add(size(block.bodyLength())?).ok_or_else(outside)?;
    if metadata < 8 || offset.checked_add(length).is_none_or(|end| end > footer_start) {
        return Err(outside());
    }
    Ok(file.slice_with_length(offset, length))
}

fn check_message(data: &Buffer, block: &Block, layout: &[Node]) -> Result<(), Fault> {
    // Not negative, and no longer than `data`: `cut` has seen to it.
    let (metadata, body) = (block.metaDataLength() as usize, block.bodyLength());
    let start = if data[..4] == CONTINUATION { 8 } else { 4 };
    let message = ipc::root_as_message(&data[start..metadata])
        .map_err(|error| Fault::Malformed(format!("its record batch is damaged: {error}")))?;
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        _ => None,
    };
    let batch = batch.ok_or_else(|| malformed("its block is not a record batch"))?;
    if let Some(compression) = batch.compression() {
        let codec = if compression.codec() == CompressionType::ZSTD { "zstd" } else { "lz4" };
        return Err(Fault::Malformed(format!("it is compressed ({codec}); batches are stored uncompressed")));
    }
    let within = |length: i64| (0..=body).contains(&length);
    if !within(batch.length()) || batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty()) {
        return Err(malformed("its record batch has an impossible length"));
    }
    let (Some(nodes), Some(buffers)) = (batch.nodes(), batch.buffers()) else {
        return Err(malformed("its record batch has no columns"));
    };
    if nodes.len() != layout.len() || buffers.len() != layout.iter().map(|node| node.buffers).sum::<usize>() {
        return Err(malformed("its columns are not those of its schema"));
    }
    let inside = |buffer: &ipc::Buffer| {
        let end = buffer.offset().checked_add(buffer.length());
        buffer.offset() >= 0 && buffer.length() >= 0 && end.is_some_and(within)
    };
    if !buffers.iter().all(inside) {
        return Err(malformed("a column lies outside the record batch"));
    }
    let mut first = 0;
    for (node, Node { buffers: count, width }) in nodes.iter().zip(layout) {
        // A value of any type we know takes at least a byte of the body, so a greater length is a lie.
        if !within(node.length()) || !(0..=node.length()).contains(&node.null_count()) {
            return Err(malformed("a column has an impossible length"));
        }
        let validity = buffers.get(first).length();
        if node.null_count() > 0 && node.length() > validity.saturating_mul(8) {
            return Err(malformed("a column has fewer validity bits than values"));
        }
        if buffers.get(first + 1).length() % width != 0 {
            return Err(malformed("a column ends in half a value"));
        }
        first += count;
    }
    Ok(())
}

/// The first `N` bytes of a slice that has them.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use record::{
        Finish, NewRollout, PolicyVersion, Ragged, RolloutBatch, RolloutBatchInfo, Sample,
        schema::{ROLLOUTS, SCORES},
    };
    use std::sync::LazyLock;

    static FILE: LazyLock<Bytes> = LazyLock::new(|| encode(batch().as_record_batch()).unwrap());

    fn batch() -> RolloutBatch {
        let rows: Vec<NewRollout> = (0..3).map(rollout).collect();
        let info = RolloutBatchInfo {
            batch: "u1-x".into(),
            policy_version: PolicyVersion(3),
            teacher_id: "teacher".into(),
            temperature: 1.0,
            top_p: 1.0,
            started_at: 1,
            finished_at: 2,
        };
        RolloutBatch::encode(&info, &rows).unwrap()
    }

    fn rollout(i: u32) -> NewRollout {
        let n = 2 + i as usize;
        let each = |value: f32| (0..n).map(|_| [value]).collect::<Ragged<f32>>();
        let sample = Sample {
            response_ids: vec![5; n],
            sampler_logprobs: vec![-0.5; n],
            draw_ids: (0..n).map(|_| [5]).collect(),
            draws_taken: None,
            draw_counts: (0..n).map(|_| [1]).collect(),
            draw_logprobs: each(-0.5),
            sampler_top_ids: (0..n).map(|_| [5]).collect(),
            sampler_top_logprobs: each(-0.5),
            sampler_tail_logprobs: vec![-1.0; n],
            finish: Some(Finish::Stop),
        };
        let (prompt_ids, source) = (vec![1, 2, 3], "arith".into());
        NewRollout { unit: 1, prompt_id: 9, sample_index: i, source, prompt_ids, seed: 7, sample }
    }

    fn whole(bytes: Bytes, expected: &SchemaRef) -> Result<RecordBatch, Fault> {
        decode(bytes, expected, |_| true)
    }

    fn fault(bytes: &[u8]) -> String {
        match whole(Bytes::copy_from_slice(bytes), &ROLLOUTS) {
            Err(Fault::Malformed(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_batch_reads_back_without_a_copy() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::write(&path, &*FILE).unwrap();
        let (file, _) = crate::object::map(&path).unwrap();
        let range = file.as_ptr_range();
        let decoded = whole(file.clone(), &ROLLOUTS).unwrap();
        assert_eq!(&decoded, batch().as_record_batch());
        for column in decoded.columns() {
            for buffer in column.to_data().buffers().iter().filter(|buffer| !buffer.is_empty()) {
                assert!(range.contains(&buffer.as_ptr()), "{}", column.data_type());
            }
        }
    }

    #[test]
    fn columns_that_are_not_wanted_are_not_looked_at() {
        let of = |bytes: Bytes, wanted: &[&str]| decode(bytes, &ROLLOUTS, |name| wanted.contains(&name));
        let wanted = ["unit", "response_ids"];
        let whole = batch();
        let columns: Vec<usize> = wanted.iter().map(|name| ROLLOUTS.index_of(name).unwrap()).collect();
        assert_eq!(of(FILE.clone(), &wanted).unwrap(), whole.as_record_batch().project(&columns).unwrap());
        assert_eq!(of(FILE.clone(), &[]).unwrap().num_rows(), 3);
        // The bytes of `source` are text no more, which only a reader of `source` finds.
        let mut bytes = FILE.to_vec();
        let at = bytes.windows(15).position(|text| text == b"aritharitharith").unwrap();
        bytes[at] = 0xff;
        let damaged = Bytes::from(bytes);
        assert!(of(damaged.clone(), &wanted).is_ok());
        assert!(matches!(of(damaged, &["source"]), Err(Fault::Malformed(reason)) if reason.contains("UTF8")));
    }

    #[test]
    fn a_file_cut_short_is_refused_at_every_length() {
        for length in 0..FILE.len() {
            assert!(!fault(&FILE[..length]).is_empty(), "{length}");
        }
    }

    #[test]
    fn another_schema_and_a_newer_version_are_told_apart() {
        let Err(Fault::Malformed(reason)) = whole(FILE.clone(), &SCORES) else { panic!() };
        assert_eq!(reason, "its schema is `rollouts`, not `scores`");
        let (columns, schema) = (batch().as_record_batch().columns().to_vec(), ROLLOUTS.as_ref().clone());
        let mut metadata = schema.metadata.clone();
        metadata.insert(SCHEMA_VERSION.into(), "99".into());
        let newer = RecordBatch::try_new(Arc::new(schema.with_metadata(metadata)), columns).unwrap();
        assert_eq!(whole(encode(&newer).unwrap(), &ROLLOUTS), Err(Fault::Newer("99".into(), "2".into())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// The digest finds damage before this is reached; here nothing but an error may come of it all the same.
        #[test]
        fn no_damage_makes_the_reader_panic(flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4)) {
            let mut bytes = FILE.to_vec();
            for (at, mask) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }
            if let Ok(batch) = whole(bytes.into(), &ROLLOUTS) {
                let _ = RolloutBatch::try_new(batch);
            }
        }

        /// Most of a file is values; the structure is where a reader goes wrong.
        #[test]
        fn no_damage_to_the_structure_makes_the_reader_panic(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..3),
            footer: bool,
        ) {
            let mut bytes = FILE.to_vec();
            let footer_length = read_footer_length(fixed(&bytes[bytes.len() - TRAILER..])).unwrap();
            let range = if footer { bytes.len() - TRAILER - footer_length..bytes.len() } else { message_range(&bytes) };
            for (at, mask) in flips {
                bytes[range.start + at.index(range.len())] ^= mask;
            }
            if let Ok(batch) = whole(bytes.into(), &ROLLOUTS) {
                let _ = RolloutBatch::try_new(batch);
            }
        }
    }

    fn message_range(bytes: &[u8]) -> std::ops::Range<usize> {
        let trailer = bytes.len() - TRAILER;
        let footer_length = read_footer_length(fixed(&bytes[trailer..])).unwrap();
        let footer = ipc::root_as_footer(&bytes[trailer - footer_length..trailer]).unwrap();
        let block = *footer.recordBatches().unwrap().get(0);
        block.offset() as usize..block.offset() as usize + block.metaDataLength() as usize
    }
}
