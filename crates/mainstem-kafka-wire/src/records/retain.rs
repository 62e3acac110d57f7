//! Taking records out of a batch, as log compaction does.
//!
//! What stays keeps its offset, its timestamp and its bytes; the batch keeps its offsets' range, its producer and its
//! sequence numbers. KIP-534: a batch in which a tombstone was seen carries the time from which on it may go (the *delete
//! horizon*) in place of its base timestamp, and attribute bit 6 says so.

use std::borrow::Cow;

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

/// A batch whose records can be visited more than once, at the price of one decompression.
#[derive(Debug)]
pub struct OpenBatch<'a> {
    header: BatchHeader,
    payload: Cow<'a, [u8]>,
}

impl<'a> OpenBatch<'a> {
    /// Opens `batch`, one whole batch. Fails if it decompresses to more than `limit` bytes, if a record is malformed, or if
    /// the records do not lie inside the batch's offsets one after the other.
    pub fn open(batch: &'a [u8], limit: usize) -> Result<OpenBatch<'a>, BatchError> {
        let header = BatchHeader::parse(batch)?;
        let payload = payload_of(batch, &header)?;
        let payload = match header.compression()? {
            Compression::None if payload.len() > limit => return Err(BatchError::TooLarge { limit }),
            Compression::None => Cow::Borrowed(payload),
            codec => Cow::Owned(decompress(codec, payload, limit)?),
        };
        let opened = OpenBatch { header, payload };
        let mut expected = header.base_offset;
        opened.visit(|index, _, record| {
            if record.offset < expected || record.offset > header.last_offset() {
                return Err(BatchError::BadRecord { index, reason: "offset" });
            }
            expected = record.offset + 1;
            Ok(())
        })?;
        Ok(opened)
    }

    /// The records in order.
    pub fn for_each(&self, mut visit: impl FnMut(&RecordRef<'_>)) {
        let visited = self.visit(|_, _, record| {
            visit(record);
            Ok(())
        });
        debug_assert!(visited.is_ok(), "opening has looked at all of it");
    }

    /// Each record with its index, and its bytes with the length in front.
    fn visit<F>(&self, mut visit: F) -> Result<(), BatchError>
    where
        F: FnMut(i32, &[u8], &RecordRef<'_>) -> Result<(), BatchError>,
    {
        let mut rest: &[u8] = &self.payload;
        for index in 0..self.header.record_count {
            let before = rest;
            let record = read_record(&mut rest, &self.header, index)?;
            let whole = before.get(..before.len() - rest.len()).unwrap_or_default();
            visit(index, whole, &record)?;
        }
        check_end(rest, &self.header)
    }
}

/// Keeps those records of `batch` (one whole batch) that `keep` passes; it is asked in order. When a tombstone (a record with
/// a key and no value) stays, the batch's delete horizon becomes `delete_horizon_ms`, if one is given. The codec stays.
/// Fails as [`OpenBatch::open`] does.
pub fn retain(
    batch: &[u8],
    limit: usize,
    delete_horizon_ms: Option<i64>,
    mut keep: impl FnMut(&RecordRef<'_>) -> bool,
) -> Result<Retained, BatchError> {
    let opened = OpenBatch::open(batch, limit)?;
    // One bit for each record: a small batch may decompress to very many.
    let mut kept = vec![0u8; usize::try_from(opened.header.record_count).unwrap_or(0).div_ceil(8)];
    let (mut count, mut newest, mut has_tombstone) = (0, i64::MIN, false);
    opened.visit(|index, _, record| {
        if keep(record) {
            if let Some(bits) = kept.get_mut(index as usize / 8) {
                *bits |= 1 << (index % 8);
            }
            count += 1;
            newest = newest.max(record.timestamp);
            has_tombstone |= record.key.is_some() && record.value.is_none();
        }
        Ok(())
    })?;
    let horizon = delete_horizon_ms.filter(|_| has_tombstone);
    if count == 0 {
        return Ok(Retained::Nothing);
    }
    if horizon.is_none() && count == opened.header.record_count {
        return Ok(Retained::Unchanged);
    }
    let base_timestamp = horizon.unwrap_or(opened.header.base_timestamp);
    let mut records = Vec::new();
    opened.visit(|index, whole, record| {
        if kept.get(index as usize / 8).is_some_and(|bits| bits & (1 << (index % 8)) != 0) {
            match horizon {
                None => records.extend_from_slice(whole),
                Some(horizon) => put_relative_to(horizon, whole, record.timestamp, index, &mut records)?,
            }
        }
        Ok(())
    })?;
    let header = BatchHeader {
        attributes: batch::with_delete_horizon(opened.header.attributes, horizon.is_some()),
        base_timestamp,
        max_timestamp: if opened.header.is_log_append_time() { opened.header.max_timestamp } else { newest },
        record_count: count,
        ..opened.header
    };
    let mut bytes = vec![0; HEADER_BYTES];
    compress(header.compression()?, &records, &mut bytes);
    Ok(Retained::Changed(finish(header, bytes)))
}

/// Appends a record with another timestamp delta.
fn put_relative_to(
    base_timestamp: i64,
    whole: &[u8],
    timestamp: i64,
    index: i32,
    out: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let bad = || BatchError::BadRecord { index, reason: "timestamp delta" };
    let mut rest = whole;
    varint::read_i32(&mut rest).ok_or_else(bad)?;
    let (&attributes, after) = rest.split_first().ok_or_else(bad)?;
    rest = after;
    varint::read_i64(&mut rest).ok_or_else(bad)?;
    let delta = timestamp.wrapping_sub(base_timestamp);
    let length = 1 + varint::signed_bytes(delta) + rest.len();
    varint::write_i32(out, i32::try_from(length).expect("a record holds fewer than 2^31 bytes"));
    out.push(attributes);
    varint::write_i64(out, delta);
    out.extend_from_slice(rest);
    Ok(())
}

/// A batch without records that covers the offsets `base_offset..=base_offset + last_offset_delta`: what stands where records
/// are gone. With `of`, it keeps attributes and producer of the batch that was there.
pub fn empty_batch(base_offset: i64, last_offset_delta: i32, of: Option<&BatchHeader>) -> Bytes {
    let header = BatchHeader {
        base_offset,
        batch_length: 0,
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

/// Puts the header, with its length, in the room before the records.
fn finish(mut header: BatchHeader, mut bytes: Vec<u8>) -> Bytes {
    header.batch_length =
        i32::try_from(bytes.len() - LENGTH_PREFIX_BYTES).expect("a batch holds fewer than 2^31 bytes");
    *bytes.first_chunk_mut::<HEADER_BYTES>().expect("room for the header comes first") = header.to_bytes();
    batch::patch_crc(&mut bytes);
    Bytes::from(bytes)
}
