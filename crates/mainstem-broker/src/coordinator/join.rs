//! JoinGroup: who gets in, and when that means a rebalance.

use mainstem_kafka_wire::messages::ResponseError;

use super::group::{Group, GroupState, Member};
use super::{Answer, Coordinator, Join, JoinAnswer, Limits, Now, Out, Pending, WaiterId};

impl Coordinator {
    pub(super) fn join(&mut self, waiter: WaiterId, join: Join, now: Now) {
        let refuse = |error| Answer::Join(JoinAnswer::refused(error, &join.member_id));
        if join.group.is_empty() {
            return self.out.answer(waiter, refuse(ResponseError::InvalidGroupId));
        }
        let timeouts = self.limits.session_timeout_ms_min..=self.limits.session_timeout_ms_max;
        if !timeouts.contains(&join.session_timeout_ms) {
            return self.out.answer(waiter, refuse(ResponseError::InvalidSessionTimeout));
        }
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return self.out.answer(waiter, refuse(ResponseError::InconsistentGroupProtocol));
        }
        if !join.member_id.is_empty() && !self.groups.contains_key(&join.group) {
            return self.out.answer(waiter, refuse(ResponseError::UnknownMemberId));
        }
        let group = self.groups.entry(join.group.clone()).or_insert_with(|| Group::new(join.group.clone(), now));
        match group.join(waiter, &join, &self.limits, now, &mut self.out) {
            Ok(()) => {}
            Err(error) => self.out.answer(waiter, refuse(error)),
        }
    }
}

impl Group {
    /// `Err` is the answer; otherwise it was answered or waits.
    fn join(
        &mut self,
        waiter: WaiterId,
        join: &Join,
        limits: &Limits,
        now: Now,
        out: &mut Out,
    ) -> Result<(), ResponseError> {
        if !self.accepts_protocols(join) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        let is_known = self.members.contains_key(&join.member_id);
        if !is_known && self.members.len() + self.given_ids.len() >= limits.members_max {
            return Err(ResponseError::GroupMaxSizeReached);
        }
        if join.member_id.is_empty() {
            self.join_new(waiter, join, limits, now, out);
            return Ok(());
        }
        if self.given_ids.remove(&join.member_id).is_some() {
            self.add_member(waiter, join, &join.member_id, limits, now, out);
            return Ok(());
        }
        self.check_member(&join.member_id, join.instance.as_deref())?;
        match self.state {
            GroupState::Empty => return Err(ResponseError::UnknownMemberId),
            GroupState::PreparingRebalance => self.rejoin(waiter, join, now, out),
            GroupState::CompletingRebalance if self.has_same_protocols(join) => self.tell_again(waiter, join, now, out),
            // A leader that joins again wants another assignment.
            GroupState::Stable
                if self.has_same_protocols(join) && self.leader.as_deref() != Some(join.member_id.as_str()) =>
            {
                self.tell_again(waiter, join, now, out);
            }
            GroupState::CompletingRebalance | GroupState::Stable => self.rejoin(waiter, join, now, out),
        }
        Ok(())
    }

    /// Same protocol type, and one protocol that everybody knows.
    fn accepts_protocols(&self, join: &Join) -> bool {
        if self.members.is_empty() {
            return true;
        }
        let others = || self.members.iter().filter(|(id, _)| **id != join.member_id).map(|(_, member)| member);
        let is_known_by_all = |name: &str| others().all(|member| member.protocols.iter().any(|(n, _)| n == name));
        self.protocol_type.as_deref() == Some(&join.protocol_type)
            && join.protocols.iter().any(|(name, _)| is_known_by_all(name))
    }

    fn has_same_protocols(&self, join: &Join) -> bool {
        self.members.get(&join.member_id).is_some_and(|member| {
            // A member restored from its record remembers the chosen protocol only.
            member.protocols == join.protocols
                || (member.protocols.len() == 1 && member.protocols.iter().all(|p| join.protocols.contains(p)))
        })
    }

    fn join_new(&mut self, waiter: WaiterId, join: &Join, limits: &Limits, now: Now, out: &mut Out) {
        let id = &join.new_member_id;
        if let Some(instance) = &join.instance {
            match self.statics.get(instance).cloned() {
                Some(old) => self.replace_static(waiter, join, &old, now, out),
                None => self.add_member(waiter, join, id, limits, now, out),
            }
        } else if join.needs_known_id {
            let lapses_ms = now.ms + i64::from(join.session_timeout_ms);
            self.given_ids.insert(id.clone(), lapses_ms);
            self.wake_at_ms = self.wake_at_ms.min(lapses_ms);
            out.answer(waiter, Answer::Join(JoinAnswer::refused(ResponseError::MemberIdRequired, id)));
        } else {
            self.add_member(waiter, join, id, limits, now, out);
        }
    }

    fn member_of(waiter: WaiterId, join: &Join, now: Now) -> Member {
        Member {
            instance: join.instance.clone(),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms.max(0),
            protocols: join.protocols.clone(),
            assignment: bytes::Bytes::new(),
            join_waiter: Some(waiter),
            sync_waiter: None,
            session_ends_ms: now.ms + i64::from(join.session_timeout_ms),
        }
    }

    fn add_member(&mut self, waiter: WaiterId, join: &Join, id: &str, limits: &Limits, now: Now, out: &mut Out) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        if let Some(instance) = &join.instance {
            self.statics.insert(instance.clone(), id.to_owned());
        }
        self.members.insert(id.to_owned(), Self::member_of(waiter, join, now));
        self.leader.get_or_insert_with(|| id.to_owned());
        self.heard_of(id, now);
        if self.state == GroupState::PreparingRebalance && self.generation_is_new() {
            // The first members of a group tend to come together: wait a little longer for the next one.
            self.hold_until_ms = (now.ms + limits.initial_rebalance_delay_ms).min(self.patience_ends_ms);
        }
        self.prepare_rebalance(limits.initial_rebalance_delay_ms, now, out);
    }

    fn generation_is_new(&self) -> bool {
        self.members.values().all(|member| member.join_waiter.is_some())
    }

    /// A static member has started again: it takes the place of its former self.
    fn replace_static(&mut self, waiter: WaiterId, join: &Join, old_id: &str, now: Now, out: &mut Out) {
        let id = join.new_member_id.clone();
        let old = self.members.remove(old_id).expect("an instance id points to a member");
        if let Some(waiter) = old.join_waiter {
            out.answer(waiter, Answer::Join(JoinAnswer::refused(ResponseError::FencedInstanceId, old_id)));
        }
        if let Some(waiter) = old.sync_waiter {
            out.answer(waiter, Answer::Sync(super::SyncAnswer::refused(ResponseError::FencedInstanceId)));
        }
        let was_leader = self.leader.as_deref() == Some(old_id);
        if was_leader {
            self.leader = Some(id.clone());
        }
        let protocol = self.protocol.clone();
        let mut member = Self::member_of(waiter, join, now);
        member.assignment = old.assignment.clone();
        let is_unchanged = member.metadata(protocol.as_deref()) == old.metadata(protocol.as_deref());
        let instance = join.instance.clone().expect("a static member has an instance id");
        self.statics.insert(instance, id.clone());
        self.members.insert(id.clone(), member);
        self.heard_of(&id, now);
        if self.state != GroupState::Stable || !is_unchanged {
            return self.prepare_rebalance(0, now, out);
        }
        // Nothing changes for the others: the member goes on with its old assignment.
        if let Some(member) = self.members.get_mut(&id) {
            member.join_waiter = None;
        }
        let mut answer = self.join_answer(&id);
        if was_leader && join.can_skip_assignment {
            answer.skip_assignment = true;
        } else if was_leader {
            // It must not assign: an old client is told that its former self leads.
            answer.leader = old_id.to_owned();
            answer.members.clear();
        }
        out.answer(waiter, Answer::Join(answer));
        let record = self.record(None, now);
        out.write(&self.id, vec![record], Pending::Notice);
    }

    /// A member joins again: what it says now counts, and all share anew.
    fn rejoin(&mut self, waiter: WaiterId, join: &Join, now: Now, out: &mut Out) {
        let member = self.members.get_mut(&join.member_id).expect("the caller has checked");
        let before = member.join_waiter.replace(waiter);
        member.protocols.clone_from(&join.protocols);
        member.session_timeout_ms = join.session_timeout_ms;
        member.rebalance_timeout_ms = join.rebalance_timeout_ms.max(0);
        member.client_id.clone_from(&join.client_id);
        member.client_host.clone_from(&join.client_host);
        if let Some(before) = before {
            // The same member asked before, on a connection it has given up.
            let refused = JoinAnswer::refused(ResponseError::RebalanceInProgress, &join.member_id);
            out.answer(before, Answer::Join(refused));
        }
        self.heard_of(&join.member_id, now);
        self.prepare_rebalance(0, now, out);
    }

    /// The member has lost the answer: the generation stands.
    fn tell_again(&mut self, waiter: WaiterId, join: &Join, now: Now, out: &mut Out) {
        self.heard_of(&join.member_id, now);
        out.answer(waiter, Answer::Join(self.join_answer(&join.member_id)));
    }
}
