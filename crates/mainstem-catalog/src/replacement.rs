//! `CREATE OR REPLACE`: views built aside, and the one event by which they take the place of others.
//!
//! Words: what is *aside* lives as every relation does (it has an id, reads, is kept up to date) and has no name yet; a
//! *replacement* pairs each relation that goes with the one that takes its place, what was asked for first, then what
//! depends on it.
//!
//! Always true here: a relation takes part in at most one replacement; what is aside has the name of what it replaces, and
//! only what is aside itself reads it; when what is to be replaced is dropped, what is aside goes with it;
//! no sink follows what is being replaced; indexes go over to what takes its place.

use std::collections::BTreeSet;

use crate::catalog::names;
use crate::{Catalog, Dependency, Index, Refused, Relation, RelationId};
use std::sync::Arc;

/// Relations on their way to take the place of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// What goes: what was asked for, then its dependents, in order of id.
    pub old: Vec<RelationId>,
    /// What takes each one's place.
    pub new: Vec<RelationId>,
}

impl Catalog {
    pub(crate) fn begin_replacement(&mut self, old: &[RelationId], new: &[Relation]) -> Result<(), Refused> {
        let refused = |reason: &str| Refused::Replacement(reason.to_owned());
        let Some(root) = old.first().copied().filter(|_| old.len() == new.len()) else {
            return Err(refused("a replacement pairs what goes with what comes"));
        };
        for (id, relation) in old.iter().zip(new) {
            let before = self.relation(*id).ok_or_else(|| missing(*id))?;
            if self.is_being_replaced(*id) {
                return Err(Refused::BeingReplaced { name: before.name.clone() });
            }
            let sinks = self.sinks_from(*id);
            if !sinks.is_empty() {
                let (noun, name) = (before.kind.noun(), before.name.clone());
                return Err(Refused::InUse { noun, name, dependents: names(&[], &sinks) });
            }
            if (&before.schema, &before.name) != (&relation.schema, &relation.name) {
                return Err(refused("what takes a relation's place has its name"));
            }
        }
        let mut next = self.clone();
        for relation in new {
            next.add_relation(relation)?;
        }
        let new = new.iter().map(|relation| relation.id).collect();
        next.replacements.insert(root, Replacement { old: old.to_vec(), new });
        *self = next;
        Ok(())
    }

    pub(crate) fn finish_replacement(&mut self, root: RelationId) -> Result<(), Refused> {
        let replacement = self.replacements.get(&root).ok_or_else(|| missing(root))?.clone();
        let going: BTreeSet<RelationId> = replacement.old.iter().copied().collect();
        for id in &going {
            let mut dependents = self.dependents(Dependency::Relation(*id));
            dependents.retain(|dependent| !going.contains(&dependent.id));
            if let (false, Some(relation)) = (dependents.is_empty(), self.relation(*id)) {
                let (noun, name) = (relation.kind.noun(), relation.name.clone());
                return Err(Refused::InUse { noun, name, dependents: names(&dependents, &[]) });
            }
        }
        self.replacements.remove(&root);
        for (old, new) in replacement.old.iter().zip(&replacement.new) {
            self.move_indexes(*old, *new);
            self.relations.remove(old);
            if let Some(relation) = self.relations.get(new) {
                self.relation_ids.insert((relation.schema.clone(), relation.name.clone()), *new);
            }
            self.successors.insert(*old, *new);
        }
        Ok(())
    }

    /// Indexes go over by the names of their columns; those whose columns are gone are dropped.
    fn move_indexes(&mut self, old: RelationId, new: RelationId) {
        let (Some(before), Some(after)) = (self.relation(old).cloned(), self.relation(new).cloned()) else { return };
        let moved = |index: &Arc<Index>| {
            let columns = index.columns.iter().map(|column| after.column(&before.columns[*column].name));
            Some(Arc::new(Index { of: new, columns: columns.collect::<Option<_>>()?, ..index.as_ref().clone() }))
        };
        let of_old: Vec<Arc<Index>> = self.indexes().filter(|index| index.of == old).cloned().collect();
        for index in of_old {
            match moved(&index) {
                Some(moved) => drop(self.indexes.insert(index.id, moved)),
                None => drop(self.indexes.remove(&index.id)),
            }
        }
    }

    pub(crate) fn abandon_replacement(&mut self, root: RelationId) -> Result<(), Refused> {
        let replacement = self.replacements.remove(&root).ok_or_else(|| missing(root))?;
        replacement.new.iter().for_each(|id| drop(self.relations.remove(id)));
        Ok(())
    }

    /// These, and all that is aside in replacements that they take part in.
    pub(crate) fn with_what_is_aside(&self, ids: &BTreeSet<RelationId>) -> BTreeSet<RelationId> {
        let mut all = ids.clone();
        for replacement in self.replacements.values() {
            if replacement.old.iter().chain(&replacement.new).any(|id| ids.contains(id)) {
                all.extend(&replacement.new);
            }
        }
        all
    }

    /// Whether it takes part in a replacement that is under way, as what goes or as what comes.
    #[must_use]
    pub fn is_being_replaced(&self, id: RelationId) -> bool {
        self.replacements.values().any(|replacement| replacement.old.contains(&id) || replacement.new.contains(&id))
    }

    /// Whether the relation is aside: readable by its id, and without a name until its replacement is finished.
    #[must_use]
    pub fn is_aside(&self, id: RelationId) -> bool {
        self.replacements.values().any(|replacement| replacement.new.contains(&id))
    }

    /// Replacements that are under way, by what was asked to be replaced.
    pub fn replacements(&self) -> impl Iterator<Item = (RelationId, &Replacement)> {
        self.replacements.iter().map(|(root, replacement)| (*root, replacement))
    }

    /// The replacement of this relation that is under way.
    #[must_use]
    pub fn replacement_of(&self, root: RelationId) -> Option<&Replacement> {
        self.replacements.get(&root)
    }

    /// The live relation that has taken the place of this one, which is gone.
    #[must_use]
    pub fn successor(&self, gone: RelationId) -> Option<&Arc<Relation>> {
        let mut id = *self.successors.get(&gone)?;
        while let Some(next) = self.successors.get(&id) {
            id = *next;
        }
        self.relation(id)
    }

    /// Live relations that have their names, in order of id: what users see.
    pub fn named_relations(&self) -> impl Iterator<Item = &Arc<Relation>> {
        self.relations().filter(|relation| !self.is_aside(relation.id))
    }
}

fn missing(id: RelationId) -> Refused {
    Refused::Missing { noun: "relation", name: id.0.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, RelationKind, ViewDefinition, decode, encode};

    fn view(id: u32, name: &str, reads: &[u32]) -> Relation {
        let view = ViewDefinition {
            query: "SELECT 1".into(),
            emit_on_window_close: false,
            graph: None,
            settings: vec![],
            origin: vec![],
        };
        Relation {
            id: RelationId(id),
            schema: "public".into(),
            name: name.into(),
            columns: vec![],
            kind: RelationKind::MaterializedView(view),
            depends_on: reads.iter().map(|id| Dependency::Relation(RelationId(*id))).collect(),
            sql: String::new(),
        }
    }

    /// `below`, `v` over it, `above` over `v`, and the replacement of the latter two under way.
    fn under_way() -> Catalog {
        let mut catalog = Catalog::default();
        for (id, name, reads) in [(16384, "below", &[][..]), (16385, "v", &[16384]), (16386, "above", &[16385])] {
            let relation = Box::new(view(id, name, reads));
            catalog.apply(&Event::RelationCreated { relation }).expect("a new view");
        }
        let new = vec![view(16387, "v", &[16384]), view(16388, "above", &[16387])];
        let begun = Event::ReplacementBegun { old: vec![RelationId(16385), RelationId(16386)], new };
        assert_eq!(decode(&encode(&begun)).expect("own encoding"), begun);
        catalog.apply(&begun).expect("begins");
        catalog
    }

    fn id_of(catalog: &Catalog, name: &str) -> Option<u32> {
        catalog.relation_named("public", name).map(|relation| relation.id.0)
    }

    #[test]
    fn names_change_hands_at_once_and_not_before() {
        let mut catalog = under_way();
        assert_eq!((id_of(&catalog, "v"), id_of(&catalog, "above")), (Some(16385), Some(16386)));
        assert!(catalog.is_aside(RelationId(16387)) && catalog.relation(RelationId(16387)).is_some());
        assert_eq!(catalog.named_relations().count(), 3);
        catalog.apply(&Event::ReplacementFinished { of: RelationId(16385) }).expect("finishes");
        assert_eq!((id_of(&catalog, "v"), id_of(&catalog, "above")), (Some(16387), Some(16388)));
        assert!(catalog.relation(RelationId(16385)).is_none());
        assert_eq!(catalog.successor(RelationId(16386)).expect("follows").id, RelationId(16388));
        assert_eq!(catalog.named_relations().count(), 3);
        catalog.apply(&Event::ReplacementFinished { of: RelationId(16385) }).expect_err("once");
    }

    #[test]
    fn a_dependent_that_came_meanwhile_stops_it_and_nothing_changes() {
        let mut catalog = under_way();
        let late = Box::new(view(16389, "late", &[16386]));
        catalog.apply(&Event::RelationCreated { relation: late }).expect("a new view");
        let before = catalog.clone();
        let refused = catalog.apply(&Event::ReplacementFinished { of: RelationId(16385) }).expect_err("late needs it");
        assert!(refused.to_string().contains("\"late\""), "{refused}");
        assert_eq!(catalog, before);
        catalog.apply(&Event::ReplacementAbandoned { of: RelationId(16385) }).expect("gives up");
        assert_eq!((id_of(&catalog, "v"), catalog.relations().count()), (Some(16385), 4));
        assert_eq!(catalog.next_relation_id(), RelationId(16390), "ids are never reused");
    }

    #[test]
    fn what_is_aside_goes_with_what_it_was_to_replace() {
        let mut catalog = under_way();
        let again = Event::ReplacementBegun { old: vec![RelationId(16386)], new: vec![view(16389, "above", &[16385])] };
        let refused = catalog.apply(&again).expect_err("one at a time");
        assert!(matches!(refused, Refused::BeingReplaced { .. }), "{refused}");
        let drop = |ids: &[u32]| Event::RelationsDropped { relations: ids.iter().map(|id| RelationId(*id)).collect() };
        catalog.apply(&drop(&[16384])).expect_err("v needs it");
        catalog.apply(&drop(&[16386])).expect("it is a dependent only");
        assert!(catalog.relation(RelationId(16387)).is_none() && catalog.relation(RelationId(16388)).is_none());
        assert_eq!(catalog.replacements().count(), 0);
        assert_eq!(id_of(&catalog, "v"), Some(16385));
    }
}
