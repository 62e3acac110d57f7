//! Topics: CreateTopics, DeleteTopics, CreatePartitions, DeleteRecords, creation on demand, retention and compaction, and
//! their settings.

mod configs;
mod create;
mod delete;
mod delete_records;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mainstem_catalog::{Catalog, Event, OFFSETS_TOPIC, Topic, TopicName, TopicOwner, check_topic_name};
use mainstem_kafka_wire::messages::ResponseError;

use crate::broker::{Broker, new_uuid};
use crate::codec::Refusal;
use crate::sequencer::ChangeError;

/// Topics of this name belong to Mainstem.
const RESERVED_PREFIX: &str = "__mainstem";
/// What compaction reads between two looks at its share of the disk.
const COMPACTION_STEP_BYTES: u64 = 4 << 20;

impl Broker {
    /// Makes those of these topics that can be made; gives the definitions then.
    pub(crate) async fn auto_create(&self, names: Vec<TopicName>) -> Arc<Catalog> {
        let partitions = self.inner.config.default_partitions;
        let offsets_partitions = self.inner.config.offsets_topic_partitions;
        let random = Arc::clone(&self.inner.random);
        let changed = self.change_catalog(move |catalog| {
            let mut events = Vec::new();
            let mut after = catalog.clone();
            for name in names {
                let is_offsets = name == OFFSETS_TOPIC;
                if check_topic_name(&name).is_err() || name.starts_with(RESERVED_PREFIX) {
                    continue;
                }
                let topic = Topic {
                    id: new_uuid(&*random),
                    name,
                    partitions: if is_offsets { offsets_partitions } else { partitions },
                    owner: if is_offsets { TopicOwner::Internal } else { TopicOwner::Anyone },
                    configs: BTreeMap::new(),
                };
                let event = Event::TopicCreated { topic };
                // It may have come into being meanwhile.
                if after.apply(&event).is_ok() {
                    events.push(event);
                }
            }
            Ok::<_, Infallible>(events)
        });
        match changed.await {
            Ok((catalog, _)) => catalog,
            Err(error) => {
                tracing::warn!(%error, "cannot create topics on demand");
                self.catalog()
            }
        }
    }

    /// Makes `__consumer_offsets` when the first group needs it.
    pub(crate) async fn ensure_offsets_topic(&self) -> Result<(), String> {
        let make = || async {
            let catalog = match self.catalog().topic_named(OFFSETS_TOPIC) {
                Some(_) => self.catalog(),
                None => self.auto_create(vec![OFFSETS_TOPIC.to_owned()]).await,
            };
            let topic = catalog.topic_named(OFFSETS_TOPIC).ok_or("the topic of group offsets cannot be created")?;
            self.inner.groups.loaded(mainstem_log::TopicId(topic.id), topic.partitions);
            Ok::<_, String>(())
        };
        self.inner.offsets_topic.get_or_try_init(make).await?;
        Ok(())
    }

    /// Removes what retention says can go.
    pub(crate) async fn retention(&self) {
        let log = self.log().clone();
        match tokio::task::spawn_blocking(move || log.apply_retention()).await {
            Ok(report) if report.segments > 0 => tracing::info!(?report, "old segments are gone"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "retention was interrupted"),
        }
    }
}

impl Broker {
    /// Compacts what is due, step by step, and rests between.
    pub(crate) async fn compact_for_ever(&self) {
        let rest = Duration::from_millis(self.inner.config.compaction_check_ms);
        let per_second = self.inner.config.compaction_bytes_per_second.max(1);
        let pause = Duration::from_secs_f64(COMPACTION_STEP_BYTES as f64 / per_second as f64);
        loop {
            let log = self.log().clone();
            let is_done = match tokio::task::spawn_blocking(move || log.compact(COMPACTION_STEP_BYTES)).await {
                Ok(report) => {
                    if report.segments > 0 || report.runs_abandoned > 0 {
                        tracing::info!(?report, "compacted");
                    }
                    report.is_done
                }
                Err(error) => {
                    tracing::warn!(%error, "compaction was interrupted");
                    true
                }
            };
            tokio::time::sleep(if is_done { rest } else { pause }).await;
        }
    }
}

/// Why a client's change of definitions did not happen.
fn refusal_of_change(error: &ChangeError<Infallible>) -> Refusal {
    let kind = match error {
        ChangeError::Decided(never) => match *never {},
        ChangeError::Refused(_) => ResponseError::InvalidRequest,
        ChangeError::Append(_) => ResponseError::KafkaStorageError,
        ChangeError::Interrupted => ResponseError::CoordinatorNotAvailable,
    };
    Refusal::new(kind, error.to_string())
}
