//! The distinct ids of a column, by how frequent they are.
//!
//! Sorted by frequency, ids fall into buckets of 1, 1, 1, 1, 2, 2, 4, 4, 8, 8 ... An entry costs its bucket's symbol and
//! raw bits for its place in it, so ids of one bucket cost the same. Inside a bucket ids ascend, so the dictionary is stored as the
//! gaps between the ids that occur, ascending, each with its id's bucket.

use crate::{
    DecodeError,
    bytes::{Reader, put_slice, put_varint},
    expansion,
    model::{Counter, Sink, Writer, get_tables, number, put_tables},
    rans::Decoder,
};

const GAP: usize = 0;
const BUCKET: usize = 1;

/// The bucket of the `rank`-th most frequent id, and how many bits say which of the bucket it is.
fn bucket(rank: u32) -> (u8, u32) {
    match rank {
        0 | 1 => (rank as u8, 0),
        _ => {
            let exponent = rank.ilog2();
            ((2 * exponent + (rank >> (exponent - 1) & 1)) as u8, exponent - 1)
        }
    }
}

/// The first rank of a bucket, and the bits of a place in it.
#[inline(always)]
fn span(bucket: u8) -> (u32, u32) {
    let bucket = u32::from(bucket);
    // Buckets end at 2 * 24 + 1, where vocabularies do; damaged bytes may name others.
    let bits = ((bucket >> 1).saturating_sub(1)).min(30);
    if bucket < 2 { (bucket, 0) } else { ((2 + (bucket & 1)).wrapping_shl(bits), bits) }
}

/// From ids to ranks.
pub(crate) struct Ranks {
    by_id: Vec<u32>,
}

impl Ranks {
    /// Of `ids`, all below `vocabulary`; and the dictionary as stored.
    pub fn of(ids: &[i32], vocabulary: u32) -> (Self, Vec<u8>) {
        let mut counts = vec![0_u32; vocabulary as usize];
        for id in ids {
            counts[*id as usize] += 1;
        }
        let mut present: Vec<u32> = (0..vocabulary).filter(|id| counts[*id as usize] > 0).collect();
        let ascending = present.clone();
        present.sort_by_key(|id| (std::cmp::Reverse(counts[*id as usize]), *id));
        // Which ids share a bucket is settled by frequency, their order in it by id.
        let mut first = 0;
        while first < present.len() {
            let (_, bits) = bucket(first as u32);
            let end = present.len().min(first + (1 << bits));
            present[first..end].sort_unstable();
            first = end;
        }
        let mut by_id = counts;
        for (rank, id) in present.iter().enumerate() {
            by_id[*id as usize] = rank as u32;
        }
        let ranks = Self { by_id };
        let stored = ranks.store(&ascending);
        (ranks, stored)
    }

    fn store(&self, ascending: &[u32]) -> Vec<u8> {
        let walk = |sink: &mut dyn Sink| {
            let mut next = 0;
            for id in ascending {
                sink.number(0, GAP, id - next);
                sink.symbol(0, BUCKET, bucket(self.by_id[*id as usize]).0);
                next = id + 1;
            }
        };
        let mut counter = Counter::<2>::new();
        walk(&mut counter);
        let tables = counter.tables();
        let shares = tables.each_ref().map(|table| table.shares());
        let mut writer = Writer::<1>::new(&shares);
        walk(&mut writer);
        let mut out = Vec::new();
        put_varint(&mut out, ascending.len() as u32);
        put_tables(&mut out, &tables);
        let [mut words] = writer.finish();
        expansion::pad(&mut words, 0, ascending.len());
        put_slice(&mut out, &words);
        out
    }

    /// Puts an id of the dictionary.
    pub fn put(&self, sink: &mut impl Sink, stream: usize, context: usize, id: i32) {
        let rank = self.by_id[id as usize];
        let (symbol, bits) = bucket(rank);
        sink.symbol(stream, context, symbol);
        if bits > 0 {
            sink.raw(stream, rank & ((1 << bits.min(16)) - 1), bits.min(16));
        }
        if bits > 16 {
            sink.raw(stream, rank >> 16 & ((1 << (bits - 16)) - 1), bits - 16);
        }
    }
}

/// From ranks to ids.
#[derive(Clone, Debug)]
pub(crate) struct Dictionary {
    ids: Vec<i32>,
}

impl Dictionary {
    pub fn get(reader: &mut Reader<'_>, vocabulary: u32) -> Result<Self, DecodeError> {
        let n = reader.varint()?;
        if n > vocabulary {
            return Err(reader.damaged(format!("at most {vocabulary} distinct ids"), n));
        }
        let [gaps, buckets] = get_tables::<2>(reader)?;
        let words = reader.slice()?;
        expansion::check(&words, "distinct ids", n)?;
        let mut ids = vec![0; n as usize];
        let mut filled = [0_u32; 256];
        let mut decoder = Decoder::new(words.rest());
        let mut next = 0_u64;
        for _ in 0..n {
            let symbol = decoder.symbol(&gaps);
            let id = next + u64::from(number(&mut decoder, symbol));
            let bucket = decoder.symbol(&buckets);
            let (first, bits) = span(bucket);
            let place = filled[usize::from(bucket)];
            let rank = u64::from(first) + u64::from(place);
            if place >> bits > 0 || rank >= u64::from(n) {
                return Err(words.damaged(format!("ranks below {n}, each once"), rank));
            }
            if id >= u64::from(vocabulary) {
                return Err(words.damaged(format!("ids below {vocabulary}"), id));
            }
            ids[rank as usize] = id as i32;
            filled[usize::from(bucket)] += 1;
            next = id + 1;
        }
        decoder.end(&words)?;
        Ok(Self { ids })
    }

    /// The next id; `None` if there is none of that rank.
    #[inline(always)]
    pub fn take(&self, decoder: &mut Decoder<'_>, symbol: u8) -> Option<i32> {
        let (first, bits) = span(symbol);
        let low = decoder.raw(bits.min(16));
        let place = if bits > 16 { decoder.raw(bits - 16) << 16 | low } else { low };
        self.ids.get(first.wrapping_add(place) as usize).copied()
    }
}
