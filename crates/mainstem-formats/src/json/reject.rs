//! Why a record did not decode.

use std::fmt;

use super::kind::Kind;
use super::scan::Malformed;

/// Why a record did not decode; its `Display` is what a dead-letter topic keeps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct RejectReason(Box<Cause>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Cause {
    #[error("the record has no value (a tombstone), expected a JSON object")]
    Tombstone,
    #[error("not UTF-8 at byte {at}")]
    NotUtf8 { at: usize },
    #[error("not JSON at byte {at}: found {found}, expected {expected}")]
    Malformed { at: usize, found: String, expected: &'static str },
    #[error("found {found}, expected a JSON object")]
    NotAnObject { found: String },
    #[error("column \"{column}\": found {found}, expected {expected}")]
    Value { column: String, found: String, expected: String },
    #[error("column \"{column}\": the values of one batch take more than 2 GiB")]
    TooBig { column: String },
}

impl RejectReason {
    pub(crate) fn tombstone() -> Self {
        Self(Box::new(Cause::Tombstone))
    }

    pub(crate) fn not_utf8(at: usize) -> Self {
        Self(Box::new(Cause::NotUtf8 { at }))
    }

    pub(crate) fn malformed(text: &str, malformed: &Malformed) -> Self {
        let rest = text.as_bytes().get(malformed.at..).unwrap_or_default();
        let found = if rest.is_empty() { "the end".to_owned() } else { excerpt(&String::from_utf8_lossy(rest)) };
        Self(Box::new(Cause::Malformed { at: malformed.at, found, expected: malformed.what }))
    }

    pub(crate) fn not_an_object(text: &str) -> Self {
        Self(Box::new(Cause::NotAnObject { found: excerpt(text.trim()) }))
    }

    pub(crate) fn value(column: &str, found: Option<&str>, expected: &Kind) -> Self {
        let found = found.map_or("no value".to_owned(), excerpt);
        Self(Box::new(Cause::Value { column: column.to_owned(), found, expected: expected.to_string() }))
    }

    pub(crate) fn null(column: &str, found: &str) -> Self {
        let (found, expected) = (found.to_owned(), "a value (the column is NOT NULL)".to_owned());
        Self(Box::new(Cause::Value { column: column.to_owned(), found, expected }))
    }

    pub(crate) fn too_big(column: &str) -> Self {
        Self(Box::new(Cause::TooBig { column: column.to_owned() }))
    }

    /// The same reason, seen from the column that `parent` names.
    pub(crate) fn inside(mut self, parent: impl fmt::Display) -> Self {
        if let Cause::Value { column, .. } | Cause::TooBig { column } = &mut *self.0 {
            *column = format!("{parent}.{column}");
        }
        self
    }
}

const EXCERPT_CHARS: usize = 40;

/// The beginning, on one line.
fn excerpt(text: &str) -> String {
    let mut short: String =
        text.chars().take(EXCERPT_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(EXCERPT_CHARS).is_some() {
        short.push('…');
    }
    short
}
