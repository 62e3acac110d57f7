//! Which records come to be from which: through sources, views, sinks and the topics between them.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::{Catalog, Dependency, RelationId};

impl Catalog {
    /// Topics that the relation's content comes from, through views, sources, tables, and sinks that write to a topic that
    /// is read. A sink from the relation into one of them would feed its own input.
    #[must_use]
    pub fn topics_feeding(&self, relation: RelationId) -> BTreeSet<Uuid> {
        let (mut topics, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut queue = vec![relation];
        while let Some(id) = queue.pop() {
            if !seen.insert(id) {
                continue;
            }
            let Some(relation) = self.relation(id) else { continue };
            let mut new = Vec::new();
            for dependency in &relation.depends_on {
                match dependency {
                    Dependency::Relation(below) => queue.push(*below),
                    Dependency::Topic(topic) => new.push(*topic),
                }
            }
            new.extend(relation.topic());
            for topic in new.into_iter().filter(|topic| topics.insert(*topic)) {
                queue.extend(self.sinks().filter(|sink| sink.topic == topic).map(|sink| sink.from));
            }
        }
        topics
    }
}
