//! An election is announced: adopt the history, cut the log where it parts from the leader's.
//!
//! Order on disk: term, truncation, history. A crash between any two leaves a shorter log under the old history,
//! which the next election repeats.

use pgformat::wal::StreamConfig;
use pgformat::{Lsn, PgMajor};
use proto::api::TimelineSource;
use proto::consensus::{ProposerElected, divergence_point};
use proto::id::SystemId;

use super::effect::{ConnId, DiskOp, Effect, Refusal};
use super::heard::Parted;
use super::log::Log;
use super::pending::Pending;
use super::state::{HISTORY_ENTRIES_MAX, LogEnd};
use super::{Acceptor, ControlState};

impl Acceptor {
    pub(super) fn on_elected(
        &mut self,
        conn: ConnId,
        elected: ProposerElected,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let epoch = self.check_session(conn, elected.generation)?;
        if elected.term < self.state.term {
            return Ok(()); // its next append is answered with our term
        }
        self.check_term(elected.term)?;
        if !self.counts() && self.fence().is_none_or(|fence| elected.term <= fence) {
            return Err(self.not_admitted());
        }
        let to = self.check_election(&elected)?;
        self.parted = None;
        if let Some(before) = self.pusher.take()
            && before != conn
        {
            self.close(before, Refusal::Superseded(elected.term), effects);
        }
        if elected.term > self.state.term {
            self.state.term = elected.term;
            self.state.primary_epoch = epoch;
            self.persist(effects);
        }
        self.leader_commit = None;
        self.flush_wanted = false;
        self.pusher = Some(conn);
        let clean = self.log.as_ref().is_some_and(|l| l.ends_cleanly() && l.durable.flush_lsn == to);
        if !clean {
            if self.state.standing.acked_lsn > Some(to) {
                // What is cut from here on is not lost.
                self.persist_acked(Some(to), effects);
            }
            self.cut(to, effects);
        }
        self.history_entries = elected.history.merged().entries().len();
        if self.adopt(elected, to) {
            self.adopted = Some(self.persist(effects));
        }
        self.persist_start(effects);
        if clean {
            self.start_decoder();
        }
        self.readmit(effects);
        Ok(())
    }

    /// Where the log is to be cut, when the announcement fits the log here.
    fn check_election(&mut self, elected: &ProposerElected) -> Result<Lsn, Refusal> {
        let term = elected.term;
        let bad = |problem: String| Refusal::BadElection { term, problem };
        let last = elected.history.last().filter(|e| e.term == term);
        let (Some(_), Some(first)) = (last, elected.history.first()) else {
            return Err(bad("its history does not end with its term".to_owned()));
        };
        // The entries ascend, and where the log is cut is one of them or lies in the log held.
        if let Some(last) = last.filter(|e| !e.lsn.is_plausible()) {
            return Err(bad(format!("it starts at {}, which no log reaches", last.lsn)));
        }
        if elected.history.entries().len() > HISTORY_ENTRIES_MAX {
            return Err(Refusal::HistoryFull(elected.history.entries().len()));
        }
        let held = self.state.history.last();
        if held.is_some_and(|e| e.term == term) && self.state.history.merged() != elected.history.merged() {
            return Err(bad("another history was announced for the same term".to_owned()));
        }
        if PgMajor::from_version_num(self.state.pg_version_num).is_none() {
            return Err(Refusal::WrongVersion { here: self.state.pg_version_num, asked: 0 });
        }
        let common = self.flush_lsn().and_then(|end| divergence_point(&elected.history, &self.history(), end));
        let to = match common {
            Some(to) => to,
            // Only a log that a walproposer created by its greeting may begin elsewhere than the leader's.
            None if self.state.source == TimelineSource::Walproposer => first.lsn,
            None => return Err(bad("its history has no common point with the log here".to_owned())),
        };
        if to != elected.start_streaming_at {
            let asked = elected.start_streaming_at;
            return Err(bad(format!("it starts at {asked}, but the logs part at {to}")));
        }
        if let Some(commit) = self.state.commit_lsn.filter(|commit| to < *commit) {
            self.parted = Some(Parted { term, to, commit });
            return Err(Refusal::BelowCommit { term, to, commit });
        }
        if self.state.local_start_lsn.is_some_and(|start| to < start) {
            return Err(bad(format!("it starts at {to}, below the start of the log here")));
        }
        Ok(to)
    }

    /// Cuts the log. From here on nothing behind `to` counts; appends wait until the cut is durable.
    fn cut(&mut self, to: Lsn, effects: &mut Vec<Effect>) {
        assert!(self.state.commit_lsn.is_none_or(|commit| to >= commit), "I5: cut below commit");
        for pending in &mut self.pending {
            pending.forget_log();
        }
        self.log = Some(Log::at(LogEnd { flush_lsn: to, last_record_start: None }));
        let write = self.next_write();
        self.pending.push_back(Pending::Truncate { write, to });
        effects.push(Effect::Disk(DiskOp::Truncate { write, to }));
    }

    /// Takes over the history and what follows from it. True when anything changed.
    fn adopt(&mut self, elected: ProposerElected, to: Lsn) -> bool {
        let first = elected.history.first().expect("check_election saw a first entry").lsn;
        let state = &mut self.state;
        let before = (state.timeline_start_lsn, state.local_start_lsn, state.peer_horizon_lsn, state.commit_lsn);
        let start = *state.timeline_start_lsn.get_or_insert(first);
        state.local_start_lsn.get_or_insert(to);
        state.peer_horizon_lsn.get_or_insert(start);
        state.commit_lsn = state.commit_lsn.max(Some(start.min(to)));
        let after = (state.timeline_start_lsn, state.local_start_lsn, state.peer_horizon_lsn, state.commit_lsn);
        let changed = state.history != elected.history;
        state.history = elected.history;
        changed || before != after
    }

    /// Readies the log for appends.
    pub(super) fn start_decoder(&mut self) {
        let stream = stream_config(&self.state);
        if let Some(log) = &mut self.log {
            log.start_decoder(stream);
        }
    }
}

fn stream_config(state: &ControlState) -> StreamConfig {
    StreamConfig {
        version: PgMajor::from_version_num(state.pg_version_num).expect("checked before an election is adopted"),
        seg_size: state.seg_size,
        system_id: (state.system_id != SystemId(0)).then_some(state.system_id.0),
        tlis: state.pg_history.iter().map(|e| (e.tli, e.start_lsn)).collect(),
    }
}
