//! The targets, in the order of the way of a record: network, log, what is built on the log.

mod internal_topics;
mod json_records;
mod kafka_broker;
mod kafka_wire;
mod log_files;
mod pg_messages;
mod record_batches;
mod state_checkpoint;

use crate::Target;

const MIB: usize = 1 << 20;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "kafka_wire", allocated_bytes_max: MIB, seeds: kafka_wire::seeds, run: kafka_wire::run },
    Target { name: "kafka_broker", allocated_bytes_max: 64 * MIB, seeds: kafka_broker::seeds, run: kafka_broker::run },
    Target {
        name: "record_batches",
        allocated_bytes_max: record_batches::DECOMPRESSED_BYTES_MAX + 4 * MIB,
        seeds: record_batches::seeds,
        run: record_batches::run,
    },
    Target {
        name: "log_checkpoint",
        allocated_bytes_max: 32 * MIB,
        seeds: log_files::checkpoint_seeds,
        run: log_files::run_checkpoint,
    },
    Target {
        name: "log_commit",
        allocated_bytes_max: 32 * MIB,
        seeds: log_files::commit_seeds,
        run: log_files::run_commit,
    },
    Target {
        name: "log_directory",
        allocated_bytes_max: 32 * MIB,
        seeds: log_files::directory_seeds,
        run: log_files::run_directory,
    },
    Target {
        name: "internal_topics",
        allocated_bytes_max: 64 * MIB,
        seeds: internal_topics::seeds,
        run: internal_topics::run,
    },
    Target {
        name: "state_checkpoint",
        allocated_bytes_max: MIB,
        seeds: state_checkpoint::seeds,
        run: state_checkpoint::run,
    },
    Target { name: "json_records", allocated_bytes_max: 4 * MIB, seeds: json_records::seeds, run: json_records::run },
    Target { name: "pg_messages", allocated_bytes_max: MIB, seeds: pg_messages::seeds, run: pg_messages::run },
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Cuts `data` into pieces of a two byte length each; the last may be shorter than it says.
fn pieces(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))));
        data = rest;
        Some(piece)
    })
}

/// What [`pieces`] cuts.
fn joined<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let piece = |piece: &[u8]| {
        let length = u16::try_from(piece.len()).expect("seeds are small");
        [length.to_le_bytes().as_slice(), piece].concat()
    };
    pieces.into_iter().flat_map(piece).collect()
}
