//! SyncGroup, Heartbeat and LeaveGroup.

use mainstem_kafka_wire::messages::ResponseError;

use super::group::{Group, GroupState};
use super::{Answer, Coordinator, Leaving, Membership, Now, Out, Pending, Sync, SyncAnswer, WaiterId};

impl Coordinator {
    pub(super) fn sync(&mut self, waiter: WaiterId, sync: Sync, now: Now) {
        let Some(group) = self.groups.get_mut(&sync.member.group) else {
            let answer = SyncAnswer::refused(ResponseError::UnknownMemberId);
            return self.out.answer(waiter, Answer::Sync(answer));
        };
        if let Err(error) = group.sync(waiter, sync, now, &mut self.out) {
            self.out.answer(waiter, Answer::Sync(SyncAnswer::refused(error)));
        }
    }

    pub(super) fn heartbeat(&mut self, waiter: WaiterId, member: &Membership, now: Now) {
        let error = match self.groups.get_mut(&member.group) {
            None => Some(ResponseError::UnknownMemberId),
            Some(group) => group.heartbeat(member, now).err(),
        };
        self.out.done(waiter, error);
    }

    pub(super) fn leave(&mut self, waiter: WaiterId, id: &str, members: Vec<Leaving>, now: Now) {
        let Some(group) = self.groups.get_mut(id) else {
            let unknown = |member| (member, Some(ResponseError::UnknownMemberId));
            let answers = members.into_iter().map(unknown).collect();
            return self.out.answer(waiter, Answer::Leave(Ok(answers)));
        };
        let mut answers = Vec::with_capacity(members.len());
        let mut has_lost_members = false;
        for member in members {
            let left = group.leave(&member, &mut self.out);
            has_lost_members |= left.is_ok();
            answers.push((member, left.err()));
        }
        if has_lost_members {
            group.rebalance_without(now, &mut self.out);
        }
        self.out.answer(waiter, Answer::Leave(Ok(answers)));
    }
}

impl Group {
    fn sync(&mut self, waiter: WaiterId, sync: Sync, now: Now, out: &mut Out) -> Result<(), ResponseError> {
        self.check_generation(&sync.member)?;
        let is_other = |said: &Option<String>, is: &Option<String>| said.is_some() && said != is;
        if is_other(&sync.protocol_type, &self.protocol_type) || is_other(&sync.protocol, &self.protocol) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        let id = sync.member.member_id.as_str();
        self.heard_of(id, now);
        match self.state {
            GroupState::Empty => return Err(ResponseError::UnknownMemberId),
            GroupState::PreparingRebalance => return Err(ResponseError::RebalanceInProgress),
            GroupState::Stable => {
                let member = self.members.get(id).expect("checked above");
                out.answer(waiter, Answer::Sync(self.sync_answer(member)));
                return Ok(());
            }
            GroupState::CompletingRebalance => {}
        }
        let member = self.members.get_mut(id).expect("checked above");
        if let Some(before) = member.sync_waiter.replace(waiter) {
            out.answer(before, Answer::Sync(SyncAnswer::refused(ResponseError::RebalanceInProgress)));
        }
        if self.leader.as_deref() == Some(id) && !self.is_assigning {
            self.is_assigning = true;
            let record = self.record(Some(&sync.assignments), now);
            let (group, generation) = (self.id.clone(), self.generation);
            let pending = Pending::Assignment { group, generation, assignments: sync.assignments };
            out.write(&self.id, vec![record], pending);
        }
        Ok(())
    }

    fn heartbeat(&mut self, member: &Membership, now: Now) -> Result<(), ResponseError> {
        self.check_generation(member)?;
        self.heard_of(&member.member_id, now);
        match self.state {
            GroupState::Empty => Err(ResponseError::UnknownMemberId),
            GroupState::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        }
    }

    fn leave(&mut self, leaving: &Leaving, out: &mut Out) -> Result<(), ResponseError> {
        if self.given_ids.remove(&leaving.member_id).is_some() {
            return Ok(());
        }
        let id = match &leaving.instance {
            // Tools remove a static member by its instance id alone.
            Some(instance) if leaving.member_id.is_empty() => {
                self.statics.get(instance).cloned().ok_or(ResponseError::UnknownMemberId)?
            }
            instance => {
                self.check_member(&leaving.member_id, instance.as_deref())?;
                leaving.member_id.clone()
            }
        };
        self.remove_member(&id, out);
        Ok(())
    }
}
