//! Looking at all that is stored without changing any of it.
//!
//! What a start would make of the directory is found out by starting on an [`OverlayDisk`]: it finds what is wrong with the
//! checkpoints and the commit log behind them, and says what that means. Then every batch of every segment and every step of
//! the order is read. Not looked at: the commit log before the checkpoint, which is free to be written over, and the
//! indexes, which are never evidence and are made again when they do not fit.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use mainstem_disk::{Clock, Disk, DiskFile, Open, OverlayDisk};
use mainstem_kafka_wire::batch::{BatchHeader, verify_crc};

use crate::checkpoint::{Checkpoint, checkpoint_path};
use crate::commit::writer::Tail;
use crate::failure::{Failure, at};
use crate::recovery::recover;
use crate::segment::{HeaderScan, ScanError, Segment};
use crate::shared::Shared;
use crate::{Damage, LogConfig, OpenError, TopicPartition};

/// What was read and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// All that is not what was written.
    pub damage: Vec<Damage>,
    /// Bytes behind the last whole entry that a start would cut: a torn tail, never acknowledged. Not damage.
    pub torn_bytes: u64,
    /// Partitions with data.
    pub partitions: u64,
    /// Their segments.
    pub segments: u64,
    /// Batches whose checksums were computed.
    pub batches: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Reads everything that matters and changes nothing. The caller keeps other processes out of the directory. `progress` gets
/// the bytes read since it was called last. Errors are those of the operating system, and files of a later version.
pub fn scrub(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    config: LogConfig,
    progress: &mut dyn FnMut(u64),
) -> Result<ScrubReport, OpenError> {
    let mut scrub = Scrub { report: ScrubReport::default(), disk: Arc::clone(&disk), progress };
    scrub.checkpoints()?;
    // Behind the lengths that the checkpoint names, segments are what recovery makes of them.
    let overlay: Arc<dyn Disk> = Arc::new(OverlayDisk::new(disk));
    scrub.disk = Arc::clone(&overlay);
    match recover(overlay, clock, config) {
        Ok((shared, recovery)) => {
            scrub.advance(recovery.bytes_scanned);
            scrub.report.torn_bytes = recovery.torn_bytes_cut;
            scrub.report.damage.extend(recovery.damage);
            scrub.order(&shared);
            scrub.partitions(&shared)?;
        }
        Err(OpenError::Damaged { place, meaning }) => scrub.found(place, 0, None, meaning),
        Err(error) => return Err(error),
    }
    Ok(scrub.report)
}

struct Scrub<'a> {
    report: ScrubReport,
    disk: Arc<dyn Disk>,
    progress: &'a mut dyn FnMut(u64),
}

impl Scrub<'_> {
    fn advance(&mut self, bytes: u64) {
        self.report.bytes += bytes;
        (self.progress)(bytes);
    }

    fn found(&mut self, file: String, position: u64, partition: Option<TopicPartition>, meaning: String) {
        self.report.damage.push(Damage { file, position, partition, meaning });
    }

    /// Either of the two may be the one that a power cut left torn; then the other rules.
    fn checkpoints(&mut self) -> Result<(), OpenError> {
        for turn in 0..2 {
            let path = checkpoint_path(turn);
            let bytes = match self.disk.open(&path, Open::Read).and_then(|file| file.read_to_end()) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(OpenError::Io { place: path, source: Arc::new(source) }),
            };
            self.advance(bytes.len() as u64);
            match Checkpoint::parse(&bytes) {
                Ok(Some(checkpoint)) if checkpoint_path(checkpoint.sequence) == path => {}
                Err(version) => return Err(OpenError::LaterVersion { place: path, version }),
                Ok(_) => {
                    let meaning = "not a whole checkpoint: damaged, or torn by a power cut; the other one rules";
                    self.found(path, 0, None, meaning.to_owned());
                }
            }
        }
        Ok(())
    }

    fn order(&mut self, shared: &Shared) {
        let (bytes, damaged) = shared.storage.order.verify();
        self.advance(bytes);
        for Failure { place, source } in damaged {
            let meaning = format!("the order of entries is lost here ({source}): a replay of history stops");
            self.found(place, 0, None, meaning);
        }
    }

    fn partitions(&mut self, shared: &Shared) -> Result<(), OpenError> {
        let writer = shared.writer.lock();
        for (id, tail) in &writer.tails {
            self.report.partitions += 1;
            self.partition(*id, tail)?;
        }
        Ok(())
    }

    fn partition(&mut self, id: TopicPartition, tail: &Tail) -> Result<(), OpenError> {
        let segments = tail.partition.segments();
        let known: BTreeSet<String> = self.report.damage.iter().map(|damage| damage.file.clone()).collect();
        let ends = segments.iter().skip(1).map(|next| next.base_offset).chain([tail.end_offset]);
        for (segment, end) in segments.iter().zip(ends) {
            self.report.segments += 1;
            let is_known = tail.partition.is_damaged() && known.contains(&segment.path());
            let reached = self.segment(id, segment)?;
            if let Some(offset) = reached
                && offset != end
                && !is_known
                && !tail.partition.is_damaged()
            {
                let meaning = format!("it ends before offset {offset}, {end} follows: partition {id} stops there");
                self.found(segment.path(), segment.len(), Some(id), meaning);
            }
        }
        Ok(())
    }

    /// Every batch of a segment; the offset behind the last, unless the walk came to an end before.
    fn segment(&mut self, id: TopicPartition, segment: &Segment) -> Result<Option<i64>, OpenError> {
        let path = segment.path();
        let file = match self.disk.open(&path, Open::Read) {
            Ok(file) => file,
            // Recovery has told that it is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Failure { place: path, source }.into()),
        };
        // Recovery has told when it is too short.
        let end = segment.len().min(file.len().map_err(at(&path))?);
        let mut scan = HeaderScan { file: &file, position: 0, end, offset: segment.base_offset };
        loop {
            match scan.next() {
                Ok(None) => return Ok((end == segment.len()).then_some(scan.offset)),
                Ok(Some((header, position))) => self.batch(id, &path, &file, (&header, position))?,
                Err(ScanError::Damaged { position, offset }) => {
                    let meaning = format!("no batch of offset {offset}: partition {id} stops there");
                    self.found(path, position, Some(id), meaning);
                    return Ok(None);
                }
                Err(ScanError::Io(source)) => return Err(Failure { place: path, source }.into()),
            }
        }
    }

    fn batch(
        &mut self,
        id: TopicPartition,
        path: &str,
        file: &Arc<dyn DiskFile>,
        (header, position): (&BatchHeader, u64),
    ) -> Result<(), OpenError> {
        let mut bytes = vec![0; header.total_bytes()];
        file.read_exact_at(&mut bytes, position).map_err(at(path))?;
        self.advance(bytes.len() as u64);
        self.report.batches += 1;
        let (first, last) = (header.base_offset, header.last_offset());
        if !verify_crc(&bytes) {
            let meaning = format!("the checksum of the batch of offsets {first} to {last} of partition {id} is wrong");
            self.found(path.to_owned(), position, Some(id), meaning);
        } else if header.leader_epoch != 0 {
            let meaning =
                format!("the leader epoch of the batch of offsets {first} to {last} of partition {id} is not 0");
            self.found(path.to_owned(), position, Some(id), meaning);
        }
        Ok(())
    }
}
