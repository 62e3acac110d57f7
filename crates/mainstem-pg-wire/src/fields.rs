//! The fields of a message, from the front.

use bytes::{Buf, Bytes};

use crate::{Format, Garbage, garbage};

pub(crate) struct Fields(pub(crate) Bytes);

impl Fields {
    pub(crate) fn bytes(&mut self, count: usize) -> Result<Bytes, Garbage> {
        if self.0.len() < count {
            return Err(early());
        }
        Ok(self.0.split_to(count))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Garbage> {
        self.0.try_get_u8().map_err(|_| early())
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Garbage> {
        self.0.try_get_i32().map_err(|_| early())
    }

    pub(crate) fn count(&mut self) -> Result<usize, Garbage> {
        self.0.try_get_u16().map(usize::from).map_err(|_| early())
    }

    /// Text up to its zero.
    pub(crate) fn string(&mut self) -> Result<String, Garbage> {
        let end = self.0.iter().position(|b| *b == 0).ok_or_else(|| garbage("a string without end"))?;
        let text = self.bytes(end)?;
        self.0.advance(1);
        String::from_utf8(text.to_vec()).map_err(|_| garbage("a string that is not UTF-8"))
    }

    pub(crate) fn formats(&mut self) -> Result<Vec<Format>, Garbage> {
        let count = self.count()?;
        (0..count)
            .map(|_| match self.count()? {
                0 => Ok(Format::Text),
                1 => Ok(Format::Binary),
                other => Err(garbage(format!("format code {other}"))),
            })
            .collect()
    }
}

fn early() -> Garbage {
    garbage("a message ends too early")
}
