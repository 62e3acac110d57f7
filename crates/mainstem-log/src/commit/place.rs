//! Large parts are written once: to their segment, which is synced before the block that names them.
//!
//! Always true here: what is placed lies behind the end of what is applied, where no reader looks; a block that names it is
//! written only after [`Placing::sync`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstem_disk::{Disk, DiskFile};

use super::block::PartHeader;
use super::writer::{Storage, Tail, patch};
use crate::TopicPartition;
use crate::codec::crc32c;
use crate::failure::{Failure, at};
use crate::segment::{TOPICS_DIR, partition_dir};

/// What is placed for one block.
#[derive(Debug, Default)]
pub(super) struct Placing {
    files: BTreeMap<String, Arc<dyn DiskFile>>,
    /// Partitions with segments whose names may not be durable.
    named: BTreeSet<TopicPartition>,
    pub(super) bytes: u64,
}

impl Placing {
    /// Writes the batches where the header says; answers them as they are stored, and their CRC. `None` if there is no space:
    /// then they go inline, as small ones do.
    pub(super) fn place(
        &mut self,
        storage: &Storage,
        tail: &mut Tail,
        header: &PartHeader,
        batches: &[u8],
    ) -> Result<Option<(Vec<u8>, u32)>, Failure> {
        let mut bytes = batches.to_vec();
        patch(&mut bytes, header.base_offset);
        let (path, file) = match write(storage, tail, header, &bytes) {
            Ok(written) => written,
            Err(failure) if failure.is_full() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        if tail.take_unnamed(header.segment) {
            self.named.insert(header.to);
        }
        self.files.insert(path, file);
        self.bytes += bytes.len() as u64;
        let crc = crc32c(&bytes);
        Ok(Some((bytes, crc)))
    }

    /// Makes all of it durable, names included.
    pub(super) fn sync(&self, disk: &dyn Disk) -> Result<(), Failure> {
        for (path, file) in &self.files {
            file.sync_data().map_err(at(path))?;
        }
        let topics: BTreeSet<String> = self.named.iter().map(|id| format!("{TOPICS_DIR}/{}", id.topic)).collect();
        for path in self.named.iter().map(|id| partition_dir(*id)).chain(topics) {
            disk.sync_dir(&path).map_err(at(&path))?;
        }
        if !self.named.is_empty() {
            disk.sync_dir(TOPICS_DIR).map_err(at(TOPICS_DIR))?;
        }
        Ok(())
    }
}

fn write(
    storage: &Storage,
    tail: &mut Tail,
    header: &PartHeader,
    bytes: &[u8],
) -> Result<(String, Arc<dyn DiskFile>), Failure> {
    let segment = tail.segment_to_place(storage, header)?;
    let path = segment.path();
    let open = storage.segments.open(&segment).map_err(at(&path))?;
    open.file.write_at(bytes, header.position).map_err(at(&path))?;
    Ok((path, Arc::clone(&open.file)))
}
