//! A server without sockets: sessions that are spoken to in SQL, and answers as text.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use mainstem_catalog::{Catalog, Event, Topic, TopicOwner};
use mainstem_engine::batch::ContextOptions;
use mainstem_engine::input_log::OutputCommit;
use mainstem_engine::tables::Tables;
use mainstem_engine::{Cut, Engine, EngineConfig, EngineParts, OutputLog};
use mainstem_session::{CatalogDecision, Catalogs, Parameter, Response, RowEncoder, Session, Shared, SharedParts, Tag};
use mainstem_sql::SqlError;
use mainstem_testkit::{SimClock, SimDisk};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::log::HeldLog;

/// Definitions in memory, over the same log.
#[derive(Debug)]
struct MemoryCatalogs {
    log: Arc<HeldLog>,
    catalog: parking_lot::RwLock<Arc<Catalog>>,
    changing: Mutex<u128>,
}

#[async_trait]
impl Catalogs for MemoryCatalogs {
    fn current(&self) -> Arc<Catalog> {
        self.catalog.read().clone()
    }

    async fn change(&self, decide: CatalogDecision) -> Result<(Arc<Catalog>, Cut), SqlError> {
        let _one_at_a_time = self.changing.lock().await;
        let mut catalog = self.current().as_ref().clone();
        let events = decide(&catalog)?;
        catalog.apply_all(&events).map_err(|refused| SqlError::new("XX000", refused.to_string()))?;
        for event in &events {
            if let Event::TopicCreated { topic } = event {
                self.log.create_topic(topic.id, topic.partitions);
            }
        }
        let commit = OutputCommit { output: None, appends: vec![], unchanged: vec![] };
        let cut = self.log.commit(commit, Box::new(|_| ())).expect("an entry without records").cut;
        let catalog = Arc::new(catalog);
        *self.catalog.write() = catalog.clone();
        Ok((catalog, cut))
    }

    fn new_uuid(&self) -> Uuid {
        Uuid::from_u128(1000 + u128::from(self.catalog.read().next_relation_id().0))
    }
}

/// A server without sockets.
pub(crate) struct Database {
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: Arc<HeldLog>,
}

impl Database {
    pub(crate) fn new() -> Database {
        let (disk, clock) = (SimDisk::new(1), SimClock::new(1_000_000));
        let log: Arc<HeldLog> = Arc::default();
        let catalogs = Arc::new(MemoryCatalogs {
            log: log.clone(),
            catalog: parking_lot::RwLock::default(),
            changing: Mutex::default(),
        });
        let parts = EngineParts {
            input: log.clone(),
            output: log.clone(),
            disk,
            clock: clock.clone(),
            config: EngineConfig::default(),
        };
        let (engine, _) = Engine::open(parts, Arc::default()).expect("opens");
        let tables = Tables::new(engine.clone(), clock, ContextOptions::default());
        let shared = Shared::new(SharedParts {
            engine,
            tables,
            catalogs,
            query_memory_bytes: 256 << 20,
            query_partitions: 2,
            version: "test".to_owned(),
        });
        Database { shared: Arc::new(shared), log }
    }

    /// A connection.
    pub(crate) fn connect(&self) -> Client {
        let session = Session::new(self.shared.clone(), "root", "dev", &[]).expect("no settings");
        Client { session }
    }

    /// What `mainstem topic create` does.
    pub(crate) async fn create_topic(&self, name: &str) -> Uuid {
        let id = Uuid::from_u128(name.len() as u128);
        let topic = Topic { id, name: name.to_owned(), partitions: 1, owner: TopicOwner::Anyone, configs: [].into() };
        let change = self.shared.catalogs().change(Box::new(|_| Ok(vec![Event::TopicCreated { topic }])));
        let (catalog, _) = change.await.expect("a new topic");
        self.shared.engine().catalog_changed(catalog);
        id
    }
}

/// A session, and its answers as text.
pub(crate) struct Client {
    pub(crate) session: Session,
}

impl Client {
    /// All statements of the text; the last one's answer: rows as `a|b` lines, or the tag.
    pub(crate) async fn try_run(&mut self, sql: &str) -> Result<String, SqlError> {
        let mut answer = String::new();
        for statement in self.session.parse(sql)? {
            let response = self.session.execute(&statement, &[]).await?;
            answer = text_of(response).await?;
        }
        Ok(answer)
    }

    pub(crate) async fn run(&mut self, sql: &str) -> String {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{sql}\n{error:?}"))
    }

    /// The error: SQLSTATE and text.
    pub(crate) async fn fails(&mut self, sql: &str) -> (String, String) {
        match self.try_run(sql).await {
            Ok(answer) => panic!("{sql}\nshould fail, gave {answer}"),
            Err(error) => (error.sqlstate.to_owned(), error.message),
        }
    }

    pub(crate) async fn with(&mut self, sql: &str, values: &[&str]) -> Result<String, SqlError> {
        let statement = self.session.parse(sql)?.remove(0);
        let described = self.session.describe(&statement, &[]).await?;
        assert_eq!(described.parameters.len(), values.len(), "{sql}: {:?}", described.parameters);
        let parameters: Vec<Parameter> = values
            .iter()
            .zip(described.parameters)
            .map(|(value, sql_type)| Parameter { text: (*value != "null").then(|| (*value).to_owned()), sql_type })
            .collect();
        text_of(self.session.execute(&statement, &parameters).await?).await
    }
}

async fn text_of(response: Response) -> Result<String, SqlError> {
    match response {
        Response::Done { tag, .. } => Ok(tag),
        Response::Empty => Ok(String::new()),
        Response::CopyIn(_) => Ok("copy in".to_owned()),
        Response::CopyOut(mut copy) => {
            let mut out = copy.header().unwrap_or_default();
            while let Some(batch) = copy.stream().next().await {
                let cells = copy.cells(&batch?)?;
                (0..cells.rows()).for_each(|row| copy.write_line(&cells, row, &mut out));
            }
            Ok(String::from_utf8(out).expect("text"))
        }
        Response::Rows { schema, mut stream, tag } => {
            let encoder = RowEncoder::new(&schema, &[])?;
            let mut lines = Vec::new();
            while let Some(batch) = stream.next().await {
                let cells = encoder.cells(&batch?)?;
                for row in 0..cells.rows() {
                    let values = (0..schema.fields().len())
                        .map(|column| cells.text(&encoder, row, column).unwrap_or_else(|| "null".to_owned()));
                    lines.push(values.collect::<Vec<_>>().join("|"));
                }
            }
            if let Tag::Fixed(tag) = tag
                && tag.starts_with("INSERT")
            {
                lines.push(tag);
            }
            Ok(lines.join("\n"))
        }
    }
}
