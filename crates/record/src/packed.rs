//! Groups of columns packed into one by `codec`, as a batch lies in its file. Whoever reads a batch sees plain columns.
//!
//! A group's packed column stands behind the schema's own columns. Its first row has the value for all rows, the others are null, and the
//! plain columns of the group hold empty lists.

use crate::{Budget, RecordError, schema::item_field};
use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, ListArray, PrimitiveArray, RecordBatch},
    buffer::{OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Field, Float32Type, Int32Type, Schema},
};
use codec::{
    DrawColumn, EncodeError, Layout, Level, PackedDraws, PackedTop, TopColumn, encode_draws, encode_top, truncate,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};

/// What the name of a packed column begins with.
const PREFIX: &str = "packed_";

/// Columns that are packed together: ids, log-probabilities and a third.
pub(crate) struct Group {
    name: &'static str,
    ids: &'static str,
    logprobs: &'static str,
    third: Third,
    /// A plain column of the same batch that has an entry a position.
    along: &'static str,
    /// How much of the group a reader takes up.
    limit: fn(&Budget) -> Option<u32>,
}

/// Tails, one a position, or counts, one an entry.
#[derive(Clone, Copy)]
enum Third {
    Tails(&'static str),
    Counts(&'static str),
}

pub(crate) const DRAWS: Group = Group {
    name: "packed_draws",
    ids: "draw_ids",
    logprobs: "draw_logprobs",
    third: Third::Counts("draw_counts"),
    along: "response_ids",
    limit: |budget| budget.draws,
};
const SAMPLER_TOP: Group = Group {
    name: "packed_sampler_top",
    ids: "sampler_top_ids",
    logprobs: "sampler_top_logprobs",
    third: Third::Tails("sampler_tail_logprobs"),
    along: "response_ids",
    limit: |budget| budget.sampler_top_k,
};
const TEACHER_TOP: Group = Group {
    name: "packed_teacher_top",
    ids: "teacher_top_ids",
    logprobs: "teacher_top_logprobs",
    third: Third::Tails("teacher_tail_logprobs"),
    along: "teacher_logprobs",
    limit: |budget| budget.teacher_top_k,
};
pub(crate) const TEACHER_DRAWS: Group = Group {
    name: "packed_teacher_draws",
    ids: "teacher_draw_ids",
    logprobs: "teacher_draw_logprobs",
    third: Third::Counts("teacher_draw_counts"),
    along: "teacher_logprobs",
    limit: |budget| budget.teacher_draws,
};
pub(crate) const GROUPS: [Group; 4] = [DRAWS, SAMPLER_TOP, TEACHER_TOP, TEACHER_DRAWS];

/// How columns of a batch are packed: a level of `docs/codec.md`, or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all: read without a copy.
    #[default]
    Plain,
    /// Every bit, fewer bytes.
    Lossless,
    /// Rounded; quick to read.
    Fast,
    /// Rounded; the fewest bytes.
    Compact,
}

impl Codec {
    /// Each, the one of the fewest bytes last.
    pub const ALL: [Self; 4] = [Codec::Plain, Codec::Lossless, Codec::Fast, Codec::Compact];

    /// Its word in a score set.
    pub fn as_str(self) -> &'static str {
        self.level().map_or("plain", Level::name)
    }

    /// The codec of that word.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.as_str() == name)
    }

    /// Whether it rounds log-probabilities of a top-k.
    pub fn rounds(self) -> bool {
        matches!(self, Codec::Fast | Codec::Compact)
    }

    fn level(self) -> Option<Level> {
        match self {
            Codec::Plain => None,
            Codec::Lossless => Some(Level::Lossless),
            Codec::Fast => Some(Level::Fast),
            Codec::Compact => Some(Level::Compact),
        }
    }
}

/// What packing a batch gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packing {
    /// Bytes of the packed columns.
    pub bytes: u64,
    /// Entries in them: ids with their log-probability.
    pub entries: u64,
    /// Positions of their top-k that are not empty.
    pub positions: u64,
    /// Mean over those of KL(as scored || as it will be read), nats.
    pub kl: f64,
}

impl Packing {
    /// Of both together.
    pub fn and(&self, other: &Self) -> Self {
        let positions = self.positions + other.positions;
        let nats = self.kl * self.positions as f64 + other.kl * other.positions as f64;
        let kl = if positions > 0 { nats / positions as f64 } else { 0.0 };
        Self { bytes: self.bytes + other.bytes, entries: self.entries + other.entries, positions, kl }
    }
}

/// `batch` as it lies in its file, ids being below `vocabulary`; `plain` changes nothing.
///
/// # Errors
/// [`RecordError::Row`] with the first entry that the level refuses.
pub fn pack(batch: &RecordBatch, codec: Codec, vocabulary: u32) -> Result<(RecordBatch, Packing), RecordError> {
    let Some(level) = codec.level() else { return Ok((batch.clone(), Packing::default())) };
    let schema = batch.schema();
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    let mut packing = Packing::default();
    let mut lost = 0.0;
    for group in &GROUPS {
        let Some(plain) = Plain::of(batch, group)? else { continue };
        let refused = |error| refusal(error, group);
        let bytes = match &plain {
            Plain::Top(column) => {
                let bytes = encode_top(column, level, vocabulary).map_err(refused)?;
                let read = PackedTop::parse(&bytes).and_then(|packed| packed.decode(usize::MAX));
                lost +=
                    codec::divergence(column, &read.map_err(|error| damaged(group.name, error))?).iter().sum::<f64>();
                let lists = (0..column.layout.positions()).filter(|t| !column.layout.list(*t).is_empty());
                packing.positions += lists.count() as u64;
                bytes
            }
            Plain::Draws(column) => encode_draws(column, level, vocabulary).map_err(refused)?,
        };
        packing.bytes += bytes.len() as u64;
        packing.entries += plain.layout().entries() as u64;
        for name in group.columns() {
            let at = schema.index_of(name)?;
            columns[at] = empty_lists(schema.field(at).data_type(), batch.num_rows());
        }
        let mut values = vec![None; batch.num_rows()];
        values[0] = Some(bytes.as_slice());
        fields.push(Arc::new(Field::new(group.name, DataType::Binary, true)));
        columns.push(Arc::new(BinaryArray::from_opt_vec(values)));
    }
    if packing.positions > 0 {
        packing.kl = lost / packing.positions as f64;
    }
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    Ok((RecordBatch::try_new(Arc::new(schema), columns)?, packing))
}

/// `batch` with plain columns, whatever it was packed by.
///
/// # Errors
/// [`RecordError::Packed`] if a packed column is damaged, [`RecordError::Schema`] if it does not fit the batch.
pub fn unpack(batch: RecordBatch) -> Result<RecordBatch, RecordError> {
    unpack_within(batch, &Budget::default())
}

/// `batch` with plain columns, of which no more is decoded than `budget` asks for: lists of a top-k are cut, and what is not wanted at all
/// is empty lists, or null where the schema allows it. Draws of which some are wanted are all there: [`crate::ScoredBatch::zip_within`]
/// thins them.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_within(batch: RecordBatch, budget: &Budget) -> Result<RecordBatch, RecordError> {
    let schema = batch.schema();
    let is_packed = schema.fields().iter().any(|field| field.name().starts_with(PREFIX));
    if !is_packed && *budget == Budget::default() {
        return Ok(batch);
    }
    let budget = budget.of(&batch);
    let mut columns = batch.columns().to_vec();
    for group in &GROUPS {
        let packed = batch.column_by_name(group.name);
        let Some(plain) = group.read(&batch, packed, (group.limit)(&budget))? else { continue };
        for (name, column) in group.columns().into_iter().zip(plain) {
            if column.len() != batch.num_rows() {
                return Err(group.differs(format!("{} rows", batch.num_rows()), column.len().to_string()));
            }
            let at = columns.get_mut(schema.index_of(name)?);
            *at.ok_or_else(|| group.differs(format!("`{name}` beside it"), "no such column".into()))? = column;
        }
    }
    let kept: Vec<usize> = (0..columns.len()).filter(|i| !schema.field(*i).name().starts_with(PREFIX)).collect();
    let batch = RecordBatch::try_new(schema, columns)?;
    Ok(batch.project(&kept)?)
}

/// The columns of a file that have to be read for those called `columns`, however the file is packed.
pub fn stored_columns(columns: &[String]) -> BTreeSet<String> {
    let is_wanted = |name: &str| columns.iter().any(|column| column == name);
    let groups = GROUPS.iter().filter(|group| group.columns().into_iter().any(is_wanted));
    let of_groups = groups.flat_map(|group| group.columns().into_iter().chain([group.name, group.along]));
    columns.iter().cloned().chain(of_groups.map(str::to_string)).collect()
}

/// The plain columns of a group, as the codec takes them.
pub(crate) enum Plain {
    Top(TopColumn),
    Draws(DrawColumn),
}

impl Plain {
    /// `None` where the batch does not have the group, or nothing in it.
    pub fn of(batch: &RecordBatch, group: &Group) -> Result<Option<Self>, RecordError> {
        let array = |name: &str| batch.column_by_name(name).filter(|array| array.null_count() == 0);
        let Some((ids, logprobs)) = array(group.ids).zip(array(group.logprobs)) else { return Ok(None) };
        let (layout, ids) = nested::<Int32Type>(ids, group.ids)?;
        if ids.is_empty() {
            return Ok(None);
        }
        let same_layout = |name: &'static str, found: &Layout| match *found == layout {
            true => Ok(()),
            false => Err(RecordError::Schema {
                what: format!("column `{name}`"),
                expected: format!("the lengths of `{}`", group.ids),
                found: "others".into(),
            }),
        };
        let (of_logprobs, logprobs) = nested::<Float32Type>(logprobs, group.logprobs)?;
        same_layout(group.logprobs, &of_logprobs)?;
        Ok(Some(match group.third {
            Third::Tails(name) => {
                let array = array(name).and_then(|array| array.as_list_opt::<i32>());
                let tails = array.ok_or_else(|| wrong_type(name))?;
                let values = tails.values().as_primitive_opt::<Float32Type>().ok_or_else(|| wrong_type(name))?;
                let range = ends(tails.offsets());
                Plain::Top(TopColumn { layout, ids, logprobs, tails: values.values()[range].to_vec() })
            }
            Third::Counts(name) => {
                let (of_counts, counts) = nested::<Int32Type>(array(name).ok_or_else(|| wrong_type(name))?, name)?;
                same_layout(name, &of_counts)?;
                Plain::Draws(DrawColumn { layout, ids, counts, logprobs })
            }
        }))
    }

    fn layout(&self) -> &Layout {
        match self {
            Plain::Top(column) => &column.layout,
            Plain::Draws(column) => &column.layout,
        }
    }
}

impl Group {
    /// Ids, log-probabilities, tails or counts.
    pub(crate) fn columns(&self) -> [&'static str; 3] {
        let (Third::Tails(third) | Third::Counts(third)) = self.third;
        [self.ids, self.logprobs, third]
    }

    /// The columns that hold it in a file: those, and the packed one.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.columns().into_iter().chain([self.name])
    }

    /// Whether `budget` asks for nothing of it.
    pub(crate) fn is_left_out(&self, budget: &Budget) -> bool {
        (self.limit)(budget) == Some(0)
    }

    /// What `limit` leaves of the group in `batch`, where it is packed; `None` where the plain columns are to stay as they are.
    fn read(
        &self,
        batch: &RecordBatch,
        packed: Option<&ArrayRef>,
        limit: Option<u32>,
    ) -> Result<Option<[ArrayRef; 3]>, RecordError> {
        let keep = limit.map_or(usize::MAX, |limit| limit as usize);
        match packed {
            _ if limit == Some(0) && batch.column_by_name(self.ids).is_some() => self.nothing(batch).map(Some),
            Some(packed) => {
                let packed = packed.as_binary_opt::<i32>();
                let packed = packed.ok_or_else(|| self.differs("binary".into(), "another type".into()))?;
                if packed.is_empty() || packed.is_null(0) {
                    return Err(self.differs("a value in the first row".into(), "none".into()));
                }
                self.decode(packed.value(0), keep).map(Some).map_err(|error| damaged(self.name, error))
            }
            None if limit.is_none() => Ok(None),
            None => Ok(match Plain::of(batch, self)? {
                Some(Plain::Top(column)) if column.layout.longest() > keep => {
                    let (positions, tails) = (column.layout.positions(), column.tails.len());
                    if tails != positions {
                        let [.., third] = self.columns();
                        let (expected, found) = (format!("{positions} tails, one a position"), tails.to_string());
                        return Err(RecordError::Schema { what: format!("column `{third}`"), expected, found });
                    }
                    Some(top_arrays(truncate(column, keep)))
                }
                _ => None,
            }),
        }
    }

    /// The group's plain columns, in the order of [`Group::columns`], with the first `keep` entries of each list of a top-k.
    fn decode(&self, bytes: &[u8], keep: usize) -> Result<[ArrayRef; 3], codec::DecodeError> {
        Ok(match self.third {
            Third::Tails(_) => top_arrays(PackedTop::parse(bytes)?.decode(keep)?),
            Third::Counts(_) => draw_arrays(PackedDraws::parse(bytes)?.decode()?),
        })
    }

    /// The group's plain columns without any entry: all of the mass is in the tail, or nothing was drawn.
    fn nothing(&self, batch: &RecordBatch) -> Result<[ArrayRef; 3], RecordError> {
        let schema = batch.schema();
        let [ids, ..] = self.columns();
        if schema.field(schema.index_of(ids)?).is_nullable() {
            let null = |name: &str| -> Result<ArrayRef, RecordError> {
                let data_type = schema.field(schema.index_of(name)?).data_type();
                Ok(arrow::array::new_null_array(data_type, batch.num_rows()))
            };
            let [a, b, c] = self.columns();
            return Ok([null(a)?, null(b)?, null(c)?]);
        }
        let along = batch.column_by_name(self.along).and_then(|array| array.as_list_opt::<i32>());
        let layout = empty_layout(along.ok_or_else(|| wrong_type(self.along))?.offsets());
        Ok(match self.third {
            Third::Tails(_) => {
                let tails = vec![0.0; layout.positions()];
                top_arrays(TopColumn { layout, ids: vec![], logprobs: vec![], tails })
            }
            Third::Counts(_) => draw_arrays(DrawColumn { layout, ids: vec![], counts: vec![], logprobs: vec![] }),
        })
    }

    fn differs(&self, expected: String, found: String) -> RecordError {
        RecordError::Schema { what: format!("column `{}`", self.name), expected, found }
    }
}

/// Columns of a top-k, in the order of [`Group::columns`].
pub(crate) fn top_arrays(column: TopColumn) -> [ArrayRef; 3] {
    let TopColumn { layout, ids, logprobs, tails } = column;
    let tails = wrap(offsets(layout.offsets().0), primitive::<Float32Type>(tails));
    [lists::<Int32Type>(&layout, ids), lists::<Float32Type>(&layout, logprobs), tails]
}

/// Columns of draws, in the order of [`Group::columns`].
pub(crate) fn draw_arrays(column: DrawColumn) -> [ArrayRef; 3] {
    let DrawColumn { layout, ids, counts, logprobs } = column;
    let counts = lists::<Int32Type>(&layout, counts);
    [lists::<Int32Type>(&layout, ids), lists::<Float32Type>(&layout, logprobs), counts]
}

/// As many rows of as many positions as `offsets` say, with empty lists.
fn empty_layout(offsets: &OffsetBuffer<i32>) -> Layout {
    let mut layout = Layout::new();
    for row in offsets.windows(2) {
        (row[0]..row[1]).for_each(|_| layout.push_list(0));
        layout.end_row();
    }
    layout
}

fn ends(offsets: &OffsetBuffer<i32>) -> std::ops::Range<usize> {
    offsets[0] as usize..offsets[offsets.len() - 1] as usize
}

/// The layout and the values of a `list<list<T>>` column.
pub(crate) fn nested<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    name: &str,
) -> Result<(Layout, Vec<T::Native>), RecordError> {
    let outer = array.as_list_opt::<i32>().ok_or_else(|| wrong_type(name))?;
    let inner = outer.values().as_list_opt::<i32>().ok_or_else(|| wrong_type(name))?;
    let values = inner.values().as_primitive_opt::<T>().ok_or_else(|| wrong_type(name))?;
    let mut layout = Layout::new();
    for row in outer.offsets().windows(2) {
        for list in inner.offsets()[row[0] as usize..=row[1] as usize].windows(2) {
            layout.push_list((list[1] - list[0]) as usize);
        }
        layout.end_row();
    }
    let positions = ends(outer.offsets());
    let (first, last) = (inner.offsets()[positions.start] as usize, inner.offsets()[positions.end] as usize);
    Ok((layout, values.values()[first..last].to_vec()))
}

fn primitive<T: ArrowPrimitiveType>(values: Vec<T::Native>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(values.into(), None))
}

/// Decoded columns have at most 2^31 - 1 positions and entries.
fn offsets(offsets: &[u32]) -> OffsetBuffer<i32> {
    OffsetBuffer::new(offsets.iter().map(|offset| *offset as i32).collect::<ScalarBuffer<i32>>())
}

fn wrap(offsets: OffsetBuffer<i32>, values: ArrayRef) -> ArrayRef {
    Arc::new(ListArray::new(item_field(values.data_type().clone()), offsets, values, None))
}

fn lists<T: ArrowPrimitiveType>(layout: &Layout, values: Vec<T::Native>) -> ArrayRef {
    let (rows, lists) = layout.offsets();
    wrap(offsets(rows), wrap(offsets(lists), primitive::<T>(values)))
}

/// A list column of `rows` empty lists; nulls of another type.
pub(crate) fn empty_lists(list: &DataType, rows: usize) -> ArrayRef {
    let DataType::List(item) = list else { return arrow::array::new_null_array(list, rows) };
    let values = arrow::array::new_empty_array(item.data_type());
    Arc::new(ListArray::new(item.clone(), OffsetBuffer::new_zeroed(rows), values, None))
}

pub(crate) fn wrong_type(name: &str) -> RecordError {
    RecordError::Schema {
        what: format!("column `{name}`"),
        expected: "its schema's type, without nulls".into(),
        found: "another".into(),
    }
}

fn damaged(column: &'static str, error: codec::DecodeError) -> RecordError {
    RecordError::Packed { column, error }
}

/// A refusal in the words of the group's columns.
fn refusal(error: EncodeError, group: &Group) -> RecordError {
    let column = |part: &str| {
        let [ids, logprobs, third] = group.columns();
        match part {
            "ids" => ids,
            "logprobs" => logprobs,
            _ => third,
        }
    };
    match error {
        EncodeError::Entry { row, position, column: part, expected, found } => {
            RecordError::Row { row, column: column(part), expected, found: format!("{found} at position {position}") }
        }
        EncodeError::Shape { what, expected, found } => {
            RecordError::Schema { what: format!("{what} of `{}`", group.ids), expected, found }
        }
    }
}
