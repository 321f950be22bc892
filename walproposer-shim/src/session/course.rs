//! What a session does, and in which order.
//!
//! Owner of the proposer core, of the numbers of the safekeepers' sessions, and of the positions told to PostgreSQL.
//! Pure: the driver does the actions on tokio, the simulator on its queue of events. Every rule about order is kept
//! here:
//!
//! - the ring first, then the core: it hands out only WAL that the ring holds;
//! - to one safekeeper, messages and WAL in the order in which the core gave them;
//! - the proof up to the elected end, then the announcement;
//! - everything that the core wants, then the report to PostgreSQL;
//! - WAL leaves the ring when it is committed, and a full ring also lets go of what a quorum's sockets were given: a
//!   record may be longer than the ring, and is committed as a whole;
//! - after the end of a session nothing is done and nothing reported.

use std::collections::VecDeque;

use bytes::Bytes;
use pgformat::Lsn;
use proto::consensus::{AppendRequest, ProposerMessage};
use proto::id::{NodeId, Term};

use super::ring::Ring;
use crate::core::{CloseReason, Effect, Fatal, Input, PeerId, Proposer};

/// One thing that a driver does. Actions are done in the order in which they come.
#[derive(Clone, PartialEq, Debug)]
pub enum SessionAction {
    /// Open a session to a safekeeper.
    Dial {
        /// The address that it goes to.
        peer: PeerId,
        /// Number of the session: what happens in it is told with this number.
        session: u64,
    },
    /// Close the session to a safekeeper.
    Close {
        /// The address that it goes to.
        peer: PeerId,
        /// Why, for the log.
        reason: CloseReason,
    },
    /// Send a message that carries no WAL.
    Send {
        /// The address that it goes to.
        peer: PeerId,
        /// What the core says.
        message: ProposerMessage,
    },
    /// Send WAL; [`SessionCourse::source_of`] says where the bytes are.
    Append {
        /// The address that it goes to.
        peer: PeerId,
        /// The message with an empty `wal`.
        head: AppendRequest,
    },
    /// A quorum has greeted: once the primary is proved, [`Input::Campaign`] is due.
    Campaign {
        /// The nodes that have greeted, with their terms.
        greeted: Vec<(NodeId, Term)>,
    },
    /// The election is won: prove the primary up to `end`, then [`SessionCourse::announce`].
    Prove {
        /// The term won.
        term: Term,
        /// Address of the voter with the most advanced log.
        donor: PeerId,
        /// The donor's node id.
        donor_node: NodeId,
        /// End of the donor's log.
        end: Lsn,
    },
    /// The ring may drop what lies below: it is committed.
    Committed {
        /// The new commit position.
        commit_lsn: Lsn,
    },
    /// The full ring may drop what lies below: a quorum's sockets were given it.
    Release {
        /// Position behind it.
        to: Lsn,
    },
    /// Tell PostgreSQL these positions.
    Report(ReportedPositions),
    /// The session is over: somebody has a higher term.
    Deposed {
        /// The term seen.
        term: Term,
    },
    /// The session is over, and another one would fare no better.
    Fatal(Fatal),
}

/// Where the bytes of an append are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WalSource {
    /// In the ring: these, in order.
    Memory(Vec<Bytes>),
    /// At a safekeeper that holds them durably in the term of this session.
    Donor(PeerId),
    /// At the primary, which sent them in this session and keeps what was not reported to it.
    Primary,
    /// Nobody can be asked for them now.
    Nowhere,
}

/// What PostgreSQL is told. Neither position falls within a session, and `apply` never passes `flush`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReportedPositions {
    /// Reported as written and flushed: what the core allows.
    pub flush: Option<Lsn>,
    /// Reported as applied.
    pub apply: Option<Lsn>,
}

impl ReportedPositions {
    /// Takes over new positions; `by_pageserver`: only what a pageserver has ingested counts as applied.
    fn raise(self, reportable: Option<Lsn>, ingested: Option<Lsn>, by_pageserver: bool) -> ReportedPositions {
        let flush = self.flush.max(reportable);
        let apply = if by_pageserver { self.apply.max(ingested.min(flush)) } else { flush };
        ReportedPositions { flush, apply }
    }
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CourseStage {
    /// The election is under way.
    Electing,
    /// It is won; the primary is being proved up to its end.
    Proving,
    /// It is announced, and the primary's stream begins here.
    Streaming { start: Lsn },
    /// Nothing is done any more.
    Over,
}

/// The course of one session.
#[derive(Debug)]
pub struct SessionCourse {
    core: Proposer,
    effects: Vec<Effect>,
    actions: VecDeque<SessionAction>,
    /// Number of the session to each address.
    sessions: Vec<u64>,
    stage: CourseStage,
    /// Largest position that a pageserver has ingested, as safekeepers pass it on.
    ingested: Option<Lsn>,
    applied_by_pageserver: bool,
    reported: ReportedPositions,
}

impl SessionCourse {
    /// The beginning. `applied_by_pageserver`: PostgreSQL is told as applied what a pageserver has ingested; otherwise
    /// what is flushed.
    pub fn new(core: Proposer, applied_by_pageserver: bool) -> SessionCourse {
        SessionCourse {
            sessions: vec![0; core.peers().len()],
            core,
            effects: Vec::new(),
            actions: VecDeque::new(),
            stage: CourseStage::Electing,
            ingested: None,
            applied_by_pageserver,
            reported: ReportedPositions::default(),
        }
    }

    /// The proposer, to look at.
    pub fn core(&self) -> &Proposer {
        &self.core
    }

    /// What PostgreSQL was told last.
    pub fn reported(&self) -> ReportedPositions {
        self.reported
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<SessionAction> {
        self.actions.pop_front()
    }

    /// Whether `session` is the one that this address has now: what happened in an earlier one says nothing any more.
    pub fn is_current(&self, peer: PeerId, session: u64) -> bool {
        self.sessions.get(peer.0) == Some(&session)
    }

    /// Steps the core. `now`: milliseconds of the session's clock.
    pub fn step(&mut self, now: u64, input: Input) {
        if self.stage == CourseStage::Over {
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        self.core.step(now, input, &mut effects);
        effects.drain(..).for_each(|effect| self.absorb(effect));
        self.effects = effects;
    }

    fn absorb(&mut self, effect: Effect) {
        if self.stage == CourseStage::Over {
            return;
        }
        let action = match effect {
            Effect::Dial { peer } => SessionAction::Dial { peer, session: self.renumber(peer) },
            Effect::Close { peer, reason } => SessionAction::Close { peer, reason },
            Effect::Send { peer, message } => SessionAction::Send { peer, message },
            Effect::Append { peer, head } => SessionAction::Append { peer, head },
            Effect::ReadyToCampaign { greeted } => SessionAction::Campaign { greeted },
            Effect::WonElection { term, donor, donor_node, end, .. } => {
                self.stage = CourseStage::Proving;
                SessionAction::Prove { term, donor, donor_node, end }
            }
            Effect::Committed { commit_lsn } => SessionAction::Committed { commit_lsn },
            Effect::Feedback { feedback, .. } => {
                self.ingested = self.ingested.max(feedback.last_received_lsn);
                return;
            }
            Effect::Deposed { term } => {
                self.stage = CourseStage::Over;
                SessionAction::Deposed { term }
            }
            Effect::Fatal(fatal) => {
                self.stage = CourseStage::Over;
                SessionAction::Fatal(fatal)
            }
        };
        self.actions.push_back(action);
    }

    fn renumber(&mut self, peer: PeerId) -> u64 {
        let Some(session) = self.sessions.get_mut(peer.0) else { return 0 };
        *session += 1;
        *session
    }

    /// The session to a safekeeper was ended from this side, and nothing more comes of it.
    pub fn gave_up(&mut self, now: u64, peer: PeerId) {
        self.renumber(peer);
        self.step(now, Input::Disconnected { peer });
    }

    /// The proof has reached the elected end, and the primary's stream begins at `start`: the election is announced.
    pub fn announce(&mut self, now: u64, start: Lsn) {
        if self.stage == CourseStage::Proving {
            self.stage = CourseStage::Streaming { start };
            self.step(now, Input::SendElected);
        }
    }

    /// The ring has taken WAL from the primary.
    pub fn received(&mut self, now: u64, ring: &Ring) {
        self.step(now, Input::WalAvailable { end: ring.end() });
    }

    /// Where the WAL of an append is: in the ring, else at a safekeeper that holds it durably (the one with the lowest
    /// `rank`, none without), else at the primary.
    pub fn source_of(
        &self,
        head: &AppendRequest,
        ring: Option<&Ring>,
        rank: impl Fn(PeerId) -> Option<u32>,
    ) -> WalSource {
        if let Some(parts) = ring.and_then(|ring| ring.slices(head.begin_lsn, head.end_lsn)) {
            return WalSource::Memory(parts);
        }
        if let Some(donor) = self.core.donor_for(head.end_lsn, rank) {
            return WalSource::Donor(donor);
        }
        match self.stage {
            // What lies before the stream was proved, not sent; and the proof needs no second connection.
            CourseStage::Streaming { start } if start <= head.begin_lsn => WalSource::Primary,
            _ => WalSource::Nowhere,
        }
    }

    /// Everything that the core wanted is done: what follows for the ring and for PostgreSQL.
    pub fn settle(&mut self, ring: &Ring) {
        if !matches!(self.stage, CourseStage::Streaming { .. }) {
            return;
        }
        if let Some(to) = self.core.given().filter(|_| ring.is_full()) {
            self.actions.push_back(SessionAction::Release { to });
        }
        let now = self.reported.raise(self.core.reportable(), self.ingested, self.applied_by_pageserver);
        if now != self.reported {
            self.reported = now;
            self.actions.push_back(SessionAction::Report(now));
        }
    }
}

#[cfg(test)]
mod tests;
