//! One task per timeline: feeds the acceptor, runs its effects, publishes positions.
//!
//! Owner of acceptor, storage and connections. While the disk works on one group of effects, inputs go on and gather
//! into the next: a group commit without timers. [`Gathering`] decides what is gathered and in which order it is done;
//! this task does it. No timer runs while WAL flows or while nothing happens; timers serve lazy persistence of the
//! commit position, retries after a full disk or a failure, and putting an idle timeline to rest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use node::RepeatLog;
use proto::admission::Statement;
use proto::pg::{SqlError, sqlstate};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::commands::DriverCommand;
use super::conns::Conns;
use super::gathering::{DriverAction, GatherLimits, Gathering};
use super::metrics::StorageMetrics;
use super::positions::{Stopped, TimelinePositions};
use super::shared::TimelineShared;
use super::worker::{DiskTurn, DiskTurnResult, OpenFailure, OpenedTimeline, TimelineHome};
use crate::core::{Acceptor, Admission, DiskOp, Effect, Input};
use crate::storage::{StorageError, TimelineStorage};

mod asks;
mod backoff;
mod heal;

/// A group up to this size may be synced on the spot: more takes the disk long enough for a thread to be worth waking.
const ON_THE_SPOT_BYTES: usize = 64 << 10;
/// A disk whose last group took longer gets a thread: meanwhile this one serves the rest of the node.
const ON_THE_SPOT_MAX: Duration = Duration::from_millis(4);
/// Two timelines that write within this time share the disk: their syncs go to threads, where they overlap.
const ALONE_AFTER: Duration = Duration::from_millis(1);

/// The driver of one timeline.
#[derive(Debug)]
pub(super) struct TimelineDriver {
    shared: Arc<TimelineShared>,
    home: TimelineHome,
    metrics: StorageMetrics,
    positions: watch::Sender<TimelinePositions>,
    commands: mpsc::UnboundedReceiver<DriverCommand>,
    asks: asks::Asks,
    /// Answers of other members that cannot be.
    doubted: RepeatLog,
    acceptor: Acceptor,
    conns: Conns,
    started: Instant,
    effects: Vec<Effect>,
    gathering: Gathering<OwnedSemaphorePermit>,
    disk: DiskState,
    /// Duration of the last group.
    last_took: Option<Duration>,
    stopped: Option<Stopped>,
    backoff: backoff::DiskBackoff,
    spare: Option<(u64, JoinHandle<()>)>,
    idle: IdleTimes,
    stopping: bool,
}

/// Where the storage is.
#[derive(Debug)]
enum DiskState {
    Ready(Box<TimelineStorage>),
    Working(JoinHandle<DiskTurnResult>),
    /// The disk is full: the same effects are tried again.
    Full {
        storage: Box<TimelineStorage>,
        retry: Instant,
    },
    /// A write or sync failed: the timeline is opened anew.
    Failed {
        reopen: Instant,
    },
    Reopening(JoinHandle<Result<OpenedTimeline, OpenFailure>>),
    /// Damaged: only an operator helps.
    Dead,
}

#[derive(Debug)]
struct IdleTimes {
    /// The ring is given back so long after the last write: whoever follows has read it by then.
    recent_for: Duration,
    /// And everything else that only an active timeline needs so long after it.
    after: Duration,
    /// Last write; `None` = at rest.
    active_since: Option<Instant>,
    /// Whether the ring may hold something.
    holds_wal: bool,
    rest_due: bool,
}

/// What woke the driver.
#[expect(clippy::large_enum_variant, reason = "one at a time, moved once")]
enum DriverWake {
    Command(Option<DriverCommand>),
    Turn(Result<DiskTurnResult, tokio::task::JoinError>),
    Reopened(Result<Result<OpenedTimeline, OpenFailure>, tokio::task::JoinError>),
    Feedback,
    Timer,
}

impl TimelineDriver {
    pub(super) fn new(
        shared: Arc<TimelineShared>,
        home: TimelineHome,
        metrics: StorageMetrics,
        (positions, commands): (watch::Sender<TimelinePositions>, mpsc::UnboundedReceiver<DriverCommand>),
        opened: OpenedTimeline,
        (recent_for, idle_after): (Duration, Duration),
    ) -> TimelineDriver {
        TimelineDriver {
            shared,
            home,
            metrics,
            positions,
            commands,
            asks: asks::Asks::default(),
            doubted: RepeatLog::events("another member's answer is refused"),
            acceptor: opened.acceptor,
            conns: Conns::default(),
            started: Instant::now(),
            effects: Vec::new(),
            gathering: Gathering::new(GatherLimits::SERVER),
            disk: DiskState::Ready(Box::new(opened.storage)),
            last_took: None,
            stopped: None,
            backoff: backoff::DiskBackoff::new(),
            spare: None,
            idle: IdleTimes { recent_for, after: idle_after, active_since: None, holds_wal: false, rest_due: false },
            stopping: false,
        }
    }

    /// Runs until shut down: what was received is durable by then and the commit position is persisted.
    pub(super) async fn run(mut self) {
        loop {
            while self.settle() {}
            if self.stopping && self.is_settled() {
                break;
            }
            match self.wake().await {
                DriverWake::Command(Some(command)) => self.take_commands(command),
                // The registry and every handle are gone.
                DriverWake::Command(None) => self.begin_shutdown(),
                DriverWake::Turn(result) => self.turn_done(result),
                DriverWake::Reopened(result) => self.reopened(result),
                DriverWake::Feedback => self.conns.spread(&self.shared.feedback),
                DriverWake::Timer => self.timer(),
            }
        }
        if let Some((_, preparing)) = self.spare.take() {
            // A failed preparation is no loss.
            let _ = preparing.await;
        }
        if let DiskState::Ready(mut storage) = std::mem::replace(&mut self.disk, DiskState::Dead) {
            let rested = tokio::task::spawn_blocking(move || storage.rest()).await;
            if let Ok(Err(e)) = rested {
                tracing::debug!(error = %e, "prepared segment not removed");
            }
        }
    }

    async fn wake(&mut self) -> DriverWake {
        let takes_commands = self.gathering.takes_commands(&self.acceptor) && !self.stopping;
        let timer = self.next_timer();
        tokio::select! {
            result = working(&mut self.disk) => result,
            command = self.commands.recv(), if takes_commands => DriverWake::Command(command),
            () = self.shared.feedback.arrived.notified() => DriverWake::Feedback,
            () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => DriverWake::Timer,
        }
    }

    /// Takes the command and whatever waits behind it, within bounds.
    fn take_commands(&mut self, first: DriverCommand) {
        self.command(first);
        let mut taken = 1;
        while self.gathering.batch_goes_on(&self.acceptor, taken) && !self.stopping {
            match self.commands.try_recv() {
                Ok(command) => self.command(command),
                Err(_) => break,
            }
            taken += 1;
        }
    }

    fn command(&mut self, command: DriverCommand) {
        #[cfg(test)]
        crate::planted::look(self.shared.ttid, "driver");
        match command {
            DriverCommand::Connect { conn, command, events, budget } => {
                self.conns.insert(conn, events, budget, command.lazy_feedback);
                self.step(Input::Connected { conn, version: command.version, primary_epoch: command.primary_epoch });
            }
            DriverCommand::Message { conn, message, permit } => {
                self.gathering.hold(permit);
                self.step(Input::Message { conn, message });
            }
            DriverCommand::Disconnect { conn } => {
                self.step(Input::Disconnected { conn });
                self.gathering.disconnected(conn);
                self.conns.remove(conn);
            }
            DriverCommand::Statement { answer } => self.state(answer),
            DriverCommand::Told { statement, answer } => {
                let ask = self.asks.put(answer);
                self.step(Input::Told { ask, statement });
            }
            DriverCommand::Answered(answer) => self.step(Input::Answered(answer)),
            DriverCommand::Vouch => self.step(Input::Vouched),
            DriverCommand::Shutdown => self.begin_shutdown(),
        }
    }

    fn step(&mut self, input: Input) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut effects = std::mem::take(&mut self.effects);
        self.acceptor.step(now, input, &mut effects);
        self.absorb(effects);
    }

    /// Takes what the acceptor asked for, and does what can be done.
    fn absorb(&mut self, mut effects: Vec<Effect>) {
        effects.drain(..).for_each(|effect| self.gathering.absorb(effect));
        self.effects = effects;
        self.act();
    }

    /// Does what is to be done, in order; true when the disk got work and is done with it.
    fn act(&mut self) -> bool {
        let mut disk_was_quick = false;
        while let Some(action) = self.gathering.next_action() {
            match action {
                DriverAction::Remember { begin, wal } => {
                    (self.idle.active_since, self.idle.holds_wal) = (Some(Instant::now()), true);
                    self.shared.recent.push(begin, wal);
                }
                DriverAction::Forget { to } => self.shared.recent.cut(to),
                DriverAction::Publish => self.publish(),
                DriverAction::Work { ops, rest } => disk_was_quick = self.work(ops, rest),
                DriverAction::Reply { conn, message } => self.conns.reply(conn, message, &self.shared.feedback),
                DriverAction::Close { conn, refusal } => {
                    let mut error = SqlError::fatal(refusal.sqlstate(), refusal.to_string());
                    error.hint = refusal.hint().map(str::to_owned);
                    self.conns.close(conn, error);
                }
                DriverAction::Answer { ask, answer } => self.asks.answer(ask, *answer),
                DriverAction::Doubted { ask: Some(ask), refusal } => self.asks.refuse(ask, refusal),
                DriverAction::Doubted { ask: None, refusal } => {
                    self.doubted.warn(format!("{}: {refusal}; nothing was changed", self.shared.ttid));
                }
            }
        }
        disk_was_quick
    }

    /// Publishes what came of the last batch and, when the disk is free, starts the next group; true when that is done
    /// already.
    fn settle(&mut self) -> bool {
        let free = matches!(self.disk, DiskState::Ready(_));
        if free && self.gathering.flush_due(&self.acceptor) {
            self.step(Input::FlushNow);
        }
        let rest = free && std::mem::take(&mut self.idle.rest_due);
        self.gathering.settle(free, rest);
        self.act()
    }

    /// Gives the free disk its work; true when it is done already.
    fn work(&mut self, ops: VecDeque<DiskOp>, rest: bool) -> bool {
        let on_the_spot = !rest && self.may_sync_on_the_spot(&ops);
        let DiskState::Ready(storage) = std::mem::replace(&mut self.disk, DiskState::Dead) else {
            unreachable!("it gets its turn when it is free");
        };
        let turn = DiskTurn { storage: *storage, ops, rest };
        if on_the_spot {
            let result = turn.run(&self.metrics);
            self.turn_done(Ok(result));
            return true;
        }
        let metrics = self.metrics.clone();
        self.disk = DiskState::Working(tokio::task::spawn_blocking(move || turn.run(&metrics)));
        false
    }

    /// Whether the next group is run without waking another thread: two wake-ups cost as much as a fast disk's sync.
    /// Only for a small group of a timeline that has the disk to itself, and only while the disk is fast.
    fn may_sync_on_the_spot(&self, ops: &VecDeque<DiskOp>) -> bool {
        let alone = self.home.alone_since(self.shared.ttid, ALONE_AFTER);
        let appends = ops.iter().all(|op| matches!(op, DiskOp::Write { .. } | DiskOp::Flush(_)));
        let fast = self.last_took.is_some_and(|took| took < ON_THE_SPOT_MAX);
        let bytes: usize = ops.iter().map(DiskOp::wal_len).sum();
        alone && appends && fast && bytes <= ON_THE_SPOT_BYTES
    }

    fn turn_done(&mut self, result: Result<DiskTurnResult, tokio::task::JoinError>) {
        let result = match result {
            Ok(result) => result,
            Err(panic) => return self.fail(&StorageError::Misuse(format!("storage panicked: {panic}"))),
        };
        self.last_took = Some(result.took);
        self.gathering.turn_done(result.ops, result.failure.is_none());
        match result.failure {
            Some(e) if e.is_no_space() => return self.full(&e, result.storage),
            Some(e) => return self.fail(&e),
            None => {}
        }
        self.disk = DiskState::Ready(Box::new(result.storage));
        self.healed();
        if let Some(control) = result.persisted {
            self.shared.set_view(|view| view.control = control);
        }
        for completion in result.completions {
            let write = match &completion {
                Input::Done(write) | Input::Truncated { write, .. } => Some(*write),
                _ => None,
            };
            self.step(completion);
            if let Some(write) = write {
                self.gathering.completed(write);
            }
        }
        if let Some(job) = result.spare.filter(|j| self.spare.as_ref().is_none_or(|(n, _)| *n != j.segno())) {
            self.spare = Some((job.segno(), tokio::task::spawn_blocking(move || job.run())));
        }
    }

    fn publish(&mut self) {
        let core = self.acceptor.positions();
        let positions = TimelinePositions::new(&self.acceptor, self.stopped.clone());
        self.tell_admission(&positions.admission);
        if let Some(parted) = positions.parted.as_ref().filter(|_| positions.parted != self.positions.borrow().parted) {
            error!(ttid = %self.shared.ttid, "this member refuses the leader: {parted}");
        }
        self.shared.set_view(|view| view.core = core);
        self.positions.send_if_modified(|now| {
            let changed = *now != positions;
            *now = positions;
            changed
        });
    }

    fn tell_admission(&self, now: &Admission) {
        let before = &self.positions.borrow().admission;
        let ttid = self.shared.ttid;
        match (before, now) {
            (Admission::Barred { why: before, .. }, Admission::Barred { why, .. }) if before == why => {}
            (_, Admission::Barred { why, waits_for }) => {
                error!(%ttid, why, waits_for, "this member takes no part: it may have forgotten what it promised");
            }
            (Admission::Barred { .. }, Admission::Admitted) => info!(%ttid, "this member is admitted again"),
            _ => {}
        }
    }

    /// What this member says about itself, once it is durable.
    fn state(&mut self, answer: oneshot::Sender<Option<Statement>>) {
        let mut effects = std::mem::take(&mut self.effects);
        let statement = self.acceptor.statement(&mut effects);
        self.absorb(effects);
        // Whoever asked and went away needs none.
        let _ = answer.send(statement);
    }

    fn begin_shutdown(&mut self) {
        self.stopping = true;
        self.step(Input::FlushNow);
        if let Some(due) = self.acceptor.next_timeout() {
            // Not waiting until it is due: what is persisted shortens the next start.
            let mut effects = std::mem::take(&mut self.effects);
            self.acceptor.step(due, Input::Tick, &mut effects);
            self.absorb(effects);
        }
    }

    /// Whether nothing is left to be done on disk, or nothing can be.
    fn is_settled(&self) -> bool {
        match &self.disk {
            DiskState::Ready(_) => self.gathering.is_empty() && !self.acceptor.dirty(),
            DiskState::Working(_) | DiskState::Reopening(_) => false,
            DiskState::Full { .. } | DiskState::Failed { .. } | DiskState::Dead => true,
        }
    }
}

/// Waits for the disk; for ever when it does nothing.
async fn working(disk: &mut DiskState) -> DriverWake {
    match disk {
        DiskState::Working(turn) => DriverWake::Turn(turn.await),
        DiskState::Reopening(opening) => DriverWake::Reopened(opening.await),
        _ => std::future::pending().await,
    }
}

impl Drop for TimelineDriver {
    /// Also when the acceptor's assertions end the task: whoever watches must not take old positions for live ones.
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!(ttid = %self.shared.ttid, "timeline ends: an invariant did not hold");
        }
        let error = SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, "the timeline is shut down");
        self.conns.close_all(&error);
    }
}
