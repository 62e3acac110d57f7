//! Consumer groups as a state machine: requests, finished writes and time in; answers and records to write out.
//!
//! Words: a *member* belongs to a group between its first JoinGroup and its leaving, its death or its fencing; a *static*
//! member has a `group.instance.id` and keeps its place over a restart; a *generation* is the time between two
//! rebalances; a *waiter* is a request that has not been answered yet; a *write* is a set of records of
//! `__consumer_offsets` that must be durable before what it stands for is true.
//!
//! Always true here:
//! - every request is answered exactly once;
//! - all members of a generation that were told an assignment were told the one that the leader of that generation sent,
//!   and only after it was durable;
//! - a commit is answered, and can be fetched, only after it is durable;
//! - no I/O, no clock, no randomness: the driver (`groups.rs`) gives times and ids and carries out the effects.

mod group;
mod join;
mod membership;
mod offsets;
pub mod records;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use mainstem_kafka_wire::messages::ResponseError;
use uuid::Uuid;

use group::Group;
pub use group::{GroupState, MemberView};
use records::OffsetsRecord;

/// A request waiting for its answer, named by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);

/// A write under way, named by the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// The time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic milliseconds: session and rebalance timeouts.
    pub ms: i64,
    /// Milliseconds since 1970: what is written into records, and retention.
    pub wall_ms: i64,
}

/// Limits of all groups.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `group.min.session.timeout.ms`
    pub session_timeout_ms_min: i32,
    /// `group.max.session.timeout.ms`
    pub session_timeout_ms_max: i32,
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i64,
    /// `group.max.size`
    pub members_max: usize,
    /// `offsets.retention.minutes`, in milliseconds: how long offsets outlive the last member.
    pub offsets_retention_ms: i64,
}

/// JoinGroup.
#[derive(Clone, Debug)]
pub struct Join {
    /// The group.
    pub group: String,
    /// Empty for a member that has none yet.
    pub member_id: String,
    /// The id that a new member gets: random, from the driver.
    pub new_member_id: String,
    /// `group.instance.id`
    pub instance: Option<String>,
    /// From the request header.
    pub client_id: String,
    /// Address of the client.
    pub client_host: String,
    /// Without a heartbeat for this long the member is dead.
    pub session_timeout_ms: i32,
    /// How long a rebalance waits for this member.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, ...
    pub protocol_type: String,
    /// Name and metadata, best first.
    pub protocols: Vec<(String, Bytes)>,
    /// From version 4: a new dynamic member first learns its id and joins again with it.
    pub needs_known_id: bool,
    /// From version 9: the answer can say that the leader shall not assign.
    pub can_skip_assignment: bool,
}

/// A member as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub id: String,
    /// `group.instance.id`
    pub instance: Option<String>,
    /// What it said for the protocol that was chosen.
    pub metadata: Bytes,
}

/// The answer to JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// `None` when the member is in.
    pub error: Option<ResponseError>,
    /// -1 with an error.
    pub generation: i32,
    /// Of the group.
    pub protocol_type: Option<String>,
    /// The one chosen.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: String,
    /// Of the one who asked.
    pub member_id: String,
    /// For a returning static leader: keep the assignment.
    pub skip_assignment: bool,
    /// For the leader only.
    pub members: Vec<JoinedMember>,
}

/// SyncGroup.
#[derive(Clone, Debug)]
pub struct Sync {
    /// Who asks.
    pub member: Membership,
    /// From version 5.
    pub protocol_type: Option<String>,
    /// From version 5.
    pub protocol: Option<String>,
    /// From the leader: member id and assignment.
    pub assignments: Vec<(String, Bytes)>,
}

/// The answer to SyncGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncAnswer {
    /// `None` when `assignment` counts.
    pub error: Option<ResponseError>,
    /// Of the group.
    pub protocol_type: Option<String>,
    /// The one chosen.
    pub protocol: Option<String>,
    /// The member's part.
    pub assignment: Bytes,
}

/// Who a request claims to come from.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The group.
    pub group: String,
    /// The generation it believes in; -1 for a consumer that assigns itself.
    pub generation: i32,
    /// Its id; empty for a consumer that assigns itself.
    pub member_id: String,
    /// `group.instance.id`
    pub instance: Option<String>,
}

/// One member of a LeaveGroup request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Its id; may be empty for a static member.
    pub member_id: String,
    /// `group.instance.id`
    pub instance: Option<String>,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 when unknown.
    pub leader_epoch: i32,
    /// Whatever the client wants to keep with it.
    pub metadata: String,
    /// When, since 1970.
    pub at_ms: i64,
    /// The topic's id: a later topic of the same name has nothing committed. Unknown in records of other brokers.
    pub topic_id: Option<Uuid>,
}

/// OffsetCommit of partitions that exist.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Who asks.
    pub member: Membership,
    /// Topic name, partition, what to remember.
    pub offsets: Vec<(String, i32, Committed)>,
}

/// What a client asks of a group.
#[derive(Clone, Debug)]
pub enum Request {
    /// JoinGroup; answered with [`Answer::Join`].
    Join(Join),
    /// SyncGroup; answered with [`Answer::Sync`].
    Sync(Sync),
    /// Heartbeat; answered with [`Answer::Done`].
    Heartbeat(Membership),
    /// LeaveGroup; answered with [`Answer::Leave`].
    Leave {
        /// The group.
        group: String,
        /// Who leaves.
        members: Vec<Leaving>,
    },
    /// OffsetCommit; answered with [`Answer::Done`].
    Commit(Commit),
    /// DeleteGroups, one group; answered with [`Answer::Done`].
    Delete {
        /// The group.
        group: String,
    },
}

/// What happens to the coordinator.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client asks.
    Request(WaiterId, Request),
    /// A write is durable, or never will be.
    Written {
        /// Which one.
        write: WriteId,
        /// Whether it is durable.
        is_durable: bool,
    },
    /// A topic is gone: the offsets committed for it go too.
    TopicDeleted {
        /// Its name.
        topic: String,
    },
    /// Time has passed, see [`Coordinator::next_deadline_ms`].
    Tick,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To JoinGroup.
    Join(JoinAnswer),
    /// To SyncGroup.
    Sync(SyncAnswer),
    /// To LeaveGroup: one error or none per member, in order.
    Leave(Result<Vec<(Leaving, Option<ResponseError>)>, ResponseError>),
    /// To the others.
    Done(Option<ResponseError>),
}

/// What the driver has to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answer a request.
    Answer(WaiterId, Answer),
    /// Append these records to the group's partition of `__consumer_offsets`, as one entry, after all earlier writes, and
    /// report with [`Event::Written`].
    Write {
        /// Its name in the report.
        write: WriteId,
        /// Which group; decides the partition.
        group: String,
        /// What to append.
        records: Vec<OffsetsRecord>,
    },
}

/// What becomes true when a write is durable.
#[derive(Debug)]
enum Pending {
    /// The leader's assignment of this generation.
    Assignment { group: String, generation: i32, assignments: Vec<(String, Bytes)> },
    /// Offsets.
    Commit { group: String, waiter: WaiterId, offsets: Vec<(String, i32, Committed)> },
    /// The end of a group.
    Delete { group: String, waiter: Option<WaiterId> },
    /// Offsets of a deleted topic.
    Forget { group: String, offsets: Vec<(String, i32)> },
    /// Nothing waits for it.
    Notice,
}

/// Effects and writes of the event at hand.
#[derive(Debug, Default)]
struct Out {
    effects: Vec<Effect>,
    pending: HashMap<WriteId, Pending>,
    next_write: u64,
}

impl Out {
    fn answer(&mut self, waiter: WaiterId, answer: Answer) {
        self.effects.push(Effect::Answer(waiter, answer));
    }

    fn done(&mut self, waiter: WaiterId, error: Option<ResponseError>) {
        self.answer(waiter, Answer::Done(error));
    }

    fn write(&mut self, group: &str, records: Vec<OffsetsRecord>, pending: Pending) {
        self.next_write += 1;
        let write = WriteId(self.next_write);
        self.pending.insert(write, pending);
        self.effects.push(Effect::Write { write, group: group.to_owned(), records });
    }
}

/// All groups.
#[derive(Debug)]
pub struct Coordinator {
    limits: Limits,
    groups: BTreeMap<String, Group>,
    out: Out,
    wake_at_ms: i64,
}

impl Coordinator {
    /// No groups yet; see [`Coordinator::load`].
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, groups: BTreeMap::new(), out: Out::default(), wake_at_ms: i64::MAX }
    }

    /// Takes over one record of `__consumer_offsets` at start, in order of offset. Members get a full session timeout
    /// from `now` to be heard of.
    pub fn load(&mut self, record: OffsetsRecord, now: Now) {
        match record {
            OffsetsRecord::Offset { group, topic, partition, value } => {
                let group = self.groups.entry(group.clone()).or_insert_with(|| Group::new(group, now));
                match value {
                    Some(value) => {
                        group.empty_since_wall_ms = group.empty_since_wall_ms.max(value.at_ms);
                        group.offsets.insert((topic, partition), value);
                    }
                    None => drop(group.offsets.remove(&(topic, partition))),
                }
            }
            OffsetsRecord::Group { group, value: None } => drop(self.groups.remove(&group)),
            OffsetsRecord::Group { group, value: Some(value) } => {
                let group = self.groups.entry(group.clone()).or_insert_with(|| Group::new(group, now));
                group.restore(value, now);
                self.wake_at_ms = self.wake_at_ms.min(group.wake_at_ms);
            }
        }
    }

    /// Takes one event, gives what has to be done about it, in order.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        match event {
            Event::Request(waiter, request) => self.request(waiter, request, now),
            Event::Written { write, is_durable } => self.written(write, is_durable, now),
            Event::TopicDeleted { topic } => self.forget_topic(&topic),
            Event::Tick => self.tick(now),
        }
        std::mem::take(&mut self.out.effects)
    }

    /// When [`Event::Tick`] is due, monotonic; an earlier tick does no harm. `i64::MAX` when nothing waits for time.
    #[must_use]
    pub fn next_deadline_ms(&self) -> i64 {
        self.wake_at_ms
    }

    /// What a group has committed; `None` when there is no such group.
    #[must_use]
    pub fn offsets(&self, group: &str) -> Option<&BTreeMap<(String, i32), Committed>> {
        self.groups.get(group).map(|group| &group.offsets)
    }

    /// A group for people and for DescribeGroups.
    #[must_use]
    pub fn describe(&self, group: &str) -> Option<GroupView> {
        self.groups.get(group).map(Group::view)
    }

    /// All groups, in order of id.
    pub fn groups(&self) -> impl Iterator<Item = GroupView> {
        self.groups.values().map(Group::view)
    }

    fn request(&mut self, waiter: WaiterId, request: Request, now: Now) {
        let id = match &request {
            Request::Join(join) => &join.group,
            Request::Sync(sync) => &sync.member.group,
            Request::Heartbeat(member) => &member.group,
            Request::Commit(commit) => &commit.member.group,
            Request::Leave { group, .. } | Request::Delete { group } => group,
        };
        let id = id.clone();
        if self.groups.get(&id).is_some_and(|group| group.is_ending) {
            // Its end is being written: retriable, and over in a moment.
            return self.out.answer(waiter, refusal(&request, ResponseError::CoordinatorNotAvailable));
        }
        match request {
            Request::Join(join) => self.join(waiter, join, now),
            Request::Sync(sync) => self.sync(waiter, sync, now),
            Request::Heartbeat(member) => self.heartbeat(waiter, &member, now),
            Request::Leave { group, members } => self.leave(waiter, &group, members, now),
            Request::Commit(commit) => self.commit(waiter, commit, now),
            Request::Delete { group } => self.delete(waiter, &group),
        }
        if let Some(group) = self.groups.get(&id) {
            self.wake_at_ms = self.wake_at_ms.min(group.wake_at_ms);
        }
    }

    fn written(&mut self, write: WriteId, is_durable: bool, now: Now) {
        let pending = self.out.pending.remove(&write).expect("every write is reported once");
        match pending {
            Pending::Assignment { group, generation, assignments } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.assigned(generation, assignments, is_durable, now, &mut self.out);
                    self.wake_at_ms = self.wake_at_ms.min(group.wake_at_ms);
                }
            }
            Pending::Commit { group, waiter, offsets } => self.committed(&group, waiter, offsets, is_durable),
            Pending::Delete { group, waiter } => self.deleted(&group, waiter, is_durable),
            Pending::Forget { group, offsets } => self.forgotten(&group, offsets, is_durable),
            Pending::Notice => {}
        }
    }

    fn tick(&mut self, now: Now) {
        for group in self.groups.values_mut() {
            group.tick(now, &mut self.out);
        }
        self.expire_offsets(now);
        self.wake_at_ms = self.groups.values().map(|group| group.wake_at_ms).min().unwrap_or(i64::MAX);
    }
}

/// A group as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: GroupState,
    /// Number of the newest generation.
    pub generation: i32,
    /// `consumer` for consumers, empty for groups that only commit.
    pub protocol_type: String,
    /// Name of the assignor; empty while there is none.
    pub protocol: String,
    /// Its members.
    pub members: Vec<MemberView>,
}

/// The answer that refuses a request.
fn refusal(request: &Request, error: ResponseError) -> Answer {
    match request {
        Request::Join(join) => Answer::Join(JoinAnswer::refused(error, &join.member_id)),
        Request::Sync(_) => Answer::Sync(SyncAnswer::refused(error)),
        Request::Leave { .. } => Answer::Leave(Err(error)),
        Request::Heartbeat(_) | Request::Commit(_) | Request::Delete { .. } => Answer::Done(Some(error)),
    }
}

impl JoinAnswer {
    pub(crate) fn refused(error: ResponseError, member_id: &str) -> Self {
        Self {
            error: Some(error),
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: String::new(),
            member_id: member_id.to_owned(),
            skip_assignment: false,
            members: Vec::new(),
        }
    }
}

impl SyncAnswer {
    pub(crate) fn refused(error: ResponseError) -> Self {
        Self { error: Some(error), protocol_type: None, protocol: None, assignment: Bytes::new() }
    }
}
