//! The bytes of a checkpoint file, all numbers little-endian:
//!
//! | part | bytes |
//! |---|---|
//! | head | magic `MSTMCKPT`, format version u32, CRC-32C of the 12 bytes before u32 |
//! | section | `S`, relation u32, operator u32, name length u16, payload length u64, name, CRC-32C of all of these u32, payload, CRC-32C of the payload u32 |
//! | end | `E`, sections u64, CRC-32C of the 9 bytes before u32; nothing follows |

use std::io;

/// The version that is written; other versions are not read.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const MAGIC: &[u8; 8] = b"MSTMCKPT";
pub(crate) const HEAD_BYTES: usize = 16;
pub(crate) const END_BYTES: usize = 13;
pub(crate) const SECTION_TAG: u8 = b'S';
pub(crate) const END_TAG: u8 = b'E';
/// Of a section's head before its name.
pub(crate) const SECTION_FIXED_BYTES: usize = 19;

/// What a section is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionKey {
    /// The relation's id; 0 for what belongs to none.
    pub relation: u32,
    /// The operator's id within the relation; 0 where there is none.
    pub operator: u32,
    /// What of it.
    pub name: String,
}

impl SectionKey {
    /// Section `name` of an operator of a relation.
    pub fn new(relation: u32, operator: u32, name: impl Into<String>) -> SectionKey {
        SectionKey { relation, operator, name: name.into() }
    }
}

/// A section as it was written. Several may have the same key; their order is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is of.
    pub key: SectionKey,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system's error.
    #[error("{place}: {source}")]
    Io {
        /// Which file.
        place: String,
        /// The error.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{place} is damaged at byte {position}: {meaning}")]
    Damaged {
        /// Which file.
        place: String,
        /// Where.
        position: u64,
        /// How it shows.
        meaning: &'static str,
    },
    /// Another version of the program wrote it.
    #[error("{place} has format {version}, this build reads {FORMAT_VERSION}")]
    Version {
        /// Which file.
        place: String,
        /// Its format.
        version: u32,
    },
}

pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

pub(crate) fn with_crc(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

pub(crate) fn head() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    with_crc(bytes)
}

pub(crate) fn section_head(key: &SectionKey, payload_bytes: usize) -> Vec<u8> {
    let name_bytes = u16::try_from(key.name.len()).expect("section names are short");
    let mut bytes = vec![SECTION_TAG];
    bytes.extend_from_slice(&key.relation.to_le_bytes());
    bytes.extend_from_slice(&key.operator.to_le_bytes());
    bytes.extend_from_slice(&name_bytes.to_le_bytes());
    bytes.extend_from_slice(&(payload_bytes as u64).to_le_bytes());
    bytes.extend_from_slice(key.name.as_bytes());
    with_crc(bytes)
}

pub(crate) fn end(sections: u64) -> Vec<u8> {
    let mut bytes = vec![END_TAG];
    bytes.extend_from_slice(&sections.to_le_bytes());
    with_crc(bytes)
}

/// The `N` bytes from `at`.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
