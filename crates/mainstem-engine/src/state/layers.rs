//! What an owner has written, above the store.
//!
//! Writes go into a sorted map. When it, and all owners' maps together, are larger than they may be it goes to scratch. A checkpoint takes all that is there
//! as [`Handed`]; the thread that applies it reads it while new writes go above it. When the store has it all, it is dropped
//! here; when the store could not take it, it is handed over again with the next checkpoint.
//!
//! Always true here: newer runs are above older ones, the map is above all runs, the store is below; the first `handed`
//! runs, and no others, are with a checkpoint under way, and do not change.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use mainstem_state::{Change, Entries, StateError, StateStore};
use parking_lot::RwLock;

use super::{Owner, StateRoot};

/// Memory that an entry of a map takes beside its bytes, about.
const ENTRY_BYTES: u64 = 64;
/// In scratch a value has a byte before it; a key that was deleted has this alone.
const DELETED: u8 = 0;
const PRESENT: u8 = 1;

type Map = BTreeMap<Box<[u8]>, Option<Box<[u8]>>>;

/// See the module's text.
pub struct Layers {
    owner: Owner,
    prefix: Vec<u8>,
    root: Arc<StateRoot>,
    /// How often the store had been emptied when this began.
    epoch: u32,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    map: Map,
    map_bytes: u64,
    /// Oldest first.
    runs: Vec<Run>,
    handed: usize,
    /// How often it was handed over.
    handovers: u64,
    /// The store may have something of the owner.
    is_stored: bool,
    /// Something was written to the map, ever.
    is_written: bool,
}

/// Changes that stay as they are.
#[derive(Clone)]
enum Run {
    Memory(Arc<Map>, u64),
    Scratch(Arc<dyn StateStore>),
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// All that an owner wrote and the store does not have yet.
pub struct Handed {
    /// Whose.
    pub owner: Owner,
    runs: Vec<Run>,
    receipt: Receipt,
}

/// By which the owner is told what became of what it handed over. Dropping it says nothing.
#[derive(Clone)]
pub struct Receipt {
    layers: Arc<Layers>,
    number: u64,
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("owner", &self.layers.owner).field("number", &self.number).finish()
    }
}

impl Receipt {
    /// The store has what was handed over (`is_durable`), or has not. Nothing, if it was handed over again since.
    pub fn settle(&self, is_durable: bool) {
        let mut inner = self.layers.inner.write();
        if inner.handovers != self.number {
            return;
        }
        let handed = std::mem::take(&mut inner.handed);
        if is_durable {
            inner.runs.drain(..handed);
            inner.is_stored = true;
        }
    }
}

impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handed").field("owner", &self.owner).field("runs", &self.runs.len()).finish()
    }
}

impl Handed {
    /// See [`Receipt`].
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        self.receipt.clone()
    }

    /// The changes in the order of their keys, each key once, as it is now.
    pub fn changes(&self) -> impl Iterator<Item = Result<Change, StateError>> + '_ {
        Merge { runs: self.runs.iter().map(|run| run.changes().peekable()).collect() }
    }
}

type Changes<'a> = Box<dyn Iterator<Item = Result<Change, StateError>> + 'a>;

impl Run {
    fn changes(&self) -> Changes<'_> {
        let owned = |value: &Option<Box<[u8]>>| value.as_ref().map(|value| value.to_vec());
        match self {
            Run::Memory(map, _) => Box::new(map.iter().map(move |(key, value)| Ok((key.to_vec(), owned(value))))),
            Run::Scratch(store) => Box::new(store.scan(&[], None).map(|entry| entry.map(from_scratch))),
        }
    }

    /// What it knows of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Option<Vec<u8>>>, StateError> {
        Ok(match self {
            Run::Memory(map, _) => map.get(key).map(|value| value.as_ref().map(|value| value.to_vec())),
            Run::Scratch(store) => {
                let value = store.get_many(&[key])?.pop().flatten();
                value.map(|value| from_scratch((Vec::new(), value)).1)
            }
        })
    }

    /// Adds what it has in a range.
    fn overlay(&self, from: &[u8], until: Option<&[u8]>, out: &mut Overlay) -> Result<(), StateError> {
        match self {
            Run::Memory(map, _) => overlay(map, from, until, out),
            Run::Scratch(store) => {
                for entry in store.scan(from, until) {
                    let (key, value) = from_scratch(entry?);
                    out.insert(key, value);
                }
            }
        }
        Ok(())
    }
}

type Overlay = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn overlay(map: &Map, from: &[u8], until: Option<&[u8]>, out: &mut Overlay) {
    let until = until.map_or(Bound::Unbounded, Bound::Excluded);
    for (key, value) in map.range::<[u8], _>((Bound::Included(from), until)) {
        out.insert(key.to_vec(), value.as_ref().map(|value| value.to_vec()));
    }
}

fn from_scratch((key, mut value): (Vec<u8>, Vec<u8>)) -> Change {
    match value.first() {
        Some(&PRESENT) => {
            value.remove(0);
            (key, Some(value))
        }
        _ => (key, None),
    }
}

/// Several runs as one, the newest (last) deciding.
struct Merge<'a> {
    runs: Vec<Peekable<Changes<'a>>>,
}

impl Iterator for Merge<'_> {
    type Item = Result<Change, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut least: Option<Vec<u8>> = None;
        for run in &mut self.runs {
            match run.peek() {
                Some(Ok((key, _))) if least.as_ref().is_none_or(|least| key < least) => least = Some(key.clone()),
                Some(Err(_)) => return run.next(),
                _ => {}
            }
        }
        let least = least?;
        let is_least = |change: &Result<Change, StateError>| matches!(change, Ok((key, _)) if *key == least);
        self.runs.iter_mut().filter_map(|run| run.next_if(is_least)).last()
    }
}

impl Layers {
    /// Above a store that has nothing of the owner (`is_stored` false) or may have.
    #[must_use]
    pub fn new(root: Arc<StateRoot>, owner: Owner, is_stored: bool) -> Arc<Layers> {
        let inner = RwLock::new(Inner { is_stored, ..Inner::default() });
        let epoch = root.epoch();
        let layers = Arc::new(Layers { owner, prefix: owner.prefix(), root: root.clone(), epoch, inner });
        root.add_reader(owner, &layers);
        layers
    }

    /// Whose they are.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The store has not been emptied since.
    pub(super) fn is_current(&self) -> bool {
        self.epoch == self.root.epoch()
    }

    pub(crate) fn root(&self) -> &Arc<StateRoot> {
        &self.root
    }

    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    pub(super) fn is_new(&self) -> bool {
        let inner = self.inner.read();
        !inner.is_stored && !inner.is_written
    }

    pub(super) fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        let inner = self.inner.read();
        let mut found = vec![None; keys.len()];
        let mut below = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            match inner.find(key)? {
                Some(value) => found[place] = value,
                None => below.push(place),
            }
        }
        if inner.is_stored && !below.is_empty() {
            let keys: Vec<&[u8]> = below.iter().map(|place| keys[*place].as_slice()).collect();
            for (place, value) in below.into_iter().zip(self.root.store().get_many(&keys)?) {
                found[place] = value;
            }
        }
        Ok(found)
    }

    /// Visits a range in order until told to stop.
    pub(super) fn scan(
        &self,
        from: &[u8],
        until: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let inner = self.inner.read();
        let mut above = Overlay::new();
        for run in &inner.runs {
            run.overlay(from, until, &mut above)?;
        }
        overlay(&inner.map, from, until, &mut above);
        let below: Entries<'_> = match inner.is_stored {
            true => self.root.store().scan(from, until),
            false => Box::new(std::iter::empty()),
        };
        let mut above = above.into_iter().peekable();
        for entry in below {
            let (key, value) = entry?;
            while let Some((newer, value)) = above.next_if(|(newer, _)| *newer < key) {
                if value.is_some_and(|value| !visit(&newer, &value)) {
                    return Ok(());
                }
            }
            let goes_on = match above.next_if(|(newer, _)| *newer == key) {
                None => visit(&key, &value),
                Some((_, None)) => true,
                Some((_, Some(value))) => visit(&key, &value),
            };
            if !goes_on {
                return Ok(());
            }
        }
        for (key, value) in above {
            if value.is_some_and(|value| !visit(&key, &value)) {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, key: Vec<u8>, value: Option<Box<[u8]>>) {
        let mut inner = self.inner.write();
        inner.is_written = true;
        let size = |key: usize, value: &Option<Box<[u8]>>| {
            key as u64 + value.as_ref().map_or(0, |value| value.len() as u64) + ENTRY_BYTES
        };
        let (key_bytes, added) = (key.len(), size(key.len(), &value));
        let before = inner.map.insert(key.into(), value).map_or(0, |before| size(key_bytes, &before));
        inner.map_bytes = inner.map_bytes + added - before;
        if self.root.waits(before, added, inner.map_bytes) {
            self.spill(&mut inner);
        }
    }

    fn take_map(&self, inner: &mut Inner) -> (Map, u64) {
        let bytes = std::mem::take(&mut inner.map_bytes);
        self.root.waits(bytes, 0, 0);
        (std::mem::take(&mut inner.map), bytes)
    }

    /// The map goes to scratch: into the newest run, if that is no checkpoint's, or into a new one.
    fn spill(&self, inner: &mut Inner) {
        let (map, bytes) = self.take_map(inner);
        let is_free = inner.runs.len() > inner.handed;
        let newest = inner.runs.last().filter(|_| is_free);
        let (store, is_new) = match newest {
            Some(Run::Scratch(store)) => (Ok(store.clone()), false),
            _ => (self.root.scratch().create(), true),
        };
        let spilled = store.and_then(|store| {
            let value = |value: &Option<Box<[u8]>>| match value {
                Some(value) => [&[PRESENT][..], value].concat(),
                None => vec![DELETED],
            };
            store.apply(&mut map.iter().map(|(key, change)| Ok((key.to_vec(), Some(value(change))))))?;
            store.maintain()?;
            Ok(store)
        });
        match spilled {
            Ok(store) if is_new => inner.runs.push(Run::Scratch(store)),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "state that should have gone to scratch stays in memory");
                inner.runs.push(Run::Memory(Arc::new(map), bytes));
            }
        }
        self.root.count_spill(bytes);
    }

    /// All that the store does not have, as of now: between two versions.
    #[must_use]
    pub fn hand_over(self: &Arc<Layers>) -> Handed {
        let mut inner = self.inner.write();
        let (map, bytes) = self.take_map(&mut inner);
        if !map.is_empty() {
            inner.runs.push(Run::Memory(Arc::new(map), bytes));
        }
        inner.handed = inner.runs.len();
        inner.handovers += 1;
        let receipt = Receipt { layers: self.clone(), number: inner.handovers };
        Handed { owner: self.owner, runs: inner.runs.clone(), receipt }
    }

    /// Memory that waits for a checkpoint, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let inner = self.inner.read();
        let of_run = |run: &Run| if let Run::Memory(_, bytes) = run { *bytes } else { 0 };
        inner.map_bytes + inner.runs.iter().map(of_run).sum::<u64>()
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        self.root.waits(self.inner.get_mut().map_bytes, 0, 0);
    }
}

impl Inner {
    /// What is known of a key above the store.
    fn find(&self, key: &[u8]) -> Result<Option<Option<Vec<u8>>>, StateError> {
        if let Some(value) = self.map.get(key) {
            return Ok(Some(value.as_ref().map(|value| value.to_vec())));
        }
        for run in self.runs.iter().rev() {
            if let Some(value) = run.get(key)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}
