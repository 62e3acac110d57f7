//! What a relation, or a query over relations, is and then changes, from one published version to the next.
//!
//! Words: the *snapshot* is the content at the version where a subscription begins; a *step* leads from the version that was
//! given last to a newer one, and its *changes* are rows with weights, each row once.
//!
//! A subscription takes the first version that is kept beyond the one that it gave last, at a cut that all lanes of what it
//! follows have; lanes wait for nobody. A step is the difference of two contents, so that one that is slow loses nothing
//! where versions are not kept any more, and what it holds is bounded by what lanes keep. Where several lanes have no
//! common cut it asks them to stop at one.
//!
//! Always true here: steps come in order of their cuts, each whole; the sum of what was given up to the end of a step is the
//! content at its cut; an error that stands in what is followed ends the subscription, and so does its DROP. What takes the
//! place of a relation (CREATE OR REPLACE) with the same columns is followed: the step gives the difference.

mod query;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mainstem_catalog::{Relation, RelationId, RelationKind};
use mainstem_sql::{Graph, SqlError};
use tokio::sync::watch;

use crate::batch::{engine_error, view_error};
use crate::collection::{Deltas, Version};
use crate::delta::Delta;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::input_log::Cut;
use crate::lane::{Demand, Published, Shared};
use query::QueryFeed;

/// Rows of one part of a step.
const PART_ROWS: usize = 8 << 10;

/// What is followed.
#[derive(Clone, Debug)]
pub enum Followed {
    /// A table or materialized view, with all its columns, hidden ones too.
    Relation(RelationId),
    /// A query, run by operators of its own, over sources too.
    Query(Box<Graph>),
}

impl Followed {
    /// What is read.
    #[must_use]
    pub fn relations(&self) -> Vec<RelationId> {
        match self {
            Followed::Relation(id) => vec![*id],
            Followed::Query(graph) => graph.relations(),
        }
    }
}

/// What a subscription gives next.
#[derive(Clone, Debug)]
pub enum Event {
    /// A part of what changed.
    Changes {
        /// Where the step leads to.
        cut: Cut,
        /// The rows with their weights.
        delta: Delta,
        /// Whether this is of the content at the beginning.
        is_snapshot: bool,
    },
    /// All changes up to this cut have been given.
    Whole(Cut),
}

/// See the module's text. Dropping it frees all that it holds; it keeps no lane from ending.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    moves: watch::Receiver<u64>,
    /// Relations that it reads.
    reads: Vec<Read>,
    demand: Option<Demand>,
    feed: Feed,
    wants_snapshot: bool,
    /// The last version that was given as a whole.
    given: Option<Cut>,
    /// Where the step leads that is being given.
    step: Option<Cut>,
}

/// A relation as the subscription was told to read it, and where its content is now.
#[derive(Debug)]
struct Read {
    relation: Arc<Relation>,
    now: RelationId,
}

/// Where contents are.
type Places = HashMap<RelationId, RelationId>;

#[derive(Debug)]
enum Feed {
    Relation { id: RelationId, given: Option<Arc<Version>>, rest: Option<Deltas> },
    Query(Box<QueryFeed>),
}

impl Engine {
    /// Follows a relation or a query from the version that is published now. Without the snapshot only changes are given.
    /// The error is the one that a SELECT would get.
    pub fn subscribe(&self, followed: Followed, wants_snapshot: bool) -> Result<Subscription, SqlError> {
        let failed = |error: EngineError| engine_error(&error);
        let catalog = self.shared.catalog();
        let mut reads = Vec::new();
        for id in followed.relations() {
            self.shared.readiness(id).map_err(failed)?;
            let relation = catalog.relation(id).ok_or_else(|| failed(EngineError::UnknownRelation(id.0)))?;
            reads.push(Read { relation: relation.clone(), now: id });
        }
        let feed = match followed {
            Followed::Relation(id) => Feed::Relation { id, given: None, rest: None },
            Followed::Query(graph) => {
                Feed::Query(Box::new(QueryFeed::new(&graph, &catalog, &self.shared).map_err(failed)?))
            }
        };
        let shared = self.shared.clone();
        shared.subscriptions.fetch_add(1, Ordering::Relaxed);
        let moves = shared.moves();
        let demand = None;
        Ok(Subscription { shared, moves, reads, demand, feed, wants_snapshot, given: None, step: None })
    }
}

impl Subscription {
    /// What comes next; waits for it. Cancel-safe. After an error nothing more comes.
    pub async fn next(&mut self) -> Result<Event, SqlError> {
        loop {
            let cut = match self.step {
                Some(cut) => cut,
                None => {
                    let version = self.next_version().await?;
                    self.begin(&version)?
                }
            };
            let is_snapshot = self.given.is_none();
            let (delta, is_whole) = match &mut self.feed {
                Feed::Relation { rest, .. } => match rest.as_mut().and_then(Iterator::next) {
                    Some(delta) => (Some(delta), false),
                    None => (None, true),
                },
                Feed::Query(query) => query.part()?,
            };
            if let Some(delta) = delta.filter(|delta| !delta.is_empty() && (self.wants_snapshot || !is_snapshot)) {
                return Ok(Event::Changes { cut, delta, is_snapshot });
            }
            if is_whole {
                self.step = None;
                self.given = Some(cut);
                return Ok(Event::Whole(cut));
            }
            // A part may have taken long: whoever wants this to end is heard here.
            tokio::task::yield_now().await;
        }
    }

    /// The step to this version begins.
    fn begin(&mut self, to: &Published) -> Result<Cut, SqlError> {
        for read in &self.reads {
            if let Some(message) = to.relations.get(&read.now).and_then(|content| content.error.as_ref()) {
                return Err(view_error(&read.relation.name, message));
            }
        }
        let places: Places = self.reads.iter().map(|read| (read.relation.id, read.now)).collect();
        let skips = self.given.is_none() && !self.wants_snapshot;
        match &mut self.feed {
            Feed::Relation { id, given, rest } => {
                let now = to.relations[&places[id]].version.clone();
                *rest = match given {
                    None if skips => None,
                    None => Some(now.deltas(PART_ROWS)),
                    Some(before) => Some(now.since(before, PART_ROWS)),
                };
                *given = Some(now);
            }
            Feed::Query(query) => query.begin(to, &places, skips)?,
        }
        self.step = Some(to.cut);
        Ok(to.cut)
    }

    /// The version to begin with, or one that is newer than the last.
    async fn next_version(&mut self) -> Result<Published, SqlError> {
        loop {
            self.moves.borrow_and_update();
            // Definitions change without a new cut.
            self.check_defined()?;
            if let Some(version) = self.found() {
                self.demand = None;
                return Ok(version);
            }
            if self.shared.has_stopped() {
                return Err(engine_error(&EngineError::Stopped));
            }
            self.moves.changed().await.map_err(|_| engine_error(&EngineError::Stopped))?;
        }
    }

    /// What is there of it; else lanes that have nothing in common are asked for it.
    fn found(&mut self) -> Option<Published> {
        let stored = self.stored();
        let Some(given) = self.given else { return self.shared.pin(&stored, Cut::ZERO, &mut self.demand) };
        let after = Cut(given.0.saturating_add(1));
        let next = self.shared.with_frontiers(|all| all.next_common(&stored, given));
        next.or_else(|| self.shared.pin(&stored, after, &mut self.demand))
    }

    /// The tables and views that it reads, where they are now.
    fn stored(&self) -> Vec<RelationId> {
        let is_stored = |read: &&Read| !matches!(read.relation.kind, RelationKind::Source(_));
        self.reads.iter().filter(is_stored).map(|read| read.now).collect()
    }

    fn check_defined(&mut self) -> Result<(), SqlError> {
        let catalog = self.shared.catalog();
        for read in &mut self.reads {
            if catalog.relation(read.now).is_some() {
                continue;
            }
            let name = &read.relation.name;
            let Some(next) = catalog.successor(read.now) else {
                return Err(SqlError::new("42P01", format!("relation \"{name}\" was dropped"))
                    .with_detail("The subscription to it has ended."));
            };
            let shape = |relation: &Relation| {
                let columns = relation.columns.iter();
                columns.map(|column| (column.name.clone(), column.sql_type.clone())).collect::<Vec<_>>()
            };
            if shape(next) != shape(&read.relation) {
                return Err(SqlError::new(
                    "55000",
                    format!("relation \"{name}\" was replaced by one with other columns"),
                )
                .with_detail("The subscription to it has ended.")
                .with_hint("Subscribe again."));
            }
            read.now = next.id;
        }
        Ok(())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}
