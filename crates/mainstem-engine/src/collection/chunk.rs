//! Entries sorted by their bytes, in three flat vectors.

use std::cmp::Ordering;

use super::Layout;
use crate::delta::Delta;

/// Immutable sorted entries.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// All rows after one another.
    bytes: Vec<u8>,
    /// Where each row ends in `bytes`.
    ends: Vec<usize>,
    weights: Vec<i64>,
}

impl Chunk {
    pub(super) fn of_delta(layout: &Layout, delta: &Delta) -> Chunk {
        let rows = layout.encode(&delta.rows);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by(|a, b| rows.get(*a).cmp(rows.get(*b)));
        let mut chunk = Chunk::with_capacity(rows.len(), rows.iter().map(<[u8]>::len).sum());
        for run in order.chunk_by(|a, b| rows.get(*a) == rows.get(*b)) {
            chunk.push(rows.get(run[0]), run.iter().map(|row| delta.weights[*row]).sum());
        }
        chunk
    }

    fn with_capacity(entries: usize, bytes: usize) -> Chunk {
        Chunk {
            bytes: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(entries),
            weights: Vec::with_capacity(entries),
        }
    }

    fn push(&mut self, row: &[u8], weight: i64) {
        if weight != 0 {
            self.bytes.extend_from_slice(row);
            self.ends.push(self.bytes.len());
            self.weights.push(weight);
        }
    }

    /// The sum of two.
    pub(super) fn merge(a: &Chunk, b: &Chunk) -> Chunk {
        let mut merged = Chunk::with_capacity(a.len() + b.len(), a.bytes.len() + b.bytes.len());
        let (mut i, mut j) = (0, 0);
        while i < a.len() && j < b.len() {
            match a.key(i).cmp(b.key(j)) {
                Ordering::Less => {
                    merged.push(a.key(i), a.weights[i]);
                    i += 1;
                }
                Ordering::Greater => {
                    merged.push(b.key(j), b.weights[j]);
                    j += 1;
                }
                Ordering::Equal => {
                    merged.push(a.key(i), a.weights[i] + b.weights[j]);
                    i += 1;
                    j += 1;
                }
            }
        }
        (i..a.len()).for_each(|i| merged.push(a.key(i), a.weights[i]));
        (j..b.len()).for_each(|j| merged.push(b.key(j), b.weights[j]));
        merged
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
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

    pub(super) fn bytes(&self) -> u64 {
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

    /// What this chunk knows of a key: nothing, that its row is gone, or its row. Keys are free of prefixes of one another,
    /// so that the rows of a key are those that begin with it.
    pub(super) fn newest(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let mut entry = self.lower_bound(key);
        let mut known = None;
        while entry < self.len() && self.key(entry).starts_with(key) {
            if self.weights[entry] > 0 {
                return Some(Some(self.key(entry)));
            }
            known = Some(None);
            entry += 1;
        }
        known
    }

    /// The weight of exactly this row.
    pub(super) fn weight_of(&self, row: &[u8]) -> i64 {
        let entry = self.lower_bound(row);
        if entry < self.len() && self.key(entry) == row { self.weights[entry] } else { 0 }
    }

    /// This row, if it has an entry here.
    pub(super) fn row(&self, row: &[u8]) -> Option<&[u8]> {
        let entry = self.lower_bound(row);
        (entry < self.len() && self.key(entry) == row).then(|| self.key(entry))
    }

    /// `entries u64, bytes u64, then per entry: length u32, weight i64; then the bytes`, little-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.len() * 12 + self.bytes.len());
        out.extend_from_slice(&(self.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.bytes.len() as u64).to_le_bytes());
        for entry in 0..self.len() {
            let length = u32::try_from(self.key(entry).len()).expect("a row is smaller than 4 GiB");
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&self.weights[entry].to_le_bytes());
        }
        out.extend_from_slice(&self.bytes);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Chunk, String> {
        let short = || "a chunk is cut short".to_owned();
        let (head, rest) = bytes.split_at_checked(16).ok_or_else(short)?;
        let entries = u64::from_le_bytes(head[..8].try_into().expect("8 bytes")) as usize;
        let length = u64::from_le_bytes(head[8..].try_into().expect("8 bytes")) as usize;
        let table_bytes = entries.checked_mul(12).ok_or_else(short)?;
        let (table, rows) = rest.split_at_checked(table_bytes).ok_or_else(short)?;
        if rows.len() != length {
            return Err(short());
        }
        let mut chunk =
            Chunk { bytes: rows.to_vec(), ends: Vec::with_capacity(entries), weights: Vec::with_capacity(entries) };
        let mut end = 0usize;
        for entry in table.chunks_exact(12) {
            end += u32::from_le_bytes(entry[..4].try_into().expect("4 bytes")) as usize;
            chunk.ends.push(end);
            chunk.weights.push(i64::from_le_bytes(entry[4..].try_into().expect("8 bytes")));
        }
        if end != length {
            return Err(short());
        }
        Ok(chunk)
    }
}
