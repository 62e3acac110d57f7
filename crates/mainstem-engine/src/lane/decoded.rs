//! What one lane has decoded of a source, for the others that come to the same records.
//!
//! Words: a *place* is where a reader of a source stands: its positions, and what it knows of event time and of idle events; two readers at the
//! same place make the same rows of the same records. A *step* leads from a place to a cut.
//!
//! The first lane at a place decodes, others that come meanwhile wait for it, later ones find it done. A step is kept until
//! as many lanes have had it as read the source, or until newer ones need its room: a lane that is further behind decodes
//! for itself. So a source is decoded once for all lanes that keep pace, and what is kept is bounded.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use mainstem_catalog::RelationId;
use parking_lot::{Condvar, Mutex};

use super::{InputState, PartitionState};
use crate::delta::Delta;
use crate::input_log::Cut;
use crate::watermark::WatermarkTracker;

/// What a step gave.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) cut: Cut,
    pub(crate) before: InputState,
    pub(crate) after: InputState,
    pub(crate) slices: Vec<Delta>,
}

#[derive(Debug)]
enum Filling {
    Decoding,
    Done(Arc<Decoded>),
    /// Whoever wanted to decode it has not.
    Left,
}

#[derive(Debug)]
struct Slot {
    place: (BTreeMap<i32, PartitionState>, Option<WatermarkTracker>, i64),
    cut: Cut,
    filling: Mutex<Filling>,
    changed: Condvar,
}

#[derive(Debug)]
struct Kept {
    slot: Arc<Slot>,
    /// Lanes that have not had it.
    wanted_by: usize,
    rows: usize,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct DecodedSteps {
    by_source: Mutex<HashMap<RelationId, VecDeque<Kept>>>,
    rows_max: usize,
}

/// What to do at a place.
#[derive(Debug)]
pub(crate) enum Claim<'a> {
    /// Another lane has done it.
    Done(Arc<Decoded>),
    /// To be decoded, and handed in, by whoever has this.
    Mine(Claimed<'a>),
}

/// The duty to decode a step. Dropped without having done so, it passes to the next who comes.
#[derive(Debug)]
pub(crate) struct Claimed<'a> {
    steps: &'a DecodedSteps,
    source: RelationId,
    slot: Arc<Slot>,
}

impl Slot {
    fn new(at: &InputState, cut: Cut) -> Slot {
        let place = (at.partitions.clone(), at.tracker.clone(), at.idle_next);
        Slot { place, cut, filling: Mutex::new(Filling::Decoding), changed: Condvar::new() }
    }

    fn is_at(&self, at: &InputState) -> bool {
        self.place.0 == at.partitions && self.place.1 == at.tracker && self.place.2 == at.idle_next
    }
}

impl DecodedSteps {
    /// Keeps about so many rows of each source.
    pub(crate) fn new(rows_max: usize) -> DecodedSteps {
        DecodedSteps { by_source: Mutex::default(), rows_max }
    }

    /// A step of the source from this place that does not lead beyond `cut`; when there is none, the step to `cut` is the
    /// caller's. `readers` lanes read the source.
    pub(crate) fn claim(&self, source: RelationId, at: &InputState, cut: Cut, readers: usize) -> Claim<'_> {
        loop {
            let slot = {
                let mut by_source = self.by_source.lock();
                let kept = by_source.entry(source).or_default();
                match kept.iter().find(|kept| kept.slot.cut <= cut && kept.slot.is_at(at)) {
                    Some(found) => found.slot.clone(),
                    None => {
                        if readers <= 1 {
                            // What was decoded ahead and is not taken: nobody else will.
                            kept.clear();
                        }
                        let slot = Arc::new(Slot::new(at, cut));
                        kept.push_back(Kept { slot: slot.clone(), wanted_by: readers.saturating_sub(1), rows: 0 });
                        return Claim::Mine(Claimed { steps: self, source, slot });
                    }
                }
            };
            let done = {
                let mut filling = slot.filling.lock();
                slot.changed.wait_while(&mut filling, |filling| matches!(filling, Filling::Decoding));
                match &*filling {
                    Filling::Done(decoded) => Some(decoded.clone()),
                    _ => None,
                }
            };
            match done {
                Some(decoded) => {
                    self.had(source, &slot);
                    return Claim::Done(decoded);
                }
                None => self.remove(source, &slot),
            }
        }
    }

    /// The step from this place to `cut` is the caller's, who is none of the lanes; none when a lane is at it, or it is done.
    pub(crate) fn claim_ahead(
        &self,
        source: RelationId,
        at: &InputState,
        cut: Cut,
        readers: usize,
    ) -> Option<Claimed<'_>> {
        let mut by_source = self.by_source.lock();
        let kept = by_source.entry(source).or_default();
        if kept.iter().any(|kept| kept.slot.is_at(at)) {
            return None;
        }
        let slot = Arc::new(Slot::new(at, cut));
        kept.push_back(Kept { slot: slot.clone(), wanted_by: readers, rows: 0 });
        Some(Claimed { steps: self, source, slot })
    }

    /// One lane less wants it.
    fn had(&self, source: RelationId, slot: &Arc<Slot>) {
        let mut by_source = self.by_source.lock();
        let Some(kept) = by_source.get_mut(&source) else { return };
        if let Some(place) = kept.iter().position(|kept| Arc::ptr_eq(&kept.slot, slot)) {
            kept[place].wanted_by = kept[place].wanted_by.saturating_sub(1);
            if kept[place].wanted_by == 0 {
                kept.remove(place);
            }
        }
    }

    fn remove(&self, source: RelationId, slot: &Arc<Slot>) {
        if let Some(kept) = self.by_source.lock().get_mut(&source) {
            kept.retain(|kept| !Arc::ptr_eq(&kept.slot, slot));
        }
    }

    fn filled(&self, source: RelationId, slot: &Arc<Slot>, rows: usize) {
        let mut by_source = self.by_source.lock();
        let Some(kept) = by_source.get_mut(&source) else { return };
        if let Some(kept) = kept.iter_mut().find(|kept| Arc::ptr_eq(&kept.slot, slot)) {
            kept.rows = rows;
        }
        kept.retain(|kept| kept.wanted_by > 0 || !Arc::ptr_eq(&kept.slot, slot));
        while kept.len() > 1 && kept.iter().map(|kept| kept.rows).sum::<usize>() > self.rows_max {
            kept.pop_front();
        }
    }

    /// Nobody reads these any more.
    pub(crate) fn retain(&self, is_read: impl Fn(RelationId) -> bool) {
        self.by_source.lock().retain(|source, _| is_read(*source));
    }
}

impl Claimed<'_> {
    /// Hands in what the step gave.
    pub(crate) fn fill(self, decoded: Decoded) {
        let rows = decoded.slices.iter().map(Delta::len).sum();
        *self.slot.filling.lock() = Filling::Done(Arc::new(decoded));
        self.slot.changed.notify_all();
        self.steps.filled(self.source, &self.slot, rows);
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        let mut filling = self.slot.filling.lock();
        if matches!(*filling, Filling::Decoding) {
            *filling = Filling::Left;
            self.slot.changed.notify_all();
            drop(filling);
            self.steps.remove(self.source, &self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: RelationId = RelationId(1);

    fn state(next: i64) -> InputState {
        let partitions = BTreeMap::from([(0, PartitionState { next, is_stopped: false })]);
        InputState { partitions, ..InputState::default() }
    }

    fn decoded(from: i64, to: i64) -> Decoded {
        Decoded { cut: Cut(to as u64), before: state(from), after: state(to), slices: Vec::new() }
    }

    #[test]
    fn a_step_is_decoded_once_for_all_lanes_at_its_place() {
        let steps = DecodedSteps::new(100);
        let Claim::Mine(mine) = steps.claim(SOURCE, &state(0), Cut(5), 3) else { panic!("nobody was here") };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| match steps.claim(SOURCE, &state(0), Cut(9), 3) {
                Claim::Done(decoded) => decoded.cut,
                Claim::Mine(_) => panic!("it is being decoded"),
            });
            mine.fill(decoded(0, 5));
            assert_eq!(other.join().expect("no panic"), Cut(5));
        });
        assert!(matches!(steps.claim(SOURCE, &state(0), Cut(4), 3), Claim::Mine(_)), "it leads too far");
        assert!(matches!(steps.claim(SOURCE, &state(5), Cut(9), 3), Claim::Mine(_)), "another place");
        assert!(matches!(steps.claim(SOURCE, &state(0), Cut(5), 3), Claim::Done(_)));
        assert!(matches!(steps.claim(SOURCE, &state(0), Cut(5), 3), Claim::Mine(_)), "all three have had it");
    }

    #[test]
    fn a_step_that_is_left_passes_to_the_next() {
        let steps = DecodedSteps::new(100);
        let Claim::Mine(mine) = steps.claim(SOURCE, &state(0), Cut(5), 2) else { panic!("nobody was here") };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| matches!(steps.claim(SOURCE, &state(0), Cut(5), 2), Claim::Mine(_)));
            drop(mine);
            assert!(other.join().expect("no panic"));
        });
    }
}
