//! Between BEGIN and COMMIT: one snapshot, and writes over it that nobody else sees.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mainstem_catalog::{Catalog, Relation, RelationId, RelationKind};
use parking_lot::Mutex;
use uuid::Uuid;

use super::DmlError;
use super::overlay::{Image, Overlay};
use super::statement::{Target, Touch, Written, unique_violation};
use crate::batch::{engine_error, log_error};
use crate::collection::Version;
use crate::engine::{Engine, Pinned, PinnedAll, PinnedRelation};
use crate::error::EngineError;
use crate::input_log::{Cut, EndOfPartition};

/// An open transaction. Dropping it rolls it back.
#[derive(Debug, Default)]
pub struct Transaction {
    pins: Option<Arc<Pins>>,
    tables: BTreeMap<RelationId, TouchedTable>,
    savepoints: Vec<(String, BTreeMap<RelationId, TouchedTable>)>,
    /// SERIALIZABLE: nothing that it read may have changed when it commits.
    is_serializable: bool,
    /// Topics that its statements read.
    read: Arc<Mutex<BTreeSet<Uuid>>>,
}

/// A table that the transaction wrote to.
#[derive(Clone, Debug)]
pub(super) struct TouchedTable {
    pub(super) relation: Arc<Relation>,
    base: Arc<Version>,
    overlay: Arc<Overlay>,
    /// Keys whose rows the writes depend on.
    keys: BTreeMap<Box<[u8]>, Touch>,
}

/// One cut, and what was created after it as it was at its first use.
#[derive(Debug)]
struct Pins {
    all: PinnedAll,
    /// Definitions as they were then.
    catalog: Arc<Catalog>,
    later: Mutex<HashMap<RelationId, PinnedRelation>>,
}

/// What statements of a transaction read: everything as of one cut, with the transaction's own writes over it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pins: Arc<Pins>,
    pub(crate) overlays: HashMap<RelationId, Arc<Overlay>>,
    read: Arc<Mutex<BTreeSet<Uuid>>>,
}

impl Snapshot {
    /// The relations as the snapshot has them; waits for the lanes that have not come there yet. One that was created after it
    /// is taken as it is at its first use.
    pub(crate) async fn pinned(&self, engine: &Engine, relations: &[RelationId]) -> Result<Pinned, DmlError> {
        self.pins.checked(engine, relations).await
    }

    /// A statement reads these topics.
    pub(crate) fn note_read(&self, topics: impl Iterator<Item = Uuid>) {
        self.read.lock().extend(topics);
    }

    /// The cut that it shows.
    #[must_use]
    pub fn cut(&self) -> Cut {
        self.pins.all.cut()
    }
}

impl Pins {
    /// [`Pins::of`], unless one of these has taken the place of another since the snapshot: what a transaction has read by a
    /// name stays what the name means in it.
    async fn checked(&self, engine: &Engine, relations: &[RelationId]) -> Result<Pinned, DmlError> {
        let now = engine.shared.catalog();
        let takes_its_place = |gone: RelationId, id: RelationId| {
            now.relation(gone).is_none() && now.successor(gone).is_some_and(|next| next.id == id)
        };
        let is_new = |id: &RelationId| self.catalog.relations().any(|old| takes_its_place(old.id, *id));
        if now.version() != self.catalog.version() && relations.iter().any(is_new) {
            let message = "could not serialize access: a relation was replaced since the transaction began";
            return Err(DmlError::new("40001", message).with_hint("Run the transaction again."));
        }
        self.of(engine, relations).await.map_err(|error| engine_error(&error))
    }

    async fn of(&self, engine: &Engine, relations: &[RelationId]) -> Result<Pinned, EngineError> {
        let catalog = engine.shared.catalog();
        let is_source = |id: &RelationId| {
            catalog.relation(*id).is_some_and(|relation| matches!(relation.kind, RelationKind::Source(_)))
        };
        let (known, later): (Vec<RelationId>, Vec<RelationId>) =
            relations.iter().partition(|id| self.all.covers(**id) || is_source(id));
        let mut pinned = self.all.of(engine, &known).await?;
        for id in later {
            let found = self.later.lock().get(&id).cloned();
            let found = match found {
                Some(found) => found,
                None => {
                    let now = engine.pin_when(&[id], Cut::ZERO).await?.relations.remove(&id);
                    let now = now.ok_or(EngineError::UnknownRelation(id.0))?;
                    self.later.lock().entry(id).or_insert(now).clone()
                }
            };
            pinned.relations.insert(id, found);
        }
        Ok(pinned)
    }
}

impl Transaction {
    /// Whether it has changed anything.
    #[must_use]
    pub fn has_writes(&self) -> bool {
        self.tables.values().any(|table| !table.overlay.is_empty())
    }

    /// `ISOLATION LEVEL SERIALIZABLE`, or back to snapshot isolation.
    pub fn set_serializable(&mut self, is_serializable: bool) {
        self.is_serializable = is_serializable;
    }

    /// Whether it is.
    #[must_use]
    pub fn is_serializable(&self) -> bool {
        self.is_serializable
    }

    /// What must not have changed since the snapshot for a serializable transaction to commit: then it might as well have
    /// run whole at its commit.
    pub(super) fn unchanged(&self, engine: &Engine) -> Result<Vec<EndOfPartition>, DmlError> {
        let Some(pins) = self.pins.as_ref().filter(|_| self.is_serializable) else { return Ok(vec![]) };
        let (cut, input, mut ends) = (pins.all.cut(), engine.input(), Vec::new());
        for topic in self.read.lock().iter().copied() {
            for partition in input.partitions(topic) {
                let end = input.position(topic, partition, cut).map_err(|error| log_error(&error))?;
                ends.push(EndOfPartition { topic, partition, end });
            }
        }
        Ok(ends)
    }

    /// How many savepoints stand.
    #[must_use]
    pub fn savepoints(&self) -> usize {
        self.savepoints.len()
    }

    /// `SAVEPOINT name`
    pub fn savepoint(&mut self, name: &str) {
        self.savepoints.push((name.to_owned(), self.tables.clone()));
    }

    /// `RELEASE SAVEPOINT name`: what was written since stays.
    pub fn release(&mut self, name: &str) -> Result<(), DmlError> {
        let place = self.place_of(name)?;
        self.savepoints.truncate(place);
        Ok(())
    }

    /// `ROLLBACK TO SAVEPOINT name`: what was written since is gone, the savepoint stays.
    pub fn rollback_to(&mut self, name: &str) -> Result<(), DmlError> {
        let place = self.place_of(name)?;
        self.savepoints.truncate(place + 1);
        self.tables = self.savepoints[place].1.clone();
        Ok(())
    }

    fn place_of(&self, name: &str) -> Result<usize, DmlError> {
        let found = self.savepoints.iter().rposition(|(known, _)| known == name);
        found.ok_or_else(|| DmlError::new("3B001", format!("savepoint \"{name}\" does not exist")))
    }

    /// The snapshot with the writes so far; the first call takes it.
    pub(super) async fn snapshot(&mut self, engine: &Engine, at_least: Cut) -> Result<Arc<Snapshot>, DmlError> {
        let pins = match &self.pins {
            Some(pins) => pins.clone(),
            None => {
                // Tables stand there: lanes are asked to stop where they do.
                engine.wait_published_of(&[], at_least).await.map_err(|error| engine_error(&error))?;
                let all = engine.pin_all();
                // After that: what was replaced in between is of no concern.
                let catalog = engine.shared.catalog();
                let pins = Arc::new(Pins { all, catalog, later: Mutex::default() });
                self.pins.insert(pins).clone()
            }
        };
        let overlays = self.tables.iter().map(|(id, table)| (*id, table.overlay.clone())).collect();
        Ok(Arc::new(Snapshot { pins, overlays, read: self.read.clone() }))
    }

    /// The target of a statement, as the transaction sees it.
    pub(super) async fn image(&self, engine: &Engine, target: &Target) -> Result<Image, DmlError> {
        self.read.lock().extend(target.relation.topic());
        if let Some(table) = self.tables.get(&target.relation.id) {
            return Ok(Image { version: table.base.clone(), overlay: table.overlay.clone() });
        }
        let pins = self.pins.as_ref().expect("the snapshot was taken");
        let id = target.relation.id;
        let mut pinned = pins.checked(engine, &[id]).await?;
        let version = match pinned.relations.remove(&id) {
            Some(PinnedRelation::Collection(version, None)) => version,
            // What is written to a table that cannot be read would never be seen.
            Some(PinnedRelation::Collection(_, Some(error))) => return Err(DmlError::new("XX001", error)),
            _ => return Err(engine_error(&EngineError::UnknownRelation(id.0))),
        };
        Ok(Image { version, overlay: Arc::default() })
    }

    /// Keeps what a statement wrote.
    pub(super) fn keep(&mut self, target: &Target, image: &Image, written: Written) {
        if written.overlay.is_empty() && written.touched.is_empty() {
            return;
        }
        let table = self.tables.entry(target.relation.id).or_insert_with(|| TouchedTable {
            relation: target.relation.clone(),
            base: image.version.clone(),
            overlay: Arc::default(),
            keys: BTreeMap::new(),
        });
        Arc::make_mut(&mut table.overlay).extend(written.overlay, Cut::ZERO);
        for (key, touch) in written.touched {
            let known = table.keys.entry(key).or_insert(touch);
            *known = (*known).max(touch);
        }
    }

    pub(super) fn into_tables(self) -> BTreeMap<RelationId, TouchedTable> {
        self.tables
    }
}

impl TouchedTable {
    /// The changes to append, if nothing that they depend on has changed from the snapshot to the image.
    pub(super) fn checked_against(&self, image: &Image) -> Result<Overlay, DmlError> {
        let now = image.get_many(self.keys.keys().map(AsRef::as_ref));
        let base = Image { version: self.base.clone(), overlay: Arc::default() };
        let then = base.get_many(self.keys.keys().map(AsRef::as_ref));
        for (((_, touch), now), then) in self.keys.iter().zip(&now).zip(&then) {
            match (now, then, touch) {
                (None, None, _) => {}
                (Some(now), Some(then), _) if now.equals(then) => {}
                (Some(now), None, Touch::Inserted) => return Err(unique_violation(&self.relation, now)),
                _ => return Err(DmlError::new("40001", "could not serialize access due to concurrent update")),
            }
        }
        let exists: BTreeMap<&[u8], bool> =
            self.keys.keys().map(AsRef::as_ref).zip(now.iter().map(Option::is_some)).collect();
        let mut changes = self.overlay.as_ref().clone();
        // A row that was inserted and deleted in the transaction never was.
        changes.retain(|key, change| !change.is_deleted || exists.get(key.as_ref()).copied().unwrap_or(true));
        Ok(changes)
    }
}
