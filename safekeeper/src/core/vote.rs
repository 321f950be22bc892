//! When a vote is given: once per term, with everything received so far and the term itself durable before the answer.

use pgformat::Lsn;
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
        self.check_term(request.term)?;
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
        let entries = self.state.history.merged().entries().len();
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
            history: self.told_history(end),
        };
        self.reply(conn, AcceptorMessage::VoteResponse(response), after, effects);
        Ok(())
    }

    /// The history up to the log's end as a proposer is told: without the terms that wrote nothing. The leader of the
    /// present term gets back what it announced, word by word: a foreign one compares entry by entry with its own.
    fn told_history(&self, end: Option<Lsn>) -> TermHistory {
        let Some(end) = end else { return TermHistory::empty() };
        let held = self.state.history.up_to(end);
        let announced = self.state.history.last().is_some_and(|e| e.term == self.state.term);
        if announced { held } else { held.merged() }
    }
}
