//! When a vote is given: once per term, with everything received so far and the term itself durable before the answer.

use proto::consensus::{AcceptorMessage, TermHistory, VoteRequest, VoteResponse};

use super::effect::{ConnId, Effect, Refusal};
use super::state::HISTORY_ENTRIES_MAX;
use super::{Acceptor, Pending};

impl Acceptor {
    pub(super) fn on_vote_request(
        &mut self,
        conn: ConnId,
        request: &VoteRequest,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let epoch = self.check_session(conn, request.generation)?;
        if !self.counts() && !self.may_follow(request.term) {
            return Err(self.not_admitted());
        }
        let follow = !self.counts() && request.term > self.state.term;
        if follow {
            // Without a vote: it was elected already, by others.
            self.state.term = request.term;
            self.state.primary_epoch = epoch;
            self.persist(effects);
        }
        let grant = self.counts() && request.term > self.state.term;
        let entries = self.state.history.entries().len();
        if grant && entries >= HISTORY_ENTRIES_MAX {
            return Err(Refusal::HistoryFull(entries));
        }
        // The new leader starts at the end that is reported here, so all of it must be durable: a record received but
        // not synced, and synced after the vote, could be acknowledged by the old leader and missing in the new log.
        if self.uncovered() {
            self.flush(effects);
        }
        if grant {
            self.state.term = request.term;
            self.state.primary_epoch = epoch;
            self.pusher = None;
            self.leader_commit = None;
            self.persist(effects);
        }
        let after = self.pending.back().map(Pending::id);
        let end = self.log.as_ref().map(|l| l.written.flush_lsn);
        let response = VoteResponse {
            generation: self.state.mconf.generation,
            term: self.state.term,
            vote_given: grant,
            flush_lsn: end,
            truncate_lsn: self.state.peer_horizon_lsn,
            history: end.map_or(TermHistory::empty(), |e| self.state.history.up_to(e)),
        };
        self.reply(conn, AcceptorMessage::VoteResponse(response), after, effects);
        Ok(())
    }
}
