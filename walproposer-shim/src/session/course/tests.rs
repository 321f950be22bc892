//! Sessions with one safekeeper, action by action: what is done, what is told, and where WAL comes from.

use pgformat::{SegSize, Tli};
use proto::consensus::{
    AcceptorGreeting, AcceptorMessage, AppendResponse, HotStandbyFeedback, Member, MemberConf, TermHistory, TermLsn,
    VoteResponse,
};
use proto::id::{Generation, SystemId, TenantId, TenantTimelineId, TimelineId};

use super::*;
use crate::core::ProposerConfig;

const PEER: PeerId = PeerId(0);
const START: Lsn = Lsn::new(3 << 20);
const CHUNK: usize = 100;

fn at(lsn: u64) -> Option<Lsn> {
    Some(Lsn::new(lsn))
}

/// One safekeeper is the quorum.
struct Rig {
    course: SessionCourse,
    ring: Ring,
    mconf: MemberConf,
}

impl Rig {
    fn new() -> Rig {
        let member = Member { id: NodeId(1), host: String::new(), pg_port: 0 };
        let mconf = MemberConf::new(Generation::FIRST, vec![member], Vec::new()).expect("valid");
        let config = ProposerConfig {
            ttid: TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16])),
            mconf: mconf.clone(),
            addresses: 1,
            pg_version_num: 150_004,
            system_id: SystemId(7),
            seg_size: SegSize::new(1 << 20).expect("valid"),
            tli: Tli(1),
            min_term: Term::ZERO,
            start_lsn: None,
            heartbeat_ms: ProposerConfig::HEARTBEAT_MS,
            commit_lag_ms: ProposerConfig::COMMIT_LAG_MS,
            silence_ms: ProposerConfig::SILENCE_MS,
            reconnect_ms: ProposerConfig::RECONNECT_MS,
            window: ProposerConfig::WINDOW,
        };
        let course = SessionCourse::new(Proposer::new(config).expect("enough addresses"), false);
        let mut rig = Rig { course, ring: Ring::new(START, 2 * CHUNK), mconf };
        rig.course.step(0, Input::Tick);
        assert_eq!(rig.actions(), [SessionAction::Dial { peer: PEER, session: 1 }]);
        rig
    }

    /// Elected, announced, and WAL flows from [`START`] on.
    fn streaming() -> Rig {
        let mut rig = Rig::new();
        rig.course.step(0, Input::Connected { peer: PEER });
        let (node_id, mconf) = (NodeId(1), rig.mconf.clone());
        rig.hear(AcceptorMessage::Greeting(AcceptorGreeting { node_id, mconf, term: Term::ZERO }));
        rig.course.step(0, Input::Campaign);
        let history = TermHistory::new(vec![TermLsn { term: Term::ZERO, lsn: START }]).expect("valid");
        rig.hear(AcceptorMessage::VoteResponse(VoteResponse {
            generation: rig.mconf.generation,
            term: rig.course.core().term(),
            vote_given: true,
            flush_lsn: Some(START),
            truncate_lsn: Some(START),
            history,
        }));
        assert!(matches!(rig.actions().last(), Some(SessionAction::Prove { end: START, .. })));
        rig.course.announce(0, START);
        rig.actions();
        rig
    }

    fn actions(&mut self) -> Vec<SessionAction> {
        std::iter::from_fn(|| self.course.next_action()).collect()
    }

    fn hear(&mut self, message: AcceptorMessage) {
        self.course.step(0, Input::Message { peer: PEER, message });
    }

    fn ack(&mut self, term: Term, flush: Lsn) {
        self.hear(AcceptorMessage::Append(AppendResponse {
            generation: self.mconf.generation,
            term,
            flush_lsn: Some(flush),
            commit_lsn: None,
            hs_feedback: HotStandbyFeedback::default(),
            pageserver_feedback: None,
        }));
    }

    /// The primary sends a chunk.
    fn send(&mut self) {
        self.ring.push(self.ring.end(), Bytes::from(vec![7; CHUNK])).expect("contiguous");
        self.course.received(0, &self.ring);
    }

    fn settled(&mut self) -> Vec<SessionAction> {
        self.actions();
        self.course.settle(&self.ring);
        self.actions()
    }
}

#[test]
fn positions_never_fall_and_apply_never_passes_flush() {
    let none = ReportedPositions::default();
    assert_eq!(none.raise(None, at(50), true), none, "nothing is committed yet");
    let told = none.raise(at(100), at(50), true);
    assert_eq!((told.flush, told.apply), (at(100), at(50)));
    let told = told.raise(at(90), at(200), true);
    assert_eq!((told.flush, told.apply), (at(100), at(100)), "the pageserver caught up");
    assert_eq!(told.raise(at(100), at(10), true), told);
    assert_eq!(none.raise(at(7), None, false).apply, at(7), "without a pageserver applied is flushed");
}

#[test]
fn postgresql_is_told_once_what_is_committed() {
    let mut rig = Rig::streaming();
    rig.send();
    assert!(rig.settled().iter().all(|a| !matches!(a, SessionAction::Report(r) if r.flush > Some(START))));
    let end = rig.ring.end();
    rig.ack(rig.course.core().term(), end);
    let told = ReportedPositions { flush: Some(end), apply: Some(end) };
    assert_eq!(rig.settled(), [SessionAction::Report(told)]);
    assert_eq!(rig.settled(), []);
}

#[test]
fn after_a_higher_term_nothing_is_done_or_told() {
    let mut rig = Rig::streaming();
    rig.send();
    rig.settled();
    rig.ack(Term(rig.course.core().term().0 + 1), rig.ring.end());
    assert!(matches!(rig.actions()[..], [SessionAction::Deposed { .. }]));
    rig.course.step(99_999, Input::Tick);
    assert_eq!(rig.settled(), []);
}

#[test]
fn a_full_ring_lets_go_of_what_the_sockets_were_given_although_no_record_is_whole() {
    let mut rig = Rig::streaming();
    rig.send();
    rig.course.step(0, Input::Written { peer: PEER, end: rig.ring.end() });
    assert!(rig.settled().iter().all(|a| !matches!(a, SessionAction::Release { .. })), "there is room");
    rig.send();
    let given = START.add(CHUNK as u64);
    assert!(rig.settled().contains(&SessionAction::Release { to: given }), "not what no socket has");
}

#[test]
fn wal_comes_from_the_ring_or_in_this_session_from_the_primary() {
    let mut rig = Rig::streaming();
    rig.send();
    let head = rig.actions().into_iter().find_map(|action| match action {
        SessionAction::Append { head, .. } => Some(head),
        _ => None,
    });
    let mut head = head.expect("it is handed out");
    let source = |rig: &Rig, head: &AppendRequest| rig.course.source_of(head, Some(&rig.ring), |_| Some(0));
    assert_eq!(source(&rig, &head), WalSource::Memory(vec![Bytes::from(vec![7; CHUNK])]));
    assert_eq!(rig.course.source_of(&head, None, |_| Some(0)), WalSource::Primary, "nobody else has it");
    rig.ack(rig.course.core().term(), head.end_lsn);
    assert_eq!(rig.course.source_of(&head, None, |_| Some(0)), WalSource::Donor(PEER));
    assert_eq!(rig.course.source_of(&head, None, |_| None), WalSource::Primary, "no donor is trusted");
    head.begin_lsn = Lsn::new(START.get() - 8);
    assert_eq!(source(&rig, &head), WalSource::Donor(PEER), "the primary did not send it in this session");
    assert_eq!(rig.course.source_of(&head, None, |_| None), WalSource::Nowhere);
}

#[test]
fn what_happened_in_an_earlier_session_is_known_by_its_number() {
    let mut rig = Rig::new();
    assert!(rig.course.is_current(PEER, 1));
    rig.course.gave_up(0, PEER);
    assert!(!rig.course.is_current(PEER, 1));
    rig.course.step(ProposerConfig::RECONNECT_MS, Input::Tick);
    let dialled = rig.actions();
    let [SessionAction::Dial { session, .. }] = dialled[..] else { panic!("dialled again: {dialled:?}") };
    assert!(rig.course.is_current(PEER, session) && session > 1);
}
