//! What sessions, HTTP and the announcer see of a timeline. Owner of nothing: the driver owns the state, this is a
//! handle.

use std::sync::Arc;

use pgformat::Lsn;
use proto::admission::{AdmissionAnswer, Statement};
use proto::api::{SCHEMA, SafekeeperTimelineStatus};
use proto::command::StartWalPush;
use proto::feedback::PageserverFeedback;
use proto::id::{NodeId, TenantTimelineId};
use proto::pg::{SqlError, sqlstate};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::commands::DriverCommand;
use super::hearsay::Hearsay;
use super::port::{ANSWERS_MAX, ProposerPort};
use super::positions::{Stopped, TimelinePositions};
use super::reader::{ReadMode, TimelineWalReader, WalReadError};
use super::shared::TimelineShared;
use super::standbys::StandbyReader;
use crate::core::{ControlState, Refusal};

/// A timeline. Clones share it.
#[derive(Clone, Debug)]
pub struct TimelineHandle {
    shared: Arc<TimelineShared>,
}

/// Why a proposer cannot connect now; the session turns it into an ErrorResponse.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConnectRefused(pub SqlError);

impl TimelineHandle {
    pub(super) fn new(shared: Arc<TimelineShared>) -> TimelineHandle {
        TimelineHandle { shared }
    }

    pub(super) fn shared(&self) -> &Arc<TimelineShared> {
        &self.shared
    }

    /// The tenant and timeline that this handle leads to.
    pub fn ttid(&self) -> TenantTimelineId {
        self.shared.ttid
    }

    /// For HTTP and SHOW; `pushes` is left empty for the caller to fill.
    pub fn status(&self) -> SafekeeperTimelineStatus {
        let view = self.shared.view();
        let (control, core) = (&*view.control, &view.core);
        let stopped = self.stopped();
        let history = core.flush_lsn.map(|end| control.history.up_to(end).into()).unwrap_or_default();
        SafekeeperTimelineStatus {
            schema: SCHEMA,
            tenant_id: self.shared.ttid.tenant_id,
            timeline_id: self.shared.ttid.timeline_id,
            safekeeper_id: self.shared.node_id,
            term: core.term,
            last_log_term: core.last_log_term,
            term_history: history,
            mconf: control.mconf.clone(),
            source: control.source,
            primary_epoch: control.primary_epoch,
            pg_history: control.pg_history.clone(),
            pg_version_num: control.pg_version_num,
            system_id: control.system_id,
            wal_seg_size: control.seg_size,
            timeline_start_lsn: control.timeline_start_lsn,
            local_start_lsn: control.local_start_lsn,
            flush_lsn: core.flush_lsn,
            commit_lsn: core.commit_lsn,
            last_record_start_lsn: core.last_record_start,
            peer_horizon_lsn: core.peer_horizon_lsn,
            remote_consistent_lsn: None,
            wal_bytes: view.segments.bytes(),
            streaming: core.streaming,
            pushes: Vec::new(),
            stopped: stopped.map(|s| s.reason.to_string()),
            not_admitted: self.shared.positions.borrow().not_admitted(),
            damaged: self.damage().map(|d| d.to_string()),
            incarnation: Some(control.standing.incarnation),
            starts: control.standing.starts,
        }
    }

    /// Why no WAL is accepted, when so: what [`TimelinePositions`] say, or that a part of the timeline panicked.
    pub fn stopped(&self) -> Option<Stopped> {
        self.shared.stopped()
    }

    /// A part of the timeline panicked outside of its driver: it is stopped until a restart, and says so.
    pub(crate) fn broke(&self, why: &str) {
        self.shared.broke(why);
    }

    /// Gives the driver a command that changes nothing.
    #[cfg(test)]
    pub(crate) fn poke(&self) {
        // A driver that is gone needs none.
        let _ = self.shared.commands.send(DriverCommand::Disconnect { conn: self.shared.next_conn() });
    }

    /// The persisted state as it was last made durable.
    pub fn control(&self) -> Arc<ControlState> {
        self.shared.view().control
    }

    /// Positions; the watch closes when the timeline is shut down.
    pub fn positions(&self) -> watch::Receiver<TimelinePositions> {
        self.shared.positions.clone()
    }

    /// Connects a proposer. Dropping the port disconnects it; everything sent before is still made durable.
    ///
    /// # Errors
    /// While the timeline is stopped, or shut down.
    pub fn connect_proposer(&self, command: &StartWalPush) -> Result<ProposerPort, ConnectRefused> {
        if let Some(stopped) = self.stopped() {
            let text = format!("timeline {} is stopped: {}", self.shared.ttid, stopped.reason);
            return Err(ConnectRefused(SqlError::fatal(stopped.code, text)));
        }
        let conn = self.shared.next_conn();
        let budget = Arc::new(Semaphore::new(self.shared.queue_bytes as usize));
        let (events, receiver) = mpsc::channel(ANSWERS_MAX);
        let connect = DriverCommand::Connect { conn, command: *command, events, budget: Arc::clone(&budget) };
        self.shared
            .commands
            .send(connect)
            .map_err(|_| ConnectRefused(SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, "the timeline is shut down")))?;
        Ok(ProposerPort::new(Arc::clone(&self.shared), conn, budget, receiver))
    }

    /// A reader from `start` on; see [`TimelineWalReader`].
    ///
    /// # Errors
    /// [`WalReadError::BelowStart`] when `start` lies before the segment of the first byte held.
    pub fn wal_reader(&self, mode: ReadMode, start: Lsn) -> Result<TimelineWalReader, WalReadError> {
        TimelineWalReader::open(Arc::clone(&self.shared), mode, start)
    }

    /// What this member says about itself to the others; `None` while something in it is not durable yet, or the
    /// timeline is stopped.
    pub async fn statement(&self) -> Option<Statement> {
        let (answer, told) = oneshot::channel();
        self.shared.commands.send(DriverCommand::Statement { answer }).ok()?;
        told.await.ok().flatten()
    }

    /// Takes what another member says about itself; the answer is durable, a refusal changed nothing. `None`: the
    /// timeline stopped meanwhile.
    pub async fn told(&self, statement: Box<Statement>) -> Option<Result<AdmissionAnswer, Refusal>> {
        let (answer, told) = oneshot::channel();
        self.shared.commands.send(DriverCommand::Told { statement, answer }).ok()?;
        told.await.ok()
    }

    /// What was heard of the other members.
    pub(crate) fn hearsay(&self) -> &Hearsay {
        &self.shared.hearsay
    }

    /// Takes what another member answered to this one's statement.
    pub fn answered(&self, answer: AdmissionAnswer) {
        // A driver that is gone needs no answer.
        let _ = self.shared.commands.send(DriverCommand::Answered(Box::new(answer)));
    }

    /// An operator decides that this member takes part again, whatever it may have forgotten.
    pub fn vouch(&self) {
        let _ = self.shared.commands.send(DriverCommand::Vouch);
    }

    /// Takes feedback of a pageserver; it goes to the connected proposers at once.
    pub fn record_feedback(&self, pageserver: NodeId, feedback: PageserverFeedback) {
        self.shared.feedback.record(pageserver, feedback);
    }

    /// A place for what one reader says as a hot standby; dropping it takes that back.
    pub(crate) fn standby_reader(&self) -> StandbyReader {
        StandbyReader::new(Arc::clone(&self.shared.feedback.standbys))
    }

    /// Bytes of WAL files held.
    pub fn wal_bytes(&self) -> u64 {
        self.shared.view().segments.bytes()
    }
}
