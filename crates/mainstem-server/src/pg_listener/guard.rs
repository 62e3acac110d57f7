//! What can end a statement from outside: a cancel request, the statement timeout, a client that leaves, the end of the
//! server.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mainstem_sql::SqlError;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::wire::{Closed, Message, Reader};

/// The token of the statement that runs now. A cancel request between statements hits nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Cancel(Arc<Mutex<Option<CancellationToken>>>);

impl Cancel {
    pub(super) fn fire(&self) {
        if let Some(token) = &*self.0.lock() {
            token.cancel();
        }
    }
}

/// Why a statement ended early.
#[derive(Debug)]
pub(super) enum Fault {
    /// The statement failed; the connection goes on.
    Sql(SqlError),
    /// The connection is over.
    Closed(Closed),
}

impl Fault {
    /// With the place of what it is about in the statement's text, if that can be told.
    pub(super) fn located(self, sql: &str) -> Fault {
        match self {
            Fault::Sql(error) => Fault::Sql(mainstem_sql::located(sql, error)),
            closed => closed,
        }
    }
}

impl From<SqlError> for Fault {
    fn from(error: SqlError) -> Fault {
        Fault::Sql(error)
    }
}

impl From<Closed> for Fault {
    fn from(closed: Closed) -> Fault {
        Fault::Closed(closed)
    }
}

/// Watches over one statement. While it lives, a cancel request hits it.
#[derive(Debug)]
pub(super) struct Guard {
    cancel: Cancel,
    token: CancellationToken,
    shutdown: CancellationToken,
    deadline: Option<Instant>,
}

impl Guard {
    pub(super) fn new(cancel: &Cancel, shutdown: &CancellationToken, limit: Option<Duration>) -> Guard {
        let token = CancellationToken::new();
        *cancel.0.lock() = Some(token.clone());
        let deadline = limit.map(|limit| Instant::now() + limit);
        Guard { cancel: cancel.clone(), token, shutdown: shutdown.clone(), deadline }
    }

    /// Runs a part of the statement. The reader reads ahead meanwhile, up to its limit.
    pub(super) async fn run<T, E>(
        &self,
        reader: &mut Reader,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Fault>
    where
        Fault: From<E>,
    {
        tokio::select! {
            biased;
            done = work => Ok(done?),
            fault = self.interruption() => Err(fault),
            () = reader.until_hang_up() => Err(Closed::Left.into()),
        }
    }

    /// The client's next message, as a part of the statement.
    pub(super) async fn receive(&self, reader: &mut Reader) -> Result<Option<Message>, Fault> {
        tokio::select! {
            biased;
            message = reader.next() => Ok(message?),
            fault = self.interruption() => Err(fault),
        }
    }

    async fn interruption(&self) -> Fault {
        let timer = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.token.cancelled() => SqlError::new("57014", "canceling statement due to user request").into(),
            () = timer => SqlError::new("57014", "canceling statement due to statement timeout").into(),
            () = self.shutdown.cancelled() => Closed::Shutdown.into(),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *self.cancel.0.lock() = None;
    }
}
