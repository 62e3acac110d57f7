//! The extended protocol: prepared statements, portals, and statements between two Syncs as one transaction.
//!
//! A write that is followed by Sync, as from all drivers that do not pipeline, is a statement of its own, which never
//! conflicts. Only when more follows before the Sync does an implicit transaction begin, as in PostgreSQL.

use std::collections::HashMap;
use std::sync::Arc;

use mainstem_catalog::SqlType;
use mainstem_session::{
    Cells, Description, Format, Parameter, Response, RowEncoder, RowStream, Tag, TransactionStatus, oid_of,
    parameter_text, sql_type_of_oid,
};
use mainstem_sql::{SqlError, Statement};

use super::connection::{Connection, data_row, next_batch, tag_text};
use super::guard::{Fault, Guard};
use super::wire::{Bind, Closed, Message, session_format};

/// Statements and portals of one connection.
#[derive(Debug, Default)]
pub(super) struct Extended {
    statements: HashMap<String, Arc<Prepared>>,
    portals: HashMap<String, Portal>,
    /// After an error, until Sync.
    is_skipping: bool,
    /// Between the first message and Sync: answers come together.
    has_unsynced: bool,
}

#[derive(Debug)]
struct Prepared {
    /// `None` for the empty query.
    statement: Option<Statement>,
    sql: String,
    given: Vec<Option<SqlType>>,
}

#[derive(Debug)]
struct Portal {
    prepared: Arc<Prepared>,
    parameters: Vec<Parameter>,
    description: Option<Arc<Description>>,
    formats: Vec<Format>,
    state: PortalState,
}

#[derive(Debug)]
enum PortalState {
    New,
    Running(Box<Running>),
    Done,
}

/// A result that is being sent, perhaps in parts.
#[derive(Debug)]
struct Running {
    encoder: RowEncoder,
    stream: RowStream,
    tag: Tag,
    cells: Option<Cells>,
    row: usize,
    rows: u64,
}

impl Extended {
    /// Whether answers are held back until Sync or Flush.
    pub(super) fn is_pipelining(&self) -> bool {
        self.has_unsynced
    }

    pub(super) fn close_portals(&mut self) {
        self.portals.clear();
    }

    /// A simple query destroys the unnamed statement and portal.
    pub(super) fn close_unnamed(&mut self) {
        self.statements.remove("");
        self.portals.remove("");
    }

    /// One message. After an error, all up to Sync are dropped.
    pub(super) async fn handle(&mut self, connection: &mut Connection, message: Message) -> Result<(), Closed> {
        if let Message::Sync = message {
            return self.sync(connection).await;
        }
        if let Message::Flush = message {
            return connection.writer.send().await;
        }
        self.has_unsynced = true;
        if self.is_skipping {
            return Ok(());
        }
        let result = match message {
            Message::Parse { name, sql, oids } => self.parse(connection, name, &sql, &oids),
            Message::Bind(bind) => self.bind(connection, bind).await,
            Message::Describe { kind, name } => self.describe(connection, kind, &name).await,
            Message::Execute { portal, rows_max } => self.execute(connection, &portal, rows_max).await,
            Message::Close { kind, name } => {
                if kind == b'S' {
                    self.statements.remove(&name);
                } else {
                    self.portals.remove(&name);
                }
                connection.writer.empty(b'3');
                Ok(())
            }
            _ => Err(SqlError::new("08P01", "unexpected message").into()),
        };
        match result {
            Ok(()) => {}
            Err(Fault::Sql(error)) => {
                connection.session.fail();
                connection.writer.error("ERROR", &error);
                self.is_skipping = true;
            }
            Err(Fault::Closed(closed)) => return Err(closed),
        }
        if connection.writer.is_due() {
            connection.writer.send().await?;
        }
        Ok(())
    }

    async fn sync(&mut self, connection: &mut Connection) -> Result<(), Closed> {
        if self.is_skipping {
            connection.session.abort_implicit();
        } else {
            let guard = connection.guard();
            match guard.run(&mut connection.reader, connection.session.end_implicit()).await {
                Ok(()) => {}
                Err(Fault::Sql(error)) => {
                    connection.session.abort_implicit();
                    connection.writer.error("ERROR", &error);
                }
                Err(Fault::Closed(closed)) => return Err(closed),
            }
        }
        self.is_skipping = false;
        self.has_unsynced = false;
        if connection.session.transaction_status() == TransactionStatus::Idle {
            self.close_portals();
        }
        connection.ready();
        Ok(())
    }

    fn parse(&mut self, connection: &mut Connection, name: String, sql: &str, oids: &[u32]) -> Result<(), Fault> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(SqlError::new("42P05", format!("prepared statement \"{name}\" already exists")).into());
        }
        let mut statements = connection.session.parse(sql)?;
        if statements.len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(SqlError::new("42601", message).into());
        }
        let given = oids.iter().map(|oid| match sql_type_of_oid(*oid) {
            Some(None) => {
                Err(SqlError::new("42704", format!("parameters of the type with oid {oid} are not supported")))
            }
            known => Ok(known.flatten()),
        });
        let given = given.collect::<Result<_, _>>()?;
        let prepared = Prepared { statement: statements.pop(), sql: sql.to_owned(), given };
        self.statements.insert(name, Arc::new(prepared));
        connection.writer.empty(b'1');
        Ok(())
    }

    fn prepared(&self, name: &str) -> Result<Arc<Prepared>, SqlError> {
        let missing = || SqlError::new("26000", format!("prepared statement \"{name}\" does not exist"));
        self.statements.get(name).cloned().ok_or_else(missing)
    }

    async fn bind(&mut self, connection: &mut Connection, bind: Bind) -> Result<(), Fault> {
        let prepared = self.prepared(&bind.statement)?;
        if !bind.portal.is_empty() && self.portals.contains_key(&bind.portal) {
            return Err(SqlError::new("42P03", format!("cursor \"{}\" already exists", bind.portal)).into());
        }
        let mut description = None;
        let mut types = Vec::new();
        if !bind.values.is_empty() {
            let described = describe(connection, &prepared).await?;
            types.clone_from(&described.parameters);
            description = Some(described);
        }
        if types.len() != bind.values.len() {
            let message = format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires {}",
                bind.values.len(),
                bind.statement,
                types.len()
            );
            return Err(SqlError::new("08P01", message).into());
        }
        let parameters = parameters(&bind, types)?;
        let formats = bind.result_formats.into_iter().map(session_format).collect();
        let portal = Portal { prepared, parameters, description, formats, state: PortalState::New };
        self.portals.insert(bind.portal, portal);
        connection.writer.empty(b'2');
        Ok(())
    }

    async fn describe(&mut self, connection: &mut Connection, kind: u8, name: &str) -> Result<(), Fault> {
        if kind == b'S' {
            let prepared = self.prepared(name)?;
            let description = describe(connection, &prepared).await?;
            let oids: Vec<u32> = description.parameters.iter().map(oid_of).collect();
            connection.writer.parameter_description(&oids);
            return write_description(connection, &description, &[]);
        }
        // SQL's cursors are portals, too: drivers describe what they have declared.
        if let (false, Some(schema)) = (self.portals.contains_key(name), connection.session.cursor_schema(name)) {
            let description = Description { parameters: vec![], schema: Some(schema) };
            return write_description(connection, &description, &[]);
        }
        let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
        let description = match &portal.description {
            Some(description) => description.clone(),
            None => describe(connection, &portal.prepared).await?,
        };
        portal.description = Some(description.clone());
        write_description(connection, &description, &portal.formats)
    }

    async fn execute(&mut self, connection: &mut Connection, name: &str, rows_max: usize) -> Result<(), Fault> {
        let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
        let Some(statement) = &portal.prepared.statement else {
            connection.writer.empty(b'I');
            return Ok(());
        };
        // One limit of time for all that this message asks for.
        let guard = connection.guard_of(statement);
        if let PortalState::New = portal.state {
            if is_write(statement) && !matches!(connection.reader.peek_kind().await?, Some(b'S' | b'H') | None) {
                connection.session.begin_implicit();
            }
            let response = connection.session.execute(statement, &portal.parameters);
            let response = guard.run(&mut connection.reader, response).await;
            let response = response.map_err(|fault| fault.located(&portal.prepared.sql))?;
            portal.state = PortalState::Done;
            match response {
                Response::Empty => connection.writer.empty(b'I'),
                Response::Done { tag, notices } => {
                    notices.iter().for_each(|notice| connection.writer.notice(notice));
                    connection.writer.command_complete(&tag);
                }
                Response::CopyIn(copy) => {
                    let tag = connection.copy_in(&guard, copy).await?;
                    connection.writer.command_complete(&tag);
                }
                Response::CopyOut(copy) => {
                    let tag = connection.copy_out(&guard, copy).await?;
                    connection.writer.command_complete(&tag);
                }
                Response::Rows { schema, stream, tag } => {
                    check_unchanged(portal.description.as_deref(), &schema)?;
                    let encoder = RowEncoder::new(&schema, &portal.formats)?;
                    let running = Running { encoder, stream, tag, cells: None, row: 0, rows: 0 };
                    portal.state = PortalState::Running(Box::new(running));
                }
            }
        }
        if let PortalState::Running(running) = &mut portal.state {
            if send_rows(connection, &guard, running, rows_max).await? {
                connection.writer.command_complete(&tag_text(&running.tag, running.rows));
                portal.state = PortalState::Done;
            } else {
                connection.writer.empty(b's');
            }
        }
        Ok(())
    }
}

/// Sends up to `rows_max` rows (0: all); whether the result is at its end.
async fn send_rows(
    connection: &mut Connection,
    guard: &Guard,
    running: &mut Running,
    rows_max: usize,
) -> Result<bool, Fault> {
    let mut sent = 0;
    loop {
        if let Some(cells) = &running.cells {
            while running.row < cells.rows() {
                if rows_max > 0 && sent == rows_max {
                    return Ok(false);
                }
                data_row(&mut connection.writer, &running.encoder, cells, running.row);
                running.row += 1;
                running.rows += 1;
                sent += 1;
                if connection.writer.is_due() {
                    guard.run(&mut connection.reader, connection.writer.send()).await?;
                }
            }
        }
        match guard.run(&mut connection.reader, next_batch(&mut running.stream)).await? {
            None => return Ok(true),
            Some(batch) => {
                if batch.num_rows() == 0 {
                    guard.run(&mut connection.reader, connection.writer.send()).await?;
                }
                running.cells = Some(running.encoder.cells(&batch)?);
                running.row = 0;
            }
        }
    }
}

fn is_write(statement: &Statement) -> bool {
    matches!(statement, Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_))
}

fn no_portal(name: &str) -> SqlError {
    SqlError::new("34000", format!("portal \"{name}\" does not exist"))
}

async fn describe(connection: &mut Connection, prepared: &Prepared) -> Result<Arc<Description>, Fault> {
    let Some(statement) = &prepared.statement else { return Ok(Arc::new(Description::default())) };
    let guard = connection.guard();
    let described = connection.session.describe(statement, &prepared.given);
    let described = guard.run(&mut connection.reader, described).await;
    Ok(Arc::new(described.map_err(|fault| fault.located(&prepared.sql))?))
}

fn write_description(connection: &mut Connection, described: &Description, formats: &[Format]) -> Result<(), Fault> {
    match &described.schema {
        Some(schema) => {
            let encoder = RowEncoder::new(schema, formats)?;
            connection.writer.row_description(encoder.columns());
        }
        None => connection.writer.empty(b'n'),
    }
    Ok(())
}

/// What was described must be what is sent.
fn check_unchanged(described: Option<&Description>, schema: &arrow::datatypes::Schema) -> Result<(), SqlError> {
    let Some(described) = described.and_then(|description| description.schema.as_ref()) else { return Ok(()) };
    let types = |schema: &arrow::datatypes::Schema| -> Vec<u32> {
        schema.fields().iter().map(|field| oid_of(&mainstem_sql::sql_type(field))).collect()
    };
    if types(described) == types(schema) {
        return Ok(());
    }
    Err(SqlError::new("0A000", "cached plan must not change result type").with_hint("Prepare the statement again."))
}

fn parameters(bind: &Bind, types: Vec<SqlType>) -> Result<Vec<Parameter>, SqlError> {
    if bind.formats.len() > 1 && bind.formats.len() != types.len() {
        let message =
            format!("bind message has {} parameter formats but {} parameters", bind.formats.len(), types.len());
        return Err(SqlError::new("08P01", message));
    }
    let format_of = |i: usize| match bind.formats.as_slice() {
        [] => Format::Text,
        [one] => session_format(*one),
        many => session_format(many[i]),
    };
    let one = |(i, (value, sql_type)): (usize, (&Option<bytes::Bytes>, SqlType))| {
        let text = value.as_ref().map(|value| parameter_text(value, format_of(i), Some(&sql_type))).transpose()?;
        Ok(Parameter { text, sql_type })
    };
    bind.values.iter().zip(types).enumerate().map(one).collect()
}
