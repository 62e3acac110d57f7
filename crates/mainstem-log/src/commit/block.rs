//! The bytes of the commit log: blocks of entries.
//!
//! Words: a *block* is what one group commit writes, at a multiple of [`ALIGNMENT`]; its header carries the *generation*
//! of the file it was written for (files are recycled, generations never), the *block number* (counted over all files),
//! and the CRC of the block before it. An entry that is too large for a block is *spooled*: it stands in several, alone, and
//! the last one publishes it. `docs/formats/log.md` has it byte by byte.
//!
//! Always true here: block n + 1 is written only after block n is durable. So a valid block proves that every block with
//! a smaller number was durable, and only the newest block can be torn. A spooled entry without its last block is nothing.

use crate::codec::{Put, Take, crc32c};
use crate::{Csn, TopicPartition};

/// Bytes of a block header.
pub(crate) const HEADER_BYTES: usize = 72;
/// Blocks begin at multiples of this, so that a torn write never touches the block before.
pub(crate) const ALIGNMENT: usize = 512;
/// The newest version: blocks of spooled entries.
pub(crate) const VERSION: u16 = 2;
/// That of all other blocks.
const WHOLE_VERSION: u16 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"MSCL");
const INLINE: u32 = 0;
const PLACED: u32 = 1;
const CONTINUES: u16 = 1;
const HAS_MORE: u16 = 2;

/// Which part of a spooled entry a block holds; neither, and it holds whole entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spool {
    /// The entry begins in an earlier block.
    pub(crate) continues: bool,
    /// The entry goes on in the next block.
    pub(crate) has_more: bool,
}

impl Spool {
    fn flags(self) -> u16 {
        (if self.continues { CONTINUES } else { 0 }) | (if self.has_more { HAS_MORE } else { 0 })
    }

    fn of_flags(flags: u16) -> Option<Self> {
        let spool = Self { continues: flags & CONTINUES != 0, has_more: flags & HAS_MORE != 0 };
        (spool.flags() == flags).then_some(spool)
    }
}

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) spool: Spool,
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
        let version = if self.spool == Spool::default() { WHOLE_VERSION } else { VERSION };
        bytes.put(&version.to_le_bytes());
        bytes.put(&self.spool.flags().to_le_bytes());
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
        let flags = take.u16()?;
        let spool = if version <= WHOLE_VERSION { Some(Spool::default()) } else { Spool::of_flags(flags) };
        let header = BlockHeader {
            spool: spool.unwrap_or_default(),
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
        if version > VERSION || spool.is_none() {
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

/// Where the batches of a part stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Batches {
    /// In the block's payload.
    Inline(std::ops::Range<usize>),
    /// In the segment, synced before the block was written. The CRC is that of their bytes.
    Placed { crc: u32 },
}

/// A part of an entry, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockPart {
    pub(crate) header: PartHeader,
    pub(crate) batches: Batches,
}

/// An entry of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockEntry {
    pub(crate) csn: Csn,
    pub(crate) parts: Vec<BlockPart>,
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
        self.part_header(header, INLINE);
        let start = self.buffer.len();
        self.buffer.put(batches);
        start..self.buffer.len()
    }

    /// Adds a part whose batches, with this CRC, are synced in their segment before the block is written.
    pub(crate) fn placed(&mut self, header: &PartHeader, crc: u32) {
        self.part_header(header, PLACED);
        self.buffer.put_u32(crc);
    }

    fn part_header(&mut self, header: &PartHeader, kind: u32) {
        self.buffer.put_partition(header.to);
        self.buffer.put_u32(kind);
        self.buffer.put_i64(header.base_offset);
        self.buffer.put_i64(header.end_offset);
        self.buffer.put_i64(header.segment);
        self.buffer.put_u64(header.position);
        self.buffer.put_u32(header.length);
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
            if kind > PLACED {
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
            let batches = if kind == PLACED {
                Batches::Placed { crc: take.u32().ok_or(SHORT)? }
            } else {
                let start = take.position();
                take.bytes(header.length as usize).ok_or(SHORT)?;
                Batches::Inline(start..take.position())
            };
            parts.push(BlockPart { header, batches });
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
            spool: Spool::default(),
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
        let Batches::Inline(range) = &parsed.entries[0].parts[0].batches else { panic!("it is inline") };
        assert_eq!(&payload[range.clone()], b"hello");
    }

    #[test]
    fn a_block_of_a_spooled_entry_says_which() {
        let (mut bytes, header) = block();
        for (continues, has_more) in [(false, true), (true, true), (true, false)] {
            let header = BlockHeader { spool: Spool { continues, has_more }, ..header };
            header.write(&mut bytes);
            assert_eq!(bytes[4], 2, "earlier programs refuse it by name");
            let Parsed::Header(read, _) = BlockHeader::parse(&bytes) else { panic!("no header") };
            assert_eq!(read.spool, header.spool);
        }
        header.write(&mut bytes);
        assert_eq!(bytes[4], 1);
        bytes[4] = 2;
        bytes[6] = 4;
        let crc = crc32c(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(BlockHeader::parse(&bytes), Parsed::Later(2), "a flag that is not known");
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
    fn a_placed_part_has_a_crc_instead_of_batches() {
        let to = TopicPartition::new(TopicId(uuid::Uuid::from_u128(7)), 3);
        let header = PartHeader { to, base_offset: 40, end_offset: 42, segment: 0, position: 800, length: 1 << 20 };
        let mut buffer = Vec::new();
        let mut builder = BlockBuilder::new(&mut buffer, &[]);
        builder.entry(Csn(9), 2);
        builder.placed(&header, 0xfeed);
        builder.part(&PartHeader { length: 1, ..header }, b"x");
        let parsed = parse_payload(&buffer[HEADER_BYTES..]);
        // The count of entries is filled in when the block is finished.
        assert_eq!(parsed, Err(PayloadError::Malformed));
        buffer[HEADER_BYTES + 4] = 1;
        let parts = parse_payload(&buffer[HEADER_BYTES..]).unwrap().entries.remove(0).parts;
        assert_eq!((parts[0].header, &parts[0].batches), (header, &Batches::Placed { crc: 0xfeed }));
        assert!(matches!(&parts[1].batches, Batches::Inline(range) if range.len() == 1));
    }

    #[test]
    fn a_part_of_a_later_kind_is_refused_by_name() {
        let (bytes, _) = block();
        let Parsed::Header(header, _) = BlockHeader::parse(&bytes) else { panic!("no header") };
        let mut payload = bytes[HEADER_BYTES..HEADER_BYTES + header.payload_bytes as usize].to_vec();
        let kind_at = 4 + 28 + 4 + 12 + 20;
        payload[kind_at] = 2;
        assert_eq!(parse_payload(&payload), Err(PayloadError::LaterKind(2)));
        for len in 0..payload.len() {
            assert!(parse_payload(&payload[..len]).is_err());
        }
    }
}
