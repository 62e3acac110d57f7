//! Kafka's bytes: frames and messages to structs and back, and the record batches they carry.
//!
//! This crate does no I/O and keeps no state. Everything that comes from outside is an error when it is malformed,
//! never a panic, and no length that a peer claims is believed before the bytes are there: what is allocated is bounded by
//! the bytes received, or, where they are compressed, by a limit the caller gives.
//!
//! - [`batch`]: the 61 byte header of a record batch (v2), its checks and its in-place patches;
//! - [`records`]: the records inside a batch, all codecs, and a builder;
//! - [`frame`]: frames, request and response headers, and which versions of which requests are served;
//! - [`produce`], [`fetch`]: own codecs of the two hot messages, records never copied;
//! - [`messages`]: all other messages, by the generated structs of `kafka_protocol`.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod batch;
pub mod fetch;
pub mod frame;
pub mod messages;
pub mod produce;
pub mod records;

mod compression;
#[cfg(test)]
mod testing;
mod varint;
mod wire;

pub use kafka_protocol::protocol::StrBytes;
pub use uuid::Uuid;

pub use crate::wire::{LeaderIdAndEpoch, NodeEndpoint, WireError};
