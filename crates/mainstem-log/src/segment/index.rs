//! Where in a segment an offset or a time is found, sparsely.
//!
//! Words: an *entry* names a batch (offset, position) and the largest timestamp of all batches before it. Offsets and
//! positions stand in `.index`, timestamps in `.timeindex`, entry by entry the same batches.
//!
//! Always true here: an index is never evidence. Entries with a wrong CRC and all after them are ignored, missing ones
//! are found again by walking the batch headers, and a reader that does not find the batch an entry names has the
//! whole index rebuilt. Index files are never synced.

use std::io;
use std::sync::Arc;

use mainstem_disk::{Disk, DiskFile, Open};
use mainstem_kafka_wire::batch::BatchHeader;

use super::{HeaderScan, ScanError, Segment};
use crate::codec::{Put, Take, crc32c};

const MAGIC_OFFSETS: u32 = u32::from_le_bytes(*b"MSIX");
const MAGIC_TIMES: u32 = u32::from_le_bytes(*b"MSTX");
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 16;
const OFFSET_ENTRY_BYTES: u64 = 12;
const TIME_ENTRY_BYTES: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IndexEntry {
    /// Offset less the segment's base offset.
    offset: u32,
    position: u32,
    /// Largest timestamp of all batches before this one.
    max_timestamp_before: i64,
}

/// The index of one segment, in memory.
#[derive(Debug)]
pub(crate) struct SegmentIndex {
    base_offset: i64,
    entries: Vec<IndexEntry>,
    /// Entries that stand in the files already.
    flushed: usize,
    /// Bytes of the segment that are indexed.
    covered: u64,
    /// From here on the headers themselves were seen, when they were written or by a walk: not only the index's files.
    seen_from: u64,
    next_offset: i64,
    max_timestamp: i64,
}

impl SegmentIndex {
    pub(crate) fn new(base_offset: i64) -> Self {
        Self {
            base_offset,
            entries: Vec::new(),
            flushed: 0,
            covered: 0,
            seen_from: 0,
            next_offset: base_offset,
            max_timestamp: -1,
        }
    }

    /// What the files say, completed by walking the rest of the segment.
    pub(crate) fn load(
        disk: &dyn Disk,
        segment: &Segment,
        file: &Arc<dyn DiskFile>,
        interval: u64,
    ) -> Result<Self, ScanError> {
        let mut index = Self::new(segment.base_offset);
        index.entries = read_entries(disk, segment).unwrap_or_default();
        let len = segment.len();
        while index.entries.last().is_some_and(|entry| u64::from(entry.position) >= len) {
            index.entries.pop();
        }
        if let Some(last) = index.entries.pop() {
            index.covered = u64::from(last.position);
            index.seen_from = index.covered;
            index.next_offset = segment.base_offset + i64::from(last.offset);
            index.max_timestamp = last.max_timestamp_before;
            index.flushed = index.entries.len();
            if index.extend(file, len, interval).is_ok() {
                return Ok(index);
            }
        }
        Self::rebuild(segment, file, interval)
    }

    /// Walks the whole segment and ignores the index files; the next flush overwrites them.
    pub(crate) fn rebuild(segment: &Segment, file: &Arc<dyn DiskFile>, interval: u64) -> Result<Self, ScanError> {
        let mut index = Self::new(segment.base_offset);
        index.extend(file, segment.len(), interval)?;
        Ok(index)
    }

    fn extend(&mut self, file: &Arc<dyn DiskFile>, end: u64, interval: u64) -> Result<(), ScanError> {
        let mut scan = HeaderScan { file, position: self.covered, end, offset: self.next_offset };
        while let Some((header, position)) = scan.next()? {
            self.push(&header, position, interval);
        }
        Ok(())
    }

    /// Takes in the batch at `position`; nothing when it is in already.
    pub(crate) fn push(&mut self, header: &BatchHeader, position: u64, interval: u64) {
        if position != self.covered {
            return;
        }
        let far = self.entries.last().is_none_or(|last| position - u64::from(last.position) >= interval);
        // What a damaged batch says of its offset may lie anywhere.
        let offset = header.base_offset.checked_sub(self.base_offset).and_then(|offset| u32::try_from(offset).ok());
        if let (true, (Some(offset), Ok(position))) = (far, (offset, u32::try_from(position))) {
            self.entries.push(IndexEntry { offset, position, max_timestamp_before: self.max_timestamp });
        }
        self.covered = position + header.total_bytes() as u64;
        self.next_offset = header.next_offset();
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    /// The last known batch that begins at or before `offset`: its offset and position.
    pub(crate) fn before_offset(&self, offset: i64) -> (i64, u64) {
        let at = self.entries.partition_point(|entry| self.base_offset + i64::from(entry.offset) <= offset);
        self.place(at)
    }

    /// A batch at or before the first one with a timestamp of at least `timestamp`: its offset and position.
    pub(crate) fn before_timestamp(&self, timestamp: i64) -> (i64, u64) {
        self.place(self.entries.partition_point(|entry| entry.max_timestamp_before < timestamp))
    }

    /// Where whole batches end that begin at `position`, at most `bytes_max` behind it and below `end_offset`, and the offset
    /// there. `None` where only the index's files speak for them.
    pub(crate) fn end_of_range(&self, position: u64, bytes_max: u64, end_offset: i64) -> Option<(u64, i64)> {
        if position < self.seen_from || position > self.covered {
            return None;
        }
        let limit = position.saturating_add(bytes_max);
        if self.covered <= limit && self.next_offset <= end_offset {
            return Some((self.covered, self.next_offset));
        }
        let is_within = |entry: &IndexEntry| {
            u64::from(entry.position) <= limit && self.base_offset + i64::from(entry.offset) <= end_offset
        };
        let (offset, end) = self.place(self.entries.partition_point(is_within));
        (end > position).then_some((end, offset))
    }

    fn place(&self, after: usize) -> (i64, u64) {
        match after.checked_sub(1).and_then(|at| self.entries.get(at)) {
            Some(entry) => (self.base_offset + i64::from(entry.offset), u64::from(entry.position)),
            None => (self.base_offset, 0),
        }
    }

    /// Writes what the files do not have yet. Not synced: an index can always be rebuilt.
    pub(crate) fn flush(&mut self, disk: &dyn Disk, segment: &Segment) -> io::Result<()> {
        let new = self.entries.get(self.flushed..).unwrap_or_default();
        if new.is_empty() {
            return Ok(());
        }
        let (mut offsets, mut times) = (Vec::new(), Vec::new());
        for entry in new {
            put_entry(&mut offsets, &mut times, self.base_offset, entry);
        }
        for (extension, magic, entry_bytes, bytes) in [
            ("index", MAGIC_OFFSETS, OFFSET_ENTRY_BYTES, &offsets),
            ("timeindex", MAGIC_TIMES, TIME_ENTRY_BYTES, &times),
        ] {
            let path = segment.name().path(segment.partition, extension);
            let file = disk.open(&path, Open::Create)?;
            if self.flushed == 0 {
                let mut header = Vec::new();
                header.put_u32(magic);
                header.put_u32(VERSION);
                header.put_i64(self.base_offset);
                file.set_len(0)?;
                file.write_at(&header, 0)?;
            }
            file.write_at(bytes, HEADER_BYTES + self.flushed as u64 * entry_bytes)?;
        }
        self.flushed = self.entries.len();
        Ok(())
    }
}

fn put_entry(offsets: &mut Vec<u8>, times: &mut Vec<u8>, base_offset: i64, entry: &IndexEntry) {
    let sealed = |out: &mut Vec<u8>, first: &[u8], second: u32| {
        let start = out.len();
        out.put(first);
        out.put_u32(second);
        let mut covered = base_offset.to_le_bytes().to_vec();
        covered.put(out.get(start..).unwrap_or_default());
        out.put_u32(crc32c(&covered));
    };
    sealed(offsets, &entry.offset.to_le_bytes(), entry.position);
    sealed(times, &entry.max_timestamp_before.to_le_bytes(), entry.offset);
}

/// The entries that both files agree on, up to the first one that is wrong.
fn read_entries(disk: &dyn Disk, segment: &Segment) -> io::Result<Vec<IndexEntry>> {
    let read =
        |extension: &str| disk.open(&segment.name().path(segment.partition, extension), Open::Read)?.read_to_end();
    let (offsets, times) = (read("index")?, read("timeindex")?);
    let mut entries: Vec<IndexEntry> = Vec::new();
    let (mut offsets, mut times) = (Take::new(&offsets), Take::new(&times));
    if !has_header(&mut offsets, MAGIC_OFFSETS, segment) || !has_header(&mut times, MAGIC_TIMES, segment) {
        return Ok(entries);
    }
    while let Some(entry) = take_entry(&mut offsets, &mut times, segment.base_offset) {
        if entries.last().is_some_and(|last| last.offset >= entry.offset || last.position >= entry.position) {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn has_header(take: &mut Take<'_>, magic: u32, segment: &Segment) -> bool {
    take.u32() == Some(magic) && take.u32() == Some(VERSION) && take.i64() == Some(segment.base_offset)
}

fn take_entry(offsets: &mut Take<'_>, times: &mut Take<'_>, base_offset: i64) -> Option<IndexEntry> {
    let entry = IndexEntry { offset: offsets.u32()?, position: offsets.u32()?, max_timestamp_before: times.i64()? };
    let (offset_crc, repeated, time_crc) = (offsets.u32()?, times.u32()?, times.u32()?);
    let (mut expected_offsets, mut expected_times) = (Vec::new(), Vec::new());
    put_entry(&mut expected_offsets, &mut expected_times, base_offset, &entry);
    let is_right = expected_offsets.ends_with(&offset_crc.to_le_bytes())
        && expected_times.ends_with(&time_crc.to_le_bytes())
        && repeated == entry.offset;
    is_right.then_some(entry)
}
