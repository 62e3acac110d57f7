//! What can happen to definitions, and how it is written: one JSON record per event, with the format's version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Index, Relation, RelationId, Sink, Topic};

/// A change of definitions. Events of one entry are applied together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A topic exists from now on.
    TopicCreated {
        /// The topic.
        topic: Topic,
    },
    /// A topic has more partitions.
    PartitionsAdded {
        /// Which topic.
        topic: Uuid,
        /// How many it has now.
        partitions: i32,
    },
    /// A topic's settings changed.
    TopicConfigured {
        /// Which topic.
        topic: Uuid,
        /// All settings that differ from the defaults now.
        configs: BTreeMap<String, String>,
    },
    /// A topic is gone.
    TopicDeleted {
        /// Which topic.
        topic: Uuid,
    },
    /// A relation exists from now on.
    RelationCreated {
        /// The relation.
        relation: Box<Relation>,
    },
    /// Relations are gone, dependents first.
    RelationsDropped {
        /// Which ones.
        relations: Vec<RelationId>,
    },
    /// Relations are built aside, each to take the place of one that lives on until then.
    ReplacementBegun {
        /// What goes: what was asked for, then what depends on it, in order of id.
        old: Vec<RelationId>,
        /// What comes, in the same order.
        new: Vec<Relation>,
    },
    /// What was aside has taken the names of what it replaces, which is gone.
    ReplacementFinished {
        /// The first of `old`.
        of: RelationId,
    },
    /// What was aside is gone, what was to be replaced stays.
    ReplacementAbandoned {
        /// The first of `old`.
        of: RelationId,
    },
    /// Relations have other names, texts or settings; their ids, columns and dependencies stay.
    RelationsAltered {
        /// As they are now.
        relations: Vec<Relation>,
    },
    /// A sink exists from now on.
    SinkCreated {
        /// The sink.
        sink: Box<Sink>,
    },
    /// Sinks are gone; their topics stay.
    SinksDropped {
        /// Which ones.
        sinks: Vec<RelationId>,
    },
    /// An index exists from now on.
    IndexCreated {
        /// The index.
        index: Box<Index>,
    },
    /// Indexes are gone. Those of a dropped relation go with it, without an event of their own.
    IndexesDropped {
        /// Which ones.
        indexes: Vec<RelationId>,
    },
    /// Producer ids below this have been, or may have been, handed out.
    ProducerIdsReserved {
        /// The first id that is certainly free.
        until: i64,
    },
}

#[derive(Serialize, Deserialize)]
struct Versioned<E> {
    v: u8,
    #[serde(flatten)]
    event: E,
}

const VERSION: u8 = 1;

/// A record's value.
#[must_use]
pub fn encode(event: &Event) -> Vec<u8> {
    serde_json::to_vec(&Versioned { v: VERSION, event }).expect("events have string keys only")
}

/// Reads a record's value back. An unknown version or event is an error that names it.
pub fn decode(value: &[u8]) -> Result<Event, serde_json::Error> {
    let Versioned { v, event } = serde_json::from_slice::<Versioned<Event>>(value)?;
    if v != VERSION {
        return Err(serde::de::Error::custom(format!("catalog record has version {v}, this build reads {VERSION}")));
    }
    Ok(event)
}
