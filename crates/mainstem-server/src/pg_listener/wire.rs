//! Messages of the protocol's version 3.0: frames in, frames out.
//!
//! Source: PostgreSQL's documentation, "Message Formats".

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use mainstem_session::{Format, ResultColumn};
use mainstem_sql::SqlError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// PostgreSQL's limit of a startup packet.
const STARTUP_BYTES_MAX: usize = 10_000;
/// Of any later message.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;
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
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a client sends before it is known.
#[derive(Debug)]
pub(super) enum Startup {
    /// `SSLRequest` or `GSSENCRequest`.
    Encryption,
    /// `CancelRequest`
    Cancel { process: i32, secret: i32 },
    /// `StartupMessage`
    Parameters { minor: i32, parameters: Vec<(String, String)> },
}

/// What a client sends later.
#[derive(Debug)]
pub(super) enum Message {
    Query(String),
    Parse { name: String, sql: String, oids: Vec<u32> },
    Bind(Bind),
    Describe { kind: u8, name: String },
    Execute { portal: String, rows_max: usize },
    Close { kind: u8, name: String },
    Flush,
    Sync,
    CopyData(Bytes),
    CopyDone,
    CopyFail(String),
    FunctionCall,
    Terminate,
}

#[derive(Debug)]
pub(super) struct Bind {
    pub(super) portal: String,
    pub(super) statement: String,
    pub(super) formats: Vec<Format>,
    pub(super) values: Vec<Option<Bytes>>,
    pub(super) result_formats: Vec<Format>,
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
        while self.received.len() < 4 {
            if !self.read_more().await? {
                return if self.received.is_empty() {
                    Ok(None)
                } else {
                    Err(garbage("it left within a startup packet"))
                };
            }
        }
        let length = self.received.clone().get_u32() as usize;
        if !(8..=STARTUP_BYTES_MAX).contains(&length) {
            return Err(garbage(format!("a startup packet of {length} bytes is not PostgreSQL's")));
        }
        while self.received.len() < length {
            if !self.read_more().await? {
                return Err(garbage("it left within a startup packet"));
            }
        }
        let mut body = Fields(self.received.split_to(length).freeze().slice(4..));
        match body.i32()? {
            80_877_103 | 80_877_104 => Ok(Some(Startup::Encryption)),
            80_877_102 => Ok(Some(Startup::Cancel { process: body.i32()?, secret: body.i32()? })),
            version if version >> 16 == 3 => {
                let mut parameters = Vec::new();
                loop {
                    let name = body.string()?;
                    if name.is_empty() {
                        return Ok(Some(Startup::Parameters { minor: version & 0xffff, parameters }));
                    }
                    parameters.push((name, body.string()?));
                }
            }
            version => Err(garbage(format!("protocol version {}.{}", version >> 16, version & 0xffff))),
        }
    }

    /// The next message; `None` when the client has left between messages.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, Closed> {
        while self.complete_length()?.is_none() {
            if !self.read_more().await? {
                return if self.received.is_empty() { Ok(None) } else { Err(garbage("it left within a message")) };
            }
        }
        let length = self.complete_length()?.expect("a whole message");
        let kind = self.received[0];
        let body = Fields(self.received.split_to(length + 1).freeze().slice(5..));
        decode(kind, body).map(Some)
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

    /// Length of the first message without its kind, if all of it is here.
    fn complete_length(&self) -> Result<Option<usize>, Closed> {
        let Some(header) = self.received.get(1..5) else { return Ok(None) };
        let length = u32::from_be_bytes(header.try_into().expect("four bytes")) as usize;
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(garbage(format!("a message of {length} bytes; the limit is {MESSAGE_BYTES_MAX}")));
        }
        Ok((self.received.len() > length).then_some(length))
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

fn garbage(why: impl Into<String>) -> Closed {
    Closed::Garbage(why.into())
}

fn decode(kind: u8, mut body: Fields) -> Result<Message, Closed> {
    let message = match kind {
        b'Q' => Message::Query(body.string()?),
        b'P' => {
            let (name, sql) = (body.string()?, body.string()?);
            let count = body.count()?;
            let oids = (0..count).map(|_| body.i32().map(i32::cast_unsigned)).collect::<Result<_, _>>()?;
            Message::Parse { name, sql, oids }
        }
        b'B' => Message::Bind(bind(&mut body)?),
        b'D' => Message::Describe { kind: body.u8()?, name: body.string()? },
        b'E' => {
            let portal = body.string()?;
            Message::Execute { portal, rows_max: usize::try_from(body.i32()?).unwrap_or(0) }
        }
        b'C' => Message::Close { kind: body.u8()?, name: body.string()? },
        b'H' => Message::Flush,
        b'S' => Message::Sync,
        b'd' => Message::CopyData(body.0),
        b'c' => Message::CopyDone,
        b'f' => Message::CopyFail(body.string()?),
        b'F' => Message::FunctionCall,
        b'X' => Message::Terminate,
        other => return Err(garbage(format!("a message of unknown kind {:?}", other as char))),
    };
    Ok(message)
}

fn bind(body: &mut Fields) -> Result<Bind, Closed> {
    let (portal, statement) = (body.string()?, body.string()?);
    let formats = body.formats()?;
    let count = body.count()?;
    let mut values = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let length = body.i32()?;
        values.push(match usize::try_from(length) {
            Ok(length) => Some(body.bytes(length)?),
            Err(_) => None,
        });
    }
    Ok(Bind { portal, statement, formats, values, result_formats: body.formats()? })
}

/// The fields of a message, from the front.
struct Fields(Bytes);

impl Fields {
    fn bytes(&mut self, count: usize) -> Result<Bytes, Closed> {
        if self.0.len() < count {
            return Err(garbage("a message ends too early"));
        }
        Ok(self.0.split_to(count))
    }

    fn u8(&mut self) -> Result<u8, Closed> {
        Ok(self.bytes(1)?[0])
    }

    fn i32(&mut self) -> Result<i32, Closed> {
        Ok(self.bytes(4)?.get_i32())
    }

    fn count(&mut self) -> Result<usize, Closed> {
        Ok(usize::from(self.bytes(2)?.get_u16()))
    }

    fn string(&mut self) -> Result<String, Closed> {
        let end = self.0.iter().position(|b| *b == 0).ok_or_else(|| garbage("a string without end"))?;
        let text = self.bytes(end)?;
        self.0.advance(1);
        String::from_utf8(text.to_vec()).map_err(|_| garbage("a string that is not UTF-8"))
    }

    fn formats(&mut self) -> Result<Vec<Format>, Closed> {
        let count = self.count()?;
        (0..count)
            .map(|_| match self.bytes(2)?.get_u16() {
                0 => Ok(Format::Text),
                1 => Ok(Format::Binary),
                other => Err(garbage(format!("format code {other}"))),
            })
            .collect()
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
