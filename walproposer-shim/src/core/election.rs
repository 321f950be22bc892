//! The election: greetings, the term, votes, the donor, the announcement.

use pgformat::Lsn;
use proto::consensus::{
    AcceptorGreeting, LogPosition, ProposerElected, ProposerMessage, TermHistory, TermLsn, VoteRequest, VoteResponse,
    divergence_point,
};
use proto::id::{Generation, NodeId, Term};

use super::effect::{CloseReason, Effect, Fatal, PeerId};
use super::peer::{Peer, Session, Stream, Vote};
use super::{Phase, Proposer};

impl Proposer {
    pub(super) fn on_greeting(
        &mut self,
        now: u64,
        peer: PeerId,
        greeting: &AcceptorGreeting,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let known = self.peers.get_mut(peer.0).ok_or(CloseReason::OutOfOrder("greeting"))?;
        if !matches!(known.session, Session::Greeting) {
            return Err(CloseReason::OutOfOrder("greeting"));
        }
        let node = greeting.node_id;
        if let Some(before) = known.node.filter(|before| *before != node) {
            return Err(CloseReason::NodeChanged { before, now: node });
        }
        let (ours, theirs) = (self.generation(), greeting.mconf.generation);
        if theirs < ours {
            return Err(CloseReason::WrongGeneration { theirs, ours });
        }
        self.check_term(greeting.term)?;
        if let Some(reason) = self.check_identity(peer, greeting) {
            self.fatal(reason, effects);
            return Ok(());
        }
        if let Some(known) = self.peers.get_mut(peer.0) {
            known.node = Some(node);
            known.fenced = false;
            known.term = greeting.term;
            known.session = Session::Greeted;
        }
        match self.phase {
            Phase::Greeting => self.check_ready(effects),
            Phase::Ready | Phase::Over => {}
            Phase::Campaign | Phase::Won | Phase::Elected => {
                if greeting.term > self.term {
                    self.deposed(greeting.term, effects);
                } else {
                    self.ask_for_vote(now, peer, effects);
                }
            }
        }
        Ok(())
    }

    /// One acceptor that claims an absurd term must not stop the others.
    pub(super) fn check_term(&self, theirs: Term) -> Result<(), CloseReason> {
        let ours = self.term.max(self.config.min_term);
        if theirs.may_follow(ours) { Ok(()) } else { Err(CloseReason::AbsurdTerm { theirs, ours }) }
    }

    /// The address list must lead to members, each once, at our generation.
    fn check_identity(&self, peer: PeerId, greeting: &AcceptorGreeting) -> Option<Fatal> {
        let (node, ours) = (greeting.node_id, self.generation());
        let theirs = greeting.mconf.generation;
        if theirs > ours {
            return Some(Fatal::GenerationMismatch { node, theirs, ours });
        }
        if node == NodeId(0) || (ours != Generation::NONE && !self.conf.contains(node)) {
            return Some(Fatal::UnknownNode { peer, node });
        }
        let twin = self.peers.iter().enumerate().find(|(i, p)| *i != peer.0 && p.node == Some(node));
        twin.map(|(i, _)| Fatal::DuplicateNode { first: PeerId(i.min(peer.0)), second: PeerId(i.max(peer.0)), node })
    }

    fn check_ready(&mut self, effects: &mut Vec<Effect>) {
        if self.is_quorum(Peer::has_greeted) {
            self.phase = Phase::Ready;
            let greeted = self.peers.iter().filter(|p| p.has_greeted());
            let greeted = greeted.filter_map(|p| p.node.map(|n| (n, p.term))).collect();
            effects.push(Effect::ReadyToCampaign { greeted });
        }
    }

    pub(super) fn on_campaign(&mut self, now: u64, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Ready {
            return;
        }
        let highest = self.peers.iter().map(|p| p.term).fold(self.config.min_term, Term::max);
        // A term is a count of elections: 2^64 of them do not happen, and an acceptor that claims so is not believed.
        let Some(term) = highest.0.checked_add(1) else {
            return self.deposed(highest, effects);
        };
        self.term = Term(term);
        self.phase = Phase::Campaign;
        for i in 0..self.peers.len() {
            if self.peers.get(i).is_some_and(|p| matches!(p.session, Session::Greeted)) {
                self.ask_for_vote(now, PeerId(i), effects);
            }
        }
    }

    fn ask_for_vote(&mut self, now: u64, peer: PeerId, effects: &mut Vec<Effect>) {
        let request = VoteRequest { generation: self.generation(), term: self.term };
        if let Some(known) = self.peers.get_mut(peer.0) {
            known.session = Session::Voting;
            known.last_heard = now;
            effects.push(Effect::Send { peer, message: ProposerMessage::VoteRequest(request) });
        }
    }

    pub(super) fn on_vote(
        &mut self,
        now: u64,
        peer: PeerId,
        response: VoteResponse,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let (term, ours, theirs) = (self.term, self.generation(), response.generation);
        self.check_term(response.term)?;
        let phase = self.phase;
        let known = self.peers.get_mut(peer.0).ok_or(CloseReason::OutOfOrder("vote"))?;
        if !matches!(known.session, Session::Voting) {
            return Err(CloseReason::OutOfOrder("vote"));
        }
        if theirs != ours {
            return Err(CloseReason::WrongGeneration { theirs, ours });
        }
        known.term = response.term;
        let granted = response.vote_given || known.vote.is_some();
        if response.term > term || (phase == Phase::Campaign && response.term == term && !granted) {
            self.deposed(response.term, effects);
            return Ok(());
        }
        if response.term < term {
            return Err(CloseReason::OutOfOrder("a vote of a lower term than asked for"));
        }
        if let Some(problem) = impossible(&response, term) {
            let node = known.node.unwrap_or(NodeId(0));
            self.fatal(Fatal::ImpossibleLog { node, problem }, effects);
            return Ok(());
        }
        let vote =
            Vote { flush_lsn: response.flush_lsn, truncate_lsn: response.truncate_lsn, history: response.history };
        if granted && phase == Phase::Campaign {
            known.vote = Some(vote.clone());
        }
        known.session = Session::Voted(vote);
        match phase {
            Phase::Campaign if self.is_quorum(|p| p.vote.is_some()) => self.elect(effects),
            Phase::Elected => self.announce(now, peer, effects),
            _ => {}
        }
        Ok(())
    }

    /// A quorum gave its votes: take over the log of the most advanced voter.
    fn elect(&mut self, effects: &mut Vec<Effect>) {
        let voters = self.peers.iter().enumerate().filter_map(|(i, p)| Some((PeerId(i), p.node?, p.vote.as_ref()?)));
        let best = voters.clone().max_by_key(|(peer, _, vote)| {
            let position = LogPosition::of(&vote.history, vote.flush_lsn);
            (position, std::cmp::Reverse(*peer))
        });
        let Some((donor, donor_node, vote)) = best else { return };
        let impossible = |node, problem: &str| Fatal::ImpossibleLog { node, problem: problem.to_owned() };
        let liar = voters.clone().find(|(_, _, v)| contradict(&v.history, &vote.history));
        let end = vote.flush_lsn.or(self.config.start_lsn);
        let entry = |end| TermLsn { term: self.term, lsn: end };
        let history = end.and_then(|end| vote.history.clone().with(entry(end)).ok());
        let reason = match (liar, end, history) {
            (Some((_, node, _)), _, _) => impossible(node, "it starts a term elsewhere than another safekeeper"),
            (_, None, _) => impossible(donor_node, "no safekeeper has a log, although the timeline exists"),
            (_, _, None) => impossible(donor_node, "its history runs ahead of its term"),
            (None, Some(end), Some(history)) => {
                let truncate = voters.filter_map(|(_, _, v)| v.truncate_lsn).max();
                self.truncate_lsn = truncate.map(|t| t.min(end));
                self.term_start = Some(end);
                self.history = history.clone();
                self.donor = Some(donor);
                self.phase = Phase::Won;
                effects.push(Effect::WonElection { term: self.term, donor, donor_node, end, history });
                return;
            }
        };
        self.fatal(reason, effects);
    }

    pub(super) fn on_send_elected(&mut self, now: u64, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Won {
            return;
        }
        self.phase = Phase::Elected;
        self.announced_at = Some(now);
        for i in 0..self.peers.len() {
            if self.phase == Phase::Elected {
                self.announce(now, PeerId(i), effects);
            }
        }
    }

    /// Tells one acceptor the elected log and where its own parts from it; WAL follows from there.
    fn announce(&mut self, now: u64, peer: PeerId, effects: &mut Vec<Effect>) {
        let Some(known) = self.peers.get(peer.0) else { return };
        let Session::Voted(vote) = &known.session else { return };
        let Some(start) = self.divergence(vote) else {
            let node = known.node.unwrap_or(NodeId(0));
            return self.fatal(Fatal::NoCommonPoint { node, term: self.term }, effects);
        };
        let elected = ProposerElected {
            generation: self.generation(),
            term: self.term,
            start_streaming_at: start,
            history: self.history.clone(),
        };
        if let Some(known) = self.peers.get_mut(peer.0) {
            known.session = Session::Streaming(Stream {
                sent: start,
                written: start,
                last_sent_at: now,
                told_commit: None,
                tell_at: None,
            });
            known.last_heard = now;
        }
        effects.push(Effect::Send { peer, message: ProposerMessage::Elected(elected) });
        if !self.pump(now, peer, effects) {
            // Its answer tells where it stands.
            self.send_heartbeat(now, peer, effects);
        }
    }

    fn divergence(&self, vote: &Vote) -> Option<Lsn> {
        let first = self.history.first().map(|e| e.lsn);
        let common = vote.flush_lsn.map(|end| divergence_point(&self.history, &vote.history, end));
        match common {
            None => first,
            // Implicitly created logs may begin apart.
            Some(None) if self.generation() == Generation::NONE => first,
            Some(at) => at,
        }
    }
}

/// Two histories that start one term in different places.
fn contradict(a: &TermHistory, b: &TermHistory) -> bool {
    a.entries().iter().any(|x| b.entries().iter().any(|y| x.term == y.term && x.lsn != y.lsn))
}

/// What no acceptor can say truthfully.
fn impossible(response: &VoteResponse, asked: Term) -> Option<String> {
    let last = response.history.last()?;
    if last.term > asked {
        return Some(format!("its history holds term {}, its term is {asked}", last.term));
    }
    match response.flush_lsn {
        Some(end) if !end.is_plausible() => Some(format!("its log ends at {end}, which no log reaches")),
        Some(end) if last.lsn <= end => None,
        end => Some(format!("its history starts term {} at {}, its log ends at {end:?}", last.term, last.lsn)),
    }
}
