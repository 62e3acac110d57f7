//! BEGIN, COMMIT, ROLLBACK, savepoints, and the implicit transactions of several statements sent together.

use mainstem_engine::tables::Transaction;
use mainstem_sql::SqlError;
use mainstem_sql::statement::TransactionModes;

use crate::cursors::Cursors;
use crate::session::{Response, Session};
use crate::settings::Settings;

/// How a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// No transaction.
    Idle,
    /// In one.
    InTransaction,
    /// In one that failed: only ROLLBACK helps.
    Failed,
}

/// An open transaction.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) writes: Transaction,
    /// Begun for statements that came together; ends with them.
    pub(crate) is_implicit: bool,
    pub(crate) has_failed: bool,
    pub(crate) is_read_only: bool,
    /// As they were at BEGIN: ROLLBACK brings them back.
    before: Settings,
    /// As COMMIT leaves them: without what SET LOCAL did.
    pub(crate) lasting: Settings,
    pub(crate) cursors: Cursors,
}

impl Open {
    pub(crate) fn set_modes(&mut self, modes: TransactionModes) {
        self.is_read_only = modes.read_only.unwrap_or(self.is_read_only);
        self.writes.set_serializable(modes.serializable.unwrap_or(self.writes.is_serializable()));
    }
}

impl Session {
    fn open(&mut self, is_implicit: bool, is_read_only: bool) {
        let mut writes = self.shared.tables.begin();
        let level = self.settings.get("default_transaction_isolation").unwrap_or_default();
        writes.set_serializable(level.eq_ignore_ascii_case("serializable"));
        let (before, lasting) = (self.settings.clone(), self.settings.clone());
        let cursors = Cursors::new();
        self.transaction =
            Some(Open { writes, is_implicit, has_failed: false, is_read_only, before, lasting, cursors });
    }

    /// How it stands. An implicit transaction is not one to the client.
    #[must_use]
    pub fn transaction_status(&self) -> TransactionStatus {
        match &self.transaction {
            Some(open) if open.is_implicit => TransactionStatus::Idle,
            Some(open) if open.has_failed => TransactionStatus::Failed,
            Some(_) => TransactionStatus::InTransaction,
            None => TransactionStatus::Idle,
        }
    }

    /// Several statements come together: until [`Session::end_implicit`] they are one transaction. Does nothing inside one.
    pub fn begin_implicit(&mut self) {
        if self.transaction.is_none() {
            self.open(true, false);
        }
    }

    /// They were all run: commits.
    pub async fn end_implicit(&mut self) -> Result<(), SqlError> {
        if self.transaction.as_ref().is_some_and(|open| open.is_implicit) { self.commit_open().await } else { Ok(()) }
    }

    /// One of them failed: rolls back.
    pub fn abort_implicit(&mut self) {
        if self.transaction.as_ref().is_some_and(|open| open.is_implicit) {
            self.roll_back();
        }
    }

    pub(crate) fn begin(&mut self, modes: TransactionModes) -> Result<Response, SqlError> {
        if self.transaction.as_ref().is_some_and(|open| !open.is_implicit) {
            let notice = SqlError::new("25001", "there is already a transaction in progress");
            return Ok(Response::done_with("BEGIN", notice));
        }
        if self.transaction.is_none() {
            self.open(false, false);
        }
        if let Some(open) = &mut self.transaction {
            open.is_implicit = false;
            open.set_modes(modes);
        }
        Ok(Response::done("BEGIN"))
    }

    pub(crate) async fn commit(&mut self) -> Result<Response, SqlError> {
        match &self.transaction {
            None => Ok(Response::done_with("COMMIT", SqlError::new("25P01", "there is no transaction in progress"))),
            Some(open) if open.has_failed => {
                self.roll_back();
                Ok(Response::done("ROLLBACK"))
            }
            Some(_) => {
                self.commit_open().await?;
                Ok(Response::done("COMMIT"))
            }
        }
    }

    /// After an error nothing was written and there is no transaction any more.
    async fn commit_open(&mut self) -> Result<(), SqlError> {
        let Some(open) = self.transaction.take() else { return Ok(()) };
        if open.has_failed {
            self.settings = open.before;
            return Ok(());
        }
        self.settings = open.lasting;
        let committed = self.shared.tables.commit(open.writes).await;
        match committed {
            Ok(cut) => {
                self.acknowledge(cut);
                Ok(())
            }
            Err(mut error) => {
                self.settings = open.before;
                // A table that it wrote to has been dropped, or has changed hands.
                if error.sqlstate == "42P01" {
                    error.sqlstate = "40001";
                    error.detail.get_or_insert_with(|| "A table was altered or dropped meanwhile.".to_owned());
                }
                Err(error)
            }
        }
    }

    pub(crate) fn rollback(&mut self) -> Response {
        if self.transaction.is_none() {
            return Response::done_with("ROLLBACK", SqlError::new("25P01", "there is no transaction in progress"));
        }
        self.roll_back();
        Response::done("ROLLBACK")
    }

    fn roll_back(&mut self) {
        if let Some(open) = self.transaction.take() {
            self.settings = open.before;
        }
    }

    fn explicit(&mut self, statement: &str) -> Result<&mut Open, SqlError> {
        let message = format!("{statement} can only be used in transaction blocks");
        let open = self.transaction.as_mut().filter(|open| !open.is_implicit);
        open.ok_or_else(|| SqlError::new("25P01", message))
    }

    pub(crate) fn savepoint(&mut self, name: &str) -> Result<Response, SqlError> {
        self.explicit("SAVEPOINT")?.writes.savepoint(name);
        Ok(Response::done("SAVEPOINT"))
    }

    pub(crate) fn release(&mut self, name: &str) -> Result<Response, SqlError> {
        let open = self.explicit("RELEASE SAVEPOINT")?;
        open.writes.release(name)?;
        let savepoints = open.writes.savepoints();
        open.cursors.values_mut().for_each(|cursor| cursor.savepoints = cursor.savepoints.min(savepoints));
        Ok(Response::done("RELEASE"))
    }

    pub(crate) fn rollback_to(&mut self, name: &str) -> Result<Response, SqlError> {
        let open = self.explicit("ROLLBACK TO SAVEPOINT")?;
        open.writes.rollback_to(name)?;
        let savepoints = open.writes.savepoints();
        open.cursors.retain(|_, cursor| cursor.savepoints < savepoints);
        open.has_failed = false;
        Ok(Response::done("ROLLBACK"))
    }

    /// Definitions are durable at once, so they cannot be part of a transaction. Statements that came together before it
    /// are committed first.
    pub(crate) async fn leave_transaction(&mut self, statement: &str) -> Result<(), SqlError> {
        match &self.transaction {
            None => Ok(()),
            Some(open) if open.is_implicit => {
                self.commit_open().await?;
                self.open(true, false);
                Ok(())
            }
            Some(_) => Err(SqlError::new("25001", format!("{statement} cannot run inside a transaction block"))
                .with_hint("Run it outside of BEGIN and COMMIT; in psycopg, connect with autocommit=True.")),
        }
    }
}
