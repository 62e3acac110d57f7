//! A disk in memory that fails, fills and loses power as its seed says.
//!
//! Words: the *content* of a file is what the running process reads; its *durable* bytes are what is certain to be there
//! after a crash; a *change* is a write, a new length or a name that is in the one but not yet surely in the other. An
//! *operation* is a write, a sync or a change of a name (creating, renaming, removing): what [`SimDisk::op_count`]
//! counts and [`SimDisk::crash_after`] counts down.
//!
//! Always true here:
//! - a crash never alters a byte that was synced and not written again, nor a name that was synced and not changed;
//! - what was not synced is kept, lost or torn piece by piece, in any order, and a rename happens whole or not at all;
//! - a file descriptor does not outlive a crash;
//! - syncing a file does not make its name durable, and syncing a directory makes nothing durable but its names;
//! - after a failed sync the changes it covered stay doubtful for good, also when a later sync succeeds.

mod crash;
mod node;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use mainstem_disk::{DirEntry, Disk, DiskFile, Open};
use parking_lot::{Mutex, MutexGuard};

use node::{Edit, NodeId};
use state::State;

/// Which operations a fault set by [`SimDisk::fail_nth`] counts and hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Reading bytes, lengths, directories, free space; opening a file that exists.
    Read,
    /// Writing, allocating, setting a length, creating, renaming, removing.
    Write,
    /// `sync_data` and `sync_dir`.
    Sync,
    /// Each of these.
    Any,
}

/// A seeded disk in memory with faults; see the module's words and promises.
///
/// All handles of one disk share one state. [`SimDisk::mount`] gives a process a handle of its own that dies with the
/// next crash.
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    /// The life that this handle belongs to; `None` outlives crashes.
    life: Option<u64>,
}

impl SimDisk {
    /// An empty disk. All its decisions follow from `seed` and the order of the calls.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { state: Arc::new(Mutex::new(State::new(seed))), life: None })
    }

    /// A handle for one life of a process: the next crash makes all its calls fail, as it does to open files. With it
    /// a thread left over from before the crash cannot touch the disk after it.
    pub fn mount(&self) -> Arc<Self> {
        let life = self.state.lock().life;
        Arc::new(Self { state: Arc::clone(&self.state), life: Some(life) })
    }

    /// Loses power and restores it: the disk holds what was durable and what chance kept of the rest, old files and
    /// mounts are stale, faults and a pending [`SimDisk::crash_after`] are forgotten. The capacity stays.
    pub fn crash(&self) {
        self.state.lock().crash();
    }

    /// From the `n`-th operation from now on (1 is the next one) every call fails with "simulated crash", until
    /// [`SimDisk::crash`]. The `n`-th itself is caught in flight: the crash decides what is left of it.
    pub fn crash_after(&self, n: u64) {
        self.state.lock().cut_power_at(n);
    }

    /// Whether a [`SimDisk::crash_after`] has struck and the power is still off.
    pub fn is_off(&self) -> bool {
        self.state.lock().is_off()
    }

    /// Makes the `n`-th operation of this kind from now (1 is the next one) fail with an I/O error. A failed write may
    /// have written any part from its start; a failed sync leaves what it covered doubtful for good. Several may be set.
    pub fn fail_nth(&self, kind: FaultKind, n: u64) {
        self.state.lock().add_fault(kind, n);
    }

    /// Forgets the faults set by [`SimDisk::fail_nth`] that have not struck.
    pub fn clear_faults(&self) {
        self.state.lock().clear_faults();
    }

    /// Room for this many bytes in all files together; what does not fit fails with `StorageFull`. A length that was
    /// set but neither written nor allocated takes no room, as in a sparse file.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// With `true`, syncs answer `Ok` and do nothing: a simulation that does not fail then proves nothing.
    pub fn ignore_sync(&self, ignore: bool) {
        self.state.lock().ignore_sync = ignore;
    }

    /// With `false`, a crash keeps all changes up to one of them, in the order they were made over all files, that one
    /// torn, and none after it. The default is `true`: any subset in any order.
    pub fn set_reordering(&self, reordering: bool) {
        self.state.lock().reordering = reordering;
    }

    /// Operations (writes, syncs, names) since the disk was made, crashes included.
    pub fn op_count(&self) -> u64 {
        self.state.lock().op_count
    }

    /// A hash over all operations, their data and their outcomes, reads included: equal for equal runs.
    pub fn trace_hash(&self) -> u64 {
        self.state.lock().trace_hash()
    }

    /// Flips bits of one byte on the medium, as decay does: in what is read now and in what a crash leaves. No
    /// operation; a later write of that byte repairs it. `InvalidInput` past the end of the file.
    pub fn corrupt(&self, path: &str, position: u64, xor_mask: u8) -> io::Result<()> {
        self.state.lock().corrupt(path, position, xor_mask)
    }

    /// The paths of all files, sorted. No operation.
    pub fn files(&self) -> Vec<String> {
        self.snapshot().into_keys().collect()
    }

    /// All files with their content as a process would read it now. No operation.
    pub fn snapshot(&self) -> BTreeMap<String, Vec<u8>> {
        self.state.lock().snapshot()
    }

    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        state.check_life(self.life)?;
        Ok(state)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock()?;
        let node = state.open(path, open)?;
        let (life, is_writable) = (state.life, open != Open::Read);
        Ok(Arc::new(SimFile { state: Arc::clone(&self.state), life, node, is_writable }))
    }

    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        self.lock()?.create_dir_all(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        self.lock()?.list(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.lock()?.rename(from, to)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.lock()?.remove_file(path)
    }

    fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        self.lock()?.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.lock()?.sync_dir(path)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.lock()?.available_bytes()
    }
}

/// An open file of a [`SimDisk`]; stale after its next crash.
struct SimFile {
    state: Arc<Mutex<State>>,
    life: u64,
    node: NodeId,
    is_writable: bool,
}

impl SimFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        state.check_life(Some(self.life))?;
        Ok(state)
    }

    fn edit(&self, edit: Edit) -> io::Result<()> {
        if !self.is_writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file was opened for reading only"));
        }
        self.lock()?.edit(self.node, edit)
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("node", &self.node).field("life", &self.life).finish_non_exhaustive()
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.lock()?.read_at(self.node, buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.edit(Edit::Write { position, bytes: buf.to_vec() })
    }

    fn len(&self) -> io::Result<u64> {
        self.lock()?.len(self.node)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.edit(Edit::SetLen(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.edit(Edit::Grow(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.lock()?.sync_data(self.node)
    }
}
