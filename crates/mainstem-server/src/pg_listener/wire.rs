//! Messages of the protocol's version 3.0 over a socket: in as `mainstem-pg-wire` reads them, out as they are written here.
//!
//! Source: PostgreSQL's documentation, "Message Formats".

use std::io;
use std::time::Duration;

use bytes::BytesMut;
pub(super) use mainstem_pg_wire::{Bind, Message, Startup};
use mainstem_pg_wire::{Garbage, next_message, next_startup};
use mainstem_session::{Format, ResultColumn};
use mainstem_sql::SqlError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Read ahead while a statement runs.
const READ_AHEAD_BYTES: usize = 64 << 10;
/// Results are sent when this much has come together.
pub(super) const SEND_BYTES: usize = 64 << 10;
/// A client that takes not a byte of its results for this long is gone.
const STALLED: Duration = Duration::from_secs(300);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    #[error("{0}")]
    Garbage(String),
    #[error("it takes no results")]
    Stalled,
    #[error("the server is shutting down")]
    Shutdown,
    #[error("the client left")]
    Left,
    /// Told to the client before the end.
    #[error("{0}")]
    Terminated(SqlError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Garbage> for Closed {
    fn from(Garbage(why): Garbage) -> Closed {
        Closed::Garbage(why)
    }
}

/// The session's name of a format.
pub(super) fn session_format(format: mainstem_pg_wire::Format) -> Format {
    match format {
        mainstem_pg_wire::Format::Text => Format::Text,
        mainstem_pg_wire::Format::Binary => Format::Binary,
    }
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(super) struct Reader {
    read: OwnedReadHalf,
    received: BytesMut,
}

impl Reader {
    pub(super) fn new(read: OwnedReadHalf) -> Reader {
        Reader { read, received: BytesMut::new() }
    }

    /// The next startup packet; `None` when the client leaves without one.
    pub(super) async fn startup(&mut self) -> Result<Option<Startup>, Closed> {
        loop {
            if let Some(startup) = next_startup(&mut self.received)? {
                return Ok(Some(startup));
            }
            if !self.read_more().await? {
                return self.left("a startup packet").map(|()| None);
            }
        }
    }

    /// The next message; `None` when the client has left between messages.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, Closed> {
        loop {
            if let Some(message) = next_message(&mut self.received)? {
                return Ok(Some(message));
            }
            if !self.read_more().await? {
                return self.left("a message").map(|()| None);
            }
        }
    }

    /// The client may leave between messages only.
    fn left(&self, within: &str) -> Result<(), Closed> {
        if self.received.is_empty() { Ok(()) } else { Err(Closed::Garbage(format!("it left within {within}"))) }
    }

    /// The kind of the next message, without taking it; `None` when the client has left.
    pub(super) async fn peek_kind(&mut self) -> Result<Option<u8>, Closed> {
        while self.received.is_empty() {
            if !self.read_more().await? {
                return Ok(None);
            }
        }
        Ok(self.received.first().copied())
    }

    /// False at the end. Cancel-safe.
    async fn read_more(&mut self) -> io::Result<bool> {
        self.received.reserve(8 << 10);
        Ok(self.read.read_buf(&mut self.received).await? > 0)
    }

    /// Reads ahead; returns when the client has left. Cancel-safe.
    pub(super) async fn until_hang_up(&mut self) {
        while self.received.len() < READ_AHEAD_BYTES {
            if !matches!(self.read_more().await, Ok(true)) {
                return;
            }
        }
        std::future::pending().await
    }
}

/// The sending half of a connection: messages come together in a buffer until they are sent.
#[derive(Debug)]
pub(super) struct Writer {
    write: OwnedWriteHalf,
    out: Vec<u8>,
}

impl Writer {
    pub(super) fn new(write: OwnedWriteHalf) -> Writer {
        Writer { write, out: Vec::new() }
    }

    pub(super) fn is_due(&self) -> bool {
        self.out.len() >= SEND_BYTES
    }

    /// Sends what has come together. Cancel-safe: what was not sent stays.
    pub(super) async fn send(&mut self) -> Result<(), Closed> {
        let mut sent = 0;
        // What was sent leaves the buffer even when this future is dropped in between.
        while !self.out.is_empty() {
            let Ok(written) = timeout(STALLED, self.write.write(&self.out)).await else { return Err(Closed::Stalled) };
            let written = written?;
            if written == 0 {
                return Err(Closed::Io(io::ErrorKind::WriteZero.into()));
            }
            self.out.drain(..written);
            sent += written;
        }
        if sent > 0 && self.out.capacity() > 4 * SEND_BYTES {
            self.out = Vec::new();
        }
        Ok(())
    }

    /// A byte without a frame: the answer to a request for encryption.
    pub(super) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    /// A message with this body.
    pub(super) fn message(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
        self.out.push(kind);
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        body(&mut self.out);
        let length = u32::try_from(self.out.len() - start).expect("messages are smaller than 4 GiB");
        self.out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    pub(super) fn empty(&mut self, kind: u8) {
        self.message(kind, |_| {});
    }

    pub(super) fn parameter_status(&mut self, name: &str, value: &str) {
        self.message(b'S', |out| {
            string(out, name);
            string(out, value);
        });
    }

    pub(super) fn command_complete(&mut self, tag: &str) {
        self.message(b'C', |out| string(out, tag));
    }

    pub(super) fn ready(&mut self, status: u8) {
        self.message(b'Z', |out| out.push(status));
    }

    pub(super) fn row_description(&mut self, columns: &[ResultColumn]) {
        self.message(b'T', |out| {
            count(out, columns.len());
            for column in columns {
                string(out, &column.name);
                out.extend_from_slice(&[0; 6]);
                out.extend_from_slice(&column.pg_type.oid.to_be_bytes());
                out.extend_from_slice(&column.pg_type.length.to_be_bytes());
                out.extend_from_slice(&column.pg_type.modifier.to_be_bytes());
                out.extend_from_slice(&u16::from(column.format == Format::Binary).to_be_bytes());
            }
        });
    }

    pub(super) fn parameter_description(&mut self, oids: &[u32]) {
        self.message(b't', |out| {
            count(out, oids.len());
            for oid in oids {
                out.extend_from_slice(&oid.to_be_bytes());
            }
        });
    }

    pub(super) fn error(&mut self, severity: &str, error: &SqlError) {
        self.report(b'E', severity, error);
    }

    pub(super) fn notice(&mut self, notice: &SqlError) {
        self.report(b'N', "NOTICE", notice);
    }

    fn report(&mut self, kind: u8, severity: &str, error: &SqlError) {
        self.message(kind, |out| {
            let position = error.position.map(|position| position.to_string());
            let fields = [
                (b'S', Some(severity)),
                (b'V', Some(severity)),
                (b'C', Some(error.sqlstate)),
                (b'M', Some(error.message.as_str())),
                (b'D', error.detail.as_deref()),
                (b'H', error.hint.as_deref()),
                (b'P', position.as_deref()),
            ];
            for (field, value) in fields {
                if let Some(value) = value {
                    out.push(field);
                    string(out, value);
                }
            }
            out.push(0);
        });
    }
}

/// A string and its end; a zero inside would end it early.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().filter(|b| *b != 0));
    out.push(0);
}

pub(super) fn count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
}
