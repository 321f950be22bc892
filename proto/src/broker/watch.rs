//! Follows a prefix: first everything that is there, then every change; after compaction, a broker restart or an emptied
//! broker, everything again.
//!
//! A task of its own lists the prefix and watches from the next revision on. A broker that is silent for [`SILENCE`], although
//! asked for its progress every [`PROGRESS_EVERY`], is away. Invariant: after a gap of any kind the next event about keys is a
//! snapshot, so what a reader knows is never a mixture of two lives of the store.

use std::time::Duration;

use etcd_client::{EventType, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Seen;
use super::{Broker, BrokerError, Entry};

/// How often an idle watch asks the broker where it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(1000);

/// A broker that says nothing for so long is looked at anew. With the time of one failing request after it, a hung broker
/// is reported within 5 s.
const SILENCE: Duration = Duration::from_millis(3000);

/// Events that may wait for a slow reader; beyond it the task stops reading, and HTTP/2 flow control holds the broker's side.
const EVENTS_MAX: usize = 1024;

/// First and longest pause between attempts while the broker is away.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What happened below a watched prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchEvent {
    /// All that is there now: what is not in it is gone. Comes first, and again after every gap.
    Snapshot(Vec<Entry>),
    /// A key was put.
    Put(Entry),
    /// A key is gone (deleted, or its lease ended).
    Delete(String),
    /// The broker went away, or is not there at the start; what was seen last still stands. A snapshot follows when it is
    /// back.
    Away,
}

/// A running watch. Retries for ever with back-off; dropping it ends it.
pub struct Watch {
    prefix: String,
    events: mpsc::Receiver<WatchEvent>,
    _task: AbortOnDropHandle<()>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("prefix", &self.prefix).finish()
    }
}

impl Watch {
    /// Starts to follow `prefix`.
    ///
    /// # Panics
    /// When the prefix does not end in a slash: it would match longer names too.
    pub fn start(broker: Broker, prefix: String) -> Watch {
        assert!(prefix.ends_with('/'), "prefix {prefix:?} would match longer names too");
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let follower = Follower { broker, prefix: prefix.clone(), events: sender };
        Watch { prefix, events, _task: AbortOnDropHandle::new(tokio::spawn(follower.run())) }
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> WatchEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The task only ends when the runtime goes down, and then nobody is told anything any more.
            None => std::future::pending().await,
        }
    }
}

struct Follower {
    broker: Broker,
    prefix: String,
    events: mpsc::Sender<WatchEvent>,
}

/// The reader dropped its watch.
struct ReaderGone;

impl Follower {
    async fn run(self) {
        let mut failures = 0_u32;
        loop {
            match self.snapshot_and_stream(&mut failures).await {
                Ok(()) => {}
                Err(Stop::Reader) => return,
                Err(Stop::Broker(error)) => {
                    if failures == 0 {
                        tracing::warn!(prefix = self.prefix, %error, "watch interrupted, the broker is away");
                        if self.tell(WatchEvent::Away).await.is_err() {
                            return;
                        }
                    }
                    let longest = BACKOFF.0.saturating_mul(1 << failures.min(10)).min(BACKOFF.1);
                    failures = failures.saturating_add(1);
                    tokio::time::sleep(longest.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
                }
            }
        }
    }

    /// One snapshot and what follows it, until there is a gap.
    async fn snapshot_and_stream(&self, failures: &mut u32) -> Result<(), Stop> {
        let (entries, seen) = self.broker.list(&self.prefix).await.map_err(Stop::Broker)?;
        let (stream, generation) = self.broker.watch(&self.prefix, seen.revision + 1).await.map_err(Stop::Broker)?;
        if *failures > 0 {
            tracing::info!(prefix = self.prefix, revision = seen.revision, "watch resumed");
        }
        *failures = 0;
        self.tell(WatchEvent::Snapshot(entries)).await?;
        let started = Instant::now();
        let gap = self.stream(stream, seen).await?;
        tracing::debug!(prefix = self.prefix, ?gap, "listing anew");
        if matches!(gap, Gap::Broken | Gap::Silent) {
            self.broker.give_up(generation);
        }
        if started.elapsed() < PROGRESS_EVERY {
            // A broker that ends every stream at once shall not be listed in a tight loop.
            tokio::time::sleep(BACKOFF.0).await;
        }
        Ok(())
    }

    /// Passes events on until the stream cannot be trusted any more.
    async fn stream(&self, stream: WatchStream, mut seen: Seen) -> Result<Gap, ReaderGone> {
        let (mut requests, mut responses) = stream.split();
        let mut heard_at = Instant::now();
        let mut ask = tokio::time::interval(PROGRESS_EVERY);
        ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = responses.message() => Some(message),
                _ = ask.tick() => None,
                () = self.events.closed() => return Err(ReaderGone),
            };
            match message {
                None if heard_at.elapsed() > SILENCE => return Ok(Gap::Silent),
                None => {
                    // Full or closed means that the stream is stuck or gone; both show as silence or as its end.
                    let _ = tokio::time::timeout(PROGRESS_EVERY, requests.request_progress()).await;
                }
                Some(Ok(Some(response))) => {
                    if let Some(gap) = self.pass_on(&response, &mut seen).await? {
                        return Ok(gap);
                    }
                    heard_at = Instant::now();
                }
                Some(Ok(None) | Err(_)) => return Ok(Gap::Broken),
            }
        }
    }

    async fn pass_on(&self, response: &WatchResponse, seen: &mut Seen) -> Result<Option<Gap>, ReaderGone> {
        if response.canceled() || response.compact_revision() != 0 {
            return Ok(Some(Gap::Cancelled { compacted: response.compact_revision() }));
        }
        let now = Seen::of(response.header());
        // The header of a created watch may lag behind the list on a follower; only later answers must not go back.
        if !response.created()
            && seen.is_broken_by(&now)
            && (now.revision < seen.revision || now.cluster != seen.cluster)
        {
            return Ok(Some(Gap::WentBack { from: seen.revision, to: now.revision }));
        }
        if !response.created() {
            *seen = now;
        }
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let entry = Entry::of(kv);
            let event = match event.event_type() {
                EventType::Put => WatchEvent::Put(entry),
                EventType::Delete => WatchEvent::Delete(entry.key),
            };
            self.tell(event).await?;
        }
        Ok(None)
    }

    async fn tell(&self, event: WatchEvent) -> Result<(), ReaderGone> {
        self.events.send(event).await.map_err(|_| ReaderGone)
    }
}

/// Why a stream cannot be trusted any more. The fields are for the log.
#[derive(Debug)]
#[allow(dead_code, reason = "read by Debug only")]
enum Gap {
    Broken,
    Silent,
    Cancelled { compacted: i64 },
    WentBack { from: i64, to: i64 },
}

enum Stop {
    Reader,
    Broker(BrokerError),
}

impl From<ReaderGone> for Stop {
    fn from(_: ReaderGone) -> Stop {
        Stop::Reader
    }
}
