//! The single owner of the store and its log: takes requests in batches, makes their changes durable, then answers.
//!
//! Reads take the same path as writes, so nobody sees a state that a crash could undo. Many requests share one sync.
//! The log works on a blocking thread, and the store does not change meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::history::EventHistory;
use super::limits::LEASES_MAX;
use super::log::{LogError, StoreLog};
use super::store::{KeyStore, Millis, StoreOp};

/// Requests that may wait; each is at most one gRPC message (4 MiB), and clients wait for their answers before the next
/// one.
const REQUESTS_MAX: usize = 128;

/// Requests per sync.
const BATCH_MAX: usize = 64;

/// A lease that ended so long ago unnoticed says that this server stood still (stopped, suspended, a slow disk), and
/// that its clients could not keep their leases alive either.
const STALL_MS: Millis = 1_000;

/// So few leases are no crowd any longer; far below where it begins, so that the log is not filled by going to and fro.
const CROWD_OVER: usize = LEASES_MAX / 4;

/// What to do on the store; gives what to do when it is durable.
type WriterJob = Box<dyn FnOnce(&mut KeyStore, Millis) -> DurableAnswer + Send>;
type DurableAnswer = Box<dyn FnOnce() + Send>;

/// Hands requests to the writer; cheap to clone.
#[derive(Clone)]
pub(super) struct Requests {
    jobs: mpsc::Sender<WriterJob>,
}

impl Requests {
    /// Runs `work` on the store; the answer comes when everything it could have seen or done is durable.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut KeyStore, Millis) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let job: WriterJob = Box::new(move |store, now| {
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
pub(super) struct ServerClock {
    started: Instant,
}

impl ServerClock {
    pub(super) fn start() -> ServerClock {
        ServerClock { started: Instant::now() }
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
    store: KeyStore,
    /// `None` only while a blocking thread has it.
    log: Option<StoreLog>,
    history: Arc<EventHistory>,
    clock: ServerClock,
    jobs: mpsc::Receiver<WriterJob>,
    /// It was told that there are too many leases.
    crowded: bool,
}

impl Writer {
    pub(super) fn new(
        store: KeyStore,
        log: StoreLog,
        history: Arc<EventHistory>,
        clock: ServerClock,
    ) -> (Writer, Requests) {
        let (sender, jobs) = mpsc::channel(REQUESTS_MAX);
        (Writer { store, log: Some(log), history, clock, jobs, crowded: false }, Requests { jobs: sender })
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

    async fn serve(&mut self, batch: &mut Vec<WriterJob>) -> Result<(), LogError> {
        let now = self.clock.now();
        if self.store.next_end().is_some_and(|end| end + STALL_MS < now) {
            tracing::warn!("this server stood still: every lease gets its full time again");
            self.store.renew_all(now);
        }
        let was_full = self.store.is_full();
        let answers: Vec<DurableAnswer> = batch.drain(..).map(|job| job(&mut self.store, now)).collect();
        tell_alarm(was_full, &self.store);
        self.tell_crowd();
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
                if let Some(StoreOp::Compact { revision }) = change.ops.first() {
                    self.history.compact(*revision);
                }
                if !change.events.is_empty() {
                    self.history.push(change.revision, change.events);
                }
            }
        }
        answers.into_iter().for_each(|answer| answer());
        if self.log.as_ref().is_some_and(StoreLog::wants_rewrite) {
            // Lent, not copied: it may be as large as the quota.
            let identity = self.store.identity();
            let store = std::mem::replace(&mut self.store, KeyStore::new(identity));
            self.store = self.with_log(move |log| Ok((log.rewrite(&store)?, store))).await?;
        }
        Ok(())
    }

    /// Logs that there are more leases than nodes can need, once until they are few again.
    fn tell_crowd(&mut self) {
        if let Some(text) = self.store.crowd().filter(|_| !self.crowded) {
            tracing::error!("{text}");
            self.crowded = true;
        }
        self.crowded &= self.store.lease_count() > CROWD_OVER;
    }

    /// Lends the log to a blocking thread. After an error it is gone, and so is the writer.
    async fn with_log<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(StoreLog) -> Result<(StoreLog, T), LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let log = self.log.take().expect("an error of the log ends the writer");
        let (log, outcome) = tokio::task::spawn_blocking(move || work(log)).await.expect("the log does not panic")?;
        self.log = Some(log);
        Ok(outcome)
    }
}

/// Logs that the alarm was raised or disarmed.
fn tell_alarm(was_full: bool, store: &KeyStore) {
    let (used_bytes, quota_bytes) = (store.used_bytes(), store.quota_bytes());
    match (was_full, store.is_full()) {
        (false, true) => tracing::error!(
            used_bytes,
            quota_bytes,
            "the embedded broker is full and takes no writes: delete keys (etcdctl del) or raise --quota-bytes, then \
             etcdctl alarm disarm"
        ),
        (true, false) => tracing::info!(used_bytes, quota_bytes, "the alarm was disarmed, writes are taken again"),
        _ => {}
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbPutRequest, PbRangeRequest};
    use tonic::Code;

    use super::*;
    use crate::log::Opened;

    fn put(store: &mut KeyStore, now: Millis) -> i64 {
        let request = PbPutRequest { key: b"k".to_vec(), ..PbPutRequest::default() };
        store.put(&request, now).expect("put").header.expect("header").revision
    }

    /// Goal: nothing that could not be made durable is acknowledged, shown or tried again. Method: a log whose file
    /// cannot be written; the same directory is opened once more afterwards.
    #[tokio::test]
    async fn a_failed_write_ends_the_server_and_nothing_is_acknowledged() {
        let dir = tempfile::tempdir().expect("temp dir");
        let Opened { mut log, mut store, .. } = StoreLog::open(dir.path(), 1, 0).expect("open");
        put(&mut store, 0);
        log.append(&store.take_changes()).expect("append");
        log.break_file();
        let history = Arc::new(EventHistory::new(store.revision()));
        let (writer, requests) = Writer::new(store, log, history.clone(), ServerClock::start());
        let running = tokio::spawn(writer.run(CancellationToken::new()));
        let read =
            |store: &mut KeyStore, _| store.range(&PbRangeRequest { key: b"k".to_vec(), ..PbRangeRequest::default() });
        let (read, written) = tokio::join!(requests.run(read), requests.run(put));
        assert_eq!(written.expect_err("it is not durable").code(), Code::Unavailable);
        // The read came before the write; it may share its batch or be answered first. Both are sound.
        assert!(read.is_err() || read.is_ok_and(|found| found.is_ok_and(|found| found.kvs[0].mod_revision == 2)));
        assert!(matches!(running.await.expect("no panic"), Err(LogError::Io { .. })));
        assert_eq!(requests.run(put).await.expect_err("it has ended").code(), Code::Unavailable);
        assert_eq!(*history.revisions().borrow(), 2, "watchers were told nothing");
        assert_eq!(StoreLog::open(dir.path(), 1, 0).expect("open").store.revision(), 2);
    }

    /// Goal: leases end in time, but not because the server itself stood still. Method: a clock that jumps far over the
    /// end of a lease, and a little over the next one.
    #[tokio::test]
    async fn a_server_that_stood_still_ends_no_lease() {
        let dir = tempfile::tempdir().expect("temp dir");
        let Opened { log, mut store, .. } = StoreLog::open(dir.path(), 1, 0).expect("open");
        store.grant(7, 5, 0).expect("grant");
        let (mut writer, _requests) = Writer::new(store, log, Arc::new(EventHistory::new(1)), ServerClock::start());
        let ago = |ms| ServerClock {
            started: Instant::now().checked_sub(Duration::from_millis(ms)).expect("long after boot"),
        };
        writer.clock = ago(20_000);
        writer.serve(&mut Vec::new()).await.expect("serve");
        let end = writer.store.next_end().expect("the lease stands");
        assert!(end >= 25_000, "it has its full time");
        writer.clock = ago(end + 1);
        writer.serve(&mut Vec::new()).await.expect("serve");
        assert!(!writer.store.has_lease(7), "it ended in time");
    }

    #[tokio::test]
    async fn requests_of_a_batch_are_durable_before_they_are_answered() {
        let dir = tempfile::tempdir().expect("temp dir");
        let Opened { log, store, .. } = StoreLog::open(dir.path(), 1, 0).expect("open");
        let history = Arc::new(EventHistory::new(store.revision()));
        let (writer, requests) = Writer::new(store, log, history, ServerClock::start());
        let cancel = CancellationToken::new();
        let running = tokio::spawn(writer.run(cancel.clone()));
        let answers = futures::future::join_all((0..100).map(|_| requests.run(put))).await;
        let last = answers.into_iter().map(|answer| answer.expect("answered")).max();
        let copy = tempfile::tempdir().expect("temp dir");
        for entry in std::fs::read_dir(dir.path()).expect("directory") {
            let path = entry.expect("entry").path();
            std::fs::copy(&path, copy.path().join(path.file_name().expect("name"))).expect("copy");
        }
        assert_eq!(Some(StoreLog::open(copy.path(), 1, 0).expect("open").store.revision()), last);
        cancel.cancel();
        running.await.expect("no panic").expect("an orderly end");
    }
}
