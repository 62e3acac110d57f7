//! Files, clock and randomness behind traits, and the real ones.
//!
//! Everything in Mainstem that must survive a crash goes through [`Disk`], everything that reads time through
//! [`Clock`], everything that draws a random number through [`Random`]. The simulation replaces all three
//! (`mainstem-testkit`), so that one seed replays one run exactly.
//!
//! Words: a *path* is relative to the data directory and uses `/`; *durable* means that it survives power loss.
//!
//! Always true here: a write is durable only after [`DiskFile::sync_data`] has returned `Ok`; a created, renamed or
//! removed name is durable only after [`Disk::sync_dir`] of its directory. Until then a crash may keep any subset of
//! the writes, each whole, torn at any byte, or not at all, in any order.

mod overlay;
mod range;
mod real;

pub use overlay::OverlayDisk;
pub use range::FileRange;
pub use real::{LockedDir, RealDisk, SystemClock, SystemRandom};

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How [`Disk::open`] treats a file that exists or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The file exists and is only read. `NotFound` otherwise.
    Read,
    /// The file exists and is read and written. `NotFound` otherwise.
    Write,
    /// The file does not exist yet and is read and written. `AlreadyExists` otherwise.
    CreateNew,
    /// Read and written, created when it does not exist.
    Create,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The last component of the path.
    pub name: String,
    /// Whether the name is a directory.
    pub is_dir: bool,
}

/// A directory tree: the data directory.
///
/// All methods block and may be called from any thread. Errors are the operating system's; `StorageFull` and
/// `ReadOnlyFilesystem` are kept distinct by their [`io::ErrorKind`].
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens a file. A created file's name is durable after [`Disk::sync_dir`] of its directory.
    fn open(&self, path: &str, open: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a directory and its parents; fine when it exists.
    fn create_dir_all(&self, path: &str) -> io::Result<()>;
    /// The names in a directory, sorted. `NotFound` when the directory does not exist.
    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>>;
    /// Renames a file or a directory, replacing a file of that name: atomic to any reader and over a crash.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. `NotFound` when there is none.
    fn remove_file(&self, path: &str) -> io::Result<()>;
    /// Removes a directory and all that is in it. `NotFound` when there is none.
    fn remove_dir_all(&self, path: &str) -> io::Result<()>;
    /// Makes the names in this directory durable.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Bytes that can still be written before the disk is full.
    fn available_bytes(&self) -> io::Result<u64>;
}

/// An open file: positioned reads and writes, no cursor. Shared by reference between threads.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads up to `buf.len()` bytes at `position`; 0 at the end of the file. May return fewer than asked for.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all of `buf` at `position`, growing the file when needed. Not durable until [`DiskFile::sync_data`].
    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file to `len`, or grows it with zeros. Durable after [`DiskFile::sync_data`].
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space up to `len` bytes, so that later writes below it do not fail for want of space. The length of
    /// the file becomes at least `len`; the new bytes read as zeros.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Makes all earlier writes to this file, and its length, durable (`fdatasync`). After an error nothing may be
    /// assumed about any write since the last success: the caller stops.
    fn sync_data(&self) -> io::Result<()>;
    /// The operating system's file, if it is one.
    fn as_file(&self) -> Option<&std::fs::File> {
        None
    }
}

impl dyn DiskFile {
    /// Fills `buf` from `position`. `UnexpectedEof` when the file ends before.
    pub fn read_exact_at(&self, mut buf: &mut [u8], mut position: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, position)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    let rest = buf;
                    buf = rest.get_mut(n..).unwrap_or_default();
                    position += n as u64;
                }
            }
        }
        Ok(())
    }

    /// The whole file.
    pub fn read_to_end(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len()?).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// Time. Wall time may jump; monotonic time never goes back.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Milliseconds since 1970-01-01 UTC.
    fn wall_ms(&self) -> i64;
    /// Time since an arbitrary start.
    fn monotonic(&self) -> Duration;
}

/// Randomness: ids and secrets.
pub trait Random: Debug + Send + Sync + 'static {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}
