//! Checkpoints: what is in one, applying it to the store, starting from it.
//!
//! One ingestion of the store is one checkpoint: what the owners have handed over (see [`crate::state`]), and under the keys of
//! no owner, as JSON: `meta`; per table `input/<id>`; per lane, under the id of its first view, `lane/<id>`: its cut, its
//! views, and its sources as of that cut; per backfill `backfill/<id>`, in the same form; per table and view `relation/<id>`; per sink that has failed `failed_output/<id>`,
//! why. Of these only what changed is written. What the store holds of owners that are in no checkpoint any more is removed
//! by the same ingestion, or, under `gone/<id>/<generation>`, by the first one at which nobody reads it any more: a lane that
//! is at its last step, a SELECT over a dropped view.
//!
//! Always true here: tables are as of the cut in `meta`, and so are lanes that read tables; dead letters up to these cuts
//! were durable before the checkpoint was; a store that cannot be read is emptied, and history read again.

use std::collections::BTreeMap;

use mainstem_catalog::RelationId;
use mainstem_state::{Change, StateError, after_prefix};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::collection::ContentState;
use crate::error::EngineError;
use crate::input_log::Cut;
use crate::lane::{InputState, ViewState};
use crate::state::{Handed, KEY_FORMAT, Owner, StateRoot, meta_key};

/// Rows in blocks and operators are in this encoding. When Arrow changes it, checkpoints are not read and history is.
const ROW_FORMAT: &str = "arrow-row-58";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    cut: Cut,
    row_format: String,
    key_format: u32,
    /// Of the newest owner.
    generation: u32,
}

/// A lane but for what its views hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaneState {
    pub(crate) cut: Cut,
    pub(crate) views: Vec<RelationId>,
    pub(crate) inputs: Vec<(RelationId, InputState)>,
}

/// What a checkpoint keeps of a table or a view beside what its owner wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) generation: u32,
    /// Of the last version that changed the content.
    pub(crate) cut: Cut,
    pub(crate) content: ContentState,
    /// Of views.
    pub(crate) view: Option<ViewState>,
}

/// What goes into a checkpoint. What is large is shared.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) cut: Cut,
    pub(crate) generation: u32,
    pub(crate) inputs: BTreeMap<RelationId, InputState>,
    pub(crate) relations: BTreeMap<RelationId, Kept>,
    pub(crate) lanes: Vec<LaneState>,
    /// Of one view each, which read history.
    pub(crate) backfills: Vec<LaneState>,
    pub(crate) handed: Vec<Handed>,
    /// Sinks that have stopped for good, and why: what changed since is not written.
    pub(crate) failed_outputs: BTreeMap<RelationId, String>,
}

/// What was in a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) cut: Cut,
    pub(crate) generation: u32,
    pub(crate) inputs: BTreeMap<RelationId, InputState>,
    pub(crate) lanes: Vec<LaneState>,
    pub(crate) backfills: Vec<LaneState>,
    pub(crate) relations: BTreeMap<RelationId, Kept>,
    pub(crate) failed_outputs: BTreeMap<RelationId, String>,
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data with text as names")
}

fn key_of(kind: &str, id: RelationId) -> Vec<u8> {
    meta_key(&format!("{kind}/{:010}", id.0))
}

/// Of an owner that is no more, while somebody may read what is its.
fn key_of_gone(owner: Owner) -> Vec<u8> {
    meta_key(&format!("gone/{:010}/{:010}", owner.relation.0, owner.generation))
}

impl Snapshot {
    /// Where a replay begins.
    pub(crate) fn least_cut(&self) -> Cut {
        self.lanes.iter().map(|lane| lane.cut).fold(self.cut, Cut::min)
    }

    /// What a table or view in it is as of; none of what is not in it.
    pub(crate) fn cut_of(&self, id: RelationId) -> Option<Cut> {
        let lane = self.lanes.iter().find(|lane| lane.views.contains(&id));
        lane.map(|lane| lane.cut).or_else(|| self.inputs.contains_key(&id).then_some(self.cut))
    }

    fn entries(&self) -> Entries {
        let (row_format, key_format) = (ROW_FORMAT.to_owned(), KEY_FORMAT);
        let meta = Meta { cut: self.cut, row_format, key_format, generation: self.generation };
        let inputs = self.inputs.iter().map(|(id, state)| (key_of("input", *id), json(state)));
        let relations = self.relations.iter().map(|(id, kept)| (key_of("relation", *id), json(kept)));
        let first = |lane: &LaneState| lane.views.first().copied().unwrap_or(RelationId(0));
        let lanes = self.lanes.iter().map(|lane| (key_of("lane", first(lane)), json(lane)));
        let backfills = self.backfills.iter().map(|state| (key_of("backfill", first(state)), json(state)));
        let failed = self.failed_outputs.iter().map(|(id, reason)| (key_of("failed_output", *id), json(reason)));
        inputs
            .chain(lanes)
            .chain(backfills)
            .chain(relations)
            .chain(failed)
            .chain([(meta_key("meta"), json(&meta))])
            .collect()
    }
}

fn entries(root: &StateRoot) -> Result<Entries, StateError> {
    root.store().scan(&meta_key(""), Some(&[1])).collect()
}

/// Applies a checkpoint; it is durable when this returns, or nothing of it is. Answers the bytes that were written.
pub(crate) fn write(root: &StateRoot, snapshot: &Snapshot) -> Result<u64, EngineError> {
    let written = apply(root, snapshot).and_then(|bytes| {
        match root.store().maintain() {
            Err(error @ StateError::Io { .. }) => {
                tracing::warn!(%error, "the state store's files are not put in order")
            }
            result => result?,
        }
        Ok(bytes)
    });
    written.map_err(|error| {
        let is_damage = matches!(error, StateError::Damaged { .. });
        let error = EngineError::from(error);
        if is_damage {
            root.note_damage(&error);
        }
        error
    })
}

fn apply(root: &StateRoot, snapshot: &Snapshot) -> Result<u64, StateError> {
    let (before, mut now) = (entries(root)?, snapshot.entries());
    let mut parts: BTreeMap<Vec<u8>, Changes<'_>> = BTreeMap::new();
    let unreadable = |error: EngineError| StateError::Damaged { place: "meta".to_owned(), meaning: error.to_string() };
    for owner in owners(&before).map_err(unreadable)? {
        let is_kept = |kept: &Kept| kept.generation == owner.generation;
        if !snapshot.relations.get(&owner.relation).is_some_and(is_kept) {
            if root.is_read(owner) {
                now.insert(key_of_gone(owner), json(&owner));
                continue;
            }
            let prefix = owner.prefix();
            let gone = root.store().scan(&prefix, after_prefix(&prefix).as_deref());
            parts.insert(prefix, Box::new(gone.map(|entry| entry.map(|(key, _)| (key, None)))));
        }
    }
    let is_new = |(key, value): &(&Vec<u8>, &Vec<u8>)| before.get(*key) != Some(*value);
    let mut metas: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
        now.iter().filter(is_new).map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    metas.extend(before.keys().filter(|key| !now.contains_key(*key)).map(|key| (key.clone(), None)));
    for handed in &snapshot.handed {
        parts.insert(handed.owner.prefix(), Box::new(handed.changes()));
    }
    let mut changes = metas.into_iter().map(Ok).chain(parts.into_values().flatten());
    root.store().apply(&mut changes)
}

type Changes<'a> = Box<dyn Iterator<Item = Result<Change, StateError>> + 'a>;

/// All of whom the store has something.
fn owners(entries: &Entries) -> Result<Vec<Owner>, EngineError> {
    let relations = relations(entries)?;
    let kept = relations.into_iter().map(|(relation, kept)| Ok(Owner { relation, generation: kept.generation }));
    let prefix = meta_key("gone/");
    let gone = entries.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    kept.chain(gone.map(|(_, owner)| parse(owner))).collect()
}

fn relations(entries: &Entries) -> Result<BTreeMap<RelationId, Kept>, EngineError> {
    of_kind(entries, "relation")
}

fn of_kind<T: DeserializeOwned>(entries: &Entries, kind: &str) -> Result<BTreeMap<RelationId, T>, EngineError> {
    let prefix = meta_key(&format!("{kind}/"));
    let under = entries.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    let entry = |(key, value): (&Vec<u8>, &Vec<u8>)| {
        let id = std::str::from_utf8(&key[prefix.len()..]).ok().and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| EngineError::Checkpoint(format!("{kind} of no relation")))?;
        Ok((RelationId(id), parse(value)?))
    };
    under.map(entry).collect()
}

/// What the store has to start from; the reason, if it has something that cannot be used. Fails when the disk does.
pub(crate) fn load(root: &StateRoot) -> Result<Result<Option<Loaded>, EngineError>, EngineError> {
    match entries(root) {
        Ok(entries) => Ok(read(&entries)),
        Err(error @ StateError::Damaged { .. }) => Ok(Err(error.into())),
        Err(error) => Err(error.into()),
    }
}

fn read(entries: &Entries) -> Result<Option<Loaded>, EngineError> {
    let Some(meta) = entries.get(&meta_key("meta")) else { return Ok(None) };
    let meta: Meta = parse(meta)?;
    if meta.row_format != ROW_FORMAT || meta.key_format != KEY_FORMAT {
        let (rows, keys) = (meta.row_format, meta.key_format);
        let text =
            format!("rows are in format {rows} and keys in {keys}, this build reads {ROW_FORMAT} and {KEY_FORMAT}");
        return Err(EngineError::Checkpoint(text));
    }
    let (inputs, relations) = (of_kind(entries, "input")?, relations(entries)?);
    let lanes = of_kind(entries, "lane")?.into_values().collect();
    let backfills = of_kind(entries, "backfill")?.into_values().collect();
    let failed_outputs = of_kind(entries, "failed_output")?;
    let Meta { cut, generation, .. } = meta;
    Ok(Some(Loaded { cut, generation, inputs, lanes, backfills, relations, failed_outputs }))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(bytes).map_err(|error| EngineError::Checkpoint(error.to_string()))
}
