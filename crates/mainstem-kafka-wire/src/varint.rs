//! Variable-length integers: seven bits per byte, lowest first; signed ones zigzag encoded.
//!
//! The readers advance a slice and give `None` where it ends too early or the number does not fit. The one-byte case,
//! which is nearly every case inside a record, is decided before any loop.

#[inline(always)]
pub(crate) fn read_u32(input: &mut &[u8]) -> Option<u32> {
    let (&first, rest) = input.split_first()?;
    if first < 0x80 {
        *input = rest;
        return Some(u32::from(first));
    }
    u32::try_from(read_long(input, 5)?).ok()
}

#[inline(always)]
pub(crate) fn read_i32(input: &mut &[u8]) -> Option<i32> {
    let raw = read_u32(input)?;
    Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

#[inline(always)]
pub(crate) fn read_i64(input: &mut &[u8]) -> Option<i64> {
    let (&first, rest) = input.split_first()?;
    let raw = if first < 0x80 {
        *input = rest;
        u64::from(first)
    } else {
        read_long(input, 10)?
    };
    Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

fn read_long(input: &mut &[u8], bytes_max: usize) -> Option<u64> {
    let mut value = 0u64;
    for (index, &byte) in input.iter().take(bytes_max).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if index == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte < 0x80 {
            *input = input.get(index + 1..)?;
            return Some(value);
        }
    }
    None
}

#[inline]
pub(crate) fn write_u32(out: &mut Vec<u8>, value: u32) {
    write_u64(out, u64::from(value));
}

#[inline]
pub(crate) fn write_i32(out: &mut Vec<u8>, value: i32) {
    write_u32(out, ((value << 1) ^ (value >> 31)).cast_unsigned());
}

#[inline]
pub(crate) fn write_i64(out: &mut Vec<u8>, value: i64) {
    write_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

fn write_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`write_i64`] takes for `value`; the same as [`write_i32`] for what fits an `i32`.
#[inline]
pub(crate) fn signed_bytes(value: i64) -> usize {
    unsigned_bytes(((value << 1) ^ (value >> 63)).cast_unsigned())
}

#[inline]
pub(crate) fn unsigned_bytes(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_take_the_bytes_foretold() {
        let edges = (0..64).flat_map(|bit| {
            let power = 1i64 << bit;
            [power.wrapping_sub(1), power, power.wrapping_neg(), power.wrapping_neg().wrapping_sub(1)]
        });
        for value in edges {
            let mut out = Vec::new();
            write_i64(&mut out, value);
            assert_eq!(out.len(), signed_bytes(value), "{value}");
            let mut input = out.as_slice();
            assert_eq!(read_i64(&mut input), Some(value));
            assert!(input.is_empty());
            if let Ok(small) = i32::try_from(value) {
                let mut out = Vec::new();
                write_i32(&mut out, small);
                assert_eq!(out.len(), signed_bytes(value), "{value}");
                assert_eq!(read_i32(&mut out.as_slice()), Some(small));
            }
            if let Ok(small) = u32::try_from(value) {
                let mut out = Vec::new();
                write_u32(&mut out, small);
                assert_eq!(out.len(), unsigned_bytes(u64::from(small)), "{value}");
                assert_eq!(read_u32(&mut out.as_slice()), Some(small));
            }
        }
    }

    #[test]
    fn what_ends_early_or_does_not_fit_is_refused() {
        for (bytes, case) in [
            (&[][..], "nothing"),
            (&[0x80], "one byte of two"),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], "33 bits"),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], "six bytes"),
        ] {
            assert_eq!(read_u32(&mut &bytes[..]), None, "{case}");
            assert_eq!(read_i32(&mut &bytes[..]), None, "{case}");
        }
        let too_long = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x03];
        assert_eq!(read_i64(&mut &too_long[..]), None);
        assert_eq!(read_i64(&mut &too_long[..9]), None);
    }
}
