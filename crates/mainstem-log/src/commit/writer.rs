//! What the committing thread owns: the end of the commit log, and the tail of every partition.
//!
//! Words: a *tail* is where a partition's next batch goes; it is *planned* when a block is built and *applied* when
//! the block is durable and its batches stand in the segments.
//!
//! Always true here: up to the end that is applied, segments hold only batches whose block was durable. Behind it there may be
//! placed ones, which come before their block and count only with it; a start cuts off those whose block never came.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstem_disk::{Disk, DiskFile};
use mainstem_kafka_wire::batch::{BatchHeader, patch_base_offset, patch_leader_epoch};

use super::block::{ALIGNMENT, BlockBuilder, BlockHeader, PartHeader, Spool};
use super::file::{CommitFiles, slot_path};
use super::place::Placing;
use crate::checkpoint::{CommitPosition, PartitionImage, SegmentImage};
use crate::failure::{Failure, at};
use crate::order::Order;
use crate::partition::{DamagedAt, Partition};
use crate::producer::ProducerTable;
use crate::segment::{OpenSegments, SEGMENT_BYTES_MAX, ScanError, Segment, SegmentIndex, SegmentName};
use crate::sequence::{Queued, QueuedPart};
use crate::{Csn, OrderStep, TopicPartition};

/// What writing needs from the rest of the log.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) segments: OpenSegments,
    pub(crate) order: Order,
    pub(crate) index_interval: u64,
    pub(crate) commit_file_bytes: u64,
    pub(crate) placed_bytes_min: usize,
}

/// The end of one partition.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) partition: Arc<Partition>,
    pub(crate) end_offset: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producers: ProducerTable,
    segment: Option<Arc<Segment>>,
    /// Segments with placed parts that are not applied.
    begun: Vec<Arc<Segment>>,
    /// The segment whose name is known to be durable, by its base offset.
    named: Option<i64>,
    /// Segment and position after the parts planned so far.
    planned: Option<(i64, u64)>,
    planned_end: i64,
}

/// The end of everything.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) log_id: u64,
    pub(crate) next: CommitPosition,
    file: Option<Arc<dyn DiskFile>>,
    /// Newest entry that is durable and stands in its segments.
    pub(crate) applied: Csn,
    pub(crate) tails: BTreeMap<TopicPartition, Tail>,
    ends_before: Vec<(TopicPartition, i64)>,
    pub(crate) dirty: Dirty,
    pub(crate) since_checkpoint: u64,
    buffer: Vec<u8>,
}

/// What the next checkpoint has to sync.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) segments: BTreeMap<(TopicPartition, SegmentName), Arc<Segment>>,
    /// Partitions with new names in their directories.
    pub(crate) directories: BTreeSet<TopicPartition>,
    pub(crate) order_from: Csn,
}

/// What a commit did.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Partitions that advanced, with their new ends.
    pub(crate) advanced: Vec<(TopicPartition, i64)>,
    pub(crate) block_bytes: u64,
    pub(crate) segment_bytes: u64,
}

/// The leader epoch of all batches: there is one node, and it never loses what it acknowledged.
const LEADER_EPOCH: i32 = 0;

/// The bytes of a part that is applied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bytes<'a> {
    /// They have to be written to the segment.
    Missing(&'a [u8]),
    /// They stand there.
    There(&'a [u8]),
}

/// A block in memory.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Vec<u8>,
    crc: u32,
    pub(crate) last: Csn,
    parts: Vec<(Csn, Vec<Planned>)>,
    placed_bytes: u64,
}

/// A part, and where its batches are until it is applied.
#[derive(Debug)]
struct Planned {
    header: PartHeader,
    batches: PlannedBatches,
}

#[derive(Debug)]
enum PlannedBatches {
    /// In the block's bytes.
    Inline(std::ops::Range<usize>),
    /// In their segment, and here.
    Placed(Vec<u8>),
}

impl Tail {
    pub(crate) fn new(partition: Arc<Partition>) -> Self {
        Self {
            partition,
            end_offset: 0,
            max_timestamp: -1,
            producers: ProducerTable::default(),
            segment: None,
            begun: Vec::new(),
            named: None,
            planned: None,
            planned_end: 0,
        }
    }

    /// A tail as a checkpoint or recovery found it.
    pub(crate) fn at(partition: Arc<Partition>, end_offset: i64, producers: ProducerTable) -> Self {
        let segment = partition.segments().last().cloned();
        let planned = segment.as_ref().map(|segment| (segment.base_offset, segment.len()));
        let max_timestamp = partition.max_timestamp();
        let begun = Vec::new();
        Self {
            partition,
            end_offset,
            max_timestamp,
            producers,
            segment,
            begun,
            named: None,
            planned,
            planned_end: end_offset,
        }
    }

    /// The active segment and its length.
    pub(crate) fn segment(&self) -> Option<(i64, u64)> {
        self.segment.as_ref().map(|segment| (segment.base_offset, segment.len()))
    }

    /// The segment that a part is applied to, begun when it is not there yet.
    fn segment_for(
        &mut self,
        storage: &Storage,
        dirty: &mut Dirty,
        header: &PartHeader,
    ) -> Result<Arc<Segment>, Failure> {
        if let Some(segment) = self.segment.as_ref().filter(|segment| segment.base_offset == header.segment) {
            return Ok(Arc::clone(segment));
        }
        let segment = self.begin(storage, header)?;
        self.begun.retain(|begun| begun.base_offset > header.segment);
        self.partition.add_segment(Arc::clone(&segment));
        self.segment = Some(Arc::clone(&segment));
        dirty.directories.insert(header.to);
        Ok(segment)
    }

    /// The segment that a part is placed in. A new one is nobody else's before the part is applied.
    pub(super) fn segment_to_place(&mut self, storage: &Storage, header: &PartHeader) -> Result<Arc<Segment>, Failure> {
        if let Some(segment) = self.segment.as_ref().filter(|segment| segment.base_offset == header.segment) {
            return Ok(Arc::clone(segment));
        }
        let segment = self.begin(storage, header)?;
        if self.begun.iter().all(|begun| begun.base_offset != header.segment) {
            self.begun.push(Arc::clone(&segment));
        }
        Ok(segment)
    }

    fn begin(&self, storage: &Storage, header: &PartHeader) -> Result<Arc<Segment>, Failure> {
        if let Some(segment) = self.begun.iter().find(|begun| begun.base_offset == header.segment) {
            return Ok(Arc::clone(segment));
        }
        let segment = Arc::new(Segment::new(header.to, header.segment, 0, -1));
        storage.segments.create(&segment).map_err(at(&segment.path()))?;
        Ok(segment)
    }

    /// Whether the name of this segment may not be durable; from now on the caller sees to it.
    pub(super) fn take_unnamed(&mut self, segment: i64) -> bool {
        self.named.replace(segment) != Some(segment)
    }

    fn plan(&mut self, base_offset: i64, end_offset: i64, length: usize) -> PartHeader {
        let limit = self.partition.config().segment_bytes.clamp(1, SEGMENT_BYTES_MAX);
        let (segment, position) = match self.planned {
            Some((segment, position)) if position + length as u64 <= limit => (segment, position),
            _ => (base_offset, 0),
        };
        assert_eq!(base_offset, self.planned_end, "offsets of {} are dense", self.partition.id);
        self.planned = Some((segment, position + length as u64));
        self.planned_end = end_offset;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        PartHeader { to: self.partition.id, base_offset, end_offset, segment, position, length }
    }
}

impl Writer {
    pub(crate) fn new(log_id: u64, next: CommitPosition, applied: Csn) -> Self {
        Self {
            log_id,
            next,
            file: None,
            applied,
            tails: BTreeMap::new(),
            ends_before: Vec::new(),
            dirty: Dirty::default(),
            since_checkpoint: 0,
            buffer: Vec::new(),
        }
    }

    /// Builds the block of these entries in memory. Large parts are placed.
    pub(crate) fn build(&mut self, storage: &Storage, entries: &[Queued]) -> Result<Block, Failure> {
        let new: Vec<(Csn, &[QueuedPart])> =
            entries.iter().filter(|entry| entry.is_new()).map(|entry| (entry.csn, &*entry.parts)).collect();
        self.build_block(storage, &new, Spool::default())
    }

    /// Builds a block of a spooled entry: some of its parts, or parts of them.
    pub(crate) fn build_spooled(
        &mut self,
        storage: &Storage,
        csn: Csn,
        parts: &[QueuedPart],
        spool: Spool,
    ) -> Result<Block, Failure> {
        self.build_block(storage, &[(csn, parts)], spool)
    }

    fn build_block(
        &mut self,
        storage: &Storage,
        entries: &[(Csn, &[QueuedPart])],
        spool: Spool,
    ) -> Result<Block, Failure> {
        let mut placing = Placing::default();
        let mut buffer = std::mem::take(&mut self.buffer);
        // The first block of a spooled entry says where the block before stood; what follows the last says it of all.
        let ends_before: &[_] = if spool.continues { &[] } else { &self.ends_before };
        let mut builder = BlockBuilder::new(&mut buffer, ends_before);
        let mut parts: Vec<(Csn, Vec<Planned>)> = Vec::new();
        for (csn, queued) in entries {
            let kept: Vec<_> = queued.iter().filter(|part| !part.partition.is_deleted()).collect();
            builder.entry(*csn, kept.len());
            let mut planned = Vec::with_capacity(kept.len());
            for part in kept {
                let tail =
                    self.tails.entry(part.partition.id).or_insert_with(|| Tail::new(Arc::clone(&part.partition)));
                let header = tail.plan(part.base_offset, part.end_offset, part.batches.len());
                let is_large = part.batches.len() >= storage.placed_bytes_min;
                let placed = if is_large { placing.place(storage, tail, &header, &part.batches)? } else { None };
                let batches = if let Some((bytes, crc)) = placed {
                    builder.placed(&header, crc);
                    PlannedBatches::Placed(bytes)
                } else {
                    let range = builder.part(&header, &part.batches);
                    patch(builder.bytes_mut(range.clone()), part.base_offset);
                    PlannedBatches::Inline(range)
                };
                planned.push(Planned { header, batches });
            }
            parts.push((*csn, planned));
        }
        let first = parts.first().map_or(self.applied, |(csn, _)| *csn);
        let last = parts.last().map_or(self.applied, |(csn, _)| *csn);
        assert!(parts.is_empty() || first == self.applied.next(), "CSNs are dense");
        let header = BlockHeader {
            spool,
            log_id: self.log_id,
            generation: self.next.generation,
            number: self.next.block_number,
            first,
            last,
            durable: self.applied,
            previous_crc: self.next.previous_crc,
            payload_bytes: 0,
            payload_crc: 0,
        };
        let total = (builder.len() as u64).next_multiple_of(ALIGNMENT as u64);
        let header = BlockHeader { generation: self.place(total, storage.commit_file_bytes), ..header };
        let crc = builder.finish(header);
        placing.sync(&*storage.disk)?;
        Ok(Block { bytes: buffer, crc, last, parts, placed_bytes: placing.bytes })
    }

    /// Moves to the next generation when the block does not fit the file.
    fn place(&mut self, total: u64, file_bytes: u64) -> u64 {
        if self.next.position > 0 && self.next.position + total > file_bytes {
            self.next.generation += 1;
            self.next.position = 0;
            self.file = None;
        }
        self.next.generation
    }

    /// Makes sure that there is a file for the next block.
    pub(crate) fn ready(&mut self, disk: &dyn Disk, files: &mut CommitFiles) -> Result<(), Failure> {
        if self.file.is_none() {
            let (slot, file) = files.begin(disk, self.next.generation).map_err(at("a commit log file"))?;
            self.next.slot = slot;
            self.file = Some(file);
        }
        Ok(())
    }

    /// Whether the next block is the first of its file.
    pub(crate) fn has_new_file(&self) -> bool {
        self.next.position == 0
    }

    /// Writes the block and makes it durable.
    pub(crate) fn write(&mut self, block: &Block) -> Result<(), Failure> {
        let path = slot_path(self.next.slot);
        let file = self.file.as_ref().expect("a file was made ready");
        file.write_at(&block.bytes, self.next.position).and_then(|()| file.sync_data()).map_err(at(&path))?;
        self.next.position += block.bytes.len() as u64;
        self.next.block_number += 1;
        self.next.previous_crc = block.crc;
        // Replay reads what is placed as well.
        self.since_checkpoint += block.bytes.len() as u64 + block.placed_bytes;
        Ok(())
    }

    /// Copies a durable block, or all of a spooled entry, to the segments and the order. Readers see nothing of it yet.
    pub(crate) fn apply(&mut self, storage: &Storage, blocks: Vec<Block>) -> Result<Committed, Failure> {
        let mut committed = Committed::default();
        let mut steps = Vec::new();
        let mut touched = BTreeSet::new();
        for block in &blocks {
            committed.block_bytes += block.bytes.len() as u64;
            for (csn, part) in block.parts.iter().flat_map(|(csn, parts)| parts.iter().map(|part| (*csn, part))) {
                let header = &part.header;
                let batches = match &part.batches {
                    PlannedBatches::Inline(range) => Bytes::Missing(block.bytes.get(range.clone()).unwrap_or_default()),
                    PlannedBatches::Placed(bytes) => Bytes::There(bytes),
                };
                if self.apply_part(storage, csn, header, batches)? {
                    committed.segment_bytes += u64::from(header.length);
                    steps.push(OrderStep { csn, partition: header.to, end_offset: header.end_offset });
                    touched.insert(header.to);
                }
            }
        }
        if blocks.len() > 1 {
            steps = merged(steps);
        }
        self.append_order(storage, &steps)?;
        committed.advanced =
            touched.into_iter().filter_map(|id| self.tails.get(&id).map(|tail| (id, tail.end_offset))).collect();
        self.ends_before.clone_from(&committed.advanced);
        if let Some(last) = blocks.into_iter().next_back() {
            self.applied = last.last;
            self.buffer = last.bytes;
        }
        Ok(committed)
    }

    /// Writes a part to its segment, where the header says, unless it is there; doing it twice is harmless. Answers whether it
    /// was applied: parts of deleted partitions are not.
    pub(crate) fn apply_part(
        &mut self,
        storage: &Storage,
        csn: Csn,
        header: &PartHeader,
        bytes: Bytes<'_>,
    ) -> Result<bool, Failure> {
        let Some(tail) = self.tails.get_mut(&header.to) else { return Ok(false) };
        if tail.partition.is_deleted() {
            return Ok(false);
        }
        let segment = tail.segment_for(storage, &mut self.dirty, header)?;
        let failed = |source| at(&segment.path())(source);
        let open = storage.segments.open(&segment).map_err(failed)?;
        let batches = match bytes {
            Bytes::Missing(batches) => {
                open.file.write_at(batches, header.position).map_err(failed)?;
                batches
            }
            Bytes::There(batches) => batches,
        };
        let mut index = open.index.lock();
        if index.is_none() {
            match SegmentIndex::load(&*storage.disk, &segment, &open.file, storage.index_interval) {
                Ok(loaded) => *index = Some(loaded),
                Err(ScanError::Io(source)) => return Err(failed(source)),
                // The entry is durable and keeps its place; the partition can be read up to the damage.
                Err(ScanError::Damaged { position, offset }) => {
                    let place = format!("{} at byte {position}: no batch of offset {offset}", segment.path());
                    tail.partition.stop_at(DamagedAt { offset, place });
                }
            }
        }
        let mut max_timestamp = -1;
        for (batch, position) in headers(batches) {
            let position = header.position + position;
            if let Some(index) = index.as_mut() {
                index.push(&batch, position, storage.index_interval);
            }
            tail.producers.remember(&batch, batch.base_offset, csn);
            max_timestamp = max_timestamp.max(batch.max_timestamp);
        }
        segment.grow(header.position + u64::from(header.length), max_timestamp);
        self.dirty.segments.insert((header.to, segment.name()), segment.clone());
        tail.end_offset = header.end_offset;
        tail.max_timestamp = tail.max_timestamp.max(max_timestamp);
        tail.planned = Some((header.segment, header.position + u64::from(header.length)));
        tail.planned_end = header.end_offset;
        Ok(true)
    }

    /// Appends steps to the order, beginning a new file when the newest is full.
    pub(crate) fn append_order(&mut self, storage: &Storage, steps: &[OrderStep]) -> Result<(), Failure> {
        if steps.is_empty() {
            return Ok(());
        }
        storage.order.append(steps)?;
        if storage.order.is_full(0) {
            let base = steps.last().map_or(self.applied, |step| step.csn);
            let ends: Vec<_> = self.tails.iter().map(|(id, tail)| (*id, tail.end_offset)).collect();
            storage.order.begin_file(base, &ends)?;
        }
        Ok(())
    }

    /// Begins a new active segment, empty, so that the one before is sealed. False when there is nothing to seal.
    pub(crate) fn seal(&mut self, storage: &Storage, id: TopicPartition) -> Result<bool, Failure> {
        let Some(tail) = self.tails.get_mut(&id) else { return Ok(false) };
        let is_usable = !tail.partition.is_deleted() && !tail.partition.is_damaged();
        if !is_usable || tail.segment().is_none_or(|(_, len)| len == 0) {
            return Ok(false);
        }
        assert_eq!(tail.planned_end, tail.end_offset, "nothing of {id} is planned and not applied");
        let segment = Arc::new(Segment::new(id, tail.end_offset, 0, -1));
        storage.segments.create(&segment).map_err(at(&segment.path()))?;
        tail.partition.add_segment(Arc::clone(&segment));
        tail.segment = Some(Arc::clone(&segment));
        tail.planned = Some((segment.base_offset, 0));
        self.dirty.directories.insert(id);
        self.dirty.segments.insert((id, segment.name()), segment);
        Ok(true)
    }

    /// Forgets partitions that are deleted.
    pub(crate) fn drop_deleted(&mut self) {
        self.tails.retain(|_, tail| !tail.partition.is_deleted());
        let tails = &self.tails;
        self.dirty.segments.retain(|(id, _), _| tails.contains_key(id));
        self.dirty.directories.retain(|id| tails.contains_key(id));
    }

    /// All partitions as they are applied.
    pub(crate) fn images(&self) -> Vec<PartitionImage> {
        let image = |(id, tail): (&TopicPartition, &Tail)| PartitionImage {
            id: *id,
            start_offset: tail.partition.start(),
            end_offset: tail.end_offset,
            damage: tail.partition.damage(),
            // ORDER: before the segments, so that it is never ahead of them.
            compacted_to: tail.partition.compacted_to(),
            segments: tail.partition.segments().iter().map(|segment| image_of(segment)).collect(),
            producers: tail.producers.clone(),
        };
        self.tails.iter().map(image).collect()
    }
}

/// One step for each partition of an entry: where the last of its pieces ends.
pub(crate) fn merged(steps: Vec<OrderStep>) -> Vec<OrderStep> {
    let ends: BTreeMap<_, _> = steps.into_iter().map(|step| ((step.csn, step.partition), step.end_offset)).collect();
    ends.into_iter().map(|((csn, partition), end_offset)| OrderStep { csn, partition, end_offset }).collect()
}

fn image_of(segment: &Segment) -> SegmentImage {
    SegmentImage {
        name: segment.name(),
        len: segment.len(),
        max_timestamp: segment.max_timestamp(),
        delete_horizon: segment.delete_horizon,
    }
}

/// Gives the batches in `bytes` their offsets. The CRC of a batch does not cover them.
pub(super) fn patch(mut bytes: &mut [u8], mut base_offset: i64) {
    while let Ok(header) = BatchHeader::parse(bytes) {
        patch_base_offset(bytes, base_offset);
        patch_leader_epoch(bytes, LEADER_EPOCH);
        base_offset += i64::from(header.last_offset_delta) + 1;
        bytes = bytes.get_mut(header.total_bytes()..).unwrap_or_default();
    }
}

/// The headers of whole batches, with their positions.
pub(crate) fn headers(bytes: &[u8]) -> impl Iterator<Item = (BatchHeader, u64)> + '_ {
    let mut position = 0;
    std::iter::from_fn(move || {
        let header = BatchHeader::parse(bytes.get(position..)?).ok()?;
        let at = position as u64;
        position += header.total_bytes();
        Some((header, at))
    })
}
