//! Why a column was not packed, or not unpacked.

/// A column that cannot be packed. Nothing was written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// The parts of the column do not fit each other, or are too many.
    #[error("`{what}`: expected {expected}, found {found}")]
    Shape {
        /// The part at fault.
        what: &'static str,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An entry that no packed column may hold.
    #[error("row {row}, position {position}, `{column}`: expected {expected}, found {found}")]
    Entry {
        /// The row's number in the column.
        row: usize,
        /// The position in the row.
        position: usize,
        /// Which of the column's parts.
        column: &'static str,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl EncodeError {
    pub(crate) fn shape(what: &'static str, expected: impl ToString, found: impl ToString) -> Self {
        Self::Shape { what, expected: expected.to_string(), found: found.to_string() }
    }
}

/// Bytes that are no packed column, or a damaged one. Offsets count from the column's first byte.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// It begins with other bytes than a packed column, or holds another kind of column.
    #[error("expected {expected}, found {found}: it is not that packed column")]
    Foreign {
        /// What was to be read.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A later version wrote it.
    #[error("the packed column has format version {found}, expected at most {newest}: read it with a newer build")]
    Newer {
        /// Its version.
        found: u8,
        /// The newest version that this build reads.
        newest: u8,
    },
    /// A checksum does not fit what it guards.
    #[error("{part}: the checksum at byte {offset} is {expected:08x}, the bytes before it give {found:08x}")]
    Checksum {
        /// Where the checksum lies.
        offset: usize,
        /// What it guards.
        part: String,
        /// The checksum as stored.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// The bytes contradict themselves.
    #[error("{part}, near byte {offset}: expected {expected}, found {found}")]
    Damaged {
        /// Where it was noticed.
        offset: usize,
        /// The part of the column at fault.
        part: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// There is no such row.
    #[error("row {row}: expected one of {rows} rows")]
    NoSuchRow {
        /// The row asked for.
        row: usize,
        /// How many there are.
        rows: usize,
    },
}

impl DecodeError {
    pub(crate) fn damaged(offset: usize, part: impl ToString, expected: impl ToString, found: impl ToString) -> Self {
        Self::Damaged { offset, part: part.to_string(), expected: expected.to_string(), found: found.to_string() }
    }
}
