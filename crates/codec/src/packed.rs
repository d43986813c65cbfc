//! Packing a column, and taking it out again: whole, row by row, or as much of it as is wanted.

use crate::{
    DecodeError, DrawColumn, EncodeError, Header, Level, TopColumn, budget, coded, compact, draws, fast,
    header::{Kind, Parts, describe},
    lossless, values,
};

/// Packs `column`, whose ids are below `vocabulary`.
///
/// # Errors
/// [`EncodeError`] with the first entry that may not be in a packed column. `lossless` takes any floats; the other levels take
/// log-probabilities in rank order whose masses add up to 1 with their tail.
pub fn encode_top(column: &TopColumn, level: Level, vocabulary: u32) -> Result<Vec<u8>, EncodeError> {
    column.check(level, vocabulary)?;
    let steps = match level {
        Level::Lossless => 0,
        Level::Fast => 128,
        Level::Compact => values::COMPACT_STEPS as u16,
    };
    let header = describe(&column.layout, level, vocabulary, steps);
    let (tables, sections) = match level {
        Level::Lossless => (Vec::new(), vec![lossless::encode_top(column)]),
        Level::Fast => {
            (Vec::new(), (0..column.layout.rows()).map(|row| fast::encode_row(column, row, &header)).collect())
        }
        Level::Compact => coded::encode(column, &column.layout, &column.ids, &header),
    };
    Ok(header.assemble(Kind::Top, &tables, &sections))
}

/// Packs `column`, whose ids are below `vocabulary`. Every level keeps every bit of it.
///
/// # Errors
/// [`EncodeError`] with the first entry that may not be in a packed column.
pub fn encode_draws(column: &DrawColumn, level: Level, vocabulary: u32) -> Result<Vec<u8>, EncodeError> {
    column.check(level, vocabulary)?;
    let header = describe(&column.layout, level, vocabulary, 0);
    let (tables, sections) = match level {
        Level::Lossless => (Vec::new(), vec![lossless::encode_draws(column)]),
        Level::Fast => {
            (Vec::new(), (0..column.layout.rows()).map(|row| draws::encode_fast(column, row, &header)).collect())
        }
        Level::Compact => coded::encode(column, &column.layout, &column.ids, &header),
    };
    Ok(header.assemble(Kind::Draws, &tables, &sections))
}

/// A packed [`TopColumn`] whose header has been read.
#[derive(Clone, Debug)]
pub struct PackedTop<'a> {
    parts: Parts<'a>,
    tables: Option<compact::Tables>,
}

impl<'a> PackedTop<'a> {
    /// Reads the header and the tables.
    ///
    /// # Errors
    /// [`DecodeError`] if `bytes` are no packed top-k, or damaged.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let parts = Parts::parse(bytes, Kind::Top)?;
        let is_compact = parts.header.level == Level::Compact;
        let tables = is_compact.then(|| compact::Tables::get(parts.tables(), parts.header.vocabulary)).transpose()?;
        Ok(Self { parts, tables })
    }

    /// What it says of itself.
    pub fn header(&self) -> &Header {
        &self.parts.header
    }

    /// All rows, with the first `keep` entries of each list; the mass of the others goes to the tail.
    ///
    /// # Errors
    /// [`DecodeError`] if a row is damaged.
    pub fn decode(&self, keep: usize) -> Result<TopColumn, DecodeError> {
        let header = &self.parts.header;
        let column = if header.level == Level::Lossless {
            self.all(keep)?
        } else {
            let mut column = TopColumn::default();
            (0..self.parts.sections()).try_for_each(|row| self.append(row, keep, &mut column))?;
            column
        };
        if keep >= usize::from(header.longest) {
            check_totals(&self.parts, column.layout.positions(), column.layout.entries())?;
        }
        Ok(column)
    }

    /// Row `row` alone, as [`PackedTop::decode`]; `lossless` decodes all rows for it.
    ///
    /// # Errors
    /// [`DecodeError`] if there is no such row, or it is damaged.
    pub fn row(&self, row: usize, keep: usize) -> Result<TopColumn, DecodeError> {
        check_row(&self.parts, row)?;
        if self.parts.header.level == Level::Lossless {
            return Ok(self.all(keep)?.only_row(row));
        }
        let mut column = TopColumn::default();
        self.append(row, keep, &mut column)?;
        Ok(column)
    }

    fn all(&self, keep: usize) -> Result<TopColumn, DecodeError> {
        let column = lossless::decode_top(self.parts.section(0, "rows")?, &self.parts.header)?;
        Ok(budget::truncate(column, keep))
    }

    fn append(&self, row: usize, keep: usize, column: &mut TopColumn) -> Result<(), DecodeError> {
        let part = format!("row {row}");
        let section = self.parts.section(row, &part)?;
        match &self.tables {
            Some(tables) => tables.decode_row(section, &self.parts.header, keep, column),
            None => fast::decode_row(section, &self.parts.header, keep, column),
        }
    }
}

/// A packed [`DrawColumn`] whose header has been read.
#[derive(Clone, Debug)]
pub struct PackedDraws<'a> {
    parts: Parts<'a>,
    tables: Option<draws::Tables>,
}

impl<'a> PackedDraws<'a> {
    /// Reads the header and the tables.
    ///
    /// # Errors
    /// [`DecodeError`] if `bytes` are no packed draws, or damaged.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let parts = Parts::parse(bytes, Kind::Draws)?;
        let is_compact = parts.header.level == Level::Compact;
        let tables = is_compact.then(|| draws::Tables::get(parts.tables(), parts.header.vocabulary)).transpose()?;
        Ok(Self { parts, tables })
    }

    /// What it says of itself.
    pub fn header(&self) -> &Header {
        &self.parts.header
    }

    /// All rows.
    ///
    /// # Errors
    /// [`DecodeError`] if a row is damaged.
    pub fn decode(&self) -> Result<DrawColumn, DecodeError> {
        let mut column = DrawColumn::default();
        match self.parts.header.level {
            Level::Lossless => column = lossless::decode_draws(self.parts.section(0, "rows")?, &self.parts.header)?,
            _ => (0..self.parts.sections()).try_for_each(|row| self.append(row, &mut column))?,
        }
        check_totals(&self.parts, column.layout.positions(), column.layout.entries())?;
        Ok(column)
    }

    /// Row `row` alone; `lossless` decodes all rows for it.
    ///
    /// # Errors
    /// [`DecodeError`] if there is no such row, or it is damaged.
    pub fn row(&self, row: usize) -> Result<DrawColumn, DecodeError> {
        check_row(&self.parts, row)?;
        if self.parts.header.level == Level::Lossless {
            return Ok(self.decode()?.only_row(row));
        }
        let mut column = DrawColumn::default();
        self.append(row, &mut column)?;
        Ok(column)
    }

    fn append(&self, row: usize, column: &mut DrawColumn) -> Result<(), DecodeError> {
        let part = format!("row {row}");
        let section = self.parts.section(row, &part)?;
        match &self.tables {
            Some(tables) => tables.decode_row(section, &self.parts.header, column),
            None => draws::decode_fast(section, &self.parts.header, column),
        }
    }
}

fn check_row(parts: &Parts<'_>, row: usize) -> Result<(), DecodeError> {
    let rows = parts.header.rows as usize;
    if row < rows { Ok(()) } else { Err(DecodeError::NoSuchRow { row, rows }) }
}

fn check_totals(parts: &Parts<'_>, positions: usize, entries: usize) -> Result<(), DecodeError> {
    let header = &parts.header;
    for (what, due, found) in [("positions", header.positions, positions), ("entries", header.entries, entries)] {
        if found != due as usize {
            return Err(DecodeError::damaged(0, what, format!("{due}, as in the header"), found));
        }
    }
    Ok(())
}
