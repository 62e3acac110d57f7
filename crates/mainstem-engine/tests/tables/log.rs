//! A log in memory that can keep accepted commits from becoming durable.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mainstem_engine::Cut;
use mainstem_engine::input_log::{
    AcceptedCommit, Batches, CommitDone, CommitError, Hold, InputLog, LogError, LogRecord, OutRecord, OutputCommit,
    OutputLog, TopicAppend,
};
use parking_lot::Mutex;
use uuid::Uuid;

type Wake = Box<dyn Fn() + Send + Sync>;

/// What is on disk.
#[derive(Clone, Default)]
struct Durable {
    csn: u64,
    records: HashMap<(Uuid, i32), Vec<LogRecord>>,
    /// By partition: the next offset after each entry that grew it.
    ends: HashMap<(Uuid, i32), Vec<(u64, i64)>>,
    partitions: BTreeMap<Uuid, i32>,
    committed: HashMap<String, Cut>,
}

impl Durable {
    fn write(&mut self, commit: OutputCommit) -> Cut {
        self.csn += 1;
        if let Some(step) = commit.output {
            self.committed.insert(step.output, step.new);
        }
        for append in commit.appends {
            let to = (append.topic, append.partition);
            let records = self.records.entry(to).or_default();
            for OutRecord { key, value, timestamp_ms, .. } in append.records {
                records.push(LogRecord { offset: records.len() as i64, timestamp_ms, key, value });
            }
            self.ends.entry(to).or_default().push((self.csn, records.len() as i64));
        }
        Cut(self.csn)
    }

    fn end(&self, of: (Uuid, i32)) -> i64 {
        self.records.get(&of).map_or(0, |records| records.len() as i64)
    }
}

#[derive(Default)]
struct State {
    durable: Durable,
    is_held: bool,
    waiting: VecDeque<(OutputCommit, CommitDone)>,
    /// Next offsets with what is waiting.
    ends: HashMap<(Uuid, i32), i64>,
    commits: u64,
    wakes: Vec<Arc<Wake>>,
}

/// Commits wait while it is held; what waits is lost when the process dies.
#[derive(Default)]
pub(crate) struct HeldLog {
    state: Mutex<State>,
}

impl fmt::Debug for HeldLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldLog").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl HeldLog {
    pub(crate) fn create_topic(&self, topic: Uuid, partitions: i32) {
        self.state.lock().durable.partitions.insert(topic, partitions);
    }

    /// From now on commits are accepted and not made durable.
    pub(crate) fn hold_commits(&self) {
        self.state.lock().is_held = true;
    }

    /// All that waits becomes durable, in order, and what comes later at once.
    pub(crate) fn release(&self) {
        self.state.lock().is_held = false;
        self.write();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// How many commits were accepted.
    pub(crate) fn commits(&self) -> u64 {
        self.state.lock().commits
    }

    /// The same disk without what was not durable.
    pub(crate) fn after_crash(&self) -> Arc<HeldLog> {
        let durable = self.state.lock().durable.clone();
        Arc::new(HeldLog { state: Mutex::new(State { durable, ..State::default() }) })
    }

    pub(crate) fn records(&self, topic: Uuid) -> Vec<LogRecord> {
        self.state.lock().durable.records.get(&(topic, 0)).cloned().unwrap_or_default()
    }

    /// One entry of a producer.
    pub(crate) fn produce(&self, topic: Uuid, partition: i32, values: Vec<Bytes>) -> Cut {
        let record = |value| OutRecord { value: Some(value), timestamp_ms: 1000, ..OutRecord::default() };
        let records = values.into_iter().map(record).collect();
        let appends = vec![TopicAppend { topic, partition, records, expected_end: None }];
        self.commit(OutputCommit { output: None, appends, unchanged: vec![] }, Box::new(|_| ()))
            .expect("nothing is expected")
            .cut
    }

    fn write(&self) {
        let wakes = {
            let mut state = self.state.lock();
            while let Some((commit, done)) = state.waiting.pop_front() {
                done(Ok(state.durable.write(commit)));
            }
            state.wakes.clone()
        };
        wakes.iter().for_each(|wake| wake());
    }
}

impl OutputLog for HeldLog {
    fn commit(&self, commit: OutputCommit, done: CommitDone) -> Result<AcceptedCommit, CommitError> {
        let mut state = self.state.lock();
        if let Some(step) = &commit.output {
            let committed = state.durable.committed.get(&step.output).copied().unwrap_or_default();
            if committed != step.expected {
                return Err(CommitError::Fenced { committed });
            }
        }
        let mut base_offsets = Vec::new();
        for append in &commit.appends {
            let of = (append.topic, append.partition);
            let end = state.ends.get(&of).copied().unwrap_or_default().max(state.durable.end(of));
            if append.expected_end.is_some_and(|expected| expected != end) {
                return Err(CommitError::Conflict(format!("the next offset is {end}")));
            }
            base_offsets.push(end);
        }
        for known in &commit.unchanged {
            let of = (known.topic, known.partition);
            let end = state.ends.get(&of).copied().unwrap_or_default().max(state.durable.end(of));
            if end != known.end {
                return Err(CommitError::Conflict(format!("the next offset is {end}")));
            }
        }
        for (append, base) in commit.appends.iter().zip(&base_offsets) {
            state.ends.insert((append.topic, append.partition), base + append.records.len() as i64);
        }
        state.commits += 1;
        let cut = Cut(state.durable.csn + state.waiting.len() as u64 + 1);
        state.waiting.push_back((commit, done));
        let is_held = state.is_held;
        drop(state);
        if !is_held {
            self.write();
        }
        Ok(AcceptedCommit { cut, base_offsets })
    }

    fn committed(&self, output: &str) -> Result<Cut, CommitError> {
        Ok(self.state.lock().durable.committed.get(output).copied().unwrap_or_default())
    }
}

impl InputLog for HeldLog {
    fn newest(&self) -> Cut {
        Cut(self.state.lock().durable.csn)
    }

    fn next_cut(&self, after: Cut, entries_max: usize) -> Result<Option<Cut>, LogError> {
        let newest = self.newest();
        Ok((after < newest).then(|| Cut(newest.0.min(after.0 + entries_max as u64))))
    }

    fn partitions(&self, topic: Uuid) -> Vec<i32> {
        (0..self.state.lock().durable.partitions.get(&topic).copied().unwrap_or(0)).collect()
    }

    fn position(&self, topic: Uuid, partition: i32, at: Cut) -> Result<i64, LogError> {
        let state = self.state.lock();
        let Some(ends) = state.durable.ends.get(&(topic, partition)) else { return Ok(0) };
        let place = ends.partition_point(|(csn, _)| *csn <= at.0);
        Ok(if place == 0 { 0 } else { ends[place - 1].1 })
    }

    fn start(&self, _topic: Uuid, _partition: i32) -> i64 {
        0
    }

    fn bytes(&self, _topic: Uuid, _partition: i32, from: i64, until: i64) -> u64 {
        u64::try_from(until - from).unwrap_or(0) * 64
    }

    fn read(&self, topic: Uuid, partition: i32, from: i64, until: i64, bytes_max: usize) -> Result<Batches, LogError> {
        let state = self.state.lock();
        let all = &state.durable.records[&(topic, partition)][from as usize..until as usize];
        let mut bytes = 0;
        let fits = |record: &&LogRecord| {
            bytes += record.value.as_ref().map_or(0, Bytes::len);
            bytes <= bytes_max
        };
        let count = all.iter().take_while(fits).count().max(1);
        Ok(Batches { records: all[..count].to_vec(), next_offset: from + count as i64, ..Batches::default() })
    }

    fn on_advance(&self, wake: Wake) {
        self.state.lock().wakes.push(Arc::new(wake));
    }

    fn hold(&self, _topic: Uuid, _partition: i32, _from: i64) -> Box<dyn Hold> {
        Box::new(NoHold)
    }
}

#[derive(Debug)]
struct NoHold;

impl Hold for NoHold {
    fn advance(&self, _from: i64) {}
}
