//! An operating system's error together with the file it happened to.

use std::io;

use crate::segment::ScanError;
use crate::{OpenError, ReadError};

/// What failed where.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) place: String,
    pub(crate) source: io::Error,
}

/// Adds the place to an error: `.map_err(at(&path))`.
pub(crate) fn at(place: &str) -> impl FnOnce(io::Error) -> Failure + use<> {
    let place = place.to_owned();
    move |source| Failure { place, source }
}

impl Failure {
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Why the log stops, for the operator.
    pub(crate) fn reason(&self) -> String {
        let advice = match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space, then restart",
            io::ErrorKind::ReadOnlyFilesystem => "make the file system writable, then restart",
            _ => "check the disk, then restart: what was acknowledged is recovered",
        };
        format!("writing {}: {}; {advice}", self.place, self.source)
    }

    pub(crate) fn of_scan(place: &str, error: ScanError) -> Self {
        match error {
            ScanError::Io(source) => Failure { place: place.to_owned(), source },
            ScanError::Damaged { position, offset } => {
                let what = format!("no batch of offset {offset} at byte {position}");
                Failure { place: place.to_owned(), source: io::Error::new(io::ErrorKind::InvalidData, what) }
            }
        }
    }
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        ReadError::Io { place: failure.place, source: failure.source.into() }
    }
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        OpenError::Io { place: failure.place, source: failure.source.into() }
    }
}
