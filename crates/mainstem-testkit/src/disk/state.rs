//! The whole state of a simulated disk and its operations.
//!
//! Always true here: every operation passes [`State::begin`], which counts and traces it and decides whether it goes
//! ahead, fails, or is caught by the loss of power.

use std::collections::BTreeMap;
use std::io;

use mainstem_disk::{DirEntry, Open};

use super::FaultKind;
use super::crash;
use super::node::{DirNode, Edit, FileNode, NameChange, NameEdit, Node, NodeId, ROOT, View, index};
use crate::random::{SplitMix, mix};

/// No simulated file grows past this: what is longer is a mistake of the caller and would eat the memory of the test.
const FILE_BYTES_MAX: u64 = 1 << 32;

#[derive(Debug)]
pub(super) struct State {
    /// Number of crashes so far.
    pub(super) life: u64,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Changes of names since their directories were synced, in order.
    pub(super) name_changes: Vec<NameChange>,
    pub(super) rng: SplitMix,
    pub(super) capacity: Option<u64>,
    pub(super) ignore_sync: bool,
    pub(super) reordering: bool,
    pub(super) op_count: u64,
    seed: u64,
    next_node: NodeId,
    sequence: u64,
    faults: Vec<Fault>,
    power: Power,
    trace: u64,
}

#[derive(Debug)]
struct Fault {
    kind: FaultKind,
    /// The fault strikes when this reaches 0.
    left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    /// Fails at the operation that takes this to 0.
    FailsIn(u64),
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Sync,
}

/// How an operation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    GoesAhead,
    /// A fault: it fails, the power stays on.
    Fails,
    /// The power goes while it is in flight.
    Dies,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            life: 0,
            nodes: BTreeMap::from([(ROOT, Node::Dir(DirNode::default()))]),
            name_changes: Vec::new(),
            rng: SplitMix::new(seed),
            capacity: None,
            ignore_sync: false,
            reordering: true,
            op_count: 0,
            seed,
            next_node: ROOT + 1,
            sequence: 0,
            faults: Vec::new(),
            power: Power::On,
            trace: mix(seed),
        }
    }

    pub(super) fn check_life(&self, life: Option<u64>) -> io::Result<()> {
        match life {
            Some(life) if life != self.life => Err(io::Error::other("stale handle: the simulated disk has crashed")),
            _ => Ok(()),
        }
    }

    pub(super) fn crash(&mut self) {
        crash::lose_power(self);
        self.life += 1;
        self.faults.clear();
        self.power = Power::On;
        let drawn = self.rng.next();
        self.note(&[self.life, drawn]);
    }

    pub(super) fn cut_power_at(&mut self, n: u64) {
        self.power = if n == 0 { Power::Off } else { Power::FailsIn(n) };
    }

    pub(super) fn is_off(&self) -> bool {
        self.power == Power::Off
    }

    pub(super) fn add_fault(&mut self, kind: FaultKind, n: u64) {
        self.faults.push(Fault { kind, left: n.max(1) });
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace
    }

    fn note(&mut self, values: &[u64]) {
        for value in values {
            self.trace = mix(self.trace ^ value).wrapping_add(1);
        }
    }

    /// Counts and traces an operation. Fails when the power is off.
    fn begin(&mut self, kind: Kind, what: &str, details: &[u64]) -> io::Result<Course> {
        if self.power == Power::Off {
            return Err(simulated_crash());
        }
        let mut course = Course::GoesAhead;
        for fault in &mut self.faults {
            let is_hit = match fault.kind {
                FaultKind::Read => kind == Kind::Read,
                FaultKind::Write => kind == Kind::Write,
                FaultKind::Sync => kind == Kind::Sync,
                FaultKind::Any => true,
            };
            fault.left -= u64::from(is_hit);
            if fault.left == 0 {
                course = Course::Fails;
            }
        }
        self.faults.retain(|fault| fault.left > 0);
        if kind != Kind::Read {
            self.op_count += 1;
            if let Power::FailsIn(left) = self.power {
                self.power = if left == 1 { Power::Off } else { Power::FailsIn(left - 1) };
            }
            if self.power == Power::Off {
                course = Course::Dies;
            }
        }
        self.note(&[kind as u64, hash(what.as_bytes()), course as u64]);
        self.note(details);
        Ok(course)
    }

    fn begin_read(&mut self, what: &str, details: &[u64]) -> io::Result<()> {
        finish(self.begin(Kind::Read, what, details)?)
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

/// Bytes of files.
impl State {
    pub(super) fn read_at(&mut self, node: NodeId, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.begin_read("read_at", &[node, position, buf.len() as u64])?;
        let content = &self.file(node)?.content;
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(content.len());
        let mut count = buf.len().min(content.len() - start);
        // Some reads are short, as the contract allows. Which ones depends on nothing but the call, so that an extra
        // reader changes no other draw.
        if count > 1 && mix(self.seed ^ mix(position) ^ buf.len() as u64).is_multiple_of(8) {
            count /= 2;
        }
        buf[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    pub(super) fn len(&mut self, node: NodeId) -> io::Result<u64> {
        self.begin_read("len", &[node])?;
        Ok(self.file(node)?.content.len() as u64)
    }

    /// Makes an edit, as far as there is room for it.
    pub(super) fn edit(&mut self, node: NodeId, edit: Edit) -> io::Result<()> {
        let (what, data) = match &edit {
            Edit::Write { position, bytes } => ("write_at", [*position, bytes.len() as u64, hash(bytes)]),
            Edit::SetLen(len) => ("set_len", [*len, 0, 0]),
            Edit::Grow(len) => ("allocate", [*len, 0, 0]),
        };
        let course = self.begin(Kind::Write, what, &[node, data[0], data[1], data[2]])?;
        if edit.end() > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let room = self.room_for(node)?;
        let mut outcome = finish(course);
        let done = match edit {
            Edit::Write { position, mut bytes } => {
                let fits = index(room.saturating_sub(position).min(bytes.len() as u64));
                if fits < bytes.len() && outcome.is_ok() {
                    outcome = Err(io::ErrorKind::StorageFull.into());
                }
                bytes.truncate(fits);
                if course == Course::Fails {
                    bytes.truncate(index(self.rng.below(fits as u64 + 1)));
                }
                Edit::Write { position, bytes }
            }
            Edit::Grow(len) if len > room => return outcome.and(Err(io::ErrorKind::StorageFull.into())),
            // Whether a failed change of the length happened is as open as how much of a failed write did.
            Edit::SetLen(_) | Edit::Grow(_) if course == Course::Fails && self.rng.chance(50) => return outcome,
            whole => whole,
        };
        let sequence = self.next_sequence();
        self.file_mut(node)?.change(sequence, done);
        outcome
    }

    /// The position up to which the file can be written before the disk is full.
    fn room_for(&self, node: NodeId) -> io::Result<u64> {
        let reserved = self.file(node)?.reserved;
        Ok(reserved.saturating_add(self.free_bytes()))
    }

    pub(super) fn sync_data(&mut self, node: NodeId) -> io::Result<()> {
        let course = self.begin(Kind::Sync, "sync_data", &[node])?;
        let ignore_sync = self.ignore_sync;
        let file = self.file_mut(node)?;
        match course {
            Course::GoesAhead if !ignore_sync => file.sync(),
            Course::Fails => file.fail_sync(),
            Course::GoesAhead | Course::Dies => {}
        }
        finish(course)
    }

    pub(super) fn available_bytes(&mut self) -> io::Result<u64> {
        self.begin_read("available_bytes", &[])?;
        Ok(self.free_bytes())
    }

    /// Removed files take no room, also while they are open.
    fn free_bytes(&self) -> u64 {
        let Some(capacity) = self.capacity else { return u64::MAX / 4 };
        let used: u64 = self.linked_files().map(|(_, file)| file.reserved).sum();
        capacity.saturating_sub(used)
    }

    pub(super) fn corrupt(&mut self, path: &str, position: u64, mask: u8) -> io::Result<()> {
        let node = self.find(path)?;
        let file = self.file_mut(node)?;
        if position >= file.content.len() as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file.corrupt(position, mask);
        Ok(())
    }

    pub(super) fn snapshot(&self) -> BTreeMap<String, Vec<u8>> {
        self.linked_files().map(|(path, file)| (path, file.content.clone())).collect()
    }

    /// All files that have a name, with it.
    fn linked_files(&self) -> impl Iterator<Item = (String, &FileNode)> {
        let mut files = Vec::new();
        let mut next = vec![(String::new(), ROOT)];
        while let Some((path, id)) = next.pop() {
            match self.nodes.get(&id) {
                Some(Node::File(file)) => files.push((path, file)),
                Some(Node::Dir(dir)) => next.extend(dir.names.iter().map(|(name, id)| (join(&path, name), *id))),
                None => {}
            }
        }
        files.into_iter()
    }

    fn file(&self, node: NodeId) -> io::Result<&FileNode> {
        match self.nodes.get(&node) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn file_mut(&mut self, node: NodeId) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Names.
impl State {
    pub(super) fn open(&mut self, path: &str, open: Open) -> io::Result<NodeId> {
        let found = match self.find(path) {
            Ok(node) => Some(node),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let creates = matches!(open, Open::Create | Open::CreateNew);
        match found {
            Some(node) => {
                self.begin_read("open", &[hash(path.as_bytes())])?;
                if open == Open::CreateNew {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                self.file(node).map(|_| node)
            }
            None if creates => self.create(path),
            None => {
                self.begin_read("open", &[hash(path.as_bytes())])?;
                Err(io::ErrorKind::NotFound.into())
            }
        }
    }

    fn create(&mut self, path: &str) -> io::Result<NodeId> {
        let course = self.begin(Kind::Write, "create", &[hash(path.as_bytes())])?;
        let (dir, name) = self.parent(path)?;
        if self.free_bytes() == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.link_new(course, dir, name, Node::File(FileNode::default()))
    }

    fn link_new(&mut self, course: Course, dir: NodeId, name: String, node: Node) -> io::Result<NodeId> {
        if course != Course::Fails {
            let id = self.next_node;
            self.next_node += 1;
            self.nodes.insert(id, node);
            self.change_name(NameEdit::Link { dir, name, node: id });
            finish(course)?;
            return Ok(id);
        }
        Err(simulated_fault())
    }

    pub(super) fn create_dir_all(&mut self, path: &str) -> io::Result<()> {
        let mut dir = ROOT;
        let mut made = String::new();
        for name in components(path)? {
            made = join(&made, name);
            dir = match self.names(dir)?.get(name) {
                Some(node) => *node,
                None => {
                    let course = self.begin(Kind::Write, "create_dir", &[hash(made.as_bytes())])?;
                    self.link_new(course, dir, name.to_owned(), Node::Dir(DirNode::default()))?
                }
            };
        }
        self.names(dir).map(|_| ())
    }

    pub(super) fn list(&mut self, path: &str) -> io::Result<Vec<DirEntry>> {
        self.begin_read("list", &[hash(path.as_bytes())])?;
        let dir = self.find(path)?;
        let names = self.names(dir)?.iter();
        let is_dir = |node| matches!(self.nodes.get(node), Some(Node::Dir(_)));
        Ok(names.map(|(name, node)| DirEntry { name: name.clone(), is_dir: is_dir(node) }).collect())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let course = self.begin(Kind::Write, "rename", &[hash(from.as_bytes()), hash(to.as_bytes())])?;
        let node = self.find(from)?;
        let (from_dir, from) = self.parent(from)?;
        let (to_dir, to) = self.parent(to)?;
        let is_dir = matches!(self.nodes.get(&node), Some(Node::Dir(_)));
        if is_dir && (to_dir == node || self.is_below(to_dir, node)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a directory cannot move into itself"));
        }
        match self.names(to_dir)?.get(&to) {
            Some(&target) if target == node => return finish(course),
            Some(target) => match self.nodes.get(target) {
                Some(Node::Dir(_)) if !is_dir => return Err(io::ErrorKind::IsADirectory.into()),
                Some(Node::Dir(dir)) if !dir.names.is_empty() => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
                Some(Node::File(_)) if is_dir => return Err(io::ErrorKind::NotADirectory.into()),
                _ => {}
            },
            None => {}
        }
        if course != Course::Fails {
            self.change_name(NameEdit::Rename { from_dir, from, to_dir, to, node });
        }
        finish(course)
    }

    fn is_below(&self, node: NodeId, ancestor: NodeId) -> bool {
        match self.nodes.get(&ancestor) {
            Some(Node::Dir(dir)) => dir.names.values().any(|&child| child == node || self.is_below(node, child)),
            _ => false,
        }
    }

    pub(super) fn remove_file(&mut self, path: &str) -> io::Result<()> {
        let node = self.find(path)?;
        self.file(node)?;
        self.unlink(path, node)
    }

    pub(super) fn remove_dir_all(&mut self, path: &str) -> io::Result<()> {
        let dir = self.find(path)?;
        let names: Vec<(String, NodeId)> = self.names(dir)?.iter().map(|(name, id)| (name.clone(), *id)).collect();
        for (name, node) in names {
            let child = join(path, &name);
            match self.nodes.get(&node) {
                Some(Node::Dir(_)) => self.remove_dir_all(&child)?,
                _ => self.unlink(&child, node)?,
            }
        }
        self.unlink(path, dir)
    }

    fn unlink(&mut self, path: &str, node: NodeId) -> io::Result<()> {
        let course = self.begin(Kind::Write, "remove", &[hash(path.as_bytes())])?;
        let (dir, name) = self.parent(path)?;
        if course != Course::Fails {
            self.change_name(NameEdit::Unlink { dir, name, node });
        }
        finish(course)
    }

    pub(super) fn sync_dir(&mut self, path: &str) -> io::Result<()> {
        let course = self.begin(Kind::Sync, "sync_dir", &[hash(path.as_bytes())])?;
        let dir = self.find(path)?;
        self.names(dir)?;
        if course == Course::GoesAhead && !self.ignore_sync {
            self.settle_names(dir);
        }
        finish(course)
    }

    /// Makes the names of `dir` durable. A rename is atomic, so it takes with it what came before it in its other
    /// directory: walked backwards, every directory of a settled change is settled from there on.
    fn settle_names(&mut self, dir: NodeId) {
        let mut dirs = vec![dir];
        let mut settled = Vec::new();
        let mut open = Vec::new();
        for change in std::mem::take(&mut self.name_changes).into_iter().rev() {
            if dirs.iter().any(|dir| change.edit.touches(*dir)) {
                dirs.extend(change.edit.dirs());
                settled.push(change);
            } else {
                open.push(change);
            }
        }
        open.reverse();
        self.name_changes = open;
        for change in settled.iter().rev() {
            change.edit.apply(&mut self.nodes, View::Durable);
        }
    }

    fn change_name(&mut self, edit: NameEdit) {
        edit.apply(&mut self.nodes, View::Current);
        let sequence = self.next_sequence();
        self.name_changes.push(NameChange { sequence, edit });
    }

    fn find(&self, path: &str) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in components(path)? {
            node = *self.names(node)?.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    /// The directory of a path, which exists, and the last name, which may not.
    fn parent(&self, path: &str) -> io::Result<(NodeId, String)> {
        let mut names = components(path)?;
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.find(&names.join("/"))?;
        self.names(dir)?;
        Ok((dir, name.to_owned()))
    }

    fn names(&self, dir: NodeId) -> io::Result<&BTreeMap<String, NodeId>> {
        match self.nodes.get(&dir) {
            Some(Node::Dir(dir)) => Ok(&dir.names),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn components(path: &str) -> io::Result<Vec<&str>> {
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if path.starts_with('/') || names.contains(&"..") {
        let message = format!("path {path:?} is not relative to the data directory");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(names)
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

fn finish(course: Course) -> io::Result<()> {
    match course {
        Course::GoesAhead => Ok(()),
        Course::Fails => Err(simulated_fault()),
        Course::Dies => Err(simulated_crash()),
    }
}

fn simulated_fault() -> io::Error {
    io::Error::other("simulated I/O error")
}

fn simulated_crash() -> io::Error {
    io::Error::other("simulated crash")
}

fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let start = mix(bytes.len() as u64);
    let hash = words.iter().fold(start, |hash, word| mix(hash ^ u64::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, byte| mix(hash ^ u64::from(*byte)))
}
