//! What a loss of power leaves: the draw that keeps, drops and tears what was not synced.
//!
//! Words: a *mood* is drawn once per crash and says how likely changes are to survive it, so that crashes which keep all
//! or nothing are as common as mixed ones; a *piece* is the part of a change that reaches the disk at once, at most a
//! sector of a write.
//!
//! Always true here: synced changes are applied first and whole; only then come pending pieces, so no piece lands on a
//! synced byte that no later write meant to replace.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use super::node::{Change, Edit, FileNode, NameEdit, Node, NodeId, ROOT, Standing, View, grow, index, write};
use super::state::State;
use crate::random::SplitMix;

/// A disk writes this many bytes at once.
const SECTOR_BYTES: u64 = 512;

struct Mood {
    /// Chance of a change to survive whole.
    keep_percent: u64,
    /// Chance of a write that does not survive whole to be torn instead of lost.
    tear_percent: u64,
    /// Whether pieces reach the disk in an order of their own.
    is_shuffled: bool,
    /// Without reordering: changes before this one survive, this one is torn, none after it.
    last_sequence: Option<u64>,
}

enum Fate {
    Kept,
    Torn,
    Lost,
}

impl Mood {
    fn draw(state: &mut State) -> Self {
        let last_sequence = if state.reordering { None } else { Some(draw_last_sequence(state)) };
        let rng = &mut state.rng;
        Self {
            keep_percent: rng.pick([0, 20, 50, 80, 100]),
            tear_percent: rng.pick([0, 50, 100]),
            is_shuffled: rng.chance(50),
            last_sequence,
        }
    }

    fn fate(&self, rng: &mut SplitMix, sequence: u64) -> Fate {
        match self.last_sequence {
            Some(last) if sequence < last => Fate::Kept,
            Some(last) if sequence > last => Fate::Lost,
            Some(_) => Fate::Torn,
            None if rng.chance(self.keep_percent) => Fate::Kept,
            None if rng.chance(self.tear_percent) => Fate::Torn,
            None => Fate::Lost,
        }
    }
}

/// One of the changes that are not synced, or the end of them all.
fn draw_last_sequence(state: &mut State) -> u64 {
    let mut pending: Vec<u64> = state.name_changes.iter().map(|change| change.sequence).collect();
    for node in state.nodes.values() {
        if let Node::File(file) = node {
            let unsynced = file.changes.iter().filter(|change| change.standing == Standing::Pending);
            pending.extend(unsynced.map(|change| change.sequence));
        }
    }
    pending.sort_unstable();
    let drawn = state.rng.below(pending.len() as u64 + 1);
    pending.get(index(drawn)).copied().unwrap_or(u64::MAX)
}

/// Turns the state into what the next life finds. The caller ends the life and clears the faults.
pub(super) fn lose_power(state: &mut State) {
    let mood = Mood::draw(state);
    lose_names(state, &mood);
    let reachable = reachable_from(&state.nodes, ROOT);
    state.nodes.retain(|id, _| reachable.contains(id));
    let State { nodes, rng, .. } = state;
    for node in nodes.values_mut() {
        match node {
            Node::Dir(dir) => dir.names = dir.durable.clone(),
            Node::File(file) => lose_changes(file, rng, &mood),
        }
    }
}

fn lose_names(state: &mut State, mood: &Mood) {
    // A name that a lost rename did not vacate still holds a durable file. What was made under that name afterwards
    // must not replace it: it goes the way of the rename.
    let mut still_taken: BTreeSet<(NodeId, String)> = BTreeSet::new();
    for change in mem::take(&mut state.name_changes) {
        let target = match &change.edit {
            NameEdit::Link { dir, name, .. } => Some((*dir, name.clone())),
            NameEdit::Rename { to_dir, to, .. } => Some((*to_dir, to.clone())),
            NameEdit::Unlink { .. } => None,
        };
        let mut is_kept = match mood.fate(&mut state.rng, change.sequence) {
            Fate::Kept => true,
            Fate::Torn => state.rng.chance(50),
            Fate::Lost => false,
        };
        is_kept &= target.is_none_or(|target| !still_taken.contains(&target));
        if let NameEdit::Rename { from_dir, from, to_dir, node, .. } = &change.edit {
            // Into a directory that is itself lost, or into itself because an earlier rename was lost.
            is_kept &= reachable_from(&state.nodes, ROOT).contains(to_dir);
            is_kept &= !reachable_from(&state.nodes, *node).contains(to_dir);
            if !is_kept {
                still_taken.insert((*from_dir, from.clone()));
            }
        }
        if is_kept {
            change.edit.apply(&mut state.nodes, View::Durable);
        }
    }
}

/// All nodes below `start` by durable names, itself included.
fn reachable_from(nodes: &BTreeMap<NodeId, Node>, start: NodeId) -> BTreeSet<NodeId> {
    let mut seen = BTreeSet::new();
    let mut next = vec![start];
    while let Some(id) = next.pop() {
        if seen.insert(id)
            && let Some(Node::Dir(dir)) = nodes.get(&id)
        {
            next.extend(dir.durable.values());
        }
    }
    seen
}

fn lose_changes(file: &mut FileNode, rng: &mut SplitMix, mood: &Mood) {
    let mut image = mem::take(&mut file.durable);
    let changes = mem::take(&mut file.changes);
    let mut pieces = Vec::new();
    for change in &changes {
        match change.standing {
            Standing::Synced => change.edit.apply(&mut image),
            Standing::Doubtful => {
                // Order counts here: a synced change may follow.
                let fate = if rng.chance(mood.keep_percent) { Fate::Kept } else { Fate::Torn };
                let mut doubtful = Vec::new();
                split(change, &fate, rng, &mut doubtful);
                doubtful.iter().for_each(|piece| piece.apply(&mut image));
            }
            Standing::Pending => split(change, &mood.fate(rng, change.sequence), rng, &mut pieces),
        }
    }
    if mood.is_shuffled && mood.last_sequence.is_none() {
        rng.shuffle(&mut pieces);
    }
    pieces.iter().for_each(|piece| piece.apply(&mut image));
    file.reserved = image.len() as u64;
    file.content = image.clone();
    file.durable = image;
}

enum Piece<'a> {
    Bytes { position: u64, bytes: &'a [u8] },
    SetLen(u64),
    Grow(u64),
}

impl Piece<'_> {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Bytes { position, bytes } => write(image, *position, bytes),
            Self::SetLen(len) => image.resize(index(*len), 0),
            Self::Grow(len) => grow(image, *len),
        }
    }
}

/// The pieces of a change that survive its fate.
fn split<'a>(change: &'a Change, fate: &Fate, rng: &mut SplitMix, pieces: &mut Vec<Piece<'a>>) {
    match (&change.edit, fate) {
        (Edit::SetLen(len), Fate::Kept) => pieces.push(Piece::SetLen(*len)),
        (Edit::Grow(len), Fate::Kept) => pieces.push(Piece::Grow(*len)),
        (Edit::SetLen(len), Fate::Torn) if rng.chance(50) => pieces.push(Piece::SetLen(*len)),
        (Edit::Grow(len), Fate::Torn) => pieces.push(Piece::Grow(rng.below(len + 1))),
        (Edit::SetLen(_), Fate::Torn | Fate::Lost) | (Edit::Grow(_), Fate::Lost) => {}
        (Edit::Write { position, bytes }, Fate::Kept) => pieces.extend(sectors(*position, bytes)),
        (Edit::Write { position, bytes }, Fate::Torn) => {
            pieces.extend(tear(*position, bytes, rng));
            maybe_only_length(*position, bytes, rng, pieces);
        }
        (Edit::Write { position, bytes }, Fate::Lost) => maybe_only_length(*position, bytes, rng, pieces),
    }
}

/// File systems may store the new length of a file and not the data below it, which then reads as zeros.
fn maybe_only_length<'a>(position: u64, bytes: &[u8], rng: &mut SplitMix, pieces: &mut Vec<Piece<'a>>) {
    if !bytes.is_empty() && rng.chance(15) {
        pieces.push(Piece::Grow(position + bytes.len() as u64));
    }
}

fn tear<'a>(position: u64, bytes: &'a [u8], rng: &mut SplitMix) -> Vec<Piece<'a>> {
    let mut pieces: Vec<Piece<'a>> = sectors(position, bytes).collect();
    if rng.chance(50) {
        pieces.retain(|_| rng.chance(50));
    } else {
        pieces.truncate(index(rng.below(pieces.len() as u64 + 1)));
    }
    if let Some(Piece::Bytes { bytes, .. }) = pieces.last_mut()
        && rng.chance(50)
    {
        let whole = *bytes;
        *bytes = &whole[..index(rng.below(whole.len() as u64 + 1))];
    }
    pieces
}

/// A write cut at the borders of sectors.
fn sectors(position: u64, bytes: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let start = position + done as u64;
        let to_border = index(SECTOR_BYTES - start % SECTOR_BYTES);
        let end = bytes.len().min(done + to_border);
        let piece = bytes.get(done..end).filter(|piece| !piece.is_empty())?;
        done = end;
        Some(Piece::Bytes { position: start, bytes: piece })
    })
}
