//! The PostgreSQL door: connections, the protocol's version 3.0, and who may cancel what.
//!
//! Each connection is one task. A result is pulled from its stream as fast as the client takes it, and never held whole.
//! While a statement runs, the task also looks at the socket, so that a client that leaves ends its statement.
//!
//! Always true here:
//! - a length is believed only up to a limit: 10,000 bytes before a client is known, [`mainstem_pg_wire::MESSAGE_BYTES_MAX`]
//!   after;
//! - what a connection holds back (results to be sent, messages read ahead) is bounded;
//! - a connection that sends garbage, or does not take its results, is closed, and the log says why;
//! - every message that begins a statement is answered, with an SQLSTATE when it fails, before the next one is begun.

mod connection;
mod copy;
mod extended;
mod guard;
mod wire;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use mainstem_session::Shared;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use guard::Cancel;

/// Connections at once; one more is told 53300.
const CONNECTIONS_MAX: usize = 1000;
/// How long the end waits for statements under way.
const LINGER: Duration = Duration::from_secs(5);
/// After accept fails, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until `shutdown`; then lets statements under way end and returns.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, shutdown: CancellationToken) {
    let door = Arc::new(Door {
        shared,
        shutdown: shutdown.clone(),
        places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        running: Mutex::new(HashMap::new()),
        next_process: AtomicI32::new(1),
    });
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let door = door.clone();
                connections.spawn(async move {
                    if let Err(closed) = connection::serve(stream, door).await {
                        tracing::warn!(%peer, "closed a PostgreSQL connection: {closed}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept PostgreSQL connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if timeout(LINGER, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(connections = connections.len(), "PostgreSQL connections did not end in time");
    }
}

/// What all connections share.
#[derive(Debug)]
struct Door {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    places: Arc<Semaphore>,
    /// By process id: the secret that a cancel request must know, and what it cancels.
    running: Mutex<HashMap<i32, (i32, Cancel)>>,
    next_process: AtomicI32,
}

impl Door {
    /// Gives a connection its identity for cancel requests.
    fn register(self: &Arc<Door>) -> Registered {
        let process = self.next_process.fetch_add(1, Ordering::Relaxed);
        // Keys of the standard library's hash maps are random.
        let bytes = RandomState::new().build_hasher().finish().to_be_bytes();
        let secret = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let cancel = Cancel::default();
        self.running.lock().insert(process, (secret, cancel.clone()));
        Registered { door: self.clone(), process, secret, cancel }
    }

    /// A cancel request: silent, whether it hits or not.
    fn cancel(&self, process: i32, secret: i32) {
        match self.running.lock().get(&process) {
            Some((expected, cancel)) if *expected == secret => cancel.fire(),
            _ => tracing::info!(process, "a cancel request named no connection"),
        }
    }
}

/// A connection's identity, until it is dropped.
#[derive(Debug)]
struct Registered {
    door: Arc<Door>,
    process: i32,
    secret: i32,
    cancel: Cancel,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.door.running.lock().remove(&self.process);
    }
}
