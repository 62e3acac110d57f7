//! From frames to messages and back, and Kafka's error codes.

use bytes::Bytes;
use mainstem_kafka_wire::frame::RequestHeader;
use mainstem_kafka_wire::messages;
use mainstem_kafka_wire::messages::{Encodable, HeaderVersion, Request, ResponseError, StrBytes};

use crate::{Chunk, CloseConnection};

/// The code of an error, 0 for none.
pub(crate) fn code(error: Option<ResponseError>) -> i16 {
    error.map_or(0, |error| error.code())
}

/// An error with words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) error: ResponseError,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(error: ResponseError, message: impl Into<String>) -> Self {
        Self { error, message: message.into() }
    }
}

pub(crate) fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

/// Reads the message of a request. A message that does not match its version ends the connection, as in Kafka: what
/// follows on it cannot be trusted.
pub(crate) fn decode<R: Request>(header: &RequestHeader, message: Bytes) -> Result<R, CloseConnection> {
    messages::decode_request(header.version, message).map_err(|error| CloseConnection::malformed(header, &error))
}

/// The whole frame of a response.
pub(crate) fn respond<R>(header: &RequestHeader, response: &R) -> Result<Vec<Chunk>, CloseConnection>
where
    R: Encodable + HeaderVersion,
{
    let frame = messages::encode_response(header.version, header.correlation_id, response);
    Ok(vec![frame.map_err(|error| CloseConnection::malformed(header, &error))?.into()])
}
