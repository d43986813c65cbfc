//! A range asymmetric numeral system (Duda, 2013) with a state of 32 bits and words of 16: symbols by their frequencies,
//! and raw bits. What is put in first comes out first.

use crate::{DecodeError, bytes::Reader};

/// Frequencies of a table add up to `1 << SCALE`.
pub(crate) const SCALE: u32 = 12;
/// The state stays in `LOW..2^32`.
const LOW: u32 = 1 << 16;

/// A symbol's part of the range: where it begins and how much it takes, of `1 << SCALE`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Share {
    pub start: u16,
    pub frequency: u16,
}

#[derive(Clone, Copy)]
struct Step {
    start: u16,
    frequency: u16,
    bits: u8,
}

/// Collects symbols, and codes them from the last to the first.
#[derive(Default)]
pub(crate) struct Coder {
    steps: Vec<Step>,
}

impl Coder {
    pub fn symbol(&mut self, share: Share) {
        self.steps.push(Step { start: share.start, frequency: share.frequency, bits: SCALE as u8 });
    }

    /// The low `bits` of `value`, at most 16.
    pub fn raw(&mut self, value: u16, bits: u32) {
        self.steps.push(Step { start: value, frequency: 1, bits: bits as u8 });
    }

    /// The words, the first to be read first; none if nothing was put in.
    pub fn finish(self) -> Vec<u8> {
        if self.steps.is_empty() {
            return Vec::new();
        }
        let mut words = Vec::with_capacity(self.steps.len() / 2);
        let mut state = LOW;
        for step in self.steps.iter().rev() {
            let limit = (u64::from(LOW >> step.bits) * u64::from(step.frequency)) << 16;
            if u64::from(state) >= limit {
                words.push(state as u16);
                state >>= 16;
            }
            let frequency = u32::from(step.frequency);
            state = ((state / frequency) << step.bits) + state % frequency + u32::from(step.start);
        }
        words.extend([state as u16, (state >> 16) as u16]);
        words.iter().rev().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// A table to decode by: for each of the `1 << SCALE` slots its symbol (8 bits), its frequency less one (12) and the slot's
/// distance from the symbol's start (12).
pub(crate) type Slots = [u32; 1 << SCALE];

/// Takes symbols out again. Reading too far gives zeros, and `end` says so.
#[derive(Clone, Debug)]
pub(crate) struct Decoder<'a> {
    state: u32,
    words: &'a [[u8; 2]],
    at: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { state: LOW, words: bytes.as_chunks().0, at: 0 };
        if !bytes.is_empty() {
            decoder.state = 0;
            decoder.refill();
            decoder.refill();
        }
        decoder
    }

    #[inline(always)]
    fn refill(&mut self) {
        let word = self.words.get(self.at).map_or(0, |word| u16::from_le_bytes(*word));
        self.at += 1;
        self.state = self.state << 16 | u32::from(word);
    }

    #[inline(always)]
    pub fn symbol(&mut self, slots: &Slots) -> u8 {
        let slot = slots[(self.state & ((1 << SCALE) - 1)) as usize];
        let frequency = (slot >> 8 & 0xfff) + 1;
        // At most 2^12 * (2^20 - 1) + 2^12 - 1, so below 2^32.
        self.state = frequency.wrapping_mul(self.state >> SCALE).wrapping_add(slot >> 20);
        if self.state < LOW {
            self.refill();
        }
        slot as u8
    }

    /// `bits` raw bits, at most 16.
    #[inline(always)]
    pub fn raw(&mut self, bits: u32) -> u32 {
        let value = self.state & ((1 << bits) - 1);
        self.state >>= bits;
        if self.state < LOW {
            self.refill();
        }
        value
    }

    /// Checks how it ended: no symbol beyond the stream, nothing but padding behind the last, the state where coding began.
    pub fn end(&self, stream: &Reader<'_>) -> Result<(), DecodeError> {
        let (read, bytes) = (self.at * 2, stream.rest());
        let Some(rest) = bytes.get(read..) else {
            return Err(stream.damaged(format!("a stream of {read} bytes"), bytes.len()));
        };
        if rest.iter().any(|byte| *byte != 0) {
            return Err(stream.damaged(format!("symbols for {} bytes", bytes.len()), format!("for {read}")));
        }
        match self.state {
            LOW => Ok(()),
            state => Err(stream.damaged(format!("a last state of {LOW:#x}"), format!("{state:#x}"))),
        }
    }
}
