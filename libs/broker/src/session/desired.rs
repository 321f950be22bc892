//! Desired values of a node's keys, the values last sent to the broker, and the writes that are due. Pure: time is an
//! argument.
//!
//! Invariants: a key is written only when the desired value differs from the sent one; two writes of one key, unless
//! urgent, are at least [`SPACING`] apart; an unknown value (after a failure) counts as different.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::Revision;

/// Least time between two publications of one key.
pub(super) const SPACING: Duration = Duration::from_secs(1);

/// A key that the broker refused is tried again after this time.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// Keys per transaction: etcd takes 128 operations by default.
pub(super) const BATCH_KEYS_MAX: usize = 100;

/// Bytes of values per transaction: etcd takes 1.5 MiB by default.
const BATCH_BYTES_MAX: usize = 512 * 1024;

/// Everything that one node publishes.
#[derive(Default)]
pub(super) struct Desired {
    keys: HashMap<String, Slot>,
    /// Keys whose wanted state is not the told one.
    dirty: BTreeSet<String>,
}

struct Slot {
    /// `None`: the key shall go.
    wanted: Option<Bytes>,
    told: Told,
    /// Last revision that the broker confirmed for a put of this key, also while `told` is unknown.
    revision: Option<Revision>,
    not_before: Option<Instant>,
    /// Another process put the key on a lease of its own: it is left alone until it is gone. Two that put one key in
    /// turn would never end, and who came later was started on purpose.
    taken: bool,
}

/// What the broker holds, as far as this node knows.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    Nothing,
    Unknown,
    Value(Bytes),
}

/// One transaction's worth of writes.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct TxnWrites {
    pub(super) delete: Vec<String>,
    pub(super) put: Vec<(String, Bytes)>,
}

impl TxnWrites {
    pub(super) fn len(&self) -> usize {
        self.delete.len() + self.put.len()
    }
}

impl Slot {
    fn new() -> Slot {
        Slot { wanted: None, told: Told::Nothing, revision: None, not_before: None, taken: false }
    }

    fn is_dirty(&self) -> bool {
        match (&self.wanted, &self.told) {
            _ if self.taken => false,
            (Some(wanted), Told::Value(told)) => wanted != told,
            (None, Told::Nothing) => false,
            _ => true,
        }
    }
}

impl Desired {
    pub(super) fn publish(&mut self, key: String, value: Bytes) {
        self.slot(key, |slot| slot.wanted = Some(value));
    }

    pub(super) fn withdraw(&mut self, key: &str) {
        if self.keys.contains_key(key) {
            self.slot(key.to_owned(), |slot| {
                slot.wanted = None;
                // A removal is never delayed: it says that something is over.
                slot.not_before = None;
            });
        }
    }

    pub(super) fn revision_of(&self, key: &str) -> Option<Revision> {
        self.keys.get(key).filter(|slot| slot.wanted.is_some())?.revision
    }

    /// Forgets what the broker was told: everything is written anew.
    pub(super) fn forget_told(&mut self) {
        let keys: Vec<String> = self.keys.keys().cloned().collect();
        self.forget(keys.iter());
    }

    /// Forgets what the broker was told about some keys.
    pub(super) fn forget<'a>(&mut self, keys: impl Iterator<Item = &'a String>) {
        for key in keys {
            if self.keys.get(key).is_some_and(|slot| !slot.taken) {
                self.slot(key.clone(), |slot| {
                    slot.told = Told::Unknown;
                    slot.not_before = None;
                });
            }
        }
    }

    /// The key is not there any more: it is written anew, also when somebody else had taken it.
    pub(super) fn gone(&mut self, key: &str) {
        if let Some(slot) = self.keys.get_mut(key) {
            slot.taken = false;
            self.forget(std::iter::once(&key.to_owned()));
        }
    }

    /// A deletion of the key at `revision` was seen. Whether it is news: an older one, or our own, is not.
    pub(super) fn deleted(&mut self, key: &str, revision: Revision) -> bool {
        let is_news = |slot: &&Slot| slot.wanted.is_some() && slot.revision.is_some_and(|put| put < revision);
        let news = self.keys.get(key).filter(is_news).is_some();
        if news {
            self.gone(key);
        }
        news
    }

    /// Another process has put the key. Whether that is news.
    pub(super) fn taken(&mut self, key: &str) -> bool {
        let news = self.keys.get(key).is_some_and(|slot| !slot.taken);
        if news {
            self.slot(key.to_owned(), |slot| slot.taken = true);
        }
        news
    }

    /// A key that another process has put, if any.
    pub(super) fn taken_key(&self) -> Option<&str> {
        self.keys.iter().find(|(_, slot)| slot.taken).map(|(key, _)| key.as_str())
    }

    /// What is due at `now`, at most `keys_max` keys.
    pub(super) fn due(&self, now: Instant, keys_max: usize) -> TxnWrites {
        let mut batch = TxnWrites::default();
        let mut bytes = 0;
        for key in &self.dirty {
            let slot = &self.keys[key];
            if slot.not_before.is_some_and(|time| time > now) {
                continue;
            }
            let size = slot.wanted.as_ref().map_or(0, Bytes::len) + key.len();
            if batch.len() == keys_max || (batch.len() > 0 && bytes + size > BATCH_BYTES_MAX) {
                break;
            }
            bytes += size;
            match &slot.wanted {
                Some(value) => batch.put.push((key.clone(), value.clone())),
                None => batch.delete.push(key.clone()),
            }
        }
        batch
    }

    /// When something becomes due; `None` when all is told.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.dirty.iter().map(|key| self.keys[key].not_before.unwrap_or(now)).min()
    }

    /// The broker took the batch at `revision`. True when a key got a new revision for a value that it already had.
    pub(super) fn confirm(&mut self, batch: &TxnWrites, revision: Revision, now: Instant) -> bool {
        let mut renewed = false;
        for (key, value) in &batch.put {
            self.slot(key.clone(), |slot| {
                renewed |= slot.revision.is_some() && slot.told == Told::Unknown;
                slot.told = Told::Value(value.clone());
                slot.taken = false;
                slot.revision = Some(revision);
                slot.not_before = Some(now + SPACING);
            });
        }
        for key in &batch.delete {
            if self.keys.contains_key(key) {
                self.slot(key.clone(), |slot| slot.told = Told::Nothing);
            }
        }
        renewed
    }

    /// The broker may or may not have taken the batch.
    pub(super) fn uncertain(&mut self, batch: &TxnWrites) {
        self.forget(batch.put.iter().map(|(key, _)| key).chain(&batch.delete));
    }

    /// The broker refused the batch for good: try these keys again later.
    pub(super) fn refused(&mut self, batch: &TxnWrites, now: Instant) {
        for key in batch.put.iter().map(|(key, _)| key).chain(&batch.delete) {
            if self.keys.contains_key(key) {
                self.slot(key.clone(), |slot| slot.not_before = Some(now + REFUSED_PAUSE));
            }
        }
    }

    /// An urgent batch was taken: it is the desired state from now on.
    pub(super) fn replaced(&mut self, batch: &TxnWrites, revision: Revision, now: Instant) {
        for key in &batch.delete {
            self.withdraw(key);
        }
        for (key, value) in &batch.put {
            self.publish(key.clone(), value.clone());
        }
        self.confirm(batch, revision, now);
    }

    /// An urgent batch failed, and the broker may have taken it: what was desired before is written anew, and keys that
    /// were not desired are removed.
    pub(super) fn replace_failed(&mut self, batch: &TxnWrites) {
        for (key, _) in &batch.put {
            self.slot(key.clone(), |slot| slot.told = Told::Unknown);
        }
        self.uncertain(batch);
    }

    /// What the broker should hold, for comparison.
    pub(super) fn told(&self) -> Vec<(String, Bytes, Revision)> {
        let told = |(key, slot): (&String, &Slot)| match (&slot.told, slot.revision) {
            (Told::Value(value), Some(revision)) => Some((key.clone(), value.clone(), revision)),
            // Compared whatever its value: it may be gone.
            _ if slot.taken => Some((key.clone(), Bytes::new(), 0)),
            _ => None,
        };
        self.keys.iter().filter_map(told).collect()
    }

    fn slot(&mut self, key: String, change: impl FnOnce(&mut Slot)) {
        let slot = self.keys.entry(key.clone()).or_insert_with(Slot::new);
        change(slot);
        if slot.is_dirty() {
            self.dirty.insert(key);
        } else {
            self.dirty.remove(&key);
            if slot.wanted.is_none() {
                self.keys.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(delete: &[&str], put: &[(&str, &'static str)]) -> TxnWrites {
        TxnWrites {
            delete: delete.iter().map(|key| (*key).to_owned()).collect(),
            put: put.iter().map(|(key, value)| ((*key).to_owned(), Bytes::from_static(value.as_bytes()))).collect(),
        }
    }

    fn publish(desired: &mut Desired, key: &str, value: &'static str) {
        desired.publish(key.to_owned(), Bytes::from_static(value.as_bytes()));
    }

    #[test]
    fn first_publication_is_due_at_once_and_the_next_a_second_later() {
        let (mut desired, now) = (Desired::default(), Instant::now());
        publish(&mut desired, "a", "1");
        let due = desired.due(now, 10);
        assert_eq!(due, batch(&[], &[("a", "1")]));
        assert!(!desired.confirm(&due, 7, now), "a first put renews nothing");
        assert_eq!(desired.next_due(now), None);
        publish(&mut desired, "a", "1");
        assert_eq!(desired.next_due(now), None, "the same value again is no change");
        publish(&mut desired, "a", "2");
        publish(&mut desired, "a", "3");
        assert_eq!(desired.due(now, 10), TxnWrites::default());
        assert_eq!(desired.next_due(now), Some(now + SPACING));
        assert_eq!(desired.due(now + SPACING, 10), batch(&[], &[("a", "3")]), "only the last value counts");
        publish(&mut desired, "a", "1");
        assert_eq!(desired.next_due(now), None, "back to what the broker has");
        assert_eq!(desired.revision_of("a"), Some(7));
    }

    #[test]
    fn a_change_during_a_write_stays_due() {
        let (mut desired, now) = (Desired::default(), Instant::now());
        publish(&mut desired, "a", "1");
        let due = desired.due(now, 10);
        publish(&mut desired, "a", "2");
        desired.confirm(&due, 2, now);
        assert_eq!(desired.due(now + SPACING, 10), batch(&[], &[("a", "2")]));
    }

    #[test]
    fn withdrawn_keys_are_deleted_once_and_at_once() {
        let (mut desired, now) = (Desired::default(), Instant::now());
        publish(&mut desired, "a", "1");
        desired.confirm(&desired.due(now, 10), 2, now);
        desired.withdraw("a");
        assert_eq!(desired.revision_of("a"), None);
        let due = desired.due(now, 10);
        assert_eq!(due, batch(&["a"], &[]));
        desired.confirm(&due, 3, now);
        assert!(desired.keys.is_empty() && desired.dirty.is_empty());
        publish(&mut desired, "b", "1");
        desired.withdraw("b");
        assert_eq!(desired.next_due(now), None, "the broker never heard of it");
        desired.withdraw("unknown");
        assert!(desired.keys.is_empty());
    }

    #[test]
    fn a_lost_lease_writes_everything_anew_and_keeps_the_old_revision_until_then() {
        let (mut desired, now) = (Desired::default(), Instant::now());
        publish(&mut desired, "a", "1");
        publish(&mut desired, "b", "1");
        desired.confirm(&desired.due(now, 10), 5, now);
        desired.forget_told();
        assert_eq!(desired.revision_of("a"), Some(5));
        let due = desired.due(now, 10);
        assert_eq!(due, batch(&[], &[("a", "1"), ("b", "1")]));
        assert!(desired.confirm(&due, 6, now), "watchers of revisions must hear of it");
        assert_eq!(desired.revision_of("b"), Some(6));
    }

    #[test]
    fn a_replacement_that_may_have_happened_is_undone() {
        let (mut desired, now) = (Desired::default(), Instant::now());
        publish(&mut desired, "old", "1");
        desired.confirm(&desired.due(now, 10), 5, now);
        desired.replace_failed(&batch(&["old", "stranger"], &[("new", "2")]));
        assert_eq!(desired.due(now, 10), batch(&["new"], &[("old", "1")]));
        assert_eq!(desired.revision_of("new"), None);
        desired.confirm(&desired.due(now, 10), 6, now);
        let replacement = batch(&["old"], &[("new", "2")]);
        desired.replaced(&replacement, 9, now);
        assert_eq!(desired.next_due(now), None);
        assert_eq!((desired.revision_of("old"), desired.revision_of("new")), (None, Some(9)));
        assert_eq!(desired.told().len(), 1);
    }

    #[test]
    fn batches_are_bounded_in_keys_and_bytes() {
        let (mut desired, now) = (Desired::default(), Instant::now());
        for key in 0..250 {
            desired.publish(format!("{key:03}"), Bytes::from_static(b"x"));
        }
        assert_eq!(desired.due(now, BATCH_KEYS_MAX).len(), BATCH_KEYS_MAX);
        let large = Bytes::from(vec![0; BATCH_BYTES_MAX]);
        desired.publish("000".to_owned(), large.clone());
        desired.publish("001".to_owned(), large);
        assert_eq!(desired.due(now, BATCH_KEYS_MAX).len(), 1, "one large value goes alone");
    }

    #[test]
    fn a_deleted_key_comes_back_at_once_and_old_deletions_change_nothing() {
        let (mut desired, now) = (Desired::default(), Instant::now());
        publish(&mut desired, "a", "1");
        assert!(!desired.deleted("a", 3), "it is not there yet");
        desired.confirm(&desired.due(now, 10), 5, now);
        assert!(!desired.deleted("a", 4) && !desired.deleted("b", 9));
        assert_eq!(desired.next_due(now), None);
        assert!(desired.deleted("a", 6));
        assert_eq!(desired.due(now, 10), batch(&[], &[("a", "1")]), "no spacing: it is missing");
        assert!(desired.confirm(&desired.due(now, 10), 7, now), "its token is a new one");
        desired.withdraw("a");
        desired.confirm(&desired.due(now, 10), 8, now);
        assert!(!desired.deleted("a", 8), "our own deletion");
    }

    #[test]
    fn a_key_that_another_process_took_is_left_alone_until_it_is_gone() {
        let (mut desired, now) = (Desired::default(), Instant::now());
        publish(&mut desired, "a", "1");
        desired.confirm(&desired.due(now, 10), 5, now);
        assert!(desired.taken("a") && !desired.taken("a"), "news once");
        assert_eq!(desired.taken_key(), Some("a"));
        publish(&mut desired, "a", "2");
        desired.forget_told();
        assert_eq!(desired.next_due(now), None, "neither a change nor a lost lease takes it back");
        assert_eq!(desired.told().len(), 1, "it is still looked at");
        assert!(desired.deleted("a", 9));
        assert_eq!(desired.due(now, 10), batch(&[], &[("a", "2")]));
        desired.taken("a");
        desired.withdraw("a");
        assert!(desired.keys.is_empty() && desired.dirty.is_empty(), "what is not ours is not deleted");
    }

    #[test]
    fn refused_keys_wait() {
        let (mut desired, now) = (Desired::default(), Instant::now());
        publish(&mut desired, "a", "1");
        desired.refused(&desired.due(now, 10), now);
        assert_eq!(desired.due(now, 10), TxnWrites::default());
        assert_eq!(desired.next_due(now), Some(now + REFUSED_PAUSE));
    }
}
