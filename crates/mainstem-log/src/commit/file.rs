//! The files of the commit log: a small set of slots that are written over again and again.
//!
//! Words: a *slot* is a file `log/commit-NNNN.log`; each time it is begun anew it gets the next *generation*. A slot
//! is *free* when the last checkpoint covers all that stands in it.
//!
//! Always true here: a slot is handed out only when its name is durable; a recycled slot is already written and
//! allocated, which nearly halves the cost of a sync.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use mainstem_disk::{Disk, DiskFile, Open};

/// Where the log keeps its own files.
pub(crate) const DIR: &str = "log";

const SPARES_MAX: usize = 3;
const ZEROS: usize = 1 << 20;

/// The path of a slot.
pub(crate) fn slot_path(slot: u32) -> String {
    format!("{DIR}/commit-{slot:04}.log")
}

/// The slot a file name stands for.
pub(crate) fn slot_of(name: &str) -> Option<u32> {
    name.strip_prefix("commit-")?.strip_suffix(".log")?.parse().ok()
}

/// All slots.
#[derive(Debug)]
pub(crate) struct CommitFiles {
    file_bytes: u64,
    /// Space that a new slot must leave free: accepted entries and the reserve need it.
    keep_free_bytes: u64,
    /// Every slot that has a file, or is being given one.
    slots: u32,
    free: Vec<u32>,
    in_use: BTreeMap<u64, u32>,
}

impl CommitFiles {
    /// All of `existing` are free.
    pub(crate) fn new(file_bytes: u64, keep_free_bytes: u64, mut existing: Vec<u32>) -> Self {
        existing.sort_unstable_by(|a, b| b.cmp(a));
        let slots = existing.first().map_or(0, |slot| slot + 1);
        Self { file_bytes, keep_free_bytes, slots, free: existing, in_use: BTreeMap::new() }
    }

    /// Begins `generation` in a free slot, or in a new one that is only reserved, not yet written. `StorageFull` when a
    /// new one would not leave enough space; not when there is no old one either, which a checkpoint could free.
    pub(crate) fn begin(&mut self, disk: &dyn Disk, generation: u64) -> io::Result<(u32, Arc<dyn DiskFile>)> {
        if self.free.is_empty() && !self.in_use.is_empty() {
            let needed = self.file_bytes.saturating_add(self.keep_free_bytes);
            if disk.available_bytes().is_ok_and(|available| available < needed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let (slot, file) = match self.free.pop() {
            Some(slot) => (slot, disk.open(&slot_path(slot), Open::Create)?),
            None => {
                let slot = self.slots;
                let file = create(disk, slot, self.file_bytes)?;
                self.slots += 1;
                (slot, file)
            }
        };
        self.in_use.insert(generation, slot);
        Ok((slot, file))
    }

    /// Frees the slots of all generations before `generation`; answers paths of files that are no longer needed.
    pub(crate) fn free_before(&mut self, generation: u64) -> Vec<u32> {
        let kept = self.in_use.split_off(&generation);
        self.free.extend(std::mem::replace(&mut self.in_use, kept).into_values());
        let mut surplus = Vec::new();
        while self.free.len() > SPARES_MAX {
            // The highest slot may leave without a hole in the numbers mattering: holes are just not used again.
            surplus.push(self.free.swap_remove(0));
        }
        surplus
    }

    /// A slot to prepare, when there is no spare and enough space.
    pub(crate) fn wanted(&mut self, available: u64) -> Option<(u32, u64)> {
        if !self.free.is_empty() || available < self.file_bytes.saturating_add(self.keep_free_bytes) {
            return None;
        }
        let slot = self.slots;
        self.slots += 1;
        Some((slot, self.file_bytes))
    }

    /// Takes a slot that [`prepare`] has made.
    pub(crate) fn add_spare(&mut self, slot: u32) {
        self.free.push(slot);
    }
}

fn create(disk: &dyn Disk, slot: u32, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
    let path = slot_path(slot);
    let file = disk.open(&path, Open::Create)?;
    if let Err(error) = file.allocate(bytes).and_then(|()| disk.sync_dir(DIR)) {
        // Half a file would take the space that is missing.
        drop(file);
        let _ = disk.remove_file(&path);
        return Err(error);
    }
    Ok(file)
}

/// Creates a slot and writes all of it, so that later syncs change no metadata.
pub(crate) fn prepare(disk: &dyn Disk, slot: u32, bytes: u64) -> io::Result<()> {
    let file = create(disk, slot, bytes)?;
    let zeros = vec![0; ZEROS];
    let mut position = 0;
    while position < bytes {
        let len = usize::try_from(bytes - position).unwrap_or(ZEROS).min(ZEROS);
        file.write_at(zeros.get(..len).unwrap_or_default(), position)?;
        position += len as u64;
    }
    file.sync_data()
}
