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
//! content at its cut; an error that stands in what is followed ends the subscription, and so does its DROP.

mod query;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mainstem_catalog::{RelationId, RelationKind};
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
    /// Relations that it reads, with their names.
    reads: Vec<(RelationId, String)>,
    /// The tables and views among them.
    stored: Vec<RelationId>,
    demand: Option<Demand>,
    feed: Feed,
    wants_snapshot: bool,
    /// The last version that was given as a whole.
    given: Option<Cut>,
    /// Where the step leads that is being given.
    step: Option<Cut>,
}

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
        let (mut reads, mut stored) = (Vec::new(), Vec::new());
        for id in followed.relations() {
            self.shared.readiness(id).map_err(failed)?;
            let relation = catalog.relation(id).ok_or_else(|| failed(EngineError::UnknownRelation(id.0)))?;
            if !matches!(relation.kind, RelationKind::Source(_)) {
                stored.push(id);
            }
            reads.push((id, relation.name.clone()));
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
        Ok(Subscription { shared, moves, reads, stored, demand, feed, wants_snapshot, given: None, step: None })
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
        for (id, name) in &self.reads {
            if let Some(message) = to.relations.get(id).and_then(|content| content.error.as_ref()) {
                return Err(view_error(name, message));
            }
        }
        let skips = self.given.is_none() && !self.wants_snapshot;
        match &mut self.feed {
            Feed::Relation { id, given, rest } => {
                let now = to.relations[id].version.clone();
                *rest = match given {
                    None if skips => None,
                    None => Some(now.deltas(PART_ROWS)),
                    Some(before) => Some(now.since(before, PART_ROWS)),
                };
                *given = Some(now);
            }
            Feed::Query(query) => query.begin(to, skips)?,
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
        let Some(given) = self.given else { return self.shared.pin(&self.stored, Cut::ZERO, &mut self.demand) };
        let after = Cut(given.0.saturating_add(1));
        let next = self.shared.with_frontiers(|all| all.next_common(&self.stored, given));
        next.or_else(|| self.shared.pin(&self.stored, after, &mut self.demand))
    }

    fn check_defined(&self) -> Result<(), SqlError> {
        let catalog = self.shared.catalog();
        match self.reads.iter().find(|(id, _)| catalog.relation(*id).is_none()) {
            None => Ok(()),
            Some((_, name)) => Err(SqlError::new("42P01", format!("relation \"{name}\" was dropped"))
                .with_detail("The subscription to it has ended.")),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}
