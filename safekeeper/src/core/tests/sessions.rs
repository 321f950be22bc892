//! Who may talk to a timeline: identity, epochs, generations, order of messages.

use super::*;

fn refused(change: impl FnOnce(&mut ProposerGreeting)) -> Option<Refusal> {
    let mut rig = Rig::new();
    let conn = rig.open_conn(Some(PrimaryEpoch::FIRST));
    let mut message = greeting();
    change(&mut message);
    rig.say(conn, ProposerMessage::Greeting(message));
    assert!(rig.io.is_empty() || rig.closed.is_empty(), "a refusal changes nothing");
    rig.last_refusal().cloned()
}

#[test]
fn greetings_of_other_logs_are_refused() {
    assert_eq!(refused(|_| {}), None);
    assert_eq!(refused(|g| g.system_id = SystemId(0)), None, "unknown is not different");
    assert_eq!(refused(|g| g.pg_version_num = 150_099), None, "another minor");
    let other = TenantTimelineId::new(TenantId::new([9; 16]), TimelineId::new([2; 16]));
    assert!(matches!(refused(|g| g.ttid = other), Some(Refusal::WrongTimeline { .. })));
    assert!(matches!(refused(|g| g.system_id = SystemId(5)), Some(Refusal::WrongSystem { .. })));
    assert!(matches!(refused(|g| g.pg_version_num = 160_001), Some(Refusal::WrongVersion { .. })));
    assert!(matches!(refused(|g| g.seg_size = SegSize::DEFAULT), Some(Refusal::WrongSegSize { .. })));
}

#[test]
fn the_system_id_is_set_once() {
    let state = ControlState::implicit(ttid(), SystemId(0), 0, seg());
    let mut rig = Rig::of(state, None);
    let conn = rig.open_conn(None);
    let mut message = greeting();
    message.mconf = MemberConf::none();
    rig.say(conn, ProposerMessage::Greeting(message));
    assert!(rig.sent.is_empty(), "not before it is durable");
    rig.complete();
    assert_eq!((rig.disk.system_id, rig.disk.pg_version_num), (SYSTEM, VERSION));
}

#[test]
fn an_implicit_log_begins_with_its_first_election() {
    let mut rig = Rig::of(ControlState::implicit(ttid(), SYSTEM, VERSION, seg()), None);
    let conn = rig.open_conn(None);
    let mut message = greeting();
    message.mconf = MemberConf::none();
    rig.say(conn, ProposerMessage::Greeting(message));
    let none = Generation::NONE;
    rig.say(conn, ProposerMessage::VoteRequest(VoteRequest { generation: none, term: Term(1) }));
    rig.complete();
    let Some((_, AcceptorMessage::VoteResponse(vote))) = rig.sent.last() else { panic!("{:?}", rig.sent) };
    assert!(vote.vote_given && vote.flush_lsn.is_none() && vote.history == TermHistory::empty());
    let history = history(&[(1, start())]);
    let elected = ProposerElected { generation: none, term: Term(1), start_streaming_at: start(), history };
    rig.say(conn, ProposerMessage::Elected(elected));
    rig.complete();
    assert_eq!(rig.disk.timeline_start_lsn, Some(start()));
    assert_eq!((rig.disk.commit_lsn, rig.disk.local_start_lsn), (Some(start()), Some(start())));
}

#[test]
fn a_vanilla_timeline_needs_the_epoch_and_fences_lower_ones() {
    let mut rig = Rig::new();
    rig.open_conn(None);
    assert_eq!(rig.last_refusal(), Some(&Refusal::EpochMissing));
    let old = rig.connect();
    let new = rig.open_conn(Some(PrimaryEpoch(2)));
    rig.say(new, ProposerMessage::Greeting(greeting()));
    assert!(rig.vote(new, 1).is_some_and(|v| v.vote_given));
    assert_eq!(rig.disk.primary_epoch, PrimaryEpoch(2), "stored with the vote");
    assert!(rig.vote(old, 9).is_none(), "a higher term does not help an older epoch");
    let stale = Refusal::EpochStale { here: PrimaryEpoch(2), asked: PrimaryEpoch(1) };
    assert_eq!(rig.last_refusal(), Some(&stale));
    assert_eq!(rig.disk.term, Term(1));
    rig.open_conn(Some(PrimaryEpoch(1)));
    assert_eq!(rig.last_refusal(), Some(&stale), "refused at the door");
}

#[test]
fn generations_must_be_equal_and_newer_ones_are_learnt_in_the_greeting() {
    let mut rig = Rig::new();
    let conn = rig.connect();
    rig.say(conn, ProposerMessage::VoteRequest(VoteRequest { generation: Generation(2), term: Term(1) }));
    assert!(matches!(rig.last_refusal(), Some(Refusal::WrongGeneration { .. })));
    let conn = rig.open_conn(Some(PrimaryEpoch::FIRST));
    let mut message = greeting();
    message.mconf = mconf(2);
    rig.say(conn, ProposerMessage::Greeting(message));
    rig.complete();
    assert_eq!(rig.disk.mconf.generation, Generation(2));
    let conn = rig.open_conn(Some(PrimaryEpoch::FIRST));
    let mut message = greeting();
    message.mconf = mconf(3);
    message.mconf.members.remove(0);
    rig.say(conn, ProposerMessage::Greeting(message));
    assert!(matches!(rig.last_refusal(), Some(Refusal::NotAMember { .. })));
}

#[test]
fn version_2_exists_at_generation_0_only() {
    let mut rig = Rig::new();
    let conn = ConnId(99);
    let epoch = Some(PrimaryEpoch::FIRST);
    rig.step(Input::Connected { conn, version: ProtoVersion::V2, primary_epoch: epoch });
    let mut message = greeting();
    message.mconf = MemberConf::none();
    rig.say(conn, ProposerMessage::Greeting(message));
    assert!(matches!(rig.last_refusal(), Some(Refusal::WrongGeneration { .. })));
}

#[test]
fn the_first_message_is_a_greeting_and_the_only_one() {
    let mut rig = Rig::new();
    let conn = rig.open_conn(Some(PrimaryEpoch::FIRST));
    assert!(rig.vote(conn, 1).is_none());
    assert!(matches!(rig.last_refusal(), Some(Refusal::OutOfOrder(_))));
    let conn = rig.connect();
    rig.say(conn, ProposerMessage::Greeting(greeting()));
    assert!(matches!(rig.last_refusal(), Some(Refusal::OutOfOrder(_))));
}
