//! A store in an LSM tree (`lsm-tree`), on a real file system.
//!
//! What its durability rests on, as read in its source (3.1.10): an ingestion bypasses the memtable; each of its tables is
//! written, fsynced, and its directory fsynced; then the list of tables is written to a file `v<n>`, fsynced, and `current`
//! is replaced by rename and fsynced. So an ingestion is there as a whole from that rename on. Blocks and lists have
//! checksums. Nothing else is ever written: there is no journal, and the memtable stays empty.
//!
//! Keys of the tree are shorter than 64 KiB. A longer one is stored under its first bytes and a hash; the value then has the
//! whole key before it (see [`Stored`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lsm_tree::compaction::Leveled;
use lsm_tree::config::{CompressionPolicy, PinningPolicy};
use lsm_tree::{AbstractTree, AnyTree, Cache, CompressionType, Config, Guard, SeqNo, SequenceNumberCounter, Slice};
use sha2::{Digest, Sha256};

use crate::store::{Change, Entries, Opened, Scratch, StateError, StateStore};

const STORE: &str = "store";
const SCRATCH: &str = "scratch";
/// Of a key, at most; longer ones are stored under this much of them.
const KEY_BYTES_MAX: usize = 32 << 10;
/// Compactions after one ingestion, at most.
const COMPACTIONS_MAX: usize = 8;
/// A table, about. The first sorted level holds a few of them: as much as many small ingestions are merged with.
const TABLE_BYTES: u64 = 4 << 20;
/// Ingestions that lie one above the other, at most; in scratch, which is read no longer than until the next checkpoint.
const OVERLAPPING: u8 = 4;
const OVERLAPPING_IN_SCRATCH: u8 = 8;

/// Opens the store below a directory, which is made when there is none; what the scratch held is removed. A store that is
/// damaged is emptied.
pub fn open_lsm(directory: &Path, cache_bytes: u64) -> Result<Opened, StateError> {
    let scratch = directory.join(SCRATCH);
    remove(&scratch)?;
    let path = directory.join(STORE);
    let cache = Arc::new(Cache::with_capacity_bytes(cache_bytes));
    let mut warnings = Vec::new();
    let store = match LsmStore::open(&path, cache.clone(), false) {
        Err(error @ StateError::Damaged { .. }) => {
            warnings.push(format!("the state store is emptied: {error}"));
            remove(&path)?;
            sync(directory)?;
            LsmStore::open(&path, cache.clone(), false)?
        }
        store => store?,
    };
    let scratch = LsmScratch { directory: scratch, cache, next: AtomicU64::new(1) };
    Ok(Opened { store: Arc::new(store), scratch: Arc::new(scratch), warnings })
}

/// Reads everything in the store below a directory, if there is one. Answers how many entries there are. Nobody else may have
/// it open.
pub fn scrub_lsm(directory: &Path) -> Result<u64, StateError> {
    let path = directory.join(STORE);
    if !path.exists() {
        return Ok(0);
    }
    let store = LsmStore::open(&path, Arc::new(Cache::with_capacity_bytes(0)), false)?;
    store.scan(&[], None).try_fold(0, |entries, entry| entry.map(|_| entries + 1))
}

fn remove(path: &Path) -> Result<(), StateError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error(path, error)),
        _ => Ok(()),
    }
}

/// Returns when what was removed here will not come back after a crash.
fn sync(directory: &Path) -> Result<(), StateError> {
    let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| io_error(directory, error))
}

fn io_error(path: &Path, source: std::io::Error) -> StateError {
    StateError::Io { place: path.display().to_string(), source }
}

struct LsmScratch {
    directory: PathBuf,
    cache: Arc<Cache>,
    next: AtomicU64,
}

impl fmt::Debug for LsmScratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LsmScratch").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Scratch for LsmScratch {
    fn create(&self) -> Result<Arc<dyn StateStore>, StateError> {
        let path = self.directory.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        Ok(Arc::new(LsmStore::open(&path, self.cache.clone(), true)?))
    }
}

/// See the module's text.
struct LsmStore {
    path: PathBuf,
    tree: AnyTree,
    next: SequenceNumberCounter,
    is_scratch: bool,
}

impl fmt::Debug for LsmStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LsmStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for LsmStore {
    fn drop(&mut self) {
        if self.is_scratch {
            // What cannot be removed now is at the next start.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl LsmStore {
    fn open(path: &Path, cache: Arc<Cache>, is_scratch: bool) -> Result<LsmStore, StateError> {
        let failed = |error| state_error(path, error);
        std::fs::create_dir_all(path).map_err(|error| failed(error.into()))?;
        let (next, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        // A large table's filter in one block would be read whole for one key, and push everything else out of the cache.
        let config = Config::new(path, next.clone(), visible.clone())
            .use_cache(cache)
            .filter_block_partitioning_policy(PinningPolicy::all(true))
            .index_block_partitioning_policy(PinningPolicy::all(true));
        // Scratch is written and merged more often than it is read.
        let config = match is_scratch {
            true => config.data_block_compression_policy(CompressionPolicy::all(CompressionType::None)),
            false => config,
        };
        let tree = config.open().map_err(failed)?;
        let after = tree.get_highest_seqno().map_or(0, |highest| highest + 1);
        next.fetch_max(after);
        visible.fetch_max(after);
        Ok(LsmStore { path: path.to_owned(), tree, next, is_scratch })
    }

    fn error(&self, error: lsm_tree::Error) -> StateError {
        state_error(&self.path, error)
    }

    fn ingest(&self, changes: &mut dyn Iterator<Item = Result<Change, StateError>>) -> Result<u64, StateError> {
        let failed = |error| self.error(error);
        let mut ingestion = self.tree.ingestion().map_err(failed)?;
        let mut bytes = 0;
        let mut changes = InStoredOrder { inner: changes, ready: Vec::new(), next: None };
        while let Some(stored) = changes.next_stored()? {
            bytes += (stored.key.len() + stored.value.as_ref().map_or(0, Vec::len)) as u64;
            match stored.value {
                Some(value) => ingestion.write(Slice::from(stored.key), Slice::from(value)),
                None => ingestion.write_tombstone(Slice::from(stored.key)),
            }
            .map_err(failed)?;
        }
        ingestion.finish().map_err(failed)?;
        Ok(bytes)
    }
}

fn state_error(path: &Path, error: lsm_tree::Error) -> StateError {
    let place = path.display().to_string();
    match error {
        // A file that is missing or ends early is damage, not the disk's trouble.
        lsm_tree::Error::Io(source)
            if !matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof) =>
        {
            StateError::Io { place, source }
        }
        error => StateError::Damaged { place, meaning: format!("{error:?}") },
    }
}

/// A change as the tree has it. A long key is its first [`KEY_BYTES_MAX`] bytes and 16 of a hash, its value begins with u32
/// length of the key (little-endian) and the key.
struct Stored {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Stored {
    fn of((key, value): Change) -> Stored {
        if key.len() <= KEY_BYTES_MAX {
            return Stored { key, value };
        }
        let value = value.map(|value| {
            let mut with_key = (key.len() as u32).to_le_bytes().to_vec();
            with_key.extend_from_slice(&key);
            with_key.extend_from_slice(&value);
            with_key
        });
        Stored { key: stored_key(&key), value }
    }

    /// The change's key and value.
    fn back(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        if key.len() <= KEY_BYTES_MAX {
            return Some((key.to_vec(), value.to_vec()));
        }
        let (length, rest) = value.split_first_chunk::<4>()?;
        let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some((key.to_vec(), value.to_vec()))
    }
}

fn stored_key(key: &[u8]) -> Vec<u8> {
    let Some(begin) = key.get(..KEY_BYTES_MAX).filter(|begin| begin.len() < key.len()) else { return key.to_vec() };
    let mut stored = begin.to_vec();
    stored.extend_from_slice(&Sha256::digest(key)[..16]);
    stored
}

/// Long keys of one beginning stand in the order of their hashes, not in their own.
struct InStoredOrder<'a> {
    inner: &'a mut dyn Iterator<Item = Result<Change, StateError>>,
    /// In reverse order.
    ready: Vec<Stored>,
    next: Option<Stored>,
}

impl InStoredOrder<'_> {
    fn next_stored(&mut self) -> Result<Option<Stored>, StateError> {
        if let Some(stored) = self.ready.pop() {
            return Ok(Some(stored));
        }
        let Some(first) = self.pull()? else { return Ok(None) };
        if first.key.len() <= KEY_BYTES_MAX {
            return Ok(Some(first));
        }
        let begin = first.key[..KEY_BYTES_MAX].to_vec();
        self.ready.push(first);
        while let Some(next) = self.pull()? {
            if next.key.len() <= KEY_BYTES_MAX || !next.key.starts_with(&begin) {
                self.next = Some(next);
                break;
            }
            self.ready.push(next);
        }
        self.ready.sort_by(|a, b| b.key.cmp(&a.key));
        Ok(self.ready.pop())
    }

    fn pull(&mut self) -> Result<Option<Stored>, StateError> {
        match self.next.take() {
            Some(stored) => Ok(Some(stored)),
            None => Ok(self.inner.next().transpose()?.map(Stored::of)),
        }
    }
}

/// Entries of a range with their own keys in order.
struct InKeyOrder<'a, I> {
    inner: I,
    store: &'a LsmStore,
    from: Vec<u8>,
    until: Option<Vec<u8>>,
    /// In reverse order.
    ready: Vec<(Vec<u8>, Vec<u8>)>,
    next: Option<(Vec<u8>, Vec<u8>)>,
}

impl<I: Iterator<Item = lsm_tree::Result<(lsm_tree::UserKey, lsm_tree::UserValue)>>> InKeyOrder<'_, I> {
    fn pull(&mut self) -> Option<Result<(Vec<u8>, Vec<u8>), StateError>> {
        if let Some(entry) = self.next.take() {
            return Some(Ok(entry));
        }
        let (key, value) = match self.inner.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(self.store.error(error))),
        };
        let meaning = "a long key is cut short".to_owned();
        let place = self.store.path.display().to_string();
        Some(Stored::back(&key, &value).ok_or(StateError::Damaged { place, meaning }))
    }
}

impl<I: Iterator<Item = lsm_tree::Result<(lsm_tree::UserKey, lsm_tree::UserValue)>>> Iterator for InKeyOrder<'_, I> {
    type Item = Result<(Vec<u8>, Vec<u8>), StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.ready.is_empty() {
                let first = match self.pull()? {
                    Ok(entry) => entry,
                    Err(error) => return Some(Err(error)),
                };
                let begin =
                    first.0.get(..KEY_BYTES_MAX).filter(|begin| begin.len() < first.0.len()).map(<[u8]>::to_vec);
                self.ready.push(first);
                if let Some(begin) = begin {
                    loop {
                        match self.pull() {
                            Some(Ok(entry)) if entry.0.len() > KEY_BYTES_MAX && entry.0.starts_with(&begin) => {
                                self.ready.push(entry);
                            }
                            Some(Ok(entry)) => {
                                self.next = Some(entry);
                                break;
                            }
                            Some(Err(error)) => return Some(Err(error)),
                            None => break,
                        }
                    }
                    self.ready.sort_by(|a, b| b.0.cmp(&a.0));
                }
            }
            let entry = self.ready.pop()?;
            if entry.0 >= self.from && self.until.as_ref().is_none_or(|until| entry.0 < *until) {
                return Some(Ok(entry));
            }
        }
    }
}

impl StateStore for LsmStore {
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        let get = |key: &&[u8]| {
            if key.len() <= KEY_BYTES_MAX {
                let value = self.tree.get(*key, SeqNo::MAX).map_err(|error| self.error(error))?;
                return Ok(value.map(|value| value.to_vec()));
            }
            let stored = stored_key(key);
            let value = self.tree.get(&stored, SeqNo::MAX).map_err(|error| self.error(error))?;
            let entry = value.and_then(|value| Stored::back(&stored, &value));
            Ok(entry.filter(|(whole, _)| whole == key).map(|(_, value)| value))
        };
        keys.iter().map(get).collect()
    }

    fn scan(&self, from: &[u8], until: Option<&[u8]>) -> Entries<'_> {
        // A long bound is widened to its beginning; what does not belong is left out again.
        let begin = |bound: &[u8]| bound[..bound.len().min(KEY_BYTES_MAX)].to_vec();
        let low = begin(from);
        let high = until.map(|until| match until.len() > KEY_BYTES_MAX {
            true => crate::store::after_prefix(&begin(until)),
            false => Some(until.to_vec()),
        });
        let range = match high.flatten() {
            Some(high) if high <= low => return Box::new(std::iter::empty()),
            Some(high) => self.tree.range(low..high, SeqNo::MAX, None),
            None => self.tree.range(low.., SeqNo::MAX, None),
        };
        Box::new(InKeyOrder {
            inner: range.map(Guard::into_inner),
            store: self,
            from: from.to_vec(),
            until: until.map(<[u8]>::to_vec),
            ready: Vec::new(),
            next: None,
        })
    }

    fn apply(&self, changes: &mut dyn Iterator<Item = Result<Change, StateError>>) -> Result<u64, StateError> {
        self.ingest(changes)
    }

    fn maintain(&self) -> Result<(), StateError> {
        // What there is by level tells whether a compaction has done anything.
        let levels = || (0..self.tree.tree_config().level_count).map(|level| self.tree.level_table_count(level.into()));
        let shape = || (self.tree.disk_space(), levels().collect::<Vec<_>>());
        let overlapping = if self.is_scratch { OVERLAPPING_IN_SCRATCH } else { OVERLAPPING };
        let leveled = Leveled::default().with_table_target_size(TABLE_BYTES).with_l0_threshold(overlapping);
        let leveled = Arc::new(leveled);
        for _ in 0..COMPACTIONS_MAX {
            let before = shape();
            self.tree.compact(leveled.clone(), self.next.get()).map_err(|error| self.error(error))?;
            if shape() == before {
                break;
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), StateError> {
        self.tree.clear().map_err(|error| self.error(error))
    }

    fn disk_bytes(&self) -> u64 {
        self.tree.disk_space()
    }
}
