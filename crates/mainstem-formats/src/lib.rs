//! The bytes of records, to and from Arrow.
//!
//! A *decoder* takes the values of records and fills one `RecordBatch`; what does not decode is handed back with its
//! reason and leaves no trace in the batch. An *encoder* takes rows of a `RecordBatch` and writes their one canonical
//! text. Formats: JSON ([`JsonDecoder`], [`JsonEncoder`]). The rules for users are in `docs/json.md`.
//!
//! Always true: no input panics a decoder, and what an encoder writes decodes to the same row.

mod json;
mod text;

pub use json::{Decoded, JsonDecoder, JsonEncoder, RejectReason, TYPE_KEY, UnsupportedType};
pub use text::{parse_decimal, parse_interval};
