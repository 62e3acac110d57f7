//! Recovery: from what a crash left to a log that is open.
//!
//! Segments rule up to the lengths that the checkpoint names, the commit log after it (DESIGN 4.2). Blocks are applied
//! at the positions they name, so that a crash during recovery does no harm; what follows the last good block is cut.
//!
//! Always true here: before [`recover`] returns, everything it accepted is synced and named by a new checkpoint, and
//! the commit log goes on in a new generation, so that no remains of a torn block can ever be taken for a good one.

mod heal;
mod scan;
mod spooled;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use mainstem_disk::{Clock, Disk, Open};

use crate::checkpoint::{Checkpoint, CommitPosition, PartitionImage, checkpoint_path};
use crate::codec::crc32c;
use crate::commit::block::{Batches, BlockPart, PartHeader};
use crate::commit::file::{CommitFiles, DIR, slot_of};
use crate::commit::writer::{Bytes, Storage, Tail, Writer, headers, merged};
use crate::failure::{Failure, at};
use crate::order::{Order, base_of, order_path};
use crate::partition::{DamagedAt, Partition};
use crate::segment::{HeaderScan, OpenSegments, ScanError, Segment, SegmentName, TOPICS_DIR, partition_dir};
use crate::shared::{Opened, Shared, sync_dirty};
use crate::{Csn, Damage, LogConfig, OpenError, OrderStep, PartitionConfig, RecoveryReport, TopicId, TopicPartition};
use scan::{BlockScan, ScannedBlock};
use spooled::Spooled;

/// Recovery in progress.
struct Recovery {
    storage: Storage,
    writer: Writer,
    report: RecoveryReport,
    /// Where the next block must be.
    at: CommitPosition,
    /// What has come of an entry whose last block has not.
    spooled: Vec<Spooled>,
    deleted: BTreeSet<TopicId>,
    /// Order steps found behind the checkpoint: their entries were durable.
    evidence: Vec<OrderStep>,
    /// Whether the evidence stands where nothing of this recovery writes.
    is_evidence_kept: bool,
    /// Partitions that lost entries may have belonged to, and where those stood.
    suspects: BTreeMap<TopicPartition, String>,
    healed: u64,
}

/// Names in the log's own directory.
#[derive(Debug, Default)]
struct Names {
    slots: Vec<u32>,
    orders: Vec<Csn>,
}

/// Recovers what is on `disk` and opens it.
pub(crate) fn recover(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    config: LogConfig,
) -> Result<(Shared, RecoveryReport), OpenError> {
    for dir in [DIR, TOPICS_DIR] {
        disk.create_dir_all(dir).map_err(at(dir))?;
    }
    disk.sync_dir("").map_err(at("the data directory"))?;
    let names = list(&*disk)?;
    let checkpoint = begin(&*disk, &*clock, &names)?;
    let mut scan = BlockScan::new(&*disk, &names.slots, checkpoint.log_id, &checkpoint.next)?;
    let mut recovery = Recovery::new(disk, &config, &checkpoint, &names)?;
    recovery.load_partitions(&checkpoint)?;
    recovery.replay(&mut scan)?;
    recovery.judge_suspects();
    recovery.report_stopped();
    recovery.cut_files()?;
    if recovery.report.damage.is_empty() {
        recovery.remove_placed_for_nothing()?;
    }
    let sequence = recovery.finish(&scan, &names, checkpoint.sequence)?;
    let Recovery { storage, writer, report, .. } = recovery;
    let keep_free = config.reserve_bytes.saturating_add(config.backlog_bytes_max as u64);
    let files = CommitFiles::new(config.commit_file_bytes, keep_free, names.slots);
    let opened = Opened { storage, writer, files, checkpoint_sequence: sequence };
    Ok((Shared::new(clock, config, opened), report))
}

fn list(disk: &dyn Disk) -> Result<Names, OpenError> {
    let mut names = Names::default();
    for entry in disk.list(DIR).map_err(at(DIR))? {
        names.slots.extend(slot_of(&entry.name));
        names.orders.extend(base_of(&entry.name));
    }
    names.orders.sort_unstable();
    Ok(names)
}

/// The checkpoint to begin from: the newest, or an empty one when the directory never was a log.
fn begin(disk: &dyn Disk, clock: &dyn Clock, names: &Names) -> Result<Checkpoint, OpenError> {
    let (checkpoint, has_other) = Checkpoint::load(disk)?;
    if let Some(checkpoint) = checkpoint {
        return Ok(checkpoint);
    }
    // The first checkpoint is durable before the first block or segment is written.
    let has_topics = !disk.list(TOPICS_DIR).map_err(at(TOPICS_DIR))?.is_empty();
    if has_topics || !names.slots.is_empty() {
        let found = if has_other { "both checkpoints are damaged" } else { "both checkpoints are missing" };
        let meaning = format!("{found}, but there is data; restore the directory from a copy");
        return Err(OpenError::Damaged { place: format!("{DIR}/checkpoint-0"), meaning });
    }
    let seed = (clock.wall_ms(), clock.monotonic());
    let mut bytes = seed.0.to_le_bytes().to_vec();
    bytes.extend(seed.1.as_nanos().to_le_bytes());
    let low = crc32c(&bytes);
    bytes.reverse();
    let log_id = u64::from(crc32c(&bytes)) << 32 | u64::from(low);
    let next = CommitPosition { generation: 1, ..CommitPosition::default() };
    Ok(Checkpoint { log_id, next, ..Checkpoint::default() })
}

impl Recovery {
    fn new(disk: Arc<dyn Disk>, config: &LogConfig, checkpoint: &Checkpoint, names: &Names) -> Result<Self, OpenError> {
        let covered = |base: &&Csn| **base >= checkpoint.order_first && **base <= checkpoint.order_base;
        let bases: Vec<Csn> =
            if checkpoint.sequence == 0 { Vec::new() } else { names.orders.iter().filter(covered).copied().collect() };
        let mut bases = bases;
        if checkpoint.sequence > 0 && bases.last() != Some(&checkpoint.order_base) {
            // Missing: opening it will say so.
            bases.push(checkpoint.order_base);
        }
        let mut evidence = Order::kept_evidence(&*disk)?;
        let kept = evidence.len();
        if checkpoint.sequence > 0 {
            evidence.extend(Order::evidence(&*disk, checkpoint.order_base, Some(checkpoint.order_bytes)));
        }
        for base in names.orders.iter().filter(|base| **base > checkpoint.order_base) {
            evidence.extend(Order::evidence(&*disk, *base, None));
        }
        evidence.retain(|step| step.csn > checkpoint.csn);
        evidence.sort_by_key(|step| (step.csn, step.partition));
        evidence.dedup();
        let is_evidence_kept = evidence.len() == kept;
        let order_file_bytes = config.commit_file_bytes / 16;
        let (order, damaged) =
            Order::open(Arc::clone(&disk), order_file_bytes, &bases, checkpoint.order_bytes, checkpoint.csn)?;
        let mut report = RecoveryReport { checkpoint: checkpoint.csn, ..RecoveryReport::default() };
        for Failure { place, source } in damaged {
            let meaning = format!("the order of entries is lost here: {source}");
            report.damage.push(Damage { file: place, position: 0, partition: None, meaning });
        }
        let storage = Storage {
            segments: OpenSegments::new(Arc::clone(&disk)),
            disk,
            order,
            index_interval: config.index_interval_bytes,
            commit_file_bytes: config.commit_file_bytes,
            placed_bytes_min: config.placed_bytes_min,
        };
        let mut writer = Writer::new(checkpoint.log_id, checkpoint.next, checkpoint.csn);
        writer.dirty.order_from = checkpoint.order_base;
        let deleted = checkpoint.deleted.iter().copied().collect();
        let (suspects, healed) = (BTreeMap::new(), 0);
        let (at, spooled) = (checkpoint.next, Vec::new());
        Ok(Self { storage, writer, report, at, spooled, deleted, evidence, is_evidence_kept, suspects, healed })
    }

    fn load_partitions(&mut self, checkpoint: &Checkpoint) -> Result<(), OpenError> {
        for image in &checkpoint.partitions {
            if self.deleted.contains(&image.id.topic) {
                continue;
            }
            let partition = self.load_partition(image)?;
            let tail = Tail::at(partition, image.end_offset, image.producers.clone());
            self.writer.tails.insert(image.id, tail);
        }
        if !self.storage.order.has_files() {
            self.keep_evidence()?;
            let ends: Vec<_> = self.writer.tails.iter().map(|(id, tail)| (*id, tail.end_offset)).collect();
            self.storage.order.begin_file(checkpoint.csn, &ends)?;
        }
        Ok(())
    }

    fn load_partition(&mut self, image: &PartitionImage) -> Result<Arc<Partition>, OpenError> {
        let partition = Partition::new(image.id, PartitionConfig::default());
        partition.set_start(image.start_offset);
        partition.set_compacted_to(image.compacted_to);
        if let Some(damage) = &image.damage {
            partition.stop_at(damage.clone());
            let meaning = format!("partition {} stops at offset {}, found earlier", image.id, damage.offset);
            let file = damage.place.clone();
            self.report.damage.push(Damage { file, position: 0, partition: Some(image.id), meaning });
        }
        for named in &image.segments {
            let segment = Segment::named(image.id, named.name, named.delete_horizon, named.len, named.max_timestamp);
            let path = segment.path();
            let len = match self.storage.disk.open(&path, Open::Read).and_then(|file| file.len()) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(source) => return Err(Failure { place: path, source }.into()),
            };
            if len < named.len && partition.damage().is_none_or(|damage| damage.offset > named.name.base_offset) {
                self.stop_short_segment(&partition, &segment, len)?;
            }
            let max_timestamp = named.max_timestamp;
            partition.add_segment(Arc::new(segment));
            partition.publish(image.start_offset, max_timestamp);
        }
        Ok(Arc::new(partition))
    }

    /// A segment is shorter than what was synced: the partition stops behind its last whole batch.
    fn stop_short_segment(&mut self, partition: &Partition, segment: &Segment, len: u64) -> Result<(), OpenError> {
        let path = segment.path();
        let mut offset = segment.base_offset;
        if len > 0 {
            let file = self.storage.disk.open(&path, Open::Read).map_err(at(&path))?;
            let mut scan = HeaderScan { file: &file, position: 0, end: len, offset };
            loop {
                match scan.next() {
                    Ok(Some((batch, _))) => offset = batch.next_offset(),
                    Ok(None) | Err(ScanError::Damaged { .. }) => break,
                    Err(error) => return Err(Failure::of_scan(&path, error).into()),
                }
            }
            self.report.bytes_scanned += scan.position;
        }
        let meaning = format!(
            "segment ends at byte {len}, {} bytes were durable: partition {} stops at offset {offset}",
            segment.len(),
            partition.id
        );
        partition.stop_at(DamagedAt { offset, place: format!("{path} at byte {len}") });
        self.report.damage.push(Damage { file: path, position: len, partition: Some(partition.id), meaning });
        Ok(())
    }

    fn replay(&mut self, scan: &mut BlockScan) -> Result<(), OpenError> {
        loop {
            if let Some(block) = scan.next(&self.at)?.filter(|block| self.follows(block)) {
                self.accept(block)?;
                continue;
            }
            let later = scan.next_after_damage(&self.at)?;
            let proven = self.evidence.iter().map(|step| step.csn).max().unwrap_or_default();
            let file = scan.path(self.at.generation);
            match later {
                Some(block) => self.step_over_damage(block, &file)?,
                None => {
                    if proven > self.writer.applied {
                        // Only the last block of a spooled entry, or what follows it, can be what is lost.
                        let found = self.take_spooled()?;
                        self.lose(proven, None, (&file, self.at.position), found)?;
                    } else {
                        self.report.torn_bytes_cut = self.forget_spooled() + scan.torn_bytes(&self.at)?;
                    }
                    break;
                }
            }
        }
        self.report.last = self.writer.applied;
        self.report.bytes_scanned += scan.bytes_scanned;
        Ok(())
    }

    /// Whether a block with the right number and generation continues the chain.
    fn follows(&self, block: &ScannedBlock) -> bool {
        block.header.previous_crc == self.at.previous_crc
            && block.header.first == self.writer.applied.next()
            && block.header.spool.continues != self.spooled.is_empty()
    }

    /// Takes in the block that follows: applies it, or keeps it until its entry is whole.
    fn accept(&mut self, block: ScannedBlock) -> Result<(), OpenError> {
        self.at = CommitPosition {
            generation: block.generation,
            slot: 0,
            position: block.position + block.header.total_bytes(),
            block_number: block.header.number + 1,
            previous_crc: block.crc,
        };
        let (last, has_more) = (block.header.last, block.header.spool.has_more);
        if has_more || !self.spooled.is_empty() {
            self.spooled.push(Spooled::Block(block));
        } else {
            self.report.entries_applied += block.payload.entries.len() as u64;
            let steps = self.apply_parts(&block)?;
            self.append_order(&steps)?;
        }
        if !has_more {
            let steps = self.take_spooled()?;
            self.append_order(&merged(steps))?;
            self.writer.applied = last;
        }
        Ok(())
    }

    /// Applies the parts of a block; answers their steps.
    fn apply_parts(&mut self, block: &ScannedBlock) -> Result<Vec<OrderStep>, OpenError> {
        let mut steps = Vec::new();
        for (csn, part) in
            block.payload.entries.iter().flat_map(|entry| entry.parts.iter().map(|part| (entry.csn, part)))
        {
            if self.apply_part(csn, part, &block.bytes)? {
                let (partition, end_offset) = (part.header.to, part.header.end_offset);
                steps.push(OrderStep { csn, partition, end_offset });
            }
        }
        Ok(steps)
    }

    /// Steps that recovery applies again stand where they stood; only a new file, or lost entries, moves them.
    fn append_order(&mut self, steps: &[OrderStep]) -> Result<(), OpenError> {
        if self.storage.order.is_full(steps.len()) {
            self.keep_evidence()?;
        }
        Ok(self.writer.append_order(&self.storage, steps)?)
    }

    /// A crash from here on must not turn what is known to be lost into a torn tail.
    fn keep_evidence(&mut self) -> Result<(), OpenError> {
        if !self.is_evidence_kept && !self.evidence.is_empty() {
            Order::keep_evidence(&*self.storage.disk, &self.evidence)?;
        }
        self.is_evidence_kept = true;
        Ok(())
    }

    fn apply_part(&mut self, csn: Csn, part: &BlockPart, payload: &[u8]) -> Result<bool, OpenError> {
        let header = &part.header;
        if self.deleted.contains(&header.to.topic) {
            return Ok(false);
        }
        if let Some(place) = self.suspects.remove(&header.to) {
            // Its next entry says where it stood: with nothing missing, the lost entries were not its own.
            self.heal(header.to, header.base_offset, csn, &place)?;
        }
        let tail = self.tail(header.to);
        if tail.partition.is_damaged() {
            return Ok(false);
        }
        if tail.end_offset != header.base_offset {
            let end = tail.end_offset;
            let place = format!("an entry for offset {} where {end} was next at byte 0", header.base_offset);
            self.stop(header.to, &place);
            return Ok(false);
        }
        let placed;
        let batches = match &part.batches {
            Batches::Inline(range) => Bytes::Missing(payload.get(range.clone()).unwrap_or_default()),
            Batches::Placed { crc } => {
                let Some(read) = self.read_placed(header, *crc)? else {
                    let path = SegmentName::first(header.segment).path(header.to, "log");
                    self.stop(header.to, &format!("{path} at byte {}", header.position));
                    return Ok(false);
                };
                placed = read;
                Bytes::There(&placed)
            }
        };
        let (Bytes::Missing(bytes) | Bytes::There(bytes)) = batches;
        if !follow_one_another(header, bytes) {
            let place = format!("an entry whose batches are not those of offsets {} on at byte 0", header.base_offset);
            self.stop(header.to, &place);
            return Ok(false);
        }
        Ok(self.writer.apply_part(&self.storage, csn, header, batches)?)
    }

    /// The batches of a placed part, if they are what was synced before their block was written.
    fn read_placed(&mut self, header: &PartHeader, crc: u32) -> Result<Option<Vec<u8>>, OpenError> {
        let path = SegmentName::first(header.segment).path(header.to, "log");
        let file = match self.storage.disk.open(&path, Open::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Failure { place: path, source }.into()),
        };
        let len = u64::from(header.length);
        if file.len().map_err(at(&path))?.checked_sub(len).is_none_or(|room| room < header.position) {
            return Ok(None);
        }
        let mut bytes = vec![0; header.length as usize];
        file.read_exact_at(&mut bytes, header.position).map_err(at(&path))?;
        self.report.bytes_scanned += len;
        Ok((crc32c(&bytes) == crc).then_some(bytes))
    }

    /// Partitions without an entry behind the lost ones have no proof.
    fn judge_suspects(&mut self) {
        for (id, place) in std::mem::take(&mut self.suspects) {
            self.stop(id, &place);
        }
    }

    /// Adds the partitions whose damage applying entries has come upon.
    fn report_stopped(&mut self) {
        for (id, tail) in &self.writer.tails {
            let is_known = self.report.damage.iter().any(|damage| damage.partition == Some(*id));
            if let Some(damage) = tail.partition.damage().filter(|_| !is_known) {
                let meaning = format!("partition {id} stops at offset {}", damage.offset);
                self.report.damage.push(Damage { file: damage.place, position: 0, partition: Some(*id), meaning });
            }
        }
    }

    /// Removes what no entry stands for: bytes behind the tails, files that nothing names, deleted topics.
    fn cut_files(&mut self) -> Result<(), OpenError> {
        let disk = Arc::clone(&self.storage.disk);
        for topic in &self.deleted {
            let dir = format!("{TOPICS_DIR}/{topic}");
            match disk.remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&dir)(error).into()),
                _ => {}
            }
        }
        if !self.deleted.is_empty() {
            disk.sync_dir(TOPICS_DIR).map_err(at(TOPICS_DIR))?;
        }
        for (id, tail) in &self.writer.tails {
            if tail.partition.is_damaged() {
                continue;
            }
            let segments = tail.partition.segments();
            let dir = partition_dir(*id);
            let names = match disk.list(&dir) {
                Ok(names) => names,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at(&dir)(error).into()),
            };
            for (file, name) in names.iter().filter_map(|file| Some((file, SegmentName::of_file(&file.name)?))) {
                if !segments.iter().any(|segment| segment.name() == name) {
                    let path = format!("{dir}/{}", file.name);
                    disk.remove_file(&path).map_err(at(&path))?;
                    self.writer.dirty.directories.insert(*id);
                }
            }
            if let Some(active) = segments.last() {
                let path = active.path();
                let file = disk.open(&path, Open::Write).map_err(at(&path))?;
                if file.len().map_err(at(&path))? > active.len() {
                    file.set_len(active.len()).map_err(at(&path))?;
                    let key = (*id, active.name());
                    self.writer.dirty.segments.insert(key, Arc::clone(active));
                }
            }
        }
        Ok(())
    }

    /// A partition without any entry may have files: batches were placed for its first one, which never came.
    fn remove_placed_for_nothing(&mut self) -> Result<(), OpenError> {
        let disk = Arc::clone(&self.storage.disk);
        for id in self.partitions_on_disk()? {
            if self.writer.tails.contains_key(&id) {
                continue;
            }
            let dir = partition_dir(id);
            for file in disk.list(&dir).map_err(at(&dir))? {
                if SegmentName::of_file(&file.name).is_some() {
                    let path = format!("{dir}/{}", file.name);
                    disk.remove_file(&path).map_err(at(&path))?;
                    self.writer.dirty.directories.insert(id);
                }
            }
        }
        Ok(())
    }

    /// Syncs what was accepted and writes the checkpoint that names it; answers its sequence.
    fn finish(&mut self, scan: &BlockScan, names: &Names, sequence: u64) -> Result<u64, OpenError> {
        sync_dirty(&self.storage, &self.writer.dirty)?;
        // A checkpoint must not be durable before the order file that it names.
        self.storage.disk.sync_dir(DIR).map_err(at(DIR))?;
        self.writer.next = CommitPosition {
            generation: scan.newest_generation + 1,
            slot: 0,
            position: 0,
            block_number: scan.newest_number.max(self.at.block_number) + 1,
            previous_crc: 0,
        };
        let (order_base, order_bytes) = self.storage.order.position();
        let checkpoint = Checkpoint {
            sequence: sequence + 1,
            log_id: self.writer.log_id,
            csn: self.writer.applied,
            next: self.writer.next,
            order_first: self.storage.order.first(),
            order_base,
            order_bytes,
            deleted: Vec::new(),
            partitions: self.writer.images(),
        };
        if !checkpoint.can_go_on() {
            let meaning = "it counts further than a log comes; restore the directory from a copy".to_owned();
            return Err(OpenError::Damaged { place: checkpoint_path(checkpoint.sequence), meaning });
        }
        checkpoint.store(&*self.storage.disk)?;
        self.clear_order(names)?;
        self.writer.dirty = Default::default();
        self.writer.dirty.order_from = order_base;
        self.writer.since_checkpoint = 0;
        self.storage.order.forget_recent(self.writer.applied);
        if self.healed > 0 {
            tracing::warn!(batches = self.healed, "batches of damaged entries were found whole in their segments");
        }
        Ok(checkpoint.sequence)
    }

    /// Removes what of the order the checkpoint does not name. What stays after a crash here proves nothing new.
    fn clear_order(&self, names: &Names) -> Result<(), OpenError> {
        let named = self.storage.order.bases();
        for base in names.orders.iter().filter(|base| !named.contains(base)) {
            let path = order_path(*base);
            self.storage.disk.remove_file(&path).map_err(at(&path))?;
        }
        Ok(self.storage.order.cut()?)
    }

    /// All partition directories, also those that nothing names.
    fn partitions_on_disk(&self) -> Result<Vec<TopicPartition>, OpenError> {
        let disk = &*self.storage.disk;
        let mut found = Vec::new();
        for topic in disk.list(TOPICS_DIR).map_err(at(TOPICS_DIR))? {
            let Ok(id) = topic.name.parse::<uuid::Uuid>() else { continue };
            let dir = format!("{TOPICS_DIR}/{}", topic.name);
            for partition in disk.list(&dir).map_err(at(&dir))? {
                if let Ok(partition) = partition.name.parse() {
                    found.push(TopicPartition::new(TopicId(id), partition));
                }
            }
        }
        found.retain(|id| !self.deleted.contains(&id.topic));
        Ok(found)
    }
}

/// Whether the batches of a part take up its offsets, all of them and no other.
fn follow_one_another(part: &PartHeader, batches: &[u8]) -> bool {
    let (mut offset, mut end) = (part.base_offset, 0);
    for (batch, position) in headers(batches) {
        if batch.base_offset != offset || batch.last_offset_delta < 0 {
            return false;
        }
        offset = batch.next_offset();
        end = position + batch.total_bytes() as u64;
    }
    offset == part.end_offset && end == batches.len() as u64
}

#[cfg(test)]
mod tests {
    use mainstem_kafka_wire::batch::{Compression, patch_base_offset};
    use mainstem_kafka_wire::records::RecordBatchBuilder;

    use super::*;

    #[test]
    fn batches_take_up_the_offsets_of_their_part() {
        let batch = |base: i64| {
            let mut builder = RecordBatchBuilder::new(Compression::None);
            builder.append(1, None, Some(b"a"), &[]);
            builder.append(1, None, Some(b"b"), &[]);
            let mut bytes = builder.build().to_vec();
            patch_base_offset(&mut bytes, base);
            bytes
        };
        let to = TopicPartition::new(TopicId(uuid::Uuid::from_u128(1)), 0);
        let part = PartHeader { to, base_offset: 4, end_offset: 8, segment: 0, position: 0, length: 0 };
        let follow = |batches: &[Vec<u8>]| follow_one_another(&part, &batches.concat());
        assert!(follow(&[batch(4), batch(6)]));
        assert!(!follow(&[batch(4)]), "one is missing");
        assert!(!follow(&[batch(4), batch(6), batch(8)]), "one is too many");
        assert!(!follow(&[batch(4), batch(5)]), "an offset twice");
        assert!(!follow(&[batch(i64::MAX), batch(6)]), "offsets from elsewhere");
        assert!(!follow(&[batch(4), batch(6), vec![0]]), "bytes behind");
    }
}
