//! The records inside a batch: reading them (all codecs) and building batches.
//!
//! A record is `length varint, attributes i8, timestamp delta varlong, offset delta varint, key, value, header count, headers`,
//! where key, value and header values are a varint length (-1 for null) and bytes. Readers trust neither the record count nor
//! any length: each is checked against the bytes that are there. They do not check the CRC; [`crate::batch::validate`] does.
//!
//! [`for_each_record`] is the fast way, [`records`] the convenient one.

use bytes::Bytes;

pub use self::builder::RecordBatchBuilder;
pub use self::retain::{OpenBatch, Retained, empty_batch, retain};
use crate::batch::{BatchError, BatchHeader, Compression, HEADER_BYTES};
use crate::compression::decompress;
use crate::varint;

mod builder;
mod retain;

/// How many decompressed bytes [`records`] accepts of one batch.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A record that keeps what it needs alive by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    /// Milliseconds: the record's own, or the batch's if that has LogAppendTime.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    /// In order, duplicates kept; the names are valid UTF-8.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// A record as it stands in the (decompressed) batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    pub offset: i64,
    /// Milliseconds: the record's own, or the batch's if that has LogAppendTime.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Header count and headers, undecoded: see [`RecordRef::headers`].
    pub headers_raw: &'a [u8],
}

impl<'a> RecordRef<'a> {
    /// The headers in order, duplicates kept. Malformed ones end the iteration with an error.
    pub fn headers(&self) -> impl Iterator<Item = Result<(&'a str, Option<&'a [u8]>), BatchError>> + use<'a> {
        let mut rest = self.headers_raw;
        let count = varint::read_i32(&mut rest);
        let mut left = count.unwrap_or(-1);
        let mut is_malformed = left < 0;
        std::iter::from_fn(move || {
            if is_malformed {
                is_malformed = false;
                left = 0;
                return Some(Err(BatchError::BadRecord { index: 0, reason: "header count" }));
            }
            if left == 0 {
                return if rest.is_empty() {
                    None
                } else {
                    rest = &[];
                    Some(Err(BatchError::BadRecord { index: 0, reason: "bytes after the headers" }))
                };
            }
            left -= 1;
            let header = read_header(&mut rest);
            if header.is_none() {
                left = 0;
                rest = &[];
            }
            Some(header.ok_or(BatchError::BadRecord { index: 0, reason: "header" }))
        })
    }
}

/// Calls `visit` for each record of `batch` (one whole batch), in order, without an allocation per record. Fails if the batch
/// decompresses to more than `limit` bytes; records before the first malformed one have then been visited.
pub fn for_each_record<F>(batch: &[u8], limit: usize, mut visit: F) -> Result<(), BatchError>
where
    F: FnMut(RecordRef<'_>),
{
    let header = BatchHeader::parse(batch)?;
    let payload = payload_of(batch, &header)?;
    let decompressed;
    let mut rest = match header.compression()? {
        Compression::None if payload.len() > limit => return Err(BatchError::TooLarge { limit }),
        Compression::None => payload,
        codec => {
            decompressed = decompress(codec, payload, limit)?;
            decompressed.as_slice()
        }
    };
    for index in 0..header.record_count {
        visit(read_record(&mut rest, &header, index)?);
    }
    check_end(rest, &header)
}

/// The records of `batch` (one whole batch); keys, values and headers are slices of it, or of its decompressed bytes.
pub fn records(batch: &Bytes) -> Result<RecordReader, BatchError> {
    records_with_limit(batch, DECOMPRESSED_BYTES_MAX)
}

/// As [`records`], for batches that may decompress to at most `limit` bytes.
pub fn records_with_limit(batch: &Bytes, limit: usize) -> Result<RecordReader, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let payload = payload_of(batch, &header)?;
    let payload = match header.compression()? {
        Compression::None if payload.len() > limit => return Err(BatchError::TooLarge { limit }),
        Compression::None => batch.slice_ref(payload),
        codec => Bytes::from(decompress(codec, payload, limit)?),
    };
    Ok(RecordReader { header, payload, position: 0, index: 0 })
}

/// Iterator over the records of one batch, see [`records`]. Its first error is its last item.
#[derive(Clone, Debug)]
pub struct RecordReader {
    header: BatchHeader,
    payload: Bytes,
    position: usize,
    index: i32,
}

impl RecordReader {
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    fn read_next(&mut self) -> Result<Option<Record>, BatchError> {
        let mut rest = self.payload.get(self.position..).unwrap_or_default();
        if self.index >= self.header.record_count {
            check_end(rest, &self.header)?;
            return Ok(None);
        }
        let found = read_record(&mut rest, &self.header, self.index)?;
        let owned = |slice: &[u8]| self.payload.slice_ref(slice);
        let mut headers = Vec::new();
        for header in found.headers() {
            let (name, value) = header.map_err(|error| match error {
                BatchError::BadRecord { reason, .. } => BatchError::BadRecord { index: self.index, reason },
                other => other,
            })?;
            headers.push((owned(name.as_bytes()), value.map(owned)));
        }
        let record = Record {
            offset: found.offset,
            timestamp: found.timestamp,
            key: found.key.map(owned),
            value: found.value.map(owned),
            headers,
        };
        self.position = self.payload.len() - rest.len();
        self.index += 1;
        Ok(Some(record))
    }
}

impl Iterator for RecordReader {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read_next().transpose();
        if !matches!(item, Some(Ok(_))) {
            self.index = self.header.record_count;
            self.position = self.payload.len();
        }
        item
    }
}

impl std::iter::FusedIterator for RecordReader {}

fn payload_of<'a>(batch: &'a [u8], header: &BatchHeader) -> Result<&'a [u8], BatchError> {
    let needed = header.total_bytes();
    batch.get(HEADER_BYTES..needed).ok_or(BatchError::Truncated { needed, have: batch.len() })
}

fn check_end(rest: &[u8], header: &BatchHeader) -> Result<(), BatchError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(BatchError::BadRecord { index: header.record_count, reason: "bytes after the last record" })
}

#[inline]
fn read_record<'a>(rest: &mut &'a [u8], header: &BatchHeader, index: i32) -> Result<RecordRef<'a>, BatchError> {
    let bad = |reason| BatchError::BadRecord { index, reason };
    let length = varint::read_i32(rest).ok_or_else(|| bad("length"))?;
    let length = usize::try_from(length).map_err(|_| bad("negative length"))?;
    let (mut body, after) = rest.split_at_checked(length).ok_or_else(|| bad("longer than the batch"))?;
    *rest = after;
    body = body.get(1..).ok_or_else(|| bad("attributes"))?;
    let timestamp_delta = varint::read_i64(&mut body).ok_or_else(|| bad("timestamp delta"))?;
    let offset_delta = varint::read_i32(&mut body).ok_or_else(|| bad("offset delta"))?;
    let key = read_nullable(&mut body).ok_or_else(|| bad("key"))?;
    let value = read_nullable(&mut body).ok_or_else(|| bad("value"))?;
    let timestamp = if header.is_log_append_time() {
        header.max_timestamp
    } else {
        header.base_timestamp.wrapping_add(timestamp_delta)
    };
    let offset = header.base_offset.wrapping_add(i64::from(offset_delta));
    Ok(RecordRef { offset, timestamp, key, value, headers_raw: body })
}

#[inline(always)]
fn read_nullable<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint::read_i32(rest)?;
    if length == -1 {
        return Some(None);
    }
    let (bytes, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(Some(bytes))
}

fn read_header<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, Option<&'a [u8]>)> {
    let name = std::str::from_utf8(read_nullable(rest)??).ok()?;
    let value = read_nullable(rest)?;
    Some((name, value))
}

#[cfg(test)]
mod tests;
