//! The proposer's path: WAL arrives from the primary, goes to three acceptors, and is committed by their answers.

use pgformat::{Lsn, Tli};
use proto::consensus::{
    AcceptorGreeting, AcceptorMessage, AppendResponse, HotStandbyFeedback, TermHistory, TermLsn, VoteResponse,
};
use proto::id::{Generation, NodeId, SystemId, Term};
use walproposer_shim::core::{Effect, Input, PeerId, Phase, Proposer, ProposerConfig};

use super::{Load, acceptor, wal};

const PEERS: usize = 3;
/// Bytes of one record with its padding.
const RECORD: u64 = 104;
/// Time stands still: nothing here waits for it.
const NOW: u64 = 0;

struct Rig {
    proposer: Proposer,
    effects: Vec<Effect>,
    /// Appends that the acceptors got.
    appends: Vec<(PeerId, Lsn)>,
    committed: Option<Lsn>,
}

impl Rig {
    /// A proposer of term 1 over three equal, empty logs.
    fn elected() -> Rig {
        let config = ProposerConfig {
            ttid: acceptor::ttid(),
            mconf: acceptor::member_conf(),
            addresses: PEERS,
            pg_version_num: 150_004,
            system_id: SystemId(7_000_000_001),
            seg_size: wal::seg_size(),
            tli: Tli(1),
            min_term: Term::ZERO,
            start_lsn: None,
            heartbeat_ms: ProposerConfig::HEARTBEAT_MS,
            commit_lag_ms: ProposerConfig::COMMIT_LAG_MS,
            silence_ms: ProposerConfig::SILENCE_MS,
            reconnect_ms: ProposerConfig::RECONNECT_MS,
            window: ProposerConfig::WINDOW,
        };
        let proposer = Proposer::new(config).expect("enough addresses");
        let mut rig = Rig { proposer, effects: Vec::new(), appends: Vec::new(), committed: None };
        rig.step(Input::Tick);
        for peer in peers() {
            rig.step(Input::Connected { peer });
            let (node_id, mconf) = (NodeId(peer.0 as u64 + 1), acceptor::member_conf());
            rig.hear(peer, AcceptorMessage::Greeting(AcceptorGreeting { node_id, mconf, term: Term::ZERO }));
        }
        rig.step(Input::Campaign);
        let start = Some(wal::start());
        let history = TermHistory::new(vec![TermLsn { term: Term::ZERO, lsn: wal::start() }]).expect("valid");
        for peer in peers() {
            let vote = VoteResponse {
                generation: Generation(1),
                term: rig.proposer.term(),
                vote_given: true,
                flush_lsn: start,
                truncate_lsn: start,
                history: history.clone(),
            };
            rig.hear(peer, AcceptorMessage::VoteResponse(vote));
        }
        rig.step(Input::SendElected);
        assert_eq!(rig.proposer.phase(), Phase::Elected);
        rig
    }

    fn hear(&mut self, peer: PeerId, message: AcceptorMessage) {
        self.step(Input::Message { peer, message });
    }

    fn step(&mut self, input: Input) {
        self.proposer.step(NOW, input, &mut self.effects);
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Append { peer, head } => self.appends.push((peer, head.end_lsn)),
                Effect::Committed { commit_lsn } => self.committed = Some(commit_lsn),
                Effect::Close { .. } | Effect::Fatal(_) | Effect::Deposed { .. } => {
                    panic!("not part of this path: {effect:?}")
                }
                _ => {}
            }
        }
    }

    fn commit(&mut self, end: Lsn) {
        self.step(Input::WalAvailable { end });
        assert!(self.appends.len() == PEERS, "not every acceptor was sent the record");
        while let Some((peer, end)) = self.appends.pop() {
            self.step(Input::Written { peer, end });
        }
        for peer in peers() {
            let reply = AppendResponse {
                generation: Generation(1),
                term: Term(1),
                flush_lsn: Some(end),
                commit_lsn: Some(wal::start()),
                hs_feedback: HotStandbyFeedback::default(),
                pageserver_feedback: None,
            };
            self.hear(peer, AcceptorMessage::Append(reply));
        }
        assert!(self.committed == Some(end), "the record was not committed");
    }
}

fn peers() -> impl Iterator<Item = PeerId> {
    (0..PEERS).map(PeerId)
}

pub(super) fn commit(_: usize) -> Load {
    let mut rig = Rig::elected();
    let mut end = wal::start();
    Box::new(move || {
        end = end.add(RECORD);
        rig.commit(end);
    })
}
