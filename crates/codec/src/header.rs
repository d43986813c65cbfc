//! What a packed column begins with: what it is, its tables, and where its sections lie.

use crate::{
    DecodeError,
    bytes::{Reader, put_slice},
    column::{MAX_ENTRIES, MAX_LIST, MAX_VOCABULARY},
    crc::crc32c,
};

const MAGIC: &[u8; 4] = b"OPDC";
/// The newest format.
pub(crate) const VERSION: u8 = 1;
/// Bytes of a checksum.
const SUM: usize = 4;

/// How much a packed column keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Every bit.
    Lossless,
    /// Log-probabilities in steps of 1/128 nat and more; each row lies by itself and is quick to read.
    Fast,
    /// Log-probabilities in steps of 1/64 nat, and as few bytes as a static code by frequency takes.
    Compact,
}

impl Level {
    /// Every level.
    pub const ALL: [Level; 3] = [Level::Lossless, Level::Fast, Level::Compact];

    /// Its word in a score set.
    pub fn name(self) -> &'static str {
        match self {
            Level::Lossless => "lossless",
            Level::Fast => "fast",
            Level::Compact => "compact",
        }
    }

    /// The level of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// What a packed column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Top,
    Draws,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Top => "top-k",
            Kind::Draws => "draws",
        }
    }
}

/// What a packed column says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Format version.
    pub version: u8,
    /// How much it keeps.
    pub level: Level,
    /// Ids are below this.
    pub vocabulary: u32,
    /// Steps of a nat that log-probabilities were rounded to, where they are close to the one before; 0 is exact.
    pub steps: u16,
    /// Number of rows.
    pub rows: u32,
    /// Positions of all rows.
    pub positions: u32,
    /// Entries of all positions.
    pub entries: u32,
    /// Entries of the longest list.
    pub longest: u16,
}

impl Header {
    /// A column: the header, `tables`, where each section ends, a checksum; then the sections, each with its own.
    pub(crate) fn assemble(&self, kind: Kind, tables: &[u8], sections: &[Vec<u8>]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([self.version, self.level as u8, kind as u8, 0]);
        for number in [self.vocabulary, self.rows, self.positions, self.entries] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.steps.to_le_bytes());
        out.extend(self.longest.to_le_bytes());
        out.extend((sections.len() as u32).to_le_bytes());
        for section in sections {
            out.extend(((section.len() + SUM) as u32).to_le_bytes());
        }
        put_slice(&mut out, tables);
        out.extend(crc32c(&out).to_le_bytes());
        for section in sections {
            out.extend_from_slice(section);
            out.extend(crc32c(section).to_le_bytes());
        }
        out
    }
}

/// A column taken apart; sections are still to be checked.
#[derive(Clone, Debug)]
pub(crate) struct Parts<'a> {
    pub header: Header,
    bytes: &'a [u8],
    tables: std::ops::Range<usize>,
    /// Where sections begin, and the last ends.
    ends: Vec<usize>,
}

impl<'a> Parts<'a> {
    pub fn parse(bytes: &'a [u8], kind: Kind) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, 0, "header");
        let foreign = |expected: String, found: String| DecodeError::Foreign { expected, found };
        let magic = reader.take(MAGIC.len()).unwrap_or(bytes);
        if magic != MAGIC {
            return Err(foreign(format!("{MAGIC:02x?}"), format!("{magic:02x?}")));
        }
        let version = reader.byte()?;
        if version > VERSION {
            return Err(DecodeError::Newer { found: version, newest: VERSION });
        }
        let (level, found_kind, zero) = (reader.byte()?, reader.byte()?, reader.byte()?);
        let (vocabulary, rows, positions, entries) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
        let (steps, longest, sections) = (reader.u16()?, reader.u16()?, reader.u32()? as usize);
        if sections > reader.left() / 4 {
            return Err(reader.damaged(format!("at most {} sections", reader.left() / 4), sections));
        }
        let sizes: Vec<u32> = (0..sections).map(|_| reader.u32()).collect::<Result<_, _>>()?;
        let tables = reader.slice()?;
        let tables = tables.offset()..tables.offset() + tables.left();
        let stored = reader.offset();
        let sum = reader.u32()?;
        check_sum("header", stored, sum, &bytes[..stored])?;
        let level = Level::ALL.into_iter().find(|known| *known as u8 == level);
        let level = level.ok_or_else(|| DecodeError::damaged(5, "level", "0, 1 or 2", bytes[5]))?;
        if found_kind != kind as u8 {
            let other = [Kind::Top, Kind::Draws].into_iter().find(|known| *known as u8 == found_kind);
            let found = other.map_or(format!("kind {found_kind}"), |other| format!("a column of {}", other.name()));
            return Err(foreign(format!("a column of {}", kind.name()), found));
        }
        let sections_due = if level == Level::Lossless { 1 } else { rows as usize };
        let longest_entries = u64::from(positions) * u64::from(longest);
        for (what, holds, expected, found) in [
            ("version", version == VERSION, "1".to_string(), u64::from(version)),
            ("reserved byte", zero == 0, "0".into(), u64::from(zero)),
            (
                "vocabulary",
                (1..=MAX_VOCABULARY).contains(&vocabulary),
                format!("1 to {MAX_VOCABULARY}"),
                vocabulary.into(),
            ),
            ("sections", sections == sections_due, sections_due.to_string(), sections as u64),
            ("positions", positions as usize <= MAX_ENTRIES, format!("at most {MAX_ENTRIES}"), positions.into()),
            ("entries", entries as usize <= MAX_ENTRIES, format!("at most {MAX_ENTRIES}"), entries.into()),
            ("entries", u64::from(entries) <= longest_entries, format!("at most {longest_entries}"), entries.into()),
        ] {
            if !holds {
                return Err(DecodeError::damaged(stored, format!("header, {what}"), expected, found));
            }
        }
        let mut ends = vec![reader.offset()];
        for size in sizes {
            ends.push(ends[ends.len() - 1].saturating_add(size as usize));
        }
        let end = ends[ends.len() - 1];
        if end != bytes.len() {
            return Err(DecodeError::damaged(bytes.len(), "column", format!("{end} bytes"), bytes.len()));
        }
        let header = Header { version, level, vocabulary, steps, rows, positions, entries, longest };
        Ok(Self { header, bytes, tables, ends })
    }

    pub fn tables(&self) -> Reader<'a> {
        Reader::new(&self.bytes[self.tables.clone()], self.tables.start, "tables")
    }

    pub fn sections(&self) -> usize {
        self.ends.len() - 1
    }

    /// Section `i` after its checksum was compared; `part` names it in errors.
    pub fn section<'p>(&'p self, i: usize, part: &'p str) -> Result<Reader<'p>, DecodeError> {
        let (start, end) = (self.ends[i], self.ends[i + 1]);
        let body = end - start;
        if body < SUM {
            return Err(DecodeError::damaged(start, part, format!("at least {SUM} bytes"), body));
        }
        let mut stored = [0; SUM];
        stored.copy_from_slice(&self.bytes[end - SUM..end]);
        let section = &self.bytes[start..end - SUM];
        check_sum(part, end - SUM, u32::from_le_bytes(stored), section)?;
        Ok(Reader::new(section, start, part))
    }
}

fn check_sum(part: &str, offset: usize, expected: u32, bytes: &[u8]) -> Result<(), DecodeError> {
    match crc32c(bytes) {
        found if found == expected => Ok(()),
        found => Err(DecodeError::Checksum { offset, part: part.into(), expected, found }),
    }
}

/// The header of a column whose largest list is `longest`.
pub(crate) fn describe(layout: &crate::Layout, level: Level, vocabulary: u32, steps: u16) -> Header {
    // `Layout::check` bounds all of them.
    debug_assert!(layout.longest() <= MAX_LIST);
    Header {
        version: VERSION,
        level,
        vocabulary,
        steps,
        rows: layout.rows() as u32,
        positions: layout.positions() as u32,
        entries: layout.entries() as u32,
        longest: layout.longest() as u16,
    }
}
