//! Primitive values of Kafka messages, and the two structs that several messages share.
//!
//! A message version is *flexible* or not: flexible ones write lengths as varints of length + 1 (0 for null) and end every
//! struct with tagged fields; the others write lengths as fixed integers (-1 for null). [`Reader`] and [`Writer`] are told
//! once which it is.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::varint;

/// Why bytes are not the message they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("message ends early: {field}")]
    Truncated { field: &'static str },
    #[error("{field} has the impossible length {length}")]
    BadLength { field: &'static str, length: i64 },
    #[error("{field} must not be null")]
    Null { field: &'static str },
    #[error("{field} is not UTF-8")]
    NotUtf8 { field: &'static str },
    #[error("frame of {bytes} bytes, accepted are at most {bytes_max}")]
    FrameTooLarge { bytes: i64, bytes_max: usize },
    #[error("request type {0} is unknown")]
    UnknownApi(i16),
    #[error("version {version} of request type {api_key} is not supported")]
    UnsupportedVersion { api_key: i16, version: i16 },
    #[error("malformed message: {0}")]
    Malformed(String),
    #[error("message cannot be encoded: {0}")]
    Encode(String),
}

/// The leader of a partition as an answer names it; -1 where unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    pub leader_id: i32,
    pub leader_epoch: i32,
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    pub node_id: i32,
    pub host: StrBytes,
    pub port: i32,
    pub rack: Option<StrBytes>,
}

/// Elements of all arrays of a message and tagged fields, together. An element of two bytes becomes a struct of a hundred, so
/// that a message of the largest size would otherwise become gigabytes.
pub(crate) const ELEMENTS_MAX: usize = 1 << 20;

/// Takes values off the front of a message without copying them.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Bytes,
    is_flexible: bool,
    elements_left: usize,
}

type Read<T> = Result<T, WireError>;

impl Reader {
    pub(crate) fn new(message: Bytes, is_flexible: bool) -> Reader {
        Reader { rest: message, is_flexible, elements_left: ELEMENTS_MAX }
    }

    pub(crate) fn into_rest(self) -> Bytes {
        self.rest
    }

    fn fixed<const N: usize>(&mut self, field: &'static str) -> Read<[u8; N]> {
        let value = *self.rest.first_chunk::<N>().ok_or(WireError::Truncated { field })?;
        self.skip(N);
        Ok(value)
    }

    fn skip(&mut self, count: usize) {
        bytes::Buf::advance(&mut self.rest, count);
    }

    pub(crate) fn skip_fixed(&mut self, count: usize) -> Read<()> {
        self.taken(count, "number").map(drop)
    }

    pub(crate) fn i8(&mut self, field: &'static str) -> Read<i8> {
        self.fixed(field).map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self, field: &'static str) -> Read<i16> {
        self.fixed(field).map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> Read<i32> {
        self.fixed(field).map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> Read<i64> {
        self.fixed(field).map(i64::from_be_bytes)
    }

    pub(crate) fn uuid(&mut self, field: &'static str) -> Read<Uuid> {
        self.fixed(field).map(Uuid::from_bytes)
    }

    pub(crate) fn unsigned(&mut self, field: &'static str) -> Read<u32> {
        let mut rest = self.rest.as_ref();
        let value = varint::read_u32(&mut rest).ok_or(WireError::Truncated { field })?;
        let taken = self.rest.len() - rest.len();
        self.skip(taken);
        Ok(value)
    }

    fn taken(&mut self, count: usize, field: &'static str) -> Read<Bytes> {
        if count > self.rest.len() {
            return Err(WireError::Truncated { field });
        }
        Ok(self.rest.split_to(count))
    }

    /// A length: `None` for null.
    fn length(&mut self, field: &'static str, is_short: bool) -> Read<Option<usize>> {
        let length = match (self.is_flexible, is_short) {
            (true, _) => i64::from(self.unsigned(field)?) - 1,
            (false, true) => i64::from(self.i16(field)?),
            (false, false) => i64::from(self.i32(field)?),
        };
        match length {
            -1 => Ok(None),
            length => Ok(Some(usize::try_from(length).map_err(|_| WireError::BadLength { field, length })?)),
        }
    }

    pub(crate) fn nullable_string(&mut self, field: &'static str) -> Read<Option<StrBytes>> {
        let Some(length) = self.length(field, true)? else { return Ok(None) };
        let bytes = self.taken(length, field)?;
        StrBytes::from_utf8(bytes).map(Some).map_err(|_| WireError::NotUtf8 { field })
    }

    pub(crate) fn string(&mut self, field: &'static str) -> Read<StrBytes> {
        self.nullable_string(field)?.ok_or(WireError::Null { field })
    }

    pub(crate) fn nullable_bytes(&mut self, field: &'static str) -> Read<Option<Bytes>> {
        match self.length(field, false)? {
            None => Ok(None),
            Some(length) => self.taken(length, field).map(Some),
        }
    }

    /// An array, `None` for null. Its claimed length must fit the bytes that are left, of which each element takes at least
    /// `element_bytes_min`, and what is left of [`ELEMENTS_MAX`]; room is made as elements are really read.
    pub(crate) fn nullable_array<T>(
        &mut self,
        field: &'static str,
        element_bytes_min: usize,
        mut element: impl FnMut(&mut Reader) -> Read<T>,
    ) -> Read<Option<Vec<T>>> {
        let Some(count) = self.length(field, false)? else { return Ok(None) };
        if count > self.rest.len() / element_bytes_min {
            return Err(WireError::BadLength { field, length: count as i64 });
        }
        self.count_elements(count, field)?;
        let mut elements = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(Some(elements))
    }

    fn count_elements(&mut self, count: usize, field: &'static str) -> Read<()> {
        let too_many = WireError::BadLength { field, length: count as i64 };
        self.elements_left = self.elements_left.checked_sub(count).ok_or(too_many)?;
        Ok(())
    }

    pub(crate) fn array<T>(
        &mut self,
        field: &'static str,
        element_bytes_min: usize,
        element: impl FnMut(&mut Reader) -> Read<T>,
    ) -> Read<Vec<T>> {
        self.nullable_array(field, element_bytes_min, element)?.ok_or(WireError::Null { field })
    }

    /// The tagged fields at the end of a struct of a flexible version: `known` reads the value of a tag it knows and says
    /// `true`; others are skipped.
    pub(crate) fn tagged(&mut self, mut known: impl FnMut(u32, &mut Reader) -> Read<bool>) -> Read<()> {
        if !self.is_flexible {
            return Ok(());
        }
        let count = self.unsigned("tagged field count")?;
        self.count_elements(count as usize, "tagged field count")?;
        for _ in 0..count {
            let tag = self.unsigned("tag")?;
            let size = self.unsigned("tagged field size")?;
            let value = self.taken(size as usize, "tagged field")?;
            let mut reader = Reader { rest: value, is_flexible: true, elements_left: self.elements_left };
            if known(tag, &mut reader)? && !reader.rest.is_empty() {
                return Err(WireError::BadLength { field: "tagged field", length: i64::from(size) });
            }
        }
        Ok(())
    }

    pub(crate) fn skip_tagged(&mut self) -> Read<()> {
        self.tagged(|_, _| Ok(false))
    }

    /// The value of a tagged field that holds a leader.
    pub(crate) fn leader(&mut self) -> Read<LeaderIdAndEpoch> {
        let leader = LeaderIdAndEpoch { leader_id: self.i32("leader id")?, leader_epoch: self.i32("leader epoch")? };
        self.skip_tagged()?;
        Ok(leader)
    }

    /// The value of a tagged field that holds the endpoints of brokers.
    pub(crate) fn node_endpoints(&mut self) -> Read<Vec<NodeEndpoint>> {
        self.array("node endpoints", 11, |reader| {
            let endpoint = NodeEndpoint {
                node_id: reader.i32("node id")?,
                host: reader.string("host")?,
                port: reader.i32("port")?,
                rack: reader.nullable_string("rack")?,
            };
            reader.skip_tagged()?;
            Ok(endpoint)
        })
    }
}

/// Writes the values of a message to the end of a buffer.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) out: Vec<u8>,
    pub(crate) is_flexible: bool,
}

impl Writer {
    pub(crate) fn i8(&mut self, value: i8) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn uuid(&mut self, value: Uuid) {
        self.out.extend_from_slice(value.as_bytes());
    }

    pub(crate) fn unsigned(&mut self, value: usize) {
        varint::write_u32(&mut self.out, u32::try_from(value).expect("messages are far below 4 GiB"));
    }

    fn length(&mut self, length: Option<usize>, is_short: bool) {
        match (self.is_flexible, is_short) {
            (true, _) => self.unsigned(length.map_or(0, |length| length + 1)),
            (false, true) => self.i16(length.map_or(-1, |length| i16::try_from(length).expect("callers cut strings"))),
            (false, false) => {
                self.i32(length.map_or(-1, |length| i32::try_from(length).expect("messages are far below 2 GiB")));
            }
        }
    }

    /// A string. Non-flexible versions hold at most 32,767 bytes; what is longer is cut at a character.
    pub(crate) fn nullable_string(&mut self, value: Option<&str>) {
        let value = value.map(|text| text.get(..text.floor_char_boundary(i16::MAX as usize)).unwrap_or_default());
        self.length(value.map(str::len), true);
        self.out.extend_from_slice(value.unwrap_or_default().as_bytes());
    }

    pub(crate) fn string(&mut self, value: &str) {
        self.nullable_string(Some(value));
    }

    /// The length before bytes that the caller adds.
    pub(crate) fn bytes_length(&mut self, length: Option<usize>) {
        self.length(length, false);
    }

    pub(crate) fn nullable_array<T>(&mut self, elements: Option<&[T]>, mut element: impl FnMut(&mut Writer, &T)) {
        self.length(elements.map(<[T]>::len), false);
        for value in elements.unwrap_or_default() {
            element(self, value);
        }
    }

    pub(crate) fn array<T>(&mut self, elements: &[T], element: impl FnMut(&mut Writer, &T)) {
        self.nullable_array(Some(elements), element);
    }

    /// The tagged fields at the end of a struct, `(tag, value)` in ascending order of tags.
    pub(crate) fn tagged(&mut self, fields: &[(usize, Vec<u8>)]) {
        if !self.is_flexible {
            return;
        }
        self.unsigned(fields.len());
        for (tag, value) in fields {
            self.unsigned(*tag);
            self.unsigned(value.len());
            self.out.extend_from_slice(value);
        }
    }

    pub(crate) fn no_tagged(&mut self) {
        self.tagged(&[]);
    }
}

/// The bytes of a tagged field's value.
pub(crate) fn tagged_value(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer { out: Vec::new(), is_flexible: true };
    write(&mut writer);
    writer.out
}

pub(crate) fn leader_value(leader: LeaderIdAndEpoch) -> Vec<u8> {
    tagged_value(|writer| {
        writer.i32(leader.leader_id);
        writer.i32(leader.leader_epoch);
        writer.no_tagged();
    })
}

pub(crate) fn node_endpoints_value(endpoints: &[NodeEndpoint]) -> Vec<u8> {
    tagged_value(|writer| {
        writer.array(endpoints, |writer, endpoint| {
            writer.i32(endpoint.node_id);
            writer.string(&endpoint.host);
            writer.i32(endpoint.port);
            writer.nullable_string(endpoint.rack.as_deref());
            writer.no_tagged();
        });
    })
}
