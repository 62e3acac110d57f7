//! Writing one segment in the place of some that follow one another.
//!
//! Words: a *gap* is a run of offsets whose records are gone; one batch without records covers it.
//!
//! Always true here: what is written covers the same offsets as what was read, without a hole between batches; a batch
//! that stays as it was stays so byte by byte; no byte whose CRC was wrong is written again.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use mainstem_disk::DiskFile;
use mainstem_kafka_wire::batch::{BatchHeader, HEADER_BYTES, verify_crc};
use mainstem_kafka_wire::records::{DECOMPRESSED_BYTES_MAX, RecordRef, Retained, empty_batch, retain};

use super::keys::{KeyMap, hash_of};
use crate::failure::{Failure, at};
use crate::segment::{NO_HORIZON, Segment, SegmentIndex, SegmentName, parse_at};
use crate::{CompactionReport, TopicPartition};

/// Read or written at once.
const CHUNK_BYTES: usize = 256 << 10;

/// What decides about a record.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) map: &'a KeyMap,
    /// The map knows the last offset of all keys in the dirty part before this.
    pub(super) mapped_to: i64,
    /// Earlier runs have been through all before this: delete horizons there are our own.
    pub(super) compacted_to: i64,
    /// The partition's start.
    pub(super) start: i64,
    pub(super) now: i64,
    pub(super) delete_retention_ms: i64,
}

/// What became of a batch.
enum Judged {
    /// As it was, and from when on a tombstone in it may go.
    Same(Bytes, i64),
    /// Other bytes in its place.
    Changed(Bytes, i64),
    Gap,
}

/// What was counted while judging.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    removed: u64,
    expired: u64,
    tombstones: u64,
}

impl Judge<'_> {
    fn batch(&self, header: &BatchHeader, bytes: Bytes, report: &mut CompactionReport) -> Judged {
        if header.is_control() {
            return Judged::Same(bytes, NO_HORIZON);
        }
        if header.record_count == 0 {
            return if header.producer_id < 0 { Judged::Gap } else { Judged::Same(bytes, NO_HORIZON) };
        }
        let known = header.delete_horizon_ms().filter(|_| header.next_offset() <= self.compacted_to);
        // Whether a transaction was committed is not known here: its tombstones stay.
        let may_begin = known.is_none() && header.next_offset() <= self.mapped_to && !header.is_transactional();
        let begun = may_begin.then(|| self.now.saturating_add(self.delete_retention_ms));
        let is_over = known.is_some_and(|horizon| horizon <= self.now);
        let mut counted = Counted::default();
        let keep = |record: &RecordRef<'_>| self.keep(record, is_over, &mut counted);
        let judged = match retain(&bytes, DECOMPRESSED_BYTES_MAX, begun, keep) {
            // Its producer has sent it so: nobody can read what is inside.
            Err(_) => return Judged::Same(bytes, NO_HORIZON),
            Ok(Retained::Nothing) if header.is_transactional() => {
                let empty = empty_batch(header.base_offset, header.last_offset_delta, Some(header));
                Judged::Changed(empty, NO_HORIZON)
            }
            Ok(Retained::Nothing) => Judged::Gap,
            Ok(retained) => {
                let horizon = known.or(begun).filter(|_| counted.tombstones > 0).unwrap_or(NO_HORIZON);
                match retained {
                    Retained::Changed(changed) => Judged::Changed(changed, horizon),
                    Retained::Unchanged | Retained::Nothing => Judged::Same(bytes, horizon),
                }
            }
        };
        report.records_removed += counted.removed;
        report.tombstones_removed += counted.expired;
        judged
    }

    fn keep(&self, record: &RecordRef<'_>, is_over: bool, counted: &mut Counted) -> bool {
        // A record without a key stands for itself.
        let is_superseded = || {
            let last = record.key.and_then(|key| self.map.get(hash_of(key)));
            last.is_some_and(|last| last > record.offset)
        };
        if record.offset < self.start || is_superseded() {
            counted.removed += 1;
            return false;
        }
        let is_tombstone = record.key.is_some() && record.value.is_none();
        if is_tombstone && is_over {
            counted.expired += 1;
            return false;
        }
        counted.tombstones += u64::from(is_tombstone);
        true
    }
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Output {
    partition: TopicPartition,
    name: SegmentName,
    file: Arc<dyn DiskFile>,
    index: SegmentIndex,
    index_interval: u64,
    buffer: Vec<u8>,
    /// Bytes that stand in the file already.
    written: u64,
    /// Offsets below are written, or in a gap that is not written yet.
    next_offset: i64,
    gap_from: Option<i64>,
    max_timestamp: i64,
    delete_horizon: i64,
    has_changed: bool,
}

impl Output {
    pub(super) fn new(
        partition: TopicPartition,
        name: SegmentName,
        file: Arc<dyn DiskFile>,
        index_interval: u64,
    ) -> Self {
        Self {
            partition,
            name,
            file,
            index: SegmentIndex::new(name.base_offset),
            index_interval,
            buffer: Vec::new(),
            written: 0,
            next_offset: name.base_offset,
            gap_from: None,
            max_timestamp: -1,
            delete_horizon: NO_HORIZON,
            has_changed: false,
        }
    }

    pub(super) fn name(&self) -> SegmentName {
        self.name
    }

    pub(super) fn path(&self) -> String {
        self.name.path(self.partition, "log")
    }

    /// Judges a batch and writes what is left of it.
    pub(super) fn take(
        &mut self,
        judge: &Judge<'_>,
        header: &BatchHeader,
        bytes: Bytes,
        report: &mut CompactionReport,
    ) -> io::Result<()> {
        let judged = judge.batch(header, bytes, report);
        self.has_changed |= match &judged {
            Judged::Same(..) => false,
            Judged::Changed(..) => true,
            Judged::Gap => header.record_count > 0,
        };
        match judged {
            Judged::Gap => {
                self.gap_from.get_or_insert(header.base_offset);
            }
            Judged::Same(bytes, horizon) | Judged::Changed(bytes, horizon) => {
                self.write_gap()?;
                self.delete_horizon = self.delete_horizon.min(horizon);
                self.put(&bytes)?;
            }
        }
        self.next_offset = header.next_offset();
        Ok(())
    }

    fn write_gap(&mut self) -> io::Result<()> {
        let Some(mut from) = self.gap_from.take() else { return Ok(()) };
        while from < self.next_offset {
            let delta = i32::try_from(self.next_offset - from - 1).unwrap_or(i32::MAX);
            self.put(&empty_batch(from, delta, None))?;
            from += i64::from(delta) + 1;
        }
        Ok(())
    }

    fn put(&mut self, batch: &[u8]) -> io::Result<()> {
        if let Ok(header) = BatchHeader::parse(batch) {
            self.index.push(&header, self.len(), self.index_interval);
            self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        }
        self.buffer.extend_from_slice(batch);
        if self.buffer.len() >= CHUNK_BYTES { self.write_out() } else { Ok(()) }
    }

    fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left. `newest` stands for the time of a segment in which no record is left.
    pub(super) fn finish(mut self, newest: i64) -> io::Result<Finished> {
        self.write_gap()?;
        if !self.buffer.is_empty() {
            self.write_out()?;
        }
        let max_timestamp = if self.max_timestamp < 0 { newest } else { self.max_timestamp };
        let segment = Segment::named(self.partition, self.name, self.delete_horizon, self.written, max_timestamp);
        Ok(Finished { segment: Arc::new(segment), file: self.file, index: self.index, has_changed: self.has_changed })
    }
}

/// A segment that is written and not yet synced.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) index: SegmentIndex,
    /// Whether a batch is not as it was.
    pub(super) has_changed: bool,
}

/// Why a segment cannot be read on.
#[derive(Debug)]
pub(super) enum SourceError {
    Failed(Failure),
    /// First offset that cannot be read, and the place.
    Damaged(i64, String),
}

/// The batches of a segment, one after the other, their CRCs right.
#[derive(Debug)]
pub(super) struct Source {
    path: String,
    file: Arc<dyn DiskFile>,
    /// Where the next batch begins, and so does the buffer.
    position: u64,
    buffer: Bytes,
    end: u64,
    offset: i64,
}

impl Source {
    pub(super) fn new(segment: &Segment, file: Arc<dyn DiskFile>) -> Self {
        let (path, end, offset) = (segment.path(), segment.len(), segment.base_offset);
        Self { path, file, position: 0, buffer: Bytes::new(), end, offset }
    }

    pub(super) fn next(&mut self) -> Result<Option<(BatchHeader, Bytes)>, SourceError> {
        if self.position >= self.end {
            return Ok(None);
        }
        self.fill(HEADER_BYTES)?;
        let header = parse_at(&self.buffer, self.offset);
        let fits = |header: &BatchHeader| self.position + header.total_bytes() as u64 <= self.end;
        let Some(header) = header.filter(fits) else {
            return Err(self.damaged(&format!("no batch of offset {}", self.offset)));
        };
        self.fill(header.total_bytes())?;
        if !self.buffer.get(..header.total_bytes()).is_some_and(verify_crc) {
            return Err(self.damaged("the checksum of the batch is wrong"));
        }
        self.position += header.total_bytes() as u64;
        self.offset = header.next_offset();
        Ok(Some((header, self.buffer.split_to(header.total_bytes()))))
    }

    /// Has at least `wanted` bytes in the buffer, or all up to the end.
    fn fill(&mut self, wanted: usize) -> Result<(), SourceError> {
        if self.buffer.len() >= wanted {
            return Ok(());
        }
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(wanted.max(CHUNK_BYTES))];
        match self.file.read_exact_at(&mut bytes, self.position) {
            Ok(()) => self.buffer = Bytes::from(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.damaged("the file ends too early"));
            }
            Err(source) => return Err(SourceError::Failed(at(&self.path)(source))),
        }
        Ok(())
    }

    fn damaged(&self, what: &str) -> SourceError {
        SourceError::Damaged(self.offset, format!("{} at byte {}: {what}", self.path, self.position))
    }
}
