//! The proposers' connections as the driver keeps them: what each was told last, and what is added to its answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::consensus::{AcceptorMessage, AppendResponse};
use proto::pg::SqlError;
use tokio::sync::{Semaphore, mpsc};

use super::commands::PortEvent;
use super::shared::TimelineFeedback;
use crate::core::ConnId;

/// Below a proposer's heartbeat (1 s), above any pause between commits that is worth a saving.
const QUIET: Duration = Duration::from_millis(500);

/// A proposer that takes no answer for so long does not read: its own limit of silence. Less may be this machine, which
/// was busy with a flood of appends.
const UNREAD_MAX: Duration = Duration::from_secs(10);

/// All connections of a timeline.
#[derive(Debug, Default)]
pub(super) struct Conns {
    conns: BTreeMap<ConnId, ProposerConn>,
}

#[derive(Debug)]
struct ProposerConn {
    events: mpsc::Sender<PortEvent>,
    budget: Arc<Semaphore>,
    /// Sent last, for feedback that comes while nothing is appended.
    last_append: Option<AppendResponse>,
    /// Number of the newest feedback sent.
    feedback_seen: u64,
    /// Feedback comes with answers only, and no answer that says nothing new.
    lazy: bool,
    /// When an append was answered last.
    answered_at: Instant,
    /// The newest answer to an append for which there was no room: it says all that those before it said.
    held: Option<AppendResponse>,
    /// Since when there is no room for answers.
    full_since: Option<Instant>,
    closed: bool,
}

impl Conns {
    pub(super) fn insert(&mut self, id: ConnId, events: mpsc::Sender<PortEvent>, budget: Arc<Semaphore>, lazy: bool) {
        let conn = ProposerConn {
            events,
            budget,
            last_append: None,
            feedback_seen: 0,
            lazy,
            answered_at: Instant::now(),
            held: None,
            full_since: None,
            closed: false,
        };
        self.conns.insert(id, conn);
    }

    pub(super) fn remove(&mut self, id: ConnId) {
        self.conns.remove(&id);
    }

    /// Sends an answer, unless it says nothing new.
    pub(super) fn reply(&mut self, id: ConnId, message: AcceptorMessage, feedback: &TimelineFeedback) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.reply(message, feedback);
        }
    }

    /// Passes new feedback on to proposers whose appends were answered before.
    pub(super) fn spread(&mut self, feedback: &TimelineFeedback) {
        for conn in self.conns.values_mut() {
            conn.spread(feedback);
        }
    }

    /// Tells the proposer and takes nothing more from it.
    pub(super) fn close(&mut self, id: ConnId, error: SqlError) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.close(error);
        }
    }

    pub(super) fn close_all(&mut self, error: &SqlError) {
        for conn in self.conns.values_mut() {
            conn.close(error.clone());
        }
    }
}

impl ProposerConn {
    fn reply(&mut self, mut message: AcceptorMessage, feedback: &TimelineFeedback) {
        if let AcceptorMessage::Append(response) = &mut message {
            if self.says_nothing_new(response) {
                return;
            }
            self.complete(response, feedback);
        }
        self.send(message);
    }

    /// Whether a proposer that takes feedback lazily learns nothing from this answer: an append without WAL told us a
    /// commit position. Heartbeats come far enough apart to be answered always.
    fn says_nothing_new(&self, response: &AppendResponse) -> bool {
        let same = |last: &AppendResponse| (last.term, last.flush_lsn) == (response.term, response.flush_lsn);
        self.lazy && self.answered_at.elapsed() < QUIET && self.last_append.as_ref().is_some_and(same)
    }

    /// Adds what the standbys need kept, and feedback that this proposer has not seen. A deposed one, without
    /// positions, gets none.
    fn complete(&mut self, response: &mut AppendResponse, feedback: &TimelineFeedback) {
        if response.flush_lsn.is_none() {
            self.last_append = None;
            return;
        }
        self.last_append = Some(response.clone());
        self.answered_at = Instant::now();
        response.hs_feedback = feedback.standbys.oldest();
        if let Some((number, newest)) = feedback.after(self.feedback_seen) {
            self.feedback_seen = number;
            response.pageserver_feedback = Some(newest);
        }
    }

    fn spread(&mut self, feedback: &TimelineFeedback) {
        // A full queue of answers is no reason to wait: the next answer carries it.
        while self.events.capacity() > 0 && !self.closed && !self.lazy {
            let Some(last) = &self.last_append else { return };
            let Some((number, newest)) = feedback.after(self.feedback_seen) else { return };
            let mut response = last.clone();
            response.hs_feedback = feedback.standbys.oldest();
            response.pageserver_feedback = Some(newest);
            self.feedback_seen = number;
            self.send(AcceptorMessage::Append(response));
        }
    }

    fn send(&mut self, mut message: AcceptorMessage) {
        if let Some(held) = self.held.take() {
            match &mut message {
                AcceptorMessage::Append(newer) => {
                    newer.pageserver_feedback = newer.pageserver_feedback.take().or(held.pageserver_feedback);
                }
                _ => self.give(AcceptorMessage::Append(held)),
            }
        }
        self.give(message);
    }

    fn give(&mut self, message: AcceptorMessage) {
        if self.closed {
            return;
        }
        let event = match self.events.try_send(PortEvent::Message(message)) {
            Err(mpsc::error::TrySendError::Full(event)) => event,
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {
                self.full_since = None;
                return;
            }
        };
        let since = *self.full_since.get_or_insert_with(Instant::now);
        match event {
            PortEvent::Message(AcceptorMessage::Append(newest)) if since.elapsed() < UNREAD_MAX => {
                self.held = Some(newest);
            }
            _ => {
                // It sends but does not read: its connection ends, nobody else's waits. Dropping the channel says so.
                tracing::warn!("a proposer does not read its answers; its connection is closed");
                self.closed = true;
                self.budget.close();
                self.events = mpsc::channel(1).0;
            }
        }
    }

    fn close(&mut self, error: SqlError) {
        if self.closed {
            return;
        }
        self.closed = true;
        self.budget.close();
        // When its queue is full the end of the channel has to do.
        let _ = self.events.try_send(PortEvent::Close(error));
        self.events = mpsc::channel(1).0;
    }
}

#[cfg(test)]
mod tests {
    use pgformat::Lsn;
    use proto::consensus::HotStandbyFeedback;
    use proto::id::{Generation, Term};

    use super::*;

    fn answer(lsn: u64) -> AcceptorMessage {
        AcceptorMessage::Append(AppendResponse {
            generation: Generation::FIRST,
            term: Term(1),
            flush_lsn: Some(Lsn::new(lsn)),
            commit_lsn: None,
            hs_feedback: HotStandbyFeedback::default(),
            pageserver_feedback: None,
        })
    }

    /// Answers come faster than this machine wakes the one who writes them out: the newest says it all.
    #[test]
    fn a_moment_without_room_ends_no_connection() {
        let (events, mut receiver) = mpsc::channel(2);
        let (mut conns, feedback) = (Conns::default(), TimelineFeedback::default());
        conns.insert(ConnId(1), events, Arc::new(Semaphore::new(1)), false);
        for lsn in 1..=50 {
            conns.reply(ConnId(1), answer(lsn), &feedback);
        }
        let mut flushed = Vec::new();
        while let Ok(PortEvent::Message(AcceptorMessage::Append(response))) = receiver.try_recv() {
            flushed.push(response.flush_lsn.map(Lsn::get));
        }
        assert_eq!(flushed, [Some(1), Some(2)]);
        conns.reply(ConnId(1), answer(51), &feedback);
        assert!(matches!(receiver.try_recv(), Ok(PortEvent::Message(m)) if m == answer(51)), "and it goes on");
        // One that takes nothing for long does not read.
        conns.reply(ConnId(1), answer(52), &feedback);
        conns.reply(ConnId(1), answer(53), &feedback);
        conns.reply(ConnId(1), answer(54), &feedback);
        let conn = conns.conns.get_mut(&ConnId(1)).expect("it is there");
        conn.full_since = Instant::now().checked_sub(UNREAD_MAX);
        conns.reply(ConnId(1), answer(55), &feedback);
        while receiver.try_recv().is_ok() {}
        assert!(conns.conns[&ConnId(1)].closed && receiver.is_closed(), "its connection ends");
    }
}
