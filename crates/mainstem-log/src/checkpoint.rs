//! The log's checkpoint: up to where segments rule, and what recovery needs to go on from there.
//!
//! Words: the checkpoint *covers* all entries up to its CSN: their segments and order were synced before it was
//! written. Two files take turns, `log/checkpoint-0` and `log/checkpoint-1`; the valid one with the higher sequence
//! counts, so a torn write of one leaves the other.
//!
//! Always true here: nothing in a checkpoint names bytes that were not synced.

use std::io;
use std::sync::Arc;

use mainstem_disk::{Disk, Open};

use crate::codec::{NUMBER_MAX, Put, Take, crc32c};
use crate::commit::file::DIR;
use crate::failure::{Failure, at};
use crate::partition::DamagedAt;
use crate::producer::ProducerTable;
use crate::segment::{NO_HORIZON, SegmentName};
use crate::{Csn, OpenError, TopicId, TopicPartition};

const MAGIC: u32 = u32::from_le_bytes(*b"MSCP");
/// Version 1 knew nothing of compaction.
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 20;

/// A segment up to its synced length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentImage {
    pub(crate) name: SegmentName,
    pub(crate) len: u64,
    pub(crate) max_timestamp: i64,
    pub(crate) delete_horizon: i64,
}

/// A partition at the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionImage {
    pub(crate) id: TopicPartition,
    pub(crate) start_offset: i64,
    pub(crate) end_offset: i64,
    pub(crate) damage: Option<DamagedAt>,
    pub(crate) segments: Vec<SegmentImage>,
    /// Compaction has been through all below.
    pub(crate) compacted_to: i64,
    pub(crate) producers: ProducerTable,
}

/// Where the next block of the commit log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommitPosition {
    pub(crate) generation: u64,
    pub(crate) slot: u32,
    pub(crate) position: u64,
    pub(crate) block_number: u64,
    pub(crate) previous_crc: u32,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) sequence: u64,
    pub(crate) log_id: u64,
    pub(crate) csn: Csn,
    pub(crate) next: CommitPosition,
    pub(crate) order_first: Csn,
    pub(crate) order_base: Csn,
    pub(crate) order_bytes: u64,
    /// Deleted topics whose entries may still stand in the commit log.
    pub(crate) deleted: Vec<TopicId>,
    pub(crate) partitions: Vec<PartitionImage>,
}

/// The path of the checkpoint with this sequence.
pub(crate) fn checkpoint_path(sequence: u64) -> String {
    format!("{DIR}/checkpoint-{}", sequence % 2)
}

impl Checkpoint {
    /// Writes it over the older of the two files; it is durable when this returns.
    pub(crate) fn store(&self, disk: &dyn Disk) -> Result<(), Failure> {
        let path = checkpoint_path(self.sequence);
        let body = self.encode();
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.put_u32(MAGIC);
        bytes.put_u32(VERSION);
        bytes.put_u64(body.len() as u64);
        bytes.put_u32(crc32c(&body));
        bytes.put(&body);
        let write = || -> io::Result<()> {
            let file = disk.open(&path, Open::Create)?;
            file.write_at(&bytes, 0)?;
            file.set_len(bytes.len() as u64)?;
            file.sync_data()?;
            disk.sync_dir(DIR)
        };
        write().map_err(at(&path))
    }

    /// The newest valid one; `None` when there is no file that holds one. The second answer says whether a file is
    /// there that holds something else.
    pub(crate) fn load(disk: &dyn Disk) -> Result<(Option<Self>, bool), OpenError> {
        let mut newest: Option<Self> = None;
        let mut has_other = false;
        for turn in 0..2 {
            let path = checkpoint_path(turn);
            let bytes = match disk.open(&path, Open::Read).and_then(|file| file.read_to_end()) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(OpenError::Io { place: path, source: Arc::new(source) }),
            };
            match Self::parse(&bytes) {
                Ok(Some(checkpoint)) if newest.as_ref().is_none_or(|other| other.sequence < checkpoint.sequence) => {
                    newest = Some(checkpoint);
                }
                Ok(Some(_)) => {}
                Ok(None) => has_other = true,
                Err(version) => return Err(OpenError::LaterVersion { place: path, version }),
            }
        }
        Ok((newest, has_other))
    }

    /// `Err` is the version, when it is a later one.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, u32> {
        let mut take = Take::new(bytes);
        let mut checked = || {
            let (magic, version, len, crc) = (take.u32()?, take.u32()?, take.u64()?, take.u32()?);
            let body = take.bytes(usize::try_from(len).ok()?)?;
            (magic == MAGIC && crc == crc32c(body)).then_some((version, body))
        };
        match checked() {
            Some((version, _)) if version > VERSION => Err(version),
            Some((version, body)) => Ok(Self::decode(body, version)),
            None => Ok(None),
        }
    }

    /// Whether a log that begins here writes only numbers that it can read again.
    pub(crate) fn can_go_on(&self) -> bool {
        let counters = [self.sequence, self.csn.0, self.next.generation, self.next.block_number];
        let ends = self.partitions.iter().map(|partition| partition.end_offset.unsigned_abs());
        counters.into_iter().chain(ends).all(|number| number <= NUMBER_MAX / 2)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64(self.sequence);
        out.put_u64(self.log_id);
        out.put_u64(self.csn.0);
        out.put_u64(self.next.generation);
        out.put_u32(self.next.slot);
        out.put_u64(self.next.position);
        out.put_u64(self.next.block_number);
        out.put_u32(self.next.previous_crc);
        out.put_u64(self.order_first.0);
        out.put_u64(self.order_base.0);
        out.put_u64(self.order_bytes);
        out.put_u32(count(self.deleted.len()));
        for topic in &self.deleted {
            out.put(topic.0.as_bytes());
        }
        out.put_u32(count(self.partitions.len()));
        for partition in &self.partitions {
            partition.encode(&mut out);
        }
        out
    }

    fn decode(body: &[u8], version: u32) -> Option<Self> {
        let mut take = Take::new(body);
        let mut checkpoint = Self {
            sequence: take.number()?,
            log_id: take.u64()?,
            csn: Csn(take.number()?),
            next: CommitPosition {
                generation: take.number()?,
                slot: take.u32()?,
                position: take.number()?,
                block_number: take.number()?,
                previous_crc: take.u32()?,
            },
            order_first: Csn(take.number()?),
            order_base: Csn(take.number()?),
            order_bytes: take.number()?,
            deleted: Vec::new(),
            partitions: Vec::new(),
        };
        for _ in 0..take.u32()? {
            checkpoint.deleted.push(TopicId(uuid::Uuid::from_slice(take.bytes(16)?).ok()?));
        }
        for _ in 0..take.u32()? {
            checkpoint.partitions.push(PartitionImage::decode(&mut take, version)?);
        }
        take.is_empty().then_some(checkpoint)
    }
}

impl PartitionImage {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_partition(self.id);
        out.put_i64(self.start_offset);
        out.put_i64(self.end_offset);
        match &self.damage {
            None => out.put(&[0]),
            Some(damage) => {
                out.put(&[1]);
                out.put_i64(damage.offset);
                out.put_str(&damage.place);
            }
        }
        out.put_u32(count(self.segments.len()));
        for segment in &self.segments {
            out.put_i64(segment.name.base_offset);
            out.put_u64(segment.len);
            out.put_i64(segment.max_timestamp);
            out.put_u32(segment.name.generation);
            out.put_i64(segment.delete_horizon);
        }
        out.put_i64(self.compacted_to);
        self.producers.encode(out);
    }

    fn decode(take: &mut Take<'_>, version: u32) -> Option<Self> {
        let (id, start_offset, end_offset) = (take.partition()?, take.offset()?, take.offset()?);
        let damage = match take.bytes(1)? {
            [0] => None,
            _ => Some(DamagedAt { offset: take.offset()?, place: take.str()? }),
        };
        let mut segments = Vec::new();
        for _ in 0..take.u32()? {
            let (base_offset, len, max_timestamp) = (take.offset()?, take.number()?, take.i64()?);
            let (generation, delete_horizon) = if version < 2 { (0, NO_HORIZON) } else { (take.u32()?, take.i64()?) };
            let name = SegmentName { base_offset, generation };
            segments.push(SegmentImage { name, len, max_timestamp, delete_horizon });
        }
        let compacted_to = if version < 2 { 0 } else { take.offset()? };
        let producers = ProducerTable::decode(take)?;
        Some(Self { id, start_offset, end_offset, damage, segments, compacted_to, producers })
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let id = TopicPartition::new(TopicId(uuid::Uuid::from_u128(5)), 1);
        let damage = Some(DamagedAt { offset: 8, place: "there".into() });
        let name = SegmentName { base_offset: 2, generation: 3 };
        let segments = vec![SegmentImage { name, len: 300, max_timestamp: 17, delete_horizon: 99 }];
        let producers = ProducerTable::default();
        let (start_offset, end_offset, compacted_to) = (2, 9, 6);
        let partition = PartitionImage { id, start_offset, end_offset, damage, segments, compacted_to, producers };
        let next = CommitPosition { generation: 3, slot: 1, position: 512, block_number: 7, previous_crc: 9 };
        Checkpoint {
            sequence: 4,
            log_id: 77,
            csn: Csn(20),
            next,
            order_first: Csn(2),
            order_base: Csn(3),
            order_bytes: 440,
            deleted: vec![TopicId(uuid::Uuid::from_u128(6))],
            partitions: vec![partition],
        }
    }

    #[test]
    fn numbers_that_no_log_comes_to_are_not_those_of_a_checkpoint() {
        let mut generation = checkpoint();
        generation.next.generation = u64::MAX;
        let mut csn = checkpoint();
        csn.csn = Csn(u64::MAX);
        let mut length = checkpoint();
        length.partitions[0].segments[0].len = u64::MAX - 1;
        let mut offset = checkpoint();
        offset.partitions[0].end_offset = -1;
        for bad in [generation, csn, length, offset] {
            assert_eq!(Checkpoint::decode(&bad.encode(), VERSION), None, "{bad:?}");
        }
    }

    #[test]
    fn a_log_that_could_not_read_what_it_writes_next_does_not_go_on() {
        assert!(checkpoint().can_go_on());
        assert!(!Checkpoint { sequence: NUMBER_MAX, ..checkpoint() }.can_go_on());
        assert!(!Checkpoint { csn: Csn(NUMBER_MAX), ..checkpoint() }.can_go_on());
        let mut used_up = checkpoint();
        used_up.partitions[0].end_offset = i64::MAX / 2;
        assert!(!used_up.can_go_on());
    }

    #[test]
    fn a_checkpoint_survives_its_encoding_and_no_cut_passes() {
        let body = checkpoint().encode();
        assert_eq!(Checkpoint::decode(&body, VERSION), Some(checkpoint()));
        for len in 0..body.len() {
            assert_eq!(Checkpoint::decode(&body[..len], VERSION), None);
        }
    }

    #[test]
    fn a_checkpoint_of_version_1_names_segments_as_they_were_appended() {
        let mut written = checkpoint();
        let mut body = written.encode();
        // What version 2 has added: 12 bytes behind the one segment, 8 behind the list, before the empty producer table.
        let end = body.len();
        body.truncate(end - 4 - 8 - 12);
        body.put_u32(0);
        let partition = &mut written.partitions[0];
        partition.compacted_to = 0;
        partition.segments[0].name.generation = 0;
        partition.segments[0].delete_horizon = NO_HORIZON;
        assert_eq!(Checkpoint::decode(&body, 1), Some(written));
    }
}
