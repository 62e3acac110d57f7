//! What a damaged block of the commit log means for each partition.
//!
//! Words: an entry is *lost* when its block cannot be read although a later block, or a step of the order, proves that
//! it was durable. A partition is *healed* when its segment files hold the lost batches: copied there after their block
//! was durable, or placed before it; each batch carries its own CRC. Nothing else can stand at their offsets: each start cuts
//! off what no entry stands for.
//!
//! Always true here: a partition goes on after lost entries only if it is proven that they are all there, or that none
//! of them was its own. Otherwise it stops at the first offset that is not proven, and its files stay untouched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstem_disk::Open;
use mainstem_kafka_wire::batch::verify_crc;

use super::Recovery;
use super::scan::ScannedBlock;
use crate::commit::block::PartHeader;
use crate::commit::writer::{Bytes, Tail, merged};
use crate::failure::Failure;
use crate::partition::{DamagedAt, Partition};
use crate::segment::{HeaderScan, ScanError, SegmentName};
use crate::{Csn, Damage, OpenError, OrderStep, PartitionConfig, TopicPartition};

impl Recovery {
    /// Deals with the entries up to `last`, which are lost at `position` of `file`. `next` is the block behind them, `found`
    /// are the steps of what is there of the first of them.
    pub(super) fn lose(
        &mut self,
        last: Csn,
        next: Option<&ScannedBlock>,
        (file, position): (&str, u64),
        found: Vec<OrderStep>,
    ) -> Result<(), OpenError> {
        self.keep_evidence()?;
        let first = self.writer.applied.next();
        let steps = self.evidence_of(first, last);
        let ends = match (&steps, next) {
            (Some(steps), _) => Some(steps.iter().map(|step| (step.partition, step.end_offset)).collect()),
            // The next block says where this one, and only this one, left its partitions.
            (None, Some(next)) if next.header.number == self.at.block_number + 1 => {
                Some(next.payload.ends_before.iter().copied().collect::<BTreeMap<_, _>>())
            }
            _ => None,
        };
        let meaning = format!("entries {first} to {last} cannot be read");
        self.report.damage.push(Damage { file: file.to_owned(), position, partition: None, meaning });
        let place = format!("{file} at byte {position}");
        match ends {
            Some(ends) => {
                for (partition, end) in &ends {
                    self.heal(*partition, *end, last, &place)?;
                }
                let steps = steps.unwrap_or_else(|| {
                    let step = |(partition, end): (&TopicPartition, &i64)| OrderStep {
                        csn: last,
                        partition: *partition,
                        end_offset: *end,
                    };
                    ends.iter().map(step).collect()
                });
                let is_whole = |step: &OrderStep| {
                    self.writer.tails.get(&step.partition).is_some_and(|tail| tail.end_offset >= step.end_offset)
                };
                let steps = found.into_iter().chain(steps).filter(is_whole).collect();
                self.append_order(&merged(steps))?;
            }
            None => {
                self.append_order(&merged(found))?;
                self.suspect_all(&place)?;
            }
        }
        self.writer.applied = last;
        Ok(())
    }

    /// The steps of the lost entries, if the order has them all.
    pub(super) fn evidence_of(&self, first: Csn, last: Csn) -> Option<Vec<OrderStep>> {
        let steps: Vec<OrderStep> =
            self.evidence.iter().filter(|step| step.csn >= first && step.csn <= last).copied().collect();
        let csns: BTreeSet<Csn> = steps.iter().map(|step| step.csn).collect();
        (csns.len() as u64 == last.0 + 1 - first.0).then_some(steps)
    }

    /// Nobody knows whose the lost entries were: every partition has to prove that they were not its own.
    pub(super) fn suspect_all(&mut self, place: &str) -> Result<(), OpenError> {
        for id in self.partitions_on_disk()? {
            self.tail(id);
        }
        for id in self.writer.tails.keys() {
            self.suspects.entry(*id).or_insert_with(|| place.to_owned());
        }
        Ok(())
    }

    /// The tail of a partition, begun when it was unknown.
    pub(super) fn tail(&mut self, id: TopicPartition) -> &mut Tail {
        self.writer
            .tails
            .entry(id)
            .or_insert_with(|| Tail::new(Arc::new(Partition::new(id, PartitionConfig::default()))))
    }

    /// Brings a partition to `end` from its segment files, or stops it.
    pub(super) fn heal(&mut self, id: TopicPartition, end: i64, csn: Csn, place: &str) -> Result<(), OpenError> {
        if self.deleted.contains(&id.topic) {
            return Ok(());
        }
        while self.tail(id).end_offset < end && !self.tail(id).partition.is_damaged() {
            let Some((header, bytes)) = self.next_batch_on_disk(id)? else { break };
            self.writer.apply_part(&self.storage, csn, &header, Bytes::There(&bytes))?;
            self.healed += 1;
        }
        let tail = self.tail(id);
        if tail.end_offset != end && !tail.partition.is_damaged() {
            self.stop(id, place);
        }
        Ok(())
    }

    /// Stops a partition where it stands.
    pub(super) fn stop(&mut self, id: TopicPartition, place: &str) {
        let tail = self.tail(id);
        let offset = tail.end_offset;
        let at = DamagedAt { offset, place: place.to_owned() };
        if tail.partition.stop_at(at) {
            let (file, position) = split_place(place);
            let meaning = format!("partition {id} stops at offset {offset}: what follows is lost or not proven");
            self.report.damage.push(Damage { file, position, partition: Some(id), meaning });
        }
    }

    /// The batch that follows in the partition's files, if it is whole and its CRC right.
    fn next_batch_on_disk(&mut self, id: TopicPartition) -> Result<Option<(PartHeader, Vec<u8>)>, OpenError> {
        let tail = self.tail(id);
        let offset = tail.end_offset;
        let active = tail.segment();
        for (segment, position) in active.into_iter().chain([(offset, 0)]) {
            // Compaction leaves the active segment alone.
            let path = SegmentName::first(segment).path(id, "log");
            let file = match self.storage.disk.open(&path, Open::Read) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(Failure { place: path, source }.into()),
            };
            let io = |source| Failure { place: path.clone(), source };
            let end = file.len().map_err(io)?;
            let mut scan = HeaderScan { file: &file, position, end, offset };
            let batch = match scan.next() {
                Ok(Some((batch, _))) => batch,
                Ok(None) | Err(ScanError::Damaged { .. }) => continue,
                Err(ScanError::Io(source)) => return Err(io(source).into()),
            };
            let mut bytes = vec![0; batch.total_bytes()];
            file.read_exact_at(&mut bytes, position).map_err(io)?;
            self.report.bytes_scanned += bytes.len() as u64;
            if verify_crc(&bytes) {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let end_offset = batch.next_offset();
                let header = PartHeader { to: id, base_offset: offset, end_offset, segment, position, length };
                return Ok(Some((header, bytes)));
            }
        }
        Ok(None)
    }
}

fn split_place(place: &str) -> (String, u64) {
    match place.rsplit_once(" at byte ") {
        Some((file, position)) => (file.to_owned(), position.parse().unwrap_or(0)),
        None => (place.to_owned(), 0),
    }
}
