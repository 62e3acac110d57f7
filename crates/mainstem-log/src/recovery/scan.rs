//! Reading the commit log back: the block that must come next, and whatever valid blocks lie behind one that is not.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use mainstem_disk::{Disk, DiskFile, Open};

use crate::OpenError;
use crate::checkpoint::CommitPosition;
use crate::codec::crc32c;
use crate::commit::block::{ALIGNMENT, BlockHeader, HEADER_BYTES, Parsed, Payload, PayloadError, parse_payload};
use crate::commit::file::slot_path;
use crate::failure::at;

const PROBE_BYTES: usize = 1 << 20;

#[derive(Debug)]
struct ScannedFile {
    slot: u32,
    file: Arc<dyn DiskFile>,
    len: u64,
}

/// A valid block.
#[derive(Debug)]
pub(super) struct ScannedBlock {
    pub(super) header: BlockHeader,
    pub(super) crc: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) payload: Payload,
    pub(super) generation: u64,
    pub(super) position: u64,
}

/// The files of the commit log by generation.
#[derive(Debug)]
pub(super) struct BlockScan {
    log_id: u64,
    files: BTreeMap<u64, ScannedFile>,
    pub(super) bytes_scanned: u64,
    pub(super) newest_generation: u64,
    pub(super) newest_number: u64,
}

impl BlockScan {
    /// Looks at all slots; those of generations before `from` are covered by the checkpoint. The others are synced: what
    /// recovery accepts must not be lost after recovery has acted on it.
    pub(super) fn new(disk: &dyn Disk, slots: &[u32], log_id: u64, from: &CommitPosition) -> Result<Self, OpenError> {
        let mut scan = Self {
            log_id,
            files: BTreeMap::new(),
            bytes_scanned: 0,
            newest_generation: from.generation,
            newest_number: from.block_number,
        };
        for slot in slots {
            let path = slot_path(*slot);
            let file = disk.open(&path, Open::Write).map_err(at(&path))?;
            let len = file.len().map_err(at(&path))?;
            let scanned = ScannedFile { slot: *slot, file, len };
            let generation = match scan.header_at(&scanned, 0)? {
                Some((header, _)) => Some(header.generation),
                None if from.slot == *slot && from.position > 0 => Some(from.generation),
                None => scan.probe(&scanned, 0, |_| true)?.map(|(header, _)| header.generation),
            };
            let Some(generation) = generation else { continue };
            scan.newest_generation = scan.newest_generation.max(generation);
            if generation >= from.generation {
                scanned.file.sync_data().map_err(at(&path))?;
                scan.files.insert(generation, scanned);
            }
        }
        Ok(scan)
    }

    /// The block that follows: at `position` of `generation`, or at the front of the next generation.
    pub(super) fn next(&mut self, at: &CommitPosition) -> Result<Option<ScannedBlock>, OpenError> {
        for (generation, position) in [(at.generation, at.position), (at.generation + 1, 0)] {
            let found = self.block_at(generation, position)?;
            if let Some(block) = found.filter(|block| block.header.number == at.block_number) {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// The valid block with the smallest number above `at.block_number`, at or behind `at`.
    pub(super) fn next_after_damage(&mut self, at: &CommitPosition) -> Result<Option<ScannedBlock>, OpenError> {
        let generations: Vec<u64> = self.files.range(at.generation..).map(|(generation, _)| *generation).collect();
        for generation in generations {
            let mut position = if generation == at.generation { at.position } else { 0 };
            while let Some(found) = self.later_header(generation, position, at.block_number)? {
                if let Some(block) = self.block_at(generation, found)? {
                    return Ok(Some(block));
                }
                position = found + ALIGNMENT as u64;
            }
        }
        Ok(None)
    }

    /// Bytes at `at` that look like a block that was not written to its end.
    pub(super) fn torn_bytes(&self, at: &CommitPosition) -> Result<u64, OpenError> {
        let mut torn = 0;
        for (generation, position) in [(at.generation, at.position), (at.generation + 1, 0)] {
            let Some(file) = self.files.get(&generation) else { continue };
            let rest = file.len.saturating_sub(position);
            if let Some((header, _)) = self.header_at(file, position)? {
                if header.generation == generation && header.number >= at.block_number {
                    torn += header.total_bytes().min(rest);
                }
            } else if rest > 0 && rest < HEADER_BYTES as u64 {
                torn += rest;
            } else if self.has_magic(file, position)? {
                torn += (ALIGNMENT as u64).min(rest);
            }
        }
        Ok(torn)
    }

    /// The path of the file that `at` lies in.
    pub(super) fn path(&self, generation: u64) -> String {
        self.files.get(&generation).map_or_else(|| "log/commit-????.log".to_owned(), |file| slot_path(file.slot))
    }

    fn has_magic(&self, file: &ScannedFile, position: u64) -> Result<bool, OpenError> {
        let mut bytes = [0; 4];
        match file.file.read_exact_at(&mut bytes, position) {
            Ok(()) => Ok(&bytes == b"MSCL"),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(at(&slot_path(file.slot))(error).into()),
        }
    }

    fn header_at(&self, file: &ScannedFile, position: u64) -> Result<Option<(BlockHeader, u32)>, OpenError> {
        let path = slot_path(file.slot);
        let mut bytes = [0; HEADER_BYTES];
        match file.file.read_exact_at(&mut bytes, position) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(at(&path)(error).into()),
        }
        match BlockHeader::parse(&bytes) {
            Parsed::Header(header, crc) if header.log_id == self.log_id => Ok(Some((header, crc))),
            Parsed::Later(version) => Err(OpenError::LaterVersion { place: path, version: u32::from(version) }),
            Parsed::Header(..) | Parsed::Nothing => Ok(None),
        }
    }

    fn block_at(&mut self, generation: u64, position: u64) -> Result<Option<ScannedBlock>, OpenError> {
        let Some(file) = self.files.get(&generation) else { return Ok(None) };
        let path = slot_path(file.slot);
        let Some((header, crc)) = self.header_at(file, position)? else { return Ok(None) };
        if header.generation != generation {
            return Ok(None);
        }
        let start = position + HEADER_BYTES as u64;
        if start + u64::from(header.payload_bytes) > file.len {
            return Ok(None);
        }
        let mut bytes = vec![0; header.payload_bytes as usize];
        file.file.read_exact_at(&mut bytes, start).map_err(at(&path))?;
        self.bytes_scanned += header.total_bytes();
        if crc32c(&bytes) != header.payload_crc {
            return Ok(None);
        }
        self.newest_number = self.newest_number.max(header.number);
        match parse_payload(&bytes) {
            Ok(payload) if !holds_its_entries(&header, &payload) => Ok(None),
            Ok(payload) => Ok(Some(ScannedBlock { header, crc, bytes, payload, generation, position })),
            Err(PayloadError::LaterKind(version)) => Err(OpenError::LaterVersion { place: path, version }),
            Err(PayloadError::Malformed) => Ok(None),
        }
    }

    /// The first place at or behind `position` that holds a header of this generation with a number above `number`.
    fn later_header(&mut self, generation: u64, position: u64, number: u64) -> Result<Option<u64>, OpenError> {
        let Some(file) = self.files.get(&generation) else { return Ok(None) };
        let found = self.probe(file, position, |header| header.generation == generation && header.number > number)?;
        let end = found.map_or(file.len, |(_, position)| position);
        self.bytes_scanned += end.saturating_sub(position);
        Ok(found.map(|(_, position)| position))
    }

    /// The first aligned place from `position` on with a valid header that passes.
    fn probe(
        &self,
        file: &ScannedFile,
        mut position: u64,
        passes: impl Fn(&BlockHeader) -> bool,
    ) -> Result<Option<(BlockHeader, u64)>, OpenError> {
        let path = slot_path(file.slot);
        let mut chunk = Vec::new();
        while position < file.len {
            let len = usize::try_from(file.len - position).unwrap_or(PROBE_BYTES).min(PROBE_BYTES);
            chunk.resize(len, 0);
            file.file.read_exact_at(&mut chunk, position).map_err(at(&path))?;
            for (i, bytes) in chunk.chunks(ALIGNMENT).enumerate() {
                if let Parsed::Header(header, _) = BlockHeader::parse(bytes)
                    && header.log_id == self.log_id
                    && passes(&header)
                {
                    return Ok(Some((header, position + (i * ALIGNMENT) as u64)));
                }
            }
            position += len as u64;
        }
        Ok(None)
    }
}

/// Whether the entries are those that the header names: one per CSN.
fn holds_its_entries(header: &BlockHeader, payload: &Payload) -> bool {
    payload.entries.iter().map(|entry| entry.csn.0).eq(header.first.0..=header.last.0)
}
