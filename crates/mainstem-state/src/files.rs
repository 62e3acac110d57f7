//! A store in memory whose ingestions are files of a [`Disk`]: for simulations, where the disk loses what was not durable, and
//! tears or damages what it likes.
//!
//! Each ingestion is one checkpoint file (see [`crate::format`]) in a directory of its own: section `head` (u64 sequence
//! number of the whole that it continues, little-endian; its own, if it is one), then sections `part`: per change u32 length
//! of the key, u8 1 for a value and 0 for none, u32 length of the value, key, value. When the changes are more than the whole
//! they continue, the next file is a whole again, and older ones go.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstem_disk::Disk;
use parking_lot::RwLock;

use crate::checkpoint::{CheckpointReader, CheckpointWriter, newest, remove_older};
use crate::format::{SectionKey, field};
use crate::store::{Change, Entries, Opened, Scratch, StateError, StateStore};

const PART_BYTES: usize = 1 << 20;
/// Changes of less than this continue any whole.
const SMALL_BYTES: u64 = 64 << 10;
const CHAIN_MAX: u64 = 16;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Opens the store in a directory, which is made when there is none. One that is damaged is emptied.
pub fn open_files(disk: Arc<dyn Disk>, directory: &str) -> Result<Opened, StateError> {
    let files = FileStore { disk, directory: directory.to_owned(), state: RwLock::default() };
    let mut warnings = Vec::new();
    match files.load() {
        Ok(state) => *files.state.write() = state,
        Err(error @ StateError::Damaged { .. }) => {
            warnings.push(format!("the state store is emptied: {error}"));
            files.clear()?;
        }
        Err(error) => return Err(error),
    }
    Ok(Opened { store: Arc::new(files), scratch: Arc::new(MemoryScratch), warnings })
}

/// Scratch that is memory itself: a simulation has enough of it.
#[derive(Debug)]
struct MemoryScratch;

impl Scratch for MemoryScratch {
    fn create(&self) -> Result<Arc<dyn StateStore>, StateError> {
        Ok(Arc::new(MemoryStore::default()))
    }
}

#[derive(Debug)]
struct FileStore {
    disk: Arc<dyn Disk>,
    directory: String,
    state: RwLock<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    map: Map,
    /// Of the newest file, and of the whole that it continues; 0 when there is none.
    sequence: u64,
    whole: u64,
    whole_bytes: u64,
    /// Of the files after the whole.
    bytes: u64,
}

impl FileStore {
    fn load(&self) -> Result<Loaded, StateError> {
        let mut loaded = Loaded::default();
        let Some(last) = newest(&*self.disk, &self.directory)?.first().copied() else { return Ok(loaded) };
        let whole = self.read(last, &mut Map::new())?.0;
        for sequence in whole..=last {
            let (continues, bytes) = self.read(sequence, &mut loaded.map)?;
            if continues != whole {
                let meaning = format!("file {sequence} continues {continues}, file {last} continues {whole}");
                return Err(StateError::Damaged { place: self.directory.clone(), meaning });
            }
            match sequence == whole {
                true => loaded.whole_bytes = bytes,
                false => loaded.bytes += bytes,
            }
        }
        (loaded.sequence, loaded.whole) = (last, whole);
        Ok(loaded)
    }

    /// Applies one file to the map. Answers which whole it continues, and its bytes.
    fn read(&self, sequence: u64, map: &mut Map) -> Result<(u64, u64), StateError> {
        let damaged = |meaning: &str| {
            let place = format!("{}, file {sequence}", self.directory);
            StateError::Damaged { place, meaning: meaning.to_owned() }
        };
        let mut reader = match CheckpointReader::open(&*self.disk, &self.directory, sequence) {
            Err(crate::CheckpointError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(damaged("it is missing"));
            }
            reader => reader?,
        };
        let (mut whole, mut bytes) = (None, 0);
        while let Some(section) = reader.next_section()? {
            bytes += section.bytes.len() as u64;
            if section.key.name == "head" {
                whole = field(&section.bytes, 0).map(u64::from_le_bytes);
                continue;
            }
            let mut rest = section.bytes.as_slice();
            while !rest.is_empty() {
                let cut_short = || damaged("a change is cut short");
                let ((key, value), after) = split_change(rest).ok_or_else(cut_short)?;
                match value {
                    Some(value) => map.insert(key.to_vec(), value.to_vec()),
                    None => map.remove(key),
                };
                rest = after;
            }
        }
        Ok((whole.ok_or_else(|| damaged("it has no head"))?, bytes))
    }

    fn write(
        &self,
        sequence: u64,
        whole: u64,
        changes: &mut dyn Iterator<Item = ChangeRef<'_>>,
    ) -> Result<u64, StateError> {
        let mut writer = CheckpointWriter::create(self.disk.clone(), &self.directory, sequence)?;
        writer.section(&SectionKey::new(0, 0, "head"), &whole.to_le_bytes())?;
        let mut part = Vec::new();
        for (key, value) in changes {
            let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("less than 4 GiB").to_le_bytes();
            part.extend_from_slice(&length(key));
            part.push(u8::from(value.is_some()));
            part.extend_from_slice(&length(value.unwrap_or_default()));
            part.extend_from_slice(key);
            part.extend_from_slice(value.unwrap_or_default());
            if part.len() >= PART_BYTES {
                writer.section(&SectionKey::new(0, 0, "part"), &part)?;
                part.clear();
            }
        }
        writer.section(&SectionKey::new(0, 0, "part"), &part)?;
        Ok(writer.finish()?)
    }
}

type ChangeRef<'a> = (&'a [u8], Option<&'a [u8]>);

fn split_change(bytes: &[u8]) -> Option<(ChangeRef<'_>, &[u8])> {
    let key_bytes = u32::from_le_bytes(field(bytes, 0)?) as usize;
    let has_value = *bytes.get(4)? == 1;
    let value_bytes = u32::from_le_bytes(field(bytes, 5)?) as usize;
    let (key, rest) = bytes.get(9..)?.split_at_checked(key_bytes)?;
    let (value, rest) = rest.split_at_checked(value_bytes)?;
    Some(((key, has_value.then_some(value)), rest))
}

fn scan(map: &Map, from: &[u8], until: Option<&[u8]>) -> Entries<'static> {
    let is_before = |key: &[u8]| until.is_none_or(|until| key < until);
    let range = map.range(from.to_vec()..).take_while(|(key, _)| is_before(key));
    let entries: Vec<_> = range.map(|(key, value)| Ok((key.clone(), value.clone()))).collect();
    Box::new(entries.into_iter())
}

/// Answers the bytes of keys and values.
fn change(map: &mut Map, changes: Vec<Change>) -> u64 {
    let mut bytes = 0;
    for (key, value) in changes {
        bytes += (key.len() + value.as_ref().map_or(0, Vec::len)) as u64;
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
    bytes
}

impl StateStore for FileStore {
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        let state = self.state.read();
        Ok(keys.iter().map(|key| state.map.get(*key).cloned()).collect())
    }

    fn scan(&self, from: &[u8], until: Option<&[u8]>) -> Entries<'_> {
        scan(&self.state.read().map, from, until)
    }

    fn apply(&self, changes: &mut dyn Iterator<Item = Result<Change, StateError>>) -> Result<u64, StateError> {
        let changes = changes.collect::<Result<Vec<Change>, StateError>>()?;
        let (sequence, whole, is_long) = {
            let state = self.state.read();
            let is_long = state.bytes > state.whole_bytes.max(SMALL_BYTES) || state.sequence - state.whole >= CHAIN_MAX;
            (state.sequence + 1, state.whole, is_long || state.whole == 0)
        };
        let written = match is_long {
            false => {
                let mut all = changes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
                self.write(sequence, whole, &mut all)?
            }
            true => {
                let mut map = self.state.read().map.clone();
                change(&mut map, changes.clone());
                let mut all = map.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
                self.write(sequence, sequence, &mut all)?
            }
        };
        let mut state = self.state.write();
        let bytes = change(&mut state.map, changes);
        state.sequence = sequence;
        match is_long {
            false => state.bytes += written,
            true => (state.whole, state.whole_bytes, state.bytes) = (sequence, written, 0),
        }
        Ok(bytes)
    }

    fn maintain(&self) -> Result<(), StateError> {
        let whole = self.state.read().whole;
        if whole == 0 {
            return Ok(());
        }
        Ok(remove_older(&*self.disk, &self.directory, whole)?)
    }

    fn clear(&self) -> Result<(), StateError> {
        let last = newest(&*self.disk, &self.directory)?.first().copied().unwrap_or(0);
        if last > 0 {
            // The whole goes first: what a crash leaves is no chain.
            remove_older(&*self.disk, &self.directory, last + 1)?;
            // It stays away: what is written from now on, of sinks too, knows nothing of it.
            let io = |source| StateError::Io { place: self.directory.clone(), source };
            self.disk.sync_dir(&self.directory).map_err(io)?;
        }
        *self.state.write() = Loaded { sequence: last, ..Loaded::default() };
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        let state = self.state.read();
        state.whole_bytes + state.bytes
    }
}

/// A store that is nothing but memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    map: RwLock<Map>,
}

impl StateStore for MemoryStore {
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        let map = self.map.read();
        Ok(keys.iter().map(|key| map.get(*key).cloned()).collect())
    }

    fn scan(&self, from: &[u8], until: Option<&[u8]>) -> Entries<'_> {
        scan(&self.map.read(), from, until)
    }

    fn apply(&self, changes: &mut dyn Iterator<Item = Result<Change, StateError>>) -> Result<u64, StateError> {
        let changes = changes.collect::<Result<Vec<Change>, StateError>>()?;
        Ok(change(&mut self.map.write(), changes))
    }

    fn clear(&self) -> Result<(), StateError> {
        self.map.write().clear();
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        self.map.read().iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

/// Memory alone, scratch included: nothing survives.
pub fn open_memory() -> Opened {
    Opened { store: Arc::new(MemoryStore::default()), scratch: Arc::new(MemoryScratch), warnings: Vec::new() }
}
