//! OffsetCommit, DeleteGroups, and offsets that nobody needs any more.

use mainstem_kafka_wire::messages::ResponseError;

use super::group::{Group, GroupState};
use super::records::OffsetsRecord;
use super::{Commit, Committed, Coordinator, Membership, Now, Pending, WaiterId};

impl Coordinator {
    pub(super) fn commit(&mut self, waiter: WaiterId, commit: Commit, now: Now) {
        let Commit { member, offsets } = commit;
        let id = member.group.clone();
        if id.is_empty() {
            return self.out.done(waiter, Some(ResponseError::InvalidGroupId));
        }
        if !self.groups.contains_key(&id) {
            if member.generation >= 0 {
                return self.out.done(waiter, Some(ResponseError::IllegalGeneration));
            }
            self.groups.insert(id.clone(), Group::new(id.clone(), now));
        }
        let group = self.groups.get_mut(&id).expect("it was just made");
        if let Err(error) = group.check_commit(&member, now) {
            return self.out.done(waiter, Some(error));
        }
        if offsets.is_empty() {
            return self.out.done(waiter, None);
        }
        let record = |(topic, partition, value): &(String, i32, Committed)| OffsetsRecord::Offset {
            group: id.clone(),
            topic: topic.clone(),
            partition: *partition,
            value: Some(value.clone()),
        };
        let records = offsets.iter().map(record).collect();
        group.commits_under_way += 1;
        self.out.write(&id, records, Pending::Commit { group: id.clone(), waiter, offsets });
    }

    pub(super) fn committed(
        &mut self,
        id: &str,
        waiter: WaiterId,
        offsets: Vec<(String, i32, Committed)>,
        is_durable: bool,
    ) {
        // A group whose end was written before has gone; the commit came before it in the log, too.
        if let Some(group) = self.groups.get_mut(id) {
            group.commits_under_way -= 1;
            if is_durable {
                for (topic, partition, value) in offsets {
                    group.offsets.insert((topic, partition), value);
                }
            }
        }
        self.out.done(waiter, (!is_durable).then_some(ResponseError::CoordinatorNotAvailable));
    }

    pub(super) fn delete(&mut self, waiter: WaiterId, id: &str) {
        let error = match self.groups.get(id) {
            None => Some(ResponseError::GroupIdNotFound),
            Some(group) if group.state != GroupState::Empty => Some(ResponseError::NonEmptyGroup),
            Some(group) if group.commits_under_way > 0 => Some(ResponseError::CoordinatorNotAvailable),
            Some(_) => None,
        };
        if error.is_some() {
            return self.out.done(waiter, error);
        }
        self.end(id, Some(waiter));
    }

    /// Writes the tombstones of a group and all its offsets.
    fn end(&mut self, id: &str, waiter: Option<WaiterId>) {
        let group = self.groups.get_mut(id).expect("the caller has checked");
        group.is_ending = true;
        let mut records: Vec<_> =
            group.offsets.keys().map(|(topic, partition)| tombstone(id, topic, *partition)).collect();
        records.push(OffsetsRecord::Group { group: id.to_owned(), value: None });
        self.out.write(id, records, Pending::Delete { group: id.to_owned(), waiter });
    }

    pub(super) fn deleted(&mut self, id: &str, waiter: Option<WaiterId>, is_durable: bool) {
        if is_durable {
            self.groups.remove(id);
        } else if let Some(group) = self.groups.get_mut(id) {
            group.is_ending = false;
        }
        if let Some(waiter) = waiter {
            self.out.done(waiter, (!is_durable).then_some(ResponseError::CoordinatorNotAvailable));
        }
    }

    pub(super) fn forget_topic(&mut self, topic: &str) {
        for (id, group) in &self.groups {
            let gone: Vec<_> = group.offsets.keys().filter(|(name, _)| name == topic).cloned().collect();
            if gone.is_empty() || group.is_ending {
                continue;
            }
            let records = gone.iter().map(|(topic, partition)| tombstone(id, topic, *partition)).collect();
            self.out.write(id, records, Pending::Forget { group: id.clone(), offsets: gone });
        }
    }

    pub(super) fn forgotten(&mut self, id: &str, offsets: Vec<(String, i32)>, is_durable: bool) {
        if let Some(group) = self.groups.get_mut(id).filter(|_| is_durable) {
            for key in offsets {
                group.offsets.remove(&key);
            }
        }
    }

    /// Groups that have been without members, and without commits, for longer than offsets are kept.
    pub(super) fn expire_offsets(&mut self, now: Now) {
        let kept_since = now.wall_ms.saturating_sub(self.limits.offsets_retention_ms);
        let is_over = |group: &Group| {
            let last_commit = group.offsets.values().map(|value| value.at_ms).max().unwrap_or(i64::MIN);
            group.state == GroupState::Empty
                && !group.is_ending
                && group.given_ids.is_empty()
                && group.commits_under_way == 0
                && group.empty_since_wall_ms.max(last_commit) < kept_since
        };
        let over: Vec<_> = self.groups.iter().filter(|(_, group)| is_over(group)).map(|(id, _)| id.clone()).collect();
        for id in over {
            self.end(&id, None);
        }
    }
}

fn tombstone(group: &str, topic: &str, partition: i32) -> OffsetsRecord {
    OffsetsRecord::Offset { group: group.to_owned(), topic: topic.to_owned(), partition, value: None }
}

impl Group {
    fn check_commit(&mut self, member: &Membership, now: Now) -> Result<(), ResponseError> {
        let is_alone = member.generation < 0 && member.member_id.is_empty() && member.instance.is_none();
        if is_alone {
            // A consumer that assigns itself must not write over the offsets of members.
            return if self.state == GroupState::Empty { Ok(()) } else { Err(ResponseError::UnknownMemberId) };
        }
        if self.state == GroupState::Empty && member.generation < 0 {
            return Ok(());
        }
        self.check_generation(member)?;
        self.heard_of(&member.member_id, now);
        match self.state {
            GroupState::Empty => Err(ResponseError::UnknownMemberId),
            GroupState::CompletingRebalance => Err(ResponseError::RebalanceInProgress),
            GroupState::PreparingRebalance | GroupState::Stable => Ok(()),
        }
    }
}
