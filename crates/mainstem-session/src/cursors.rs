//! Cursors: results that a client takes in parts, within a transaction.
//!
//! A cursor's query runs a little ahead and stands still when nobody fetches. A cursor *over changes* (FOR SUBSCRIBE) has
//! no end: FETCH waits for at least one row and then gives what is there up to the end of a version, or with a timeout all
//! that comes until then.
//!
//! Always true here: a cursor ends with its transaction, or with the savepoint that it was declared after; a row is given
//! once, and a FETCH that was cancelled while it waited has given none.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{FutureExt, StreamExt};
use mainstem_sql::{SqlError, Statement};
use tokio::time::{Instant, timeout_at};

use crate::parameters::Parameter;
use crate::session::{Response, RowStream, Session, Tag};

/// FETCH ALL from a cursor over changes gives about as many rows at most; the next one goes on from there.
const ROWS_AT_ONCE: u64 = 64 << 10;

/// The cursors of a transaction, by name.
pub(crate) type Cursors = BTreeMap<String, Cursor>;

/// One cursor.
#[derive(Debug)]
pub(crate) struct Cursor {
    schema: SchemaRef,
    stream: RowStream,
    /// Rows that came and were not given yet.
    ready: VecDeque<RecordBatch>,
    ready_rows: u64,
    follows_changes: bool,
    /// All of a version is in `ready` or was given.
    is_version_whole: bool,
    is_ended: bool,
    /// Savepoints that stood when it was declared.
    pub(crate) savepoints: usize,
}

impl Cursor {
    /// Waits for as many rows. Cancel-safe: what came stays.
    async fn fill(&mut self, wanted: u64, timeout: Option<Duration>) -> Result<(), SqlError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        while self.ready_rows < wanted && !self.is_ended {
            let next = self.stream.next();
            let batch = match deadline {
                _ if !self.follows_changes => next.await,
                Some(deadline) => match timeout_at(deadline, next).await {
                    Ok(batch) => batch,
                    Err(_) => return Ok(()),
                },
                None if self.ready_rows > 0 && self.is_version_whole => match next.now_or_never() {
                    Some(batch) => batch,
                    None => return Ok(()),
                },
                None => next.await,
            };
            match batch {
                None => self.is_ended = true,
                Some(Err(error)) => {
                    self.is_ended = true;
                    return Err(error);
                }
                Some(Ok(batch)) => {
                    self.is_version_whole = batch.num_rows() == 0;
                    self.ready_rows += batch.num_rows() as u64;
                    if batch.num_rows() > 0 {
                        self.ready.push_back(batch);
                    }
                }
            }
        }
        Ok(())
    }

    /// At most as many rows of those that are there.
    fn take(&mut self, wanted: u64) -> Vec<RecordBatch> {
        let mut taken = Vec::new();
        let mut left = usize::try_from(wanted).unwrap_or(usize::MAX);
        while left > 0
            && let Some(batch) = self.ready.pop_front()
        {
            let rows = batch.num_rows().min(left);
            if rows < batch.num_rows() {
                self.ready.push_front(batch.slice(rows, batch.num_rows() - rows));
            }
            left -= rows;
            self.ready_rows -= rows as u64;
            taken.push(batch.slice(0, rows));
        }
        taken
    }

    /// All that is left of a query, not held anywhere.
    fn take_rest(&mut self) -> RowStream {
        self.is_ended = true;
        self.ready_rows = 0;
        let stream = std::mem::replace(&mut self.stream, RowStream::of_batches(Vec::new()));
        stream.after(std::mem::take(&mut self.ready).into())
    }
}

impl Session {
    pub(crate) async fn declare(
        &mut self,
        name: &str,
        statement: &Statement,
        parameters: &[Parameter],
    ) -> Result<Response, SqlError> {
        let message = "DECLARE CURSOR can only be used in transaction blocks";
        let open = self.transaction.as_ref().ok_or_else(|| SqlError::new("25P01", message))?;
        if open.cursors.contains_key(name) {
            return Err(SqlError::new("42P03", format!("cursor \"{name}\" already exists")));
        }
        let (schema, stream) = match statement {
            Statement::Subscribe(subscribe) => self.subscribe(subscribe, parameters).await?,
            Statement::Query(query) => self.run_query(query, parameters).await?,
            _ => return Err(SqlError::not_supported("a cursor over this statement is not supported")),
        };
        let follows_changes = matches!(statement, Statement::Subscribe(_));
        if let Some(open) = &mut self.transaction {
            let savepoints = open.writes.savepoints();
            let (ready, ready_rows, is_version_whole, is_ended) = (VecDeque::new(), 0, false, false);
            let cursor =
                Cursor { schema, stream, ready, ready_rows, follows_changes, is_version_whole, is_ended, savepoints };
            open.cursors.insert(name.to_owned(), cursor);
        }
        Ok(Response::done("DECLARE CURSOR"))
    }

    pub(crate) async fn fetch(
        &mut self,
        name: &str,
        count: Option<u64>,
        timeout: Option<Duration>,
    ) -> Result<Response, SqlError> {
        let cursor = self.cursor(name)?;
        let schema = cursor.schema.clone();
        if count.is_none() && !cursor.follows_changes {
            let stream = cursor.take_rest();
            return Ok(Response::Rows { schema, stream, tag: Tag::Counted("FETCH") });
        }
        let wanted = count.unwrap_or(ROWS_AT_ONCE);
        cursor.fill(wanted, timeout).await?;
        let batches = cursor.take(wanted);
        Ok(Response::rows(&schema, batches, Tag::Counted("FETCH")))
    }

    /// FETCH without its rows.
    pub(crate) async fn move_cursor(
        &mut self,
        name: &str,
        count: Option<u64>,
        timeout: Option<Duration>,
    ) -> Result<Response, SqlError> {
        let cursor = self.cursor(name)?;
        let mut left = count.unwrap_or(if cursor.follows_changes { ROWS_AT_ONCE } else { u64::MAX });
        let mut moved = 0;
        while left > 0 {
            // Part by part, so that what is passed over is never held whole.
            cursor.fill(left.min(ROWS_AT_ONCE), timeout).await?;
            let rows: u64 = cursor.take(left).iter().map(|batch| batch.num_rows() as u64).sum();
            if rows == 0 {
                break;
            }
            moved += rows;
            left -= rows;
            if cursor.follows_changes {
                break;
            }
        }
        Ok(Response::done(format!("MOVE {moved}")))
    }

    pub(crate) fn close_cursor(&mut self, name: Option<&str>) -> Result<Response, SqlError> {
        let cursors = self.transaction.as_mut().map(|open| &mut open.cursors);
        match (name, cursors) {
            (None, cursors) => {
                cursors.into_iter().for_each(BTreeMap::clear);
                Ok(Response::done("CLOSE CURSOR ALL"))
            }
            (Some(name), cursors) => match cursors.and_then(|cursors| cursors.remove(name)) {
                Some(_) => Ok(Response::done("CLOSE CURSOR")),
                None => Err(no_cursor(name)),
            },
        }
    }

    /// The columns of a cursor.
    #[must_use]
    pub fn cursor_schema(&self, name: &str) -> Option<SchemaRef> {
        Some(self.transaction.as_ref()?.cursors.get(name)?.schema.clone())
    }

    fn cursor(&mut self, name: &str) -> Result<&mut Cursor, SqlError> {
        let cursors = self.transaction.as_mut().map(|open| &mut open.cursors);
        cursors.and_then(|cursors| cursors.get_mut(name)).ok_or_else(|| no_cursor(name))
    }
}

fn no_cursor(name: &str) -> SqlError {
    SqlError::new("34000", format!("cursor \"{name}\" does not exist"))
}
