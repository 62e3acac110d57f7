//! A lane reads its sources: itself, or from what another lane has decoded, and ahead while its operators work.
//!
//! Always true here: whoever decodes a step offers its dead letters and late rows before anyone goes on with it; what is
//! decoded ahead is what the lane would decode itself, and is taken only at the place where it begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mainstem_catalog::RelationId;

use super::decoded::{Claim, Decoded};
use super::frontier::Plan;
use super::step::push;
use super::{Ends, Input, Lane, Reading, Shared, again, topic_of_letters};
use crate::dead_letters::DeadLetters;
use crate::delta::Delta;
use crate::error::EngineError;
use crate::incremental::pool;
use crate::input_log::{Cut, LogError};

/// A step of a source that is heavier than this many slices is not held: its slices go through the operators one by one.
const HELD_SLICES_MAX: u64 = 2;

/// Slices of sources.
pub(super) type Slices = Vec<(RelationId, Vec<Delta>)>;

/// A step that is decoded, or to be.
struct Step<'a> {
    cut: Cut,
    ends: &'a Ends,
    is_over: &'a dyn Fn() -> bool,
}

impl Lane {
    /// What the sources hold up to the cut, and how many records that was. What is too much to be held has been pushed.
    pub(super) fn read_sources(&mut self, from: Cut, cut: Cut, plan: &Plan) -> Result<(u64, Slices), EngineError> {
        let (mut records, mut slices) = (0, Slices::new());
        for id in self.sources.keys().copied().collect::<Vec<_>>() {
            let readers = plan.shared.get(&id).copied().unwrap_or(1);
            let before = seen(&self.sources[&id]);
            let (mut at, mut held) = (from, Vec::new());
            while let Some(next) = self.read_source(id, at, cut, readers, &mut held)? {
                at = next;
            }
            let input = self.sources.get_mut(&id).expect("it was just read");
            records += seen(input) - before;
            self.shared.bytes_read.fetch_add(input.take_bytes_read(), Ordering::Relaxed);
            slices.push((id, held));
        }
        self.shared.rows_read.fetch_add(records, Ordering::Relaxed);
        Ok((records, slices))
    }

    /// One step of a source towards the cut: where it leads; none when the source stands there.
    fn read_source(
        &mut self,
        id: RelationId,
        at: Cut,
        cut: Cut,
        readers: usize,
        held: &mut Vec<Delta>,
    ) -> Result<Option<Cut>, EngineError> {
        let (log, shared, flag) = (self.log(), self.shared.clone(), self.is_over.clone());
        let is_over = || flag.load(Ordering::Acquire) || shared.is_abandoned();
        let again = |error: &LogError| again(&shared, error) && !is_over();
        let input = self.sources.get_mut(&id).expect("a source of the lane");
        let (to, ends) = loop {
            let next = input.ends(&*log, cut).and_then(|ends| {
                match input.distance(&ends) + input.idle_distance(&*log, cut)? {
                    0 => Ok(None),
                    _ => input.step(&*log, at, (cut, ends)).map(Some),
                }
            });
            match next {
                Ok(Some(next)) => break next,
                Ok(None) => return Ok(None),
                Err(error) if again(&error) => {}
                Err(_) => return Err(EngineError::Stopped),
            }
        };
        let step = Step { cut: to, ends: &ends, is_over: &is_over };
        let ahead = self.ahead.remove(&id);
        if input.weight(&*log, &ends) > HELD_SLICES_MAX * shared.config.slice_rows as u64 {
            // What was held comes first.
            push(&mut self.views, id, held);
            held.clear();
            let views = &mut self.views;
            decode(&shared, &self.dead_letters, input, &step, &mut |delta| {
                push(views, id, std::slice::from_ref(delta))
            })?;
            return Ok(Some(to));
        }
        let mut claimed = None;
        if readers > 1 || ahead.is_some() {
            match shared.decoded.claim(id, &input.state, to, readers) {
                Claim::Mine(mine) => claimed = Some(mine),
                Claim::Done(decoded) => {
                    input.take(&decoded);
                    held.extend_from_slice(&decoded.slices);
                    return Ok(Some(decoded.cut));
                }
            }
            ahead.inspect(|is_wanted| is_wanted.store(false, Ordering::Release));
        }
        let (before, first) = (claimed.as_ref().map(|_| input.state.clone()), held.len());
        decode(&shared, &self.dead_letters, input, &step, &mut |delta| held.push(delta.clone()))?;
        if let (Some(claimed), Some(before)) = (claimed, before) {
            let after = input.state.clone();
            claimed.fill(Decoded { cut: to, before, after, slices: held[first..].to_vec() });
        }
        Ok(Some(to))
    }

    /// While the operators work on the step to `cut`, another thread decodes what comes after it.
    pub(super) fn read_ahead(&mut self, cut: Cut, limit: Cut, plan: &Plan) {
        if cut >= limit || self.shared.config.shards.count < 2 {
            return;
        }
        let log = self.log();
        let sources = &mut self.sources;
        let proposed = self.pacing.clone().next_cut(&*log, cut, Some(limit), &mut |cut| {
            sources.values_mut().try_fold(0, |weight, input| {
                let ends = input.ends(&*log, cut)?;
                Ok(weight + input.weight(&*log, &ends))
            })
        });
        // If the log fails, the step itself will say so.
        let Ok(Some(proposed)) = proposed else { return };
        let (to, _) = self.shared.settle(cut, (proposed, limit), !self.tables.is_empty());
        let weight_max = HELD_SLICES_MAX * self.shared.config.slice_rows as u64;
        let mut wanted = BTreeMap::new();
        for (id, input) in sources {
            let Ok(ends) = input.ends(&*log, to) else { continue };
            if input.distance(&ends) == 0 {
                continue;
            }
            let Ok((to, ends)) = input.step(&*log, cut, (to, ends)) else { continue };
            if input.weight(&*log, &ends) > weight_max {
                continue;
            }
            let is_wanted = Arc::new(AtomicBool::new(true));
            wanted.insert(*id, is_wanted.clone());
            let ahead = Ahead {
                shared: self.shared.clone(),
                dead_letters: self.dead_letters.clone(),
                is_over: self.is_over.clone(),
                is_wanted,
                input: (input.relation.clone(), input.state.clone()),
                readers: plan.shared.get(id).copied().unwrap_or(1),
                step: (to, ends),
            };
            pool().spawn(move || ahead.decode());
        }
        self.ahead = wanted;
    }
}

/// A step that is to be decoded before the lane comes to it.
struct Ahead {
    shared: Arc<Shared>,
    dead_letters: Arc<DeadLetters>,
    is_over: Arc<AtomicBool>,
    is_wanted: Arc<AtomicBool>,
    input: (Arc<mainstem_catalog::Relation>, super::InputState),
    readers: usize,
    step: (Cut, Ends),
}

impl Ahead {
    fn decode(self) {
        let Ahead { shared, is_wanted, is_over, input: (relation, before), step: (cut, ends), .. } = self;
        if !is_wanted.load(Ordering::Acquire) {
            return;
        }
        let Some(claimed) = shared.decoded.claim_ahead(relation.id, &before, cut, self.readers) else { return };
        // What cannot be decoded here the lane decodes, and tells why it cannot.
        let Ok(mut input) = Input::with_state(&relation, Some(before.clone())) else { return };
        let is_over = || is_over.load(Ordering::Acquire) || shared.gives_up();
        let (mut slices, step) = (Vec::new(), Step { cut, ends: &ends, is_over: &is_over });
        if decode(&shared, &self.dead_letters, &mut input, &step, &mut |delta| slices.push(delta.clone())).is_ok() {
            shared.bytes_read.fetch_add(input.take_bytes_read(), Ordering::Relaxed);
            claimed.fill(Decoded { cut, before, after: input.state, slices });
        }
    }
}

/// Reads and decodes a step of a source, and offers what it rejects and what is late.
fn decode(
    shared: &Shared,
    dead_letters: &DeadLetters,
    input: &mut Input,
    step: &Step<'_>,
    rows: &mut dyn FnMut(&Delta),
) -> Result<(), EngineError> {
    let again = |error: &LogError| again(shared, error) && !(step.is_over)();
    let reading = Reading {
        log: &*shared.input,
        slice_rows: shared.config.slice_rows,
        read_bytes_max: shared.config.read_bytes_max,
        again: &again,
        is_over: step.is_over,
    };
    let at = (step.cut, step.ends);
    let aside = input.read_source(&reading, at, rows)?;
    let letters = if aside.rejected.is_empty() { None } else { topic_of_letters(shared) };
    dead_letters.offer(&input.relation, letters, aside.rejected, at);
    if !aside.late.is_empty() {
        dead_letters.offer_late(&shared.catalog(), &input.relation, aside.late, at);
    }
    Ok(())
}

/// Records and idle events that were read, and reasons for which some cannot be: more of either is a new version.
fn seen(input: &Input) -> u64 {
    let idle_events = u64::try_from(input.state.idle_next).unwrap_or(0);
    input.state.records + input.state.rejected + input.state.errors.len() as u64 + idle_events
}
