//! Which pushes are wanted: the choices below `P/push/<me>/` as the broker shows them. Pure.
//!
//! Invariant: a broker that is away changes nothing; only a snapshot without a key, or its deletion, takes a choice
//! away.

use std::collections::BTreeMap;

use broker::{KeyEntry, WatchEvent};
use proto::broker::Keys;
use proto::broker::records::{ChoiceRecord, SCHEMA};
use proto::id::TenantTimelineId;

/// A choice that fell on this safekeeper, with its token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PushChoice {
    /// What is to be pushed.
    pub(crate) ttid: TenantTimelineId,
    /// Revision of the key: presented when dialling.
    pub(crate) token: i64,
    /// What the pageserver wrote.
    pub(crate) record: ChoiceRecord,
}

impl PushChoice {
    /// Whether a stream that was opened for `self` also serves `newer`: a key that was only put again (a lost lease, an
    /// emptied broker) keeps nonce and number.
    pub(crate) fn same_stream(&self, newer: &PushChoice) -> bool {
        let (a, b) = (&self.record, &newer.record);
        a.nonce == b.nonce && a.choice_seq == b.choice_seq && a.pageserver_pg == b.pageserver_pg
    }
}

/// What to do about a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ChoiceChange {
    /// A key appeared.
    Start(String, PushChoice),
    /// A key was put again.
    Update(String, PushChoice),
    /// A key is gone.
    Stop(String),
    /// A key that cannot be followed, with the reason.
    Unreadable(String, String),
}

/// The choices seen last, by key.
#[derive(Debug, Default)]
pub(crate) struct DesiredPushes {
    choices: BTreeMap<String, PushChoice>,
}

impl DesiredPushes {
    /// Takes one event and says what changed.
    pub(crate) fn apply(&mut self, keys: &Keys, event: WatchEvent) -> Vec<ChoiceChange> {
        match event {
            WatchEvent::Away => Vec::new(),
            WatchEvent::Delete(key) => self.choices.remove(&key).map(|_| ChoiceChange::Stop(key)).into_iter().collect(),
            WatchEvent::Put(entry) => self.put(keys, entry),
            WatchEvent::Snapshot(entries) => {
                let gone = self.choices.keys().filter(|k| !entries.iter().any(|e| e.key == **k)).cloned();
                let gone: Vec<String> = gone.collect();
                let mut changes: Vec<ChoiceChange> = Vec::with_capacity(gone.len() + entries.len());
                for key in gone {
                    self.choices.remove(&key);
                    changes.push(ChoiceChange::Stop(key));
                }
                changes.extend(entries.into_iter().flat_map(|e| self.put(keys, e)));
                changes
            }
        }
    }

    /// The choices, for display.
    pub(crate) fn choices(&self) -> impl Iterator<Item = &PushChoice> {
        self.choices.values()
    }

    fn put(&mut self, keys: &Keys, entry: KeyEntry) -> Vec<ChoiceChange> {
        let choice = match read(keys, &entry) {
            Ok(choice) => choice,
            Err(reason) => {
                let mut changes = vec![ChoiceChange::Unreadable(entry.key.clone(), reason)];
                changes.extend(self.choices.remove(&entry.key).map(|_| ChoiceChange::Stop(entry.key)));
                return changes;
            }
        };
        match self.choices.insert(entry.key.clone(), choice.clone()) {
            None => vec![ChoiceChange::Start(entry.key, choice)],
            Some(old) if old == choice => Vec::new(),
            Some(_) => vec![ChoiceChange::Update(entry.key, choice)],
        }
    }
}

fn read(keys: &Keys, entry: &KeyEntry) -> Result<PushChoice, String> {
    let ttid = keys.ttid_of(&entry.key).ok_or("the key names no timeline")?;
    let record: ChoiceRecord = serde_json::from_slice(&entry.value).map_err(|e| e.to_string())?;
    if record.schema != SCHEMA {
        return Err(format!("schema {} is not known here, which is {SCHEMA}", record.schema));
    }
    if Keys::leaf_node(&entry.key) != Some(record.pageserver_id) {
        return Err(format!("the value names pageserver {}, the key another one", record.pageserver_id));
    }
    Ok(PushChoice { ttid, token: entry.mod_revision, record })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{NodeId, TenantId, TimelineId};

    fn entry(keys: &Keys, ps: u64, seq: u64, revision: i64) -> KeyEntry {
        let ttid = TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16]));
        let record = ChoiceRecord {
            schema: SCHEMA,
            pageserver_id: NodeId(ps),
            pageserver_pg: "127.0.0.1:6400".into(),
            safekeeper_id: NodeId(3),
            choice_seq: seq,
            reason: "no_connection".into(),
            chosen_at: "2026-01-01T00:00:00Z".into(),
            nonce: format!("{seq:032x}"),
            start_lsn_hint: None,
        };
        let value = serde_json::to_vec(&record).expect("JSON");
        KeyEntry { key: keys.choice(NodeId(3), ttid, NodeId(ps)), value, mod_revision: revision }
    }

    #[test]
    fn an_absent_broker_changes_nothing_and_a_snapshot_ends_what_it_lacks() {
        let keys = Keys::new("/walfabric");
        let mut d = DesiredPushes::default();
        let (a, b) = (entry(&keys, 1, 1, 10), entry(&keys, 2, 1, 11));
        let changes = d.apply(&keys, WatchEvent::Snapshot(vec![a.clone(), b.clone()]));
        assert!(matches!(changes.as_slice(), [ChoiceChange::Start(..), ChoiceChange::Start(..)]), "{changes:?}");
        assert_eq!(d.apply(&keys, WatchEvent::Away), vec![]);
        assert_eq!(d.apply(&keys, WatchEvent::Snapshot(vec![a.clone(), b.clone()])), vec![], "nothing new");
        assert_eq!(d.apply(&keys, WatchEvent::Snapshot(vec![b.clone()])), vec![ChoiceChange::Stop(a.key)]);
        assert_eq!(d.apply(&keys, WatchEvent::Delete(b.key.clone())), vec![ChoiceChange::Stop(b.key)]);
        assert_eq!(d.choices().count(), 0);
    }

    #[test]
    fn a_key_put_again_keeps_its_stream_and_a_new_choice_does_not() {
        let keys = Keys::new("/walfabric");
        let mut d = DesiredPushes::default();
        let start = d.apply(&keys, WatchEvent::Put(entry(&keys, 1, 1, 10)));
        let [ChoiceChange::Start(_, first)] = start.as_slice() else { panic!("{start:?}") };
        for (seq, revision, same) in [(1, 20, true), (2, 21, false)] {
            let update = d.apply(&keys, WatchEvent::Put(entry(&keys, 1, seq, revision)));
            let [ChoiceChange::Update(_, newer)] = update.as_slice() else { panic!("{update:?}") };
            assert_eq!((first.same_stream(newer), newer.token), (same, revision));
        }
    }

    #[test]
    fn values_that_cannot_be_read_end_the_push_and_say_why() {
        let keys = Keys::new("/walfabric");
        let mut d = DesiredPushes::default();
        let good = entry(&keys, 1, 1, 10);
        d.apply(&keys, WatchEvent::Put(good.clone()));
        let bad = KeyEntry { value: b"{".to_vec(), ..good.clone() };
        let changes = d.apply(&keys, WatchEvent::Put(bad));
        assert!(
            matches!(changes.as_slice(), [ChoiceChange::Unreadable(..), ChoiceChange::Stop(k)] if *k == good.key),
            "{changes:?}"
        );
    }
}
