//! Frames, the headers of requests and responses, and the versions that are served.
//!
//! A frame is a four byte length and as many bytes: a header and a message. Which of two header forms a request has, and
//! whether the response's ends with tagged fields, depends on the request's type and version, except that the answer to
//! ApiVersions never has them: a client must be able to read it before it knows what the broker speaks.

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;

use crate::wire::{Reader, WireError, Writer};

/// The largest frame a broker accepts unless told otherwise (`socket.request.max.bytes` of Kafka).
pub const FRAME_BYTES_MAX: usize = 100 * 1024 * 1024;

/// Api key, version and correlation id: no request is shorter.
const REQUEST_BYTES_MIN: usize = 8;

/// Takes the next frame off the front of `received`, without its length, if it is there whole. A length that is
/// impossible or above `frame_bytes_max` is an error as soon as it is seen.
pub fn next_frame(received: &mut BytesMut, frame_bytes_max: usize) -> Result<Option<Bytes>, WireError> {
    let Some(prefix) = received.first_chunk::<4>() else { return Ok(None) };
    let length = frame_length(*prefix, frame_bytes_max)?;
    if received.len() - 4 < length {
        return Ok(None);
    }
    received.advance(4);
    Ok(Some(received.split_to(length).freeze()))
}

/// Bytes of the frame behind this length prefix, which comes from a client and must hold at least a request header.
pub fn frame_length(prefix: [u8; 4], frame_bytes_max: usize) -> Result<usize, WireError> {
    let claimed = i32::from_be_bytes(prefix);
    let bytes = i64::from(claimed);
    match usize::try_from(claimed) {
        Ok(length) if length > frame_bytes_max => Err(WireError::FrameTooLarge { bytes, bytes_max: frame_bytes_max }),
        Ok(length) if length >= REQUEST_BYTES_MIN => Ok(length),
        _ => Err(WireError::BadLength { field: "frame", length: bytes }),
    }
}

/// What every request begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    pub api_key: ApiKey,
    /// May be a version that is not served: see [`is_served`].
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
}

/// Splits a frame into the request's header and its message. A version that is not served is no error, because an
/// ApiVersions request of the future must be answered; the message of such a request cannot be decoded.
pub fn parse_request(frame: Bytes) -> Result<(RequestHeader, Bytes), WireError> {
    let mut reader = Reader::new(frame, false);
    let api_key = reader.i16("api key")?;
    let version = reader.i16("api version")?;
    let correlation_id = reader.i32("correlation id")?;
    let api_key = ApiKey::try_from(api_key).map_err(|()| WireError::UnknownApi(api_key))?;
    // The client id keeps its old form in the flexible header.
    let client_id = reader.nullable_string("client id")?;
    let mut rest = reader.into_rest();
    if api_key.request_header_version(version) >= 2 {
        let mut reader = Reader::new(rest, true);
        reader.skip_tagged()?;
        rest = reader.into_rest();
    }
    Ok((RequestHeader { api_key, version, correlation_id, client_id }, rest))
}

/// A frame in the making: room for the length, and the header of a request.
pub(crate) fn begin_request(api_key: ApiKey, version: i16, correlation_id: i32, client_id: Option<&str>) -> Writer {
    let mut writer = Writer { out: vec![0; 4], is_flexible: false };
    writer.i16(api_key as i16);
    writer.i16(version);
    writer.i32(correlation_id);
    writer.nullable_string(client_id);
    writer.is_flexible = api_key.request_header_version(version) >= 2;
    writer.no_tagged();
    writer
}

/// A frame in the making: room for the length, and the header of a response.
pub(crate) fn begin_response(header_version: i16, correlation_id: i32) -> Writer {
    let mut writer = Writer { out: vec![0; 4], is_flexible: header_version >= 1 };
    writer.i32(correlation_id);
    writer.no_tagged();
    writer
}

/// The header of a response to `api_key`, to which the caller adds the message; [`finish_frame`] then fills in the length.
pub fn response_header(api_key: ApiKey, version: i16, correlation_id: i32) -> Vec<u8> {
    begin_response(api_key.response_header_version(version), correlation_id).out
}

/// Writes the length of a frame, made by [`response_header`], into its first four bytes. `extra` bytes follow it from elsewhere.
pub fn finish_frame(frame: &mut [u8], extra: usize) {
    let length = i32::try_from(frame.len() - 4 + extra).expect("a frame is below 2 GiB");
    frame.first_chunk_mut::<4>().expect("a frame begins with its length").copy_from_slice(&length.to_be_bytes());
}

/// Request types that are served, with the versions to advertise, in ascending order of their keys.
///
/// Produce is advertised from 0, because librdkafka takes a broker that does not for one without compression, but is
/// served from 3: see [`is_served`].
pub fn served_versions() -> &'static [(ApiKey, i16, i16)] {
    SERVED
}

/// Whether requests of this type and version are answered.
pub fn is_served(api_key: ApiKey, version: i16) -> bool {
    let min_served = if api_key == ApiKey::Produce { PRODUCE_VERSION_MIN } else { i16::MIN };
    SERVED.iter().any(|&(served, min, max)| served == api_key && version >= min.max(min_served) && version <= max)
}

const PRODUCE_VERSION_MIN: i16 = 3;

const SERVED: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 0, 13),
    (ApiKey::Fetch, 4, 18),
    (ApiKey::ListOffsets, 1, 10),
    (ApiKey::Metadata, 0, 13),
    (ApiKey::OffsetCommit, 2, 9),
    (ApiKey::OffsetFetch, 1, 9),
    (ApiKey::FindCoordinator, 0, 6),
    (ApiKey::JoinGroup, 0, 9),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 6),
    (ApiKey::ListGroups, 0, 5),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::DeleteRecords, 0, 2),
    (ApiKey::InitProducerId, 0, 5),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::DescribeCluster, 0, 2),
];

#[cfg(test)]
mod tests;
