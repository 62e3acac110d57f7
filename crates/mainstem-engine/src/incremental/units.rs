//! What operators that keep their state in a space have in common: units in memory that may be dropped, and when they were
//! used; and, for operators that do not use their space, their whole state in it.

use super::Operate;
use crate::error::EngineError;
use crate::state::Space;

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
