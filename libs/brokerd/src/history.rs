//! Events of the latest revisions, for watches. Bounded; older revisions are reported as compacted.
//!
//! The writer adds durable events, and streams read at their own pace: a slow stream holds only its own position.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use etcd_client::proto::{PbEvent, PbKeyValue};
use tokio::sync::watch;

/// Events kept: some minutes of a busy fabric, enough for a client that reconnects.
const EVENTS_MAX: usize = 10_000;

/// Bytes of keys and values kept.
const BYTES_MAX: usize = 16 << 20;

/// The events of one revision.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) revision: i64,
    pub(super) events: Vec<PbEvent>,
    pub(super) bytes: usize,
}

/// The revision asked for is gone; `floor` is the oldest that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CompactedAway {
    pub(super) floor: i64,
}

/// What watches read from.
pub(super) struct EventHistory {
    kept: RwLock<Kept>,
    /// The last durable revision; what wakes the streams.
    revision: watch::Sender<i64>,
}

struct Kept {
    commits: VecDeque<Arc<Commit>>,
    floor: i64,
    events: usize,
    bytes: usize,
}

impl EventHistory {
    /// A history that starts after `before`, the last revision whose events are not known.
    pub(super) fn new(before: i64) -> EventHistory {
        let kept = Kept { commits: VecDeque::new(), floor: before + 1, events: 0, bytes: 0 };
        EventHistory { kept: RwLock::new(kept), revision: watch::Sender::new(before) }
    }

    /// Adds the events of a revision, which must be the next one.
    pub(super) fn push(&self, revision: i64, events: Vec<PbEvent>) {
        let bytes = events.iter().map(event_bytes).sum();
        let commit = Arc::new(Commit { revision, events, bytes });
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.events += commit.events.len();
        kept.bytes += bytes;
        kept.commits.push_back(commit);
        while kept.commits.len() > 1 && (kept.events > EVENTS_MAX || kept.bytes > BYTES_MAX) {
            kept.drop_first();
        }
        drop(kept);
        self.revision.send_replace(revision);
    }

    /// Forgets what is below `revision`.
    pub(super) fn compact(&self, revision: i64) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        while kept.commits.front().is_some_and(|commit| commit.revision < revision) {
            kept.drop_first();
        }
        kept.floor = kept.floor.max(revision);
    }

    /// Revisions from `start` on, at most `commits_max` of them.
    pub(super) fn from(&self, start: i64, commits_max: usize) -> Result<Vec<Arc<Commit>>, CompactedAway> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if start < kept.floor {
            return Err(CompactedAway { floor: kept.floor });
        }
        let first = kept.commits.partition_point(|commit| commit.revision < start);
        Ok(kept.commits.iter().skip(first).take(commits_max).cloned().collect())
    }

    /// Follows the last durable revision.
    pub(super) fn revisions(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }
}

impl Kept {
    fn drop_first(&mut self) {
        if let Some(commit) = self.commits.pop_front() {
            self.floor = commit.revision + 1;
            self.events -= commit.events.len();
            self.bytes -= commit.bytes;
        }
    }
}

fn event_bytes(event: &PbEvent) -> usize {
    let kv_bytes = |kv: &Option<PbKeyValue>| kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
    kv_bytes(&event.kv) + kv_bytes(&event.prev_kv)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize) -> PbEvent {
        let kv = PbKeyValue { key: vec![b'k'; bytes], ..PbKeyValue::default() };
        PbEvent { r#type: 0, kv: Some(kv), prev_kv: None }
    }

    fn revisions(history: &EventHistory, start: i64) -> Result<Vec<i64>, CompactedAway> {
        Ok(history.from(start, usize::MAX)?.iter().map(|commit| commit.revision).collect())
    }

    #[test]
    fn it_is_bounded_in_events_and_says_what_is_gone() {
        let history = EventHistory::new(1);
        for revision in 2..=EVENTS_MAX as i64 + 11 {
            history.push(revision, vec![event(1)]);
        }
        assert_eq!(revisions(&history, 11), Err(CompactedAway { floor: 12 }));
        assert_eq!(revisions(&history, 12).map(|found| found.len()), Ok(EVENTS_MAX));
    }

    #[test]
    fn it_is_bounded_in_bytes_but_keeps_the_last() {
        let history = EventHistory::new(1);
        history.push(2, vec![event(10)]);
        history.push(3, vec![event(BYTES_MAX + 1)]);
        assert_eq!(revisions(&history, 3), Ok(vec![3]));
        assert_eq!(revisions(&history, 2), Err(CompactedAway { floor: 3 }));
    }

    #[test]
    fn compaction_forgets_what_is_below() {
        let history = EventHistory::new(1);
        (2..=5).for_each(|revision| history.push(revision, vec![event(1)]));
        history.compact(4);
        assert_eq!(revisions(&history, 3), Err(CompactedAway { floor: 4 }));
        assert_eq!(revisions(&history, 4), Ok(vec![4, 5]));
        assert_eq!(revisions(&history, 9), Ok(vec![]));
        history.compact(6);
        assert_eq!(revisions(&history, 5), Err(CompactedAway { floor: 6 }));
    }
}
