//! Checkpoints: what is in one, writing it, loading the newest that is whole.
//!
//! Sections (see `mainstem-state` for the file): `meta` of nothing; per table `input`; per lane, under the id of its first
//! view, `lane`: its cut, its views, and its sources as of that cut; per view `view` and, under the operator's id,
//! `operator`; per table and view `chunk`s. `meta`, `input`, `lane` and `view` are JSON, `operator` and `chunk` are the
//! encodings of the circuit and of the collection. Files without `lane` hold one lane at the one cut, with an `input` per
//! source.
//!
//! Always true here: tables are as of the cut in `meta`, and so are lanes that read tables; dead letters up to these cuts
//! were durable before the checkpoint was; what cannot be read in full is not used at all, and the next older one is tried.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstem_catalog::RelationId;
use mainstem_sql::OperatorId;
use mainstem_state::{CheckpointError, CheckpointReader, CheckpointWriter, Disk, SectionKey, newest, remove_older};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::collection::Version;
use crate::error::EngineError;
use crate::input_log::Cut;
use crate::lane::{InputState, LanePart, ViewState};

/// Rows in chunks and operators are in this encoding. When Arrow changes it, checkpoints are not read and history is.
const ROW_FORMAT: &str = "arrow-row-58";

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    cut: Cut,
    row_format: String,
}

/// A lane but for what its views hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LaneState {
    pub(crate) cut: Cut,
    pub(crate) views: Vec<RelationId>,
    pub(crate) inputs: Vec<(RelationId, InputState)>,
}

/// What goes into a checkpoint. Collections are shared, the rest is small or serialised.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Of tables.
    pub(crate) cut: Cut,
    pub(crate) inputs: BTreeMap<RelationId, InputState>,
    pub(crate) collections: BTreeMap<RelationId, Arc<Version>>,
    pub(crate) lanes: Vec<LanePart>,
}

impl Snapshot {
    /// Where a replay begins.
    pub(crate) fn least_cut(&self) -> Cut {
        self.lanes.iter().map(|lane| lane.cut).fold(self.cut, Cut::min)
    }
}

/// What was in a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) cut: Cut,
    pub(crate) inputs: BTreeMap<RelationId, InputState>,
    pub(crate) lanes: Vec<LaneState>,
    pub(crate) views: BTreeMap<RelationId, ViewState>,
    pub(crate) operators: BTreeMap<RelationId, Vec<(OperatorId, Vec<u8>)>>,
    pub(crate) chunks: BTreeMap<RelationId, Vec<Vec<u8>>>,
}

impl From<CheckpointError> for EngineError {
    fn from(error: CheckpointError) -> EngineError {
        EngineError::Checkpoint(error.to_string())
    }
}

/// Writes a checkpoint; it is durable when this returns. The one before it stays, older ones go.
pub(crate) fn write(
    disk: &Arc<dyn Disk>,
    directory: &str,
    sequence: u64,
    snapshot: &Snapshot,
) -> Result<u64, EngineError> {
    let before = newest(&**disk, directory)?.into_iter().find(|older| *older < sequence);
    let mut writer = CheckpointWriter::create(disk.clone(), directory, sequence)?;
    let json = |value: serde_json::Result<Vec<u8>>| value.expect("plain data with text as names");
    let meta = Meta { cut: snapshot.cut, row_format: ROW_FORMAT.to_owned() };
    writer.section(&SectionKey::new(0, 0, "meta"), &json(serde_json::to_vec(&meta)))?;
    for (id, state) in &snapshot.inputs {
        writer.section(&SectionKey::new(id.0, 0, "input"), &json(serde_json::to_vec(state)))?;
    }
    save_collections(&mut writer, &snapshot.collections)?;
    for part in &snapshot.lanes {
        let state = LaneState {
            cut: part.cut,
            views: part.views.keys().copied().collect(),
            inputs: part.inputs.iter().map(|(id, state)| (*id, state.clone())).collect(),
        };
        let first = state.views.first().map_or(0, |id| id.0);
        writer.section(&SectionKey::new(first, 0, "lane"), &json(serde_json::to_vec(&state)))?;
        for (id, state) in &part.views {
            writer.section(&SectionKey::new(id.0, 0, "view"), &json(serde_json::to_vec(state)))?;
        }
        for (id, operator, bytes) in &part.operators {
            writer.section(&SectionKey::new(id.0, operator.0, "operator"), bytes)?;
        }
        save_collections(&mut writer, &part.collections)?;
    }
    let bytes = writer.finish()?;
    if let Err(error) = remove_older(&**disk, directory, before.unwrap_or(sequence)) {
        tracing::warn!(%error, "an old checkpoint could not be removed");
    }
    Ok(bytes)
}

fn save_collections(
    writer: &mut CheckpointWriter,
    collections: &BTreeMap<RelationId, Arc<Version>>,
) -> Result<(), EngineError> {
    for (id, version) in collections {
        let mut result = Ok(());
        version.save(&mut |bytes| {
            if result.is_ok() {
                result = writer.section(&SectionKey::new(id.0, 0, "chunk"), bytes);
            }
        });
        result?;
    }
    Ok(())
}

/// What there is to start from: hands checkpoints to `accept`, the newest first, until it takes one. Answers why others
/// were not used, and the sequence number for the next one.
pub(crate) fn load(
    disk: &dyn Disk,
    directory: &str,
    accept: &mut dyn FnMut(Loaded) -> Result<(), EngineError>,
) -> Result<(Vec<String>, u64), EngineError> {
    let sequences = newest(disk, directory)?;
    let next = sequences.first().map_or(1, |newest| newest + 1);
    let mut warnings = Vec::new();
    for sequence in sequences {
        match read(disk, directory, sequence).and_then(&mut *accept) {
            Ok(()) => return Ok((warnings, next)),
            Err(error) => {
                tracing::warn!(sequence, %error, "a checkpoint cannot be used");
                warnings.push(format!("checkpoint {sequence} is not used: {error}"));
            }
        }
    }
    Ok((warnings, next))
}

fn read(disk: &dyn Disk, directory: &str, sequence: u64) -> Result<Loaded, EngineError> {
    let mut reader = CheckpointReader::open(disk, directory, sequence)?;
    let (mut loaded, mut meta) = (Loaded::default(), None);
    while let Some(section) = reader.next_section()? {
        let id = RelationId(section.key.relation);
        match section.key.name.as_str() {
            "meta" => meta = Some(parse::<Meta>(&section.bytes)?),
            "input" => {
                loaded.inputs.insert(id, parse(&section.bytes)?);
            }
            "lane" => loaded.lanes.push(parse(&section.bytes)?),
            "view" => {
                loaded.views.insert(id, parse(&section.bytes)?);
            }
            "operator" => {
                loaded.operators.entry(id).or_default().push((OperatorId(section.key.operator), section.bytes));
            }
            "chunk" => loaded.chunks.entry(id).or_default().push(section.bytes),
            other => return Err(EngineError::Checkpoint(format!("unknown section \"{other}\""))),
        }
    }
    let meta = meta.ok_or_else(|| EngineError::Checkpoint("no section \"meta\"".to_owned()))?;
    if meta.row_format != ROW_FORMAT {
        let found = meta.row_format;
        return Err(EngineError::Checkpoint(format!("rows are in format {found}, this build reads {ROW_FORMAT}")));
    }
    loaded.cut = meta.cut;
    if loaded.lanes.is_empty() {
        let inputs = loaded.inputs.iter().map(|(id, state)| (*id, state.clone())).collect();
        loaded.lanes.push(LaneState { cut: meta.cut, views: loaded.views.keys().copied().collect(), inputs });
    }
    Ok(loaded)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(bytes).map_err(|error| EngineError::Checkpoint(error.to_string()))
}
