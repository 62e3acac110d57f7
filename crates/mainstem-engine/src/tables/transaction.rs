//! Between BEGIN and COMMIT: one snapshot, and writes over it that nobody else sees.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mainstem_catalog::{Catalog, Relation, RelationId, RelationKind};
use parking_lot::Mutex;
use uuid::Uuid;

use super::DmlError;
use super::overlay::{Image, Overlay};
use super::sequencer::pin_table;
use super::statement::{Target, Touch, Written, unique_violation};
use crate::batch::{engine_error, log_error};
use crate::collection::Version;
use crate::engine::{Engine, Pinned, PinnedRelation};
use crate::error::EngineError;
use crate::input_log::{Cut, EndOfPartition};

/// An open transaction. Dropping it rolls it back.
#[derive(Debug, Default)]
pub struct Transaction {
    pins: Option<Arc<Mutex<Pinned>>>,
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

/// What statements of a transaction read: everything as of one cut, with the transaction's own writes over it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pins: Arc<Mutex<Pinned>>,
    pub(crate) overlays: HashMap<RelationId, Arc<Overlay>>,
    read: Arc<Mutex<BTreeSet<Uuid>>>,
}

impl Snapshot {
    /// The relations as the snapshot has them. One that was created after it is taken as it is at its first use.
    pub(crate) fn pinned(&self, engine: &Engine, relations: &[RelationId]) -> Result<Pinned, DmlError> {
        let mut pins = self.pins.lock();
        let new: Vec<_> = relations.iter().filter(|id| !pins.relations.contains_key(id)).copied().collect();
        if !new.is_empty() {
            let catalog = engine.shared.catalog();
            let takes_place = |id: &RelationId| catalog.successor(*id).is_some_and(|next| new.contains(&next.id));
            if pins.relations.keys().any(takes_place) {
                let message = "could not serialize access: a view that the snapshot holds was replaced";
                return Err(DmlError::new("40001", message).with_hint("Run the transaction again."));
            }
            let found = engine.pin(&new).map_err(|error| engine_error(&error))?;
            pins.relations.extend(found.relations);
        }
        let one = |id: &RelationId| pins.relations.get(id).map(|pin| (*id, pin.clone()));
        Ok(Pinned { cut: pins.cut, relations: relations.iter().filter_map(one).collect() })
    }

    /// A statement reads these topics.
    pub(crate) fn note_read(&self, topics: impl Iterator<Item = Uuid>) {
        self.read.lock().extend(topics);
    }

    /// The cut that it shows.
    #[must_use]
    pub fn cut(&self) -> Cut {
        self.pins.lock().cut
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
        let (cut, input, mut ends) = (pins.lock().cut, engine.input(), Vec::new());
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
    pub(super) async fn snapshot(
        &mut self,
        engine: &Engine,
        catalog: &Catalog,
        at_least: Cut,
    ) -> Result<Arc<Snapshot>, DmlError> {
        let pins = match &self.pins {
            Some(pins) => pins.clone(),
            None => {
                engine.wait_published(at_least).await.map_err(|error| engine_error(&error))?;
                let pins = Arc::new(Mutex::new(pin_all(engine, catalog)?));
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
        let known = pins.lock().relations.get(&target.relation.id).cloned();
        let version = match known {
            Some(PinnedRelation::Collection(version, _)) => version,
            _ => {
                let (_, version) = pin_table(engine, &target.relation).await?;
                let pin = PinnedRelation::Collection(version.clone(), None);
                pins.lock().relations.insert(target.relation.id, pin);
                version
            }
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

/// All that can be read now, at one cut.
fn pin_all(engine: &Engine, catalog: &Catalog) -> Result<Pinned, DmlError> {
    let waiting: Vec<RelationId> = engine.jobs().iter().map(|job| job.relation).collect();
    let stored = catalog.relations().filter(|relation| !matches!(relation.kind, RelationKind::View(_)));
    let mut ids: Vec<RelationId> = stored.map(|relation| relation.id).filter(|id| !waiting.contains(id)).collect();
    loop {
        match engine.pin(&ids) {
            Ok(pinned) => return Ok(pinned),
            // Dropped, or not ready again, since the ids were collected: the others are still to be had.
            Err(EngineError::UnknownRelation(_) | EngineError::NotReady { .. } | EngineError::ViewFailed { .. }) => {
                ids.retain(|id| engine.pin(&[*id]).is_ok());
            }
            Err(error) => return Err(engine_error(&error)),
        }
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
