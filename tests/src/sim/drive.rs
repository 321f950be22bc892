//! The shims' side of the world: what they hear and do, the attach proof, reports to the server.

use pgformat::Lsn;
use proto::consensus::{AcceptorMessage, ProposerMessage, ProtoVersion};
use proto::id::Term;
use safekeeper::core::{NextAction, Positions};
use walproposer_shim::core::{Fatal, Input, PeerId, Phase, Proposer};
use walproposer_shim::session::course::{ReportedPositions, SessionAction, SessionCourse};
use walproposer_shim::session::ring::Ring;

use super::bug::Bug;
use super::event::Event;
use super::net::ConnKey;
use super::schedule::{Micros, spread};
use super::shim::{Attempt, config};
use super::wal::Server;
use super::world::World;
use crate::check::{Violation, i4_durable, i6_report};

impl World {
    pub(crate) fn on_shim_start(&mut self, shim: usize) -> Result<(), Violation> {
        if self.shims[shim].retired || self.shims[shim].attempt.is_some() {
            return Ok(());
        }
        let min_term = self.shims[shim].min_term;
        let config = config(self.ttid, &self.mconf, &self.profile, min_term, self.start);
        let addresses = config.addresses;
        let proposer = Proposer::new(config).expect("enough addresses");
        self.shims[shim].attempts += 1;
        self.shims[shim].attempt = Some(Attempt {
            course: SessionCourse::new(proposer, self.profile.by_pageserver()),
            ring: None,
            starved: false,
            donor_failures: vec![0; addresses],
            conns: vec![None; addresses],
            epoch: self.epoch,
            server: self.shims[shim].server,
            told: ReportedPositions::default(),
            tick_due: None,
        });
        self.shim_step(shim, Input::Tick)
    }

    /// Ends an attempt: its sockets close, its server connection too. A new one starts after a while.
    pub(crate) fn end_attempt(&mut self, shim: usize, restart: Option<u64>) {
        let Some(attempt) = self.shims[shim].attempt.take() else { return };
        let min_term = self.shims[shim].min_term;
        self.shims[shim].min_term = min_term.max(attempt.proposer().term());
        for key in attempt.conns.into_iter().flatten() {
            self.hang_up(key);
        }
        if self.profile.compute
            && let Some(server) = attempt.server
        {
            // A compute's WAL dies with it.
            self.servers[server] = Server::behind(self.start, Vec::new(), None, 0, fastrand::Rng::with_seed(0), false);
        }
        if let Some(pause) = restart {
            let at = self.now + spread(&mut self.rng, pause);
            self.queue.at(at, Event::ShimStart(shim));
        }
    }

    /// The shim closes a connection; the node learns of it later.
    pub(crate) fn hang_up(&mut self, key: ConnKey) {
        let lost = self.rng.bool();
        let delay = self.net_delay();
        if let Some(conn) = self.net.conns.get_mut(&key) {
            conn.at_shim = false;
            conn.lost_to_node |= lost;
        }
        if let Some(at) = self.net.arrival_at_node(key, self.now, delay) {
            self.queue.at(at, Event::BrokenAtNode(key));
        }
        self.net.collect(key);
    }

    pub(crate) fn attempt(&mut self, shim: usize, number: u64) -> Option<&mut Attempt> {
        let shim = &mut self.shims[shim];
        if shim.attempts == number { shim.attempt.as_mut() } else { None }
    }

    /// Something arrives at a shim.
    pub(crate) fn on_shim_side(&mut self, key: ConnKey, event: Event) -> Result<(), Violation> {
        let Some(conn) = self.net.conns.get_mut(&key).filter(|c| c.at_shim) else { return Ok(()) };
        let (shim, peer, number, session) = (conn.shim, conn.peer, conn.attempt, conn.session);
        let lost = conn.lost_to_shim;
        if matches!(event, Event::DialTimeout(_)) && conn.accepted {
            return Ok(());
        }
        conn.accepted |= matches!(event, Event::Accepted(_)) && !lost;
        let gone = matches!(event, Event::Refused(_) | Event::BrokenAtShim(..) | Event::DialTimeout(_));
        if gone {
            conn.at_shim = false;
            self.net.collect(key);
        }
        let peer_id = PeerId(peer);
        let Some(attempt) = self.attempt(shim, number) else { return Ok(()) };
        if !attempt.course.is_current(peer_id, session) {
            return Ok(());
        }
        if gone {
            attempt.conns[peer] = None;
        }
        match event {
            Event::BrokenAtShim(_, Some(NextAction::Fenced)) => {
                self.count("refused for its epoch");
                if self.healed {
                    // A leader that keeps its quorum without this member goes on; its operator sees the member named
                    // and starts it anew, with the present epoch.
                    self.end_attempt(shim, Some(50_000));
                    return Ok(());
                }
                let said = "another primary was designated".to_owned();
                self.shim_step(shim, Input::Fenced { peer: peer_id, said })
            }
            Event::Refused(_) | Event::BrokenAtShim(..) | Event::DialTimeout(_) => {
                self.shim_step(shim, Input::Disconnected { peer: peer_id })
            }
            _ if lost => Ok(()),
            Event::Accepted(_) => self.shim_step(shim, Input::Connected { peer: peer_id }),
            Event::ToShim(_, message) => self.hear(shim, peer_id, message),
            _ => Ok(()),
        }
    }

    /// A message reaches the proposer, after what a planted bug does to it.
    fn hear(&mut self, shim: usize, peer: PeerId, mut message: AcceptorMessage) -> Result<(), Violation> {
        match (&mut message, self.bug) {
            (AcceptorMessage::VoteResponse(vote), Some(Bug::CountRefusedVote)) => {
                let asked = self.shims[shim].attempt.as_ref().map_or(Term::ZERO, |a| a.proposer().term());
                vote.vote_given |= vote.term == asked;
            }
            (AcceptorMessage::VoteResponse(vote), Some(Bug::WrongDonor)) => {
                vote.flush_lsn = vote.flush_lsn.min(Some(self.start));
                vote.history = vote.history.up_to(self.start);
            }
            (AcceptorMessage::Append(ack), Some(Bug::AckForAll)) => {
                let peers = self.shims[shim].attempt.as_ref().map_or(0, |a| a.conns.len());
                for other in (0..peers).map(PeerId).filter(|p| *p != peer) {
                    let streaming = |a: &Attempt| a.proposer().peers()[other.0].streaming;
                    if self.shims[shim].attempt.as_ref().is_some_and(streaming) {
                        let copy = AcceptorMessage::Append(ack.clone());
                        self.shim_step(shim, Input::Message { peer: other, message: copy })?;
                    }
                }
            }
            _ => {}
        }
        self.shim_step(shim, Input::Message { peer, message })
    }

    pub(crate) fn on_written(&mut self, key: ConnKey, end: Lsn) -> Result<(), Violation> {
        let Some(conn) = self.net.conns.get(&key).filter(|c| c.at_shim) else { return Ok(()) };
        let (shim, peer, number) = (conn.shim, PeerId(conn.peer), conn.attempt);
        if self.attempt(shim, number).is_none() {
            return Ok(());
        }
        self.shim_step(shim, Input::Written { peer, end })
    }

    pub(crate) fn on_shim_tick(&mut self, shim: usize, number: u64) -> Result<(), Violation> {
        let Some(attempt) = self.attempt(shim, number) else { return Ok(()) };
        attempt.tick_due = None;
        self.shim_step(shim, Input::Tick)
    }

    pub(crate) fn on_campaign(&mut self, shim: usize, number: u64) -> Result<(), Violation> {
        if self.attempt(shim, number).is_none() {
            return Ok(());
        }
        if let Some(server) = self.shims[shim].server
            && self.rng.bool()
            && !self.proof(server, self.checks.prefix.log().len())
        {
            self.refuse(shim);
            return Ok(());
        }
        self.shim_step(shim, Input::Campaign)
    }

    /// The comparison of the attach proof: the server's WAL extends the first `len` bytes of the log.
    fn proof(&self, server: usize, len: usize) -> bool {
        let end = self.start.add(len as u64);
        let log = self.checks.prefix.log();
        let own = self.servers[server].until(end);
        self.bug == Some(Bug::NoProof) || (own.len() == len && log.get(..len).is_none_or(|log| log == own))
    }

    /// The attach proof failed: exit code 6.
    fn refuse(&mut self, shim: usize) {
        self.count("refused by the attach proof");
        self.shims[shim].retired = true;
        self.end_attempt(shim, None);
    }

    pub(crate) fn on_send_elected(&mut self, shim: usize, number: u64) -> Result<(), Violation> {
        let ring_bytes = self.profile.ring_bytes();
        let Some(attempt) = self.attempt(shim, number) else { return Ok(()) };
        let Some(end) = attempt.proposer().history().last().map(|e| e.lsn) else { return Ok(()) };
        if attempt.proposer().phase() != Phase::Won {
            return Ok(());
        }
        attempt.ring = Some(Ring::new(end, ring_bytes));
        self.shim_turn(shim, |attempt, now| attempt.course.announce(now, end))?;
        self.queue.at(self.now, Event::Stream(shim, number));
        Ok(())
    }

    pub(crate) fn shim_step(&mut self, shim: usize, input: Input) -> Result<(), Violation> {
        self.shim_turn(shim, |attempt, now| attempt.course.step(now, input))
    }

    /// A shim learns something and does what follows, as its driver does it.
    pub(crate) fn shim_turn(&mut self, shim: usize, learns: impl FnOnce(&mut Attempt, u64)) -> Result<(), Violation> {
        let ahead_ms = self.shims[shim].clock_ahead_ms;
        let now_ms = self.now / 1_000 + ahead_ms;
        let number = self.shims[shim].attempts;
        let Some(attempt) = &mut self.shims[shim].attempt else { return Ok(()) };
        learns(attempt, now_ms);
        self.act(shim, number)?;
        if let Some(Attempt { course, ring: Some(ring), .. }) = self.attempt(shim, number) {
            course.settle(ring);
        }
        self.act(shim, number)?;
        self.misreport(shim, number)?;
        let now = self.now;
        let Some(attempt) = self.attempt(shim, number) else { return Ok(()) };
        let has_room = attempt.ring.as_ref().is_some_and(Ring::has_room);
        let goes_on = has_room && std::mem::take(&mut attempt.starved);
        let due = attempt.proposer().next_timeout();
        if let Some(due) = due.filter(|_| attempt.tick_due != due) {
            attempt.tick_due = Some(due);
            let at = (due.saturating_sub(ahead_ms) * 1_000).max(now);
            self.queue.at(at, Event::ShimTick(shim, number));
        }
        if goes_on {
            self.queue.at(now, Event::Stream(shim, number));
        }
        Ok(())
    }

    /// Does a shim's actions in their order.
    fn act(&mut self, shim: usize, number: u64) -> Result<(), Violation> {
        while let Some(attempt) = self.attempt(shim, number) {
            let mut actions: Vec<SessionAction> = std::iter::from_fn(|| attempt.course.next_action()).collect();
            if actions.is_empty() {
                break;
            }
            if self.bug == Some(Bug::WalBeforeElected) {
                // Stable: only messages without WAL go behind those with it.
                actions.sort_by_key(|action| !matches!(action, SessionAction::Append { .. }));
            }
            for action in actions {
                if self.attempt(shim, number).is_some() {
                    self.shim_action(shim, number, action)?;
                }
            }
        }
        Ok(())
    }

    fn shim_action(&mut self, shim: usize, number: u64, action: SessionAction) -> Result<(), Violation> {
        match action {
            SessionAction::Dial { peer, session } => self.dial(shim, number, peer, session),
            SessionAction::Close { peer, .. } => {
                self.count("closed by a proposer");
                if let Some(key) = self.attempt(shim, number).and_then(|a| a.conns[peer.0].take()) {
                    self.hang_up(key);
                }
            }
            SessionAction::Send { peer, message } => self.send(shim, number, peer, 0, message),
            SessionAction::Append { peer, head } => self.append(shim, number, peer, head),
            SessionAction::Campaign { .. } => {
                let at = self.now + spread(&mut self.rng, 2_000);
                self.queue.at(at, Event::Campaign(shim, number));
            }
            SessionAction::Prove { term, donor, end, .. } => self.on_won(shim, number, term, donor, end)?,
            SessionAction::Committed { commit_lsn } => {
                self.release(shim, number, commit_lsn);
                self.on_committed(shim, number, commit_lsn)?;
            }
            SessionAction::Release { .. } if self.bug == Some(Bug::KeepUncommitted) => {}
            SessionAction::Release { to } => self.release(shim, number, to),
            SessionAction::Report(positions) => self.tell_server(shim, number, positions)?,
            SessionAction::Deposed { term } => {
                self.count("deposed");
                let known = self.shims[shim].min_term;
                self.shims[shim].min_term = known.max(term);
                let pause = if self.healed { 5_000 } else { 60_000 };
                self.end_attempt(shim, Some(pause));
            }
            SessionAction::Fatal(Fatal::Fenced { .. }) => {
                // The real shim exits with code 6, and its operator starts it anew, with the present epoch.
                self.count("fenced by its epoch");
                self.end_attempt(shim, Some(50_000));
            }
            SessionAction::Fatal(reason) => return Violation::of("fatal", format!("shim {shim}: {reason}")),
        }
        Ok(())
    }

    fn dial(&mut self, shim: usize, number: u64, peer: PeerId, session: u64) {
        let key = self.net.open(shim, number, peer.0, session);
        let delay = self.net_delay();
        if let Some(conn) = self.net.conns.get_mut(&key) {
            conn.at_shim = true;
        }
        if let Some(attempt) = self.attempt(shim, number) {
            attempt.conns[peer.0] = Some(key);
        }
        if let Some(at) = self.net.arrival_at_node(key, self.now, delay) {
            self.queue.at(at, Event::ConnectArrives(key));
            self.queue.at(self.now + 300_000, Event::DialTimeout(key));
        }
    }

    fn release(&mut self, shim: usize, number: u64, to: Lsn) {
        if let Some(ring) = self.attempt(shim, number).and_then(|a| a.ring.as_mut()) {
            ring.release(to);
        }
    }

    /// Sends a message that was ready `late` microseconds from now: what is sent to the same node later waits for it.
    pub(crate) fn send(&mut self, shim: usize, number: u64, peer: PeerId, late: Micros, message: ProposerMessage) {
        let Some(key) = self.attempt(shim, number).and_then(|a| a.conns[peer.0]) else { return };
        let delay = self.net_delay();
        let message = ProposerMessage::decode(ProtoVersion::V3, message.encode(ProtoVersion::V3));
        let message = message.expect("what one side writes the other reads");
        if let Some(at) = self.net.arrival_at_node(key, self.now + late, delay) {
            self.queue.at(at, Event::ToNode(key, message));
        }
    }

    /// A proposer was elected: check the log it takes over, and prove it against the server.
    fn on_won(&mut self, shim: usize, number: u64, term: Term, donor: PeerId, end: Lsn) -> Result<(), Violation> {
        self.checks.leader.elected(term, format!("shim {shim}, attempt {number}"))?;
        let node = &self.nodes[donor.0];
        // The donor may have gone down since it voted: the proof then fails for want of a donor.
        let Some(log) = node.read(self.start, end) else {
            self.end_attempt(shim, Some(20_000));
            return Ok(());
        };
        let positions = node.live.as_ref().map(|l| l.acceptor.positions());
        let whole = |p: &Positions| p.flush_lsn.unwrap_or(self.start) == end && p.term == term;
        let prev = positions.filter(whole).map(|p| p.last_record_start);
        self.checks.prefix.elected(term, &log)?;
        self.checks.acked.kept(&format!("the log elected in term {term}"), Some(term), &log)?;
        let Some(prev) = prev else {
            self.end_attempt(shim, Some(20_000));
            return Ok(());
        };
        match self.shims[shim].server {
            Some(server) => {
                let own = self.servers[server].until(end);
                if own != log && self.bug != Some(Bug::NoProof) {
                    if server == 0 {
                        return Violation::of(
                            "proof",
                            format!("the server's own log, elected up to {end}, is refused"),
                        );
                    }
                    self.refuse(shim);
                    return Ok(());
                }
            }
            None => {
                let xid = u32::try_from(self.servers.len() + 10).unwrap_or(u32::MAX);
                let kinds = self.rng.fork();
                self.servers.push(Server::behind(self.start, log, prev, xid, kinds, self.profile.uniform));
                let server = self.servers.len() - 1;
                if let Some(attempt) = self.attempt(shim, number) {
                    attempt.server = Some(server);
                }
            }
        }
        let at = self.now + spread(&mut self.rng, 1_000);
        self.queue.at(at, Event::SendElected(shim, number));
        Ok(())
    }

    fn on_committed(&mut self, shim: usize, number: u64, commit: Lsn) -> Result<(), Violation> {
        let Some(attempt) = self.attempt(shim, number) else { return Ok(()) };
        let term = attempt.proposer().term();
        let Some(server) = attempt.server else { return Ok(()) };
        let log = self.servers[server].until(commit);
        let known = self.checks.prefix.log().len();
        // From time to time the whole log, else what is new.
        let from = if known.is_multiple_of(16) { 0 } else { known.min(log.len()) };
        let at = self.start.add(from as u64);
        let (nodes, amnesiac) = (&self.nodes, self.amnesia.who());
        i4_durable::committed(&self.mconf, commit, |id| {
            // A member that forgot did hold it when it said so; until it is admitted again it says nothing.
            let forgot = |index: usize| amnesiac == Some(index);
            nodes.iter().enumerate().any(|(i, n)| n.id == id.0 && (forgot(i) || n.medium_holds(at, &log[from..])))
        })?;
        self.checks.prefix.committed(term, log)
    }

    /// What a shim with a planted bug tells its server besides.
    fn misreport(&mut self, shim: usize, number: u64) -> Result<(), Violation> {
        if !matches!(self.bug, Some(Bug::ReportReceived | Bug::AckOnSend)) {
            return Ok(());
        }
        let Some(attempt) = self.attempt(shim, number) else { return Ok(()) };
        let (term, told, received) = (attempt.proposer().term(), attempt.told, attempt.received());
        let Some((server, received)) = attempt.server.zip(received) else { return Ok(()) };
        match self.bug {
            Some(Bug::AckOnSend) => self.checks.acked.told(term, self.servers[server].until(received)),
            _ => self.tell_server(shim, number, ReportedPositions { flush: told.flush.max(Some(received)), ..told }),
        }
    }

    /// What the shim tells its server, and the server its clients.
    fn tell_server(&mut self, shim: usize, number: u64, positions: ReportedPositions) -> Result<(), Violation> {
        let Some(attempt) = self.attempt(shim, number) else { return Ok(()) };
        let Some(server) = attempt.server else { return Ok(()) };
        let before = std::mem::replace(&mut attempt.told, positions);
        let (term, commit, received) = (attempt.proposer().term(), attempt.proposer().commit_lsn(), attempt.received());
        i6_report::in_order((before.flush, before.apply), (positions.flush, positions.apply))?;
        let Some(flush) = positions.flush.filter(|flush| before.flush < Some(*flush)) else { return Ok(()) };
        let own = self.servers[server].until(flush);
        i6_report::reported(flush, commit, received, own, self.checks.prefix.log())?;
        self.checks.acked.told(term, own)
    }
}
