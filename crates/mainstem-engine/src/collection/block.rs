//! Entries sorted by their bytes, in three flat vectors: what chunks consist of, and what is read from the store at once.
//!
//! In the store: u32 entries, then per entry u32 length and i64 weight, then the bytes, all little-endian.

use crate::error::EngineError;

/// Immutable sorted entries.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// All rows after one another.
    bytes: Vec<u8>,
    /// Where each row ends in `bytes`.
    ends: Vec<usize>,
    weights: Vec<i64>,
}

impl Block {
    pub(super) fn push(&mut self, row: &[u8], weight: i64) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
        self.weights.push(weight);
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The row at a place, as bytes.
    pub(super) fn key(&self, entry: usize) -> &[u8] {
        let start = if entry == 0 { 0 } else { self.ends[entry - 1] };
        &self.bytes[start..self.ends[entry]]
    }

    pub(super) fn weight_at(&self, entry: usize) -> i64 {
        self.weights[entry]
    }

    /// The sum of all weights.
    pub(super) fn weight(&self) -> i64 {
        self.weights.iter().sum()
    }

    /// Memory that the entries take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        (self.bytes.len() + self.ends.len() * 16) as u64
    }

    /// The first entry at or after the bytes.
    pub(super) fn lower_bound(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let length = |length: usize| u32::try_from(length).expect("a row is smaller than 4 GiB").to_le_bytes();
        let mut out = Vec::with_capacity(4 + self.len() * 12 + self.bytes.len());
        out.extend_from_slice(&length(self.len()));
        for entry in 0..self.len() {
            out.extend_from_slice(&length(self.key(entry).len()));
            out.extend_from_slice(&self.weights[entry].to_le_bytes());
        }
        out.extend_from_slice(&self.bytes);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Block, EngineError> {
        let short = || EngineError::State("a block of rows is cut short".to_owned());
        let (entries, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let entries = u32::from_le_bytes(*entries) as usize;
        let (table, rows) = rest.split_at_checked(entries * 12).ok_or_else(short)?;
        let mut block =
            Block { bytes: rows.to_vec(), ends: Vec::with_capacity(entries), weights: Vec::with_capacity(entries) };
        let mut end = 0_usize;
        for entry in table.chunks_exact(12) {
            end += u32::from_le_bytes(entry[..4].try_into().expect("4 bytes")) as usize;
            block.ends.push(end);
            block.weights.push(i64::from_le_bytes(entry[4..].try_into().expect("8 bytes")));
        }
        if end == rows.len() { Ok(block) } else { Err(short()) }
    }
}
