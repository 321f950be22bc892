//! The one owner of the store and its log: takes requests in batches, makes what they did durable, then answers.
//!
//! Reads go the same way as writes, so nobody sees a state that a crash could take back. Many requests share one sync. The log
//! works on a blocking thread; the store is not touched meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::history::History;
use super::log::{Log, LogError};
use super::store::{Millis, Op, Store};

/// Requests that may wait; each is at most one gRPC message (4 MiB), and clients wait for their answers before the next one.
const REQUESTS_MAX: usize = 128;

/// Requests per sync.
const BATCH_MAX: usize = 64;

/// What to do on the store; gives what to do when it is durable.
type Job = Box<dyn FnOnce(&mut Store, Millis) -> Answer + Send>;
type Answer = Box<dyn FnOnce() + Send>;

/// Hands requests to the writer; cheap to clone.
#[derive(Clone)]
pub(super) struct Requests {
    jobs: mpsc::Sender<Job>,
}

impl Requests {
    /// Runs `work` on the store; the answer comes when everything it could have seen or done is durable.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store, Millis) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |store, now| {
            let outcome = work(store, now);
            // A client that went away needs no answer.
            Box::new(move || drop(reply.send(outcome)))
        });
        let stopping = || Status::unavailable("the embedded broker is stopping");
        self.jobs.send(job).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

/// The server's monotonic clock.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { started: Instant::now() }
    }

    fn now(self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn instant(self, time: Millis) -> Instant {
        // Far away is as good as never.
        self.started + Duration::from_millis(time.min(u64::from(u32::MAX)))
    }
}

pub(super) struct Writer {
    store: Store,
    /// `None` only while a blocking thread has it.
    log: Option<Log>,
    history: Arc<History>,
    clock: Clock,
    jobs: mpsc::Receiver<Job>,
}

impl Writer {
    pub(super) fn new(store: Store, log: Log, history: Arc<History>, clock: Clock) -> (Writer, Requests) {
        let (sender, jobs) = mpsc::channel(REQUESTS_MAX);
        (Writer { store, log: Some(log), history, clock, jobs }, Requests { jobs: sender })
    }

    /// Serves until cancelled; an error of the log ends it, and requests in flight stay unanswered.
    pub(super) async fn run(mut self, cancel: CancellationToken) -> Result<(), LogError> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let next_end = self.store.next_end().map(|time| self.clock.instant(time));
            let received = tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                // Requests before ended leases: a keep-alive that is already here counts.
                received = self.jobs.recv_many(&mut batch, BATCH_MAX) => received,
                () = sleep_until(next_end) => 0,
            };
            if received == 0 && self.jobs.is_closed() {
                return Ok(());
            }
            self.serve(&mut batch).await?;
        }
    }

    async fn serve(&mut self, batch: &mut Vec<Job>) -> Result<(), LogError> {
        let now = self.clock.now();
        let answers: Vec<Answer> = batch.drain(..).map(|job| job(&mut self.store, now)).collect();
        let ended = self.store.expire(now);
        if ended > 0 {
            tracing::info!(leases = ended, "leases ended, their keys are deleted");
        }
        let changes = self.store.take_changes();
        if !changes.is_empty() {
            let changes = self
                .with_log(move |mut log| {
                    log.append(&changes)?;
                    Ok((log, changes))
                })
                .await?;
            for change in changes {
                if let Some(Op::Compact { revision }) = change.ops.first() {
                    self.history.compact(*revision);
                }
                if !change.events.is_empty() {
                    self.history.push(change.revision, change.events);
                }
            }
        }
        answers.into_iter().for_each(|answer| answer());
        if self.log.as_ref().is_some_and(Log::wants_rewrite) {
            let store = self.store.clone();
            self.with_log(move |log| Ok((log.rewrite(&store)?, ()))).await?;
        }
        Ok(())
    }

    /// Lends the log to a blocking thread. After an error it is gone, and so is the writer.
    async fn with_log<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(Log) -> Result<(Log, T), LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let log = self.log.take().expect("an error of the log ends the writer");
        let (log, outcome) = tokio::task::spawn_blocking(move || work(log)).await.expect("the log does not panic")?;
        self.log = Some(log);
        Ok(outcome)
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
