//! A log in memory that keeps the contract of the engine's two traits, with faults on demand.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mainstem_engine::Cut;
use mainstem_engine::input_log::{
    AcceptedCommit, Ahead, Batches, CommitDone, CommitError, Hold, InputLog, LogError, LogRecord, OutRecord,
    OutputCommit, OutputLog, OutputStep, TopicAppend,
};
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use super::world::PATIENCE;

pub(crate) type Key = Option<Bytes>;

/// What an entry appends: topic, partition, key and value of each record.
pub(crate) type Appends = Vec<((Uuid, i32), Vec<(Key, Key)>)>;

type Wake = Box<dyn Fn() + Send + Sync>;

/// One commit of a sink.
#[derive(Clone, Debug)]
pub(crate) struct SinkCommit {
    pub(crate) step: OutputStep,
    pub(crate) records: Vec<(i32, OutRecord)>,
}

#[derive(Default)]
struct State {
    csn: u64,
    records: HashMap<(Uuid, i32), Vec<LogRecord>>,
    /// By partition: the next offset after each entry that grew it.
    ends: HashMap<(Uuid, i32), Vec<(u64, i64)>>,
    partitions: BTreeMap<Uuid, i32>,
    committed: HashMap<String, (Cut, Option<Ahead>)>,
    /// What sinks have committed, in order.
    sunk: Vec<SinkCommit>,
    /// So many commits of sinks are taken, then none: the process dies between two of them.
    sink_commits_left: Option<u64>,
    wakes: Vec<Arc<Wake>>,
    /// Reads from here on are damaged.
    damaged: HashMap<(Uuid, i32), i64>,
    /// So many reads fail with an I/O error.
    failing_reads: u64,
    reads: u64,
    /// Backfills may read only below this offset.
    gate: Option<i64>,
    /// First offsets that retention has left.
    starts: HashMap<(Uuid, i32), i64>,
    holds: BTreeMap<(Uuid, i32), BTreeMap<u64, i64>>,
    next_hold: u64,
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct MemoryLog {
    state: Arc<Mutex<State>>,
    gate_moved: Condvar,
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog").field("csn", &self.state.lock().csn).finish_non_exhaustive()
    }
}

impl MemoryLog {
    pub(crate) fn create_topic(&self, topic: Uuid, partitions: i32) {
        self.state.lock().partitions.insert(topic, partitions);
    }

    /// One entry.
    pub(crate) fn append(&self, appends: Appends) -> Cut {
        let appends = appends.into_iter().map(|((topic, partition), records)| {
            let record = |(key, value)| OutRecord { key, value, headers: Vec::new(), timestamp_ms: 1000 };
            TopicAppend { topic, partition, records: records.into_iter().map(record).collect(), expected_end: None }
        });
        let commit = OutputCommit { output: None, appends: appends.collect(), unchanged: vec![] };
        self.commit(commit, Box::new(|_| ())).expect("nothing is expected of it").cut
    }

    pub(crate) fn records(&self, topic: Uuid, partition: i32) -> Vec<LogRecord> {
        self.state.lock().records.get(&(topic, partition)).cloned().unwrap_or_default()
    }

    pub(crate) fn damage(&self, topic: Uuid, partition: i32, offset: i64) {
        self.state.lock().damaged.insert((topic, partition), offset);
    }

    /// Retention removes what is below `start`.
    pub(crate) fn trim(&self, topic: Uuid, partition: i32, start: i64) {
        let mut state = self.state.lock();
        state.starts.insert((topic, partition), start);
        if let Some(records) = state.records.get_mut(&(topic, partition)) {
            records.retain(|record| record.offset >= start);
        }
    }

    pub(crate) fn fail_reads(&self, count: u64) {
        self.state.lock().failing_reads = count;
    }

    pub(crate) fn set_gate(&self, gate: Option<i64>) {
        self.state.lock().gate = gate;
        self.gate_moved.notify_all();
    }

    pub(crate) fn reads(&self) -> u64 {
        self.state.lock().reads
    }

    /// What a sink has committed, in order.
    pub(crate) fn sunk(&self, output: &str) -> Vec<SinkCommit> {
        self.state.lock().sunk.iter().filter(|commit| commit.step.output == output).cloned().collect()
    }

    /// Sinks may commit so often from now on; none: as often as they like.
    pub(crate) fn let_sinks_commit(&self, count: Option<u64>) {
        self.state.lock().sink_commits_left = count;
    }

    /// The first offset that some hold keeps.
    pub(crate) fn held_from(&self, topic: Uuid, partition: i32) -> Option<i64> {
        self.state.lock().holds.get(&(topic, partition))?.values().min().copied()
    }

    /// When the engine that listened is gone.
    pub(crate) fn forget_listeners(&self) {
        self.state.lock().wakes.clear();
    }
}

impl InputLog for MemoryLog {
    fn newest(&self) -> Cut {
        Cut(self.state.lock().csn)
    }

    fn next_cut(&self, after: Cut, entries_max: usize) -> Result<Option<Cut>, LogError> {
        let newest = self.newest();
        Ok((after < newest).then(|| Cut(newest.0.min(after.0 + entries_max as u64))))
    }

    fn partitions(&self, topic: Uuid) -> Vec<i32> {
        (0..self.state.lock().partitions.get(&topic).copied().unwrap_or(0)).collect()
    }

    fn position(&self, topic: Uuid, partition: i32, at: Cut) -> Result<i64, LogError> {
        let state = self.state.lock();
        assert!(at.0 <= state.csn, "a cut that is not there yet");
        let Some(ends) = state.ends.get(&(topic, partition)) else { return Ok(0) };
        let place = ends.partition_point(|(csn, _)| *csn <= at.0);
        Ok(if place == 0 { 0 } else { ends[place - 1].1 })
    }

    fn start(&self, topic: Uuid, partition: i32) -> i64 {
        self.state.lock().starts.get(&(topic, partition)).copied().unwrap_or(0)
    }

    fn bytes(&self, _topic: Uuid, _partition: i32, from: i64, until: i64) -> u64 {
        u64::try_from(until - from).unwrap_or(0) * 64
    }

    fn read(&self, topic: Uuid, partition: i32, from: i64, until: i64, bytes_max: usize) -> Result<Batches, LogError> {
        let mut state = self.state.lock();
        state.reads += 1;
        if state.failing_reads > 0 {
            state.failing_reads -= 1;
            return Err(LogError::Failed("the test makes this read fail".to_owned()));
        }
        let is_backfill = std::thread::current().name().is_some_and(|name| name.starts_with("engine-backfill"));
        while is_backfill && state.gate.is_some_and(|gate| from >= gate) {
            // A test that has failed with its gate closed must not wait for its own backfill.
            assert!(!self.gate_moved.wait_for(&mut state, PATIENCE).timed_out(), "nobody opens the gate");
        }
        if let Some(offset) = state.damaged.get(&(topic, partition)).copied().filter(|offset| until > *offset) {
            return Err(LogError::Damaged { topic, partition, offset, place: "file x, byte 7".to_owned() });
        }
        let start = state.starts.get(&(topic, partition)).copied().unwrap_or(0);
        if from < start {
            return Err(LogError::Trimmed { topic, partition, offset: from, start });
        }
        let all = &state.records[&(topic, partition)][(from - start) as usize..(until - start) as usize];
        let mut bytes = 0;
        let fits = |record: &&LogRecord| {
            bytes += record.value.as_ref().map_or(0, Bytes::len);
            bytes <= bytes_max
        };
        let count = all.iter().take_while(fits).count().max(1);
        let records = all[..count].to_vec();
        Ok(Batches { records, unreadable: Vec::new(), next_offset: from + count as i64 })
    }

    fn on_advance(&self, wake: Wake) {
        self.state.lock().wakes.push(Arc::new(wake));
    }

    fn hold(&self, topic: Uuid, partition: i32, from: i64) -> Box<dyn Hold> {
        let mut state = self.state.lock();
        let id = state.next_hold;
        state.next_hold += 1;
        state.holds.entry((topic, partition)).or_default().insert(id, from);
        Box::new(MemoryHold { state: self.state.clone(), of: (topic, partition), id })
    }
}

struct MemoryHold {
    state: Arc<Mutex<State>>,
    of: (Uuid, i32),
    id: u64,
}

impl fmt::Debug for MemoryHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.fmt(f)
    }
}

impl Hold for MemoryHold {
    fn advance(&self, from: i64) {
        self.state.lock().holds.get_mut(&self.of).expect("held").insert(self.id, from);
    }
}

impl Drop for MemoryHold {
    fn drop(&mut self) {
        self.state.lock().holds.get_mut(&self.of).expect("held").remove(&self.id);
    }
}

impl OutputLog for MemoryLog {
    fn commit(&self, commit: OutputCommit, done: CommitDone) -> Result<AcceptedCommit, CommitError> {
        let (cut, base_offsets, wakes) = {
            let mut state = self.state.lock();
            if let Some(step) = &commit.output {
                let (committed, _) = state.committed.get(&step.output).copied().unwrap_or_default();
                if committed != step.expected {
                    return Err(CommitError::Fenced { committed });
                }
                if step.output.starts_with("sink:") {
                    match &mut state.sink_commits_left {
                        Some(0) => return Err(CommitError::Failed("the test lets no sink commit".to_owned())),
                        Some(left) => *left -= 1,
                        None => {}
                    }
                    let appends = commit.appends.iter();
                    let records = appends.flat_map(|to| to.records.iter().map(|record| (to.partition, record.clone())));
                    let records = records.collect();
                    state.sunk.push(SinkCommit { step: step.clone(), records });
                }
                state.committed.insert(step.output.clone(), (step.new, step.ahead));
            }
            state.csn += 1;
            let csn = state.csn;
            let mut base_offsets = Vec::new();
            for append in commit.appends {
                let to = (append.topic, append.partition);
                assert!(append.partition < state.partitions[&append.topic], "a partition that is there");
                let records = state.records.entry(to).or_default();
                base_offsets.push(records.len() as i64);
                for record in append.records {
                    let OutRecord { key, value, timestamp_ms, .. } = record;
                    records.push(LogRecord { offset: records.len() as i64, timestamp_ms, key, value });
                }
                let end = records.len() as i64;
                state.ends.entry(to).or_default().push((csn, end));
            }
            (Cut(csn), base_offsets, state.wakes.clone())
        };
        done(Ok(cut));
        wakes.iter().for_each(|wake| wake());
        Ok(AcceptedCommit { cut, base_offsets })
    }

    fn committed(&self, output: &str) -> Result<Cut, CommitError> {
        Ok(self.state.lock().committed.get(output).copied().unwrap_or_default().0)
    }

    fn ahead(&self, output: &str) -> Result<Option<Ahead>, CommitError> {
        Ok(self.state.lock().committed.get(output).and_then(|(_, ahead)| *ahead))
    }
}
