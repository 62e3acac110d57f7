//! Where one sink stands: what it has written, what it waits for, what comes next. Shared by those who
//! publish, the sink's thread and whoever asks for counters.
//!
//! Words: the sink's *base* is the content that its topic stands for, the relation at the sink's committed cut; it is *mute*
//! while replay has not reached the cut where the base is to be taken; the *goal* is where parts lead that were written
//! before a crash.
//!
//! Always true here: what is written next is the difference of the base and a later version; a base is taken at exactly the
//! cut that it stands for, or the sink fails.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::collection::Version;
use crate::input_log::{Ahead, Cut};

/// A relation as of a published cut.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) cut: Cut,
    pub(super) version: Arc<Version>,
    /// The newest timestamp among the records that it was made of.
    pub(super) newest_ms: i64,
}

/// What the thread does next.
#[derive(Debug)]
pub(super) struct Work {
    /// Nothing for a sink that has written nothing yet.
    pub(super) base: Option<Arc<Version>>,
    pub(super) to: Seen,
    /// The sink's committed cut; [`Cut::ZERO`] for one that has not begun.
    pub(super) committed: Cut,
    /// Records of the way to `to` that are written already.
    pub(super) written: u64,
}

/// What one sink has done since the engine was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) records: u64,
    pub(super) left_out: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) committed: Cut,
    ahead: Option<Ahead>,
    /// The base is to be taken here.
    settle: Option<Cut>,
    base: Option<Arc<Version>>,
    goal: Option<Seen>,
    newest: Option<Seen>,
    /// All that changed up to here is written.
    pub(super) done: Cut,
    /// The newest timestamp of what was written.
    pub(super) done_ms: i64,
    writing: Option<Cut>,
    /// Why the log does not take what is to be written; it is tried again.
    pub(super) trouble: Option<String>,
    /// Why the sink has stopped for good.
    pub(super) failed: Option<String>,
    pub(super) counters: Counters,
    has_ended: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

impl State {
    fn is_mute(&self) -> bool {
        self.settle.is_some() || self.ahead.is_some() && self.goal.is_none() && self.writing.is_none()
    }

    fn has_work(&self) -> bool {
        let has_news = || self.newest.as_ref().is_some_and(|seen| seen.cut > self.done);
        self.writing.is_some() || self.goal.is_some() || !self.is_mute() && has_news()
    }

    fn waits_for_goal(&self) -> Option<Ahead> {
        self.ahead.filter(|_| self.goal.is_none() && self.writing.is_none())
    }

    /// Whether something has come of it that others wait for.
    fn see(&mut self, newest: Seen, at: &dyn Fn(Cut) -> Option<Seen>) -> bool {
        if self.failed.is_some() || self.has_ended {
            return false;
        }
        if let Some(cut) = self.settle {
            match at(cut) {
                Some(seen) => {
                    self.settle = None;
                    (self.done, self.done_ms) = (cut, seen.newest_ms);
                    self.base = Some(seen.version);
                }
                None if newest.cut > cut => self.failed = Some(lost_place(cut, newest.cut)),
                None => return false,
            }
        }
        if let Some(ahead) = self.waits_for_goal().filter(|_| self.failed.is_none()) {
            match at(ahead.to) {
                Some(seen) => self.goal = Some(seen),
                None if newest.cut > ahead.to => self.failed = Some(lost_place(ahead.to, newest.cut)),
                None => {}
            }
        }
        let is_idle = self.goal.is_none() && self.writing.is_none() && self.ahead.is_none() && self.failed.is_none();
        let is_base = self.base.as_ref().is_some_and(|base| Arc::ptr_eq(base, &newest.version));
        if is_idle && is_base && newest.cut >= self.done {
            // As it was: nothing is to be written.
            (self.done, self.done_ms) = (newest.cut, newest.newest_ms);
            self.newest = None;
        } else {
            self.newest = Some(newest);
        }
        true
    }

    /// In one word, with the reason where there is one.
    pub(super) fn text(&self) -> String {
        match (&self.failed, &self.trouble) {
            (Some(reason), _) => format!("failed: {reason}"),
            (None, Some(reason)) => format!("waiting: {reason}"),
            (None, None) if self.is_mute() => "replaying".to_owned(),
            (None, None) if self.committed == Cut::ZERO => "starting".to_owned(),
            (None, None) => "running".to_owned(),
        }
    }

    /// Whether a restart from a checkpoint at this cut would miss nothing.
    fn is_written_to(&self, cut: Cut) -> bool {
        if self.failed.is_some() || self.done >= cut || self.settle.is_some_and(|at| at >= cut) {
            return true;
        }
        let has_begun = self.committed != Cut::ZERO;
        match (self.ahead, self.writing) {
            // The way that was begun must be found again.
            (Some(ahead), _) => !has_begun && ahead.to >= cut,
            (None, Some(writing)) => !has_begun && writing >= cut,
            // It may begin with what it has seen.
            (None, None) => {
                !has_begun && self.newest.as_ref().is_none_or(|seen| seen.cut >= cut || seen.cut == Cut::ZERO)
            }
        }
    }
}

impl Slot {
    /// A sink as the log knows it, of a relation that is in the checkpoint as of `at`.
    pub(super) fn new(committed: Cut, ahead: Option<Ahead>, at: Cut, failed: Option<String>) -> Slot {
        // In no checkpoint is it further than what was written: at the later of the two cuts the content is the same.
        let settle = (committed != Cut::ZERO).then(|| committed.max(at));
        let state = State { committed, ahead, settle, failed, done: committed, ..State::default() };
        Slot { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    /// Where the sink is to see what its relation is.
    pub(super) fn stops(&self) -> [Option<Cut>; 2] {
        let state = self.state.lock();
        if state.failed.is_some() || state.has_ended {
            return [None; 2];
        }
        [state.settle, state.waits_for_goal().map(|ahead| ahead.to)]
    }

    /// Whether anything is written, or about to be.
    pub(super) fn has_begun(&self) -> bool {
        let state = self.state.lock();
        state.committed != Cut::ZERO || state.ahead.is_some() || state.writing.is_some()
    }

    /// This is published; `at` gives what is known at another cut.
    pub(super) fn see(&self, newest: Seen, at: &dyn Fn(Cut) -> Option<Seen>) {
        let mut state = self.state.lock();
        if state.see(newest, at) {
            self.changed.notify_all();
        }
    }

    /// Waits for something to write; none when the sink has ended.
    pub(super) fn next_work(&self) -> Option<Work> {
        let mut state = self.state.lock();
        loop {
            if state.has_ended || state.failed.is_some() {
                return None;
            }
            if let Some(to) = state.goal.clone() {
                state.writing = Some(to.cut);
                let written = state.ahead.map_or(0, |ahead| ahead.records);
                return Some(Work { base: state.base.clone(), to, committed: state.committed, written });
            }
            let (done, committed) = (state.done, state.committed);
            if !state.is_mute()
                // At cut zero there is nothing, and a sink that had begun there would look like one that has not.
                && let Some(to) = state.newest.take_if(|seen| {
                    seen.cut > done || committed == Cut::ZERO && seen.cut > Cut::ZERO
                })
            {
                state.writing = Some(to.cut);
                return Some(Work { base: state.base.clone(), to, committed, written: 0 });
            }
            self.changed.wait(&mut state);
        }
    }

    /// A part of the way is durable.
    pub(super) fn wrote_part(&self, ahead: Ahead, records: u64) {
        self.change(|state| {
            state.ahead = Some(ahead);
            state.trouble = None;
            state.counters.records += records;
        });
    }

    /// All of the way is durable; `committed` is the cut that the output has now.
    pub(super) fn wrote(&self, work: Work, committed: Cut, (records, left_out): (u64, u64)) {
        self.change(|state| {
            (state.committed, state.ahead, state.goal, state.writing) = (committed, None, None, None);
            (state.trouble, state.done, state.done_ms) = (None, work.to.cut, work.to.newest_ms);
            state.base = Some(work.to.version);
            state.counters.records += records;
            state.counters.left_out += left_out;
        });
    }

    pub(super) fn is_troubled(&self, trouble: &str) {
        self.change(|state| state.trouble = Some(trouble.to_owned()));
    }

    pub(super) fn fail(&self, reason: String) {
        self.change(|state| {
            state.failed.get_or_insert(reason);
            (state.base, state.goal, state.newest, state.writing) = (None, None, None, None);
        });
    }

    pub(super) fn end(&self) {
        self.change(|state| state.has_ended = true);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().has_ended
    }

    /// Waits until a restart from a checkpoint at this cut would miss nothing; the error says why it cannot be waited for.
    pub(super) fn wait_written(&self, cut: Cut) -> Result<(), String> {
        let mut state = self.state.lock();
        while !state.is_written_to(cut) {
            if let Some(trouble) = &state.trouble {
                return Err(trouble.clone());
            }
            if state.has_ended || !state.has_work() {
                return Err("it is in the middle of what it wrote before the restart".to_owned());
            }
            self.changed.wait(&mut state);
        }
        Ok(())
    }

    /// Waits until all that changed up to this cut is written, or never will be.
    pub(super) fn wait_done(&self, cut: Cut) {
        let mut state = self.state.lock();
        let is_done = |state: &State| state.done >= cut && (cut == Cut::ZERO || state.committed != Cut::ZERO);
        while !(is_done(&state) || state.failed.is_some() || state.has_ended) {
            self.changed.wait(&mut state);
        }
    }
}

fn lost_place(at: Cut, now: Cut) -> String {
    format!(
        "what was written stands for cut {at}, and replay began only at {now}: its place is lost; drop the sink and create \
         it again, into a new topic or with snapshot = 'false'"
    )
}
