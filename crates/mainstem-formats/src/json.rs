//! Records whose value is one JSON object.
//!
//! A *member* is a name with its value inside an object. Decoding has two steps per record: the scanner checks the whole
//! text once and notes where each column's member stands (`members`), then the columns convert the noted spans and
//! append (`column`). If one conversion fails, all columns are cut back to the rows before.

mod column;
mod decode;
mod encode;
mod kind;
mod members;
mod reject;
mod scan;

pub use decode::{Decoded, JsonDecoder};
pub use encode::JsonEncoder;
pub use kind::{TYPE_KEY, UnsupportedType};
pub use reject::RejectReason;
