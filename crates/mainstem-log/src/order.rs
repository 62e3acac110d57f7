//! The order: which offsets each CSN covers.
//!
//! Words: a *step* says that an entry moved a partition to a new end offset. Steps stand in `log/order-<csn>.order`
//! files, in CSN order; a file begins with a *snapshot*, the end of every partition after the CSN in its name. The
//! recent steps are in memory too.
//!
//! Always true here: all steps of a CSN stand together in one file; steps are appended only for durable entries, so a
//! step with a right CRC proves that its entry was acknowledged or about to be.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use mainstem_disk::{Disk, DiskFile, Open};
use parking_lot::RwLock;

use crate::codec::{Put, Take, crc32c};
use crate::commit::file::DIR;
use crate::failure::{Failure, at};
use crate::{Csn, OrderStep, TopicPartition};

const MAGIC: u32 = u32::from_le_bytes(*b"MSOR");
const VERSION: u32 = 1;
/// See [`Order::keep_evidence`].
const EVIDENCE: &str = "log/evidence.order";
const EVIDENCE_NEW: &str = "log/evidence.new";
/// Bytes of a step, and of the head of a file.
pub(crate) const STEP_BYTES: usize = 44;
const RECENT_MAX: usize = 32_768;
const CHUNK_STEPS: u64 = 2_048;

/// One file.
#[derive(Clone, Debug)]
struct OrderFile {
    /// The CSN of its snapshot; its steps come after it.
    base: Csn,
    snapshot_steps: u64,
    file: Arc<dyn DiskFile>,
    path: String,
    len: u64,
}

#[derive(Debug)]
struct Inner {
    files: Vec<OrderFile>,
    recent: VecDeque<OrderStep>,
    /// `recent` has every step after this.
    recent_after: Csn,
}

/// All steps.
#[derive(Debug)]
pub(crate) struct Order {
    disk: Arc<dyn Disk>,
    /// A file is followed by a new one when it has grown this large beyond its snapshot.
    file_bytes: u64,
    inner: RwLock<Inner>,
}

/// The path of the file whose steps come after `base`.
pub(crate) fn order_path(base: Csn) -> String {
    format!("{DIR}/order-{:020}.order", base.0)
}

/// The CSN that an order file's name says.
pub(crate) fn base_of(name: &str) -> Option<Csn> {
    name.strip_prefix("order-")?.strip_suffix(".order")?.parse().ok().map(Csn)
}

impl Order {
    /// Opens the files named by `bases`; a file that is missing or has a damaged head is left out and answered. The
    /// last one ends at `len`; what stands behind it stays until [`Order::cut`].
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        file_bytes: u64,
        bases: &[Csn],
        len: u64,
        last: Csn,
    ) -> Result<(Self, Vec<Failure>), Failure> {
        let mut files = Vec::new();
        let mut damaged = Vec::new();
        for (i, base) in bases.iter().enumerate() {
            let mut file = match open_file(&*disk, *base) {
                Ok(file) => file,
                Err(failure) if is_damage(&failure) => {
                    damaged.push(failure);
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if i + 1 == bases.len() {
                if file.len < len {
                    let what = format!("ends at byte {}, not {len}", file.len);
                    let source = io::Error::new(io::ErrorKind::InvalidData, what);
                    damaged.push(Failure { place: file.path.clone(), source });
                    let whole = file.len.saturating_sub(file.first_step()) / STEP_BYTES as u64;
                    file.len = file.first_step() + whole * STEP_BYTES as u64;
                } else {
                    file.len = len;
                }
            }
            files.push(file);
        }
        let inner = Inner { files, recent: VecDeque::new(), recent_after: last };
        Ok((Self { disk, file_bytes, inner: RwLock::new(inner) }, damaged))
    }

    /// Whether there is a file to append to.
    pub(crate) fn has_files(&self) -> bool {
        !self.inner.read().files.is_empty()
    }

    /// The steps of whole entries that stand in a file from `from` on, as far as their CRCs are right. They prove that
    /// their entries were durable.
    pub(crate) fn evidence(disk: &dyn Disk, base: Csn, from: Option<u64>) -> Vec<OrderStep> {
        match open_file(disk, base) {
            Ok(file) => steps_beyond(&file, from.unwrap_or_else(|| file.first_step())).unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Keeps evidence in a file of its own, durable when this returns: recovery is about to write over where it stands.
    pub(crate) fn keep_evidence(disk: &dyn Disk, steps: &[OrderStep]) -> Result<(), Failure> {
        let file = disk.open(EVIDENCE_NEW, Open::Create).map_err(at(EVIDENCE_NEW))?;
        let mut bytes = Vec::with_capacity(steps.len() * STEP_BYTES);
        for step in steps {
            put_step(&mut bytes, step, 0);
        }
        let written = file.set_len(0).and_then(|()| file.write_at(&bytes, 0)).and_then(|()| file.sync_data());
        written.map_err(at(EVIDENCE_NEW))?;
        disk.rename(EVIDENCE_NEW, EVIDENCE).and_then(|()| disk.sync_dir(DIR)).map_err(at(EVIDENCE))
    }

    /// What a recovery that did not come to its end has kept.
    pub(crate) fn kept_evidence(disk: &dyn Disk) -> Result<Vec<OrderStep>, Failure> {
        let file = match disk.open(EVIDENCE, Open::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(at(EVIDENCE)(source)),
        };
        let len = file.len().map_err(at(EVIDENCE))?;
        let kept = OrderFile { base: Csn::ZERO, snapshot_steps: 0, file, path: EVIDENCE.to_owned(), len };
        steps_beyond(&kept, 0).map_err(at(EVIDENCE))
    }

    /// Recovery has come to its end: nothing stands behind the newest file's end, and no evidence is kept.
    pub(crate) fn cut(&self) -> Result<(), Failure> {
        if let Some(newest) = self.inner.read().files.last()
            && newest.file.len().map_err(at(&newest.path))? > newest.len
        {
            newest.file.set_len(newest.len).map_err(at(&newest.path))?;
        }
        for path in [EVIDENCE, EVIDENCE_NEW] {
            match self.disk.remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The names of all files.
    pub(crate) fn bases(&self) -> Vec<Csn> {
        self.inner.read().files.iter().map(|file| file.base).collect()
    }

    /// Everything up to `csn` was read by recovery: the recent steps begin after it.
    pub(crate) fn forget_recent(&self, csn: Csn) {
        let mut inner = self.inner.write();
        inner.recent.clear();
        inner.recent_after = csn;
    }

    /// Begins a file for the steps after `base`; `ends` is where all partitions stand then.
    pub(crate) fn begin_file(&self, base: Csn, ends: &[(TopicPartition, i64)]) -> Result<(), Failure> {
        let path = order_path(base);
        let file = self.disk.open(&path, Open::Create).map_err(at(&path))?;
        let mut bytes = Vec::with_capacity((ends.len() + 1) * STEP_BYTES);
        bytes.put_u32(MAGIC);
        bytes.put_u32(VERSION);
        bytes.put_u64(base.0);
        bytes.put_u64(ends.len() as u64);
        bytes.resize(STEP_BYTES - 4, 0);
        bytes.put_u32(crc32c(&bytes));
        for (partition, end_offset) in ends {
            put_step(&mut bytes, &OrderStep { csn: base, partition: *partition, end_offset: *end_offset }, 0);
        }
        file.set_len(0).and_then(|()| file.write_at(&bytes, 0)).map_err(at(&path))?;
        let len = bytes.len() as u64;
        let begun = OrderFile { base, snapshot_steps: ends.len() as u64, file, path, len };
        self.inner.write().files.push(begun);
        Ok(())
    }

    /// Whether the newest file is full, or will be with so many steps more.
    pub(crate) fn is_full(&self, more: usize) -> bool {
        let inner = self.inner.read();
        let len = |file: &OrderFile| file.len + (more * STEP_BYTES) as u64;
        inner.files.last().is_none_or(|file| len(file) > file.first_step() + self.file_bytes)
    }

    /// Appends the steps of whole entries, in CSN order. Called by the committing thread only.
    pub(crate) fn append(&self, steps: &[OrderStep]) -> Result<(), Failure> {
        let (file, path, len) = match self.inner.read().files.last() {
            Some(file) => (Arc::clone(&file.file), file.path.clone(), file.len),
            None => return Ok(()),
        };
        let mut bytes = Vec::with_capacity(steps.len() * STEP_BYTES);
        for (i, step) in steps.iter().enumerate() {
            let following = steps.get(i + 1..).unwrap_or_default();
            let remaining = following.iter().take_while(|next| next.csn == step.csn).count();
            put_step(&mut bytes, step, u32::try_from(remaining).unwrap_or(u32::MAX));
        }
        file.write_at(&bytes, len).map_err(at(&path))?;
        let mut inner = self.inner.write();
        if let Some(file) = inner.files.last_mut() {
            file.len += bytes.len() as u64;
        }
        inner.recent.extend(steps);
        inner.forget();
        Ok(())
    }

    /// Base and length of the newest file.
    pub(crate) fn position(&self) -> (Csn, u64) {
        self.inner.read().files.last().map_or((Csn::ZERO, 0), |file| (file.base, file.len))
    }

    /// Base of the oldest file: an older one that is found later was removed, and its removal was not durable.
    pub(crate) fn first(&self) -> Csn {
        self.inner.read().files.first().map_or(Csn::ZERO, |file| file.base)
    }

    /// Makes the steps of the files from `from` on durable; their names are the caller's to sync.
    pub(crate) fn sync(&self, from: Csn) -> Result<(), Failure> {
        let files = self.inner.read().files.clone();
        for file in files.iter().filter(|file| file.base >= from) {
            file.file.sync_data().map_err(at(&file.path))?;
        }
        Ok(())
    }

    /// The steps in (after, up_to]: at most `limit`, but never a part of a CSN, and at least one CSN.
    pub(crate) fn steps(&self, after: Csn, up_to: Csn, limit: usize) -> Result<Vec<OrderStep>, Failure> {
        let inner = self.inner.read();
        if after >= inner.recent_after {
            let start = inner.recent.partition_point(|step| step.csn <= after);
            let steps = inner.recent.iter().skip(start).take_while(|step| step.csn <= up_to);
            return Ok(whole_entries(steps.copied(), limit));
        }
        let first = inner.files.partition_point(|file| file.base <= after).saturating_sub(1);
        let files = inner.files.get(first..).unwrap_or_default().to_vec();
        drop(inner);
        let mut steps = Vec::new();
        for file in &files {
            let start = file.find(after)?;
            file.read(start, |step| {
                if step.csn > up_to {
                    return false;
                }
                // One step more than fits shows whether the last entry is whole.
                let is_enough =
                    steps.len() > limit && steps.last().is_some_and(|last: &OrderStep| last.csn != step.csn);
                if !is_enough {
                    steps.push(step);
                }
                !is_enough
            })?;
            if steps.len() > limit {
                break;
            }
        }
        Ok(whole_entries(steps.into_iter(), limit))
    }

    /// The last step of each partition at or before `csn`, as far as the order reaches back; 0 for none. `now` is
    /// where they stand at `visible`.
    pub(crate) fn ends_at(
        &self,
        csn: Csn,
        partitions: &[TopicPartition],
        now: impl Fn(TopicPartition) -> i64,
    ) -> Result<Vec<i64>, Failure> {
        let mut wanted: HashMap<TopicPartition, Option<i64>> = partitions.iter().map(|p| (*p, None)).collect();
        let inner = self.inner.read();
        if csn >= inner.recent_after {
            let mut moved_after: HashMap<TopicPartition, ()> = HashMap::new();
            for step in inner.recent.iter().rev() {
                if step.csn > csn {
                    moved_after.insert(step.partition, ());
                } else if let Some(end @ None) = wanted.get_mut(&step.partition) {
                    *end = Some(step.end_offset);
                }
            }
            let unknown =
                |p: &TopicPartition| wanted.get(p).is_some_and(Option::is_none) && moved_after.contains_key(p);
            if !partitions.iter().any(unknown) {
                return Ok(partitions
                    .iter()
                    .map(|p| wanted.get(p).copied().flatten().unwrap_or_else(|| now(*p)))
                    .collect());
            }
        }
        let file = inner.files.get(inner.files.partition_point(|file| file.base <= csn).saturating_sub(1)).cloned();
        drop(inner);
        let Some(file) = file else { return Ok(vec![0; partitions.len()]) };
        let mut ends: HashMap<TopicPartition, i64> = HashMap::new();
        file.read(STEP_BYTES as u64, |step| {
            if step.csn <= csn && wanted.contains_key(&step.partition) {
                ends.insert(step.partition, step.end_offset);
            }
            step.csn <= csn
        })?;
        Ok(partitions.iter().map(|p| ends.get(p).copied().unwrap_or(0)).collect())
    }

    /// Reads every step. Answers the bytes read, and where steps are damaged.
    pub(crate) fn verify(&self) -> (u64, Vec<Failure>) {
        let files = self.inner.read().files.clone();
        let damaged = files.iter().filter_map(|file| file.read(STEP_BYTES as u64, |_| true).err());
        (files.iter().map(|file| file.len).sum(), damaged.collect())
    }

    /// Forgets the oldest files while all their steps are obsolete; answers their paths. The newest always stays.
    pub(crate) fn trim(&self, is_obsolete: impl Fn(&OrderStep) -> bool) -> Result<Vec<String>, Failure> {
        let mut removed = Vec::new();
        loop {
            let oldest = match self.inner.read().files.as_slice() {
                [oldest, _, ..] => oldest.clone(),
                _ => return Ok(removed),
            };
            let mut all = true;
            oldest.read(oldest.first_step(), |step| {
                all = is_obsolete(&step);
                all
            })?;
            if !all {
                return Ok(removed);
            }
            self.inner.write().files.remove(0);
            removed.push(oldest.path);
        }
    }
}

impl Inner {
    fn forget(&mut self) {
        while self.recent.len() > RECENT_MAX {
            let Some(first) = self.recent.front().map(|step| step.csn) else { break };
            while self.recent.front().is_some_and(|step| step.csn == first) {
                self.recent.pop_front();
            }
            self.recent_after = first;
        }
    }
}

impl OrderFile {
    fn first_step(&self) -> u64 {
        (1 + self.snapshot_steps) * STEP_BYTES as u64
    }

    /// Position of the first step after `csn`.
    fn find(&self, csn: Csn) -> Result<u64, Failure> {
        let count = (self.len.saturating_sub(self.first_step())) / STEP_BYTES as u64;
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            let position = self.first_step() + middle * STEP_BYTES as u64;
            let mut bytes = [0; STEP_BYTES];
            self.file.read_exact_at(&mut bytes, position).map_err(at(&self.path))?;
            let (step, _) = take_step(&bytes).ok_or_else(|| self.damaged(position))?;
            if step.csn <= csn { low = middle + 1 } else { high = middle }
        }
        Ok(self.first_step() + low * STEP_BYTES as u64)
    }

    /// Visits the steps from `position` on until `visit` answers false.
    fn read(&self, mut position: u64, mut visit: impl FnMut(OrderStep) -> bool) -> Result<(), Failure> {
        let mut chunk = Vec::new();
        while position < self.len {
            let len = (self.len - position).min(CHUNK_STEPS * STEP_BYTES as u64);
            chunk.resize(usize::try_from(len).unwrap_or(STEP_BYTES), 0);
            self.file.read_exact_at(&mut chunk, position).map_err(at(&self.path))?;
            for bytes in chunk.chunks(STEP_BYTES) {
                let (step, _) = take_step(bytes).ok_or_else(|| self.damaged(position))?;
                if !visit(step) {
                    return Ok(());
                }
                position += STEP_BYTES as u64;
            }
        }
        Ok(())
    }

    fn damaged(&self, position: u64) -> Failure {
        let source = io::Error::new(io::ErrorKind::InvalidData, format!("damaged at byte {position}"));
        Failure { place: self.path.clone(), source }
    }
}

fn is_damage(failure: &Failure) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(failure.source.kind(), InvalidData | NotFound | UnexpectedEof)
}

fn open_file(disk: &dyn Disk, base: Csn) -> Result<OrderFile, Failure> {
    let path = &order_path(base);
    let file = disk.open(path, Open::Write).map_err(at(path))?;
    let len = file.len().map_err(at(path))?;
    let mut head = [0; STEP_BYTES];
    file.read_exact_at(&mut head, 0).map_err(at(path))?;
    let fits = |steps: &u64| *steps < len / STEP_BYTES as u64;
    let snapshot_steps = parse_head(&head, base).filter(fits).ok_or_else(|| Failure {
        place: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, "damaged at byte 0"),
    })?;
    Ok(OrderFile { base, snapshot_steps, file, path: path.to_owned(), len })
}

fn parse_head(head: &[u8; STEP_BYTES], base: Csn) -> Option<u64> {
    let mut take = Take::new(head);
    let is_ours = take.u32()? == MAGIC && take.u32()? == VERSION && take.u64()? == base.0;
    let snapshot_steps = take.number()?;
    let (covered, crc) = head.split_at_checked(STEP_BYTES - 4)?;
    (is_ours && crc == crc32c(covered).to_le_bytes()).then_some(snapshot_steps)
}

fn steps_beyond(file: &OrderFile, mut position: u64) -> io::Result<Vec<OrderStep>> {
    let mut steps = Vec::new();
    let mut whole = 0;
    let mut bytes = [0; STEP_BYTES];
    while position + STEP_BYTES as u64 <= file.len {
        file.file.read_exact_at(&mut bytes, position)?;
        let Some((step, remaining)) = take_step(&bytes) else { break };
        steps.push(step);
        if remaining == 0 {
            whole = steps.len();
        }
        position += STEP_BYTES as u64;
    }
    steps.truncate(whole);
    Ok(steps)
}

fn put_step(out: &mut Vec<u8>, step: &OrderStep, remaining: u32) {
    let start = out.len();
    out.put_u64(step.csn.0);
    out.put_partition(step.partition);
    out.put_i64(step.end_offset);
    out.put_u32(remaining);
    let crc = crc32c(out.get(start..).unwrap_or_default());
    out.put_u32(crc);
}

fn take_step(bytes: &[u8]) -> Option<(OrderStep, u32)> {
    let mut take = Take::new(bytes);
    let step = OrderStep { csn: Csn(take.number()?), partition: take.partition()?, end_offset: take.offset()? };
    let remaining = take.u32()?;
    let covered = bytes.get(..take.position())?;
    (take.u32()? == crc32c(covered)).then_some((step, remaining))
}

/// The longest run of whole entries within `limit`, or the first entry.
fn whole_entries(steps: impl Iterator<Item = OrderStep>, limit: usize) -> Vec<OrderStep> {
    let mut taken: Vec<OrderStep> = Vec::new();
    let mut whole = 0;
    for step in steps {
        if taken.last().is_some_and(|last| last.csn != step.csn) {
            whole = taken.len();
            if whole >= limit {
                return taken;
            }
        }
        if taken.len() >= limit && whole > 0 {
            taken.truncate(whole);
            return taken;
        }
        taken.push(step);
    }
    taken
}

#[cfg(test)]
mod tests {
    use mainstem_testkit::SimDisk;

    use super::*;

    #[test]
    fn a_head_that_names_more_steps_than_there_are_is_damage() {
        let disk = SimDisk::new(1);
        disk.create_dir_all(DIR).unwrap();
        let (order, _) = Order::open(disk.clone(), 1 << 20, &[], 0, Csn::ZERO).unwrap();
        order.begin_file(Csn(5), &[]).unwrap();
        assert_eq!(open_file(&*disk, Csn(5)).unwrap().first_step(), STEP_BYTES as u64);
        for steps in [1, u64::from(u32::MAX), u64::MAX / 2, u64::MAX] {
            let file = disk.open(&order_path(Csn(5)), Open::Write).unwrap();
            let mut head = file.read_to_end().unwrap();
            head[16..24].copy_from_slice(&steps.to_le_bytes());
            let crc = crc32c(&head[..STEP_BYTES - 4]);
            head[STEP_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
            file.write_at(&head, 0).unwrap();
            assert!(is_damage(&open_file(&*disk, Csn(5)).unwrap_err()), "{steps} steps");
        }
    }
}
