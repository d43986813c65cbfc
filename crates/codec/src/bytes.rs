//! Reading and writing of small numbers and of numbers of a fixed number of bits, with the offset for whoever has to
//! say where something is wrong. All numbers are little-endian.

use crate::DecodeError;

/// Where a reader is in a part of a packed column.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Offset in the column of `bytes[0]`.
    base: usize,
    /// What is read, for errors.
    part: &'a str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], base: usize, part: &'a str) -> Self {
        Self { bytes, at: 0, base, part }
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        if n > self.left() {
            return Err(self.damaged(format!("{n} more bytes"), self.left()));
        }
        self.at += n;
        Ok(&self.bytes[self.at - n..self.at])
    }

    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(self.take(2)?.iter().rev().fold(0, |value, byte| value << 8 | u16::from(*byte)))
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(self.take(4)?.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    /// A number in groups of 7 bits, the last group without its high bit.
    pub fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0_u32;
        for shift in (0..32).step_by(7) {
            let byte = self.byte()?;
            if shift == 28 && byte > 0x0f {
                return Err(self.damaged("a number below 2^32", format!("a last byte of {byte:#x}")));
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    /// A slice whose length stands before it.
    pub fn slice(&mut self) -> Result<Reader<'a>, DecodeError> {
        let n = self.varint()? as usize;
        let base = self.base + self.at;
        Ok(Reader { bytes: self.take(n)?, at: 0, base, part: self.part })
    }

    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Everything left must be padding.
    pub fn end(mut self) -> Result<(), DecodeError> {
        match self.rest().iter().position(|byte| *byte != 0) {
            Some(extra) => {
                self.at += extra;
                Err(self.damaged("only zeros behind the data", self.bytes[self.at]))
            }
            None => Ok(()),
        }
    }

    pub fn offset(&self) -> usize {
        self.base + self.at
    }

    pub fn damaged(&self, expected: impl ToString, found: impl ToString) -> DecodeError {
        DecodeError::damaged(self.offset(), self.part, expected, found)
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_slice(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

/// How many bits hold every number below `end`.
pub(crate) fn width(end: u32) -> u32 {
    32 - end.saturating_sub(1).leading_zeros()
}

/// Bytes of `n` numbers of `width` bits.
pub(crate) fn packed_size(n: usize, width: u32) -> usize {
    (n * width as usize).div_ceil(8)
}

/// Appends numbers of `width` bits each, at most 25, the low bit first.
pub(crate) fn put_bits(out: &mut Vec<u8>, numbers: impl Iterator<Item = u32>, width: u32) {
    let (mut held, mut bits) = (0_u64, 0);
    for number in numbers {
        held |= u64::from(number) << bits;
        bits += width;
        while bits >= 8 {
            out.push(held as u8);
            held >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push(held as u8);
    }
}

/// Number `first` and the following of `bytes`, each of `width` bits, as many as `out` has room for; gives the largest.
/// `bytes` must hold them.
pub(crate) fn get_bits(bytes: &[u8], first: usize, width: u32, out: &mut [i32]) -> i32 {
    let (mask, step) = ((1_u32 << width) - 1, width as usize);
    let mut bit = first * step;
    let mut largest = 0;
    // A number is found in the four bytes that begin with its first: 7 bits before it and at most 25 of its own.
    let last = bytes.len().saturating_sub(3);
    let (mut done, mut byte) = (0, bit >> 3);
    while done < out.len() && byte < last {
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[byte..byte + 4]);
        let number = (u32::from_le_bytes(word) >> (bit & 7) & mask) as i32;
        out[done] = number;
        largest = largest.max(number);
        done += 1;
        bit += step;
        byte = bit >> 3;
    }
    for number in &mut out[done..] {
        let end = bytes.len().min((bit >> 3) + 4);
        let word = bytes[(bit >> 3).min(end)..end].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        *number = (word >> (bit & 7) & mask) as i32;
        largest = largest.max(*number);
        bit += step;
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_of_any_width_come_back(width in 0_u32..=25, numbers in prop::collection::vec(any::<u32>(), 0..70), from in 0_usize..70) {
            let numbers: Vec<u32> = numbers.iter().map(|n| n & ((1 << width) - 1)).collect();
            let mut bytes = Vec::new();
            put_bits(&mut bytes, numbers.iter().copied(), width);
            prop_assert_eq!(bytes.len(), packed_size(numbers.len(), width));
            let from = from.min(numbers.len());
            let mut out = vec![0; numbers.len() - from];
            let largest = get_bits(&bytes, from, width, &mut out);
            prop_assert_eq!(largest, out.iter().copied().max().unwrap_or(0));
            prop_assert!(out.iter().zip(&numbers[from..]).all(|(a, b)| *a as u32 == *b));
        }

        #[test]
        fn varints_come_back(value: u32) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut reader = Reader::new(&bytes, 0, "test");
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.left(), 0);
        }
    }

    #[test]
    fn a_varint_beyond_32_bits_and_missing_bytes_are_told_with_their_offset() {
        let long = [0xff, 0xff, 0xff, 0xff, 0x10];
        let error = Reader::new(&long, 7, "row 3").varint().unwrap_err();
        assert_eq!(error.to_string(), "row 3, near byte 12: expected a number below 2^32, found a last byte of 0x10");
        let error = Reader::new(&[1, 2], 7, "row 3").u32().unwrap_err();
        assert_eq!(error.to_string(), "row 3, near byte 7: expected 4 more bytes, found 2");
    }

    #[test]
    fn widths() {
        assert_eq!([1, 2, 3, 49_152, 65_536, 65_537, 151_936].map(width), [0, 1, 2, 16, 16, 17, 18]);
    }
}
