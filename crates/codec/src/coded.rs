//! What a top-k and draws have in common at level `compact`: two passes over the rows, the tables that all rows share, and how the
//! section of a row begins.

use crate::{
    DecodeError, Layout,
    bytes::{Reader, put_slice, put_varint},
    dictionary::{Dictionary, Ranks},
    expansion,
    fast::COUNTS,
    header::Header,
    model::{Counter, Sink, Writer, get_tables, put_tables},
    rans::Slots,
};

/// A column as symbols of so many contexts in so many streams.
pub(crate) trait Coded<const CONTEXTS: usize, const STREAMS: usize> {
    /// Hands over what row `row` consists of.
    fn walk(&self, ranks: &Ranks, row: usize, sink: &mut impl Sink);
}

/// The tables, and the section of each row; `layout` and `ids` are those of `column`.
pub(crate) fn encode<const CONTEXTS: usize, const STREAMS: usize>(
    column: &impl Coded<CONTEXTS, STREAMS>,
    layout: &Layout,
    ids: &[i32],
    header: &Header,
) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (ranks, mut tables) = Ranks::of(ids, header.vocabulary);
    let mut counter = Counter::<CONTEXTS>::new();
    (0..layout.rows()).for_each(|row| column.walk(&ranks, row, &mut counter));
    let counted = counter.tables();
    put_tables(&mut tables, &counted);
    let shares = counted.each_ref().map(|table| table.shares());
    let section = |row: usize| {
        let mut writer = Writer::<STREAMS>::new(&shares);
        column.walk(&ranks, row, &mut writer);
        let positions = layout.row(row);
        let entries = positions.clone().map(|t| layout.list(t).len()).sum::<usize>();
        let mut out = Vec::new();
        put_varint(&mut out, positions.len() as u32);
        put_varint(&mut out, entries as u32);
        writer.finish().iter().for_each(|stream| put_slice(&mut out, stream));
        expansion::pad(&mut out, COUNTS, positions.len().max(entries));
        out
    };
    let sections = (0..layout.rows()).map(section).collect();
    (tables, sections)
}

/// What all rows are decoded by.
#[derive(Clone, Debug)]
pub(crate) struct Tables<const CONTEXTS: usize> {
    pub dictionary: Dictionary,
    pub slots: [Box<Slots>; CONTEXTS],
}

impl<const CONTEXTS: usize> Tables<CONTEXTS> {
    pub fn get(mut reader: Reader<'_>, vocabulary: u32) -> Result<Self, DecodeError> {
        let tables = Self { dictionary: Dictionary::get(&mut reader, vocabulary)?, slots: get_tables(&mut reader)? };
        reader.end()?;
        Ok(tables)
    }
}

/// The positions and entries that a section says it holds, no more than its bytes may.
pub(crate) fn counts(section: &mut Reader<'_>) -> Result<(u32, u32), DecodeError> {
    let (positions, entries) = (section.varint()?, section.varint()?);
    expansion::check(section, "positions", positions)?;
    expansion::check(section, "entries", entries)?;
    Ok((positions, entries))
}
