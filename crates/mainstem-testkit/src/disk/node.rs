//! Files and directories as the process sees them and as they are durable, and the changes between the two.

use std::collections::BTreeMap;

/// Identity of a file or directory, whatever its names.
pub(super) type NodeId = u64;

pub(super) const ROOT: NodeId = 0;

#[derive(Debug)]
pub(super) enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// A directory's names in both views.
#[derive(Debug, Default)]
pub(super) struct DirNode {
    pub(super) names: BTreeMap<String, NodeId>,
    pub(super) durable: BTreeMap<String, NodeId>,
}

/// INVARIANT: `content` is `durable` with all `changes` applied in order.
#[derive(Debug, Default)]
pub(super) struct FileNode {
    pub(super) content: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) changes: Vec<Change>,
    /// Bytes that the file takes on the disk: up to the highest byte ever written or allocated.
    pub(super) reserved: u64,
}

#[derive(Debug)]
pub(super) struct Change {
    /// Place in the order of all changes of the disk.
    pub(super) sequence: u64,
    pub(super) standing: Standing,
    pub(super) edit: Edit,
}

/// What a crash may do to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not synced: kept, lost or torn, in any order.
    Pending,
    /// Covered by a sync that failed: kept, lost or torn, also after later syncs.
    Doubtful,
    /// Synced, but made after a doubtful change, so not yet folded into the durable bytes: always kept.
    Synced,
}

#[derive(Debug)]
pub(super) enum Edit {
    Write {
        position: u64,
        bytes: Vec<u8>,
    },
    SetLen(u64),
    /// The length becomes at least this.
    Grow(u64),
}

impl Edit {
    pub(super) fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { position, bytes } => write(file, *position, bytes),
            Self::SetLen(len) => file.resize(index(*len), 0),
            Self::Grow(len) => grow(file, *len),
        }
    }
}

impl Edit {
    /// The byte after the last one that the edit needs room for.
    pub(super) fn end(&self) -> u64 {
        match self {
            Self::Write { bytes, .. } if bytes.is_empty() => 0,
            Self::Write { position, bytes } => position.saturating_add(bytes.len() as u64),
            Self::SetLen(len) | Self::Grow(len) => *len,
        }
    }
}

impl FileNode {
    /// Makes an edit visible and remembers it as not synced.
    pub(super) fn change(&mut self, sequence: u64, edit: Edit) {
        edit.apply(&mut self.content);
        self.reserved = match &edit {
            Edit::SetLen(len) => self.reserved.min(*len),
            other => self.reserved.max(other.end()),
        };
        self.changes.push(Change { sequence, standing: Standing::Pending, edit });
    }

    pub(super) fn sync(&mut self) {
        for change in &mut self.changes {
            if change.standing == Standing::Pending {
                change.standing = Standing::Synced;
            }
        }
        if self.changes.iter().all(|change| change.standing == Standing::Synced) {
            for change in self.changes.drain(..) {
                change.edit.apply(&mut self.durable);
            }
        }
    }

    pub(super) fn fail_sync(&mut self) {
        for change in &mut self.changes {
            if change.standing == Standing::Pending {
                change.standing = Standing::Doubtful;
            }
        }
    }

    /// Flips bits of a byte in every place that holds it. The caller has checked that the content holds it.
    pub(super) fn corrupt(&mut self, position: u64, mask: u8) {
        self.content[index(position)] ^= mask;
        if let Some(byte) = self.durable.get_mut(index(position)) {
            *byte ^= mask;
        }
        for change in &mut self.changes {
            if let Edit::Write { position: start, bytes } = &mut change.edit
                && let Some(at) = position.checked_sub(*start)
                && let Some(byte) = bytes.get_mut(index(at))
            {
                *byte ^= mask;
            }
        }
    }
}

pub(super) fn write(file: &mut Vec<u8>, position: u64, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let start = index(position);
    let end = start + bytes.len();
    grow(file, end as u64);
    file[start..end].copy_from_slice(bytes);
}

pub(super) fn grow(file: &mut Vec<u8>, len: u64) {
    if file.len() < index(len) {
        file.resize(index(len), 0);
    }
}

/// A position as an index of memory. The state refuses files longer than memory can be before they get here.
pub(super) fn index(position: u64) -> usize {
    usize::try_from(position).expect("a simulated file fits the address space")
}

#[derive(Debug)]
pub(super) struct NameChange {
    pub(super) sequence: u64,
    pub(super) edit: NameEdit,
}

/// A change of names. Each is atomic.
#[derive(Clone, Debug)]
pub(super) enum NameEdit {
    Link { dir: NodeId, name: String, node: NodeId },
    Unlink { dir: NodeId, name: String, node: NodeId },
    Rename { from_dir: NodeId, from: String, to_dir: NodeId, to: String, node: NodeId },
}

/// Which of its two sets of names a directory is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Current,
    Durable,
}

impl DirNode {
    pub(super) fn view(&mut self, view: View) -> &mut BTreeMap<String, NodeId> {
        match view {
            View::Current => &mut self.names,
            View::Durable => &mut self.durable,
        }
    }
}

impl NameEdit {
    pub(super) fn touches(&self, dir: NodeId) -> bool {
        self.dirs().contains(&dir)
    }

    pub(super) fn dirs(&self) -> [NodeId; 2] {
        match self {
            Self::Link { dir, .. } | Self::Unlink { dir, .. } => [*dir, *dir],
            Self::Rename { from_dir, to_dir, .. } => [*from_dir, *to_dir],
        }
    }

    /// Applies to one view. A name that meanwhile stands for another node is not taken away from it.
    pub(super) fn apply(&self, nodes: &mut BTreeMap<NodeId, Node>, view: View) {
        match self {
            Self::Link { dir, name, node } => link(nodes, view, *dir, name, *node),
            Self::Unlink { dir, name, node } => unlink(nodes, view, *dir, name, *node),
            Self::Rename { from_dir, from, to_dir, to, node } => {
                unlink(nodes, view, *from_dir, from, *node);
                link(nodes, view, *to_dir, to, *node);
            }
        }
    }
}

fn link(nodes: &mut BTreeMap<NodeId, Node>, view: View, dir: NodeId, name: &str, node: NodeId) {
    if let Some(Node::Dir(dir)) = nodes.get_mut(&dir) {
        dir.view(view).insert(name.to_owned(), node);
    }
}

fn unlink(nodes: &mut BTreeMap<NodeId, Node>, view: View, dir: NodeId, name: &str, node: NodeId) {
    if let Some(Node::Dir(dir)) = nodes.get_mut(&dir)
        && dir.view(view).get(name) == Some(&node)
    {
        dir.view(view).remove(name);
    }
}
