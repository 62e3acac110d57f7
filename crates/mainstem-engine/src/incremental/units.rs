//! What operators that keep their state in a space have in common: units in memory that may be dropped, and when they were
//! used; and, for operators that do not use their space, their whole state in it.

use super::Operate;
use crate::error::EngineError;
use crate::state::{Space, from_ordered_i64, ordered_i64};

/// Whether memory may lack what the space has, and the time by which the use of units is told: a number per version.
#[derive(Debug, Default)]
pub(super) struct Residence {
    /// Something may be in the space that is not in memory.
    pub(super) is_partial: bool,
    pub(super) now: u32,
}

impl Residence {
    pub(super) fn attach(&mut self, space: &Space) {
        self.is_partial = !space.is_new();
    }

    /// A version has ended.
    pub(super) fn tick(&mut self) {
        self.now = self.now.wrapping_add(1);
    }

    /// Which units are to go so that of `bytes` about `wanted` are left. `ages` are those of all units, in
    /// versions.
    pub(super) fn choose(&mut self, bytes: u64, wanted: u64, ages: impl Iterator<Item = u32>) -> Eviction {
        if bytes <= wanted {
            return Eviction { older_than: u32::MAX, as_old: 0 };
        }
        let mut ages: Vec<u32> = ages.collect();
        // Units are taken to be of like size.
        let left = (ages.len() as u128 * u128::from(wanted) / u128::from(bytes)) as usize;
        if left >= ages.len() {
            return Eviction { older_than: u32::MAX, as_old: 0 };
        }
        self.is_partial = true;
        let (_, limit, _) = ages.select_nth_unstable(left);
        let limit = *limit;
        let older = ages.iter().filter(|age| **age > limit).count();
        Eviction { older_than: limit, as_old: ages.len() - left - older }
    }
}

/// Units that are to be dropped.
#[derive(Debug)]
pub(super) struct Eviction {
    older_than: u32,
    as_old: usize,
}

impl Eviction {
    /// Whether the unit of this age is one of them; to be asked once for each unit.
    pub(super) fn takes(&mut self, age: u32) -> bool {
        if age == self.older_than && self.as_old > 0 {
            self.as_old -= 1;
            return true;
        }
        age > self.older_than
    }
}

/// What of a space is settled by which event time: entries of their own, a tag, the time in its order, and what of the space it
/// is. So what is settled is found in order of time, whether it is in memory or not.
#[derive(Debug)]
pub(super) struct StoredDue {
    tag: u8,
    /// Nothing is due before this.
    from: i64,
}

impl StoredDue {
    pub(super) fn new(tag: u8) -> StoredDue {
        StoredDue { tag, from: i64::MAX }
    }

    /// The space may have entries that were not put through this.
    pub(super) fn attach(&mut self, space: &Space) {
        if !space.is_new() {
            self.from = i64::MIN;
        }
    }

    fn entry(&self, due: i64, what: &[u8]) -> Vec<u8> {
        [&[self.tag][..], &ordered_i64(due), what].concat()
    }

    pub(super) fn put(&mut self, due: i64, what: &[u8], space: &Space) {
        self.from = self.from.min(due);
        space.put(&self.entry(due, what), &[]);
    }

    pub(super) fn delete(&self, due: i64, what: &[u8], space: &Space) {
        space.delete(&self.entry(due, what));
    }

    /// Takes out what is due before this time.
    pub(super) fn take(&mut self, until: i64, space: &Space) -> Result<Vec<Vec<u8>>, EngineError> {
        if until <= self.from {
            return Ok(Vec::new());
        }
        let mut taken = Vec::new();
        let from = self.entry(self.from, &[]);
        self.from = i64::MAX;
        space.scan_from(&from, &mut |entry, _| {
            let due = entry.strip_prefix(&[self.tag]).and_then(from_ordered_i64);
            let Some(due) = due.filter(|due| *due < until) else {
                self.from = due.unwrap_or(i64::MAX);
                return false;
            };
            taken.push((due, entry[9..].to_vec()));
            true
        })?;
        taken.iter().for_each(|(due, what)| self.delete(*due, what, space));
        Ok(taken.into_iter().map(|(_, what)| what).collect())
    }
}

/// The state of an operator that does not use its space itself: its sections, one entry each, under u32 numbers.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// What each section hashes to.
    sections: Vec<u64>,
}

impl Saved {
    /// Gives the operator what the space has of it.
    pub(super) fn load(space: &Space, operator: &mut dyn Operate) -> Result<Saved, EngineError> {
        let (mut saved, mut result) = (Saved::default(), Ok(()));
        space.scan(&[], &mut |_, section| {
            saved.sections.push(super::STATE_HASHER.hash_one(section));
            if result.is_ok() {
                result = operator.restore(section);
            }
        })?;
        result.map(|()| saved)
    }

    /// Writes the sections that are not as they were.
    pub(super) fn write(&mut self, space: &Space, operator: &dyn Operate) {
        let mut number = 0_usize;
        operator.save(&mut |section| {
            let hash = super::STATE_HASHER.hash_one(section);
            if self.sections.get(number) != Some(&hash) {
                space.put(&(number as u32).to_be_bytes(), section);
            }
            match self.sections.get_mut(number) {
                Some(before) => *before = hash,
                None => self.sections.push(hash),
            }
            number += 1;
        });
        for gone in number..self.sections.len() {
            space.delete(&(gone as u32).to_be_bytes());
        }
        self.sections.truncate(number);
    }
}
