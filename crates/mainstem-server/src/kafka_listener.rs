//! The Kafka door: connections, frames, and answers in order.
//!
//! Each connection is one task that reads and writes. Requests begin one after the other; a Produce request lets the next
//! one begin as soon as it has its place in the log, and its answer follows when it is durable. Answers leave in the order
//! of the requests.
//!
//! Always true here:
//! - a length is believed only up to the limit of requests, and large requests wait for their share of a common budget;
//! - what a connection holds back (answers under way, bytes read ahead) is bounded;
//! - a connection that sends garbage, or does not take its answers, is closed, and the log says why.

// The path also for the tests of the broker, which take this file in.
#[path = "kafka_listener/send.rs"]
mod send;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstem_broker::{Broker, Chunk, ClientInfo, Reply};
use mainstem_kafka_wire::frame::{frame_length, next_frame};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Answers of one connection that are not written yet.
const ANSWERS_MAX: usize = 32;
/// Bytes of such answers, but for one that is larger.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Read at once, and read ahead while a request is under way.
const READ_BYTES: usize = 64 << 10;
/// Requests up to this size need no share of the common budget: there are no more of them than connections.
const SMALL_REQUEST_BYTES: usize = 64 << 10;
/// The budget counts in this unit.
const BUDGET_UNIT_BYTES: usize = 1 << 10;
/// A connection without a request for this long is closed, as Kafka does (`connections.max.idle.ms`).
const IDLE: Duration = Duration::from_secs(600);
/// A client that takes not a byte of its answer for this long is gone.
const STALLED: Duration = Duration::from_secs(60);
/// How long the end waits for answers under way.
const LINGER: Duration = Duration::from_secs(5);
/// After accept fails, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until `shutdown`; then answers what is under way and returns.
pub(crate) async fn serve(listener: TcpListener, broker: Broker, shutdown: CancellationToken) {
    let budget = Arc::new(Semaphore::new(broker.config().request_memory_bytes_max / BUDGET_UNIT_BYTES));
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
                let Some(open) = broker.connection_opened() else {
                    tracing::warn!(%peer, "closed a Kafka connection: there are too many");
                    continue;
                };
                let (broker, budget, shutdown) = (broker.clone(), Arc::clone(&budget), shutdown.clone());
                connections.spawn(async move {
                    let _open = open;
                    if let Err(error) = serve_connection(stream, peer, broker, budget, shutdown).await {
                        tracing::warn!(%peer, "closed a Kafka connection: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept Kafka connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if timeout(LINGER, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(connections = connections.len(), "Kafka connections did not end in time");
    }
}

/// Why a connection is closed by us.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("{0}")]
    Garbage(String),
    #[error("it takes no answers")]
    Stalled,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// An answer on its way out, and its share of what the connection may hold back.
struct Answer {
    reply: Reply,
    _share: Option<OwnedSemaphorePermit>,
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    broker: Broker,
    budget: Arc<Semaphore>,
    shutdown: CancellationToken,
) -> Result<(), Closed> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let (answers, to_write) = mpsc::channel(ANSWERS_MAX);
    let requests = Requests {
        read,
        received: BytesMut::new(),
        bytes_max: broker.config().request_bytes_max,
        budget,
        shutdown: shutdown.clone(),
    };
    let client = ClientInfo { host: peer.ip().to_string() };
    let reading = read_requests(requests, broker, client, answers);
    let writing = write_answers(write, to_write);
    tokio::pin!(reading, writing);
    let ended = tokio::select! {
        read = &mut reading => read,
        written = &mut writing => return written.or_else(ignore_hang_up),
    };
    // The sender is gone with the reader: this ends after the last answer.
    writing.await.or_else(ignore_hang_up)?;
    ended.or_else(ignore_hang_up)
}

/// A client that goes without a word is no event.
fn ignore_hang_up(closed: Closed) -> Result<(), Closed> {
    match &closed {
        Closed::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
            ) =>
        {
            Ok(())
        }
        _ => Err(closed),
    }
}

/// The incoming half of a connection.
struct Requests {
    read: OwnedReadHalf,
    received: BytesMut,
    bytes_max: usize,
    budget: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Requests {
    /// The next frame without its length, and its share of the common budget. `None` at the end of the connection or of the
    /// server.
    async fn next(&mut self) -> Result<Option<(Bytes, Option<OwnedSemaphorePermit>)>, Closed> {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(None),
            frame = timeout(IDLE, self.next_frame()) => frame.unwrap_or(Ok(None)),
        }
    }

    async fn next_frame(&mut self) -> Result<Option<(Bytes, Option<OwnedSemaphorePermit>)>, Closed> {
        let garbage = |error: mainstem_kafka_wire::WireError| Closed::Garbage(error.to_string());
        let mut share = None;
        loop {
            if let Some(frame) = next_frame(&mut self.received, self.bytes_max).map_err(garbage)? {
                return Ok(Some((frame, share)));
            }
            if let Some(prefix) = self.received.first_chunk::<4>() {
                let length = frame_length(*prefix, self.bytes_max).map_err(garbage)?;
                if share.is_none() && length > SMALL_REQUEST_BYTES {
                    share = Some(self.share_of(length).await);
                }
                let missing = (length + 4).saturating_sub(self.received.len());
                self.received.reserve(missing.clamp(1, 1 << 20));
            }
            if !self.read_more().await? {
                return if self.received.is_empty() {
                    Ok(None)
                } else {
                    let partial = self.received.len();
                    Err(Closed::Garbage(format!("the client left after {partial} bytes of a request")))
                };
            }
        }
    }

    async fn share_of(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.budget).acquire_many_owned(units).await.expect("the budget is never closed")
    }

    /// False at the end. Cancel-safe.
    async fn read_more(&mut self) -> io::Result<bool> {
        if self.received.capacity() == self.received.len() {
            self.received.reserve(READ_BYTES);
        }
        Ok(self.read.read_buf(&mut self.received).await? > 0)
    }

    /// Reads ahead while a request is under way, so that a client that leaves is noticed. Returns when it has left.
    async fn until_hang_up(&mut self) {
        while self.received.len() < READ_BYTES {
            if !matches!(self.read_more().await, Ok(true)) {
                return;
            }
        }
        std::future::pending().await
    }
}

async fn read_requests(
    mut requests: Requests,
    broker: Broker,
    client: ClientInfo,
    answers: mpsc::Sender<Answer>,
) -> Result<(), Closed> {
    let held_back = Arc::new(Semaphore::new(ANSWER_BYTES_MAX));
    let shutdown = requests.shutdown.clone();
    while let Some((frame, share)) = requests.next().await? {
        let reply = tokio::select! {
            biased;
            reply = broker.begin(frame, &client) => reply.map_err(|close| Closed::Garbage(close.reason))?,
            () = requests.until_hang_up() => return Ok(()),
            () = shutdown.cancelled() => return Ok(()),
        };
        drop(share);
        let bytes = match &reply {
            Reply::Ready(None) => continue,
            Reply::Ready(Some(chunks)) => chunks.iter().map(Chunk::len).sum(),
            Reply::Later(_) => 0,
        };
        let units = u32::try_from(bytes.min(ANSWER_BYTES_MAX)).expect("the limit fits");
        let share = if units == 0 {
            None
        } else {
            let share = Arc::clone(&held_back).acquire_many_owned(units).await;
            Some(share.expect("it is never closed"))
        };
        if answers.send(Answer { reply, _share: share }).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn write_answers(mut write: OwnedWriteHalf, mut answers: mpsc::Receiver<Answer>) -> Result<(), Closed> {
    while let Some(answer) = answers.recv().await {
        let chunks = match answer.reply {
            Reply::Ready(chunks) => chunks,
            Reply::Later(rest) => rest.await.map_err(|close| Closed::Garbage(close.reason))?,
        };
        send::send(&mut write, chunks.unwrap_or_default()).await?;
    }
    Ok(())
}
