//! What the broker shows: which safekeepers live, and which timelines they hold. One task writes it, all managers read
//! it.
//!
//! While the broker is away everything stays as it was seen last.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use broker::{KeyEntry, WatchEvent};
use pgformat::Lsn;
use proto::broker::Keys;
use proto::broker::records::{NodeRecord, SCHEMA, SafekeeperTimelineRecord};
use proto::id::{NodeId, TenantTimelineId};
use serde::de::DeserializeOwned;

use crate::choose::{Candidate, View};

/// What was seen last.
#[derive(Default)]
struct BrokerPicture {
    /// Both prefixes are being followed.
    nodes_seen: bool,
    records_seen: bool,
    nodes: BTreeMap<NodeId, NodeRecord>,
    records: HashMap<TenantTimelineId, BTreeMap<NodeId, SafekeeperTimelineRecord>>,
}

/// The shared picture; written by one task, read by all managers.
#[derive(Default)]
pub(crate) struct BrokerDirectory(RwLock<BrokerPicture>);

impl BrokerDirectory {
    /// What a timeline's chooser sees. `pushes` are this node's choices by safekeeper.
    pub(crate) fn view(&self, ttid: TenantTimelineId, pushes: &BTreeMap<NodeId, u32>) -> View {
        let picture = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let records = picture.records.get(&ttid);
        let candidates = records.into_iter().flatten().filter_map(|(id, record)| {
            let node = picture.nodes.get(id)?;
            let candidate = Candidate {
                commit_lsn: record.commit_lsn.filter(|lsn| lsn.get() != 0),
                zone: node.availability_zone.clone(),
                pushes: pushes.get(id).copied().unwrap_or(0),
            };
            Some((*id, candidate))
        });
        View { broker: picture.nodes_seen && picture.records_seen, candidates: candidates.collect() }
    }

    /// The highest commit position that safekeepers have published; none while the broker is away.
    pub(crate) fn commit(&self, ttid: TenantTimelineId) -> Option<Lsn> {
        let picture = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let records = picture.records.get(&ttid).filter(|_| picture.records_seen)?;
        records.values().filter_map(|r| r.commit_lsn).max()
    }

    /// Address of a safekeeper's libpq port.
    pub(crate) fn address(&self, id: NodeId) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).nodes.get(&id).map(|n| n.pg.clone())
    }

    /// All living safekeepers.
    pub(crate) fn safekeepers(&self) -> Vec<NodeRecord> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).nodes.values().cloned().collect()
    }

    /// Safekeepers came or went.
    pub(super) fn on_nodes(&self, event: WatchEvent) {
        on_nodes(&mut self.picture(), event);
    }

    /// A safekeeper's record of a timeline changed, or all did. Returns the timeline that one changed key belongs to.
    pub(super) fn on_timelines(&self, keys: &Keys, event: WatchEvent) -> Option<TenantTimelineId> {
        on_timelines(&mut self.picture(), keys, event)
    }

    fn picture(&self) -> RwLockWriteGuard<'_, BrokerPicture> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn on_nodes(picture: &mut BrokerPicture, event: WatchEvent) {
    match event {
        WatchEvent::Snapshot(entries) => {
            picture.nodes_seen = true;
            picture.nodes = entries.iter().filter_map(node_record).map(|n| (n.id, n)).collect();
        }
        WatchEvent::Put(entry) => {
            if let Some(record) = node_record(&entry) {
                picture.nodes.insert(record.id, record);
            }
        }
        WatchEvent::Delete(key) => {
            if let Some(id) = Keys::leaf_node(&key) {
                picture.nodes.remove(&id);
            }
        }
        WatchEvent::Away => picture.nodes_seen = false,
    }
}

/// Returns the timeline that one changed key belongs to.
fn on_timelines(picture: &mut BrokerPicture, keys: &Keys, event: WatchEvent) -> Option<TenantTimelineId> {
    match event {
        WatchEvent::Snapshot(entries) => {
            picture.records_seen = true;
            picture.records.clear();
            for entry in &entries {
                insert_record(picture, keys, entry);
            }
            None
        }
        WatchEvent::Put(entry) => insert_record(picture, keys, &entry),
        WatchEvent::Delete(key) => {
            let ttid = ttid_of_safekeeper_key(keys, &key)?;
            let records = picture.records.get_mut(&ttid)?;
            records.remove(&Keys::leaf_node(&key)?);
            if records.is_empty() {
                picture.records.remove(&ttid);
            }
            Some(ttid)
        }
        WatchEvent::Away => {
            picture.records_seen = false;
            None
        }
    }
}

fn insert_record(picture: &mut BrokerPicture, keys: &Keys, entry: &KeyEntry) -> Option<TenantTimelineId> {
    let ttid = ttid_of_safekeeper_key(keys, &entry.key)?;
    let record: SafekeeperTimelineRecord = parse(entry)?;
    if record.schema != SCHEMA || Keys::leaf_node(&entry.key) != Some(record.safekeeper_id) {
        tracing::debug!(key = entry.key, "broker record ignored: other schema or other node");
        return None;
    }
    picture.records.entry(ttid).or_default().insert(record.safekeeper_id, record);
    Some(ttid)
}

/// `.../tl/T/L/sk/ID`; pageservers' records lie beside them.
fn ttid_of_safekeeper_key(keys: &Keys, key: &str) -> Option<TenantTimelineId> {
    let is_safekeeper = key.rsplit('/').nth(1) == Some("sk");
    if is_safekeeper { keys.ttid_of(key) } else { None }
}

fn node_record(entry: &KeyEntry) -> Option<NodeRecord> {
    let record: NodeRecord = parse(entry)?;
    (record.schema == SCHEMA && Keys::leaf_node(&entry.key) == Some(record.id)).then_some(record)
}

fn parse<T: DeserializeOwned>(entry: &KeyEntry) -> Option<T> {
    let parsed = serde_json::from_slice(&entry.value);
    parsed.inspect_err(|e| tracing::debug!(key = entry.key, "broker record ignored: {e}")).ok()
}
