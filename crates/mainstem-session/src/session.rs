//! A session: its settings, its transaction, what it has seen, and the way of each statement.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use futures::{FutureExt, Stream, StreamExt, ready};
use mainstem_engine::batch::query_error;
use mainstem_engine::{Cut, EngineError};
use mainstem_sql::statement::CopyTarget;
use mainstem_sql::{SqlError, Statement};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::copy::{CopyIn, CopyOut};
use crate::parameters::Parameter;
use crate::replace::UnderWay;
use crate::settings::Settings;
use crate::shared::{Shared, engine_error};
use crate::transactions::{Open, TransactionStatus};

/// What a statement gives.
#[derive(Debug)]
pub enum Response {
    /// Rows. They do not change while they are read, whatever else happens.
    Rows {
        /// Their columns.
        schema: SchemaRef,
        /// The rows.
        stream: RowStream,
        /// What CommandComplete says after them.
        tag: Tag,
    },
    /// It is done, and durable if it wrote anything.
    Done {
        /// What CommandComplete says: `INSERT 0 1`.
        tag: String,
        /// To be told before it.
        notices: Vec<SqlError>,
    },
    /// Rows are to come from the client.
    CopyIn(CopyIn),
    /// Rows go to the client as lines.
    CopyOut(CopyOut),
    /// There was no statement.
    Empty,
}

/// A command tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// As it stands.
    Fixed(String),
    /// The word, and how many rows were sent.
    Counted(&'static str),
}

/// Batches of a result, errors as a client hears them. An empty batch asks for what came before it to be sent, since the
/// next one may take long. Dropping it ends the query.
pub struct RowStream(Rows);

enum Rows {
    /// A query that runs on threads of its own, a little ahead of its reader.
    Running { batches: mpsc::Receiver<Batch>, query: JoinHandle<()> },
    /// Rows that are there.
    Ready(std::vec::IntoIter<RecordBatch>),
    /// Rows that are there, then others.
    Then(std::vec::IntoIter<RecordBatch>, Box<RowStream>),
}

type Batch = datafusion::common::Result<RecordBatch>;

/// Batches that a query may be ahead.
const AHEAD: usize = 2;

impl RowStream {
    /// Starts a query and runs it on these threads, with all tasks that it starts itself, so that a step that takes long
    /// holds up nothing else, not even its own cancellation. Returns when it has started, or with why it cannot.
    pub(crate) async fn running(
        threads: &tokio::runtime::Handle,
        start: impl Future<Output = datafusion::common::Result<SendableRecordBatchStream>> + Send + 'static,
    ) -> Result<RowStream, SqlError> {
        let (sender, batches) = mpsc::channel(AHEAD);
        let (told, started) = oneshot::channel();
        let query = threads.spawn(async move {
            let mut stream = match start.await {
                Ok(stream) => stream,
                Err(error) => {
                    // Nobody waits when the statement was cancelled.
                    let _ = told.send(Err(error));
                    return;
                }
            };
            let _ = told.send(Ok(()));
            while let Some(batch) = stream.next().await {
                if sender.send(batch).await.is_err() {
                    return;
                }
            }
        });
        // From here on, dropping it ends the query.
        let stream = RowStream(Rows::Running { batches, query });
        match started.await {
            Ok(started) => started.map_err(query_error)?,
            Err(_) => return Err(SqlError::new("XX000", "the query broke down while it was started")),
        }
        Ok(stream)
    }

    /// These rows, then its own.
    pub(crate) fn after(self, batches: Vec<RecordBatch>) -> RowStream {
        RowStream(Rows::Then(batches.into_iter(), Box::new(self)))
    }

    pub(crate) fn of_batches(batches: Vec<RecordBatch>) -> RowStream {
        RowStream(Rows::Ready(batches.into_iter()))
    }
}

impl Drop for RowStream {
    fn drop(&mut self) {
        if let Rows::Running { query, .. } = &self.0 {
            query.abort();
        }
    }
}

impl fmt::Debug for RowStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowStream")
    }
}

impl Stream for RowStream {
    type Item = Result<RecordBatch, SqlError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (batches, query) = match &mut self.0 {
            Rows::Ready(batches) => return Poll::Ready(batches.next().map(Ok)),
            Rows::Then(batches, rest) => {
                return match batches.next() {
                    Some(batch) => Poll::Ready(Some(Ok(batch))),
                    None => rest.poll_next_unpin(context),
                };
            }
            Rows::Running { batches, query } => (batches, query),
        };
        match ready!(batches.poll_recv(context)) {
            Some(batch) => Poll::Ready(Some(batch.map_err(query_error))),
            // The end of the rows, unless the query broke down.
            None => {
                let ended = ready!(query.poll_unpin(context));
                self.0 = Rows::Ready(Vec::new().into_iter());
                Poll::Ready(
                    ended.err().map(|error| Err(SqlError::new("XX000", format!("the query broke down: {error}")))),
                )
            }
        }
    }
}

impl Response {
    pub(crate) fn done(tag: impl Into<String>) -> Response {
        Response::Done { tag: tag.into(), notices: vec![] }
    }

    pub(crate) fn done_with(tag: impl Into<String>, notice: SqlError) -> Response {
        Response::Done { tag: tag.into(), notices: vec![notice] }
    }

    pub(crate) fn rows(schema: &SchemaRef, batches: Vec<RecordBatch>, tag: Tag) -> Response {
        Response::Rows { schema: schema.clone(), stream: RowStream::of_batches(batches), tag }
    }
}

/// One SQL session.
#[derive(Debug)]
pub struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) settings: Settings,
    pub(crate) transaction: Option<Open>,
    /// `PREPARE name AS`.
    pub(crate) prepared: BTreeMap<String, (Statement, Vec<Option<mainstem_catalog::SqlType>>)>,
    /// What the statement that runs has defined and waits for.
    pub(crate) under_way: Option<UnderWay>,
    /// Definitions of a cancelled statement on their way out; the next statement waits for that.
    taking_back: Option<JoinHandle<()>>,
    /// As the client was last told.
    told: Vec<(&'static str, String)>,
}

impl Session {
    /// For a client that names these settings at startup. An unknown setting is an error.
    pub fn new(
        shared: Arc<Shared>,
        user: &str,
        database: &str,
        settings: &[(String, String)],
    ) -> Result<Session, SqlError> {
        let mut own = Settings::new(&shared.version, user);
        for (name, value) in settings {
            if name == "options" {
                own.set_options(value)?;
            } else {
                own.set(&name.to_lowercase(), Some(value))?;
            }
        }
        own.become_defaults();
        let told = own.reported();
        Ok(Session {
            shared,
            user: user.to_owned(),
            database: database.to_owned(),
            settings: own,
            transaction: None,
            prepared: BTreeMap::new(),
            under_way: None,
            taking_back: None,
            told,
        })
    }

    /// Who the client is.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// All that a client is told at startup: ParameterStatus.
    #[must_use]
    pub fn parameter_status(&self) -> Vec<(&'static str, String)> {
        self.settings.reported()
    }

    /// What of it has changed since it was last told.
    pub fn take_parameter_changes(&mut self) -> Vec<(&'static str, String)> {
        let now = self.settings.reported();
        let changed = now.iter().filter(|entry| !self.told.contains(entry)).cloned().collect();
        self.told = now;
        changed
    }

    /// `statement_timeout`, if set.
    #[must_use]
    pub fn statement_timeout(&self) -> Option<Duration> {
        self.settings.time("statement_timeout")
    }

    /// Whether a statement goes on until its client ends it: a time limit is not for it.
    #[must_use]
    pub fn never_ends(&self, statement: &Statement) -> bool {
        match statement {
            Statement::Subscribe(_) => true,
            Statement::Copy(copy) => matches!(copy.target, CopyTarget::Changes { .. }),
            Statement::Execute { name, .. } => {
                self.prepared.get(name).is_some_and(|(statement, _)| self.never_ends(statement))
            }
            _ => false,
        }
    }

    /// How long the client may send nothing as the transaction stands, and what is wrong when it has.
    #[must_use]
    pub fn idle_limit(&self) -> Option<(Duration, SqlError)> {
        let (name, state, what) = match self.transaction_status() {
            TransactionStatus::Idle => ("idle_session_timeout", "57P05", "idle-session"),
            _ => ("idle_in_transaction_session_timeout", "25P03", "idle-in-transaction"),
        };
        let error = || SqlError::new(state, format!("terminating connection due to {what} timeout"));
        self.settings.time(name).map(|limit| (limit, error()))
    }

    /// The statements of a text.
    pub fn parse(&self, sql: &str) -> Result<Vec<Statement>, SqlError> {
        mainstem_sql::parse(sql)
    }

    /// What it wrote or defined is durable: no session's next SELECT misses it.
    pub(crate) fn acknowledge(&self, cut: Option<Cut>) {
        self.shared.acknowledge(cut.unwrap_or_default());
    }

    /// Runs a statement. When it returns, what it wrote or defined is durable. Dropping the future cancels it: a write is
    /// made as a whole or not at all; call [`Session::fail`] then.
    pub async fn execute(&mut self, statement: &Statement, parameters: &[Parameter]) -> Result<Response, SqlError> {
        if self.transaction.as_ref().is_some_and(|open| open.has_failed) && !ends_failure(statement) {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(SqlError::new("25P02", message));
        }
        if let Some(taking_back) = &mut self.taking_back {
            // It tells the log itself if it fails.
            let _ = taking_back.await;
            self.taking_back = None;
        }
        let result = Box::pin(self.dispatch(statement, parameters)).await;
        if result.is_err() {
            self.fail();
        }
        result
    }

    /// A statement failed, or was cancelled: what it defined and still waited for is taken back. A client that leaves, or a
    /// server that ends, cancels nothing: the definition stays.
    pub fn fail(&mut self) {
        if let Some(open) = &mut self.transaction {
            open.has_failed = true;
        }
        if let Some(under_way) = self.under_way.take() {
            let shared = self.shared.clone();
            self.taking_back = Some(tokio::spawn(async move {
                if let Err(error) = under_way.take_back(&shared).await {
                    tracing::error!(%error, "the definition of a cancelled statement could not be taken back");
                }
            }));
        }
    }

    async fn dispatch(&mut self, statement: &Statement, parameters: &[Parameter]) -> Result<Response, SqlError> {
        match statement {
            Statement::CreateSource(create) => self.create_source(create).await,
            Statement::CreateTable(create) => self.create_table(create).await,
            Statement::CreateMaterializedView(create) => self.create_materialized_view(create).await,
            Statement::CreateView(create) => self.create_view(create).await,
            Statement::Alter(alter) => self.alter(alter).await,
            Statement::CancelJobs(ids) => self.cancel_jobs(ids).await,
            Statement::Drop(drop) => self.drop_relations(drop).await,
            Statement::CreateSink(create) => self.create_sink(create).await,
            Statement::DropSinks(drop) => self.drop_sinks(drop).await,
            Statement::CreateIndex(create) => self.create_index(create).await,
            Statement::DropIndexes(drop) => self.drop_indexes(drop).await,
            Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
                self.write(statement, parameters).await
            }
            Statement::Begin(modes) => self.begin(*modes),
            Statement::Commit => self.commit().await,
            Statement::Rollback => Ok(self.rollback()),
            Statement::Savepoint(name) => self.savepoint(name),
            Statement::ReleaseSavepoint(name) => self.release(name),
            Statement::RollbackTo(name) => self.rollback_to(name),
            Statement::Flush => self.flush().await,
            Statement::Wait => self.wait().await,
            Statement::Set { is_local, name, value } => self.set(*is_local, name, value.as_deref()),
            Statement::SetTransaction(modes) => {
                if let Some(open) = &mut self.transaction {
                    open.set_modes(*modes);
                }
                Ok(Response::done("SET"))
            }
            Statement::Reset(name) => self.reset(name.as_deref()),
            Statement::ShowVariable(name) => self.show_variable(name),
            Statement::ShowObjects { kind, schema, like } => {
                self.show_objects(*kind, schema.as_deref(), like.as_deref())
            }
            Statement::ShowCreate { kind, name } => self.show_create(*kind, name),
            Statement::Describe(name) => self.describe_relation(name),
            Statement::Explain(explain) => self.explain(explain, parameters).await,
            Statement::Copy(copy) => self.copy(copy).await,
            Statement::Query(query) => self.query(query, parameters).await,
            Statement::Subscribe(subscribe) => self.subscribed(subscribe, parameters).await,
            Statement::Declare { name, statement } => self.declare(name, statement, parameters).await,
            Statement::Fetch { name, count, timeout, is_move: false } => self.fetch(name, *count, *timeout).await,
            Statement::Fetch { name, count, timeout, is_move: true } => self.move_cursor(name, *count, *timeout).await,
            Statement::Close(name) => self.close_cursor(name.as_deref()),
            Statement::Discard { is_all } => {
                if *is_all {
                    self.leave_transaction("DISCARD ALL").await?;
                    self.settings.reset_all();
                    self.prepared.clear();
                }
                Ok(Response::done(if *is_all { "DISCARD ALL" } else { "DISCARD" }))
            }
            Statement::Prepare { name, types, statement } => self.prepare(name, types, statement),
            Statement::Execute { name, parameters } => Box::pin(self.execute_prepared(name, parameters)).await,
            Statement::Deallocate(name) => self.deallocate(name.as_deref()),
        }
    }

    /// All that anyone has been acknowledged is shown by views when this returns.
    async fn flush(&mut self) -> Result<Response, SqlError> {
        let newest = self.shared.engine.input().newest();
        self.shared.engine.wait_published(newest).await.map_err(|error| engine_error(&error))?;
        self.acknowledge(Some(newest));
        Ok(Response::done("FLUSH"))
    }

    /// All views have read their history when this returns.
    async fn wait(&mut self) -> Result<Response, SqlError> {
        let catalog = self.shared.catalogs.current();
        for relation in catalog.relations().filter(|relation| relation.materialized().is_some()) {
            match self.shared.engine.wait_ready(relation.id).await {
                // Dropped, or given up, meanwhile.
                Ok(()) | Err(EngineError::UnknownRelation(_)) => {}
                Err(error) => return Err(engine_error(&error)),
            }
        }
        let roots: Vec<_> = catalog.replacements().map(|(root, _)| root).collect();
        self.shared.engine.wait_replaced(&roots).await.map_err(|error| engine_error(&error))?;
        Ok(Response::done("WAIT"))
    }

    fn set(&mut self, is_local: bool, name: &str, value: Option<&str>) -> Result<Response, SqlError> {
        let notice = self.settings.set(name, value)?;
        if let Some(open) = self.transaction.as_mut().filter(|_| !is_local) {
            open.lasting.set(name, value)?;
        }
        Ok(Response::Done { tag: "SET".into(), notices: notice.into_iter().collect() })
    }

    fn reset(&mut self, name: Option<&str>) -> Result<Response, SqlError> {
        match name {
            Some(name) => return self.set(false, name, None).map(|_| Response::done("RESET")),
            None => self.settings.reset_all(),
        }
        if let Some(open) = &mut self.transaction {
            open.lasting.reset_all();
        }
        Ok(Response::done("RESET"))
    }
}

fn ends_failure(statement: &Statement) -> bool {
    matches!(statement, Statement::Commit | Statement::Rollback | Statement::RollbackTo(_))
}
