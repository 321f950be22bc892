//! The session's task: owns the lease, publishes the desired keys, notices when the broker forgot them.
//!
//! It takes one step at a time: an urgent command, or whatever is due of lease, comparison and publication. It compares
//! the broker's content with the sent values at every keep-alive, after a failure, and when an answer comes from
//! another life of the store. It puts again only what is missing, so a broker that kept everything sees no put. It
//! also watches deletions, and puts a deleted key back at once.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Event, EventType, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::desired::{BATCH_KEYS_MAX, TxnWrites};
use super::shared::{SessionCommand, SessionShared};
use crate::client::{HeldValue, REQUEST_TIMEOUT};
use crate::connection::Seen;
use crate::{Broker, BrokerError, LeaseId, Revision};
use node::RepeatLog;

/// First and longest pause between attempts while the broker is away; the longest is short, since nodes are few.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Keys per comparison: two compares each, and etcd takes 128 per transaction.
const COMPARE_KEYS_MAX: usize = 60;

struct Task {
    broker: Broker,
    ttl_s: i64,
    shared: Arc<SessionShared>,
    lease: Option<LeaseId>,
    keep_alive_at: Instant,
    /// Where the store was at the last answer.
    seen: Option<Seen>,
    /// Whether what the broker holds shall be compared with what it was told.
    suspicious: bool,
    /// Whether the broker may have forgotten something: then all that differs is put anew, whoever put it.
    forgetful: bool,
    /// Deletions below the prefix. A gap does no harm: every keep-alive compares.
    deletions: Option<WatchStream>,
    /// The stream is not opened (again) before.
    watch_at: Instant,
    /// Keys that were put again, or that another process took, in the log.
    restored: RepeatLog,
    taken: RepeatLog,
    failures: u32,
    /// Keys per transaction: 1 after a refusal, to find the one that is refused.
    batch_keys: usize,
}

/// What ended a pause.
enum PauseEnd {
    Cancelled,
    Command(Option<SessionCommand>),
    Deletions(Option<WatchResponse>),
    Due,
}

/// What is left to do after a step.
enum Next {
    Now,
    At(Instant),
}

pub(super) async fn run(
    broker: Broker,
    ttl_s: i64,
    shared: Arc<SessionShared>,
    mut commands: mpsc::Receiver<SessionCommand>,
    cancel: CancellationToken,
) {
    let mut task = Task {
        broker,
        ttl_s,
        shared: shared.clone(),
        lease: None,
        keep_alive_at: Instant::now(),
        seen: None,
        suspicious: false,
        forgetful: false,
        deletions: None,
        watch_at: Instant::now(),
        restored: RepeatLog::events("publications were deleted or overwritten on the broker and are put back"),
        taken: RepeatLog::outage("another process publishes as this node"),
        failures: 0,
        batch_keys: BATCH_KEYS_MAX,
    };
    loop {
        let step = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            step = task.step() => step,
        };
        let (pause, by_change) = match step {
            Ok(Next::Now) => (Instant::now(), true),
            Ok(Next::At(time)) => (time, true),
            Err(error) => (task.failed(&error), false),
        };
        let wake = tokio::select! {
            // Commands come before the timer: a choice must not wait for a long series of publications.
            biased;
            () = cancel.cancelled() => PauseEnd::Cancelled,
            command = commands.recv() => PauseEnd::Command(command),
            () = tokio::time::sleep_until(pause) => PauseEnd::Due,
            deletions = next(&mut task.deletions) => PauseEnd::Deletions(deletions),
            () = shared.changed.notified(), if by_change => PauseEnd::Due,
        };
        match wake {
            PauseEnd::Cancelled | PauseEnd::Command(None) => break,
            PauseEnd::Command(Some(command)) => {
                if task.obey(command).await.is_break() {
                    break;
                }
            }
            PauseEnd::Deletions(Some(response)) => task.deleted(&response),
            // Opened again in the next step, at the latest with the keep-alive, which also compares.
            PauseEnd::Deletions(None) => task.deletions = None,
            PauseEnd::Due => {}
        }
    }
    shared.connected.send_replace(false);
}

/// The next deletions; never when nobody tells of them, nothing when the stream ends.
async fn next(deletions: &mut Option<WatchStream>) -> Option<WatchResponse> {
    match deletions {
        Some(stream) => stream.message().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

impl Task {
    /// Does the next thing that is due.
    async fn step(&mut self) -> Result<Next, BrokerError> {
        let lease = self.lease().await?;
        if Instant::now() >= self.keep_alive_at {
            self.keep_alive(lease).await?;
            return Ok(Next::Now);
        }
        if self.suspicious {
            self.compare().await?;
            return Ok(Next::Now);
        }
        let now = Instant::now();
        let batch = self.shared.desired().due(now, self.batch_keys);
        if batch.len() > 0 {
            self.tell(lease, batch).await?;
            return Ok(Next::Now);
        }
        if self.deletions.is_none() && now >= self.watch_at {
            self.watch_at = now + BACKOFF.1;
            self.deletions = self.broker.watch_deletions().await.ok();
            return Ok(Next::Now);
        }
        let due = self.shared.desired().next_due(now);
        Ok(Next::At(due.map_or(self.keep_alive_at, |time| time.min(self.keep_alive_at))))
    }

    /// The lease in use; a new one when there is none, and then everything is told anew.
    async fn lease(&mut self) -> Result<LeaseId, BrokerError> {
        if let Some(lease) = self.lease {
            return Ok(lease);
        }
        let (lease, seen) = self.broker.grant(self.ttl_s).await?;
        tracing::info!(broker = self.broker.url(), lease = format!("{:x}", lease.0), "lease granted");
        self.lease = Some(lease);
        self.seen = Some(seen);
        self.suspicious = false;
        self.forgetful = false;
        self.shared.desired().forget_told();
        self.answered();
        Ok(lease)
    }

    async fn keep_alive(&mut self, lease: LeaseId) -> Result<(), BrokerError> {
        let seen = self.broker.keep_alive(lease).await?;
        self.answered();
        self.look_at(seen);
        // Nothing else reveals an operator's mistake or another process with our id.
        self.suspicious = true;
        Ok(())
    }

    /// Compares what the broker holds with what it was told.
    async fn compare(&mut self) -> Result<(), BrokerError> {
        let told = self.shared.desired().told();
        for portion in told.chunks(COMPARE_KEYS_MAX) {
            let held = self.broker.compare(portion).await?;
            for ((key, ..), held) in portion.iter().zip(held) {
                self.differs(key, held);
            }
        }
        (self.suspicious, self.forgetful) = (false, false);
        if self.shared.desired().taken_key().is_none() {
            self.taken.over();
        }
        Ok(())
    }

    fn differs(&mut self, key: &str, held: HeldValue) {
        match held {
            HeldValue::Same => {}
            HeldValue::Other(lease) if lease.0 != 0 && Some(lease) != self.lease && !self.forgetful => {
                if self.shared.desired().taken(key) {
                    self.taken.warn(format!("{key} is on lease {:x}; it is put back when that ends", lease.0));
                }
            }
            HeldValue::Missing | HeldValue::Other(_) => {
                self.restored.warn(key);
                self.shared.desired().gone(key);
            }
        }
    }

    fn deleted(&mut self, response: &WatchResponse) {
        for kv in response.events().iter().filter(|e| e.event_type() == EventType::Delete).filter_map(Event::kv) {
            let key = String::from_utf8_lossy(kv.key());
            if self.shared.desired().deleted(&key, kv.mod_revision()) {
                self.restored.warn(&key);
            }
        }
        if response.canceled() {
            self.deletions = None;
        }
    }

    async fn tell(&mut self, lease: LeaseId, batch: TxnWrites) -> Result<(), BrokerError> {
        match self.broker.write(&batch.delete, &batch.put, lease, REQUEST_TIMEOUT).await {
            Ok(seen) => {
                self.look_at(seen);
                self.failures = 0;
                if batch.len() > 0 {
                    *self.shared.refusal() = None;
                }
                let now = Instant::now();
                if self.shared.desired().confirm(&batch, seen.revision, now) {
                    self.shared.renewals.send_modify(|count| *count += 1);
                }
                if self.shared.desired().due(now, 1).len() == 0 {
                    self.batch_keys = BATCH_KEYS_MAX;
                }
                Ok(())
            }
            Err(BrokerError::Refused { .. }) if batch.len() > 1 => {
                self.batch_keys = 1;
                Ok(())
            }
            Err(error @ BrokerError::Refused { .. }) => {
                *self.shared.refusal() = Some(error.to_string());
                let key = batch.put.first().map(|(key, _)| key).or(batch.delete.first());
                tracing::warn!(key = key.map_or("", String::as_str), %error, "publication refused, retrying later");
                self.shared.desired().refused(&batch, Instant::now());
                Ok(())
            }
            Err(error) => {
                self.shared.desired().uncertain(&batch);
                Err(error)
            }
        }
    }

    async fn obey(&mut self, command: SessionCommand) -> std::ops::ControlFlow<()> {
        match command {
            SessionCommand::Replace { batch, deadline, reply } => {
                if reply.is_closed() {
                    return std::ops::ControlFlow::Continue(());
                }
                match self.replace(&batch, deadline).await {
                    Err(error) => drop(reply.send(Err(error))),
                    Ok(revision) => {
                        let mut desired = self.shared.desired();
                        if reply.send(Ok(revision)).is_ok() {
                            desired.replaced(&batch, revision, Instant::now());
                        } else {
                            // The caller gave up and believes that nothing happened: make it so.
                            desired.replace_failed(&batch);
                        }
                    }
                }
                std::ops::ControlFlow::Continue(())
            }
            SessionCommand::Close { deadline, reply } => {
                if let Some(lease) = self.lease.take() {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if let Err(error) = self.broker.revoke(lease, left).await {
                        tracing::info!(%error, "the lease was not revoked, it will end by itself");
                    }
                }
                let _ = reply.send(());
                std::ops::ControlFlow::Break(())
            }
        }
    }

    /// An urgent transaction; a lease that was lost meanwhile is replaced once.
    async fn replace(&mut self, batch: &TxnWrites, deadline: Instant) -> Result<Revision, BrokerError> {
        let mut renewed = false;
        loop {
            let lease = self.lease().await?;
            let left = deadline.saturating_duration_since(Instant::now()).min(REQUEST_TIMEOUT);
            match self.broker.write(&batch.delete, &batch.put, lease, left).await {
                Ok(seen) => {
                    self.look_at(seen);
                    return Ok(seen.revision);
                }
                Err(BrokerError::LeaseGone(_)) if !renewed => {
                    renewed = true;
                    self.lease = None;
                }
                Err(error) => {
                    if matches!(error, BrokerError::Unreachable { .. }) {
                        self.shared.desired().replace_failed(batch);
                        self.failed(&error);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// The broker answered about the lease: it stands for another while.
    fn answered(&mut self) {
        if self.failures > 0 {
            tracing::info!(broker = self.broker.url(), "the broker is back");
        }
        self.failures = 0;
        let ttl = Duration::from_secs(u64::try_from(self.ttl_s).unwrap_or(1).max(1));
        self.keep_alive_at = Instant::now() + ttl / 3;
        self.shared.connected.send_replace(true);
    }

    fn look_at(&mut self, seen: Seen) {
        if self.seen.is_some_and(|before| before.is_broken_by(&seen)) {
            (self.suspicious, self.forgetful) = (true, true);
        }
        self.seen = Some(seen);
    }

    /// Takes note of a failed step; when to try again.
    fn failed(&mut self, error: &BrokerError) -> Instant {
        if let BrokerError::LeaseGone(_) = error {
            tracing::warn!(%error, "asking for a new lease and publishing anew");
            self.lease = None;
            return Instant::now();
        }
        if self.failures == 0 {
            tracing::warn!(%error, "the broker is away; running streams go on");
        }
        // Sent values may be lost, and the lease may have ended: check both first when the broker is back.
        (self.suspicious, self.forgetful) = (true, true);
        self.deletions = None;
        self.keep_alive_at = Instant::now();
        self.shared.connected.send_replace(false);
        let longest = BACKOFF.0.saturating_mul(1 << self.failures.min(10)).min(BACKOFF.1);
        self.failures = self.failures.saturating_add(1);
        Instant::now() + longest.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}
