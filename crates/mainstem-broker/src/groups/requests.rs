//! The requests of consumer groups, from Kafka's messages to the coordinator's and back.

use mainstem_kafka_wire::frame::RequestHeader;
use mainstem_kafka_wire::messages::delete_groups_response::DeletableGroupResult;
use mainstem_kafka_wire::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use mainstem_kafka_wire::messages::join_group_response::JoinGroupResponseMember;
use mainstem_kafka_wire::messages::leave_group_response::MemberResponse;
use mainstem_kafka_wire::messages::list_groups_response::ListedGroup;
use mainstem_kafka_wire::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    ListGroupsRequest, ListGroupsResponse, ResponseError, StrBytes, SyncGroupRequest, SyncGroupResponse,
};

use crate::broker::{Broker, ClientInfo};
use crate::codec::{code, text};
use crate::coordinator::{
    Answer, GroupState, GroupView, Join, JoinAnswer, Leaving, MemberView, Membership, Request, Sync, SyncAnswer,
};

/// What everybody may do with a group, as bits of Kafka's operations.
const GROUP_OPERATIONS: i32 = 0x148;

fn owned(text: &Option<StrBytes>) -> Option<String> {
    text.as_ref().map(|text| text.to_string())
}

fn wire(text_or_none: Option<String>) -> Option<StrBytes> {
    text_or_none.map(StrBytes::from_string)
}

impl Broker {
    /// [`crate::groups::Groups::ask`], once there is a topic to write to.
    async fn ask(&self, request: Request) -> Result<Answer, ResponseError> {
        if let Err(error) = self.ensure_offsets_topic().await {
            tracing::warn!(error, "groups cannot be served");
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        self.inner.groups.ask(request).await.ok_or(ResponseError::CoordinatorNotAvailable)
    }

    pub(super) async fn ask_done(&self, request: Request) -> Option<ResponseError> {
        match self.ask(request).await {
            Ok(Answer::Done(error)) => error,
            Ok(_) => Some(ResponseError::UnknownServerError),
            Err(error) => Some(error),
        }
    }

    pub(crate) async fn join_group(
        &self,
        header: &RequestHeader,
        request: JoinGroupRequest,
        client: &ClientInfo,
    ) -> JoinGroupResponse {
        let version = header.version;
        let client_id = header.client_id.as_ref().map(|id| id.to_string()).unwrap_or_default();
        let instance = owned(&request.group_instance_id);
        let prefix = instance.clone().unwrap_or_else(|| client_id.clone());
        let rebalance_timeout_ms = if version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms };
        let protocols = request.protocols.into_iter().map(|p| (p.name.to_string(), p.metadata)).collect();
        let member_id = request.member_id.to_string();
        let join = Join {
            group: request.group_id.to_string(),
            member_id: member_id.clone(),
            new_member_id: format!("{prefix}-{}", self.new_uuid()),
            instance,
            client_id,
            client_host: format!("/{}", client.host),
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms,
            protocol_type: request.protocol_type.to_string(),
            protocols,
            needs_known_id: version >= 4,
            can_skip_assignment: version >= 9,
        };
        let answer = match self.ask(Request::Join(join)).await {
            Ok(Answer::Join(answer)) => answer,
            Ok(_) => JoinAnswer::refused(ResponseError::UnknownServerError, &member_id),
            Err(error) => JoinAnswer::refused(error, &member_id),
        };
        // Up to version 6 the protocol's name may not be null.
        let protocol = answer.protocol.or_else(|| (version < 7).then(String::new));
        let member = |member: crate::coordinator::JoinedMember| {
            JoinGroupResponseMember::default()
                .with_member_id(text(member.id))
                .with_group_instance_id(wire(member.instance))
                .with_metadata(member.metadata)
        };
        JoinGroupResponse::default()
            .with_error_code(code(answer.error))
            .with_generation_id(answer.generation)
            .with_protocol_type(wire(answer.protocol_type))
            .with_protocol_name(wire(protocol))
            .with_leader(text(answer.leader))
            .with_skip_assignment(answer.skip_assignment)
            .with_member_id(text(answer.member_id))
            .with_members(answer.members.into_iter().map(member).collect())
    }

    pub(crate) async fn sync_group(&self, request: SyncGroupRequest) -> SyncGroupResponse {
        let member = Membership {
            group: request.group_id.to_string(),
            generation: request.generation_id,
            member_id: request.member_id.to_string(),
            instance: owned(&request.group_instance_id),
        };
        let assignments = request.assignments.into_iter().map(|a| (a.member_id.to_string(), a.assignment)).collect();
        let sync = Sync {
            member,
            protocol_type: owned(&request.protocol_type),
            protocol: owned(&request.protocol_name),
            assignments,
        };
        let answer = match self.ask(Request::Sync(sync)).await {
            Ok(Answer::Sync(answer)) => answer,
            Ok(_) => SyncAnswer::refused(ResponseError::UnknownServerError),
            Err(error) => SyncAnswer::refused(error),
        };
        SyncGroupResponse::default()
            .with_error_code(code(answer.error))
            .with_protocol_type(wire(answer.protocol_type))
            .with_protocol_name(wire(answer.protocol))
            .with_assignment(answer.assignment)
    }

    pub(crate) async fn heartbeat(&self, request: HeartbeatRequest) -> HeartbeatResponse {
        let member = Membership {
            group: request.group_id.to_string(),
            generation: request.generation_id,
            member_id: request.member_id.to_string(),
            instance: owned(&request.group_instance_id),
        };
        let error = self.ask_done(Request::Heartbeat(member)).await;
        HeartbeatResponse::default().with_error_code(code(error))
    }

    pub(crate) async fn leave_group(&self, request: LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
        let members = if version < 3 {
            vec![Leaving { member_id: request.member_id.to_string(), instance: None }]
        } else {
            let leaving = |member: &mainstem_kafka_wire::messages::leave_group_request::MemberIdentity| Leaving {
                member_id: member.member_id.to_string(),
                instance: owned(&member.group_instance_id),
            };
            request.members.iter().map(leaving).collect()
        };
        let answers = match self.ask(Request::Leave { group: request.group_id.to_string(), members }).await {
            Ok(Answer::Leave(answers)) => answers,
            Ok(_) => Err(ResponseError::UnknownServerError),
            Err(error) => Err(error),
        };
        let response = LeaveGroupResponse::default();
        match answers {
            Err(error) => response.with_error_code(error.code()),
            Ok(answers) if version < 3 => {
                response.with_error_code(code(answers.into_iter().find_map(|(_, error)| error)))
            }
            Ok(answers) => {
                let member = |(leaving, error): (Leaving, _)| {
                    MemberResponse::default()
                        .with_member_id(text(leaving.member_id))
                        .with_group_instance_id(wire(leaving.instance))
                        .with_error_code(code(error))
                };
                response.with_members(answers.into_iter().map(member).collect())
            }
        }
    }

    pub(crate) fn list_groups(&self, request: &ListGroupsRequest) -> ListGroupsResponse {
        let is_wanted = |group: &GroupView| {
            let state = group.state.to_string();
            let is_state = request.states_filter.is_empty()
                || request.states_filter.iter().any(|s| s.eq_ignore_ascii_case(&state));
            let is_type = request.types_filter.is_empty()
                || request.types_filter.iter().any(|kind| kind.eq_ignore_ascii_case("classic"));
            is_state && is_type
        };
        let listed = |group: GroupView| {
            ListedGroup::default()
                .with_group_id(GroupId(text(group.id)))
                .with_protocol_type(text(group.protocol_type))
                .with_group_state(text(group.state.to_string()))
                .with_group_type(StrBytes::from_static_str("classic"))
        };
        let groups = self.inner.groups.read(|all| all.groups().filter(is_wanted).map(listed).collect());
        ListGroupsResponse::default().with_groups(groups)
    }

    pub(crate) fn describe_groups(&self, request: &DescribeGroupsRequest, version: i16) -> DescribeGroupsResponse {
        let operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { i32::MIN };
        let groups = request.groups.iter().map(|id| {
            let described = DescribedGroup::default().with_group_id(id.clone());
            match self.inner.groups.read(|all| all.describe(id)) {
                Some(view) => describe_group(described, view).with_authorized_operations(operations),
                // Up to version 5 a group that is not there is a dead one.
                None if version < 6 => described.with_group_state(StrBytes::from_static_str("Dead")),
                None => described
                    .with_group_state(StrBytes::from_static_str("Dead"))
                    .with_error_code(ResponseError::GroupIdNotFound.code())
                    .with_error_message(Some(text(format!("Group {} not found.", id.as_str())))),
            }
        });
        DescribeGroupsResponse::default().with_groups(groups.collect())
    }

    pub(crate) async fn delete_groups(&self, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
        let mut results = Vec::with_capacity(request.groups_names.len());
        for id in request.groups_names {
            let error = self.ask_done(Request::Delete { group: id.to_string() }).await;
            results.push(DeletableGroupResult::default().with_group_id(id).with_error_code(code(error)));
        }
        DeleteGroupsResponse::default().with_results(results)
    }
}

fn describe_group(described: DescribedGroup, view: GroupView) -> DescribedGroup {
    // While members join there is no protocol, and what they say is not yet of one generation.
    let is_settled = matches!(view.state, GroupState::Stable | GroupState::CompletingRebalance);
    let member = |member: MemberView| {
        DescribedGroupMember::default()
            .with_member_id(text(member.id))
            .with_group_instance_id(wire(member.instance))
            .with_client_id(text(member.client_id))
            .with_client_host(text(member.client_host))
            .with_member_metadata(if is_settled { member.metadata } else { Default::default() })
            .with_member_assignment(if view.state == GroupState::Stable {
                member.assignment
            } else {
                Default::default()
            })
    };
    described
        .with_group_state(text(view.state.to_string()))
        .with_protocol_type(text(view.protocol_type))
        .with_protocol_data(text(if is_settled { view.protocol } else { String::new() }))
        .with_members(view.members.into_iter().map(member).collect())
}
