//! Building a batch record by record.

use bytes::Bytes;

use crate::batch::{self, BatchHeader, Compression, HEADER_BYTES};
use crate::compression::compress;
use crate::varint;

/// Collects records into one batch. Offsets are given at build time by position, from 0; the log patches the base offset.
///
/// Leader epoch is -1 and there is no producer unless [`RecordBatchBuilder::producer`] names one.
#[derive(Clone, Debug)]
pub struct RecordBatchBuilder {
    compression: Compression,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    is_transactional: bool,
    record_count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    /// Room for the header, then the encoded records.
    bytes: Vec<u8>,
}

impl Default for RecordBatchBuilder {
    fn default() -> Self {
        RecordBatchBuilder::new(Compression::None)
    }
}

impl RecordBatchBuilder {
    pub fn new(compression: Compression) -> Self {
        RecordBatchBuilder {
            compression,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            is_transactional: false,
            record_count: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            bytes: vec![0; HEADER_BYTES],
        }
    }

    /// Marks the batch as written by an idempotent producer.
    #[must_use]
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        self.producer_id = producer_id;
        self.producer_epoch = producer_epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// Marks the batch as part of its producer's transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.is_transactional = true;
        self
    }

    /// Adds a record. A batch of more than `i32::MAX` bytes or records does not exist: look at
    /// [`RecordBatchBuilder::estimated_bytes`] and begin a new one long before.
    pub fn append(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        if self.record_count == 0 {
            self.base_timestamp = timestamp_ms;
            self.max_timestamp = timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        let timestamp_delta = timestamp_ms.wrapping_sub(self.base_timestamp);
        let offset_delta = self.record_count;
        let body_bytes = 1
            + varint::signed_bytes(timestamp_delta)
            + varint::signed_bytes(i64::from(offset_delta))
            + nullable_bytes(key)
            + nullable_bytes(value)
            + varint::signed_bytes(headers.len() as i64)
            + headers
                .iter()
                .map(|(name, value)| nullable_bytes(Some(name.as_bytes())) + nullable_bytes(*value))
                .sum::<usize>();
        let out = &mut self.bytes;
        varint::write_i32(out, length_i32(body_bytes));
        out.push(0);
        varint::write_i64(out, timestamp_delta);
        varint::write_i32(out, offset_delta);
        write_nullable(out, key);
        write_nullable(out, value);
        varint::write_i32(out, length_i32(headers.len()));
        for (name, value) in headers {
            write_nullable(out, Some(name.as_bytes()));
            write_nullable(out, *value);
        }
        self.record_count = self.record_count.checked_add(1).expect("a batch holds fewer than 2^31 records");
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.record_count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes of the batch if it were built now without compression.
    pub fn estimated_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batch, with base offset 0. It must hold a record.
    pub fn build(self) -> Bytes {
        assert!(self.record_count > 0, "a batch holds at least one record");
        let mut bytes = if self.compression == Compression::None {
            self.bytes
        } else {
            let records = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
            let mut compressed = vec![0; HEADER_BYTES];
            compress(self.compression, records, &mut compressed);
            compressed
        };
        let header = BatchHeader {
            base_offset: 0,
            batch_length: length_i32(bytes.len() - batch::LENGTH_PREFIX_BYTES),
            leader_epoch: -1,
            crc: 0,
            attributes: batch::attributes(self.compression, self.is_transactional),
            last_offset_delta: self.record_count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.record_count,
        };
        let room = bytes.first_chunk_mut::<HEADER_BYTES>().expect("room for the header comes first");
        *room = header.to_bytes();
        batch::patch_crc(&mut bytes);
        Bytes::from(bytes)
    }
}

fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    match bytes {
        None => 1,
        Some(bytes) => varint::signed_bytes(bytes.len() as i64) + bytes.len(),
    }
}

fn write_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::write_i32(out, -1),
        Some(bytes) => {
            varint::write_i32(out, length_i32(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

fn length_i32(length: usize) -> i32 {
    i32::try_from(length).expect("a batch holds fewer than 2^31 bytes")
}
