//! Writing a checkpoint, finding the newest, reading it.

use std::io;
use std::sync::Arc;

use mainstem_disk::{Disk, DiskFile, Open};

use crate::format::{
    CheckpointError, END_BYTES, END_TAG, FORMAT_VERSION, HEAD_BYTES, MAGIC, SECTION_FIXED_BYTES, SECTION_TAG, Section,
    SectionKey, crc, end, field, head, section_head,
};

const PREFIX: &str = "checkpoint-";
const UNFINISHED: &str = ".unfinished";
const WRITE_BYTES: usize = 1 << 20;

fn name_of(sequence: u64) -> String {
    format!("{PREFIX}{sequence:020}")
}

fn sequence_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// The directories above one, up to the root, which is the empty path.
fn parents(directory: &str) -> impl Iterator<Item = &str> {
    let slashes = directory.match_indices('/').map(|(at, _)| at);
    slashes.filter_map(|at| directory.get(..at)).chain([""])
}

/// Writes one checkpoint. Nothing of it is found before [`CheckpointWriter::finish`] has returned.
#[derive(Debug)]
pub struct CheckpointWriter {
    disk: Arc<dyn Disk>,
    directory: String,
    sequence: u64,
    unfinished: String,
    file: Arc<dyn DiskFile>,
    position: u64,
    buffer: Vec<u8>,
    sections: u64,
}

impl CheckpointWriter {
    /// Begins the checkpoint of this sequence number, which must be higher than all there are, in a directory that is made
    /// when there is none.
    pub fn create(disk: Arc<dyn Disk>, directory: &str, sequence: u64) -> Result<CheckpointWriter, CheckpointError> {
        let unfinished = format!("{directory}/{}{UNFINISHED}", name_of(sequence));
        let io = |source| CheckpointError::Io { place: unfinished.clone(), source };
        disk.create_dir_all(directory).map_err(io)?;
        for parent in parents(directory) {
            disk.sync_dir(parent).map_err(io)?;
        }
        let file = disk.open(&unfinished, Open::Create).map_err(io)?;
        file.set_len(0).map_err(io)?;
        let directory = directory.to_owned();
        Ok(CheckpointWriter { disk, directory, sequence, unfinished, file, position: 0, buffer: head(), sections: 0 })
    }

    /// Appends a section.
    pub fn section(&mut self, key: &SectionKey, payload: &[u8]) -> Result<(), CheckpointError> {
        self.buffer.extend_from_slice(&section_head(key, payload.len()));
        self.buffer.extend_from_slice(payload);
        self.buffer.extend_from_slice(&crc(payload).to_le_bytes());
        self.sections += 1;
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), CheckpointError> {
        self.file.write_at(&self.buffer, self.position).map_err(|error| self.io(error))?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn io(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Io { place: self.unfinished.clone(), source }
    }

    /// Makes the checkpoint durable and the newest. Answers its size in bytes.
    pub fn finish(mut self) -> Result<u64, CheckpointError> {
        self.buffer.extend_from_slice(&end(self.sections));
        self.flush()?;
        self.file.sync_data().map_err(|error| self.io(error))?;
        let finished = format!("{}/{}", self.directory, name_of(self.sequence));
        self.disk.rename(&self.unfinished, &finished).map_err(|error| self.io(error))?;
        self.disk.sync_dir(&self.directory).map_err(|error| self.io(error))?;
        Ok(self.position)
    }
}

/// The sequence numbers of the checkpoints that are there, the newest first. Their bytes are not looked at.
pub fn newest(disk: &dyn Disk, directory: &str) -> Result<Vec<u64>, CheckpointError> {
    let entries = match disk.list(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(CheckpointError::Io { place: directory.to_owned(), source }),
    };
    let mut sequences: Vec<u64> = entries.iter().filter_map(|entry| sequence_of(&entry.name)).collect();
    sequences.sort_unstable_by(|a, b| b.cmp(a));
    Ok(sequences)
}

/// Removes all checkpoints older than `keep_from`, and what was left unfinished below it.
pub fn remove_older(disk: &dyn Disk, directory: &str, keep_from: u64) -> Result<(), CheckpointError> {
    let io = |source| CheckpointError::Io { place: directory.to_owned(), source };
    for entry in disk.list(directory).map_err(io)? {
        let sequence = sequence_of(entry.name.strip_suffix(UNFINISHED).unwrap_or(&entry.name));
        if sequence.is_some_and(|sequence| sequence < keep_from) {
            disk.remove_file(&format!("{directory}/{}", entry.name)).map_err(io)?;
        }
    }
    Ok(())
}

/// Reads the sections of one checkpoint, in order, each checked before it is handed out. Only after `next` has returned
/// `Ok(None)` is it certain that nothing was missing.
#[derive(Debug)]
pub struct CheckpointReader {
    place: String,
    file: Arc<dyn DiskFile>,
    len: u64,
    position: u64,
    sections: u64,
}

impl CheckpointReader {
    /// Opens the checkpoint of this sequence number.
    pub fn open(disk: &dyn Disk, directory: &str, sequence: u64) -> Result<CheckpointReader, CheckpointError> {
        let place = format!("{directory}/{}", name_of(sequence));
        let io = |source| CheckpointError::Io { place: place.clone(), source };
        let file = disk.open(&place, Open::Read).map_err(io)?;
        let len = file.len().map_err(io)?;
        let mut reader = CheckpointReader { place, file, len, position: 0, sections: 0 };
        let bytes = reader.take(HEAD_BYTES)?;
        if !bytes.starts_with(MAGIC) || field(&bytes, 12).map(u32::from_le_bytes) != bytes.get(..12).map(crc) {
            return Err(reader.damaged(0, "the head is not that of a checkpoint"));
        }
        match field(&bytes, 8).map(u32::from_le_bytes) {
            Some(FORMAT_VERSION) => Ok(reader),
            version => Err(CheckpointError::Version { place: reader.place, version: version.unwrap_or(0) }),
        }
    }

    /// The next section; `None` at the end of a whole checkpoint.
    pub fn next_section(&mut self) -> Result<Option<Section>, CheckpointError> {
        let begin = self.position;
        match self.take(1)?.first() {
            Some(&SECTION_TAG) => self.section(begin).map(Some),
            Some(&END_TAG) => {
                self.position = begin;
                let bytes = self.take(END_BYTES)?;
                if bytes != end(self.sections) || self.position != self.len {
                    return Err(self.damaged(begin, "the end does not fit"));
                }
                Ok(None)
            }
            _ => Err(self.damaged(begin, "neither a section nor the end")),
        }
    }

    fn section(&mut self, begin: u64) -> Result<Section, CheckpointError> {
        self.position = begin;
        let cut_short = "a section is cut short";
        let fixed = self.take(SECTION_FIXED_BYTES)?;
        let number = |at| field(&fixed, at).map(u32::from_le_bytes);
        let name_bytes = field(&fixed, 9).map(u16::from_le_bytes);
        let payload_bytes = field(&fixed, 11).map(u64::from_le_bytes);
        let (Some(relation), Some(operator), Some(name_bytes), Some(payload_bytes)) =
            (number(1), number(5), name_bytes, payload_bytes)
        else {
            return Err(self.damaged(begin, cut_short));
        };
        let name = self.take(usize::from(name_bytes))?;
        let sum = self.take(4)?;
        let mut of = fixed;
        of.extend_from_slice(&name);
        if sum != crc(&of).to_le_bytes() {
            return Err(self.damaged(begin, "the checksum of a section's head does not fit"));
        }
        let name = String::from_utf8(name).map_err(|_| self.damaged(begin, "a section's name is not text"))?;
        let payload_bytes = usize::try_from(payload_bytes).map_err(|_| self.damaged(begin, cut_short))?;
        let bytes = self.take(payload_bytes)?;
        if self.take(4)? != crc(&bytes).to_le_bytes() {
            return Err(self.damaged(begin, "the checksum of a section does not fit"));
        }
        self.sections += 1;
        Ok(Section { key: SectionKey { relation, operator, name }, bytes })
    }

    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, CheckpointError> {
        if self.len - self.position < bytes as u64 {
            return Err(self.damaged(self.position, "the file ends early"));
        }
        let mut taken = vec![0; bytes];
        let io = |source| CheckpointError::Io { place: self.place.clone(), source };
        self.file.read_exact_at(&mut taken, self.position).map_err(io)?;
        self.position += bytes as u64;
        Ok(taken)
    }

    fn damaged(&self, position: u64, meaning: &'static str) -> CheckpointError {
        CheckpointError::Damaged { place: self.place.clone(), position, meaning }
    }
}

#[cfg(test)]
mod tests;
