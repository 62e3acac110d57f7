//! Puts the checksums of the disk's formats right, so that a mutation reaches what lies behind them. A checksum is no
//! proof: whoever can write to the disk can compute one.

const BLOCK_HEADER_BYTES: usize = 72;
const BLOCK_ALIGNMENT: usize = 512;
const STEP_BYTES: usize = 44;

fn crc(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn u32_le(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize)
}

/// Seals a file of the log by its name.
pub(crate) fn file(path: &str, bytes: &mut [u8]) {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.') {
        _ if name.starts_with("checkpoint-") => checkpoint(bytes),
        _ if name.starts_with("commit-") => commit_log(bytes),
        Some((_, "order")) => order(bytes),
        Some((_, "log")) => batches(bytes),
        Some((_, "index")) => index(bytes, 12),
        Some((_, "timeindex")) => index(bytes, 16),
        _ => {}
    }
}

/// Length and CRC of the body.
pub(crate) fn checkpoint(bytes: &mut [u8]) {
    let Some(body) = bytes.get(20..) else { return };
    let (length, sum) = (body.len() as u64, crc(body));
    put(bytes, 8, &length.to_le_bytes());
    put(bytes, 16, &sum.to_le_bytes());
}

/// Payload, chain and header of every block.
pub(crate) fn commit_log(bytes: &mut [u8]) {
    let (mut at, mut previous) = (0, None);
    while let Some(block) = bytes.get_mut(at..).filter(|rest| rest.len() >= BLOCK_HEADER_BYTES) {
        at += BLOCK_ALIGNMENT;
        if !block.starts_with(b"MSCL") {
            continue;
        }
        let payload_bytes = u32_le(block, 60).unwrap_or(0);
        if let Some(payload) = block.get(BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + payload_bytes) {
            let sum = crc(payload);
            put(block, 64, &sum.to_le_bytes());
            at += (BLOCK_HEADER_BYTES + payload_bytes).next_multiple_of(BLOCK_ALIGNMENT) - BLOCK_ALIGNMENT;
        }
        if let Some(previous) = previous {
            put(block, 56, &u32::to_le_bytes(previous));
        }
        let sum = crc(&block[..68]);
        put(block, 68, &sum.to_le_bytes());
        previous = Some(sum);
    }
}

/// Every item of an order file.
pub(crate) fn order(bytes: &mut [u8]) {
    for item in bytes.chunks_exact_mut(STEP_BYTES) {
        let sum = crc(&item[..40]);
        put(item, 40, &sum.to_le_bytes());
    }
}

/// Every batch whose length fits.
pub(crate) fn batches(mut bytes: &mut [u8]) {
    while let Some(length) = bytes.get(8..).and_then(|rest| rest.first_chunk()) {
        let total = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0) + 12;
        if total < 61 || total > bytes.len() {
            return;
        }
        let (batch, rest) = bytes.split_at_mut(total);
        let sum = crc(&batch[21..]);
        put(batch, 17, &sum.to_be_bytes());
        bytes = rest;
    }
}

/// The entries of an index; their checksum covers the base offset too.
fn index(bytes: &mut [u8], entry_bytes: usize) {
    let Some((header, entries)) = bytes.split_at_mut_checked(16) else { return };
    for entry in entries.chunks_exact_mut(entry_bytes) {
        let sum = crc(&[&header[8..], &entry[..entry_bytes - 4]].concat());
        put(entry, entry_bytes - 4, &sum.to_le_bytes());
    }
}

/// Head, sections and end of a checkpoint of the engine.
pub(crate) fn state(bytes: &mut [u8]) {
    if bytes.len() < 16 {
        return;
    }
    let sum = crc(&bytes[..12]);
    put(bytes, 12, &sum.to_le_bytes());
    let mut rest = &mut bytes[16..];
    loop {
        match rest.first() {
            Some(b'S') => {
                let Some(fixed) = rest.first_chunk::<19>() else { return };
                let name = usize::from(u16::from_le_bytes([fixed[9], fixed[10]]));
                let payload = u32_le(fixed, 11).unwrap_or(0);
                let (head, body) = (19 + name, 19 + name + 4);
                if rest.len() < body + payload + 4 {
                    return;
                }
                let sum = crc(&rest[..head]);
                put(rest, head, &sum.to_le_bytes());
                let sum = crc(&rest[body..body + payload]);
                put(rest, body + payload, &sum.to_le_bytes());
                rest = &mut rest[body + payload + 4..];
            }
            Some(b'E') if rest.len() >= 13 => {
                let sum = crc(&rest[..9]);
                put(rest, 9, &sum.to_le_bytes());
                return;
            }
            _ => return,
        }
    }
}
