//! What of a backfill goes into a checkpoint, so that a restart goes on with it where it stood.
//!
//! A checkpoint asks for the part when those of all lanes are there; the backfill gives it between two of its versions, after
//! it has taken in what tables and views are in that checkpoint.
//!
//! Always true here: what a part says of tables and views is what the same checkpoint has of them, and it stands at none of
//! their cuts' future; records after the last durable part are held.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use mainstem_catalog::RelationId;
use parking_lot::Mutex;

use crate::checkpoint::{Kept, LaneState};
use crate::collection::Version;
use crate::input_log::Cut;
use crate::lane::PartitionState;
use crate::state::Handed;

/// A checkpoint waits no longer for a backfill that is within a version: it goes without, and the backfill is in the next.
const PATIENCE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(20);

/// Tables and views as a checkpoint has them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versions {
    /// Of tables.
    pub(crate) cut: Cut,
    /// Each with the cut that it is as of.
    pub(crate) relations: HashMap<RelationId, (Cut, Arc<Version>)>,
}

/// Of sources.
type Positions = BTreeMap<RelationId, BTreeMap<i32, PartitionState>>;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct BackfillPart {
    /// Its cut, its view, its sources.
    pub(crate) state: LaneState,
    pub(crate) kept: Kept,
    pub(crate) handed: Handed,
}

/// Between a backfill's thread and that of a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct PartDesk {
    /// Parts can be had: it stands between versions from time to time.
    is_open: AtomicBool,
    asked: Mutex<Option<Asked>>,
    /// What is before these is needed no more.
    released: Mutex<Option<Positions>>,
}

#[derive(Debug)]
struct Asked {
    versions: Arc<Versions>,
    reply: Sender<BackfillPart>,
}

impl PartDesk {
    pub(crate) fn open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Release);
        if !is_open {
            self.asked.lock().take();
        }
    }

    /// The part, if the backfill comes to it in time.
    pub(crate) fn ask(&self, versions: &Arc<Versions>, gives_up: &dyn Fn() -> bool) -> Option<BackfillPart> {
        if !self.is_open.load(Ordering::Acquire) {
            return None;
        }
        let (reply, answer): (_, Receiver<BackfillPart>) = crossbeam_channel::bounded(1);
        *self.asked.lock() = Some(Asked { versions: versions.clone(), reply });
        let mut left = PATIENCE;
        while !gives_up() && self.is_open.load(Ordering::Acquire) && !left.is_zero() {
            if let Ok(part) = answer.recv_timeout(STEP) {
                return Some(part);
            }
            left = left.saturating_sub(STEP);
        }
        self.asked.lock().take();
        answer.try_recv().ok()
    }

    /// Gives the part that is asked for, if one is.
    pub(crate) fn answer(&self, part: impl FnOnce(&Versions) -> Option<BackfillPart>) {
        let asked = self.asked.lock().take().filter(|_| self.is_open.load(Ordering::Acquire));
        if let Some(Asked { versions, reply }) = asked
            && let Some(part) = part(&versions)
        {
            // Whoever asked has given up when nobody receives.
            let _ = reply.send(part);
        }
    }

    /// The checkpoint with the part is durable.
    pub(crate) fn release(&self, positions: Positions) {
        *self.released.lock() = Some(positions);
    }

    pub(crate) fn take_released(&self) -> Option<Positions> {
        self.released.lock().take()
    }
}
