//! The records of `__consumer_offsets`, as Kafka writes them, since lag exporters read them.
//!
//! Keys begin with their version: 1 is a committed offset, 2 a group. A value that is null is a tombstone. All numbers
//! are big-endian; a string is its length (i16, -1 is null) and UTF-8.
//!
//! | | key | value |
//! |---|---|---|
//! | offset | i16 1, group, topic, partition i32 | i16 3, offset i64, leader epoch i32, metadata, commit time i64 |
//! | group | i16 2, group | i16 3, protocol type, generation i32, protocol?, leader?, time i64, members |
//! | member | | id, instance?, client id, client host, rebalance timeout i32, session timeout i32, subscription, assignment |
//!
//! The id of an offset's topic, 16 bytes, is in the record's header `mainstem.topic-id`, which other readers pass over.
//! Subscription and assignment are bytes with an i32 length; the members an array with an i32 length.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mainstem_kafka_wire::records::{Record, RecordBatchBuilder};
use uuid::Uuid;

use super::Committed;

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const VALUE_VERSION: i16 = 3;
/// The header that says which topic of that name an offset belongs to.
const TOPIC_ID_HEADER: &str = "mainstem.topic-id";

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OffsetsRecord {
    /// A committed offset, or its end.
    Offset {
        /// The group.
        group: String,
        /// Name of the topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// `None` is a tombstone.
        value: Option<Committed>,
    },
    /// A group as it is after a rebalance, or its end.
    Group {
        /// The group.
        group: String,
        /// `None` is a tombstone.
        value: Option<GroupValue>,
    },
}

/// What is kept of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    /// `consumer`, `connect`, ...
    pub protocol_type: String,
    /// The generation.
    pub generation: i32,
    /// The assignor chosen.
    pub protocol: Option<String>,
    /// Its leader.
    pub leader: Option<String>,
    /// When it came to this, since 1970.
    pub at_ms: i64,
    /// Its members.
    pub members: Vec<MemberValue>,
}

/// What is kept of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    /// Its id.
    pub id: String,
    /// `group.instance.id`
    pub instance: Option<String>,
    /// From its requests.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
    /// How long a rebalance waits for it.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// What it subscribes to.
    pub metadata: Bytes,
    /// What it was given.
    pub assignment: Bytes,
}

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than its lengths say.
    #[error("the record is cut short")]
    Truncated,
    /// Not UTF-8, or a null where none may be.
    #[error("the record holds a malformed string")]
    BadString,
    /// Written by something newer.
    #[error("the record's {of} has version {version}, which this build does not read")]
    UnknownVersion {
        /// `key` or `value`.
        of: &'static str,
        /// The version.
        version: i16,
    },
}

impl OffsetsRecord {
    /// Key and value.
    #[must_use]
    pub fn encode(&self) -> (Bytes, Option<Bytes>) {
        let mut key = BytesMut::new();
        match self {
            OffsetsRecord::Offset { group, topic, partition, value } => {
                key.put_i16(OFFSET_KEY);
                put_string(&mut key, Some(group));
                put_string(&mut key, Some(topic));
                key.put_i32(*partition);
                (key.freeze(), value.as_ref().map(encode_offset))
            }
            OffsetsRecord::Group { group, value } => {
                key.put_i16(GROUP_KEY);
                put_string(&mut key, Some(group));
                (key.freeze(), value.as_ref().map(encode_group))
            }
        }
    }

    /// Appends it to a batch.
    pub(crate) fn append_to(&self, batch: &mut RecordBatchBuilder, at_ms: i64) {
        let (key, value) = self.encode();
        let topic_id = match self {
            OffsetsRecord::Offset { value: Some(value), .. } => value.topic_id,
            _ => None,
        };
        let header = topic_id.as_ref().map(|id| (TOPIC_ID_HEADER, Some(id.as_bytes().as_slice())));
        batch.append(at_ms, Some(&key), value.as_deref(), header.as_slice());
    }

    /// [`OffsetsRecord::decode`] with what the headers say.
    pub(crate) fn of_record(key: &[u8], record: &Record) -> Result<Self, RecordError> {
        let mut decoded = OffsetsRecord::decode(key, record.value.as_deref())?;
        if let OffsetsRecord::Offset { value: Some(value), .. } = &mut decoded {
            let header = record.headers.iter().find(|(name, _)| **name == *TOPIC_ID_HEADER.as_bytes());
            value.topic_id = header.and_then(|(_, id)| Uuid::from_slice(id.as_deref()?).ok());
        }
        Ok(decoded)
    }

    /// Reads a record back; the topic's id is not part of it.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, RecordError> {
        let mut key = Fields(key);
        match key.i16()? {
            OFFSET_KEY => Ok(OffsetsRecord::Offset {
                group: key.string()?,
                topic: key.string()?,
                partition: key.i32()?,
                value: value.map(decode_offset).transpose()?,
            }),
            GROUP_KEY => Ok(OffsetsRecord::Group { group: key.string()?, value: value.map(decode_group).transpose()? }),
            version => Err(RecordError::UnknownVersion { of: "key", version }),
        }
    }
}

fn put_string(to: &mut BytesMut, text: Option<&str>) {
    match text {
        None => to.put_i16(-1),
        Some(text) => {
            // Requests carry these with 15 bits of length, or are refused before.
            let text = text.get(..text.floor_char_boundary(i16::MAX as usize)).unwrap_or_default();
            to.put_i16(i16::try_from(text.len()).expect("cut above"));
            to.put_slice(text.as_bytes());
        }
    }
}

fn put_bytes(to: &mut BytesMut, bytes: &Bytes) {
    to.put_i32(i32::try_from(bytes.len()).expect("it came in a request"));
    to.put_slice(bytes);
}

fn encode_offset(value: &Committed) -> Bytes {
    let mut to = BytesMut::new();
    to.put_i16(VALUE_VERSION);
    to.put_i64(value.offset);
    to.put_i32(value.leader_epoch);
    put_string(&mut to, Some(&value.metadata));
    to.put_i64(value.at_ms);
    to.freeze()
}

fn encode_group(value: &GroupValue) -> Bytes {
    let mut to = BytesMut::new();
    to.put_i16(VALUE_VERSION);
    put_string(&mut to, Some(&value.protocol_type));
    to.put_i32(value.generation);
    put_string(&mut to, value.protocol.as_deref());
    put_string(&mut to, value.leader.as_deref());
    to.put_i64(value.at_ms);
    to.put_i32(i32::try_from(value.members.len()).expect("groups are limited"));
    for member in &value.members {
        put_string(&mut to, Some(&member.id));
        put_string(&mut to, member.instance.as_deref());
        put_string(&mut to, Some(&member.client_id));
        put_string(&mut to, Some(&member.client_host));
        to.put_i32(member.rebalance_timeout_ms);
        to.put_i32(member.session_timeout_ms);
        put_bytes(&mut to, &member.metadata);
        put_bytes(&mut to, &member.assignment);
    }
    to.freeze()
}

fn decode_offset(value: &[u8]) -> Result<Committed, RecordError> {
    let mut value = Fields(value);
    value.version()?;
    let (offset, leader_epoch) = (value.i64()?, value.i32()?);
    Ok(Committed { offset, leader_epoch, metadata: value.string()?, at_ms: value.i64()?, topic_id: None })
}

fn decode_group(value: &[u8]) -> Result<GroupValue, RecordError> {
    let mut value = Fields(value);
    value.version()?;
    let mut group = GroupValue {
        protocol_type: value.string()?,
        generation: value.i32()?,
        protocol: value.nullable_string()?,
        leader: value.nullable_string()?,
        at_ms: value.i64()?,
        members: Vec::new(),
    };
    for _ in 0..value.i32()? {
        group.members.push(MemberValue {
            id: value.string()?,
            instance: value.nullable_string()?,
            client_id: value.string()?,
            client_host: value.string()?,
            rebalance_timeout_ms: value.i32()?,
            session_timeout_ms: value.i32()?,
            metadata: value.bytes()?,
            assignment: value.bytes()?,
        });
    }
    Ok(group)
}

/// Bytes read field by field.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn i16(&mut self) -> Result<i16, RecordError> {
        self.0.try_get_i16().map_err(|_| RecordError::Truncated)
    }

    fn i32(&mut self) -> Result<i32, RecordError> {
        self.0.try_get_i32().map_err(|_| RecordError::Truncated)
    }

    fn i64(&mut self) -> Result<i64, RecordError> {
        self.0.try_get_i64().map_err(|_| RecordError::Truncated)
    }

    fn version(&mut self) -> Result<(), RecordError> {
        match self.i16()? {
            VALUE_VERSION => Ok(()),
            version => Err(RecordError::UnknownVersion { of: "value", version }),
        }
    }

    fn take(&mut self, len: usize) -> Result<&[u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(RecordError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn nullable_string(&mut self) -> Result<Option<String>, RecordError> {
        let Ok(len) = usize::try_from(self.i16()?) else { return Ok(None) };
        let text = str::from_utf8(self.take(len)?).map_err(|_| RecordError::BadString)?;
        Ok(Some(text.to_owned()))
    }

    fn string(&mut self) -> Result<String, RecordError> {
        self.nullable_string()?.ok_or(RecordError::BadString)
    }

    fn bytes(&mut self) -> Result<Bytes, RecordError> {
        let len = usize::try_from(self.i32()?).unwrap_or(0);
        Ok(Bytes::copy_from_slice(self.take(len)?))
    }
}

/// The partition of `__consumer_offsets` that holds a group: Java's hash of its id.
#[must_use]
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_being_written_and_read() {
        let member = MemberValue {
            id: "m-1".into(),
            instance: Some("i".into()),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            rebalance_timeout_ms: 1,
            session_timeout_ms: 2,
            metadata: Bytes::from_static(b"meta"),
            assignment: Bytes::from_static(b"a"),
        };
        let group = GroupValue {
            protocol_type: "consumer".into(),
            generation: 7,
            protocol: Some("range".into()),
            leader: None,
            at_ms: 9,
            members: vec![member],
        };
        let offset = Committed { offset: 5, leader_epoch: -1, metadata: "ü".into(), at_ms: 3, topic_id: None };
        let cases = [
            OffsetsRecord::Group { group: "g".into(), value: Some(group) },
            OffsetsRecord::Group { group: "g".into(), value: None },
            OffsetsRecord::Offset { group: "g".into(), topic: "t".into(), partition: 3, value: Some(offset) },
            OffsetsRecord::Offset { group: "g".into(), topic: "t".into(), partition: 3, value: None },
        ];
        for case in cases {
            let (key, value) = case.encode();
            assert_eq!(OffsetsRecord::decode(&key, value.as_deref()), Ok(case));
            for cut in 0..value.as_deref().map_or(0, <[u8]>::len) {
                let value = value.as_deref().and_then(|value| value.get(..cut));
                assert!(OffsetsRecord::decode(&key, value).is_err(), "a value cut at {cut} is refused");
            }
        }
    }

    #[test]
    fn an_offset_is_laid_out_as_kafka_does() {
        let value = Committed { offset: 5, leader_epoch: -1, metadata: "m".into(), at_ms: 3, topic_id: None };
        let record = OffsetsRecord::Offset { group: "g".into(), topic: "t".into(), partition: 2, value: Some(value) };
        let (key, value) = record.encode();
        assert_eq!(key, [&[0, 1][..], &[0, 1, b'g'], &[0, 1, b't'], &[0, 0, 0, 2]].concat());
        let expected =
            [&[0, 3][..], &[0, 0, 0, 0, 0, 0, 0, 5], &[255, 255, 255, 255], &[0, 1, b'm'], &[0, 0, 0, 0, 0, 0, 0, 3]];
        assert_eq!(value.expect("a value"), expected.concat());
    }

    #[test]
    fn groups_lie_where_java_puts_them() {
        assert_eq!(partition_of("", 50), 0);
        assert_eq!(partition_of("a", 50), 97 % 50);
        assert_eq!(partition_of("ab", 50), (97 * 31 + 98) % 50);
    }
}
