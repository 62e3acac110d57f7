//! The pieces of an answer.

use std::io;

use bytes::Bytes;
use mainstem_disk::FileRange;
use mainstem_kafka_wire::fetch::Piece;

/// A piece of a frame.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// In memory.
    Bytes(Bytes),
    /// Fetched batches that are still in their segment.
    File(FileRange),
}

impl Chunk {
    /// Bytes that are left of it.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Chunk::Bytes(bytes) => bytes.len(),
            Chunk::File(range) => range.len(),
        }
    }

    /// Whether none are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The piece in memory.
    pub(crate) fn read(self) -> io::Result<Bytes> {
        match self {
            Chunk::Bytes(bytes) => Ok(bytes),
            Chunk::File(range) => Ok(range.read(usize::MAX)?.into()),
        }
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Chunk::Bytes(bytes)
    }
}

impl Piece for Chunk {
    fn wire_bytes(&self) -> usize {
        self.len()
    }
}
