//! The coordinator without sockets, log or clock: its rules one by one, and under chance.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mainstem_broker::coordinator::{
    Answer, Commit, Committed, Coordinator, Effect, Event, GroupState, Join, JoinAnswer, Leaving, Limits, Membership,
    Now, Request, Sync, SyncAnswer, WaiterId, WriteId,
};
use mainstem_kafka_wire::messages::ResponseError;
use mainstem_testkit::seed_from_env;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const GROUP: &str = "g";

struct Sim {
    coordinator: Coordinator,
    ms: i64,
    next: u64,
    /// Answers by waiter; each waiter is answered once.
    answers: BTreeMap<u64, Answer>,
    answered: BTreeSet<u64>,
    writes: Vec<WriteId>,
    /// Records in the order written, as a log would have them after a restart.
    log: Vec<mainstem_broker::coordinator::records::OffsetsRecord>,
    is_slow: bool,
}

impl Sim {
    fn new() -> Self {
        let limits = Limits {
            session_timeout_ms_min: 1,
            session_timeout_ms_max: 100_000,
            initial_rebalance_delay_ms: 0,
            members_max: 20,
            offsets_retention_ms: 1_000_000,
        };
        let (answers, answered, writes, log) = Default::default();
        Self { coordinator: Coordinator::new(limits), ms: 0, next: 0, answers, answered, writes, log, is_slow: false }
    }

    fn now(&self) -> Now {
        Now { ms: self.ms, wall_ms: self.ms + 1_000_000 }
    }

    fn happen(&mut self, event: Event) {
        let now = self.now();
        for effect in self.coordinator.handle(event, now) {
            match effect {
                Effect::Answer(waiter, answer) => {
                    assert!(self.answered.insert(waiter.0), "a request is answered once");
                    self.answers.insert(waiter.0, answer);
                }
                Effect::Write { write, records, .. } => {
                    self.log.extend(records);
                    self.writes.push(write);
                }
            }
        }
        if !self.is_slow {
            self.finish_writes(true);
        }
    }

    fn finish_writes(&mut self, is_durable: bool) {
        for write in std::mem::take(&mut self.writes) {
            self.happen(Event::Written { write, is_durable });
        }
    }

    fn ask(&mut self, request: Request) -> u64 {
        self.next += 1;
        let waiter = self.next;
        self.happen(Event::Request(WaiterId(waiter), request));
        waiter
    }

    fn pass(&mut self, ms: i64) {
        self.ms += ms;
        self.happen(Event::Tick);
    }

    fn join(&mut self, join: Join) -> u64 {
        self.ask(Request::Join(join))
    }

    fn joined(&mut self, waiter: u64) -> JoinAnswer {
        match self.answers.remove(&waiter) {
            Some(Answer::Join(answer)) => answer,
            other => panic!("waiter {waiter} got {other:?}"),
        }
    }

    fn synced(&mut self, waiter: u64) -> SyncAnswer {
        match self.answers.remove(&waiter) {
            Some(Answer::Sync(answer)) => answer,
            other => panic!("waiter {waiter} got {other:?}"),
        }
    }

    fn done(&mut self, waiter: u64) -> Option<ResponseError> {
        match self.answers.remove(&waiter) {
            Some(Answer::Done(error)) => error,
            other => panic!("waiter {waiter} got {other:?}"),
        }
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> Option<ResponseError> {
        let waiter = self.ask(Request::Heartbeat(membership(member, generation)));
        self.done(waiter)
    }

    fn sync(&mut self, member: &str, generation: i32, assignments: &[(&str, &str)]) -> u64 {
        let assignments = assignments.iter().map(|(id, a)| ((*id).to_owned(), Bytes::from((*a).to_owned())));
        let member = membership(member, generation);
        let assignments = assignments.collect();
        self.ask(Request::Sync(Sync { member, protocol_type: None, protocol: None, assignments }))
    }

    fn commit(&mut self, member: &str, generation: i32, offset: i64) -> u64 {
        let at_ms = self.now().wall_ms;
        let value = Committed { offset, leader_epoch: -1, metadata: String::new(), at_ms, topic_id: None };
        let offsets = vec![("t".to_owned(), 0, value)];
        self.ask(Request::Commit(Commit { member: membership(member, generation), offsets }))
    }

    fn committed(&self) -> Option<i64> {
        self.coordinator.offsets(GROUP)?.get(&("t".to_owned(), 0)).map(|value| value.offset)
    }

    fn state(&self) -> Option<GroupState> {
        self.coordinator.describe(GROUP).map(|view| view.state)
    }

    /// One member, its generation begun and its assignment known.
    fn alone(&mut self, name: &str) -> i32 {
        let waiter = self.join(join(name));
        let generation = self.joined(waiter).generation;
        let waiter = self.sync(name, generation, &[(name, "all")]);
        assert_eq!(self.synced(waiter).assignment, "all");
        generation
    }
}

fn membership(member: &str, generation: i32) -> Membership {
    Membership { group: GROUP.to_owned(), generation, member_id: member.to_owned(), instance: None }
}

/// A first join of an old client: it gets `name` as its id at once.
fn join(name: &str) -> Join {
    Join {
        group: GROUP.to_owned(),
        member_id: String::new(),
        new_member_id: name.to_owned(),
        instance: None,
        client_id: "c".to_owned(),
        client_host: "/h".to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"m"))],
        needs_known_id: false,
        can_skip_assignment: true,
    }
}

fn rejoin(name: &str) -> Join {
    Join { member_id: name.to_owned(), ..join(name) }
}

#[test]
fn two_members_share_after_a_rebalance() {
    let mut sim = Sim::new();
    let first = sim.alone("a");
    let b = sim.join(join("b"));
    assert_eq!(sim.heartbeat("a", first), Some(ResponseError::RebalanceInProgress));
    assert!(!sim.answers.contains_key(&b), "b waits for a");
    let a = sim.join(rejoin("a"));
    let (a, b) = (sim.joined(a), sim.joined(b));
    assert_eq!((a.generation, b.generation), (first + 1, first + 1));
    assert_eq!((a.members.len(), b.members.len(), &*b.leader), (2, 0, "a"));
    let follower = sim.sync("b", b.generation, &[]);
    assert!(!sim.answers.contains_key(&follower), "the follower waits for the leader");
    let leader = sim.sync("a", a.generation, &[("a", "0"), ("b", "1")]);
    assert_eq!((sim.synced(leader).assignment, sim.synced(follower).assignment), ("0".into(), "1".into()));
    assert_eq!(sim.heartbeat("b", first), Some(ResponseError::IllegalGeneration));
    assert_eq!(sim.heartbeat("b", b.generation), None);
}

#[test]
fn a_member_that_is_silent_is_dead_and_its_share_goes_to_the_others() {
    let mut sim = Sim::new();
    sim.alone("a");
    let b = sim.join(join("b"));
    let a = sim.join(rejoin("a"));
    let generation = sim.joined(a).generation;
    sim.joined(b);
    sim.sync("a", generation, &[("a", "0"), ("b", "1")]);
    sim.sync("b", generation, &[]);
    sim.pass(6_000);
    assert_eq!(sim.heartbeat("a", generation), None);
    sim.pass(6_000);
    assert_eq!(sim.heartbeat("a", generation), Some(ResponseError::RebalanceInProgress), "b died");
    let a = sim.join(rejoin("a"));
    assert_eq!(sim.joined(a).members.len(), 1);
    assert_eq!(sim.heartbeat("b", generation), Some(ResponseError::UnknownMemberId));
}

#[test]
fn a_member_that_does_not_join_again_holds_the_others_up_only_so_long() {
    let mut sim = Sim::new();
    let generation = sim.alone("a");
    let b = sim.join(join("b"));
    for _ in 0..4 {
        sim.pass(7_000);
        // It lives, but does not join.
        assert_eq!(sim.heartbeat("a", generation), Some(ResponseError::RebalanceInProgress));
    }
    assert!(!sim.answers.contains_key(&b));
    sim.pass(2_001);
    assert_eq!(sim.joined(b).leader, "b");
}

#[test]
fn new_members_learn_their_id_first() {
    let mut sim = Sim::new();
    let waiter = sim.join(Join { needs_known_id: true, ..join("a") });
    let answer = sim.joined(waiter);
    assert_eq!((answer.error, &*answer.member_id), (Some(ResponseError::MemberIdRequired), "a"));
    let waiter = sim.join(Join { needs_known_id: true, ..rejoin("a") });
    assert_eq!(sim.joined(waiter).error, None);
    let waiter = sim.join(Join { needs_known_id: true, ..rejoin("stranger") });
    assert_eq!(sim.joined(waiter).error, Some(ResponseError::UnknownMemberId));
}

#[test]
fn joins_that_cannot_be_are_refused() {
    let mut sim = Sim::new();
    sim.alone("a");
    let other_protocol = vec![("roundrobin".to_owned(), Bytes::new())];
    for (what, bad, error) in [
        ("no group", Join { group: String::new(), ..join("b") }, ResponseError::InvalidGroupId),
        ("session", Join { session_timeout_ms: 0, ..join("b") }, ResponseError::InvalidSessionTimeout),
        ("no protocol", Join { protocols: vec![], ..join("b") }, ResponseError::InconsistentGroupProtocol),
        ("protocol", Join { protocols: other_protocol, ..join("b") }, ResponseError::InconsistentGroupProtocol),
        ("type", Join { protocol_type: "connect".into(), ..join("b") }, ResponseError::InconsistentGroupProtocol),
        ("stranger", rejoin("b"), ResponseError::UnknownMemberId),
    ] {
        let waiter = sim.join(bad);
        assert_eq!(sim.joined(waiter).error, Some(error), "{what}");
    }
    assert_eq!(sim.state(), Some(GroupState::Stable), "none of them disturbed the group");
}

#[test]
fn a_static_member_comes_back_without_a_rebalance_and_fences_its_former_self() {
    let mut sim = Sim::new();
    let with = |name: &str| Join { instance: Some("i".to_owned()), ..join(name) };
    let waiter = sim.join(with("one"));
    let generation = sim.joined(waiter).generation;
    let waiter = sim.sync("one", generation, &[("one", "all")]);
    sim.synced(waiter);
    let waiter = sim.join(with("two"));
    let answer = sim.joined(waiter);
    assert_eq!((answer.error, answer.generation, answer.skip_assignment), (None, generation, true));
    let waiter = sim.sync("two", generation, &[]);
    assert_eq!(sim.synced(waiter).assignment, "all");
    let former = Membership { instance: Some("i".to_owned()), ..membership("one", generation) };
    let waiter = sim.ask(Request::Heartbeat(former));
    assert_eq!(sim.done(waiter), Some(ResponseError::FencedInstanceId));
}

#[test]
fn an_assignment_counts_when_it_is_durable() {
    let mut sim = Sim::new();
    let waiter = sim.join(join("a"));
    let generation = sim.joined(waiter).generation;
    sim.is_slow = true;
    let waiter = sim.sync("a", generation, &[("a", "all")]);
    assert!(!sim.answers.contains_key(&waiter));
    sim.finish_writes(false);
    assert_eq!(sim.synced(waiter).error, Some(ResponseError::CoordinatorNotAvailable));
    assert_eq!(sim.state(), Some(GroupState::PreparingRebalance), "the group shares anew");
}

#[test]
fn commits_count_when_they_are_durable() {
    let mut sim = Sim::new();
    let generation = sim.alone("a");
    sim.is_slow = true;
    let waiter = sim.commit("a", generation, 5);
    assert_eq!(sim.committed(), None);
    sim.finish_writes(true);
    assert_eq!((sim.done(waiter), sim.committed()), (None, Some(5)));
    let waiter = sim.commit("a", generation, 6);
    sim.finish_writes(false);
    assert_eq!((sim.done(waiter), sim.committed()), (Some(ResponseError::CoordinatorNotAvailable), Some(5)));
}

#[test]
fn commits_of_others_are_refused() {
    let mut sim = Sim::new();
    let waiter = sim.commit("ghost", 3, 1);
    assert_eq!(sim.done(waiter), Some(ResponseError::IllegalGeneration), "no such group");
    let waiter = sim.commit("", -1, 1);
    assert_eq!(sim.done(waiter), None, "a consumer that assigns itself");
    let generation = sim.alone("a");
    for (member, generation, error) in [
        ("", -1, Some(ResponseError::UnknownMemberId)),
        ("b", generation, Some(ResponseError::UnknownMemberId)),
        ("a", generation - 1, Some(ResponseError::IllegalGeneration)),
        ("a", generation, None),
    ] {
        let waiter = sim.commit(member, generation, 9);
        assert_eq!(sim.done(waiter), error);
    }
}

#[test]
fn groups_end_when_they_are_deleted_or_forgotten() {
    let mut sim = Sim::new();
    let generation = sim.alone("a");
    let waiter = sim.commit("a", generation, 9);
    assert_eq!(sim.done(waiter), None);
    let delete = || Request::Delete { group: GROUP.to_owned() };
    let waiter = sim.ask(delete());
    assert_eq!(sim.done(waiter), Some(ResponseError::NonEmptyGroup));
    let members = vec![Leaving { member_id: "a".to_owned(), instance: None }];
    sim.ask(Request::Leave { group: GROUP.to_owned(), members });
    assert_eq!(sim.state(), Some(GroupState::Empty));
    sim.pass(999_999);
    assert_eq!(sim.committed(), Some(9));
    sim.pass(2);
    assert_eq!(sim.state(), None, "its offsets have outlived it long enough");
    let waiter = sim.ask(delete());
    assert_eq!(sim.done(waiter), Some(ResponseError::GroupIdNotFound));
}

#[test]
fn what_was_written_brings_the_group_back() {
    let mut sim = Sim::new();
    let generation = sim.alone("a");
    let waiter = sim.commit("a", generation, 9);
    assert_eq!(sim.done(waiter), None);
    let mut again = Sim::new();
    again.ms = 500_000;
    for record in sim.log {
        let now = again.now();
        again.coordinator.load(record, now);
    }
    assert_eq!((again.state(), again.committed()), (Some(GroupState::Stable), Some(9)));
    assert_eq!(again.heartbeat("a", generation), None);
    let waiter = again.sync("a", generation, &[]);
    assert_eq!(again.synced(waiter).assignment, "all");
    again.pass(10_001);
    assert_eq!(again.state(), Some(GroupState::Empty), "a member that does not come back dies");
}

/// A client in the random test.
#[derive(Default)]
struct Player {
    id: String,
    generation: i32,
    join: Option<u64>,
    sync: Option<u64>,
    /// Generation and what it was assigned.
    owns: Option<(i32, String)>,
}

/// Members come, go, die and are slow, writes fail; in every generation every partition has one owner.
#[test]
fn in_every_generation_a_partition_has_one_owner_whatever_happens() {
    let first = seed_from_env("MAINSTEM_SEED", 1);
    let count = if std::env::var("MAINSTEM_SEED").is_ok() { 1 } else { 200 };
    let mut stable = 0;
    for seed in first..first + count {
        stable += chance(seed);
    }
    assert!(stable > count as usize, "only {stable} generations became stable in {count} runs: the test shows nothing");
}

fn chance(seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sim = Sim::new();
    sim.is_slow = true;
    let mut players: Vec<Player> = Vec::new();
    let mut owners: BTreeMap<(i32, u8), String> = BTreeMap::new();
    let mut stable = BTreeMap::new();
    for step in 0..400 {
        let who = rng.random_range(0..players.len().max(1));
        match rng.random_range(0..100) {
            0..8 if players.len() < 6 => {
                let mut player = Player { id: format!("m{step}"), ..Default::default() };
                player.join = Some(sim.join(join(&player.id)));
                players.push(player);
            }
            8..11 if who < players.len() => drop(players.remove(who)), // dies without a word
            11..14 if who < players.len() => {
                let player = players.remove(who);
                let members = vec![Leaving { member_id: player.id, instance: None }];
                sim.ask(Request::Leave { group: GROUP.to_owned(), members });
            }
            14..50 => {
                let is_durable = rng.random_range(0..20) > 0;
                sim.finish_writes(is_durable);
            }
            50..60 => sim.pass(rng.random_range(0..4_000)),
            _ if who < players.len() => play(&mut sim, players.get_mut(who).expect("there"), seed),
            _ => {}
        }
        for player in &players {
            let Some((generation, share)) = &player.owns else { continue };
            stable.insert(*generation, ());
            for partition in share.bytes() {
                let owner = owners.entry((*generation, partition)).or_insert_with(|| player.id.clone());
                assert_eq!(owner, &player.id, "seed {seed} (MAINSTEM_SEED), step {step}, generation {generation}");
            }
        }
    }
    // Nobody waits for ever: everyone dies, time passes, all is answered.
    sim.is_slow = false;
    sim.finish_writes(true);
    for _ in 0..10 {
        sim.pass(60_000);
    }
    let unanswered: Vec<_> = (1..=sim.next).filter(|waiter| !sim.answered.contains(waiter)).collect();
    assert!(unanswered.is_empty(), "seed {seed} (MAINSTEM_SEED): {unanswered:?} were never answered");
    assert_eq!(sim.state().unwrap_or(GroupState::Empty), GroupState::Empty, "seed {seed} (MAINSTEM_SEED)");
    stable.len()
}

/// A client does its next step.
fn play(sim: &mut Sim, player: &mut Player, seed: u64) {
    if let Some(waiter) = player.join {
        if !sim.answers.contains_key(&waiter) {
            return;
        }
        let answer = sim.joined(waiter);
        player.join = None;
        if answer.error.is_some() {
            return again(sim, player, answer.error);
        }
        player.generation = answer.generation;
        let mut shares: Vec<_> = answer.members.iter().map(|member| (member.id.clone(), String::new())).collect();
        if !shares.is_empty() {
            // More than there can be members, the dead that nobody has noticed yet included.
            for partition in 0..24u8 {
                let to = usize::from(partition) % shares.len();
                shares[to].1.push(char::from(b'a' + partition));
            }
        }
        let shares: Vec<_> = shares.iter().map(|(id, share)| (id.as_str(), share.as_str())).collect();
        player.sync = Some(sim.sync(&player.id, answer.generation, &shares));
    } else if let Some(waiter) = player.sync {
        if !sim.answers.contains_key(&waiter) {
            return;
        }
        let answer = sim.synced(waiter);
        player.sync = None;
        if answer.error.is_some() {
            return again(sim, player, answer.error);
        }
        let share = String::from_utf8(answer.assignment.to_vec()).expect("letters");
        assert!(!share.is_empty(), "seed {seed} (MAINSTEM_SEED): a member has no share");
        player.owns = Some((player.generation, share));
    } else {
        match sim.heartbeat(&player.id, player.generation) {
            None => {}
            error => again(sim, player, error),
        }
    }
}

fn again(sim: &mut Sim, player: &mut Player, error: Option<ResponseError>) {
    player.owns = None;
    if matches!(error, Some(ResponseError::UnknownMemberId)) {
        player.id.push('x');
        player.join = Some(sim.join(join(&player.id)));
    } else {
        player.join = Some(sim.join(rejoin(&player.id)));
    }
}
