//! Whatever columns a schema of ours can have, an archive gives them back bit for bit.

use super::file::{Layout, Writer};
use crate::ipc::Fault;
use arrow::{
    array::{ArrayRef, BinaryArray, Float32Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use bytes::Bytes;
use proptest::prelude::*;
use record::{
    Archive, Budget, Digest, ObjectRef,
    schema::{ROLLOUTS, SCHEMA_VERSION, SCORES, STEPS},
};
use std::sync::Arc;

/// A stream of numbers from a seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.0 >> 16
    }

    fn below(&mut self, n: u64) -> usize {
        (self.next() % n) as usize
    }

    /// Any value of the field's type: floats of any bits, empty and null lists, null text.
    fn array(&mut self, field: &Field, length: usize) -> ArrayRef {
        let nulls = field.is_nullable().then(|| match self.below(3) {
            0 => NullBuffer::new_null(length),
            _ => NullBuffer::from_iter((0..length).map(|_| self.below(2) == 0)),
        });
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        match field.data_type() {
            DataType::Int32 => {
                Arc::new(Int32Array::new((0..length).map(|_| self.next() as i32 >> self.below(31)).collect(), nulls))
            }
            DataType::Int64 => {
                Arc::new(Int64Array::new((0..length).map(|_| self.next() as i64 >> self.below(47)).collect(), nulls))
            }
            DataType::Float32 => {
                let values = (0..length).map(|_| match self.below(5) {
                    0 => [f32::NAN, -0.0, 0.0, f32::NEG_INFINITY, f32::MIN_POSITIVE][self.below(5)],
                    1 => f32::from_bits(self.next() as u32),
                    _ => -(self.below(4000) as f32) / 256.0,
                });
                Arc::new(Float32Array::new(values.collect(), nulls))
            }
            DataType::Utf8 => {
                let is_null = |i: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(i));
                let text = |i: usize, n: usize| (!is_null(i)).then(|| "wört-".repeat(n));
                Arc::new((0..length).map(|i| text(i, self.below(3))).collect::<StringArray>())
            }
            DataType::Binary => {
                let is_null = |i: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(i));
                let mut bytes = || -> Vec<u8> { (0..self.below(40)).map(|_| self.next() as u8).collect() };
                let values: Vec<Option<Vec<u8>>> = (0..length).map(|i| (!is_null(i)).then(&mut bytes)).collect();
                Arc::new(values.iter().map(Option::as_deref).collect::<BinaryArray>())
            }
            DataType::List(item) => {
                let lengths = (0..length).map(|i| match nulls.as_ref().is_some_and(|nulls| nulls.is_null(i)) {
                    true => 0,
                    false => self.below(4),
                });
                let offsets = OffsetBuffer::<i32>::from_lengths(lengths.collect::<Vec<_>>());
                let values = self.array(item, offsets[length] as usize);
                Arc::new(ListArray::new(item.clone(), offsets, values, nulls))
            }
            other => panic!("no schema of ours has {other}"),
        }
    }

    fn batch(&mut self, schema: &SchemaRef) -> RecordBatch {
        let rows = 1 + self.below(6);
        let columns = schema.fields().iter().map(|field| self.array(field, rows)).collect();
        RecordBatch::try_new(schema.clone(), columns).unwrap()
    }
}

/// A kind's schema as it is for packed columns, too.
fn packed(schema: &SchemaRef, groups: &[&str]) -> SchemaRef {
    let packed = groups.iter().map(|name| Arc::new(Field::new(*name, DataType::Binary, true)));
    let fields: Vec<_> = schema.fields().iter().cloned().chain(packed).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn written(batches: &[RecordBatch]) -> (Archive, Bytes) {
    let mut writer = Writer::new(&batches[0].schema()).unwrap();
    batches.iter().enumerate().for_each(|(i, batch)| writer.push(&i.to_string(), batch).unwrap());
    let (bytes, footer, moves) = writer.finish().unwrap();
    let object = ObjectRef { key: "a".into(), bytes: bytes.len() as u64, digest: Digest::of(&bytes) };
    let archive = Archive { object, footer, moves };
    archive.check().unwrap();
    (archive, bytes)
}

/// The footer of some archive.
pub(super) fn footer() -> Layout {
    let (archive, bytes) = written(&[Chance(1).batch(&STEPS)]);
    Layout::parse(&bytes[archive.footer_at() as usize..]).unwrap()
}

fn read(
    (archive, bytes): &(Archive, Bytes),
    row_group: usize,
    schema: &Schema,
    budget: &Budget,
) -> Result<RecordBatch, Fault> {
    let layout = Layout::parse(&bytes[archive.footer_at() as usize..]).unwrap();
    let (offset, of) = archive.row_groups().nth(row_group).unwrap();
    let part = bytes.slice(offset as usize..(offset + of.bytes) as usize);
    assert_eq!(Digest::of(&part), of.digest);
    layout.read(row_group, (offset, part), schema, budget)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn every_column_reads_back_as_it_was(seed: u64, count in 1..4_usize) {
        let mut chance = Chance(seed);
        let schemas = [
            (ROLLOUTS.clone(), ROLLOUTS.clone()),
            (packed(&ROLLOUTS, &["packed_draws", "packed_sampler_top"]), ROLLOUTS.clone()),
            (packed(&SCORES, &["packed_teacher_top", "packed_teacher_draws"]), SCORES.clone()),
            (STEPS.clone(), STEPS.clone()),
        ];
        for (schema, expected) in schemas {
            let batches: Vec<RecordBatch> = (0..count).map(|_| chance.batch(&schema)).collect();
            let file = written(&batches);
            for (i, batch) in batches.iter().enumerate() {
                prop_assert_eq!(&read(&file, i, &expected, &Budget::default()).unwrap(), batch);
                // What nothing is asked of is empty; the rest is as it was.
                let budget = Budget { draws: Some(0), teacher_top_k: Some(0), ..Budget::default() };
                let unread = record::unread(&schema, &budget);
                let some = read(&file, i, &expected, &budget).unwrap();
                for column in (0..batch.num_columns()).filter(|column| !unread.contains(column)) {
                    prop_assert_eq!(some.column(column), batch.column(column));
                }
                prop_assert_eq!((some.schema(), some.num_rows()), (batch.schema(), batch.num_rows()));
            }
        }
    }
}

#[test]
fn another_schema_a_newer_one_and_a_row_group_that_is_not_there_are_refused() {
    let file = written(&[Chance(1).batch(&STEPS)]);
    let Err(Fault::Malformed(said)) = read(&file, 0, &SCORES, &Budget::default()) else { panic!() };
    assert_eq!(said, "its schema is `steps`, not `scores`");
    let mut metadata = STEPS.metadata().clone();
    metadata.insert(SCHEMA_VERSION.into(), "99".into());
    let newer = Arc::new(STEPS.as_ref().clone().with_metadata(metadata));
    let newer = written(&[Chance(2).batch(&newer)]);
    assert!(matches!(read(&newer, 0, &STEPS, &Budget::default()), Err(Fault::Newer(found, _)) if found == "99"));
    let layout = Layout::parse(&file.1[file.0.footer_at() as usize..]).unwrap();
    let Err(Fault::Malformed(said)) = layout.read(7, (4, Bytes::new()), &STEPS, &Budget::default()) else { panic!() };
    assert_eq!(said, "it has 1 row groups, not 8");
    // A stretch that is not the row group's is found, not read past.
    assert!(matches!(layout.read(0, (0, Bytes::new()), &STEPS, &Budget::default()), Err(Fault::Malformed(_))));
    for footer in [&b""[..], b"PAR1", b"\xff\xff\xff\x7fPAR1", b"\x01\0\0\0PAR1"] {
        assert!(Layout::parse(footer).is_err());
    }
}
