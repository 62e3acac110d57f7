//! What PostgreSQL's clients send, version 3.0 of the protocol: bytes to structs.
//!
//! This crate does no I/O and keeps no state. Everything that comes from outside is an error when it is malformed, never a
//! panic, and no length that a client claims is believed before the bytes are there.
//!
//! Words: a *startup packet* comes before a client is known and has no kind; a *message* has one, a byte before its length.
//!
//! Source: PostgreSQL's documentation, "Message Formats".
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

mod fields;

use bytes::{Bytes, BytesMut};

use crate::fields::Fields;

/// PostgreSQL's limit of a startup packet.
pub const STARTUP_BYTES_MAX: usize = 10_000;
/// The limit of any later message.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;

/// What came is not the protocol; the message says why, for the client and the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Garbage(pub String);

/// What a client sends before it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup {
    /// `SSLRequest` or `GSSENCRequest`.
    Encryption,
    /// `CancelRequest`
    Cancel {
        /// Of the connection whose statement is to end.
        process: i32,
        /// What only that connection was told.
        secret: i32,
    },
    /// `StartupMessage`
    Parameters {
        /// Minor version of the protocol.
        minor: i32,
        /// Names and values, in order.
        parameters: Vec<(String, String)>,
    },
}

/// What a client sends later. Names and fields are the documentation's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the protocol's own fields")]
pub enum Message {
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

/// `Bind`: a statement with its parameters becomes a portal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The portal's name.
    pub portal: String,
    /// The statement's name.
    pub statement: String,
    /// Of the parameters: none, one for all, or one each.
    pub formats: Vec<Format>,
    /// The parameters; `None` is NULL.
    pub values: Vec<Option<Bytes>>,
    /// Of the columns: none, one for all, or one each.
    pub result_formats: Vec<Format>,
}

/// A format code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 0
    Text,
    /// 1
    Binary,
}

/// Takes the startup packet off the front of `received`, if it is there whole. An impossible length is an error as soon as it
/// is seen.
pub fn next_startup(received: &mut BytesMut) -> Result<Option<Startup>, Garbage> {
    let Some(prefix) = received.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix) as usize;
    if !(8..=STARTUP_BYTES_MAX).contains(&length) {
        return Err(garbage(format!("a startup packet of {length} bytes is not PostgreSQL's")));
    }
    if received.len() < length {
        return Ok(None);
    }
    let mut body = Fields(received.split_to(length).freeze().slice(4..));
    match body.i32()? {
        SSL_REQUEST | GSSENC_REQUEST => Ok(Some(Startup::Encryption)),
        CANCEL_REQUEST => Ok(Some(Startup::Cancel { process: body.i32()?, secret: body.i32()? })),
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

/// Takes the next message off the front of `received`, if it is there whole. An impossible length is an error as soon as it is
/// seen.
pub fn next_message(received: &mut BytesMut) -> Result<Option<Message>, Garbage> {
    let Some([kind, length @ ..]) = received.first_chunk::<5>() else { return Ok(None) };
    let (kind, length) = (*kind, u32::from_be_bytes(*length) as usize);
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(garbage(format!("a message of {length} bytes; the limit is {MESSAGE_BYTES_MAX}")));
    }
    if received.len() <= length {
        return Ok(None);
    }
    decode(kind, Fields(received.split_to(length + 1).freeze().slice(5..))).map(Some)
}

pub(crate) fn garbage(why: impl Into<String>) -> Garbage {
    Garbage(why.into())
}

fn decode(kind: u8, mut body: Fields) -> Result<Message, Garbage> {
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

fn bind(body: &mut Fields) -> Result<Bind, Garbage> {
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

#[cfg(test)]
mod tests;
