//! Where everything stands on the line of cuts, and what can be read there.
//!
//! Words: the *front* is the cut up to which tables are readable; no lane is beyond it. A lane's *news* are the steps of the
//! front in which something that the lane reads has changed and that are not in its newest version; its *reach* is how far
//! that version is right: up to the first news, or up to the front. So a lane whose inputs rest moves with the front and
//! does nothing. A *change* is a step of the front in which a table changed: what tables are inside of it nobody knows.
//! Relations can be read together at a *common* cut, where each has a version; a [`Demand`] makes lanes stop at one.
//!
//! Always true here: a version of a lane is what its views are at every cut from its own to its reach; cuts of a lane are
//! never inside a change; what is kept is bounded in number and shared with the newest version chunk by chunk.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};

use crossbeam_channel::Sender;
use mainstem_catalog::RelationId;

use super::LaneCommand;
use crate::collection::Version;
use crate::input_log::Cut;

/// Older versions of a lane that are kept while another lane has not come as far.
const VERSIONS_KEPT: usize = 64;
/// Changes of tables that are kept while a lane has not come as far. Beyond it neighbours are made one.
const CHANGES_KEPT: usize = 64;
/// Cuts at which some lane has stopped that are kept for those behind it.
const BOUNDARIES_KEPT: usize = 1024;
/// A lane goes on to a boundary that is this many times as far as it would go by itself.
const STRETCH: u64 = 4;

/// Stands for the ticks among what a lane reads. No relation has this id.
pub(crate) const CLOCK: RelationId = RelationId(u32::MAX);

/// Which lane. Never given twice by one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneId(pub(crate) u64);

/// A relation as published.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) version: Arc<Version>,
    /// The first error that stands in it or in what it reads: its content is not what its definition says.
    pub(crate) error: Option<Arc<str>>,
    /// The newest timestamp among the records that it is made of.
    pub(crate) newest_ms: i64,
}

pub(crate) type Contents = HashMap<RelationId, Content>;

/// Relations at one cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    pub(crate) cut: Cut,
    pub(crate) relations: Contents,
}

/// A step of the front in which tables changed.
#[derive(Debug)]
struct Change {
    after: Cut,
    cut: Cut,
    tables: Arc<Contents>,
}

#[derive(Debug)]
struct LaneVersion {
    cut: Cut,
    /// Right up to here; of the newest one the lane's reach tells.
    until: Cut,
    contents: Arc<Contents>,
}

#[derive(Debug)]
enum Stop {
    /// Somebody wants to read there.
    Pin(Cut, Weak<OnceLock<Arc<Contents>>>),
    /// The lane is told to do something there; it stays until it has.
    Order(Cut),
}

#[derive(Debug)]
struct LaneFrontier {
    /// Sources and tables, and [`CLOCK`].
    inputs: BTreeSet<RelationId>,
    versions: VecDeque<LaneVersion>,
    /// Steps of the front, oldest first.
    news: VecDeque<(Cut, Cut)>,
    stops: Vec<Stop>,
    commands: Sender<LaneCommand>,
}

/// What a lane is to do next.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where it stands: its reach, or before it where it is told to do something.
    pub(crate) from: Cut,
    /// How far it may go; none when nothing has come.
    pub(crate) limit: Option<Cut>,
    /// Sources that other lanes read, too, and how many lanes read them.
    pub(crate) shared: BTreeMap<RelationId, usize>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Frontiers {
    front: Cut,
    /// Oldest first; the last one is how tables are now.
    changes: VecDeque<Change>,
    lanes: BTreeMap<LaneId, LaneFrontier>,
    lane_of: HashMap<RelationId, LaneId>,
    boundaries: BTreeSet<Cut>,
    /// How many lanes read it.
    readers: HashMap<RelationId, usize>,
    /// Cuts at which a sink needs what a relation is there: nobody steps over one.
    held: Vec<(RelationId, Cut)>,
    /// The last checkpoint that is known to be durable.
    durable: Begun,
    /// Those that have begun since, as one: of each it may be found after a crash that it is durable.
    begun: Option<Begun>,
}

/// A checkpoint: the front that it began with, and the tables and views that are in it for certain.
#[derive(Clone, Debug, Default)]
struct Begun {
    front: Cut,
    relations: BTreeSet<RelationId>,
}

impl Begun {
    /// Whether who starts from it comes by the relation at this cut.
    fn leads_to(&self, id: RelationId, cut: Cut) -> bool {
        cut >= self.front || self.relations.contains(&id)
    }
}

impl LaneFrontier {
    fn reach(&self, front: Cut) -> Cut {
        let stands = self.versions.back().map_or(Cut::ZERO, |version| version.cut);
        self.news.front().map_or(front, |(after, _)| (*after).max(stands))
    }

    fn at(&self, cut: Cut, front: Cut) -> Option<&Arc<Contents>> {
        let newest = self.versions.back()?;
        if cut >= newest.cut {
            return (cut <= self.reach(front)).then_some(&newest.contents);
        }
        let version = self.versions.iter().rev().find(|version| version.cut <= cut)?;
        (cut <= version.until).then_some(&version.contents)
    }

    /// Those who wait for a version get it.
    fn serve(&mut self, front: Cut) {
        let stops = std::mem::take(&mut self.stops);
        let is_open = |stop: &Stop| match stop {
            Stop::Order(_) => true,
            Stop::Pin(cut, slot) => match (slot.upgrade(), self.at(*cut, front)) {
                (None, _) => false,
                (Some(slot), Some(contents)) => {
                    let _ = slot.set(contents.clone());
                    false
                }
                (Some(_), None) => self.reach(front) < *cut,
            },
        };
        self.stops = stops.into_iter().filter(is_open).collect();
    }

    fn tell(&self, command: LaneCommand) {
        // The lane has ended when nobody receives.
        let _ = self.commands.send(command);
    }
}

impl Frontiers {
    /// Tables are as the checkpoint had them.
    pub(crate) fn begin(&mut self, cut: Cut, tables: Contents) {
        self.front = cut;
        self.durable = Begun { front: cut, relations: tables.keys().copied().collect() };
        self.begun = None;
        self.changes = VecDeque::from([Change { after: cut, cut, tables: Arc::new(tables) }]);
    }

    pub(crate) fn front(&self) -> Cut {
        self.front
    }

    /// How tables are now.
    pub(crate) fn tables(&self) -> Arc<Contents> {
        self.changes.back().map(|change| change.tables.clone()).unwrap_or_default()
    }

    /// The front moves: `changed` are the sources and tables with something new.
    pub(crate) fn advance(&mut self, cut: Cut, tables: Option<Contents>, changed: &BTreeSet<RelationId>) {
        let after = std::mem::replace(&mut self.front, cut);
        if let Some(tables) = tables {
            self.changes.push_back(Change { after, cut, tables: Arc::new(tables) });
        }
        for lane in self.lanes.values_mut() {
            if !lane.inputs.is_disjoint(changed) {
                if lane.news.is_empty() {
                    lane.tell(LaneCommand::Wake);
                }
                let is_full = lane.news.len() >= VERSIONS_KEPT;
                match lane.news.back_mut() {
                    Some(last) if is_full => last.1 = cut,
                    _ => lane.news.push_back((after, cut)),
                }
            }
            lane.serve(cut);
        }
        self.trim();
    }

    /// Tables come and go, at the front.
    pub(crate) fn set_tables(&mut self, tables: Contents) {
        let tables = Arc::new(tables);
        match self.changes.back_mut() {
            Some(last) if last.cut == self.front => last.tables = tables,
            _ => self.changes.push_back(Change { after: self.front, cut: self.front, tables }),
        }
    }

    /// A lane begins with a version; what has come since is news to it.
    pub(crate) fn add_lane(
        &mut self,
        id: LaneId,
        (cut, contents): (Cut, Contents),
        inputs: BTreeSet<RelationId>,
        commands: Sender<LaneCommand>,
    ) {
        self.lane_of.extend(contents.keys().map(|relation| (*relation, id)));
        let version = LaneVersion { cut, until: cut, contents: Arc::new(contents) };
        let news = if cut < self.front { VecDeque::from([(cut, self.front)]) } else { VecDeque::new() };
        let lane = LaneFrontier { inputs, versions: VecDeque::from([version]), news, stops: Vec::new(), commands };
        self.lanes.insert(id, lane);
        self.count_readers();
    }

    /// The lane also reads these from now on; it is told even if nothing of them has come.
    pub(crate) fn add_inputs(&mut self, id: LaneId, inputs: impl IntoIterator<Item = RelationId>) {
        let front = self.front;
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let before = lane.inputs.len();
        lane.inputs.extend(inputs);
        let reach = lane.reach(front);
        if lane.inputs.len() > before && reach < front {
            // What has come of the new ones in between is not known.
            lane.news = VecDeque::from([(reach, front)]);
        }
        self.count_readers();
    }

    fn count_readers(&mut self) {
        self.readers.clear();
        for input in self.lanes.values().flat_map(|lane| &lane.inputs) {
            *self.readers.entry(*input).or_default() += 1;
        }
    }

    pub(crate) fn remove_lane(&mut self, id: LaneId) {
        let stops = self.lanes.remove(&id).map(|lane| lane.stops).unwrap_or_default();
        for stop in stops {
            // Who waits for it finds nothing there, and asks anew.
            if let Stop::Pin(_, slot) = stop
                && let Some(slot) = slot.upgrade()
            {
                let _ = slot.set(Arc::default());
            }
        }
        self.lane_of.retain(|_, lane| *lane != id);
        self.count_readers();
    }

    /// These are gone.
    pub(crate) fn forget(&mut self, is_gone: &dyn Fn(RelationId) -> bool) {
        self.lane_of.retain(|relation, _| !is_gone(*relation));
    }

    /// Whether somebody can read it.
    pub(crate) fn has(&self, id: RelationId) -> bool {
        self.lane_of.contains_key(&id) || self.changes.back().is_some_and(|change| change.tables.contains_key(&id))
    }

    /// Whether the relation is a view of a lane, or read by one.
    pub(crate) fn is_moved(&self, id: RelationId) -> bool {
        self.lane_of.contains_key(&id) || self.readers.contains_key(&id)
    }

    /// How far the lane may go from where it is.
    pub(crate) fn plan(&self, id: LaneId) -> Option<Plan> {
        let lane = self.lanes.get(&id)?;
        let reach = lane.reach(self.front);
        let stop = |stop: &Stop| match stop {
            Stop::Order(cut) => Some(*cut),
            Stop::Pin(cut, slot) => (*cut > reach && slot.strong_count() > 0).then_some(*cut),
        };
        let held = self.held.iter().filter(|(of, cut)| *cut > reach && self.lane_of.get(of) == Some(&id));
        let held = held.map(|(_, cut)| *cut);
        let limit = lane.stops.iter().filter_map(stop).chain(held).fold(self.front, Cut::min);
        // Not by resting, either: what joins it there would be beyond what it was told to do.
        let from = reach.min(limit);
        let limit = (!lane.news.is_empty()).then_some(limit);
        let readers = |input: &RelationId| (*input, self.readers.get(input).copied().unwrap_or(0));
        let shared = lane.inputs.iter().map(readers).filter(|(_, count)| *count > 1);
        Some(Plan { from, limit, shared: if limit.is_some() { shared.collect() } else { BTreeMap::new() } })
    }

    /// Where a lane that would go from `from` to `proposed` goes, with the tables there: where others have stopped, so
    /// that they are found at common cuts and share what they decode, and never inside a change.
    pub(crate) fn settle(
        &mut self,
        from: Cut,
        (proposed, limit): (Cut, Cut),
        reads_tables: bool,
    ) -> (Cut, Arc<Contents>) {
        let mut cut = proposed;
        if let Some(boundary) = self.boundaries.range(Cut(from.0 + 1)..=proposed).next_back() {
            cut = *boundary;
        } else if let Some(boundary) = self.boundaries.range(Cut(from.0 + 1)..=limit).next()
            && boundary.0 - from.0 <= STRETCH * (proposed.0 - from.0)
        {
            cut = *boundary;
        }
        if let Some(change) = self.changes.iter().find(|change| change.after < cut && cut < change.cut) {
            cut = if change.after > from { change.after } else { change.cut };
        }
        // The lane began behind what is kept: what tables were there nobody knows.
        if let Some(first) = self.changes.front().filter(|first| reads_tables && cut < first.cut) {
            cut = first.cut;
        }
        self.boundaries.insert(cut);
        while self.boundaries.len() > BOUNDARIES_KEPT {
            self.boundaries.pop_first();
        }
        let tables = self.tables_at(cut).cloned().unwrap_or_default();
        (cut, tables)
    }

    /// A version of a lane is there.
    pub(crate) fn publish(&mut self, id: LaneId, cut: Cut, contents: Option<Contents>) {
        let front = self.front;
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let reach = lane.reach(front);
        let contents = match (contents, lane.versions.back()) {
            (Some(contents), _) => Arc::new(contents),
            (None, Some(last)) => last.contents.clone(),
            (None, None) => Arc::default(),
        };
        match lane.versions.back_mut() {
            Some(last) if last.cut == cut => last.contents = contents,
            last => {
                if let Some(last) = last {
                    last.until = reach;
                }
                lane.versions.push_back(LaneVersion { cut, until: cut, contents });
            }
        }
        while lane.news.front().is_some_and(|(_, until)| *until <= cut) {
            lane.news.pop_front();
        }
        if let Some((after, _)) = lane.news.front_mut() {
            *after = cut.max(*after);
        }
        lane.serve(front);
        self.trim();
    }

    /// A view has joined the lane.
    pub(crate) fn own(&mut self, id: LaneId, relation: RelationId) {
        if self.lanes.contains_key(&id) {
            self.lane_of.insert(relation, id);
        }
    }

    /// The lane stops at this cut until [`Frontiers::obeyed`]. Nobody is beyond the front.
    pub(crate) fn order(&mut self, id: LaneId) -> Cut {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.stops.push(Stop::Order(self.front));
        }
        self.front
    }

    pub(crate) fn obeyed(&mut self, id: LaneId, at: Cut) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            let place = lane.stops.iter().position(|stop| matches!(stop, Stop::Order(cut) if *cut == at));
            place.map(|place| lane.stops.swap_remove(place));
        }
    }

    /// Several lanes that stand at one cut become one.
    pub(crate) fn merge(&mut self, from: &[LaneId], into: LaneId, cut: Cut, commands: Sender<LaneCommand>) {
        let (mut contents, mut inputs, mut stops) = (Contents::new(), BTreeSet::new(), Vec::new());
        let mut reach = self.front;
        for id in from {
            let Some(lane) = self.lanes.remove(id) else { continue };
            reach = reach.min(lane.reach(self.front));
            if let Some(here) = lane.at(cut, self.front) {
                contents.extend(here.iter().map(|(id, content)| (*id, content.clone())));
            }
            inputs.extend(lane.inputs);
            stops.extend(lane.stops.into_iter().filter(|stop| matches!(stop, Stop::Pin(..))));
        }
        let lane_of = &self.lane_of;
        contents.retain(|relation, _| lane_of.contains_key(relation));
        self.add_lane(into, (cut, contents), inputs, commands);
        if let Some(lane) = self.lanes.get_mut(&into) {
            lane.stops = stops;
            // What was right of all of them is right of it.
            lane.news = if reach < self.front { VecDeque::from([(reach, self.front)]) } else { VecDeque::new() };
            lane.serve(self.front);
        }
    }

    /// Shows something else than is there. For proving that comparisons notice.
    pub(crate) fn falsify(&mut self, id: RelationId, version: Arc<Version>) {
        let lane = self.lane_of.get(&id).and_then(|lane| self.lanes.get_mut(lane));
        if let Some(newest) = lane.and_then(|lane| lane.versions.back_mut())
            && let Some(content) = Arc::make_mut(&mut newest.contents).get_mut(&id)
        {
            content.version = version;
        }
    }

    /// How far the relation's readable version is right: the front for tables and what no lane has.
    pub(crate) fn reach_of(&self, id: RelationId) -> Cut {
        match self.lane_of.get(&id).and_then(|lane| self.lanes.get(lane)) {
            Some(lane) => lane.reach(self.front),
            None => {
                let readers = self.lanes.values().filter(|lane| lane.inputs.contains(&id));
                let is_table = self.changes.back().is_some_and(|change| change.tables.contains_key(&id));
                if is_table {
                    self.front
                } else {
                    readers.map(|lane| lane.reach(self.front)).fold(self.front, Cut::min)
                }
            }
        }
    }

    /// How far the readable version of each of these is right.
    pub(crate) fn reach_of_all(&self, ids: &[RelationId]) -> Cut {
        let lanes: BTreeSet<_> = ids.iter().filter_map(|id| self.lane_of.get(id)).collect();
        let lanes = lanes.into_iter().filter_map(|id| self.lanes.get(id));
        lanes.map(|lane| lane.reach(self.front)).fold(self.front, Cut::min)
    }

    /// How far everything is.
    pub(crate) fn reach(&self) -> Cut {
        self.lanes.values().map(|lane| lane.reach(self.front)).fold(self.front, Cut::min)
    }

    /// Tables as of a cut; none where that is not known any more.
    pub(crate) fn tables_at(&self, cut: Cut) -> Option<&Arc<Contents>> {
        if cut > self.front {
            return None;
        }
        let next = self.changes.partition_point(|change| change.cut <= cut);
        let is_inside = self.changes.get(next).is_some_and(|change| change.after < cut);
        let change = self.changes.get(next.checked_sub(1)?)?;
        (!is_inside).then_some(&change.tables)
    }

    /// A checkpoint begins, of all that is readable.
    pub(crate) fn checkpoint_begins(&mut self) {
        let tables = self.changes.back().into_iter().flat_map(|change| change.tables.keys().copied());
        let relations: BTreeSet<RelationId> = self.lane_of.keys().copied().chain(tables).collect();
        self.begun = Some(match self.begun.take() {
            None => Begun { front: self.front, relations },
            // Of the one before it is not known whether it is durable: only what both lead to is sure.
            Some(before) => Begun { front: self.front, relations: &before.relations & &relations },
        });
    }

    /// All that begins anew from now on begins with the checkpoint that began last.
    pub(crate) fn checkpoint_is_durable(&mut self, relations: BTreeSet<RelationId>) {
        if let Some(begun) = self.begun.take() {
            self.durable = Begun { front: begun.front, relations };
        }
    }

    /// The checkpoint that everything begins with has these views.
    pub(crate) fn checkpoint_has(&mut self, views: impl Iterator<Item = RelationId>) {
        self.durable.relations.extend(views);
    }

    /// Whether a start would come by the relation at this cut, which it has now: from the last checkpoint that is durable,
    /// and from any that may be.
    pub(crate) fn would_be_found(&self, id: RelationId, cut: Cut) -> bool {
        let leads_to = |checkpoint: &Begun| checkpoint.leads_to(id, cut);
        leads_to(&self.durable) && self.begun.as_ref().is_none_or(leads_to)
    }

    /// Sinks need what these relations are at these cuts.
    pub(crate) fn hold(&mut self, held: Vec<(RelationId, Cut)>) {
        self.held = held;
    }

    /// How far the front may go for sinks' sake: it stops where they need something, so that tables are known there, and
    /// goes on; where the relation is not made yet, it waits.
    pub(crate) fn limit_of_front(&self) -> Option<Cut> {
        let is_before = |(of, cut): &&(RelationId, Cut)| *cut > self.front || *cut == self.front && !self.has(*of);
        self.held.iter().filter(is_before).map(|(_, cut)| *cut).min()
    }

    /// Tables and views at a cut, if all have a version there.
    pub(crate) fn at(&self, ids: &[RelationId], cut: Cut) -> Option<Published> {
        let mut relations = Contents::with_capacity(ids.len());
        for id in ids {
            let contents = match self.lane_of.get(id) {
                Some(lane) => self.lanes.get(lane)?.at(cut, self.front)?,
                None => self.tables_at(cut)?,
            };
            relations.insert(*id, contents.get(id)?.clone());
        }
        Some(Published { cut, relations })
    }

    /// The highest cut at which all these tables and views can be read; the front when there are none.
    pub(crate) fn common(&self, ids: &[RelationId]) -> Option<Published> {
        let highest = self.reach_of_all(ids);
        self.at(ids, highest).or_else(|| {
            let candidates = self.candidates(ids, |version| [version.cut, version.until]);
            candidates.iter().rev().filter(|cut| **cut < highest).find_map(|cut| self.at(ids, *cut))
        })
    }

    /// Where a view that is made again is to be moved to, when what it reads is here: not over the cut where a sink needs it.
    pub(crate) fn short_of_held(&self, id: RelationId, below: &[RelationId], here: Published) -> Published {
        let held = self.held.iter().filter(|(of, cut)| *of == id && *cut < here.cut).map(|(_, cut)| *cut).min();
        held.and_then(|cut| self.at(below, cut)).unwrap_or(here)
    }

    /// The first version of these beyond `after`.
    pub(crate) fn next_common(&self, ids: &[RelationId], after: Cut) -> Option<Published> {
        let candidates = self.candidates(ids, |version| [version.cut; 2]);
        let beyond = candidates.range(Cut(after.0.saturating_add(1))..);
        let mut found = beyond.filter_map(|cut| self.at(ids, *cut));
        found.next().or_else(|| self.common(ids).filter(|highest| highest.cut > after))
    }

    fn candidates(&self, ids: &[RelationId], cuts: fn(&LaneVersion) -> [Cut; 2]) -> BTreeSet<Cut> {
        let lanes: BTreeSet<_> = ids.iter().filter_map(|id| self.lane_of.get(id)).collect();
        let versions = lanes.into_iter().filter_map(|id| self.lanes.get(id)).flat_map(|lane| &lane.versions);
        let mut candidates: BTreeSet<Cut> = versions.flat_map(cuts).collect();
        if ids.iter().any(|id| !self.lane_of.contains_key(id)) {
            candidates.extend(self.changes.iter().map(|change| change.cut));
        }
        candidates
    }

    /// These tables and views as of the front, now or when their lanes have come there.
    pub(crate) fn demand(&mut self, ids: &[RelationId]) -> Demand {
        let front = self.front;
        let tables = self.tables();
        let mut demand = Demand { cut: front, relations: HashMap::new() };
        let mut slots: BTreeMap<LaneId, Arc<OnceLock<Arc<Contents>>>> = BTreeMap::new();
        for id in ids {
            let found = self.lane_of.get(id).and_then(|id| Some((*id, self.lanes.get_mut(id)?)));
            let slot = match found {
                None => Arc::new(OnceLock::from(tables.clone())),
                Some((of, lane)) => slots
                    .entry(of)
                    .or_insert_with(|| match lane.at(front, front) {
                        Some(contents) => Arc::new(OnceLock::from(contents.clone())),
                        None => {
                            let slot = Arc::new(OnceLock::new());
                            lane.stops.push(Stop::Pin(front, Arc::downgrade(&slot)));
                            slot
                        }
                    })
                    .clone(),
            };
            demand.relations.insert(*id, slot);
        }
        demand
    }

    /// Lets go of what nobody will ask for.
    fn trim(&mut self) {
        let (front, reach) = (self.front, self.reach());
        for lane in self.lanes.values_mut() {
            while lane.versions.len() > VERSIONS_KEPT
                || lane.versions.len() > 1 && lane.versions.front().is_some_and(|version| version.until < reach)
            {
                lane.versions.pop_front();
            }
        }
        while self.changes.get(1).is_some_and(|change| change.cut <= reach) {
            self.changes.pop_front();
        }
        if self.changes.len() > CHANGES_KEPT {
            self.thin(front);
        }
    }

    /// Makes neighbours among the older changes one: who is behind them takes both at once.
    fn thin(&mut self, front: Cut) {
        let orders = self.lanes.values().flat_map(|lane| &lane.stops).map(|stop| match stop {
            Stop::Pin(cut, _) | Stop::Order(cut) => *cut,
        });
        let held = self.held.iter().map(|(_, cut)| *cut);
        let stops: BTreeSet<Cut> = orders.chain(held).filter(|cut| *cut < front).collect();
        let mut kept: VecDeque<Change> = VecDeque::with_capacity(self.changes.len());
        let half = self.changes.len() / 2;
        for (place, change) in std::mem::take(&mut self.changes).into_iter().enumerate() {
            match kept.back_mut() {
                Some(older)
                    if place >= 2
                        && place < half
                        && place % 2 == 0
                        && stops.range(older.cut..=change.after).next().is_none() =>
                {
                    (older.cut, older.tables) = (change.cut, change.tables);
                }
                _ => kept.push_back(change),
            }
        }
        self.changes = kept;
    }
}

/// Relations as of one cut, as far as their lanes have come there. Dropping it frees the lanes of it.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    pub(crate) cut: Cut,
    relations: HashMap<RelationId, Arc<OnceLock<Arc<Contents>>>>,
}

impl Demand {
    /// Whether the relation is among those that were asked for.
    pub(crate) fn covers(&self, id: RelationId) -> bool {
        self.relations.contains_key(&id)
    }

    /// All of these, when their lanes have been there. What a lane did not have then is left out.
    pub(crate) fn of(&self, ids: &[RelationId]) -> Option<Published> {
        let mut published = Published { cut: self.cut, relations: Contents::with_capacity(ids.len()) };
        for id in ids {
            let Some(slot) = self.relations.get(id) else { continue };
            if let Some(content) = slot.get()?.get(id) {
                published.relations.insert(*id, content.clone());
            }
        }
        Some(published)
    }

    /// All that was asked for.
    pub(crate) fn done(&self) -> Option<Published> {
        self.of(&self.relations.keys().copied().collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane at rest goes with the front, but not beyond what it is told to do: a view that joined it there would be in its
    /// part of a checkpoint, and missing where lanes are merged.
    #[test]
    fn a_lane_at_rest_waits_where_it_is_told_to_do_something() {
        let (sender, _commands) = crossbeam_channel::unbounded();
        let (lane, mut all) = (LaneId(1), Frontiers::default());
        all.advance(Cut(7), None, &BTreeSet::new());
        all.add_lane(lane, (Cut(7), Contents::new()), BTreeSet::from([RelationId(1)]), sender);
        let at = all.order(lane);
        all.advance(Cut(9), None, &BTreeSet::new());
        assert_eq!(all.plan(lane).expect("a lane").from, at);
        all.obeyed(lane, at);
        assert_eq!(all.plan(lane).expect("a lane").from, Cut(9));
    }
}
