//! Scenarios for the proposer: three scripted acceptors, every effect in view.

use pgformat::{Lsn, SegSize, Tli};
use proto::consensus::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, HotStandbyFeedback, Member, MemberConf,
    ProposerMessage, TermHistory, TermLsn, VoteResponse,
};
use proto::feedback::PageserverFeedback;
use proto::id::{Generation, NodeId, SystemId, TenantId, TenantTimelineId, Term, TimelineId};

use super::*;

mod refused;

const START: u64 = 3 << 20;

fn lsn(above: u64) -> Lsn {
    Lsn::new(START + above)
}

fn members(ids: &[u64]) -> Vec<Member> {
    ids.iter().map(|id| Member { id: NodeId(*id), host: String::new(), pg_port: 0 }).collect()
}

fn conf(old: &[u64], new: &[u64]) -> MemberConf {
    MemberConf::new(Generation(1), members(old), members(new)).expect("valid")
}

fn history(entries: &[(u64, u64)]) -> TermHistory {
    let entry = |(term, at): &(u64, u64)| TermLsn { term: Term(*term), lsn: lsn(*at) };
    TermHistory::new(entries.iter().map(entry).collect()).expect("valid")
}

fn config(mconf: MemberConf, addresses: usize) -> ProposerConfig {
    ProposerConfig {
        ttid: TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16])),
        mconf,
        addresses,
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
        window: 300_000,
    }
}

struct Rig {
    proposer: Proposer,
    now: u64,
    mconf: MemberConf,
    effects: Vec<Effect>,
}

impl Rig {
    fn new(mconf: MemberConf, addresses: usize) -> Rig {
        let proposer = Proposer::new(config(mconf.clone(), addresses)).expect("enough addresses");
        let mut rig = Rig { proposer, now: 0, mconf, effects: Vec::new() };
        rig.step(Input::Tick);
        rig
    }

    fn three() -> Rig {
        Rig::new(conf(&[1, 2, 3], &[]), 3)
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.proposer.step(self.now, input, &mut out);
        self.effects.extend(out.iter().cloned());
        out
    }

    fn hear(&mut self, peer: usize, message: AcceptorMessage) -> Vec<Effect> {
        self.step(Input::Message { peer: PeerId(peer), message })
    }

    fn greet(&mut self, peer: usize, node: u64, term: u64) -> Vec<Effect> {
        self.step(Input::Connected { peer: PeerId(peer) });
        let greeting = AcceptorGreeting { node_id: NodeId(node), mconf: self.mconf.clone(), term: Term(term) };
        self.hear(peer, AcceptorMessage::Greeting(greeting))
    }

    fn vote(&mut self, peer: usize, given: bool, flush: u64, entries: &[(u64, u64)]) -> Vec<Effect> {
        let response = VoteResponse {
            generation: self.mconf.generation,
            term: self.proposer.term(),
            vote_given: given,
            flush_lsn: Some(lsn(flush)),
            truncate_lsn: Some(lsn(0)),
            history: history(entries),
        };
        self.hear(peer, AcceptorMessage::VoteResponse(response))
    }

    fn ack(&mut self, peer: usize, flush: u64) -> Vec<Effect> {
        let term = self.proposer.term();
        self.hear(peer, response(self.mconf.generation, term, Some(lsn(flush))))
    }

    /// An acknowledgement with what standbys need; 0: none.
    fn ack_standbys(&mut self, peer: usize, xmin: u64) {
        let term = self.proposer.term();
        let mut answer = response(self.mconf.generation, term, Some(lsn(0)));
        if let AcceptorMessage::Append(append) = &mut answer {
            append.hs_feedback = HotStandbyFeedback::of_standby(1, xmin, 0);
        }
        self.hear(peer, answer);
    }

    fn standbys(&self) -> Option<u64> {
        self.proposer.standbys(self.now).map(|s| s.xmin)
    }

    /// Three nodes with equal, empty logs; elected and announced.
    fn elected() -> Rig {
        let mut rig = Rig::three();
        for peer in 0..3 {
            rig.greet(peer, peer as u64 + 1, 0);
        }
        rig.step(Input::Campaign);
        for peer in 0..3 {
            rig.vote(peer, true, 0, &[(0, 0)]);
        }
        rig.step(Input::SendElected);
        rig.effects.clear();
        rig
    }

    fn fatal(&self) -> Option<&Fatal> {
        self.effects.iter().find_map(|e| match e {
            Effect::Fatal(reason) => Some(reason),
            _ => None,
        })
    }
}

fn response(generation: Generation, term: Term, flush_lsn: Option<Lsn>) -> AcceptorMessage {
    AcceptorMessage::Append(AppendResponse {
        generation,
        term,
        flush_lsn,
        commit_lsn: None,
        hs_feedback: HotStandbyFeedback::default(),
        pageserver_feedback: None,
    })
}

fn appends(effects: &[Effect]) -> Vec<(usize, u64, u64)> {
    let of = |e: &Effect| match e {
        Effect::Append { peer, head: AppendRequest { begin_lsn, end_lsn, .. } } => {
            Some((peer.0, begin_lsn.get() - START, end_lsn.get() - START))
        }
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn heartbeats(effects: &[Effect]) -> Vec<(usize, Option<Lsn>)> {
    let of = |e: &Effect| match e {
        Effect::Send { peer, message: ProposerMessage::Append(m) } => Some((peer.0, m.commit_lsn)),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn announced(effects: &[Effect]) -> Vec<(usize, u64)> {
    let of = |e: &Effect| match e {
        Effect::Send { peer, message: ProposerMessage::Elected(m) } => {
            Some((peer.0, m.start_streaming_at.get() - START))
        }
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

#[test]
fn the_campaign_waits_for_a_quorum_and_for_the_proof_and_takes_a_higher_term() {
    let mut rig = Rig::three();
    assert_eq!(rig.effects.len(), 3, "every address is dialled");
    assert!(!rig.greet(0, 1, 4).iter().any(|e| matches!(e, Effect::ReadyToCampaign { .. })));
    let ready = rig.greet(1, 2, 9);
    assert!(matches!(&ready[..], [Effect::ReadyToCampaign { greeted }] if greeted.len() == 2));
    assert_eq!(rig.proposer.phase(), Phase::Ready);
    let asked = rig.step(Input::Campaign);
    assert_eq!((asked.len(), rig.proposer.term()), (2, Term(10)));
    let late = rig.greet(2, 3, 1);
    assert!(matches!(&late[..], [Effect::Send { message: ProposerMessage::VoteRequest(v), .. }] if v.term == Term(10)));
}

#[test]
fn the_donor_is_the_voter_with_the_latest_log_term_not_the_longest_log() {
    let mut rig = Rig::three();
    rig.greet(0, 1, 3);
    rig.greet(1, 2, 3);
    rig.step(Input::Campaign);
    rig.vote(0, true, 900, &[(0, 0), (1, 0)]);
    let won = rig.vote(1, true, 500, &[(0, 0), (1, 0), (3, 400)]);
    let [Effect::WonElection { term, donor, donor_node, end, history: elected }] = &won[..] else { panic!("{won:?}") };
    assert_eq!((*term, *donor, *donor_node, *end), (Term(4), PeerId(1), NodeId(2), lsn(500)));
    assert_eq!(elected, &history(&[(0, 0), (1, 0), (3, 400), (4, 500)]));
    assert_eq!(rig.proposer.reportable(), None);
    let sent = rig.step(Input::SendElected);
    assert_eq!(announced(&sent), [(0, 400), (1, 500)], "the longer log is cut where the later term began");
    assert_eq!(appends(&sent), [(0, 400, 500)], "and fed from the donor");
    assert_eq!(rig.proposer.donor_for(lsn(500), |_| Some(0)), Some(PeerId(1)));
}

#[test]
fn commit_is_what_a_quorum_has_and_starts_at_the_own_term() {
    let mut rig = Rig::elected();
    let out = rig.step(Input::WalAvailable { end: lsn(1_000) });
    assert_eq!(appends(&out), [(0, 0, 1_000), (1, 0, 1_000), (2, 0, 1_000)]);
    assert!(rig.ack(0, 1_000).iter().all(|e| !matches!(e, Effect::Committed { .. })));
    let out = rig.ack(1, 640);
    assert!(out.contains(&Effect::Committed { commit_lsn: lsn(640) }));
    assert_eq!(heartbeats(&out), [(0, Some(lsn(640))), (1, Some(lsn(640))), (2, Some(lsn(640)))], "told at once");
    assert_eq!(rig.proposer.reportable(), Some(lsn(640)));
    let out = rig.ack(2, 1_000);
    assert!(out.contains(&Effect::Committed { commit_lsn: lsn(1_000) }));
    assert!(rig.ack(1, 100).is_empty(), "nothing falls");
}

#[test]
fn only_who_feeds_a_pageserver_hears_of_a_commit_by_itself() {
    let mut rig = Rig::elected();
    rig.step(Input::WalAvailable { end: lsn(1_000) });
    rig.ack(0, 600);
    let told = |peer| (peer, Some(lsn(600)));
    assert_eq!(heartbeats(&rig.ack(1, 600)), [told(0), told(1), told(2)], "nobody is known to feed one");
    let fed = |at| PageserverFeedback { last_received_lsn: Some(lsn(at)), ..PageserverFeedback::default() };
    let with = |message, feedback| {
        let AcceptorMessage::Append(ack) = message else { panic!("an acknowledgement") };
        AcceptorMessage::Append(AppendResponse { pageserver_feedback: Some(feedback), ..ack })
    };
    let ack = |at| response(Generation(1), Term(1), Some(lsn(at)));
    rig.hear(2, with(ack(700), fed(600)));
    // The same position by way of the broker, later, says nothing about who feeds.
    rig.hear(0, with(ack(600), fed(600)));
    let told = |peer| (peer, Some(lsn(700)));
    assert_eq!(heartbeats(&rig.ack(1, 700)), [told(2)], "the others hear of it with the next append");
    assert_eq!(rig.proposer.next_timeout(), Some(20), "or a little later");
    let out = rig.step(Input::WalAvailable { end: lsn(1_100) });
    assert_eq!(appends(&out).len(), 3);
    assert!(rig.proposer.next_timeout() > Some(20), "it rode on that one");
    rig.ack(1, 900);
    assert_eq!(heartbeats(&rig.ack(2, 900)), [(2, Some(lsn(900)))]);
    rig.now = 20;
    assert_eq!(heartbeats(&rig.step(Input::Tick)), [(0, Some(lsn(900))), (1, Some(lsn(900)))]);
    rig.now = 1_010;
    rig.ack(1, 1_000);
    assert_eq!(heartbeats(&rig.ack(0, 1_000)).len(), 3, "it has not fed one for a while");
}

#[test]
fn all_are_told_when_all_have_answered_to_the_commit_position() {
    let mut rig = Rig::elected();
    rig.step(Input::WalAvailable { end: lsn(1_000) });
    rig.now = 5;
    rig.ack(0, 1_000);
    assert_eq!(heartbeats(&rig.ack(1, 1_000)).len(), 3);
    assert!(!rig.proposer.all_told(), "the messages are on their way");
    rig.now = 6;
    rig.ack(0, 1_000);
    rig.ack(1, 1_000);
    assert!(!rig.proposer.all_told(), "one has not answered");
    rig.step(Input::Disconnected { peer: PeerId(2) });
    assert!(rig.proposer.all_told(), "who has no session is told by the next one");
}

#[test]
fn acknowledgements_below_the_terms_start_do_not_commit() {
    let mut rig = Rig::three();
    for peer in 0..3 {
        rig.greet(peer, peer as u64 + 1, 1);
    }
    rig.step(Input::Campaign);
    rig.vote(0, true, 500, &[(0, 0), (1, 0)]);
    rig.vote(1, true, 100, &[(0, 0), (1, 0)]);
    rig.vote(2, true, 100, &[(0, 0), (1, 0)]);
    rig.step(Input::SendElected);
    rig.ack(1, 300);
    rig.ack(2, 300);
    assert_eq!(rig.proposer.commit_lsn(), None);
    rig.ack(0, 500);
    rig.ack(1, 500);
    assert_eq!(rig.proposer.commit_lsn(), Some(lsn(500)));
}

#[test]
fn what_is_reported_was_received_in_this_session() {
    let mut rig = Rig::elected();
    rig.step(Input::WalAvailable { end: lsn(100) });
    // Behind a switch record an acceptor is ahead of the bytes.
    for peer in 0..2 {
        rig.ack(peer, 1 << 20);
    }
    assert_eq!(rig.proposer.commit_lsn(), Some(lsn(1 << 20)));
    assert_eq!(rig.proposer.reportable(), Some(lsn(100)));
}

#[test]
fn an_acknowledgement_beyond_what_was_sent_is_a_broken_acceptor() {
    let mut rig = Rig::elected();
    rig.step(Input::WalAvailable { end: lsn(100) });
    let out = rig.ack(0, (1 << 20) + 8);
    assert!(matches!(&out[..], [Effect::Close { reason: CloseReason::AheadOfSent { .. }, .. }]));
}

#[test]
fn the_window_counts_bytes_at_the_socket_so_a_long_record_passes() {
    let mut rig = Rig::elected();
    let out = rig.step(Input::WalAvailable { end: lsn(2_000_000) });
    let mine: Vec<_> = appends(&out).into_iter().filter(|(p, ..)| *p == 0).collect();
    assert_eq!(mine.len(), 3, "{mine:?}");
    let end = mine[2].2;
    assert!(rig.step(Input::Written { peer: PeerId(0), end: lsn(0) }).is_empty());
    let more = rig.step(Input::Written { peer: PeerId(0), end: lsn(end) });
    assert_eq!(appends(&more).len(), 3, "without any acknowledgement");
    assert_eq!(rig.proposer.given(), Some(lsn(0)), "one of three is no quorum");
    rig.step(Input::Written { peer: PeerId(2), end: lsn(end - 8) });
    assert_eq!(rig.proposer.given(), Some(lsn(end - 8)), "without any acknowledgement");
    assert_eq!(
        rig.proposer.donor_for(lsn(end - 8), |_| Some(0)),
        None,
        "nobody acknowledged it: only the primary has it"
    );
    rig.step(Input::Disconnected { peer: PeerId(2) });
    assert_eq!(rig.proposer.given(), Some(lsn(0)), "who is away is given nothing");
}

#[test]
fn a_refused_vote_in_the_campaign_deposes_and_after_the_election_it_is_a_reconnect() {
    let mut rig = Rig::three();
    rig.greet(0, 1, 0);
    rig.greet(1, 2, 0);
    rig.step(Input::Campaign);
    let out = rig.vote(0, false, 0, &[(0, 0)]);
    assert_eq!(out, [Effect::Deposed { term: Term(1) }]);
    assert!(rig.vote(1, true, 0, &[(0, 0)]).is_empty(), "over is over");

    let mut rig = Rig::elected();
    rig.step(Input::WalAvailable { end: lsn(400) });
    rig.step(Input::Disconnected { peer: PeerId(2) });
    assert_eq!(rig.proposer.next_timeout(), Some(1_000));
    rig.now = 1_000;
    assert!(rig.step(Input::Tick).contains(&Effect::Dial { peer: PeerId(2) }));
    rig.greet(2, 3, 1);
    let out = rig.vote(2, false, 160, &[(0, 0), (1, 0)]);
    assert_eq!((announced(&out), appends(&out)), (vec![(2, 160)], vec![(2, 160, 400)]));
}

#[test]
fn a_lost_vote_is_remembered_when_its_session_is_lost() {
    let mut rig = Rig::three();
    rig.greet(0, 1, 0);
    rig.greet(1, 2, 0);
    rig.step(Input::Campaign);
    rig.vote(0, true, 0, &[(0, 0)]);
    rig.step(Input::Disconnected { peer: PeerId(0) });
    rig.now = 1_000;
    rig.step(Input::Tick);
    rig.greet(0, 1, 1);
    assert!(rig.vote(0, false, 0, &[(0, 0)]).is_empty());
    assert!(rig.vote(1, true, 0, &[(0, 0)]).iter().any(|e| matches!(e, Effect::WonElection { .. })));
}

#[test]
fn a_higher_term_anywhere_deposes() {
    let mut rig = Rig::elected();
    let out = rig.hear(0, response(Generation(1), Term(5), None));
    assert_eq!(out, [Effect::Deposed { term: Term(5) }]);
    assert_eq!((rig.proposer.phase(), rig.proposer.next_timeout()), (Phase::Over, None));
    assert_eq!(rig.proposer.reportable(), None, "a deposed proposer reports nothing");
    let mut rig = Rig::elected();
    rig.step(Input::Disconnected { peer: PeerId(1) });
    rig.now = 1_000;
    rig.step(Input::Tick);
    assert_eq!(rig.greet(1, 2, 9), [Effect::Deposed { term: Term(9) }]);
}

#[test]
fn joint_sets_need_both_majorities_for_election_and_commit() {
    let mut rig = Rig::new(conf(&[1, 2, 3], &[3, 4, 5]), 5);
    for peer in 0..3 {
        rig.greet(peer, peer as u64 + 1, 0);
    }
    assert_eq!(rig.proposer.phase(), Phase::Greeting, "one of the new set is not enough");
    rig.greet(3, 4, 0);
    rig.greet(4, 5, 0);
    rig.step(Input::Campaign);
    for peer in 0..3 {
        rig.vote(peer, true, 0, &[(0, 0)]);
    }
    assert_eq!(rig.proposer.phase(), Phase::Campaign);
    rig.vote(3, true, 0, &[(0, 0)]);
    rig.vote(4, true, 0, &[(0, 0)]);
    rig.step(Input::SendElected);
    rig.step(Input::WalAvailable { end: lsn(800) });
    for peer in 0..3 {
        rig.ack(peer, 800);
    }
    assert_eq!(rig.proposer.commit_lsn(), None);
    rig.ack(3, 480);
    assert_eq!(rig.proposer.commit_lsn(), Some(lsn(480)));
}

#[test]
fn address_lists_that_do_not_lead_to_the_members_are_refused_with_exit_code_6() {
    let too_few = Proposer::new(config(conf(&[1, 2, 3], &[]), 1)).expect_err("one of three");
    assert_eq!((too_few.exit_code(), too_few), (Some(6), Fatal::TooFew { given: 1, members: 3 }));
    assert!(Proposer::new(config(conf(&[1, 2, 3], &[4, 5, 6]), 1)).is_err());
    let mut rig = Rig::three();
    rig.greet(0, 8, 0);
    assert_eq!(rig.fatal(), Some(&Fatal::UnknownNode { peer: PeerId(0), node: NodeId(8) }));
    let mut rig = Rig::three();
    rig.greet(0, 2, 0);
    rig.greet(2, 2, 0);
    let twice = Fatal::DuplicateNode { first: PeerId(0), second: PeerId(2), node: NodeId(2) };
    assert_eq!(rig.fatal(), Some(&twice));
    assert_eq!(twice.exit_code(), Some(6));
}

#[test]
fn a_newer_configuration_ends_the_attempt_and_an_older_one_the_session() {
    let mut rig = Rig::three();
    rig.mconf.generation = Generation(2);
    rig.greet(0, 1, 0);
    assert!(matches!(rig.fatal(), Some(Fatal::GenerationMismatch { .. })));
    let mut rig = Rig::elected();
    let out = rig.hear(1, response(Generation(3), Term(1), Some(lsn(0))));
    assert!(matches!(&out[..], [Effect::Close { reason: CloseReason::WrongGeneration { .. }, .. }]));
}

#[test]
fn logs_that_cannot_be_are_corruption() {
    let mut rig = Rig::three();
    rig.greet(0, 1, 3);
    rig.greet(1, 2, 3);
    rig.step(Input::Campaign);
    rig.vote(0, true, 300, &[(0, 0), (2, 100)]);
    rig.vote(1, true, 300, &[(0, 0), (2, 200)]);
    assert!(matches!(rig.fatal(), Some(Fatal::ImpossibleLog { .. })));
    let mut rig = Rig::three();
    rig.greet(0, 1, 3);
    rig.greet(1, 2, 3);
    rig.greet(2, 3, 3);
    rig.step(Input::Campaign);
    rig.vote(0, true, 300, &[(0, 0), (2, 100)]);
    rig.vote(1, true, 300, &[(0, 0), (2, 100)]);
    rig.vote(2, true, 300, &[(1, 0)]);
    rig.step(Input::SendElected);
    assert_eq!(rig.fatal().and_then(Fatal::exit_code), Some(5), "no common point");
}

#[test]
fn heartbeats_and_the_silence_limit_are_timers() {
    let mut rig = Rig::elected();
    for peer in 0..3 {
        rig.ack(peer, 0);
    }
    assert_eq!(rig.proposer.next_timeout(), Some(1_000));
    for second in 1..=9 {
        rig.now = second * 1_000;
        assert_eq!(heartbeats(&rig.step(Input::Tick)).len(), 3);
        rig.ack(0, 0);
        rig.ack(1, 0);
    }
    rig.now = 10_000;
    let out = rig.step(Input::Tick);
    assert!(out.contains(&Effect::Close { peer: PeerId(2), reason: CloseReason::Silent(10_000) }), "{out:?}");
    assert_eq!(heartbeats(&out).len(), 2);
}

#[test]
fn nobody_is_silent_while_the_proof_takes_its_time() {
    let mut rig = Rig::three();
    rig.greet(0, 1, 0);
    rig.greet(1, 2, 0);
    rig.now = 60_000;
    assert!(!rig.step(Input::Tick).iter().any(|e| matches!(e, Effect::Close { peer: PeerId(0 | 1), .. })));
    rig.step(Input::Campaign);
    rig.vote(0, true, 0, &[(0, 0)]);
    rig.vote(1, true, 0, &[(0, 0)]);
    rig.now = 120_000;
    assert!(!rig.step(Input::Tick).iter().any(|e| matches!(e, Effect::Close { peer: PeerId(0 | 1), .. })));
    assert_eq!(announced(&rig.step(Input::SendElected)).len(), 2);
}

#[test]
fn the_peer_horizon_is_what_everybody_has() {
    let mut rig = Rig::elected();
    rig.step(Input::WalAvailable { end: lsn(1_000) });
    rig.ack(0, 1_000);
    rig.ack(1, 1_000);
    let told = |rig: &mut Rig| {
        rig.now += 1_000;
        let out = rig.step(Input::Tick);
        out.into_iter().find_map(|e| match e {
            Effect::Send { message: ProposerMessage::Append(m), .. } => m.truncate_lsn,
            _ => None,
        })
    };
    assert_eq!(told(&mut rig), Some(lsn(0)), "one has told nothing");
    rig.ack(2, 320);
    assert_eq!(told(&mut rig), Some(lsn(320)));
}

#[test]
fn generation_0_counts_addresses() {
    let mut cfg = config(MemberConf::none(), 3);
    cfg.start_lsn = Some(lsn(0));
    let proposer = Proposer::new(cfg).expect("three addresses");
    let mut rig = Rig { proposer, now: 0, mconf: MemberConf::none(), effects: Vec::new() };
    rig.step(Input::Tick);
    rig.greet(0, 71, 0);
    rig.greet(1, 72, 0);
    rig.step(Input::Campaign);
    let empty = |term| VoteResponse {
        generation: Generation::NONE,
        term,
        vote_given: true,
        flush_lsn: None,
        truncate_lsn: None,
        history: TermHistory::empty(),
    };
    rig.hear(0, AcceptorMessage::VoteResponse(empty(Term(1))));
    let won = rig.hear(1, AcceptorMessage::VoteResponse(empty(Term(1))));
    assert!(matches!(&won[..], [Effect::WonElection { end, .. }] if *end == lsn(0)), "{won:?}");
    assert_eq!(announced(&rig.step(Input::SendElected)), [(0, 0), (1, 0)]);
}

/// Goal: the oldest transaction of all standbys counts, none is let go while it may come back, and none is kept for
/// ever.
#[test]
fn standbys_count_until_they_had_time_to_come_back() {
    let mut rig = Rig::elected();
    rig.ack_standbys(0, 90);
    rig.ack_standbys(1, 0);
    assert_eq!(rig.standbys(), None, "the third may know an older one");
    rig.ack_standbys(2, 70);
    assert_eq!(rig.standbys(), Some(70));
    rig.now = 5_000;
    rig.ack_standbys(2, 80);
    rig.step(Input::Disconnected { peer: PeerId(2) });
    assert_eq!(rig.standbys(), Some(80), "its standbys may come back");
    rig.ack_standbys(0, 0);
    rig.now = 12_000;
    rig.ack_standbys(0, 0);
    assert_eq!(rig.standbys(), Some(80));
    rig.now = 15_000;
    assert_eq!(rig.standbys(), Some(0), "nobody came back");
}

#[test]
fn what_an_earlier_session_left_is_let_go_when_nobody_speaks_for_it() {
    let mut rig = Rig::elected();
    (0..3).for_each(|peer| rig.ack_standbys(peer, 0));
    rig.now = 9_000;
    assert_eq!(rig.standbys(), None);
    rig.now = 10_000;
    assert_eq!(rig.standbys(), Some(0));
}
