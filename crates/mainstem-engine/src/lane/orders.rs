//! What a lane does at a cut that the coordinator names: gives its part of a checkpoint, takes in a view, hands itself over.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mainstem_catalog::RelationId;

use super::{Command, Contents, Lane, LaneId, again};
use crate::backfill::{Backfill, Frontier};
use crate::checkpoint::{Kept, LaneState};
use crate::collection::Version;
use crate::error::EngineError;
use crate::input_log::{Cut, LogError};
use crate::state::Handed;

/// Something to do at a cut. The lane does not go beyond it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) at: Cut,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Its part of the checkpoint with this number: at the cut if it reads tables, whose content is in the checkpoint as of
    /// that cut, else where it stands.
    Snapshot(u64),
    /// Hands itself over.
    Surrender,
}

/// What of a lane goes into a checkpoint.
#[derive(Debug)]
pub(crate) struct LanePart {
    pub(crate) lane: LaneId,
    /// Of the checkpoint.
    pub(crate) sequence: u64,
    /// Its cut, its views, its sources.
    pub(crate) state: LaneState,
    pub(crate) relations: BTreeMap<RelationId, Kept>,
    pub(crate) handed: Vec<Handed>,
    /// Of its views.
    pub(crate) versions: HashMap<RelationId, Arc<Version>>,
}

impl Lane {
    /// Does what is due; none when nothing was, else whether the lane is to be handed over.
    pub(super) fn obey_orders(&mut self) -> Option<bool> {
        let mut surrenders = None;
        for order in std::mem::take(&mut self.orders) {
            let is_due = self.cut >= order.at;
            match order.what {
                What::Snapshot(sequence) if is_due || self.tables.is_empty() => {
                    let part = self.part(sequence);
                    self.shared.send(Command::Part(Box::new(part)));
                    self.shared.publish(|all| all.obeyed(self.id, order.at));
                    surrenders = surrenders.or(Some(false));
                }
                // After everything else.
                What::Surrender if is_due => {
                    surrenders = Some(true);
                }
                _ => self.orders.push(order),
            }
        }
        surrenders
    }

    /// Everything as it stands.
    fn part(&mut self, sequence: u64) -> LanePart {
        let relations = self.views.iter_mut().map(|(id, view)| (*id, view.keep())).collect();
        let state = LaneState {
            cut: self.cut,
            views: self.views.keys().copied().collect(),
            inputs: self.sources.iter().map(|(id, input)| (*id, input.state.clone())).collect(),
        };
        let layers = self.views.values().filter_map(|view| view.collection.layers());
        LanePart {
            lane: self.id,
            sequence,
            state,
            relations,
            handed: layers.map(|layers| layers.hand_over()).collect(),
            versions: self.views.iter().map(|(id, view)| (*id, view.collection.version())).collect(),
        }
    }

    /// Takes in the views that wait, where it is known what tables are.
    pub(super) fn join_waiting(&mut self) -> Result<(), EngineError> {
        if self.joining.is_empty() {
            return Ok(());
        }
        // Within a change of tables it is not: after the next step.
        let Some(tables) = self.shared.with_frontiers(|all| all.tables_at(self.cut).cloned()) else { return Ok(()) };
        for backfill in std::mem::take(&mut self.joining) {
            self.join(backfill, &tables)?;
        }
        Ok(())
    }

    fn join(&mut self, mut backfill: Backfill, tables: &Contents) -> Result<(), EngineError> {
        let relation = backfill.view.relation.clone();
        let mut below = self.versions();
        let read: Vec<RelationId> = backfill.below();
        for (id, content) in read.iter().filter_map(|id| Some((*id, tables.get(id)?))) {
            below.entry(id).or_insert_with(|| content.version.clone());
        }
        let shared = self.shared.clone();
        let again = |error: &LogError| again(&shared, error);
        match backfill.advance(&Frontier { cut: self.cut, below }, &again) {
            // Dropped while it was at the door: the coordinator says so in time.
            Err(EngineError::Stopped) if backfill.is_cancelled() && !shared.gives_up() => return Ok(()),
            result => result?,
        }
        let Backfill { view, sources, .. } = backfill;
        for (id, input) in sources {
            self.take_source(id, input, &view.relation.name);
        }
        for (id, content) in read.iter().filter_map(|id| Some((*id, tables.get(id)?))) {
            self.tables.entry(id).or_insert_with(|| content.clone());
        }
        self.views.insert(relation.id, view);
        self.publish();
        self.shared.publish(|all| {
            if shared.catalog().relation(relation.id).is_some() {
                all.own(self.id, relation.id);
            }
        });
        self.shared.send(Command::Joined(relation.id));
        Ok(())
    }

    /// A source of somebody who reads it from now on as part of the lane, and stands at the lane's cut.
    pub(super) fn take_source(&mut self, id: RelationId, input: super::Input, of: &str) {
        match self.sources.get_mut(&id) {
            Some(here) if here.state.partitions == input.state.partitions => {}
            Some(here) => {
                // Damage or a gap came up between the two readings: one misses what the other has.
                tracing::error!(source = %here.relation.name, of, "not all of the source could be read");
                let new = input.state.errors.into_iter().filter(|error| !here.state.errors.contains(error));
                let new: Vec<String> = new.map(|error| format!("view \"{of}\": {error}")).collect();
                here.state.errors.extend(new);
            }
            None => {
                self.sources.insert(id, input);
            }
        }
    }
}
