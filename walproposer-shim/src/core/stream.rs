//! Streaming: WAL out, acknowledgements in, the commit and truncate positions.

use pgformat::Lsn;
use proto::consensus::{AppendRequest, AppendResponse, MAX_SEND_SIZE, ProposerMessage};

use super::effect::{CloseReason, Effect, PeerId};
use super::peer::{Peer, Session, Stream};
use super::{Phase, Proposer};

impl Proposer {
    /// End of what can be sent: the elected log, and behind it what the primary sent in this session.
    pub(super) fn available(&self) -> Option<Lsn> {
        self.received.max(self.term_start)
    }

    pub(super) fn on_wal_available(&mut self, now: u64, end: Lsn, effects: &mut Vec<Effect>) {
        self.received = self.received.max(Some(end));
        if self.phase == Phase::Elected {
            for i in 0..self.peers.len() {
                self.pump(now, PeerId(i), effects);
            }
        }
    }

    pub(super) fn on_written(&mut self, now: u64, peer: PeerId, end: Lsn, effects: &mut Vec<Effect>) {
        if let Some(stream) = self.stream_mut(peer) {
            stream.written = stream.written.max(end.min(stream.sent));
            self.pump(now, peer, effects);
        }
    }

    /// Hands out WAL for one acceptor as far as it is at hand and the window allows. True when anything went out.
    pub(super) fn pump(&mut self, now: u64, peer: PeerId, effects: &mut Vec<Effect>) -> bool {
        let (available, window, start) = (self.available(), self.config.window, self.term_start);
        let mut head = self.append_head();
        let commit = self.commit_lsn;
        let Some(available) = available else { return false };
        let Some(stream) = self.stream_mut(peer) else { return false };
        let before = stream.sent;
        while stream.sent < available && stream.in_flight() < window {
            let full = stream.sent.checked_add(MAX_SEND_SIZE as u64).unwrap_or(Lsn::MAX);
            // Below the election's end the bytes come from a donor, above it from the primary: one message, one source.
            let source_end = start.filter(|start| stream.sent < *start).unwrap_or(available);
            head.begin_lsn = stream.sent;
            head.end_lsn = full.min(source_end).min(available);
            stream.sent = head.end_lsn;
            stream.told(now, commit);
            effects.push(Effect::Append { peer, head: head.clone() });
        }
        stream.sent > before
    }

    /// An append without WAL.
    pub(super) fn send_heartbeat(&mut self, now: u64, peer: PeerId, effects: &mut Vec<Effect>) {
        let mut head = self.append_head();
        let commit = self.commit_lsn;
        if let Some(stream) = self.stream_mut(peer) {
            head.begin_lsn = stream.sent;
            head.end_lsn = stream.sent;
            stream.told(now, commit);
            effects.push(Effect::Send { peer, message: ProposerMessage::Append(head) });
        }
    }

    pub(super) fn on_ack(
        &mut self,
        now: u64,
        peer: PeerId,
        ack: AppendResponse,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let (ours, theirs, seg) = (self.generation(), ack.generation, self.config.seg_size);
        let term = self.term;
        self.check_term(ack.term)?;
        let known = self.peers.get_mut(peer.0).ok_or(CloseReason::OutOfOrder("acknowledgement"))?;
        let Session::Streaming(stream) = &known.session else {
            return Err(CloseReason::OutOfOrder("acknowledgement"));
        };
        if ack.term > term {
            self.deposed(ack.term, effects);
            return Ok(());
        }
        if theirs != ours {
            return Err(CloseReason::WrongGeneration { theirs, ours });
        }
        if ack.term < term {
            return Err(CloseReason::OutOfOrder("acknowledgement of a lower term"));
        }
        if let Some(flush) = ack.flush_lsn
            && flush > stream.reach(seg)
        {
            return Err(CloseReason::AheadOfSent { flush, sent: stream.sent });
        }
        known.told_standbys(now, ack.hs_feedback);
        known.term = ack.term;
        known.acked = known.acked.max(ack.flush_lsn);
        known.persisted_commit = known.persisted_commit.max(ack.commit_lsn);
        if let Some(feedback) = ack.pageserver_feedback {
            if feedback.last_received_lsn > self.fed {
                self.fed = feedback.last_received_lsn;
                known.feeds_at = Some(now);
            }
            effects.push(Effect::Feedback { peer, feedback });
        }
        self.advance(now, effects);
        Ok(())
    }

    /// Recomputes commit and truncate positions; a moved commit goes out with the next append, see
    /// [`Proposer::tell_commit`].
    fn advance(&mut self, now: u64, effects: &mut Vec<Effect>) {
        let start = self.term_start;
        // I4: an acknowledgement below the own term's start says nothing about this term's log.
        let counted = |p: &Peer| p.acked.filter(|acked| Some(*acked) >= start);
        let reached = self.conf.quorum_value(|member| self.peer_of(member).and_then(counted));
        let moved = reached > self.commit_lsn;
        if moved {
            self.commit_lsn = reached;
            effects.extend(reached.map(|commit_lsn| Effect::Committed { commit_lsn }));
        }
        let everywhere = self.conf.nodes().into_iter().map(|m| self.peer_of(m).and_then(|p| p.acked)).min().flatten();
        self.truncate_lsn = self.truncate_lsn.max(everywhere.min(self.commit_lsn));
        if moved {
            for i in 0..self.peers.len() {
                self.tell_commit(now, PeerId(i), effects);
            }
        }
    }

    /// Tells an acceptor the commit position: with WAL when there is some to send, else by itself.
    ///
    /// By itself only where somebody is waiting for it: to the acceptor that feeds a pageserver. The others hear of it
    /// with the next append, or after `commit_lag_ms` when none comes: a message, an answer and two wake-ups less for
    /// each commit and each of them.
    fn tell_commit(&mut self, now: u64, peer: PeerId, effects: &mut Vec<Effect>) {
        let window = self.config.window;
        self.pump(now, peer, effects);
        let commit = self.commit_lsn;
        let (waiting, lag) = (self.is_awaited(now, peer), self.config.commit_lag_ms);
        let Some(stream) = self.stream_mut(peer) else { return };
        if stream.told_commit >= commit || stream.in_flight() >= window {
            return;
        }
        if waiting {
            self.send_heartbeat(now, peer, effects);
        } else if stream.tell_at.is_none() {
            stream.tell_at = Some(now.saturating_add(lag));
        }
    }

    /// Whether a pageserver, or whoever is unknown to us, waits for the commit position of this acceptor: it passed on
    /// a pageserver's newest position a short while ago, or none did.
    fn is_awaited(&self, now: u64, peer: PeerId) -> bool {
        let lately = |p: &Peer| p.feeds_at.is_some_and(|at| at.saturating_add(self.config.heartbeat_ms) > now);
        self.peers.get(peer.0).is_some_and(lately) || !self.peers.iter().any(lately)
    }

    /// What every append of this moment has in common.
    fn append_head(&self) -> AppendRequest {
        let nowhere = self.term_start.unwrap_or(Lsn::new(0));
        AppendRequest {
            generation: self.generation(),
            term: self.term,
            begin_lsn: nowhere,
            end_lsn: nowhere,
            commit_lsn: self.commit_lsn,
            truncate_lsn: self.truncate_lsn,
            wal: bytes::Bytes::new(),
        }
    }

    fn stream_mut(&mut self, peer: PeerId) -> Option<&mut Stream> {
        match &mut self.peers.get_mut(peer.0)?.session {
            Session::Streaming(stream) => Some(stream),
            _ => None,
        }
    }
}

impl Stream {
    /// An append with this commit position goes out.
    fn told(&mut self, now: u64, commit: Option<Lsn>) {
        (self.last_sent_at, self.told_commit, self.tell_at) = (now, commit, None);
    }

    /// Bytes handed to the driver and not yet written to the socket.
    fn in_flight(&self) -> u64 {
        self.sent.get() - self.written.get()
    }

    /// The farthest boundary that an acceptor can have reached: behind a switch record the next segment's start,
    /// although the fill is not sent yet.
    fn reach(&self, seg: pgformat::SegSize) -> Lsn {
        if self.sent.segment_offset(seg) == 0 {
            return self.sent;
        }
        self.sent.segment_start(seg).checked_add(seg.bytes()).unwrap_or(self.sent)
    }
}
