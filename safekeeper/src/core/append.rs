//! WAL arrives: it is taken when it continues the log in the current term, and never rewrites or skips a byte.

use pgformat::Lsn;
use proto::consensus::{AcceptorMessage, AppendRequest, AppendResponse, HotStandbyFeedback, MAX_SEND_SIZE};

use super::Acceptor;
use super::effect::{ConnId, DiskOp, Effect, Refusal};

impl Acceptor {
    pub(super) fn on_append(
        &mut self,
        now: u64,
        conn: ConnId,
        append: AppendRequest,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.check_session(conn, append.generation)?;
        let here = self.state.term;
        if append.term < here {
            let reply = self.append_response(None, true);
            self.reply(conn, reply, None, effects);
            return Ok(());
        }
        let ready = self.pusher == Some(conn) && self.log.as_ref().is_some_and(|l| l.is_ready());
        let log = self.log.as_mut().filter(|_| ready && append.term == here);
        let Some(log) = log else {
            return Err(Refusal::NotElected { here, asked: append.term });
        };
        check_shape(&append, log.write_lsn)?;
        if !append.wal.is_empty() {
            log.extend(&append.wal).map_err(|e| Refusal::BadWal(e.to_string()))?;
            effects.push(Effect::Disk(DiskOp::Write { begin: append.begin_lsn, wal: append.wal }));
        }
        self.leader_commit = self.leader_commit.max(append.commit_lsn);
        self.advance_commit(now, effects);
        // Bounded by our own commit: the proposer never tells more, and a wrong one must not let WAL be removed later.
        let horizon = append.truncate_lsn.min(self.state.commit_lsn);
        self.state.peer_horizon_lsn = self.state.peer_horizon_lsn.max(horizon);
        if let Some(known) = self.conns.get_mut(&conn) {
            known.ack_due = true;
        }
        Ok(())
    }

    /// The answer to an append; `deposed`: only the term counts.
    pub(super) fn append_response(&self, flush_lsn: Option<Lsn>, deposed: bool) -> AcceptorMessage {
        AcceptorMessage::Append(AppendResponse {
            generation: self.state.mconf.generation,
            term: self.state.term,
            flush_lsn,
            commit_lsn: self.durable_commit.filter(|_| !deposed),
            hs_feedback: HotStandbyFeedback::default(),
            pageserver_feedback: None,
        })
    }
}

fn check_shape(append: &AppendRequest, end: Lsn) -> Result<(), Refusal> {
    let begin = append.begin_lsn;
    let len = append.wal.len();
    if begin.checked_add(len as u64) != Some(append.end_lsn) || len > MAX_SEND_SIZE {
        return Err(Refusal::Malformed { begin, end: append.end_lsn, len });
    }
    match begin.cmp(&end) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Refusal::Gap { begin, end }),
        std::cmp::Ordering::Less => Err(Refusal::Rewrite { begin, end }),
    }
}
