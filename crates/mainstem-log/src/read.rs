//! Reading: batches by offset, offsets by time, the order.
//!
//! Always true here: what is answered lies below the high watermark that was read first; every batch's header follows the
//! one before it when it is first read in this life (writing it counts), or the partition stops there. The CRC of a batch is
//! the reader's to check.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use mainstem_disk::FileRange;
use mainstem_kafka_wire::batch::{BatchHeader, HEADER_BYTES};
use mainstem_kafka_wire::records::records;

use crate::failure::at;
use crate::partition::{DamagedAt, Partition, ReadHint};
use crate::segment::{HeaderScan, OpenSegment, ScanError, Segment, SegmentIndex, parse_at};
use crate::shared::Shared;
use crate::{Read, ReadError, Stored, TopicPartition};

/// Read beyond what was asked for, to step over the batches between an index entry and the offset.
const SLACK_BYTES: usize = 8 << 10;
/// Room for more than this is made only after a look at how long the file really is.
const ROOM_BYTES: usize = 1 << 20;

/// Fewer are read: that costs less than to send them from the file.
const IN_PLACE_BYTES_MIN: u64 = 32 << 10;
/// Smaller batches are read: each header that is read alone costs a call.
const LARGE_BATCH_BYTES: usize = 4 << 10;

/// What a reader wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) offset: i64,
    pub(crate) end: i64,
    pub(crate) bytes_max: usize,
    pub(crate) at_least_one: bool,
}

/// Whole batches found in one segment.
struct Found {
    batches: Bytes,
    next_offset: i64,
    position: u64,
}

/// Where a batch is believed to begin.
#[derive(Clone, Copy)]
struct Place {
    offset: i64,
    position: u64,
}

/// What a reader may have of a partition.
struct Bounds {
    partition: Arc<Partition>,
    /// Ends where the reader may not see further.
    wanted: Wanted,
    high_watermark: i64,
    start_offset: i64,
}

impl Bounds {
    fn is_at_end(&self) -> bool {
        let wanted = self.wanted;
        wanted.offset >= wanted.end || wanted.bytes_max == 0 && !wanted.at_least_one
    }

    fn answer<B>(&self, batches: B, next_offset: i64) -> Read<B> {
        Read { batches, next_offset, high_watermark: self.high_watermark, start_offset: self.start_offset }
    }
}

impl Shared {
    pub(crate) fn read(&self, id: TopicPartition, wanted: Wanted) -> Result<Read, ReadError> {
        self.read_within(&self.bounds(id, wanted)?)
    }

    pub(crate) fn read_in_place(&self, id: TopicPartition, wanted: Wanted) -> Result<Read<Stored>, ReadError> {
        let bounds = self.bounds(id, wanted)?;
        match if bounds.is_at_end() { None } else { self.locate(&bounds.partition, bounds.wanted) } {
            Some((range, next_offset)) => Ok(bounds.answer(Stored::File(range), next_offset)),
            None => {
                let read = self.read_within(&bounds)?;
                Ok(bounds.answer(Stored::Memory(read.batches), read.next_offset))
            }
        }
    }

    /// Where many batches stand. As far as the headers were seen in this life the index says where they end; before that large
    /// ones are walked over, by their headers only. `None` when they are better read: few bytes, small batches, a hole in
    /// front, damage.
    fn locate(&self, partition: &Partition, wanted: Wanted) -> Option<(FileRange, i64)> {
        let (segment, open) = self.open_segment_of(partition, wanted.offset).ok()?;
        let hint = partition.hint(wanted.offset).filter(|hint| hint.segment == segment.name());
        let place = match hint {
            Some(hint) => Place { offset: hint.offset, position: hint.position },
            None => self.look_up(partition, &segment, &open, |index| index.before_offset(wanted.offset)).ok()?,
        };
        let end = segment.len();
        if end.saturating_sub(place.position) < IN_PLACE_BYTES_MIN {
            return None;
        }
        let mut scan = HeaderScan { file: &open.file, position: place.position, end, offset: place.offset };
        let (first, begin) = loop {
            let found = scan.next().ok()??;
            if found.0.next_offset() > wanted.offset {
                break found;
            }
        };
        if first.record_count == 0 {
            return None;
        }
        let bytes_max = wanted.bytes_max as u64;
        let known = open.index.lock().as_ref().and_then(|index| index.end_of_range(begin, bytes_max, wanted.end));
        let (end, next_offset) = match known.filter(|(end, _)| end - begin >= IN_PLACE_BYTES_MIN) {
            Some(known) => known,
            None => walk_large(scan, (&first, begin), wanted)?,
        };
        // A file that became shorter is damage, which reading finds.
        open.file.len().ok().filter(|len| *len >= end && end - begin >= IN_PLACE_BYTES_MIN)?;
        partition.remember(ReadHint { offset: next_offset, segment: segment.name(), position: end });
        Some((FileRange::new(Arc::clone(&open.file), begin, usize::try_from(end - begin).ok()?), next_offset))
    }

    fn bounds(&self, id: TopicPartition, wanted: Wanted) -> Result<Bounds, ReadError> {
        let partition = self.find(id).ok_or(ReadError::UnknownPartition(id))?;
        let (high_watermark, start_offset) = (partition.high_watermark(), partition.start());
        let offset = wanted.offset;
        if offset < start_offset || offset > high_watermark {
            return Err(ReadError::OutOfRange { offset, start: start_offset, end: high_watermark });
        }
        let mut end = high_watermark.min(wanted.end);
        if let Some(damage) = partition.damage() {
            if offset >= damage.offset {
                return Err(damaged(id, damage));
            }
            end = end.min(damage.offset);
        }
        Ok(Bounds { partition, wanted: Wanted { end, ..wanted }, high_watermark, start_offset })
    }

    fn read_within(&self, bounds: &Bounds) -> Result<Read, ReadError> {
        let mut wanted = bounds.wanted;
        if bounds.is_at_end() {
            return Ok(bounds.answer(Bytes::new(), wanted.offset));
        }
        loop {
            let found = self.read_segment(&bounds.partition, wanted)?;
            let skipped = empty_bytes(&found.batches);
            let has_records = skipped < found.batches.len();
            if has_records || found.batches.is_empty() || found.next_offset >= wanted.end {
                // Before the end a batch without records comes after all: a Kafka client gets on by it.
                let batches = if has_records { found.batches.slice(skipped..) } else { found.batches };
                // It may reach behind the end; what is asked for does not.
                return Ok(bounds.answer(batches, found.next_offset.min(wanted.end)));
            }
            wanted.offset = found.next_offset;
        }
    }

    fn read_segment(&self, partition: &Partition, wanted: Wanted) -> Result<Found, ReadError> {
        let (segment, open) = self.open_segment_of(partition, wanted.offset)?;
        let hint = partition.hint(wanted.offset).filter(|hint| hint.segment == segment.name());
        let place = match hint {
            Some(hint) => Place { offset: hint.offset, position: hint.position },
            None => self.look_up(partition, &segment, &open, |index| index.before_offset(wanted.offset))?,
        };
        let found = match collect(&open.file, segment.len(), place, wanted) {
            // The place may be what is wrong: an index is never evidence.
            Err(ScanError::Damaged { .. }) if place.position > 0 => {
                *open.index.lock() = None;
                self.rebuild(partition, &segment, &open)?;
                let place = self.look_up(partition, &segment, &open, |index| index.before_offset(wanted.offset))?;
                collect(&open.file, segment.len(), place, wanted)
            }
            other => other,
        };
        let found = found.map_err(|error| self.stop(partition, &segment, error))?;
        let (offset, position) = (found.next_offset, found.position);
        if !found.batches.is_empty() {
            partition.remember(ReadHint { offset, segment: segment.name(), position });
        }
        Ok(found)
    }

    /// Stored bytes of the offsets in `from..until`, short of at most one batch and one step of the index at either end.
    pub(crate) fn bytes_between(&self, id: TopicPartition, from: i64, until: i64) -> u64 {
        let Some(partition) = self.find(id) else { return 0 };
        let is_end = until >= partition.high_watermark();
        let segments = partition.segments();
        let first = segments.partition_point(|segment| segment.base_offset <= from).saturating_sub(1);
        let reached = segments.iter().skip(first).take_while(|segment| segment.base_offset < until);
        let position = |segment: &Segment, offset: i64| -> Result<u64, ReadError> {
            let open = self.open_segment(&partition, segment, offset)?;
            Ok(self.look_up(&partition, segment, &open, |index| index.before_offset(offset))?.position)
        };
        let in_segment = |(at, segment): (usize, &Arc<Segment>)| {
            let begin = if segment.base_offset < from { position(segment, from).unwrap_or(0) } else { 0 };
            let is_last = segments.get(first + at + 1).is_none_or(|next| next.base_offset >= until);
            let end = if is_last && !is_end { position(segment, until).ok() } else { None };
            end.unwrap_or_else(|| segment.len()).saturating_sub(begin)
        };
        reached.enumerate().map(in_segment).sum()
    }

    /// The segment that holds `offset`. Compaction may put another in its place before it is open.
    fn open_segment_of(
        &self,
        partition: &Partition,
        offset: i64,
    ) -> Result<(Arc<Segment>, Arc<OpenSegment>), ReadError> {
        loop {
            let segment = partition.segment_of(offset).ok_or_else(|| {
                let (start, end) = (partition.start(), partition.high_watermark());
                ReadError::OutOfRange { offset, start, end }
            })?;
            match self.open_segment(partition, &segment, offset) {
                Ok(open) => return Ok((segment, open)),
                Err(error) => {
                    if partition.segment_of(offset).is_none_or(|now| Arc::ptr_eq(&now, &segment)) {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn open_segment(
        &self,
        partition: &Partition,
        segment: &Segment,
        offset: i64,
    ) -> Result<Arc<OpenSegment>, ReadError> {
        self.storage.segments.open(segment).map_err(|error| {
            let (start, end) = (partition.start(), partition.high_watermark());
            if error.kind() == io::ErrorKind::NotFound && offset < start {
                return ReadError::OutOfRange { offset, start, end };
            }
            at(&segment.path())(error).into()
        })
    }

    /// Asks the segment's index, loading it when needed.
    fn look_up(
        &self,
        partition: &Partition,
        segment: &Segment,
        open: &OpenSegment,
        ask: impl Fn(&SegmentIndex) -> (i64, u64),
    ) -> Result<Place, ReadError> {
        let mut guard = open.index.lock();
        if guard.is_none() {
            let loaded = SegmentIndex::load(&*self.storage.disk, segment, &open.file, self.storage.index_interval);
            match loaded {
                Ok(index) => *guard = Some(index),
                // Behind the index there is damage: what lies before it can be read without one.
                Err(ScanError::Damaged { .. }) => return Ok(Place { offset: segment.base_offset, position: 0 }),
                Err(error) => return Err(self.stop(partition, segment, error)),
            }
        }
        let (offset, position) = guard.as_ref().map_or((segment.base_offset, 0), ask);
        Ok(Place { offset, position })
    }

    fn rebuild(&self, partition: &Partition, segment: &Segment, open: &OpenSegment) -> Result<(), ReadError> {
        match SegmentIndex::rebuild(segment, &open.file, self.storage.index_interval) {
            Ok(index) => *open.index.lock() = Some(index),
            // The walk from the start will find the damage where it is.
            Err(ScanError::Damaged { .. }) => {}
            Err(error) => return Err(self.stop(partition, segment, error)),
        }
        Ok(())
    }

    /// Stops a partition at damage.
    fn stop(&self, partition: &Partition, segment: &Segment, error: ScanError) -> ReadError {
        match error {
            ScanError::Io(error) => at(&segment.path())(error).into(),
            ScanError::Damaged { position, offset } => {
                let place = format!("{} at byte {position}: no batch of offset {offset}", segment.path());
                let damage = DamagedAt { offset, place };
                if partition.stop_at(damage.clone()) {
                    tracing::error!(partition = %partition.id, place = %damage.place, "damaged");
                }
                damaged(partition.id, damage)
            }
        }
    }

    /// Offset and time of the first record whose timestamp is at least `timestamp`.
    pub(crate) fn offset_for_timestamp(
        &self,
        id: TopicPartition,
        timestamp: i64,
    ) -> Result<Option<(i64, i64)>, ReadError> {
        let partition = self.find(id).ok_or(ReadError::UnknownPartition(id))?;
        loop {
            let segments = partition.segments();
            match self.search(&partition, &segments, timestamp) {
                // Compaction may have replaced one before it was open.
                Err(ReadError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && !is_same(&segments, &partition.segments()) => {}
                found => return found,
            }
        }
    }

    fn search(
        &self,
        partition: &Partition,
        segments: &[Arc<Segment>],
        timestamp: i64,
    ) -> Result<Option<(i64, i64)>, ReadError> {
        let (start, end) = (partition.start(), partition.high_watermark());
        for segment in segments.iter().filter(|segment| segment.max_timestamp() >= timestamp) {
            if segment.base_offset >= end {
                break;
            }
            let open = self.open_segment(partition, segment, segment.base_offset)?;
            let place = self.look_up(partition, segment, &open, |index| index.before_timestamp(timestamp))?;
            let (position, offset) = (place.position, place.offset);
            let mut scan = HeaderScan { file: &open.file, position, end: segment.len(), offset };
            loop {
                let next = scan.next().map_err(|error| self.stop(partition, segment, error))?;
                let Some((header, position)) = next.filter(|(header, _)| header.base_offset < end) else { break };
                if header.max_timestamp < timestamp || header.next_offset() <= start {
                    continue;
                }
                if let Some(found) = self.record_at(partition, segment, &open, (&header, position), timestamp)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    fn record_at(
        &self,
        partition: &Partition,
        segment: &Segment,
        open: &OpenSegment,
        (header, position): (&BatchHeader, u64),
        timestamp: i64,
    ) -> Result<Option<(i64, i64)>, ReadError> {
        let broken = || self.stop(partition, segment, ScanError::Damaged { position, offset: header.base_offset });
        let path = segment.path();
        let bytes = read_up_to(&open.file, position, segment.len(), header.total_bytes()).map_err(at(&path))?;
        if bytes.len() < header.total_bytes() {
            return Err(broken());
        }
        for record in records(&Bytes::from(bytes)).map_err(|_| broken())? {
            let record = record.map_err(|_| broken())?;
            if record.timestamp >= timestamp && record.offset >= partition.start() {
                return Ok(Some((record.offset, record.timestamp)));
            }
        }
        Ok(None)
    }
}

/// Where the large batches end that begin with `first`, which the scan is behind, and the offset there. `None` when that is
/// a small one, or does not fit.
fn walk_large(mut scan: HeaderScan<'_>, first: (&BatchHeader, u64), wanted: Wanted) -> Option<(u64, i64)> {
    let (mut header, begin) = (*first.0, first.1);
    let mut found = None;
    loop {
        let fits = scan.position - begin <= wanted.bytes_max as u64 || found.is_none() && wanted.at_least_one;
        let is_large = header.total_bytes() >= LARGE_BATCH_BYTES && header.record_count > 0;
        if !is_large || !fits || header.next_offset() > wanted.end {
            return found;
        }
        found = Some((scan.position, header.next_offset()));
        match scan.next() {
            Ok(Some((next, _))) => header = next,
            _ => return found,
        }
    }
}

fn is_same(before: &[Arc<Segment>], now: &[Arc<Segment>]) -> bool {
    before.len() == now.len() && before.iter().zip(now).all(|(before, now)| Arc::ptr_eq(before, now))
}

/// Bytes of the batches at the front that have no records: a reader inside a hole begins with what follows it.
fn empty_bytes(batches: &[u8]) -> usize {
    let mut position = 0;
    while let Some(Ok(header)) = batches.get(position..).filter(|rest| !rest.is_empty()).map(BatchHeader::parse) {
        if header.record_count > 0 {
            break;
        }
        position += header.total_bytes();
    }
    position
}

pub(crate) fn damaged(partition: TopicPartition, damage: DamagedAt) -> ReadError {
    ReadError::Damaged { partition, offset: damage.offset, place: damage.place }
}

/// Whole batches from the one that holds `wanted.offset` on, walking from `place`.
fn collect(
    file: &Arc<dyn mainstem_disk::DiskFile>,
    len: u64,
    mut place: Place,
    wanted: Wanted,
) -> Result<Found, ScanError> {
    let mut room = wanted.bytes_max.saturating_add(SLACK_BYTES);
    loop {
        let buffer = read_up_to(file, place.position, len, room).map_err(ScanError::Io)?;
        match walk(&buffer, place, wanted)? {
            Walk::Found { start, end, next_offset } => {
                let position = place.position + end as u64;
                return Ok(Found { batches: Bytes::from(buffer).slice(start..end), next_offset, position });
            }
            Walk::Skip { bytes, offset } => {
                place = Place { offset, position: place.position + bytes as u64 };
            }
            Walk::Need { bytes, offset, batch_bytes } => {
                // With room for the whole batch, a batch that is not whole ends with the file.
                let is_cut = bytes == 0 && room >= batch_bytes;
                place = Place { offset, position: place.position + bytes as u64 };
                if is_cut || place.position + batch_bytes as u64 > len {
                    return Err(ScanError::Damaged { position: place.position, offset });
                }
                room = batch_bytes;
            }
        }
    }
}

fn read_up_to(file: &Arc<dyn mainstem_disk::DiskFile>, position: u64, len: u64, room: usize) -> io::Result<Vec<u8>> {
    let mut bytes = usize::try_from(len.saturating_sub(position)).unwrap_or(usize::MAX).min(room);
    if bytes > ROOM_BYTES {
        // A segment may be shorter than it was, and a batch's length is not to be believed beyond its end.
        bytes = usize::try_from(file.len()?.saturating_sub(position)).unwrap_or(usize::MAX).min(bytes);
    }
    let mut buffer = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        match file.read_at(buffer.get_mut(filled..).unwrap_or_default(), position + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// How a walk over a buffer ended.
enum Walk {
    /// Batches in `start..end`, none when none fits.
    Found { start: usize, end: usize, next_offset: i64 },
    /// All that is in the buffer lies before the offset.
    Skip { bytes: usize, offset: i64 },
    /// The first batch begins after `bytes` and is larger than the buffer.
    Need { bytes: usize, offset: i64, batch_bytes: usize },
}

fn walk(buffer: &[u8], place: Place, wanted: Wanted) -> Result<Walk, ScanError> {
    let mut position = 0;
    let mut offset = place.offset;
    let mut start = None;
    loop {
        let rest = buffer.get(position..).unwrap_or_default();
        if start.is_some() && (offset >= wanted.end || rest.len() < HEADER_BYTES) {
            break;
        }
        if rest.len() < HEADER_BYTES {
            // At the very front this is a file that ends too early.
            let at_front = position == 0;
            let damage = ScanError::Damaged { position: place.position, offset };
            return if at_front { Err(damage) } else { Ok(Walk::Skip { bytes: position, offset }) };
        }
        let damage = ScanError::Damaged { position: place.position + position as u64, offset };
        let Some(header) = parse_at(rest, offset) else {
            // What lies before it can still be read.
            if start.is_some() {
                break;
            }
            return Err(damage);
        };
        let total = header.total_bytes();
        if header.next_offset() > wanted.offset {
            let begin = start.unwrap_or(position);
            let is_first = start.is_none();
            if position + total - begin > wanted.bytes_max && !(is_first && wanted.at_least_one) {
                start = Some(begin);
                break;
            }
            if total > rest.len() {
                if is_first {
                    return Ok(Walk::Need { bytes: position, offset, batch_bytes: total });
                }
                break;
            }
            start = Some(begin);
        }
        position += total;
        offset = header.next_offset();
        if position > buffer.len() {
            return Ok(Walk::Skip { bytes: position, offset });
        }
    }
    let start = start.unwrap_or(position);
    let next_offset = if position > start { offset } else { wanted.offset };
    Ok(Walk::Found { start, end: position, next_offset })
}

#[cfg(test)]
mod tests {
    use mainstem_disk::{Disk, Open};
    use mainstem_testkit::SimDisk;

    use super::*;

    #[test]
    fn no_more_room_is_made_than_the_file_is_long() {
        let disk = SimDisk::new(1);
        let file = disk.open("f", Open::Create).unwrap();
        file.write_at(&[7; 100], 0).unwrap();
        for (position, found) in [(0, 100), (40, 60), (200, 0)] {
            let buffer = read_up_to(&file, position, 1 << 40, 2 << 30).unwrap();
            assert_eq!((buffer.len(), buffer.capacity()), (found, found));
        }
    }
}
