//! One connection: startup, simple queries, and results on their way out.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use mainstem_session::{Response, RowEncoder, Session, Tag, TransactionStatus};
use mainstem_sql::{SqlError, Statement};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::extended::Extended;
use super::guard::{Fault, Guard};
use super::wire::{Closed, Message, Reader, Startup, Writer, count};
use super::{Door, Registered};

/// A client that has not said who it is after this long is closed.
const STARTUP: Duration = Duration::from_secs(60);
/// The newest minor version of the protocol that is spoken.
const MINOR: i32 = 0;

/// A connection that is past its startup.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) session: Session,
    pub(super) identity: Registered,
}

/// Serves one client until it leaves.
pub(super) async fn serve(stream: TcpStream, door: Arc<Door>) -> Result<(), Closed> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let (mut reader, mut writer) = (Reader::new(read), Writer::new(write));
    let startup = timeout(STARTUP, start(&mut reader, &mut writer, &door));
    let Ok(parameters) = startup.await else { return Err(Closed::Garbage("it sent no startup packet".into())) };
    let Some(parameters) = parameters? else { return Ok(()) };

    let Ok(_place) = door.places.clone().try_acquire_owned() else {
        writer.error("FATAL", &SqlError::new("53300", "sorry, too many clients already"));
        return writer.send().await;
    };
    let shutdown = door.shutdown.clone();
    let session = match open_session(&door, &parameters) {
        Ok(session) => session,
        Err(error) => {
            writer.error("FATAL", &error);
            return writer.send().await;
        }
    };
    let identity = door.register();
    let mut connection = Connection { reader, writer, session, identity };
    connection.greet();
    connection.ready();
    let ended = tokio::select! {
        biased;
        ended = connection.converse() => ended,
        () = async { shutdown.cancelled().await; tokio::time::sleep(super::LINGER / 2).await } => Err(Closed::Shutdown),
    };
    match ended {
        Err(Closed::Shutdown) => {
            let error = SqlError::new("57P01", "terminating connection due to administrator command");
            connection.writer.error("FATAL", &error);
            // The client may not take it any more.
            let _ = timeout(Duration::from_secs(1), connection.writer.send()).await;
            Ok(())
        }
        Err(Closed::Left) => Ok(()),
        Err(Closed::Terminated(error)) => {
            connection.writer.error("FATAL", &error);
            // The client may not take it any more.
            let _ = timeout(Duration::from_secs(1), connection.writer.send()).await;
            Ok(())
        }
        Err(Closed::Garbage(why)) => {
            connection.writer.error("FATAL", &SqlError::new("08P01", why.clone()));
            let _ = timeout(Duration::from_secs(1), connection.writer.send()).await;
            Err(Closed::Garbage(why))
        }
        ended => ended,
    }
}

/// Up to the startup message; `None` for connections that end before it.
async fn start(reader: &mut Reader, writer: &mut Writer, door: &Door) -> Result<Option<Vec<(String, String)>>, Closed> {
    loop {
        match reader.startup().await? {
            None => return Ok(None),
            Some(Startup::Encryption) => {
                writer.byte(b'N');
                writer.send().await?;
            }
            Some(Startup::Cancel { process, secret }) => {
                door.cancel(process, secret);
                return Ok(None);
            }
            Some(Startup::Parameters { minor, parameters }) => {
                let unknown: Vec<&str> =
                    parameters.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("_pq_.")).collect();
                if minor > MINOR || !unknown.is_empty() {
                    writer.message(b'v', |out| {
                        out.extend_from_slice(&(3 << 16 | MINOR).to_be_bytes());
                        out.extend_from_slice(&u32::try_from(unknown.len()).unwrap_or(0).to_be_bytes());
                        unknown.iter().for_each(|name| super::wire::string(out, name));
                    });
                }
                return Ok(Some(parameters));
            }
        }
    }
}

fn open_session(door: &Door, parameters: &[(String, String)]) -> Result<Session, SqlError> {
    let named = |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let user = named("user")
        .filter(|user| !user.is_empty())
        .ok_or_else(|| SqlError::new("28000", "no PostgreSQL user name specified in startup packet"))?;
    if named("replication").is_some_and(|value| !matches!(value, "false" | "off" | "no" | "0")) {
        return Err(SqlError::not_supported("replication connections"));
    }
    let database = named("database").filter(|database| !database.is_empty()).unwrap_or(user);
    let settings: Vec<(String, String)> = parameters
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "user" | "database" | "replication") && !name.starts_with("_pq_."))
        .cloned()
        .collect();
    Session::new(door.shared.clone(), user, database, &settings)
}

impl Connection {
    fn greet(&mut self) {
        self.writer.message(b'R', |out| out.extend_from_slice(&0u32.to_be_bytes()));
        for (name, value) in self.session.parameter_status() {
            self.writer.parameter_status(name, &value);
        }
        let (process, secret) = (self.identity.process, self.identity.secret);
        self.writer.message(b'K', |out| {
            out.extend_from_slice(&process.to_be_bytes());
            out.extend_from_slice(&secret.to_be_bytes());
        });
    }

    /// Says that the next statement may come, and how the transaction stands.
    pub(super) fn ready(&mut self) {
        for (name, value) in self.session.take_parameter_changes() {
            self.writer.parameter_status(name, &value);
        }
        self.writer.ready(match self.session.transaction_status() {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        });
    }

    async fn converse(&mut self) -> Result<(), Closed> {
        let mut extended = Extended::default();
        loop {
            if !extended.is_pipelining() {
                self.writer.send().await?;
            }
            let shutdown = self.identity.door.shutdown.clone();
            let message = tokio::select! {
                biased;
                message = self.reader.next() => message?,
                () = shutdown.cancelled() => return Err(Closed::Shutdown),
                error = Self::idle_too_long(self.session.idle_limit()) => return Err(Closed::Terminated(error)),
            };
            match message {
                None | Some(Message::Terminate) => return Ok(()),
                Some(Message::Query(sql)) => {
                    extended.close_unnamed();
                    self.simple_query(&sql).await?;
                    if self.session.transaction_status() == TransactionStatus::Idle {
                        extended.close_portals();
                    }
                }
                Some(Message::FunctionCall) => {
                    self.writer.error("ERROR", &SqlError::not_supported("the function call message of the protocol"));
                    self.ready();
                }
                // After a COPY that failed, the client may still be sending.
                Some(Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_)) => {}
                Some(message) => extended.handle(self, message).await?,
            }
        }
    }

    /// Watches over the statement that begins now.
    pub(super) fn guard(&self) -> Guard {
        Guard::new(&self.identity.cancel, &self.identity.door.shutdown, self.session.statement_timeout())
    }

    /// [`Connection::guard`], without the limit of time for what never ends by itself.
    pub(super) fn guard_of(&self, statement: &Statement) -> Guard {
        let limit = self.session.statement_timeout().filter(|_| !self.session.never_ends(statement));
        Guard::new(&self.identity.cancel, &self.identity.door.shutdown, limit)
    }

    /// How long the client may say nothing, as things stand, and what it is told then.
    async fn idle_too_long(limit: Option<(Duration, SqlError)>) -> SqlError {
        match limit {
            Some((limit, error)) => {
                tokio::time::sleep(limit).await;
                error
            }
            None => std::future::pending().await,
        }
    }

    /// Several statements are one transaction, unless they say otherwise.
    async fn simple_query(&mut self, sql: &str) -> Result<(), Closed> {
        match self.run_all(sql).await {
            Ok(()) => {}
            Err(Fault::Sql(error)) => {
                self.session.fail();
                self.session.abort_implicit();
                self.writer.error("ERROR", &mainstem_sql::located(sql, error));
            }
            Err(Fault::Closed(closed)) => return Err(closed),
        }
        self.ready();
        Ok(())
    }

    async fn run_all(&mut self, sql: &str) -> Result<(), Fault> {
        let statements = self.session.parse(sql)?;
        if statements.is_empty() {
            self.writer.empty(b'I');
            return Ok(());
        }
        let last = statements.len() - 1;
        for (i, statement) in statements.iter().enumerate() {
            if last > 0 {
                // Behind a COMMIT in the middle the next one begins.
                self.session.begin_implicit();
            }
            let tag = self.run_one(statement).await?;
            if i == last {
                let guard = self.guard();
                guard.run(&mut self.reader, self.session.end_implicit()).await?;
            }
            if let Some(tag) = tag {
                self.writer.command_complete(&tag);
            }
        }
        Ok(())
    }

    /// Runs one statement and sends its rows; gives its tag.
    async fn run_one(&mut self, statement: &Statement) -> Result<Option<String>, Fault> {
        let guard = self.guard_of(statement);
        let response = guard.run(&mut self.reader, self.session.execute(statement, &[])).await?;
        match response {
            Response::Empty => {
                self.writer.empty(b'I');
                Ok(None)
            }
            Response::Done { tag, notices } => {
                notices.iter().for_each(|notice| self.writer.notice(notice));
                Ok(Some(tag))
            }
            Response::Rows { schema, mut stream, tag } => {
                let encoder = RowEncoder::new(&schema, &[])?;
                self.writer.row_description(encoder.columns());
                let mut rows = 0u64;
                while let Some(batch) = guard.run(&mut self.reader, next_batch(&mut stream)).await? {
                    let cells = encoder.cells(&batch)?;
                    for row in 0..cells.rows() {
                        data_row(&mut self.writer, &encoder, &cells, row);
                        if self.writer.is_due() {
                            guard.run(&mut self.reader, self.writer.send()).await?;
                        }
                    }
                    if cells.rows() == 0 {
                        guard.run(&mut self.reader, self.writer.send()).await?;
                    }
                    rows += cells.rows() as u64;
                }
                Ok(Some(tag_text(&tag, rows)))
            }
            Response::CopyIn(copy) => self.copy_in(&guard, copy).await.map(Some),
            Response::CopyOut(copy) => self.copy_out(&guard, copy).await.map(Some),
        }
    }
}

/// The next batch of a result.
pub(super) async fn next_batch(
    stream: &mut mainstem_session::RowStream,
) -> Result<Option<arrow::array::RecordBatch>, SqlError> {
    stream.next().await.transpose()
}

pub(super) fn data_row(writer: &mut Writer, encoder: &RowEncoder, cells: &mainstem_session::Cells, row: usize) {
    writer.message(b'D', |out| {
        count(out, encoder.columns().len());
        encoder.write_row(cells, row, out);
    });
}

pub(super) fn tag_text(tag: &Tag, rows: u64) -> String {
    match tag {
        Tag::Fixed(text) => text.clone(),
        Tag::Counted(word) => format!("{word} {rows}"),
    }
}
