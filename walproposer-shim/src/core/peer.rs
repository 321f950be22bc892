//! One acceptor: its session's stage, what it told, and the timers.

use pgformat::Lsn;
use proto::consensus::{HotStandbyFeedback, ProposerGreeting, ProposerMessage, TermHistory};
use proto::id::{NodeId, Term};

use super::effect::{CloseReason, Effect, Fatal, PeerId};
use super::{Proposer, ProposerConfig, STANDBYS_MS};

/// What is known about the acceptor behind one address.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) session: Session,
    /// Who answers there; kept when the session is lost.
    pub(super) node: Option<NodeId>,
    /// The last term it told.
    pub(super) term: Term,
    /// Its log when it gave us its vote; kept when the session is lost, since nobody else can append there in a lower
    /// term.
    pub(super) vote: Option<Vote>,
    /// Durable there in our term.
    pub(super) acked: Option<Lsn>,
    pub(super) persisted_commit: Option<Lsn>,
    pub(super) last_heard: u64,
    /// When it last passed on a pageserver's position that was newer than all before.
    pub(super) feeds_at: Option<u64>,
    /// What the standbys that read there need kept, as it told last; `None` until it has.
    pub(super) standbys: Option<HotStandbyFeedback>,
    /// When it told so last, but for that nothing is needed any more.
    pub(super) standbys_at: u64,
    /// It refused us as a primary that was replaced, and has not taken us since.
    pub(super) fenced: bool,
}

/// Stage of a session.
#[derive(Debug)]
pub(super) enum Session {
    /// None; dialled again at this time.
    Offline { retry_at: u64 },
    /// The driver is at it.
    Dialing,
    /// Our greeting is out.
    Greeting,
    /// It greeted; waits for the campaign.
    Greeted,
    /// Our vote request is out.
    Voting,
    /// It showed its log; waits for the announcement.
    Voted(Vote),
    /// The election was announced to it.
    Streaming(Stream),
}

/// An acceptor's log, as its vote response shows it.
#[derive(Clone, Debug)]
pub(super) struct Vote {
    pub(super) flush_lsn: Option<Lsn>,
    pub(super) truncate_lsn: Option<Lsn>,
    pub(super) history: TermHistory,
}

/// How far one acceptor was sent the log.
#[derive(Debug)]
pub(super) struct Stream {
    /// End of what was handed to the driver.
    pub(super) sent: Lsn,
    /// End of what the driver gave to the socket.
    pub(super) written: Lsn,
    pub(super) last_sent_at: u64,
    /// Commit position that it was told last.
    pub(super) told_commit: Option<Lsn>,
    /// When it hears of a newer commit position at the latest.
    pub(super) tell_at: Option<u64>,
}

impl Stream {
    /// When an append without WAL goes out, unless another one does before.
    fn due(&self, heartbeat_ms: u64) -> u64 {
        let heartbeat = self.last_sent_at.saturating_add(heartbeat_ms);
        self.tell_at.map_or(heartbeat, |at| at.min(heartbeat))
    }
}

impl Peer {
    pub(super) fn new() -> Peer {
        Peer {
            session: Session::Offline { retry_at: 0 },
            node: None,
            term: Term::ZERO,
            vote: None,
            acked: None,
            persisted_commit: None,
            last_heard: 0,
            feeds_at: None,
            standbys: None,
            standbys_at: 0,
            fenced: false,
        }
    }

    pub(super) fn is_offline(&self) -> bool {
        matches!(self.session, Session::Offline { .. } | Session::Dialing)
    }

    pub(super) fn has_greeted(&self) -> bool {
        !self.is_offline() && !matches!(self.session, Session::Greeting)
    }

    pub(super) fn stream(&self) -> Option<&Stream> {
        match &self.session {
            Session::Streaming(stream) => Some(stream),
            _ => None,
        }
    }

    /// What the standbys behind it need kept, as far as that counts: while WAL streams to it, and a while longer.
    pub(super) fn standbys(&self, now: u64) -> Option<HotStandbyFeedback> {
        let lasts = self.stream().is_some() || self.standbys_at.saturating_add(STANDBYS_MS) > now;
        self.standbys.filter(|_| lasts)
    }

    /// Takes its word on standbys. That there are none counts when they had time to come back to it.
    pub(super) fn told_standbys(&mut self, now: u64, told: HotStandbyFeedback) {
        let HotStandbyFeedback { ts, xmin, catalog_xmin } = told;
        let told = HotStandbyFeedback::of_standby(ts, xmin, catalog_xmin);
        let held = self.standbys.is_some_and(|s| !s.is_none());
        if !told.is_none() {
            (self.standbys, self.standbys_at) = (Some(told), now);
        } else if !held || self.standbys_at.saturating_add(STANDBYS_MS) <= now {
            self.standbys = Some(told);
        }
    }

    /// Whether it owes us a message. Between greeting, campaign and announcement nobody speaks, for as long as the
    /// proof takes.
    fn owes_answer(&self) -> bool {
        matches!(self.session, Session::Greeting | Session::Voting | Session::Streaming(_))
    }

    pub(super) fn next_timeout(&self, config: &ProposerConfig) -> Option<u64> {
        let silence = self.owes_answer().then(|| self.last_heard.saturating_add(config.silence_ms));
        let own = match &self.session {
            Session::Offline { retry_at } => Some(*retry_at),
            Session::Streaming(s) => Some(s.due(config.heartbeat_ms)),
            _ => None,
        };
        [silence, own].into_iter().flatten().min()
    }
}

impl Proposer {
    pub(super) fn on_connected(&mut self, now: u64, peer: PeerId, effects: &mut Vec<Effect>) {
        let Some(known) = self.peers.get_mut(peer.0) else { return };
        if !matches!(known.session, Session::Dialing) {
            return;
        }
        known.session = Session::Greeting;
        known.last_heard = now;
        let greeting = ProposerGreeting {
            ttid: self.config.ttid,
            mconf: self.config.mconf.clone(),
            pg_version_num: self.config.pg_version_num,
            system_id: self.config.system_id,
            seg_size: self.config.seg_size,
            tli: Some(self.config.tli),
        };
        effects.push(Effect::Send { peer, message: ProposerMessage::Greeting(greeting) });
    }

    pub(super) fn on_disconnected(&mut self, now: u64, peer: PeerId) {
        let retry_at = now.saturating_add(self.config.reconnect_ms);
        let Some(known) = self.peers.get_mut(peer.0) else { return };
        if !matches!(known.session, Session::Offline { .. }) {
            known.session = Session::Offline { retry_at };
        }
    }

    /// Over when those that did not refuse cannot form a quorum: nothing would ever be committed again. A single member
    /// that was reached by another primary does not end a leader that still has its quorum.
    pub(super) fn on_fenced(&mut self, now: u64, peer: PeerId, said: String, effects: &mut Vec<Effect>) {
        self.on_disconnected(now, peer);
        if let Some(known) = self.peers.get_mut(peer.0) {
            known.fenced = true;
        }
        let strangers = self.peers.iter().any(|p| p.node.is_none() && !p.fenced);
        let possible = |member| self.peer_of(member).map_or(strangers, |p| !p.fenced);
        if !self.conf.is_quorum(possible) {
            let refused = self.peers.iter().filter(|p| p.fenced).count();
            self.fatal(Fatal::Fenced { refused, said }, effects);
        }
    }

    pub(super) fn close(&mut self, now: u64, peer: PeerId, reason: CloseReason, effects: &mut Vec<Effect>) {
        self.on_disconnected(now, peer);
        effects.push(Effect::Close { peer, reason });
    }

    pub(super) fn on_tick(&mut self, now: u64, effects: &mut Vec<Effect>) {
        for i in 0..self.peers.len() {
            let peer = PeerId(i);
            let Some(known) = self.peers.get_mut(i) else { continue };
            match &known.session {
                Session::Offline { retry_at } if *retry_at <= now => {
                    known.session = Session::Dialing;
                    effects.push(Effect::Dial { peer });
                    continue;
                }
                _ => {}
            }
            let silence_ms = self.config.silence_ms;
            if known.owes_answer() && known.last_heard.saturating_add(silence_ms) <= now {
                self.close(now, peer, CloseReason::Silent(silence_ms), effects);
                continue;
            }
            let heartbeat = self.config.heartbeat_ms;
            if known.stream().is_some_and(|s| s.due(heartbeat) <= now) {
                self.send_heartbeat(now, peer, effects);
            }
        }
    }
}
