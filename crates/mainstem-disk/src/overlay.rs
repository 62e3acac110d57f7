//! A disk that shows another one and keeps all changes to itself, in memory: what would happen, without it happening.
//!
//! Always true here: nothing of the disk below is ever changed; memory is used for changed pages only.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{DirEntry, Disk, DiskFile, Open};

const PAGE_BYTES: usize = 4096;

/// See the module's text. Directories cannot be renamed.
#[derive(Debug)]
pub struct OverlayDisk {
    base: Arc<dyn Disk>,
    names: Mutex<BTreeMap<String, Name>>,
}

/// What a name has become.
#[derive(Clone, Debug)]
enum Name {
    Removed,
    /// Made here: nothing of the same name below shows through.
    Dir,
    File(Arc<OverlayFile>),
}

#[derive(Debug)]
struct OverlayFile(Mutex<Content>);

#[derive(Debug)]
struct Content {
    base: Option<Arc<dyn DiskFile>>,
    /// Bytes of the base that still show.
    base_len: u64,
    len: u64,
    /// Changed pages, by their number.
    pages: BTreeMap<u64, Box<[u8]>>,
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Whether the disk below shows through at this path.
fn shows_base(names: &BTreeMap<String, Name>, path: &str) -> bool {
    let mut at = path;
    while !at.is_empty() {
        if names.contains_key(at) {
            return false;
        }
        at = parent_of(at);
    }
    true
}

impl OverlayDisk {
    /// Shows `base`.
    pub fn new(base: Arc<dyn Disk>) -> Self {
        Self { base, names: Mutex::default() }
    }

    fn find(&self, names: &mut BTreeMap<String, Name>, path: &str) -> io::Result<Arc<OverlayFile>> {
        match names.get(path) {
            Some(Name::File(file)) => return Ok(Arc::clone(file)),
            Some(_) => return Err(not_found()),
            None if !shows_base(names, path) => return Err(not_found()),
            None => {}
        }
        let base = self.base.open(path, Open::Read)?;
        let len = base.len()?;
        let content = Content { base: Some(base), base_len: len, len, pages: BTreeMap::new() };
        let file = Arc::new(OverlayFile(Mutex::new(content)));
        names.insert(path.to_owned(), Name::File(Arc::clone(&file)));
        Ok(file)
    }
}

impl Disk for OverlayDisk {
    fn open(&self, path: &str, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut names = lock(&self.names);
        match (self.find(&mut names, path), open) {
            (Ok(_), Open::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(file), _) => Ok(file),
            (Err(error), Open::Create | Open::CreateNew) if error.kind() == io::ErrorKind::NotFound => {
                let content = Content { base: None, base_len: 0, len: 0, pages: BTreeMap::new() };
                let file = Arc::new(OverlayFile(Mutex::new(content)));
                names.insert(path.to_owned(), Name::File(Arc::clone(&file)));
                Ok(file)
            }
            (Err(error), _) => Err(error),
        }
    }

    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        if self.list(path).is_ok() {
            return Ok(());
        }
        if !parent_of(path).is_empty() {
            self.create_dir_all(parent_of(path))?;
        }
        lock(&self.names).insert(path.to_owned(), Name::Dir);
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        let names = lock(&self.names);
        let mut entries = BTreeMap::new();
        if shows_base(&names, path) {
            let below = self.base.list(path)?;
            entries.extend(below.into_iter().map(|entry| (entry.name, entry.is_dir)));
        } else if !matches!(names.get(path), Some(Name::Dir)) {
            return Err(not_found());
        }
        for (name, what) in names.iter().filter(|(name, _)| parent_of(name) == path) {
            let last = name.rsplit_once('/').map_or(name.as_str(), |(_, last)| last);
            match what {
                Name::Removed => drop(entries.remove(last)),
                Name::Dir => drop(entries.insert(last.to_owned(), true)),
                Name::File(_) => drop(entries.insert(last.to_owned(), false)),
            }
        }
        Ok(entries.into_iter().map(|(name, is_dir)| DirEntry { name, is_dir }).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = lock(&self.names);
        let file = self.find(&mut names, from)?;
        names.insert(to.to_owned(), Name::File(file));
        names.insert(from.to_owned(), Name::Removed);
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let mut names = lock(&self.names);
        self.find(&mut names, path)?;
        names.insert(path.to_owned(), Name::Removed);
        Ok(())
    }

    fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        self.list(path)?;
        let below = format!("{path}/");
        let mut names = lock(&self.names);
        names.retain(|name, _| !name.starts_with(&below));
        names.insert(path.to_owned(), Name::Removed);
        Ok(())
    }

    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl Content {
    /// Fills `buf` with what stands at `position` of the base, zeros behind its end.
    fn read_base(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        let shown = usize::try_from(self.base_len.saturating_sub(position)).unwrap_or(usize::MAX).min(buf.len());
        let (from_base, zeros) = buf.split_at_mut(shown);
        zeros.fill(0);
        match &self.base {
            Some(base) => base.read_exact_at(from_base, position),
            None => {
                from_base.fill(0);
                Ok(())
            }
        }
    }

    /// The page in memory.
    fn page(&mut self, number: u64) -> io::Result<&mut [u8]> {
        if !self.pages.contains_key(&number) {
            let mut bytes = vec![0; PAGE_BYTES].into_boxed_slice();
            self.read_base(&mut bytes, number * PAGE_BYTES as u64)?;
            self.pages.insert(number, bytes);
        }
        self.pages.get_mut(&number).map(|page| &mut **page).ok_or_else(not_found)
    }
}

impl DiskFile for OverlayFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let content = lock(&self.0);
        let rest = usize::try_from(content.len.saturating_sub(position)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(rest);
        let (number, within) = (position / PAGE_BYTES as u64, (position % PAGE_BYTES as u64) as usize);
        if let Some(page) = content.pages.get(&number) {
            let count = wanted.min(PAGE_BYTES - within);
            if let (Some(to), Some(from)) = (buf.get_mut(..count), page.get(within..within + count)) {
                to.copy_from_slice(from);
            }
            return Ok(count);
        }
        // As far as no page is changed.
        let next = content.pages.range(number..).next().map_or(u64::MAX, |(next, _)| next * PAGE_BYTES as u64);
        let count = wanted.min(usize::try_from(next - position).unwrap_or(usize::MAX));
        if let Some(buf) = buf.get_mut(..count) {
            content.read_base(buf, position)?;
        }
        Ok(count)
    }

    fn write_at(&self, mut buf: &[u8], mut position: u64) -> io::Result<()> {
        let mut content = lock(&self.0);
        while !buf.is_empty() {
            let (number, within) = (position / PAGE_BYTES as u64, (position % PAGE_BYTES as u64) as usize);
            let (now, rest) = buf.split_at(buf.len().min(PAGE_BYTES - within));
            if let Some(to) = content.page(number)?.get_mut(within..within + now.len()) {
                to.copy_from_slice(now);
            }
            position += now.len() as u64;
            buf = rest;
        }
        content.len = content.len.max(position);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = lock(&self.0);
        if len < content.len {
            let (number, within) = (len / PAGE_BYTES as u64, (len % PAGE_BYTES as u64) as usize);
            if within > 0
                && let Some(tail) = content.page(number)?.get_mut(within..)
            {
                tail.fill(0);
            }
            let first_gone = len.div_ceil(PAGE_BYTES as u64);
            content.pages.retain(|number, _| *number < first_gone);
            content.base_len = content.base_len.min(len);
        }
        content.len = len;
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut content = lock(&self.0);
        content.len = content.len.max(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
