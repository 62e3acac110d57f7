//! Answers on their way out: pieces in memory, and batches that the kernel takes from their file by itself.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use bytes::Buf;
use mainstem_broker::Chunk;
use mainstem_disk::FileRange;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::timeout;

use super::{Closed, STALLED};

/// Pieces that one call takes.
const SLICES_MAX: usize = 64;
/// Read at once where the kernel cannot send from a file.
const READ_BYTES: usize = 256 << 10;

/// Sends the chunks one after the other.
pub(super) async fn send(write: &mut OwnedWriteHalf, chunks: Vec<Chunk>) -> Result<(), Closed> {
    let stream: &TcpStream = write.as_ref();
    let mut chunks: VecDeque<Chunk> = chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect();
    let has_file = chunks.iter().any(|chunk| matches!(chunk, Chunk::File(_)));
    if has_file {
        cork(stream, true);
    }
    while let Some(first) = chunks.front_mut() {
        let sent = match first {
            Chunk::Bytes(_) => when_writable(stream, || write_front(stream, &chunks)).await?,
            Chunk::File(range) => match when_writable(stream, || range.send_to(stream.as_fd())).await {
                Ok(_) => {
                    // A reader that keeps up must not keep the thread from the other connections.
                    tokio::task::yield_now().await;
                    0
                }
                Err(Closed::Io(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    let read = Chunk::Bytes(take(range)?.into());
                    chunks.push_front(read);
                    0
                }
                Err(error) => return Err(error),
            },
        };
        step_over(&mut chunks, sent);
    }
    if has_file {
        cork(stream, false);
    }
    Ok(())
}

/// The first bytes of a range, read.
fn take(range: &mut FileRange) -> io::Result<Vec<u8>> {
    let bytes = range.read(READ_BYTES)?;
    range.advance(bytes.len());
    Ok(bytes)
}

/// Does it as soon as the socket takes bytes.
async fn when_writable(stream: &TcpStream, mut work: impl FnMut() -> io::Result<usize>) -> Result<usize, Closed> {
    loop {
        // First without waiting: mostly there is room.
        match stream.try_io(Interest::WRITABLE, &mut work) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Ok(other?),
        }
        let Ok(writable) = timeout(STALLED, stream.writable()).await else { return Err(Closed::Stalled) };
        writable?;
    }
}

/// One write of the pieces at the front that are in memory.
fn write_front(stream: &TcpStream, chunks: &VecDeque<Chunk>) -> io::Result<usize> {
    let in_memory = chunks.iter().take(SLICES_MAX).map_while(|chunk| match chunk {
        Chunk::Bytes(bytes) => Some(IoSlice::new(bytes)),
        Chunk::File(_) => None,
    });
    let slices: Vec<_> = in_memory.collect();
    let written = stream.try_write_vectored(&slices)?;
    if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}

/// With a cork, only full segments leave: a partition's few bytes in memory wait for those of its file.
fn cork(stream: &TcpStream, is_corked: bool) {
    // What it is for is speed alone: without it the answer is the same.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_cork(is_corked);
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, is_corked);
}

fn step_over(chunks: &mut VecDeque<Chunk>, mut sent: usize) {
    while let Some(first) = chunks.front_mut() {
        let taken = sent.min(first.len());
        match first {
            Chunk::Bytes(bytes) => bytes.advance(taken),
            Chunk::File(range) => range.advance(taken),
        }
        sent -= taken;
        if !first.is_empty() {
            break;
        }
        chunks.pop_front();
    }
}
