//! What all sessions of a server share.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstem_engine::batch::{ContextOptions, memory_limited};
use mainstem_engine::tables::Tables;
use mainstem_engine::{Cut, Engine};
use mainstem_sql::SqlError;
use tokio::runtime::{Handle, Runtime};

use crate::catalogs::Catalogs;

/// Of each thread that queries run on; only what is used of it costs memory.
const STACK_BYTES: usize = 16 << 20;

/// What [`Shared`] is made of.
#[derive(Debug)]
pub struct SharedParts {
    /// The running engine.
    pub engine: Engine,
    /// Its tables: the one handle, or a clone of it.
    pub tables: Tables,
    /// Definitions.
    pub catalogs: Arc<dyn Catalogs>,
    /// Memory of all queries together.
    pub query_memory_bytes: usize,
    /// Threads that one query may use at once.
    pub query_partitions: usize,
    /// As clients are told: `0.1.0`.
    pub version: String,
}

/// What all sessions of a server share.
#[derive(Debug)]
pub struct Shared {
    /// No SELECT that starts now may miss anything below: the end of the log at the start, then what sessions were told is
    /// written. One for all sessions: a client's pool reads by one connection what it wrote by another.
    acknowledged: AtomicU64,
    pub(crate) engine: Engine,
    pub(crate) tables: Tables,
    pub(crate) catalogs: Arc<dyn Catalogs>,
    pub(crate) options: ContextOptions,
    pub(crate) version: String,
    pub(crate) queries: QueryThreads,
}

/// Threads that queries run on, apart from those that serve connections.
#[derive(Debug)]
pub(crate) struct QueryThreads(Option<Runtime>);

impl QueryThreads {
    /// # Panics
    /// If the operating system gives no threads.
    fn new(threads: usize) -> QueryThreads {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .enable_time()
            .build();
        QueryThreads(Some(runtime.expect("threads for queries")))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is taken when it is dropped").handle()
    }
}

impl Drop for QueryThreads {
    fn drop(&mut self) {
        // Waiting is not allowed on a thread that serves connections.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    /// From its parts.
    #[must_use]
    pub fn new(parts: SharedParts) -> Shared {
        // Queries that take long must not keep short ones from running: the system shares the cores among them. A query that
        // was cancelled goes on until its operator comes up for air.
        let queries = QueryThreads::new((4 * parts.query_partitions).max(8));
        let options = ContextOptions {
            runtime: memory_limited(parts.query_memory_bytes),
            partitions: parts.query_partitions.max(1),
            ..ContextOptions::default()
        };
        let acknowledged = AtomicU64::new(parts.engine.input().newest().0);
        Shared {
            acknowledged,
            engine: parts.engine,
            tables: parts.tables.on_threads(queries.handle().clone()),
            catalogs: parts.catalogs,
            options,
            version: parts.version,
            queries,
        }
    }

    /// Everything up to here has been acknowledged to some session.
    pub(crate) fn acknowledged(&self) -> Cut {
        Cut(self.acknowledged.load(Ordering::Acquire))
    }

    /// Called before a session is told so.
    pub(crate) fn acknowledge(&self, cut: Cut) {
        self.acknowledged.fetch_max(cut.0, Ordering::AcqRel);
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The definitions.
    #[must_use]
    pub fn catalogs(&self) -> &Arc<dyn Catalogs> {
        &self.catalogs
    }

    /// How batch queries run.
    #[must_use]
    pub fn options(&self) -> &ContextOptions {
        &self.options
    }
}

/// An error of the engine, as a client wants to hear it.
pub(crate) fn engine_error(error: &mainstem_engine::EngineError) -> SqlError {
    use mainstem_engine::EngineError;
    let state = match error {
        EngineError::UnknownRelation(_) => "42P01",
        EngineError::NotReady { .. } => "55000",
        EngineError::ViewFailed { .. } => "XX000",
        EngineError::Stopped => "57P01",
        EngineError::Log(_) => "58030",
        _ => "XX000",
    };
    SqlError::new(state, error.to_string())
}
