//! The state: what is defined after some prefix of the events.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{Dependency, Event, Ident, Index, Relation, RelationId, Replacement, Sink, Topic, check_topic_name};
use std::sync::Arc;

/// All live definitions. Cheap to clone and to keep: topics and relations are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    topics: BTreeMap<Uuid, Arc<Topic>>,
    topic_ids: BTreeMap<String, Uuid>,
    deleted_topics: BTreeSet<Uuid>,
    pub(crate) relations: BTreeMap<RelationId, Arc<Relation>>,
    pub(crate) relation_ids: BTreeMap<(Ident, Ident), RelationId>,
    pub(crate) replacements: BTreeMap<RelationId, Replacement>,
    pub(crate) successors: BTreeMap<RelationId, RelationId>,
    sinks: BTreeMap<RelationId, Arc<Sink>>,
    pub(crate) indexes: BTreeMap<RelationId, Arc<Index>>,
    next_relation: u32,
    producer_ids_until: i64,
    version: u64,
}

/// What a topic may have at most. A start makes them all, so that a record with a wrong number would take all memory.
const PARTITIONS_MAX: i32 = 100_000;

/// Why an event does not apply. It says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The name is not acceptable.
    #[error("{0}")]
    InvalidName(String),
    /// The name is taken.
    #[error("{noun} \"{name}\" already exists")]
    Exists {
        /// `topic`, `table`, ...
        noun: &'static str,
        /// Its name.
        name: String,
    },
    /// No such thing.
    #[error("{noun} \"{name}\" does not exist")]
    Missing {
        /// `topic`, `relation`.
        noun: &'static str,
        /// Name or id.
        name: String,
    },
    /// Something else needs it.
    #[error("cannot drop {noun} \"{name}\" because {dependents} depend on it; drop them first, or use CASCADE")]
    InUse {
        /// `topic`, `table`, ...
        noun: &'static str,
        /// Its name.
        name: String,
        /// Who needs it, for people.
        dependents: String,
    },
    /// It takes part in a replacement that is under way.
    #[error("\"{name}\" is being replaced")]
    BeingReplaced {
        /// Its name.
        name: String,
    },
    /// A replacement that cannot be.
    #[error("{0}")]
    Replacement(String),
    /// A number of partitions that cannot be.
    #[error(
        "topic \"{name}\" has {have} partitions and cannot have {asked}: partitions cannot be removed, and {PARTITIONS_MAX} are the \
         most"
    )]
    Partitions {
        /// Topic.
        name: String,
        /// Now.
        have: i32,
        /// Asked for.
        asked: i32,
    },
}

impl Catalog {
    /// Applies one event, or refuses it and stays as it was.
    pub fn apply(&mut self, event: &Event) -> Result<(), Refused> {
        self.take(event)?;
        self.version += 1;
        Ok(())
    }

    fn take(&mut self, event: &Event) -> Result<(), Refused> {
        match event {
            Event::TopicCreated { topic } => self.create_topic(topic),
            Event::PartitionsAdded { topic, partitions } => {
                let topic = self.topic_mut(*topic)?;
                if *partitions <= topic.partitions || *partitions > PARTITIONS_MAX {
                    let (name, have) = (topic.name.clone(), topic.partitions);
                    return Err(Refused::Partitions { name, have, asked: *partitions });
                }
                topic.partitions = *partitions;
                Ok(())
            }
            Event::TopicConfigured { topic, configs } => {
                self.topic_mut(*topic)?.configs.clone_from(configs);
                Ok(())
            }
            Event::TopicDeleted { topic } => self.delete_topic(*topic),
            Event::RelationCreated { relation } => self.create_relation(relation),
            Event::RelationsDropped { relations } => self.drop_relations(relations),
            Event::RelationsAltered { relations } => self.alter_relations(relations),
            Event::ReplacementBegun { old, new } => self.begin_replacement(old, new),
            Event::ReplacementFinished { of } => self.finish_replacement(*of),
            Event::ReplacementAbandoned { of } => self.abandon_replacement(*of),
            Event::SinkCreated { sink } => self.create_sink(sink),
            Event::SinksDropped { sinks } => self.drop_sinks(sinks),
            Event::IndexCreated { index } => self.create_index(index),
            Event::IndexesDropped { indexes } => self.drop_indexes(indexes),
            Event::ProducerIdsReserved { until } => {
                self.producer_ids_until = self.producer_ids_until.max(*until);
                Ok(())
            }
        }
    }

    /// Applies all of them or none.
    pub fn apply_all(&mut self, events: &[Event]) -> Result<(), Refused> {
        let mut next = self.clone();
        for event in events {
            next.apply(event)?;
        }
        *self = next;
        Ok(())
    }

    fn create_topic(&mut self, topic: &Topic) -> Result<(), Refused> {
        check_topic_name(&topic.name).map_err(|error| Refused::InvalidName(error.to_string()))?;
        if self.topic_ids.contains_key(&topic.name) || self.topics.contains_key(&topic.id) {
            return Err(Refused::Exists { noun: "topic", name: topic.name.clone() });
        }
        if !(1..=PARTITIONS_MAX).contains(&topic.partitions) {
            return Err(Refused::Partitions { name: topic.name.clone(), have: 0, asked: topic.partitions });
        }
        self.topic_ids.insert(topic.name.clone(), topic.id);
        self.topics.insert(topic.id, Arc::new(topic.clone()));
        Ok(())
    }

    fn topic_mut(&mut self, id: Uuid) -> Result<&mut Topic, Refused> {
        let missing = || Refused::Missing { noun: "topic", name: id.to_string() };
        self.topics.get_mut(&id).map(Arc::make_mut).ok_or_else(missing)
    }

    fn delete_topic(&mut self, id: Uuid) -> Result<(), Refused> {
        let topic = self.topics.get(&id).ok_or(Refused::Missing { noun: "topic", name: id.to_string() })?;
        let dependents = self.dependents(Dependency::Topic(id));
        let sinks: Vec<_> = self.sinks().filter(|sink| sink.topic == id).cloned().collect();
        if !dependents.is_empty() || !sinks.is_empty() {
            let dependents = names(&dependents, &sinks);
            return Err(Refused::InUse { noun: "topic", name: topic.name.clone(), dependents });
        }
        self.topic_ids.remove(&topic.name);
        self.topics.remove(&id);
        self.deleted_topics.insert(id);
        Ok(())
    }

    fn create_relation(&mut self, relation: &Relation) -> Result<(), Refused> {
        let key = (relation.schema.clone(), relation.name.clone());
        self.check_name(&key.0, &key.1)?;
        self.add_relation(relation)?;
        self.relation_ids.insert(key, relation.id);
        Ok(())
    }

    /// Without its name.
    pub(crate) fn add_relation(&mut self, relation: &Relation) -> Result<(), Refused> {
        self.check_id(relation.id)?;
        for dependency in &relation.depends_on {
            let (is_live, noun, name) = match dependency {
                Dependency::Relation(id) => (self.relations.contains_key(id), "relation", id.0.to_string()),
                Dependency::Topic(id) => (self.topics.contains_key(id), "topic", id.to_string()),
            };
            if !is_live {
                return Err(Refused::Missing { noun, name });
            }
        }
        self.next_relation = relation.id.0 + 1;
        self.relations.insert(relation.id, Arc::new(relation.clone()));
        Ok(())
    }

    /// Whether a relation, sink or index may have this name.
    fn check_name(&self, schema: &str, name: &str) -> Result<(), Refused> {
        match self.noun_of(schema, name) {
            Some(noun) => Err(Refused::Exists { noun, name: name.to_owned() }),
            None => Ok(()),
        }
    }

    fn check_id(&self, id: RelationId) -> Result<(), Refused> {
        // The last id is never given: one has to come after each.
        if id < self.next_relation_id() || id.0 == u32::MAX {
            return Err(Refused::Exists { noun: "relation id", name: id.0.to_string() });
        }
        Ok(())
    }

    /// Whether something may hang on the relation.
    fn check_stays(&self, id: RelationId) -> Result<(), Refused> {
        let missing = || Refused::Missing { noun: "relation", name: id.0.to_string() };
        let relation = self.relations.get(&id).ok_or_else(missing)?;
        if self.is_being_replaced(id) {
            return Err(Refused::BeingReplaced { name: relation.name.clone() });
        }
        Ok(())
    }

    fn create_sink(&mut self, sink: &Sink) -> Result<(), Refused> {
        self.check_name(&sink.schema, &sink.name)?;
        self.check_id(sink.id)?;
        self.check_stays(sink.from)?;
        if !self.topics.contains_key(&sink.topic) {
            return Err(Refused::Missing { noun: "topic", name: sink.topic.to_string() });
        }
        self.next_relation = sink.id.0 + 1;
        self.sinks.insert(sink.id, Arc::new(sink.clone()));
        Ok(())
    }

    fn drop_sinks(&mut self, ids: &[RelationId]) -> Result<(), Refused> {
        if let Some(id) = ids.iter().find(|id| !self.sinks.contains_key(id)) {
            return Err(Refused::Missing { noun: "sink", name: id.0.to_string() });
        }
        self.sinks.retain(|id, _| !ids.contains(id));
        Ok(())
    }

    fn create_index(&mut self, index: &Index) -> Result<(), Refused> {
        self.check_name(&index.schema, &index.name)?;
        self.check_id(index.id)?;
        self.check_stays(index.of)?;
        self.next_relation = index.id.0 + 1;
        self.indexes.insert(index.id, Arc::new(index.clone()));
        Ok(())
    }

    fn drop_indexes(&mut self, ids: &[RelationId]) -> Result<(), Refused> {
        if let Some(id) = ids.iter().find(|id| !self.indexes.contains_key(id)) {
            return Err(Refused::Missing { noun: "index", name: id.0.to_string() });
        }
        self.indexes.retain(|id, _| !ids.contains(id));
        Ok(())
    }

    fn drop_relations(&mut self, ids: &[RelationId]) -> Result<(), Refused> {
        let asked: BTreeSet<_> = ids.iter().copied().collect();
        let dropped = self.with_what_is_aside(&asked);
        for id in &dropped {
            let missing = || Refused::Missing { noun: "relation", name: id.0.to_string() };
            let relation = self.relations.get(id).ok_or_else(missing)?;
            let mut dependents = self.dependents(Dependency::Relation(*id));
            dependents.retain(|dependent| !dropped.contains(&dependent.id));
            let sinks = self.sinks_from(*id);
            if !dependents.is_empty() || !sinks.is_empty() {
                let (noun, name) = (relation.kind.noun(), relation.name.clone());
                return Err(Refused::InUse { noun, name, dependents: names(&dependents, &sinks) });
            }
        }
        for id in &dropped {
            if let Some(relation) = self.relations.remove(id) {
                let key = (relation.schema.clone(), relation.name.clone());
                // What is aside has no name of its own.
                if self.relation_ids.get(&key) == Some(id) {
                    self.relation_ids.remove(&key);
                }
            }
        }
        self.indexes.retain(|_, index| !dropped.contains(&index.of));
        self.replacements.retain(|_, replacement| replacement.new.iter().all(|id| !dropped.contains(id)));
        Ok(())
    }

    fn alter_relations(&mut self, relations: &[Relation]) -> Result<(), Refused> {
        let mut next = self.clone();
        for relation in relations {
            let missing = || Refused::Missing { noun: "relation", name: relation.id.0.to_string() };
            let before = next.relations.get(&relation.id).ok_or_else(missing)?.clone();
            if before.columns != relation.columns
                || before.depends_on != relation.depends_on
                || before.kind.noun() != relation.kind.noun()
            {
                return Err(Refused::Replacement("a relation keeps its kind, columns and dependencies".to_owned()));
            }
            let (old, new) =
                ((before.schema.clone(), before.name.clone()), (relation.schema.clone(), relation.name.clone()));
            if old != new {
                if let Some(noun) = next.noun_of(&new.0, &new.1) {
                    return Err(Refused::Exists { noun, name: relation.name.clone() });
                }
                if next.relation_ids.get(&old) == Some(&relation.id) {
                    next.relation_ids.remove(&old);
                    next.relation_ids.insert(new, relation.id);
                }
            }
            next.relations.insert(relation.id, Arc::new(relation.clone()));
        }
        *self = next;
        Ok(())
    }

    /// Live relations that need this directly, in order of id.
    #[must_use]
    pub fn dependents(&self, on: Dependency) -> Vec<Arc<Relation>> {
        self.relations.values().filter(|relation| relation.depends_on.contains(&on)).cloned().collect()
    }

    /// The relation and all that depends on it, dependents first: what CASCADE drops.
    #[must_use]
    pub fn with_dependents(&self, id: RelationId) -> Vec<RelationId> {
        let mut found = BTreeSet::from([id]);
        let mut queue = vec![id];
        while let Some(id) = queue.pop() {
            for dependent in self.dependents(Dependency::Relation(id)) {
                if found.insert(dependent.id) {
                    queue.push(dependent.id);
                }
            }
        }
        // A dependent is always younger than what it depends on.
        found.into_iter().rev().collect()
    }

    /// Live topics, in order of name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topic_ids.values().filter_map(|id| self.topics.get(id))
    }

    /// A live topic.
    #[must_use]
    pub fn topic(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// A live topic by name.
    #[must_use]
    pub fn topic_named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topic_ids.get(name).and_then(|id| self.topics.get(id))
    }

    /// Topics that were deleted: what is left of them on disk can go.
    pub fn deleted_topics(&self) -> impl Iterator<Item = Uuid> {
        self.deleted_topics.iter().copied()
    }

    /// Live relations, in order of id (a relation comes after what it depends on).
    pub fn relations(&self) -> impl Iterator<Item = &Arc<Relation>> {
        self.relations.values()
    }

    /// A live relation.
    #[must_use]
    pub fn relation(&self, id: RelationId) -> Option<&Arc<Relation>> {
        self.relations.get(&id)
    }

    /// A live relation by name.
    #[must_use]
    pub fn relation_named(&self, schema: &str, name: &str) -> Option<&Arc<Relation>> {
        self.relation_ids.get(&(schema.to_owned(), name.to_owned())).and_then(|id| self.relations.get(id))
    }

    /// Live sinks, in order of id.
    pub fn sinks(&self) -> impl Iterator<Item = &Arc<Sink>> {
        self.sinks.values()
    }

    /// A live sink.
    #[must_use]
    pub fn sink(&self, id: RelationId) -> Option<&Arc<Sink>> {
        self.sinks.get(&id)
    }

    /// A live sink by name.
    #[must_use]
    pub fn sink_named(&self, schema: &str, name: &str) -> Option<&Arc<Sink>> {
        self.sinks.values().find(|sink| sink.schema == schema && sink.name == name)
    }

    /// Sinks that write what changes in this relation.
    #[must_use]
    pub fn sinks_from(&self, relation: RelationId) -> Vec<Arc<Sink>> {
        self.sinks.values().filter(|sink| sink.from == relation).cloned().collect()
    }

    /// Live indexes, in order of id.
    pub fn indexes(&self) -> impl Iterator<Item = &Arc<Index>> {
        self.indexes.values()
    }

    /// A live index by name.
    #[must_use]
    pub fn index_named(&self, schema: &str, name: &str) -> Option<&Arc<Index>> {
        self.indexes.values().find(|index| index.schema == schema && index.name == name)
    }

    /// What has this name: `table`, `sink`, ...
    #[must_use]
    pub fn noun_of(&self, schema: &str, name: &str) -> Option<&'static str> {
        let relation = self.relation_named(schema, name).map(|relation| relation.kind.noun());
        let sink = || self.sink_named(schema, name).map(|_| "sink");
        relation.or_else(sink).or_else(|| self.index_named(schema, name).map(|_| "index"))
    }

    /// Whether a source writes its late rows to this table.
    #[must_use]
    pub fn keeps_late_rows(&self, table: RelationId) -> bool {
        self.relations().any(|relation| relation.watermark().is_some_and(|it| it.late_into == Some(table)))
    }

    /// The id that the next relation gets.
    #[must_use]
    pub fn next_relation_id(&self) -> RelationId {
        RelationId(self.next_relation.max(RelationId::FIRST.0))
    }

    /// How many events have been applied: of two catalogs of one history, the greater is the newer.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The first producer id that has certainly not been handed out.
    #[must_use]
    pub fn producer_ids_until(&self) -> i64 {
        self.producer_ids_until
    }
}

pub(crate) fn names(relations: &[Arc<Relation>], sinks: &[Arc<Sink>]) -> String {
    let relations = relations.iter().map(|relation| format!("{} \"{}\"", relation.kind.noun(), relation.name));
    let sinks = sinks.iter().map(|sink| format!("sink \"{}\"", sink.name));
    relations.chain(sinks).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RelationKind, TopicOwner, ViewDefinition, decode, encode};

    #[test]
    fn a_number_of_partitions_that_no_start_could_make_is_refused() {
        let mut catalog = Catalog::default();
        let Event::TopicCreated { topic: small } = topic("t", 1) else { unreachable!() };
        let huge = Topic { partitions: i32::MAX, ..small.clone() };
        let refused = catalog.apply(&Event::TopicCreated { topic: huge }).expect_err("too many");
        assert!(matches!(refused, Refused::Partitions { have: 0, asked: i32::MAX, .. }), "{refused}");
        catalog.apply(&Event::TopicCreated { topic: small }).expect("one partition");
        let more = |partitions| Event::PartitionsAdded { topic: Uuid::from_u128(1), partitions };
        catalog.apply(&more(PARTITIONS_MAX + 1)).expect_err("too many");
        catalog.apply(&more(PARTITIONS_MAX)).expect("as many as may be");
    }

    fn topic(name: &str, id: u128) -> Event {
        Event::TopicCreated {
            topic: Topic {
                id: Uuid::from_u128(id),
                name: name.into(),
                partitions: 1,
                owner: TopicOwner::Anyone,
                configs: BTreeMap::new(),
            },
        }
    }

    fn view(id: u32, name: &str, depends_on: Vec<Dependency>) -> Event {
        let view = ViewDefinition {
            query: "SELECT 1".into(),
            emit_on_window_close: false,
            graph: None,
            settings: vec![],
            origin: vec![],
        };
        Event::RelationCreated {
            relation: Box::new(Relation {
                id: RelationId(id),
                schema: "public".into(),
                name: name.into(),
                columns: vec![],
                kind: RelationKind::MaterializedView(view),
                depends_on,
                sql: String::new(),
            }),
        }
    }

    #[test]
    fn events_survive_being_written_and_read() {
        for event in [topic("a.b-c_d", 7), view(16384, "v", vec![Dependency::Topic(Uuid::from_u128(7))])] {
            assert_eq!(decode(&encode(&event)).expect("own encoding"), event);
        }
        let newer = String::from_utf8(encode(&topic("t", 1))).expect("json").replacen("\"v\":1", "\"v\":9", 1);
        assert!(decode(newer.as_bytes()).expect_err("newer version").to_string().contains("version 9"));
    }

    #[test]
    fn what_is_used_cannot_be_dropped_without_its_dependents() {
        let mut catalog = Catalog::default();
        let a = RelationId(16384);
        catalog.apply(&topic("t", 1)).expect("new topic");
        catalog.apply(&view(16384, "a", vec![Dependency::Topic(Uuid::from_u128(1))])).expect("new view");
        catalog.apply(&view(16385, "b", vec![Dependency::Relation(a)])).expect("new view");
        let before = catalog.clone();
        let refused = catalog.apply(&Event::RelationsDropped { relations: vec![a] }).expect_err("b needs a");
        assert!(refused.to_string().contains("materialized view \"b\""), "{refused}");
        let refused = catalog.apply(&Event::TopicDeleted { topic: Uuid::from_u128(1) }).expect_err("a needs t");
        assert!(matches!(refused, Refused::InUse { noun: "topic", .. }));
        assert_eq!(catalog, before);
        assert_eq!(catalog.with_dependents(a), [RelationId(16385), a]);
        catalog.apply(&Event::RelationsDropped { relations: catalog.with_dependents(a) }).expect("cascade");
        catalog.apply(&Event::TopicDeleted { topic: Uuid::from_u128(1) }).expect("free now");
        assert_eq!(catalog.deleted_topics().collect::<Vec<_>>(), [Uuid::from_u128(1)]);
        assert_eq!(catalog.next_relation_id(), RelationId(16386), "ids are never reused");
    }

    #[test]
    fn the_last_relation_id_is_never_given() {
        let mut catalog = Catalog::default();
        catalog.apply(&view(u32::MAX, "a", vec![])).expect_err("no id comes after it");
        catalog.apply(&view(u32::MAX - 1, "a", vec![])).expect("one does");
        catalog.apply(&view(u32::MAX, "b", vec![])).expect_err("they are used up");
    }

    #[test]
    fn events_apply_together_or_not_at_all() {
        let mut catalog = Catalog::default();
        catalog.apply_all(&[topic("a", 1), topic("a", 2)]).expect_err("same name");
        assert_eq!(catalog, Catalog::default());
    }
}
