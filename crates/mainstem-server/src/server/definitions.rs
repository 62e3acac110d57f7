//! Definitions for sessions: the broker's sequencer writes them, then the engine follows.

use std::sync::Arc;

use async_trait::async_trait;
use mainstem_broker::{Broker, ChangeError};
use mainstem_catalog::{Catalog, Refused};
use mainstem_engine::{Cut, Engine};
use mainstem_log::AppendError;
use mainstem_session::{CatalogDecision, Catalogs};
use mainstem_sql::SqlError;
use uuid::Uuid;

/// The catalog as sessions change it.
#[derive(Clone, Debug)]
pub(super) struct BrokerCatalogs {
    broker: Broker,
    engine: Engine,
}

impl BrokerCatalogs {
    pub(super) fn new(broker: Broker, engine: Engine) -> Self {
        Self { broker, engine }
    }
}

#[async_trait]
impl Catalogs for BrokerCatalogs {
    fn current(&self) -> Arc<Catalog> {
        self.broker.catalog()
    }

    async fn change(&self, decide: CatalogDecision) -> Result<(Arc<Catalog>, Cut), SqlError> {
        let (catalog, csn) = self.broker.change_catalog(decide).await.map_err(sql_error)?;
        self.engine.catalog_changed(Arc::clone(&catalog));
        Ok((catalog, Cut(csn.0)))
    }

    fn new_uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}

fn sql_error(error: ChangeError<SqlError>) -> SqlError {
    let state = match &error {
        ChangeError::Decided(error) => return error.clone(),
        ChangeError::Refused(Refused::InvalidName(_)) => "42602",
        ChangeError::Refused(Refused::Exists { .. }) => "42P07",
        ChangeError::Refused(Refused::Missing { .. }) => "42P01",
        ChangeError::Refused(Refused::InUse { .. }) => "2BP01",
        ChangeError::Refused(Refused::Partitions { .. }) => "22023",
        ChangeError::Refused(Refused::BeingReplaced { .. }) => "55006",
        ChangeError::Refused(Refused::Replacement(_)) => "XX000",
        ChangeError::Append(AppendError::DiskFull) => "53100",
        ChangeError::Append(AppendError::TooLarge { .. }) => "54000",
        ChangeError::Append(AppendError::Conflict(_)) => "40001",
        ChangeError::Append(_) => "58030",
        ChangeError::Interrupted => "57P01",
    };
    SqlError::new(state, error.to_string())
}
