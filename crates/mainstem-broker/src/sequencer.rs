//! The one place where definitions change, one after the other.
//!
//! The catalog's topic holds records of two kinds, told by their keys: `event` - the value is one catalog event as JSON -
//! and `cluster_id` - the value is the id made at the first start.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_catalog::{CATALOG_TOPIC, Catalog, Event, Refused, Topic, decode, encode};
use mainstem_disk::{Clock, Random};
use mainstem_kafka_wire::batch::Compression;
use mainstem_kafka_wire::records::RecordBatchBuilder;
use mainstem_log::{
    AppendError, Atomicity, Condition, Csn, Entry, Log, Part, PartitionConfig, TopicId, TopicPartition, Urgency,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::broker::{Broker, CATALOG_PARTITION, OpenError, for_each_record, new_uuid};
use crate::topic_config::TopicSettings;

const EVENT_KEY: &[u8] = b"event";
const CLUSTER_ID_KEY: &[u8] = b"cluster_id";

/// A change of definitions, with what becomes durable together with it.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Applied together or not at all; when there are none, nothing is written.
    pub events: Vec<Event>,
    /// Records of other topics that belong to the change. Partitions of topics that the change makes may be named.
    pub parts: Vec<Part>,
}

impl From<Vec<Event>> for Change {
    fn from(events: Vec<Event>) -> Self {
        Self { events, parts: Vec::new() }
    }
}

/// Why definitions did not change.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// The caller's own decision.
    #[error("{0}")]
    Decided(E),
    /// The catalog refuses an event.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The log refuses the entry.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The process is ending.
    #[error("the change was interrupted")]
    Interrupted,
}

#[derive(Debug)]
pub(crate) struct Sequencer {
    newest: Mutex<Newest>,
    published: watch::Sender<Arc<Catalog>>,
    cluster_id: String,
}

#[derive(Debug)]
struct Newest {
    catalog: Arc<Catalog>,
    end_offset: i64,
}

/// What the catalog's topic holds.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) catalog: Catalog,
    cluster_id: Option<String>,
}

pub(crate) fn load(log: &Log) -> Result<Loaded, OpenError> {
    log.create_partition(CATALOG_PARTITION, PartitionConfig::default());
    let mut loaded = Loaded::default();
    for_each_record(log, CATALOG_TOPIC, CATALOG_PARTITION, |record| {
        let value = record.value.unwrap_or_default();
        match record.key.as_deref() {
            Some(EVENT_KEY) => {
                let event = decode(&value).map_err(|error| error.to_string())?;
                loaded.catalog.apply(&event).map_err(|error| error.to_string())
            }
            Some(CLUSTER_ID_KEY) => {
                loaded.cluster_id = Some(String::from_utf8_lossy(&value).into_owned());
                Ok(())
            }
            key => Err(format!("the key {key:?} is none that this build knows")),
        }
    })?;
    Ok(loaded)
}

impl Sequencer {
    /// Goes on from what was loaded; the first time, makes the cluster id.
    pub(crate) fn open(log: &Log, loaded: Loaded, clock: &dyn Clock, random: &dyn Random) -> Result<Self, OpenError> {
        let cluster_id = match loaded.cluster_id {
            Some(id) => id,
            None => {
                let id = base64_url(new_uuid(random).as_bytes());
                let mut records = RecordBatchBuilder::new(Compression::None);
                records.append(clock.wall_ms(), Some(CLUSTER_ID_KEY), Some(id.as_bytes()), &[]);
                let part = Part { to: CATALOG_PARTITION, batches: records.build() };
                let entry = Entry { parts: vec![part], conditions: Vec::new(), atomicity: Atomicity::Whole };
                log.append_and_wait(entry, Urgency::Reserve)?;
                id
            }
        };
        let end_offset = log.partition(CATALOG_PARTITION).map_or(0, |state| state.end_offset);
        let catalog = Arc::new(loaded.catalog);
        let newest = Mutex::new(Newest { catalog: Arc::clone(&catalog), end_offset });
        Ok(Self { newest, published: watch::Sender::new(catalog), cluster_id })
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.published.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Catalog>> {
        self.published.subscribe()
    }

    pub(crate) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }
}

impl Broker {
    /// Changes definitions. `decide` sees the newest ones, and nobody else changes them meanwhile: it gives the events, and
    /// records of other topics that belong to them, which are appended as one entry. When this returns they are durable,
    /// applied and published, the partitions of new topics exist, and those of deleted topics are gone. Cancel-safe: a
    /// change that has begun is finished.
    pub async fn change_catalog<C, E, F>(&self, decide: F) -> Result<(Arc<Catalog>, Csn), ChangeError<E>>
    where
        F: FnOnce(&Catalog) -> Result<C, E> + Send + 'static,
        C: Into<Change>,
        E: Send + 'static,
    {
        let broker = self.clone();
        let changed = tokio::task::spawn_blocking(move || broker.change_catalog_blocking(decide)).await;
        changed.unwrap_or(Err(ChangeError::Interrupted))
    }

    /// [`Broker::change_catalog`] for threads that may block.
    pub fn change_catalog_blocking<C, E>(
        &self,
        decide: impl FnOnce(&Catalog) -> Result<C, E>,
    ) -> Result<(Arc<Catalog>, Csn), ChangeError<E>>
    where
        C: Into<Change>,
    {
        let mut newest = self.inner.sequencer.newest.lock();
        let change: Change = decide(&newest.catalog).map_err(ChangeError::Decided)?.into();
        if change.events.is_empty() && change.parts.is_empty() {
            return Ok((Arc::clone(&newest.catalog), self.log().visible()));
        }
        let before = Arc::clone(&newest.catalog);
        let mut after = Catalog::clone(&before);
        after.apply_all(&change.events)?;
        let made = self.make_partitions(&before, &after);
        let csn = match self.append_change(&change, newest.end_offset) {
            Ok(csn) => csn,
            Err(error) => {
                made.iter().for_each(|topic| self.remove_partitions(topic));
                return Err(error.into());
            }
        };
        newest.end_offset += i64::try_from(change.events.len()).expect("fits a batch");
        let after = Arc::new(after);
        newest.catalog = Arc::clone(&after);
        self.inner.sequencer.published.send_replace(Arc::clone(&after));
        self.finish_change(&before, &after, &change.events);
        Ok((after, csn))
    }

    fn append_change(&self, change: &Change, end_offset: i64) -> Result<Csn, AppendError> {
        let is_freeing = |event: &Event| {
            use Event::{IndexesDropped, RelationsDropped, ReplacementAbandoned, SinksDropped, TopicDeleted};
            matches!(
                event,
                TopicDeleted { .. }
                    | RelationsDropped { .. }
                    | ReplacementAbandoned { .. }
                    | SinksDropped { .. }
                    | IndexesDropped { .. }
            )
        };
        let urgency = if change.events.iter().all(is_freeing) { Urgency::Reserve } else { Urgency::Ordinary };
        let mut parts = change.parts.clone();
        let mut conditions = Vec::new();
        if !change.events.is_empty() {
            let batches = self.event_records(&change.events);
            parts.insert(0, Part { to: CATALOG_PARTITION, batches });
            conditions.push(Condition::EndOffset { of: CATALOG_PARTITION, is: end_offset });
        }
        let entry = Entry { parts, conditions, atomicity: Atomicity::Whole };
        Ok(self.log().append_and_wait(entry, urgency)?.csn)
    }

    fn event_records(&self, events: &[Event]) -> Bytes {
        let now_ms = self.inner.clock.wall_ms();
        let mut records = RecordBatchBuilder::new(Compression::None);
        for event in events {
            records.append(now_ms, Some(EVENT_KEY), Some(&encode(event)), &[]);
        }
        records.build()
    }

    /// Makes the partitions that `after` has and `before` has not; gives the topics that are new.
    fn make_partitions(&self, before: &Catalog, after: &Catalog) -> Vec<Arc<Topic>> {
        let mut made = Vec::new();
        for topic in after.topics() {
            let had = before.topic(topic.id).map_or(0, |topic| topic.partitions);
            let settings = TopicSettings::of(topic, &self.inner.config);
            for partition in had..topic.partitions {
                self.log().create_partition(TopicPartition::new(TopicId(topic.id), partition), settings.partition);
            }
            if had == 0 {
                made.push(Arc::clone(topic));
            }
        }
        made
    }

    fn remove_partitions(&self, topic: &Topic) {
        self.log().delete_topic(TopicId(topic.id), topic.partitions);
    }

    /// What follows from a change that is durable.
    fn finish_change(&self, before: &Catalog, after: &Catalog, events: &[Event]) {
        for event in events {
            match event {
                Event::TopicDeleted { topic } => {
                    let Some(topic) = before.topic(*topic) else { continue };
                    self.remove_partitions(topic);
                    self.inner.groups.topic_deleted(&topic.name);
                }
                Event::TopicConfigured { topic, .. } => {
                    let Some(topic) = after.topic(*topic) else { continue };
                    let settings = TopicSettings::of(topic, &self.inner.config);
                    for partition in 0..topic.partitions {
                        let tp = TopicPartition::new(TopicId(topic.id), partition);
                        self.log().configure_partition(tp, settings.partition);
                    }
                }
                Event::TopicCreated { .. }
                | Event::PartitionsAdded { .. }
                | Event::RelationCreated { .. }
                | Event::RelationsDropped { .. }
                | Event::RelationsAltered { .. }
                | Event::ReplacementBegun { .. }
                | Event::ReplacementFinished { .. }
                | Event::ReplacementAbandoned { .. }
                | Event::SinkCreated { .. }
                | Event::SinksDropped { .. }
                | Event::IndexCreated { .. }
                | Event::IndexesDropped { .. }
                | Event::ProducerIdsReserved { .. } => {}
            }
        }
    }
}

/// Kafka's form of a 16 byte id: base64url without padding.
fn base64_url(bytes: &[u8; 16]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = u128::from_be_bytes(*bytes);
    let digit = |i: u32| {
        // 22 digits of 6 bits: the last one holds 2 bits and 4 zeros.
        let shifted = if i < 21 { bits >> (122 - 6 * i) } else { bits << 4 };
        char::from(DIGITS[usize::try_from(shifted & 63).expect("six bits")])
    };
    (0..22).map(digit).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_written_as_kafka_does() {
        assert_eq!(super::base64_url(&[0; 16]), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(super::base64_url(&[255; 16]), "_____________________w");
        assert_eq!(super::base64_url(b"Mainstem-cluster"), "TWFpbnN0ZW0tY2x1c3Rlcg");
    }
}
