//! Follows a prefix: first its content, then every change; after a compaction, a broker restart or an emptied broker,
//! its content again.
//!
//! A separate task lists the prefix and watches from the next revision on. A broker that is silent for [`SILENCE`],
//! although asked for its progress every [`PROGRESS_EVERY`], counts as away. Invariants:
//! - after any gap, the next event about keys is a snapshot, so a reader needs no memory of its own;
//! - a key that is missing in another life of the store (restarted, emptied, restored from a copy) is not gone yet:
//!   nodes have [`SETTLE`] to publish again, and only then do missing keys count as deleted. So nothing is torn down
//!   because a broker forgot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use etcd_client::{EventType, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Seen;
use super::{Broker, BrokerError, KeyEntry};

/// How often an idle watch asks the broker where it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(1000);

/// A broker that says nothing for so long is looked at anew. With the time of one failing request after it, a hung
/// broker is reported within 5 s.
const SILENCE: Duration = Duration::from_millis(2500);

/// What an emptied broker does not show is believed for so long: nodes notice within a third of a lease's time (3.3 s),
/// and try again at least once a second.
pub(super) const SETTLE: Duration = Duration::from_secs(6);

/// Events that may wait for a slow reader; beyond it the task stops reading, and HTTP/2 flow control holds the broker's
/// side.
const EVENTS_MAX: usize = 1024;

/// First and longest pause between attempts while the broker is away.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What happened below a watched prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchEvent {
    /// All that counts now: what is not in it is gone. Comes first, and again after every gap. After a restart of the
    /// broker it also has what was seen last and is not there yet; what stays missing is deleted some seconds later.
    Snapshot(Vec<KeyEntry>),
    /// A key was put.
    Put(KeyEntry),
    /// A key is gone (deleted, or its lease ended).
    Delete(String),
    /// The broker went away, or is not there at the start; what was seen last still stands. A snapshot follows when it
    /// is back.
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
        let follower = Follower { broker, prefix: prefix.clone(), events: sender, seen: None, known: Known::default() };
        Watch { prefix, events, _task: AbortOnDropHandle::new(tokio::spawn(follower.run())) }
    }

    /// The next event. Cancel safe.
    ///
    /// # Panics
    /// When the task that follows the broker has panicked.
    pub async fn next(&mut self) -> WatchEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends only by a panic. Its reader would keep a stale view for ever: better to panic here, too.
            None => panic!("the watch of {} has panicked", self.prefix),
        }
    }
}

struct Follower {
    broker: Broker,
    prefix: String,
    events: mpsc::Sender<WatchEvent>,
    /// Where the store was last.
    seen: Option<Seen>,
    known: Known,
}

/// What the reader was told, and what of it the present life of the store has not shown yet.
#[derive(Default)]
struct Known {
    entries: BTreeMap<String, KeyEntry>,
    missing: BTreeSet<String>,
    settled_at: Option<Instant>,
}

impl Known {
    /// Takes a listing; what of the known is not in it stays, as missing, when the store is in `another_life`.
    fn list(&mut self, listed: Vec<KeyEntry>, another_life: bool, now: Instant) -> Vec<KeyEntry> {
        let listed: BTreeMap<String, KeyEntry> = listed.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        if another_life {
            self.missing = self.entries.keys().cloned().collect();
            self.settled_at = Some(now + SETTLE);
        }
        self.missing.retain(|key| !listed.contains_key(key));
        let missing = &self.missing;
        self.entries.retain(|key, _| missing.contains(key));
        self.entries.extend(listed);
        if self.missing.is_empty() {
            self.settled_at = None;
        }
        self.entries.values().cloned().collect()
    }

    fn put(&mut self, entry: KeyEntry) {
        self.missing.remove(&entry.key);
        self.entries.insert(entry.key.clone(), entry);
    }

    fn delete(&mut self, key: &str) {
        self.missing.remove(key);
        self.entries.remove(key);
    }

    /// The time is over: what is still missing is gone.
    fn settle(&mut self) -> Vec<String> {
        self.settled_at = None;
        let gone: Vec<String> = std::mem::take(&mut self.missing).into_iter().collect();
        gone.iter().for_each(|key| drop(self.entries.remove(key)));
        gone
    }
}

/// The reader dropped its watch.
struct ReaderGone;

/// What a stream waits for.
enum WatchWake {
    Message(Result<Option<WatchResponse>, etcd_client::Error>),
    Ask,
    Settled,
}

impl Follower {
    async fn run(mut self) {
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
    async fn snapshot_and_stream(&mut self, failures: &mut u32) -> Result<(), Stop> {
        let (entries, seen) = self.broker.list(&self.prefix).await.map_err(Stop::Broker)?;
        let (stream, generation) = self.broker.watch(&self.prefix, seen.revision + 1).await.map_err(Stop::Broker)?;
        let another_life = self.seen.is_some_and(|before| before.is_broken_by(&seen));
        if *failures > 0 {
            tracing::info!(prefix = self.prefix, revision = seen.revision, another_life, "watch resumed");
        }
        *failures = 0;
        self.seen = Some(seen);
        let started = Instant::now();
        let snapshot = self.known.list(entries, another_life, started);
        self.tell(WatchEvent::Snapshot(snapshot)).await?;
        let gap = self.stream(stream).await?;
        tracing::debug!(prefix = self.prefix, ?gap, "listing anew");
        if matches!(gap, Gap::Broken | Gap::Silent) {
            self.broker.give_up(generation);
        }
        if started.elapsed() < PROGRESS_EVERY {
            // A broker that ends every stream at once must not be listed in a tight loop.
            tokio::time::sleep(BACKOFF.0).await;
        }
        Ok(())
    }

    /// Passes events on until the stream cannot be trusted any more.
    async fn stream(&mut self, stream: WatchStream) -> Result<Gap, ReaderGone> {
        let (mut requests, mut responses) = stream.split();
        let mut heard_at = Instant::now();
        let mut ask = tokio::time::interval(PROGRESS_EVERY);
        ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = tokio::select! {
                message = responses.message() => WatchWake::Message(message),
                _ = ask.tick() => WatchWake::Ask,
                () = sleep_until(self.known.settled_at) => WatchWake::Settled,
                () = self.events.closed() => return Err(ReaderGone),
            };
            match wake {
                WatchWake::Ask if heard_at.elapsed() > SILENCE => return Ok(Gap::Silent),
                WatchWake::Ask => {
                    // Full or closed: the stream is stuck or gone. Both show up as silence or as its end.
                    let _ = tokio::time::timeout(PROGRESS_EVERY, requests.request_progress()).await;
                }
                WatchWake::Settled => {
                    for key in self.known.settle() {
                        self.tell(WatchEvent::Delete(key)).await?;
                    }
                }
                WatchWake::Message(Ok(Some(response))) => {
                    if let Some(gap) = self.pass_on(&response).await? {
                        return Ok(gap);
                    }
                    heard_at = Instant::now();
                }
                WatchWake::Message(Ok(None) | Err(_)) => return Ok(Gap::Broken),
            }
        }
    }

    async fn pass_on(&mut self, response: &WatchResponse) -> Result<Option<Gap>, ReaderGone> {
        if response.canceled() || response.compact_revision() != 0 {
            return Ok(Some(Gap::Cancelled { compacted: response.compact_revision() }));
        }
        let now = Seen::of(response.header());
        // On a follower, the header of a created watch may lag behind the list; only later answers must not go back.
        if let (Some(seen), false) = (self.seen, response.created()) {
            if now.revision < seen.revision || now.cluster != seen.cluster {
                return Ok(Some(Gap::WentBack { from: seen.revision, to: now.revision }));
            }
            self.seen = Some(now);
        }
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let entry = KeyEntry::of(kv);
            let event = match event.event_type() {
                EventType::Put => {
                    self.known.put(entry.clone());
                    WatchEvent::Put(entry)
                }
                EventType::Delete => {
                    self.known.delete(&entry.key);
                    WatchEvent::Delete(entry.key)
                }
            };
            self.tell(event).await?;
        }
        Ok(None)
    }

    async fn tell(&self, event: WatchEvent) -> Result<(), ReaderGone> {
        self.events.send(event).await.map_err(|_| ReaderGone)
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, mod_revision: i64) -> KeyEntry {
        KeyEntry { key: key.to_owned(), value: Vec::new(), mod_revision }
    }

    fn told(snapshot: Vec<KeyEntry>) -> Vec<(String, i64)> {
        snapshot.into_iter().map(|entry| (entry.key, entry.mod_revision)).collect()
    }

    #[test]
    fn what_a_new_life_lacks_is_believed_until_it_settles() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.list(vec![entry("a", 5), entry("b", 6), entry("c", 7)], false, now);
        let merged = known.list(vec![entry("b", 2)], true, now);
        assert_eq!(told(merged), [("a".into(), 5), ("b".into(), 2), ("c".into(), 7)]);
        assert_eq!(known.settled_at, Some(now + SETTLE));
        known.put(entry("a", 3));
        // A gap meanwhile changes nothing about that.
        let again = known.list(vec![entry("a", 3), entry("b", 2)], false, now + SETTLE / 2);
        assert_eq!((again.len(), known.settled_at), (3, Some(now + SETTLE)));
        assert_eq!(known.settle(), ["c"]);
        assert_eq!((known.settled_at, known.entries.len()), (None, 2));
    }

    #[test]
    fn within_one_life_what_is_not_listed_is_gone() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.list(vec![entry("a", 5), entry("b", 6)], false, now);
        known.delete("a");
        assert_eq!(told(known.list(vec![entry("c", 9)], false, now)), [("c".into(), 9)]);
        assert_eq!(known.settled_at, None);
        // A new life that shows everything has nothing to wait for.
        known.list(vec![entry("c", 9)], true, now);
        assert_eq!(known.settled_at, None);
    }
}
