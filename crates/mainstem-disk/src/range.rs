//! Bytes that stay in their file until they are sent.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::DiskFile;

/// A part of an open file. The file lives as long as this does, also when its name is gone.
#[derive(Clone, Debug)]
pub struct FileRange {
    file: Arc<dyn DiskFile>,
    position: u64,
    len: usize,
}

impl FileRange {
    /// `len` bytes from `position` on. They have to be there.
    #[must_use]
    pub fn new(file: Arc<dyn DiskFile>, position: u64, len: usize) -> Self {
        Self { file, position, len }
    }

    /// Bytes that are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Steps over the first `bytes`.
    pub fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.len);
        self.position += bytes as u64;
        self.len -= bytes;
    }

    /// The first bytes, at most `bytes_max`. `UnexpectedEof` when the file has become shorter.
    pub fn read(&self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len.min(bytes_max)];
        self.file.read_exact_at(&mut bytes, self.position)?;
        Ok(bytes)
    }

    /// Has the operating system send the first bytes to a socket, and steps over what was sent; its number. `WouldBlock` when
    /// the socket takes none now, `Unsupported` when they have to be read and written instead.
    pub fn send_to(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let Some(file) = self.file.as_file() else { return Err(io::ErrorKind::Unsupported.into()) };
        let sent = send(socket, file, self.position, self.len)?;
        if sent == 0 && self.len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.advance(sent);
        Ok(sent)
    }
}

#[cfg(target_os = "linux")]
fn send(socket: BorrowedFd<'_>, file: &std::fs::File, mut position: u64, len: usize) -> io::Result<usize> {
    use rustix::io::Errno;
    match rustix::fs::sendfile(socket, file, Some(&mut position), len) {
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn send(_: BorrowedFd<'_>, _: &std::fs::File, _: u64, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::{Disk, Open, RealDisk};

    #[test]
    fn a_range_is_read_or_sent_from_where_it_begins_to_where_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk::new(dir.path()).unwrap().open("f", Open::CreateNew).unwrap();
        file.write_at(b"0123456789", 0).unwrap();
        let mut range = FileRange::new(Arc::clone(&file), 2, 6);
        assert_eq!(range.read(3).unwrap(), b"234");
        let (socket, mut other) = UnixStream::pair().unwrap();
        match range.clone().send_to(socket.as_fd()) {
            Ok(sent) => {
                let mut received = vec![0; sent];
                other.read_exact(&mut received).unwrap();
                assert_eq!(received, b"234567");
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
        range.advance(4);
        assert_eq!(range.read(100).unwrap(), b"67");
        range.advance(100);
        assert!(range.is_empty());
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk::new(dir.path()).unwrap().open("f", Open::CreateNew).unwrap();
        file.write_at(b"01", 0).unwrap();
        let mut range = FileRange::new(file, 2, 6);
        assert_eq!(range.read(6).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (socket, _other) = UnixStream::pair().unwrap();
        let kind = range.send_to(socket.as_fd()).unwrap_err().kind();
        assert!([io::ErrorKind::UnexpectedEof, io::ErrorKind::Unsupported].contains(&kind), "{kind}");
    }
}
