//! Durability: flushes that gather whatever was written since the last one, the control file, completions, failure,
//! and the commit position with its lazy persistence.

use pgformat::Lsn;

use super::Acceptor;
use super::effect::{ConnId, DiskOp, Effect, Refusal, WriteId};
use super::log::Log;
use super::pending::Pending;
use super::state::LogEnd;

impl Acceptor {
    pub(super) fn next_write(&mut self) -> WriteId {
        self.last_write += 1;
        WriteId(self.last_write)
    }

    /// Whether bytes are written that no emitted flush covers.
    pub(super) fn uncovered(&self) -> bool {
        self.stopped.is_none() && self.log.as_ref().is_some_and(|l| l.covered_lsn < l.write_lsn)
    }

    fn flush_in_flight(&self) -> bool {
        self.pending.iter().any(|p| matches!(p, Pending::Flush { .. }))
    }

    /// Makes what was written durable and answers; while a flush is under way, the next one gathers everything since.
    pub(super) fn flush_now(&mut self, effects: &mut Vec<Effect>) {
        self.flush_wanted = false;
        if self.stopped.is_some() || self.busy() {
            return;
        }
        if self.uncovered() {
            if self.flush_in_flight() {
                self.flush_wanted = true;
                return;
            }
            self.flush(effects);
        }
        self.acknowledge(effects);
    }

    pub(super) fn flush(&mut self, effects: &mut Vec<Effect>) {
        let write = self.next_write();
        let log = self.log.as_mut().expect("only a log can be uncovered");
        log.covered_lsn = log.write_lsn;
        self.pending.push_back(Pending::Flush { write, end: Some(log.written) });
        effects.push(Effect::Disk(DiskOp::Flush(write)));
    }

    /// Answers every append so far. All written bytes are covered by emitted flushes; the answer waits for the last
    /// of them.
    fn acknowledge(&mut self, effects: &mut Vec<Effect>) {
        let due: Vec<ConnId> = self.conns.iter().filter(|(_, c)| c.ack_due).map(|(id, _)| *id).collect();
        let covering = self.pending.iter().rev().find(|p| matches!(p, Pending::Flush { end: Some(_), .. }));
        let after = covering.map(Pending::id).max(self.adopted).max(self.heard.started);
        let flush_lsn = self.log.as_ref().map(|l| l.written.flush_lsn).filter(|_| self.counts());
        for conn in due {
            if let Some(known) = self.conns.get_mut(&conn) {
                known.ack_due = false;
            }
            // A vote may have raised the term since: then the append belongs to a deposed proposer, and only the term
            // counts.
            let deposed = self.pusher != Some(conn);
            let reply = self.append_response(flush_lsn.filter(|_| !deposed), deposed);
            self.reply(conn, reply, after, effects);
        }
    }

    pub(super) fn persist(&mut self, effects: &mut Vec<Effect>) -> WriteId {
        self.persist_acked(self.flush_lsn(), effects)
    }

    /// Writes the control file; the log is durable up to `acked`, and will not be cut below it.
    pub(super) fn persist_acked(&mut self, acked: Option<Lsn>, effects: &mut Vec<Effect>) -> WriteId {
        let write = self.next_write();
        self.commit_dirty_since = None;
        self.state.standing.acked_lsn = acked;
        self.heard.started.get_or_insert(write);
        self.pending.push_back(Pending::Persist { write, commit_lsn: self.state.commit_lsn });
        effects.push(Effect::Disk(DiskOp::Persist { write, state: Box::new(self.state.clone()) }));
        write
    }

    pub(super) fn on_tick(&mut self, now: u64, effects: &mut Vec<Effect>) {
        if self.stopped.is_none() && self.next_timeout().is_some_and(|due| due <= now) {
            self.persist(effects);
        }
    }

    pub(super) fn on_done(&mut self, now: u64, write: WriteId, effects: &mut Vec<Effect>) {
        if self.stopped.is_some() {
            return;
        }
        let done = self.pending.pop_front().expect("a completion without an effect");
        assert_eq!(done.id(), write, "completions come in the order of the effects");
        match done {
            Pending::Flush { end, .. } => {
                if let (Some(log), Some(end)) = (&mut self.log, end) {
                    log.durable = end;
                }
                self.advance_commit(now, effects);
                self.readmit(effects);
            }
            Pending::Persist { commit_lsn, .. } => self.persisted(commit_lsn),
            Pending::Truncate { .. } => panic!("a truncation completes with Truncated"),
        }
        if self.flush_wanted {
            self.flush_now(effects);
        }
    }

    /// The first commit position of a term that is durable is told at once: a proposer that only seeks the end of the
    /// log sends nothing more, and would hear of it with its next heartbeat.
    fn persisted(&mut self, commit_lsn: Option<Lsn>) {
        let before = std::mem::replace(&mut self.durable_commit, commit_lsn);
        let own = self.state.history.last().filter(|e| e.term == self.state.term).map(|e| e.lsn);
        let first_of_term = own.is_some_and(|start| before < Some(start) && commit_lsn >= Some(start));
        if let Some(pusher) = self.pusher.filter(|_| first_of_term)
            && let Some(known) = self.conns.get_mut(&pusher)
        {
            known.ack_due = true;
        }
    }

    pub(super) fn on_truncated(&mut self, now: u64, write: WriteId, end: LogEnd, effects: &mut Vec<Effect>) {
        if self.stopped.is_some() {
            return;
        }
        let Some(Pending::Truncate { write: expected, to }) = self.pending.pop_front() else {
            panic!("a truncation completed that is not the oldest unfinished effect");
        };
        assert_eq!((expected, to), (write, end.flush_lsn), "the truncation asked for");
        self.log = Some(Log::at(end));
        self.start_decoder();
        while !self.busy() {
            let Some((conn, message)) = self.parked.pop_front() else {
                self.readmit(effects);
                self.flush_now(effects);
                return;
            };
            self.on_message(now, conn, message, effects);
        }
    }

    /// Nothing beyond the last good sync counts: not in acknowledgements, votes or reads. Only opening anew leads out
    /// of it.
    pub(super) fn on_failed(&mut self, reason: String, effects: &mut Vec<Effect>) {
        self.pending.clear();
        self.parked.clear();
        self.flush_wanted = false;
        self.commit_dirty_since = None;
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in conns {
            self.drop_conn(conn);
            effects.push(Effect::Close { conn, refusal: Refusal::Stopped(reason.clone()) });
        }
        if let Some(log) = &mut self.log {
            *log = Log::at(log.durable);
        }
        self.stopped.get_or_insert(reason);
    }

    /// commit = min(what the elected proposer told, durable here); never falls.
    pub(super) fn advance_commit(&mut self, now: u64, effects: &mut Vec<Effect>) {
        let reached = self.leader_commit.min(self.flush_lsn());
        if reached <= self.state.commit_lsn {
            return;
        }
        self.state.commit_lsn = reached;
        self.commit_dirty_since.get_or_insert(now);
        let (Some(commit), term_start) = (reached, self.state.history.last().map(|e| e.lsn)) else { return };
        let emitted = self.emitted_commit();
        // Whoever waits for a quorum to know the end of the log (a failover) waits for this first step on disk.
        let first_of_term = term_start.is_some_and(|start| commit >= start && emitted.is_none_or(|e| e < start));
        let far = emitted.is_none_or(|e| commit.get() - e.get() >= self.state.seg_size.bytes());
        if first_of_term || far {
            self.persist(effects);
        }
    }

    /// The commit position in the control file, counting writes under way.
    fn emitted_commit(&self) -> Option<Lsn> {
        let last = self.pending.iter().rev().find_map(|p| match p {
            Pending::Persist { commit_lsn, .. } => Some(*commit_lsn),
            _ => None,
        });
        last.unwrap_or(self.durable_commit)
    }
}
