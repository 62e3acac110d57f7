//! Drives the coordinator: requests in, answers out, records to the log in the order the coordinator gave them.
//!
//! The coordinator is behind one lock that is held for computing only. Writes go through one thread, so that their order in
//! the log is that of the decisions, and a full log makes that thread wait and nobody else.

mod committed;
mod requests;

use std::collections::HashMap;
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use mainstem_disk::Clock;
use mainstem_kafka_wire::batch::Compression;
use mainstem_kafka_wire::records::RecordBatchBuilder;
use mainstem_log::{Atomicity, Entry, Log, Part, TopicId, TopicPartition, Urgency};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::coordinator::records::{OffsetsRecord, partition_of};
use crate::coordinator::{Answer, Coordinator, Effect, Event, Limits, Now, Request, WaiterId, WriteId};

pub(crate) struct Groups {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    /// A deadline has come nearer.
    sooner: Notify,
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").finish_non_exhaustive()
    }
}

struct State {
    coordinator: Coordinator,
    waiters: HashMap<WaiterId, oneshot::Sender<Answer>>,
    next_waiter: u64,
    /// Where records go, once the topic is there.
    topic: Option<(TopicId, i32)>,
    writes: mpsc::Sender<Write>,
}

/// One set of records on its way to the log.
struct Write {
    id: WriteId,
    to: Option<TopicPartition>,
    records: Vec<OffsetsRecord>,
    at_ms: i64,
}

impl Groups {
    /// No groups yet. The writing thread ends when the last reference is dropped.
    pub(crate) fn start(log: Log, limits: Limits, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (writes, to_write) = mpsc::channel();
        let state = State {
            coordinator: Coordinator::new(limits),
            waiters: HashMap::new(),
            next_waiter: 0,
            topic: None,
            writes,
        };
        let groups = Arc::new(Self { state: Mutex::new(state), clock, sooner: Notify::new() });
        let weak = Arc::downgrade(&groups);
        let spawned = std::thread::Builder::new().name("group-writer".to_owned()).spawn(move || {
            for write in to_write {
                append(&log, write, &weak);
            }
        });
        spawned.expect("the operating system gives a thread at start");
        groups
    }

    pub(crate) fn load(&self, record: OffsetsRecord) {
        let now = self.now();
        self.state.lock().coordinator.load(record, now);
    }

    /// From now on records go to this topic.
    pub(crate) fn loaded(&self, topic: TopicId, partitions: i32) {
        self.state.lock().topic = Some((topic, partitions));
        self.sooner.notify_one();
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Coordinator) -> T) -> T {
        read(&self.state.lock().coordinator)
    }

    /// Asks the coordinator. `None` when the process ends before it answers.
    pub(crate) async fn ask(&self, request: Request) -> Option<Answer> {
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.state.lock();
            state.next_waiter += 1;
            let waiter = WaiterId(state.next_waiter);
            state.waiters.insert(waiter, tell);
            self.happen(&mut state, Event::Request(waiter, request));
        }
        told.await.ok()
    }

    pub(crate) fn topic_deleted(&self, topic: &str) {
        self.happen(&mut self.state.lock(), Event::TopicDeleted { topic: topic.to_owned() });
    }

    pub(crate) fn tick(&self) {
        self.happen(&mut self.state.lock(), Event::Tick);
    }

    /// Returns when a tick is due. Cancel-safe.
    pub(crate) async fn wait_for_deadline(&self) {
        loop {
            let deadline_ms = self.state.lock().coordinator.next_deadline_ms();
            let left_ms = deadline_ms.saturating_sub(self.now().ms);
            let Ok(left_ms @ 1..) = u64::try_from(left_ms) else { return };
            // Offsets outlive their group for days: look now and then.
            let sleep = Duration::from_millis(left_ms.min(60_000));
            tokio::select! {
                () = tokio::time::sleep(sleep) => return,
                () = self.sooner.notified() => {}
            }
        }
    }

    fn now(&self) -> Now {
        let ms = i64::try_from(self.clock.monotonic().as_millis()).unwrap_or(i64::MAX);
        Now { ms, wall_ms: self.clock.wall_ms() }
    }

    fn happen(&self, state: &mut State, event: Event) {
        let now = self.now();
        let before_ms = state.coordinator.next_deadline_ms();
        for effect in state.coordinator.handle(event, now) {
            match effect {
                Effect::Answer(waiter, answer) => {
                    let tell = state.waiters.remove(&waiter).expect("a request is answered once");
                    // The connection may be gone.
                    drop(tell.send(answer));
                }
                Effect::Write { write, group, records } => {
                    let to = state
                        .topic
                        .map(|(topic, partitions)| TopicPartition::new(topic, partition_of(&group, partitions)));
                    let job = Write { id: write, to, records, at_ms: now.wall_ms };
                    state.writes.send(job).expect("the writer ends after the last sender");
                }
            }
        }
        if state.coordinator.next_deadline_ms() < before_ms {
            self.sooner.notify_one();
        }
    }
}

/// Appends one set of records; the report comes when it is durable, or cannot be.
fn append(log: &Log, write: Write, groups: &Weak<Groups>) {
    let id = write.id;
    let Some(to) = write.to else { return report(groups, id, false) };
    let mut batch = RecordBatchBuilder::new(Compression::None);
    for record in &write.records {
        record.append_to(&mut batch, write.at_ms);
    }
    let parts = vec![Part { to, batches: batch.build() }];
    let entry = Entry { parts, conditions: Vec::new(), atomicity: Atomicity::Whole };
    let told = Weak::clone(groups);
    let done = Box::new(move |result: Result<_, _>| report(&told, id, result.is_ok()));
    if let Err(error) = log.append(entry, Urgency::Reserve, done) {
        tracing::warn!(%error, "cannot write group offsets");
        report(groups, id, false);
    }
}

fn report(groups: &Weak<Groups>, write: WriteId, is_durable: bool) {
    if let Some(groups) = groups.upgrade() {
        groups.happen(&mut groups.state.lock(), Event::Written { write, is_durable });
    }
}
