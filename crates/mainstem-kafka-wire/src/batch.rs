//! The header of a record batch (magic 2), read, checked and patched in place.
//!
//! A batch is opaque bytes on the way from the producer to the log and to the consumer: only its first
//! [`HEADER_BYTES`] bytes are looked at, and its CRC checked. All numbers are big-endian:
//!
//! | at | field | at | field |
//! |---|---|---|---|
//! | 0 | base offset, i64 | 23 | last offset delta, i32 |
//! | 8 | batch length (of all that follows it), i32 | 27 | base timestamp, i64 |
//! | 12 | partition leader epoch, i32 | 35 | max timestamp, i64 |
//! | 16 | magic, i8 | 43 | producer id, i64 |
//! | 17 | CRC-32C of all that follows it, u32 | 51 | producer epoch, i16 |
//! | 21 | attributes, i16 | 53 | base sequence, i32 |
//! | | | 57 | record count, i32 |
//!
//! Attributes: bits 0-2 codec, 3 log append time, 4 transactional, 5 control, 6 delete horizon.

use bytes::Bytes;

/// Bytes before the first record of a batch.
pub const HEADER_BYTES: usize = 61;

/// Bytes before the part that the batch length counts.
pub(crate) const LENGTH_PREFIX_BYTES: usize = 12;
const BATCH_LENGTH_MIN: i32 = (HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32;

const BASE_OFFSET_AT: usize = 0;
const BATCH_LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const RECORD_COUNT_AT: usize = 57;

const MAGIC: u8 = 2;
const CODEC_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Why bytes are not a good record batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("batch is cut short: {have} of {needed} bytes")]
    Truncated { needed: usize, have: usize },
    #[error("{extra} bytes follow the batch")]
    TrailingBytes { extra: usize },
    #[error("message format {0} is not supported, only 2")]
    UnknownMagic(u8),
    #[error("batch length {0} is impossible")]
    BadLength(i32),
    #[error("CRC of the batch is {computed:08x}, its header says {stored:08x}")]
    CrcMismatch { stored: u32, computed: u32 },
    #[error("record count {count} does not fit last offset delta {last_offset_delta}")]
    RecordCount { count: i32, last_offset_delta: i32 },
    #[error("compression codec {0} is unknown")]
    UnknownCodec(u8),
    #[error("batch decompresses to more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("batch does not decompress ({codec:?}): {reason}")]
    Decompress { codec: Compression, reason: String },
    #[error("record {index} of the batch is malformed: {reason}")]
    BadRecord { index: i32, reason: &'static str },
}

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// The number in bits 0-2 of a batch's attributes.
    pub fn code(self) -> i16 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }
}

/// The fields of a batch header; `magic` is always 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    pub batch_length: i32,
    pub leader_epoch: i32,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may end before the batch does. Checks that the header is whole, that
    /// magic is 2 and that the batch length covers at least the header; nothing else.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        // Older formats are shorter than our header: name the real reason.
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic != MAGIC
        {
            return Err(BatchError::UnknownMagic(magic));
        }
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::Truncated { needed: HEADER_BYTES, have: bytes.len() });
        };
        let batch_length = i32::from_be_bytes(field(header, BATCH_LENGTH_AT));
        if batch_length < BATCH_LENGTH_MIN {
            return Err(BatchError::BadLength(batch_length));
        }
        Ok(BatchHeader {
            base_offset: i64::from_be_bytes(field(header, BASE_OFFSET_AT)),
            batch_length,
            leader_epoch: i32::from_be_bytes(field(header, LEADER_EPOCH_AT)),
            crc: u32::from_be_bytes(field(header, CRC_AT)),
            attributes: i16::from_be_bytes(field(header, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(field(header, LAST_OFFSET_DELTA_AT)),
            base_timestamp: i64::from_be_bytes(field(header, BASE_TIMESTAMP_AT)),
            max_timestamp: i64::from_be_bytes(field(header, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(field(header, PRODUCER_ID_AT)),
            producer_epoch: i16::from_be_bytes(field(header, PRODUCER_EPOCH_AT)),
            base_sequence: i32::from_be_bytes(field(header, BASE_SEQUENCE_AT)),
            record_count: i32::from_be_bytes(field(header, RECORD_COUNT_AT)),
        })
    }

    /// Bytes of the whole batch, header included.
    pub fn total_bytes(&self) -> usize {
        LENGTH_PREFIX_BYTES + usize::try_from(self.batch_length).unwrap_or(0)
    }

    /// Offset of the last record the batch had when it was written.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.wrapping_add(i64::from(self.last_offset_delta))
    }

    /// Offset of the first record after the batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().wrapping_add(1)
    }

    pub fn compression(&self) -> Result<Compression, BatchError> {
        let code = self.attributes & CODEC_MASK;
        Compression::ALL
            .into_iter()
            .find(|codec| codec.code() == code)
            .ok_or(BatchError::UnknownCodec(code.to_be_bytes()[1]))
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// From when on compaction may remove the batch's tombstones (KIP-534); `None` while it has not seen them. It stands in
    /// place of the base timestamp, the records' timestamp deltas are relative to it.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// Sequence number of the last record: after `i32::MAX` comes 0. -1 if the producer is not idempotent.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        let wrapped = last.rem_euclid(i64::from(i32::MAX) + 1);
        i32::try_from(wrapped).expect("a remainder of 2^31 fits an i32")
    }

    /// The 61 bytes of this header.
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, BASE_OFFSET_AT, self.base_offset.to_be_bytes());
        put(&mut bytes, BATCH_LENGTH_AT, self.batch_length.to_be_bytes());
        put(&mut bytes, LEADER_EPOCH_AT, self.leader_epoch.to_be_bytes());
        put(&mut bytes, MAGIC_AT, [MAGIC]);
        put(&mut bytes, CRC_AT, self.crc.to_be_bytes());
        put(&mut bytes, ATTRIBUTES_AT, self.attributes.to_be_bytes());
        put(&mut bytes, LAST_OFFSET_DELTA_AT, self.last_offset_delta.to_be_bytes());
        put(&mut bytes, BASE_TIMESTAMP_AT, self.base_timestamp.to_be_bytes());
        put(&mut bytes, MAX_TIMESTAMP_AT, self.max_timestamp.to_be_bytes());
        put(&mut bytes, PRODUCER_ID_AT, self.producer_id.to_be_bytes());
        put(&mut bytes, PRODUCER_EPOCH_AT, self.producer_epoch.to_be_bytes());
        put(&mut bytes, BASE_SEQUENCE_AT, self.base_sequence.to_be_bytes());
        put(&mut bytes, RECORD_COUNT_AT, self.record_count.to_be_bytes());
        bytes
    }
}

/// Checks a batch that comes from outside, which must be exactly `batch`: whole, magic 2, a right CRC, a known codec, at
/// least one record and as many records as offsets. Whether a client may write control batches, and what is inside the
/// records, is the caller's business.
pub fn validate(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let needed = header.total_bytes();
    if batch.len() < needed {
        return Err(BatchError::Truncated { needed, have: batch.len() });
    }
    if batch.len() > needed {
        return Err(BatchError::TrailingBytes { extra: batch.len() - needed });
    }
    let computed = computed_crc(batch);
    if computed != header.crc {
        return Err(BatchError::CrcMismatch { stored: header.crc, computed });
    }
    header.compression()?;
    let count = header.record_count;
    if count <= 0 || i64::from(count) != i64::from(header.last_offset_delta) + 1 {
        return Err(BatchError::RecordCount { count, last_offset_delta: header.last_offset_delta });
    }
    Ok(header)
}

/// Whether `batch`, which must be one whole batch and nothing else, has the CRC its header names.
pub fn verify_crc(batch: &[u8]) -> bool {
    match BatchHeader::parse(batch) {
        Ok(header) => header.total_bytes() == batch.len() && header.crc == computed_crc(batch),
        Err(_) => false,
    }
}

/// Splits concatenated batches without copying. The first batch that is not whole or has a broken header is an error,
/// and the last item.
pub fn split(records: &Bytes) -> Batches {
    Batches { rest: records.clone() }
}

/// Iterator over the batches of a record set, see [`split`].
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
}

impl Iterator for Batches {
    type Item = Result<(BatchHeader, Bytes), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = BatchHeader::parse(&self.rest).and_then(|header| {
            let (needed, have) = (header.total_bytes(), self.rest.len());
            if needed > have { Err(BatchError::Truncated { needed, have }) } else { Ok((header, needed)) }
        });
        match parsed {
            Ok((header, needed)) => Some(Ok((header, self.rest.split_to(needed)))),
            Err(error) => {
                self.rest.clear();
                Some(Err(error))
            }
        }
    }
}

impl std::iter::FusedIterator for Batches {}

/// Gives the batch its place in the partition. The CRC does not cover it. `batch` must hold a whole header.
pub fn patch_base_offset(batch: &mut [u8], base_offset: i64) {
    put(batch, BASE_OFFSET_AT, base_offset.to_be_bytes());
}

/// Sets the partition leader epoch. The CRC does not cover it. `batch` must hold a whole header.
pub fn patch_leader_epoch(batch: &mut [u8], epoch: i32) {
    put(batch, LEADER_EPOCH_AT, epoch.to_be_bytes());
}

/// Makes `timestamp_ms` the timestamp of all records (LogAppendTime) and computes the CRC anew. `batch` must be one whole
/// batch.
pub fn patch_log_append_time(batch: &mut [u8], timestamp_ms: i64) {
    let attributes = batch.get(ATTRIBUTES_AT..).and_then(|rest| rest.first_chunk()).copied();
    let attributes = i16::from_be_bytes(attributes.expect("a batch holds a whole header"));
    put(batch, ATTRIBUTES_AT, (attributes | LOG_APPEND_TIME).to_be_bytes());
    put(batch, MAX_TIMESTAMP_AT, timestamp_ms.to_be_bytes());
    patch_crc(batch);
}

pub(crate) fn patch_crc(batch: &mut [u8]) {
    let crc = computed_crc(batch);
    put(batch, CRC_AT, crc.to_be_bytes());
}

/// Attributes that only the builder sets.
pub(crate) fn attributes(codec: Compression, is_transactional: bool) -> i16 {
    codec.code() | if is_transactional { TRANSACTIONAL } else { 0 }
}

/// The attributes with bit 6 set, or as they are.
pub(crate) fn with_delete_horizon(attributes: i16, set: bool) -> i16 {
    if set { attributes | DELETE_HORIZON } else { attributes }
}

/// The attributes of a batch without records: nothing is compressed, and there are no tombstones.
pub(crate) fn without_codec(attributes: i16) -> i16 {
    attributes & !CODEC_MASK & !DELETE_HORIZON
}

fn computed_crc(batch: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(batch.get(ATTRIBUTES_AT..).unwrap_or_default())
}

/// The `N` bytes of the header from `at`.
#[inline]
fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *header.get(at..).and_then(|rest| rest.first_chunk()).expect("all fields lie inside the header")
}

fn put<const N: usize>(batch: &mut [u8], at: usize, value: [u8; N]) {
    batch.get_mut(at..at + N).expect("a batch holds a whole header").copy_from_slice(&value);
}

#[cfg(test)]
mod tests;
