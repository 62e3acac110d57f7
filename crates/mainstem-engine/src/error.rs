//! What can go wrong in the engine, by what the caller can do about it.

use crate::input_log::LogError;

/// An error of the engine.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// No live relation of that id.
    #[error("relation {0} does not exist")]
    UnknownRelation(u32),
    /// The view still reads history.
    #[error("materialized view \"{name}\" is still being created; SHOW JOBS tells how far it is")]
    NotReady {
        /// The view.
        name: String,
    },
    /// The view cannot run: its graph is not understood, or its history could not be read.
    #[error("materialized view \"{name}\" cannot run: {reason}")]
    ViewFailed {
        /// The view.
        name: String,
        /// Why.
        reason: String,
    },
    /// A sink cannot go on.
    #[error("the sink has stopped: {0}")]
    SinkFailed(String),
    /// An operator graph, or part of one, that this build cannot run.
    #[error("operator graph: {0}")]
    Graph(String),
    /// Stored state that is not what was written, or of another version.
    #[error("stored state: {0}")]
    State(String),
    /// Reading the log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Writing or reading a checkpoint failed.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}
