//! One group: its members, its state, and the steps of a rebalance.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use mainstem_kafka_wire::messages::ResponseError;

use super::records::{GroupValue, MemberValue, OffsetsRecord};
use super::{
    Answer, Committed, GroupView, JoinAnswer, JoinedMember, Membership, Now, Out, Pending, SyncAnswer, WaiterId,
};

/// Where a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// No members.
    Empty,
    /// Waiting for members to join.
    PreparingRebalance,
    /// A generation has begun, its assignment is not known yet.
    CompletingRebalance,
    /// Every member can know its assignment.
    Stable,
}

impl fmt::Display for GroupState {
    /// Kafka's names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GroupState::Empty => "Empty",
            GroupState::PreparingRebalance => "PreparingRebalance",
            GroupState::CompletingRebalance => "CompletingRebalance",
            GroupState::Stable => "Stable",
        })
    }
}

/// A member as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its id.
    pub id: String,
    /// `group.instance.id`
    pub instance: Option<String>,
    /// What it calls itself.
    pub client_id: String,
    /// Where it comes from.
    pub client_host: String,
    /// What it said for the group's protocol.
    pub metadata: Bytes,
    /// What it was assigned.
    pub assignment: Bytes,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout_ms: i32,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    pub(super) join_waiter: Option<WaiterId>,
    pub(super) sync_waiter: Option<WaiterId>,
    /// Dead from then on, unless it waits for the group.
    pub(super) session_ends_ms: i64,
}

impl Member {
    pub(super) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let of = |(name, metadata): &(String, Bytes)| (Some(name.as_str()) == protocol).then(|| metadata.clone());
        self.protocols.iter().find_map(of).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: String,
    pub(super) state: GroupState,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    /// `group.instance.id` to member id.
    pub(super) statics: BTreeMap<String, String>,
    /// Member ids given out and not used yet, with the time they lapse.
    pub(super) given_ids: BTreeMap<String, i64>,
    pub(super) offsets: BTreeMap<(String, i32), Committed>,
    /// While preparing: not before, unless time is up.
    pub(super) hold_until_ms: i64,
    /// While preparing: the end of patience with members that do not join; while completing: with those that do not
    /// sync.
    pub(super) patience_ends_ms: i64,
    pub(super) empty_since_wall_ms: i64,
    /// Commits accepted and not durable yet.
    pub(super) commits_under_way: usize,
    /// Whether the leader's assignment of this generation is being written.
    pub(super) is_assigning: bool,
    /// Whether the group's end is being written.
    pub(super) is_ending: bool,
    /// Not later than any deadline of the group.
    pub(super) wake_at_ms: i64,
}

impl Group {
    pub(super) fn new(id: String, now: Now) -> Self {
        Self {
            id,
            state: GroupState::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            given_ids: BTreeMap::new(),
            offsets: BTreeMap::new(),
            hold_until_ms: 0,
            patience_ends_ms: i64::MAX,
            empty_since_wall_ms: now.wall_ms,
            commits_under_way: 0,
            is_assigning: false,
            is_ending: false,
            wake_at_ms: i64::MAX,
        }
    }

    /// Back from its record.
    pub(super) fn restore(&mut self, value: GroupValue, now: Now) {
        self.generation = value.generation;
        self.protocol_type = (!value.protocol_type.is_empty()).then_some(value.protocol_type);
        self.protocol = value.protocol;
        self.leader = value.leader;
        self.empty_since_wall_ms = value.at_ms;
        self.members.clear();
        self.statics.clear();
        let protocol = self.protocol.clone().unwrap_or_default();
        for member in value.members {
            if let Some(instance) = &member.instance {
                self.statics.insert(instance.clone(), member.id.clone());
            }
            let session_ends_ms = now.ms + i64::from(member.session_timeout_ms);
            self.wake_at_ms = self.wake_at_ms.min(session_ends_ms);
            let restored = Member {
                instance: member.instance,
                client_id: member.client_id,
                client_host: member.client_host,
                session_timeout_ms: member.session_timeout_ms,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                protocols: vec![(protocol.clone(), member.metadata)],
                assignment: member.assignment,
                join_waiter: None,
                sync_waiter: None,
                session_ends_ms,
            };
            self.members.insert(member.id, restored);
        }
        self.state = if self.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
    }

    pub(super) fn view(&self) -> GroupView {
        let member = |(id, member): (&String, &Member)| MemberView {
            id: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: member.metadata(self.protocol.as_deref()),
            assignment: member.assignment.clone(),
        };
        GroupView {
            id: self.id.clone(),
            state: self.state,
            generation: self.generation,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: self.protocol.clone().unwrap_or_default(),
            members: self.members.iter().map(member).collect(),
        }
    }

    /// The group as a record, with these assignments.
    pub(super) fn record(&self, assignments: Option<&[(String, Bytes)]>, now: Now) -> OffsetsRecord {
        let assignment = |id: &str, member: &Member| match assignments {
            None => member.assignment.clone(),
            Some(all) => all.iter().find(|(to, _)| to == id).map(|(_, bytes)| bytes.clone()).unwrap_or_default(),
        };
        let member = |(id, member): (&String, &Member)| MemberValue {
            id: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            metadata: member.metadata(self.protocol.as_deref()),
            assignment: assignment(id, member),
        };
        let value = GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            at_ms: now.wall_ms,
            members: self.members.iter().map(member).collect(),
        };
        OffsetsRecord::Group { group: self.id.clone(), value: Some(value) }
    }

    /// Whether the request comes from a member, and from the one that holds the instance id it names.
    pub(super) fn check_member(&self, member_id: &str, instance: Option<&str>) -> Result<(), ResponseError> {
        if let Some(instance) = instance {
            match self.statics.get(instance) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(holder) if holder != member_id => return Err(ResponseError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    /// [`Group::check_member`], and whether it lives in the present generation.
    pub(super) fn check_generation(&self, member: &Membership) -> Result<(), ResponseError> {
        self.check_member(&member.member_id, member.instance.as_deref())?;
        if member.generation == self.generation { Ok(()) } else { Err(ResponseError::IllegalGeneration) }
    }

    /// The member was heard of.
    pub(super) fn heard_of(&mut self, member_id: &str, now: Now) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.session_ends_ms = now.ms + i64::from(member.session_timeout_ms);
            self.wake_at_ms = self.wake_at_ms.min(member.session_ends_ms);
        }
    }

    fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|member| i64::from(member.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    /// Asks all members to join anew. `delay_ms` keeps a new group open for members that start at the same time.
    pub(super) fn prepare_rebalance(&mut self, delay_ms: i64, now: Now, out: &mut Out) {
        if self.state == GroupState::PreparingRebalance {
            return self.try_complete_join(now, out);
        }
        if self.state == GroupState::CompletingRebalance {
            self.answer_syncs(Some(ResponseError::RebalanceInProgress), now, out);
        }
        let is_new = self.state == GroupState::Empty;
        self.state = GroupState::PreparingRebalance;
        self.is_assigning = false;
        self.patience_ends_ms = now.ms + self.rebalance_timeout_ms().max(delay_ms);
        self.hold_until_ms = if is_new { now.ms + delay_ms } else { now.ms };
        self.wake_at_ms = self.wake_at_ms.min(self.patience_ends_ms).min(self.hold_until_ms);
        self.try_complete_join(now, out);
    }

    /// Begins a generation when everybody is there, or patience is at its end.
    pub(super) fn try_complete_join(&mut self, now: Now, out: &mut Out) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        let is_time_up = now.ms >= self.patience_ends_ms;
        let are_all_here = self.given_ids.is_empty() && self.members.values().all(|m| m.join_waiter.is_some());
        if !is_time_up && (!are_all_here || now.ms < self.hold_until_ms) {
            return;
        }
        let late = |(id, m): (&String, &Member)| (m.join_waiter.is_none() && m.instance.is_none()).then(|| id.clone());
        for id in self.members.iter().filter_map(late).collect::<Vec<_>>() {
            self.remove_member(&id, out);
        }
        if self.members.is_empty() {
            return self.become_empty(now, out);
        }
        let Some(present) = self.members.iter().find(|(_, m)| m.join_waiter.is_some()).map(|(id, _)| id.clone()) else {
            // Only static members that are away: they may come back until their sessions end.
            self.patience_ends_ms = now.ms + self.rebalance_timeout_ms().max(1);
            self.wake_at_ms = self.wake_at_ms.min(self.patience_ends_ms);
            return;
        };
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id));
        if leader.is_none_or(|leader| leader.join_waiter.is_none()) {
            self.leader = Some(present);
        }
        self.begin_generation(now, out);
    }

    fn begin_generation(&mut self, now: Now, out: &mut Out) {
        self.generation = if self.generation == i32::MAX { 1 } else { self.generation + 1 };
        self.protocol = self.choose_protocol();
        self.state = GroupState::CompletingRebalance;
        self.patience_ends_ms = now.ms + self.rebalance_timeout_ms();
        self.wake_at_ms = self.wake_at_ms.min(self.patience_ends_ms);
        let waiting: Vec<_> =
            self.members.iter_mut().filter_map(|(id, m)| Some((id.clone(), m.join_waiter.take()?))).collect();
        for (id, waiter) in waiting {
            self.heard_of(&id, now);
            out.answer(waiter, Answer::Join(self.join_answer(&id)));
        }
    }

    /// The protocol that most members like best among those that all know; ties by name.
    fn choose_protocol(&self) -> Option<String> {
        let is_known_by_all = |name: &str| self.members.values().all(|m| m.protocols.iter().any(|(n, _)| n == name));
        let mut votes = BTreeMap::<&str, usize>::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| is_known_by_all(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let best = votes.iter().max_by_key(|(name, votes)| (**votes, std::cmp::Reverse(**name)));
        best.map(|(name, _)| (*name).to_owned())
    }

    /// What a member of the present generation is told when it joins.
    pub(super) fn join_answer(&self, member_id: &str) -> JoinAnswer {
        let leader = self.leader.clone().unwrap_or_default();
        let joined = |(id, member): (&String, &Member)| JoinedMember {
            id: id.clone(),
            instance: member.instance.clone(),
            metadata: member.metadata(self.protocol.as_deref()),
        };
        let members = if leader == member_id { self.members.iter().map(joined).collect() } else { Vec::new() };
        JoinAnswer {
            error: None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader,
            member_id: member_id.to_owned(),
            skip_assignment: false,
            members,
        }
    }

    pub(super) fn sync_answer(&self, member: &Member) -> SyncAnswer {
        SyncAnswer {
            error: None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: member.assignment.clone(),
        }
    }

    fn answer_syncs(&mut self, error: Option<ResponseError>, now: Now, out: &mut Out) {
        let waiting: Vec<_> =
            self.members.iter_mut().filter_map(|(id, m)| Some((id.clone(), m.sync_waiter.take()?))).collect();
        for (id, waiter) in waiting {
            self.heard_of(&id, now);
            let answer = match error {
                Some(error) => SyncAnswer::refused(error),
                None => self.members.get(&id).map(|member| self.sync_answer(member)).expect("it was just there"),
            };
            out.answer(waiter, Answer::Sync(answer));
        }
    }

    /// The leader's assignment is durable, or never will be.
    pub(super) fn assigned(
        &mut self,
        generation: i32,
        assignments: Vec<(String, Bytes)>,
        is_durable: bool,
        now: Now,
        out: &mut Out,
    ) {
        if self.generation != generation || self.state != GroupState::CompletingRebalance {
            return; // A rebalance has overtaken it; its waiters were answered then.
        }
        self.is_assigning = false;
        if !is_durable {
            self.answer_syncs(Some(ResponseError::CoordinatorNotAvailable), now, out);
            return self.prepare_rebalance(0, now, out);
        }
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        self.state = GroupState::Stable;
        self.patience_ends_ms = i64::MAX;
        self.answer_syncs(None, now, out);
    }

    fn become_empty(&mut self, now: Now, out: &mut Out) {
        self.generation = if self.generation == i32::MAX { 1 } else { self.generation + 1 };
        self.state = GroupState::Empty;
        self.protocol = None;
        self.leader = None;
        self.patience_ends_ms = i64::MAX;
        self.empty_since_wall_ms = now.wall_ms;
        let record = self.record(None, now);
        out.write(&self.id, vec![record], Pending::Notice);
    }

    /// Takes a member out; the caller decides about a rebalance. What it waits for is answered.
    pub(super) fn remove_member(&mut self, id: &str, out: &mut Out) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(instance) = &member.instance
            && self.statics.get(instance).is_some_and(|holder| holder == id)
        {
            self.statics.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        if let Some(waiter) = member.join_waiter {
            out.answer(waiter, Answer::Join(JoinAnswer::refused(ResponseError::UnknownMemberId, id)));
        }
        if let Some(waiter) = member.sync_waiter {
            out.answer(waiter, Answer::Sync(SyncAnswer::refused(ResponseError::UnknownMemberId)));
        }
    }

    /// Members have gone: who is left has to share anew.
    pub(super) fn rebalance_without(&mut self, now: Now, out: &mut Out) {
        match self.state {
            GroupState::Empty => {}
            GroupState::PreparingRebalance => self.try_complete_join(now, out),
            GroupState::CompletingRebalance | GroupState::Stable => self.prepare_rebalance(0, now, out),
        }
    }

    pub(super) fn tick(&mut self, now: Now, out: &mut Out) {
        self.given_ids.retain(|_, lapses_ms| *lapses_ms > now.ms);
        let is_dead = |m: &Member| m.join_waiter.is_none() && m.sync_waiter.is_none() && m.session_ends_ms <= now.ms;
        let mut dead: Vec<_> = self.members.iter().filter(|(_, m)| is_dead(m)).map(|(id, _)| id.clone()).collect();
        if self.state == GroupState::CompletingRebalance && self.patience_ends_ms <= now.ms && !self.is_assigning {
            let silent = self.members.iter().filter(|(_, m)| m.sync_waiter.is_none()).map(|(id, _)| id.clone());
            dead.extend(silent);
            dead.sort();
            dead.dedup();
        }
        for id in &dead {
            self.remove_member(id, out);
        }
        if !dead.is_empty() {
            self.rebalance_without(now, out);
        }
        self.try_complete_join(now, out);
        self.wake_at_ms = self.earliest_deadline_ms();
    }

    fn earliest_deadline_ms(&self) -> i64 {
        let sessions = self
            .members
            .values()
            .filter(|m| m.join_waiter.is_none() && m.sync_waiter.is_none())
            .map(|m| m.session_ends_ms);
        let mut earliest = sessions.chain(self.given_ids.values().copied()).min().unwrap_or(i64::MAX);
        let is_waiting = match self.state {
            GroupState::PreparingRebalance => true,
            GroupState::CompletingRebalance => !self.is_assigning,
            GroupState::Empty | GroupState::Stable => false,
        };
        if is_waiting {
            earliest = earliest.min(self.patience_ends_ms);
        }
        let are_all_here = self.members.values().all(|m| m.join_waiter.is_some());
        if self.state == GroupState::PreparingRebalance && are_all_here && self.given_ids.is_empty() {
            earliest = earliest.min(self.hold_until_ms);
        }
        earliest
    }
}
