//! Checkpoints of the lane: what is in one, writing it, loading the newest that is whole.
//!
//! Sections (see `mainstem-state` for the file): `meta` of nothing; per source and table `input`; per view `view` and, under
//! the operator's id, `operator`; per table and view `chunk`s; per sink that has failed `failed_output`, the reason. `meta`, `input` and `view` are JSON, `operator` and `chunk`
//! are the encodings of the circuit and of the collection.
//!
//! Always true here: everything in a checkpoint is as of its one cut; dead letters up to the cut were durable before the
//! checkpoint was; what cannot be read in full is not used at all, and the next older one is tried.

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
use crate::lane::{InputState, ViewState};

/// Rows in chunks and operators are in this encoding. When Arrow changes it, checkpoints are not read and history is.
const ROW_FORMAT: &str = "arrow-row-58";

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    cut: Cut,
    row_format: String,
}

/// What goes into a checkpoint, taken between two versions. Collections are shared, the rest is small or serialised.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) cut: Cut,
    pub(crate) inputs: BTreeMap<RelationId, InputState>,
    pub(crate) views: BTreeMap<RelationId, ViewState>,
    pub(crate) operators: Vec<(RelationId, OperatorId, Vec<u8>)>,
    pub(crate) collections: BTreeMap<RelationId, Arc<Version>>,
    /// Sinks that have stopped for good, and why: what changed since is not written.
    pub(crate) failed_outputs: BTreeMap<RelationId, String>,
}

/// What was in a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) cut: Cut,
    pub(crate) inputs: BTreeMap<RelationId, InputState>,
    pub(crate) views: BTreeMap<RelationId, ViewState>,
    pub(crate) operators: BTreeMap<RelationId, Vec<(OperatorId, Vec<u8>)>>,
    pub(crate) chunks: BTreeMap<RelationId, Vec<Vec<u8>>>,
    pub(crate) failed_outputs: BTreeMap<RelationId, String>,
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
    for (id, state) in &snapshot.views {
        writer.section(&SectionKey::new(id.0, 0, "view"), &json(serde_json::to_vec(state)))?;
    }
    for (id, reason) in &snapshot.failed_outputs {
        writer.section(&SectionKey::new(id.0, 0, "failed_output"), reason.as_bytes())?;
    }
    for (id, operator, bytes) in &snapshot.operators {
        writer.section(&SectionKey::new(id.0, operator.0, "operator"), bytes)?;
    }
    for (id, version) in &snapshot.collections {
        let mut result = Ok(());
        version.save(&mut |bytes| {
            if result.is_ok() {
                result = writer.section(&SectionKey::new(id.0, 0, "chunk"), bytes);
            }
        });
        result?;
    }
    let bytes = writer.finish()?;
    if let Err(error) = remove_older(&**disk, directory, before.unwrap_or(sequence)) {
        tracing::warn!(%error, "an old checkpoint could not be removed");
    }
    Ok(bytes)
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
            "view" => {
                loaded.views.insert(id, parse(&section.bytes)?);
            }
            "operator" => {
                loaded.operators.entry(id).or_default().push((OperatorId(section.key.operator), section.bytes));
            }
            "failed_output" => {
                let reason = String::from_utf8_lossy(&section.bytes).into_owned();
                loaded.failed_outputs.insert(id, reason);
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
    Ok(loaded)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(bytes).map_err(|error| EngineError::Checkpoint(error.to_string()))
}
