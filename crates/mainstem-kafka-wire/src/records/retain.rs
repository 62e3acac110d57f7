//! Taking records out of a batch, as log compaction does.
//!
//! What stays keeps its offset, its timestamp and its bytes; the batch keeps its offsets' range, its producer and its
//! sequence numbers. KIP-534: a batch in which a tombstone was seen carries the time from which on it may go (the *delete
//! horizon*) in place of its base timestamp, and attribute bit 6 says so.

use bytes::Bytes;

use super::{RecordRef, check_end, payload_of, read_record};
use crate::batch::{self, BatchError, BatchHeader, Compression, HEADER_BYTES, LENGTH_PREFIX_BYTES};
use crate::compression::{compress, decompress};
use crate::varint;

/// What [`retain`] made of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retained {
    /// Every record stays and nothing else changes: the batch as it is.
    Unchanged,
    /// No record stays.
    Nothing,
    /// A smaller batch, or one with a delete horizon; base offset and leader epoch as before.
    Changed(Bytes),
}

/// One record to keep: where it stands in the payload.
struct Kept {
    /// With its length in front.
    whole: std::ops::Range<usize>,
    /// Behind its attributes and timestamp delta.
    rest: std::ops::Range<usize>,
    attributes: u8,
    timestamp: i64,
}

/// Keeps those records of `batch` (one whole batch) that `keep` passes; it is asked in order. When a tombstone (a record with
/// a key and no value) stays, the batch's delete horizon becomes `delete_horizon_ms`, if one is given. The codec stays. Fails if the batch decompresses to more than `limit` bytes, is malformed, or its records do not lie inside its
/// offsets one after the other.
pub fn retain(
    batch: &[u8],
    limit: usize,
    delete_horizon_ms: Option<i64>,
    mut keep: impl FnMut(&RecordRef<'_>) -> bool,
) -> Result<Retained, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let codec = header.compression()?;
    let payload = payload_of(batch, &header)?;
    let decompressed;
    let payload = match codec {
        Compression::None if payload.len() > limit => return Err(BatchError::TooLarge { limit }),
        Compression::None => payload,
        codec => {
            decompressed = decompress(codec, payload, limit)?;
            decompressed.as_slice()
        }
    };
    let mut kept = Vec::new();
    let mut has_tombstone = false;
    let mut rest = payload;
    let mut expected = header.base_offset;
    for index in 0..header.record_count {
        let before = payload.len() - rest.len();
        let record = read_record(&mut rest, &header, index)?;
        if record.offset < expected || record.offset > header.last_offset() {
            return Err(BatchError::BadRecord { index, reason: "offset" });
        }
        expected = record.offset + 1;
        if keep(&record) {
            has_tombstone |= record.key.is_some() && record.value.is_none();
            kept.push(place(payload, before..payload.len() - rest.len(), record.timestamp, index)?);
        }
    }
    check_end(rest, &header)?;
    let horizon = delete_horizon_ms.filter(|_| has_tombstone);
    let count = i32::try_from(kept.len()).unwrap_or(i32::MAX);
    match (count, horizon) {
        (0, _) => Ok(Retained::Nothing),
        (_, None) if count == header.record_count => Ok(Retained::Unchanged),
        _ => Ok(Retained::Changed(build(&header, codec, payload, &kept, horizon))),
    }
}

fn place(payload: &[u8], whole: std::ops::Range<usize>, timestamp: i64, index: i32) -> Result<Kept, BatchError> {
    let bad = || BatchError::BadRecord { index, reason: "timestamp delta" };
    let mut rest = payload.get(whole.clone()).unwrap_or_default();
    varint::read_i32(&mut rest).ok_or_else(bad)?;
    let (&attributes, after) = rest.split_first().ok_or_else(bad)?;
    rest = after;
    varint::read_i64(&mut rest).ok_or_else(bad)?;
    Ok(Kept { rest: whole.end - rest.len()..whole.end, whole, attributes, timestamp })
}

fn build(header: &BatchHeader, codec: Compression, payload: &[u8], kept: &[Kept], horizon: Option<i64>) -> Bytes {
    let base_timestamp = horizon.unwrap_or(header.base_timestamp);
    let mut records = Vec::with_capacity(kept.iter().map(|record| record.whole.len() + 8).sum());
    for record in kept {
        match horizon {
            None => records.extend_from_slice(payload.get(record.whole.clone()).unwrap_or_default()),
            Some(_) => {
                let delta = record.timestamp.wrapping_sub(base_timestamp);
                let rest = payload.get(record.rest.clone()).unwrap_or_default();
                let length = 1 + varint::signed_bytes(delta) + rest.len();
                varint::write_i32(&mut records, i32::try_from(length).expect("a batch holds fewer than 2^31 bytes"));
                records.push(record.attributes);
                varint::write_i64(&mut records, delta);
                records.extend_from_slice(rest);
            }
        }
    }
    let newest = kept.iter().map(|record| record.timestamp).max().unwrap_or(-1);
    let mut bytes = vec![0; HEADER_BYTES];
    compress(codec, &records, &mut bytes);
    let batch_length = bytes.len() - LENGTH_PREFIX_BYTES;
    let header = BatchHeader {
        batch_length: i32::try_from(batch_length).expect("a batch holds fewer than 2^31 bytes"),
        attributes: batch::with_delete_horizon(header.attributes, horizon.is_some()),
        base_timestamp,
        max_timestamp: if header.is_log_append_time() { header.max_timestamp } else { newest },
        record_count: i32::try_from(kept.len()).expect("no more than before"),
        ..*header
    };
    finish(header, bytes)
}

/// A batch without records that covers the offsets `base_offset..=base_offset + last_offset_delta`: what stands where records
/// are gone. With `of`, it keeps attributes and producer of the batch that was there.
pub fn empty_batch(base_offset: i64, last_offset_delta: i32, of: Option<&BatchHeader>) -> Bytes {
    let header = BatchHeader {
        base_offset,
        batch_length: (HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32,
        leader_epoch: 0,
        crc: 0,
        attributes: of.map_or(0, |of| batch::without_codec(of.attributes)),
        last_offset_delta,
        base_timestamp: -1,
        max_timestamp: -1,
        producer_id: of.map_or(-1, |of| of.producer_id),
        producer_epoch: of.map_or(-1, |of| of.producer_epoch),
        base_sequence: of.map_or(-1, |of| of.base_sequence),
        record_count: 0,
    };
    finish(header, vec![0; HEADER_BYTES])
}

fn finish(header: BatchHeader, mut bytes: Vec<u8>) -> Bytes {
    *bytes.first_chunk_mut::<HEADER_BYTES>().expect("room for the header comes first") = header.to_bytes();
    batch::patch_crc(&mut bytes);
    Bytes::from(bytes)
}
