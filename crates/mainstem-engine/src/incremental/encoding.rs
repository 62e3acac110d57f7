//! The encoding of operator state: sections of bytes, each self-contained and bounded.
//!
//! A section is: u8 [`STATE_FORMAT`], u8 kind of operator, then entries until its end; what an entry is, each operator
//! says. Numbers are little-endian; byte strings have a u32 length before them. Restoring a section adds its entries to the
//! operator's state, so state is cut into as many sections as it takes.
//!
//! Row and value bytes are keys as [`crate::delta::RowKeys`] writes them: they can be read only with the same column types
//! and sort options (the graph fixes both) and the same version of Arrow's row format (the format number stands for it; it
//! goes up when Arrow changes its own).

use crate::error::EngineError;

/// The version of this encoding, Arrow's row format included.
pub(super) const STATE_FORMAT: u8 = 1;
/// A section is closed when it is longer than this.
const SECTION_BYTES: usize = 1 << 20;

/// Writes sections of one operator.
pub(super) struct StateWriter<'a> {
    bytes: Vec<u8>,
    kind: u8,
    out: &'a mut dyn FnMut(&[u8]),
}

impl<'a> StateWriter<'a> {
    pub(super) fn new(kind: u8, out: &'a mut dyn FnMut(&[u8])) -> StateWriter<'a> {
        StateWriter { bytes: vec![STATE_FORMAT, kind], kind, out }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// An entry is complete: a section may end here.
    pub(super) fn end_entry(&mut self) {
        if self.bytes.len() >= SECTION_BYTES {
            (self.out)(&self.bytes);
            self.bytes.clear();
            self.bytes.extend_from_slice(&[STATE_FORMAT, self.kind]);
        }
    }

    /// Everything is written.
    pub(super) fn finish(self) {
        if self.bytes.len() > 2 {
            (self.out)(&self.bytes);
        }
    }
}

/// Reads one section.
pub(super) struct StateReader<'a> {
    bytes: &'a [u8],
}

impl<'a> StateReader<'a> {
    pub(super) fn new(kind: u8, section: &'a [u8]) -> Result<StateReader<'a>, EngineError> {
        match section {
            [STATE_FORMAT, found, bytes @ ..] if *found == kind => Ok(StateReader { bytes }),
            [STATE_FORMAT, found, ..] => {
                Err(EngineError::State(format!("state is of an operator of kind {found}, not {kind}")))
            }
            [format, ..] => Err(EngineError::State(format!("state has format {format}, this reads {STATE_FORMAT}"))),
            [] => Err(EngineError::State("an empty section".to_owned())),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], EngineError> {
        if count > self.bytes.len() {
            return Err(EngineError::State("a section ends inside an entry".to_owned()));
        }
        let (head, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], EngineError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, EngineError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn i64(&mut self) -> Result<i64, EngineError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, EngineError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], EngineError> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(length as usize)
    }

    pub(super) fn rest(&mut self) -> &mut &'a [u8] {
        &mut self.bytes
    }
}
