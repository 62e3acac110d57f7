//! The bytes of the commit log: blocks of entries.
//!
//! Words: a *block* is what one group commit writes, at a multiple of [`ALIGNMENT`]; its header carries the *generation*
//! of the file it was written for (files are recycled, generations never), the *block number* (counted over all files),
//! and the CRC of the block before it. `docs/formats/log.md` has it byte by byte.
//!
//! Always true here: block n + 1 is written only after block n is durable. So a valid block proves that every block with
//! a smaller number was durable, and only the newest block can be torn.

use crate::codec::{Put, Take, crc32c};
use crate::{Csn, TopicPartition};

/// Bytes of a block header.
pub(crate) const HEADER_BYTES: usize = 72;
/// Blocks begin at multiples of this, so that a torn write never touches the block before.
pub(crate) const ALIGNMENT: usize = 512;
/// The version that is written.
pub(crate) const VERSION: u16 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"MSCL");
const INLINE: u32 = 0;

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) log_id: u64,
    pub(crate) generation: u64,
    pub(crate) number: u64,
    pub(crate) first: Csn,
    pub(crate) last: Csn,
    /// Newest CSN known durable when the block was written.
    pub(crate) durable: Csn,
    /// Header CRC of the block before.
    pub(crate) previous_crc: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) payload_crc: u32,
}

/// What the first bytes of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A header with a right CRC; the CRC itself.
    Header(BlockHeader, u32),
    /// A header with a right CRC, in a version that this program does not know.
    Later(u16),
    /// Anything else.
    Nothing,
}

impl BlockHeader {
    /// Writes the header over the first [`HEADER_BYTES`] of a block; answers its CRC.
    pub(crate) fn write(&self, block: &mut [u8]) -> u32 {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.put_u32(MAGIC);
        bytes.put(&VERSION.to_le_bytes());
        bytes.put(&[0, 0]);
        bytes.put_u64(self.log_id);
        bytes.put_u64(self.generation);
        bytes.put_u64(self.number);
        bytes.put_u64(self.first.0);
        bytes.put_u64(self.last.0);
        bytes.put_u64(self.durable.0);
        bytes.put_u32(self.previous_crc);
        bytes.put_u32(self.payload_bytes);
        bytes.put_u32(self.payload_crc);
        let crc = crc32c(&bytes);
        bytes.put_u32(crc);
        if let Some(place) = block.get_mut(..HEADER_BYTES) {
            place.copy_from_slice(&bytes);
        }
        crc
    }

    /// Reads a header; the payload is not looked at.
    pub(crate) fn parse(bytes: &[u8]) -> Parsed {
        Self::take(bytes).unwrap_or(Parsed::Nothing)
    }

    fn take(bytes: &[u8]) -> Option<Parsed> {
        let mut take = Take::new(bytes);
        if take.u32()? != MAGIC {
            return None;
        }
        let version = take.u16()?;
        take.u16()?;
        let header = BlockHeader {
            log_id: take.u64()?,
            generation: take.number()?,
            number: take.number()?,
            first: Csn(take.number()?),
            last: Csn(take.number()?),
            durable: Csn(take.number()?),
            previous_crc: take.u32()?,
            payload_bytes: take.u32()?,
            payload_crc: take.u32()?,
        };
        let crc = take.u32()?;
        if crc != crc32c(bytes.get(..HEADER_BYTES - 4)?) {
            return None;
        }
        if version > VERSION {
            return Some(Parsed::Later(version));
        }
        Some(Parsed::Header(header, crc))
    }

    /// Bytes of the whole block in the file, padding included.
    pub(crate) fn total_bytes(&self) -> u64 {
        (HEADER_BYTES as u64 + u64::from(self.payload_bytes)).next_multiple_of(ALIGNMENT as u64)
    }
}

/// One part of an entry, as it stands in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartHeader {
    pub(crate) to: TopicPartition,
    pub(crate) base_offset: i64,
    pub(crate) end_offset: i64,
    /// The segment that holds the batches, by its base offset, and where in it they begin.
    pub(crate) segment: i64,
    pub(crate) position: u64,
    pub(crate) length: u32,
}

/// A part with the place of its batches in the block's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlacedPart {
    pub(crate) header: PartHeader,
    pub(crate) batches: std::ops::Range<usize>,
}

/// An entry of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockEntry {
    pub(crate) csn: Csn,
    pub(crate) parts: Vec<PlacedPart>,
}

/// What a block holds besides its header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Payload {
    /// Where the block before left the partitions that it wrote to: says what is lost when that block is damaged.
    pub(crate) ends_before: Vec<(TopicPartition, i64)>,
    pub(crate) entries: Vec<BlockEntry>,
}

/// Why a payload with a right CRC cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("a part of kind {0} was written by a later version of mainstem")]
    LaterKind(u32),
    #[error("the payload does not follow its own lengths")]
    Malformed,
}

/// Fills a buffer with one block.
#[derive(Debug)]
pub(crate) struct BlockBuilder<'a> {
    buffer: &'a mut Vec<u8>,
    count_at: usize,
    count: u32,
}

impl<'a> BlockBuilder<'a> {
    pub(crate) fn new(buffer: &'a mut Vec<u8>, ends_before: &[(TopicPartition, i64)]) -> Self {
        buffer.clear();
        buffer.resize(HEADER_BYTES, 0);
        buffer.put_u32(u32::try_from(ends_before.len()).unwrap_or(u32::MAX));
        for (partition, end) in ends_before {
            buffer.put_partition(*partition);
            buffer.put_i64(*end);
        }
        let count_at = buffer.len();
        buffer.put_u32(0);
        Self { buffer, count_at, count: 0 }
    }

    pub(crate) fn entry(&mut self, csn: Csn, parts: usize) {
        self.count += 1;
        self.buffer.put_u64(csn.0);
        self.buffer.put_u32(u32::try_from(parts).unwrap_or(u32::MAX));
    }

    /// Adds a part; answers where its batches stand in the buffer, for patching and for the copy to the segment.
    pub(crate) fn part(&mut self, header: &PartHeader, batches: &[u8]) -> std::ops::Range<usize> {
        self.buffer.put_partition(header.to);
        self.buffer.put_u32(INLINE);
        self.buffer.put_i64(header.base_offset);
        self.buffer.put_i64(header.end_offset);
        self.buffer.put_i64(header.segment);
        self.buffer.put_u64(header.position);
        self.buffer.put_u32(header.length);
        let start = self.buffer.len();
        self.buffer.put(batches);
        start..self.buffer.len()
    }

    /// Bytes so far, without the padding.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn bytes_mut(&mut self, range: std::ops::Range<usize>) -> &mut [u8] {
        self.buffer.get_mut(range).unwrap_or_default()
    }

    /// Completes the block: `header`'s payload fields are filled in. Answers the header's CRC.
    pub(crate) fn finish(self, mut header: BlockHeader) -> u32 {
        let Self { buffer, count_at, count } = self;
        if let Some(place) = buffer.get_mut(count_at..count_at + 4) {
            place.copy_from_slice(&count.to_le_bytes());
        }
        let payload = buffer.get(HEADER_BYTES..).unwrap_or_default();
        header.payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        header.payload_crc = crc32c(payload);
        buffer.resize(buffer.len().next_multiple_of(ALIGNMENT), 0);
        header.write(buffer)
    }
}

/// Takes a payload apart. Its CRC has been verified.
pub(crate) fn parse_payload(payload: &[u8]) -> Result<Payload, PayloadError> {
    let mut take = Take::new(payload);
    let parsed = take_payload(&mut take)?;
    if take.is_empty() { Ok(parsed) } else { Err(PayloadError::Malformed) }
}

fn take_payload(take: &mut Take<'_>) -> Result<Payload, PayloadError> {
    const SHORT: PayloadError = PayloadError::Malformed;
    let mut parsed = Payload::default();
    for _ in 0..take.u32().ok_or(SHORT)? {
        let partition = take.partition().ok_or(SHORT)?;
        parsed.ends_before.push((partition, take.offset().ok_or(SHORT)?));
    }
    for _ in 0..take.u32().ok_or(SHORT)? {
        let csn = Csn(take.number().ok_or(SHORT)?);
        let mut parts = Vec::new();
        for _ in 0..take.u32().ok_or(SHORT)? {
            let to = take.partition().ok_or(SHORT)?;
            let kind = take.u32().ok_or(SHORT)?;
            if kind != INLINE {
                return Err(PayloadError::LaterKind(kind));
            }
            let header = PartHeader {
                to,
                base_offset: take.offset().ok_or(SHORT)?,
                end_offset: take.offset().ok_or(SHORT)?,
                segment: take.offset().ok_or(SHORT)?,
                position: take.number().ok_or(SHORT)?,
                length: take.u32().ok_or(SHORT)?,
            };
            let start = take.position();
            take.bytes(header.length as usize).ok_or(SHORT)?;
            parts.push(PlacedPart { header, batches: start..take.position() });
        }
        parsed.entries.push(BlockEntry { csn, parts });
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TopicId;

    fn block() -> (Vec<u8>, BlockHeader) {
        let to = TopicPartition::new(TopicId(uuid::Uuid::from_u128(7)), 3);
        let mut buffer = Vec::new();
        let mut builder = BlockBuilder::new(&mut buffer, &[(to, 40)]);
        builder.entry(Csn(9), 1);
        let part = PartHeader { to, base_offset: 40, end_offset: 42, segment: 0, position: 800, length: 5 };
        assert_eq!(builder.part(&part, b"hello").len(), 5);
        let header = BlockHeader {
            log_id: 1,
            generation: 2,
            number: 3,
            first: Csn(9),
            last: Csn(9),
            durable: Csn(8),
            previous_crc: 4,
            payload_bytes: 0,
            payload_crc: 0,
        };
        builder.finish(header);
        (buffer, header)
    }

    #[test]
    fn a_block_is_read_as_it_was_written() {
        let (bytes, written) = block();
        assert_eq!(bytes.len(), ALIGNMENT);
        let Parsed::Header(header, _) = BlockHeader::parse(&bytes) else { panic!("no header") };
        assert_eq!(header.first, written.first);
        assert_eq!(header.total_bytes(), ALIGNMENT as u64);
        let payload = &bytes[HEADER_BYTES..HEADER_BYTES + header.payload_bytes as usize];
        assert_eq!(crc32c(payload), header.payload_crc);
        let parsed = parse_payload(payload).unwrap();
        assert_eq!(parsed.ends_before.len(), 1);
        assert_eq!(&payload[parsed.entries[0].parts[0].batches.clone()], b"hello");
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let (bytes, _) = block();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BlockHeader::parse(&bad), Parsed::Nothing, "bit {bit}");
        }
    }

    #[test]
    fn numbers_that_no_log_comes_to_are_not_those_of_a_block() {
        let (bytes, header) = block();
        for header in [
            BlockHeader { generation: u64::MAX, ..header },
            BlockHeader { number: u64::MAX, ..header },
            BlockHeader { last: Csn(u64::MAX), ..header },
        ] {
            let mut bad = bytes.clone();
            header.write(&mut bad);
            assert_eq!(BlockHeader::parse(&bad), Parsed::Nothing, "{header:?}");
        }
        let Parsed::Header(header, _) = BlockHeader::parse(&bytes) else { panic!("no header") };
        let mut payload = bytes[HEADER_BYTES..HEADER_BYTES + header.payload_bytes as usize].to_vec();
        let position_at = 4 + 28 + 4 + 12 + 20 + 4 + 3 * 8;
        payload[position_at..position_at + 8].fill(0xff);
        assert_eq!(parse_payload(&payload), Err(PayloadError::Malformed));
    }

    #[test]
    fn a_part_of_a_later_kind_is_refused_by_name() {
        let (bytes, _) = block();
        let Parsed::Header(header, _) = BlockHeader::parse(&bytes) else { panic!("no header") };
        let mut payload = bytes[HEADER_BYTES..HEADER_BYTES + header.payload_bytes as usize].to_vec();
        let kind_at = 4 + 28 + 4 + 12 + 20;
        payload[kind_at] = 1;
        assert_eq!(parse_payload(&payload), Err(PayloadError::LaterKind(1)));
        for len in 0..payload.len() {
            assert!(parse_payload(&payload[..len]).is_err());
        }
    }
}
