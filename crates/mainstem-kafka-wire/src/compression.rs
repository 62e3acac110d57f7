//! The four codecs of record batches.
//!
//! Decompression never yields more than the limit it is given, whatever the compressed bytes claim, and allocates no more
//! than that limit for its output. Beyond it a codec has its fixed state, and zstd a window of at most 8 MiB or the limit,
//! whichever is larger (a producer that streams declares the window of its level, however small the batch).
//! Checksums inside gzip and zstd frames are checked by the libraries; those inside lz4 frames are not looked at, because
//! the batch's CRC-32C covers the same bytes.

use std::io::{Read, Write};

use crate::batch::{BatchError, Compression};

/// First bytes of the framing that the Java library puts around snappy blocks; version and compatible version follow.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

/// A copy of three bytes stands for at most 64.
const SNAPPY_RATIO_MAX: usize = 64;

const LZ4_MAGIC: u32 = 0x184D_2204;
const LZ4_WINDOW_BYTES: usize = 64 * 1024;

const ZSTD_LEVEL: i32 = 3;
const ZSTD_WINDOW_LOG_MIN: u32 = 23;
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Appends `input`, compressed, to `out`.
pub(crate) fn compress(codec: Compression, input: &[u8], out: &mut Vec<u8>) {
    match codec {
        Compression::None => out.extend_from_slice(input),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            encoder.write_all(input).and_then(|()| encoder.finish().map(drop)).expect("writing to memory succeeds");
        }
        Compression::Snappy => compress_xerial(input, out),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
            encoder.write_all(input).expect("writing to memory succeeds");
            encoder.finish().map(drop).expect("writing to memory succeeds");
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL).expect("the level exists");
            encoder.set_pledged_src_size(Some(input.len() as u64)).expect("nothing is written yet");
            encoder.write_all(input).and_then(|()| encoder.finish().map(drop)).expect("writing to memory succeeds");
        }
    }
}

fn compress_xerial(input: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&1u32.to_be_bytes());
    out.extend_from_slice(&1u32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).expect("a block is far below the format's maximum");
        out.extend_from_slice(&(compressed.len() as u32).to_be_bytes());
        out.extend_from_slice(&compressed);
    }
}

/// The decompressed bytes, at most `limit`.
pub(crate) fn decompress(codec: Compression, input: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    match codec {
        Compression::None if input.len() > limit => Err(BatchError::TooLarge { limit }),
        Compression::None => Ok(input.to_vec()),
        Compression::Gzip => read_limited(codec, flate2::bufread::MultiGzDecoder::new(input), input.len(), limit),
        Compression::Snappy => decompress_snappy(input, limit),
        Compression::Lz4 => decompress_lz4(input, limit),
        Compression::Zstd => decompress_zstd(input, limit),
    }
}

/// Reads to the end, growing as bytes really come.
fn read_limited(
    codec: Compression,
    mut reader: impl Read,
    compressed_bytes: usize,
    limit: usize,
) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::new();
    let mut filled = 0;
    loop {
        if filled == limit {
            let more = reader.read(&mut [0]).map_err(|error| failure(codec, error))?;
            return if more == 0 { Ok(out) } else { Err(BatchError::TooLarge { limit }) };
        }
        if filled == out.len() {
            let room = filled.max(compressed_bytes.saturating_mul(4)).clamp(256, 1 << 20).min(limit - filled);
            grow(&mut out, room, limit);
        }
        match reader.read(out.get_mut(filled..).unwrap_or_default()).map_err(|error| failure(codec, error))? {
            0 => {
                out.truncate(filled);
                return Ok(out);
            }
            count => filled += count,
        }
    }
}

/// Lengthens `out` by `more` zeros, which must stay within `limit`, without its capacity passing the limit.
fn grow(out: &mut Vec<u8>, more: usize, limit: usize) {
    let needed = out.len() + more;
    debug_assert!(needed <= limit, "the caller has checked the limit");
    if needed > out.capacity() {
        let capacity = out.capacity().saturating_mul(2).clamp(needed, limit.max(needed));
        out.reserve_exact(capacity - out.len());
    }
    out.resize(needed, 0);
}

fn decompress_zstd(input: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let codec = Compression::Zstd;
    // A frame that names its size needs no window: it is decompressed where it will stay.
    if let Ok(Some(size)) = zstd::zstd_safe::get_frame_content_size(input)
        && zstd::zstd_safe::find_frame_compressed_size(input) == Ok(input.len())
    {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > limit {
            return Err(BatchError::TooLarge { limit });
        }
        return zstd::bulk::decompress(input, size).map_err(|error| failure(codec, error));
    }
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(|error| failure(codec, error))?;
    let window_log = limit.max(1).next_power_of_two().trailing_zeros().clamp(ZSTD_WINDOW_LOG_MIN, ZSTD_WINDOW_LOG_MAX);
    decoder.window_log_max(window_log).map_err(|error| failure(codec, error))?;
    read_limited(codec, decoder, input.len(), limit)
}

fn decompress_snappy(input: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::new();
    let Some(framed) = input.strip_prefix(&XERIAL_MAGIC) else {
        append_snappy_block(input, &mut out, limit)?;
        return Ok(out);
    };
    let bad = |reason: &str| failure(Compression::Snappy, reason);
    let mut rest = framed.get(8..).ok_or_else(|| bad("frame header is cut short"))?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(|| bad("block length is cut short"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, after) = after.split_at_checked(length).ok_or_else(|| bad("block is cut short"))?;
        append_snappy_block(block, &mut out, limit)?;
        rest = after;
    }
    Ok(out)
}

fn append_snappy_block(block: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), BatchError> {
    let failed = |error| failure(Compression::Snappy, error);
    let size = snap::raw::decompress_len(block).map_err(failed)?;
    let start = out.len();
    if size > limit - start {
        return Err(BatchError::TooLarge { limit });
    }
    if size > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(failure(Compression::Snappy, "a block cannot hold what it claims"));
    }
    grow(out, size, limit);
    let room = out.get_mut(start..).unwrap_or_default();
    let written = snap::raw::Decoder::new().decompress(block, room).map_err(failed)?;
    out.truncate(start + written);
    Ok(())
}

fn decompress_lz4(input: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        lz4_frame(&mut rest, &mut out, limit)?;
    }
    Ok(out)
}

/// Appends what the frame at the start of `rest` holds to `out` and moves `rest` behind it.
fn lz4_frame(rest: &mut &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), BatchError> {
    let bad = |reason: &str| failure(Compression::Lz4, reason);
    if take_u32_le(rest)? != LZ4_MAGIC {
        return Err(bad("not an lz4 frame"));
    }
    let &[flags, descriptor] = take(rest, 2)? else { return Err(bad("frame header is cut short")) };
    if flags >> 6 != 1 {
        return Err(bad("unknown frame version"));
    }
    let block_bytes_max = match (descriptor >> 4) & 7 {
        size @ 4..=7 => 1usize << (8 + 2 * size),
        _ => return Err(bad("unknown block size")),
    };
    if flags & 1 != 0 {
        return Err(bad("frame needs a dictionary"));
    }
    let (has_independent_blocks, has_block_checksums) = (flags & 0x20 != 0, flags & 0x10 != 0);
    let (has_size, has_checksum) = (flags & 0x08 != 0, flags & 0x04 != 0);
    take(rest, if has_size { 9 } else { 1 })?; // content size and header checksum
    let frame_start = out.len();
    loop {
        let word = take_u32_le(rest)?;
        if word == 0 {
            break;
        }
        let block = take(rest, (word & 0x7fff_ffff) as usize)?;
        if block.len() > block_bytes_max {
            return Err(bad("block is larger than its frame allows"));
        }
        let window_start = if has_independent_blocks { out.len() } else { frame_start };
        if word >> 31 == 1 {
            if block.len() > limit - out.len() {
                return Err(BatchError::TooLarge { limit });
            }
            let start = out.len();
            grow(out, block.len(), limit);
            out.get_mut(start..).unwrap_or_default().copy_from_slice(block);
        } else {
            append_lz4_block(block, block_bytes_max, window_start, out, limit)?;
        }
        if has_block_checksums {
            take(rest, 4)?;
        }
    }
    if has_checksum {
        take(rest, 4)?;
    }
    Ok(())
}

/// Decompresses a block behind `out`, whose bytes from `window_start` (the last 64 KiB of them) it may refer to.
fn append_lz4_block(
    block: &[u8],
    block_bytes_max: usize,
    window_start: usize,
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<(), BatchError> {
    let start = out.len();
    // A byte of lz4 stands for at most 255.
    let room = block_bytes_max.min(block.len().saturating_mul(255)).min(limit - start);
    grow(out, room, limit);
    let (before, after) = out.split_at_mut(start);
    let window_start = window_start.max(start.saturating_sub(LZ4_WINDOW_BYTES));
    let window = before.get(window_start..).unwrap_or_default();
    match lz4_flex::block::decompress_into_with_dict(block, after, window) {
        Ok(written) => {
            out.truncate(start + written);
            Ok(())
        }
        Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if room == limit - start => {
            Err(BatchError::TooLarge { limit })
        }
        Err(error) => Err(failure(Compression::Lz4, error)),
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], BatchError> {
    let (taken, after) = rest.split_at_checked(count).ok_or_else(|| failure(Compression::Lz4, "frame is cut short"))?;
    *rest = after;
    Ok(taken)
}

fn take_u32_le(rest: &mut &[u8]) -> Result<u32, BatchError> {
    let (word, after) = rest.split_first_chunk().ok_or_else(|| failure(Compression::Lz4, "frame is cut short"))?;
    *rest = after;
    Ok(u32::from_le_bytes(*word))
}

fn failure(codec: Compression, reason: impl ToString) -> BatchError {
    BatchError::Decompress { codec, reason: reason.to_string() }
}
