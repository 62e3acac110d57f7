//! Fetch, versions 4 to 18.
//!
//! Flexible from 12; topics go by name up to 12 and by id from 13, and the other of the two fields is then empty. From 15 a
//! replica names itself in a tagged field; consumers have -1 there. A response is encoded as chunks for a vectored write:
//! record sets are handed through as they are, never copied.

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

pub use self::request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};
pub use self::response::{
    AbortedTransaction, EpochEndOffset, FetchPartitionResponse, FetchResponse, FetchTopicResponse, Piece, SnapshotId,
};
use crate::wire::{Reader, WireError, Writer};

mod request;
mod response;

/// Versions this module encodes and decodes.
pub const VERSIONS: std::ops::RangeInclusive<i16> = 4..=18;

const FLEXIBLE_FROM: i16 = 12;
const TOPIC_ID_FROM: i16 = 13;

fn check_version(version: i16) -> Result<bool, WireError> {
    if !VERSIONS.contains(&version) {
        return Err(WireError::UnsupportedVersion { api_key: ApiKey::Fetch as i16, version });
    }
    Ok(version >= FLEXIBLE_FROM)
}

/// A topic's name or id, whichever the version has.
fn decode_topic(version: i16, reader: &mut Reader) -> Result<(StrBytes, Uuid), WireError> {
    if version >= TOPIC_ID_FROM {
        Ok((StrBytes::default(), reader.uuid("topic id")?))
    } else {
        Ok((reader.string("topic name")?, Uuid::nil()))
    }
}

fn encode_topic(version: i16, writer: &mut Writer, name: &str, topic_id: Uuid) {
    if version >= TOPIC_ID_FROM {
        writer.uuid(topic_id);
    } else {
        writer.string(name);
    }
}

#[cfg(test)]
mod tests;
