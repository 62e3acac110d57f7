//! How a session sees and changes definitions: the one thing that a server must bring besides the engine.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use mainstem_catalog::{Catalog, Event};
use mainstem_engine::Cut;
use mainstem_sql::SqlError;
use uuid::Uuid;

/// Sees the newest definitions, while nobody else changes them, and gives the events; none means that nothing changes.
pub type CatalogDecision = Box<dyn FnOnce(&Catalog) -> Result<Vec<Event>, SqlError> + Send>;

/// The definitions and their sequencer.
#[async_trait]
pub trait Catalogs: Debug + Send + Sync + 'static {
    /// The newest durable definitions.
    fn current(&self) -> Arc<Catalog>;

    /// Runs the decision and returns when its events are durable and applied, with the definitions that hold them and the
    /// cut of their entry. With no events: the current definitions, and a cut that is visible already. A change that has
    /// begun is finished even if this future is dropped.
    async fn change(&self, decide: CatalogDecision) -> Result<(Arc<Catalog>, Cut), SqlError>;

    /// An id for a new topic: random.
    fn new_uuid(&self) -> Uuid;
}
