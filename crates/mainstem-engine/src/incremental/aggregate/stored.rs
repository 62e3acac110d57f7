//! Groups in the space.
//!
//! Keys: with windows that close, their end first (8 bytes; `i64::MAX` for none), so that closed ones lie together; group key;
//! u16 0 (big-endian, as all here) for the head: u8 whether the group without columns has been given, i64 rows, the heads of
//! the aggregates in order; or u16 1 + the place of an aggregate, and the key of one of its entries -> i64 count.
//!
//! A group is a unit: in memory as a whole or not at all; of its entries those that changed are written.

use arrow::array::Array;

use super::super::Context;
use super::super::encoding::{StateReader, StateWriter};
use super::super::stateless::microseconds;
use super::{Aggregate, KIND};
use crate::delta::EncodedRows;
use crate::error::EngineError;
use crate::state::{Space, count_of, from_ordered_i64, ordered_i64};

const HEAD: [u8; 2] = [0; 2];

impl Aggregate {
    /// What the entries of a group begin with, and where its window ends.
    fn unit_of(&self, key: &[u8]) -> (Vec<u8>, i64) {
        let Some(ends) = &self.ends else { return (key.to_vec(), i64::MAX) };
        let columns = self.group_keys.decode_columns([key]);
        let stamps = microseconds(&columns[ends.column]);
        let end = if stamps.is_valid(0) { stamps.value(0) } else { i64::MAX };
        ([ordered_i64(end).as_slice(), key].concat(), end)
    }

    fn is_held(&self, key: &[u8]) -> bool {
        let hash = super::STATE_HASHER.hash_one(key);
        self.by_key.find(hash, |group| &*self.groups[*group as usize].key == key).is_some()
    }

    /// Brings the groups that a delta touches into memory.
    pub(super) fn load(&mut self, keys: &EncodedRows, context: &mut Context<'_>) {
        if self.is_global() {
            return self.load_global(context);
        }
        let Some(space) = context.space.filter(|_| self.residence.is_partial) else { return };
        let mut missing: Vec<&[u8]> = keys.iter().filter(|key| !self.is_held(key)).collect();
        missing.sort_unstable();
        missing.dedup();
        let loaded = self.load_groups(&missing, space);
        context.loaded(loaded);
        space.root().count_loaded(missing.len() as u64);
    }

    /// The group without columns is always in memory, but after a start only from its first use on.
    pub(super) fn load_global(&mut self, context: &mut Context<'_>) {
        let Some(space) = context.space.filter(|_| self.is_global() && self.residence.is_partial) else { return };
        self.residence.is_partial = false;
        let loaded = self.load_groups(&[&[]], space);
        context.loaded(loaded);
    }

    fn load_groups(&mut self, keys: &[&[u8]], space: &Space) -> Result<(), EngineError> {
        let units: Vec<Vec<u8>> = keys.iter().map(|key| self.unit_of(key).0).collect();
        if !self.aggregates.iter().any(|placed| placed.accumulator.has_entries()) {
            let heads: Vec<Vec<u8>> = units.into_iter().map(|unit| [unit.as_slice(), &HEAD].concat()).collect();
            let found = space.get_many(heads.iter().map(Vec::as_slice))?;
            for (key, head) in keys.iter().zip(found) {
                if let Some(head) = head {
                    self.restore_group(key, &head)?;
                }
            }
            return Ok(());
        }
        for (key, unit) in keys.iter().zip(units) {
            let (mut group, mut result) = (None, Ok(()));
            space.scan(&unit, &mut |entry, value| {
                let restored = match (entry.split_first_chunk::<2>(), group) {
                    (Some((&HEAD, [])), _) => self.restore_group(key, value).map(|id| group = Some(id)),
                    (Some((place, entry)), Some(group)) => self.restore_entry(group, *place, entry, value),
                    _ => Err(EngineError::State("a group has entries and no head".to_owned())),
                };
                if result.is_ok() {
                    result = restored;
                }
            })?;
            result?;
        }
        Ok(())
    }

    fn restore_group(&mut self, key: &[u8], head: &[u8]) -> Result<u32, EngineError> {
        let mut reader = StateReader::new(KIND, head)?;
        let is_given = reader.u8()? == 1;
        let id = self.group_of(key);
        if self.is_global() {
            self.is_given = is_given;
        }
        if self.ends.is_some() {
            let columns = self.group_keys.decode_columns([key]);
            self.note_ends(&[id], &columns);
        }
        self.groups[id as usize].rows = reader.i64()?;
        for placed in &mut self.aggregates {
            placed.accumulator.restore_head(id, &mut reader)?;
        }
        Ok(id)
    }

    fn restore_entry(&mut self, group: u32, place: [u8; 2], entry: &[u8], count: &[u8]) -> Result<(), EngineError> {
        let place = usize::from(u16::from_be_bytes(place)) - 1;
        let placed = self.aggregates.get_mut(place);
        let placed = placed.ok_or_else(|| EngineError::State(format!("there is no aggregate {place}")))?;
        placed.accumulator.restore_entry(group, entry, count_of(count)?);
        Ok(())
    }

    /// Writes what a version changed.
    pub(super) fn write(&mut self, touched: &[u32], space: &Space) {
        let mut changes: Vec<(u32, u16, Box<[u8]>, i64)> = Vec::new();
        for (place, placed) in self.aggregates.iter_mut().enumerate() {
            let place = u16::try_from(place + 1).expect("fewer aggregates than 65536");
            placed.accumulator.take_changes(&mut |group, key, count| changes.push((group, place, key.into(), count)));
        }
        for (group, place, key, count) in changes {
            let unit = self.unit_of(&self.groups[group as usize].key).0;
            space.put_count(&[unit.as_slice(), &place.to_be_bytes(), &key].concat(), count);
        }
        for id in touched {
            let group = &self.groups[*id as usize];
            let (unit, end) = self.unit_of(&group.key);
            let entry = [unit.as_slice(), &HEAD].concat();
            if group.rows == 0 && !self.is_global() {
                space.delete(&entry);
                continue;
            }
            let mut head = Vec::new();
            let mut out = |bytes: &[u8]| head.extend_from_slice(bytes);
            let mut writer = StateWriter::new(KIND, &mut out);
            writer.u8(u8::from(self.is_given));
            writer.i64(group.rows);
            self.aggregates.iter().for_each(|placed| placed.accumulator.save_head(*id, &mut writer));
            writer.finish();
            space.put(&entry, &head);
            self.stored_from = self.stored_from.min(end);
        }
    }

    /// Removes the groups of windows that end at or before the horizon.
    pub(super) fn remove_stored(&mut self, horizon_us: i64, space: &Space) -> Result<(), EngineError> {
        if self.ends.is_none() || horizon_us < self.stored_from {
            return Ok(());
        }
        self.stored_from = i64::MAX;
        let mut gone = Vec::new();
        space.scan_from(&[], &mut |entry, _| {
            let end = from_ordered_i64(entry).unwrap_or(i64::MAX);
            if end > horizon_us {
                self.stored_from = end;
                return false;
            }
            gone.push(entry.to_vec());
            true
        })?;
        gone.iter().for_each(|entry| space.delete(entry));
        Ok(())
    }

    /// Drops groups from memory.
    pub(super) fn evict(&mut self, bytes: u64) -> u64 {
        if self.is_global() {
            return 0;
        }
        let (now, held) = (self.residence.now, super::Operate::state_size(self).1);
        let age = |id: &u32| now.wrapping_sub(self.groups[*id as usize].used);
        let ages: Vec<u32> = self.by_key.iter().map(age).collect();
        let mut eviction = self.residence.choose(held, bytes, ages.into_iter());
        let live = self.by_key.iter().map(|id| (*id, now.wrapping_sub(self.groups[*id as usize].used)));
        let gone: Vec<u32> = live.filter(|(_, age)| eviction.takes(*age)).map(|(id, _)| id).collect();
        gone.iter().for_each(|id| self.forget(*id));
        gone.len() as u64
    }
}
