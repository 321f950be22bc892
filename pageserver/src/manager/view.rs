//! What the broker shows: which safekeepers live, and which timelines they hold. Followed once per node.
//!
//! While the broker is away everything stays as it was seen last.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use broker::{Entry, Watch, WatchEvent};
use pgformat::Lsn;
use proto::broker::Keys;
use proto::broker::records::{NodeRecord, SCHEMA, SafekeeperTimelineRecord};
use proto::id::{NodeId, TenantTimelineId};
use serde::de::DeserializeOwned;

use crate::choose::{Candidate, View};
use crate::node::Node;

#[derive(Default)]
struct Inner {
    /// Both prefixes are being followed.
    nodes_seen: bool,
    records_seen: bool,
    nodes: BTreeMap<NodeId, NodeRecord>,
    records: HashMap<TenantTimelineId, BTreeMap<NodeId, SafekeeperTimelineRecord>>,
}

/// The shared picture; written by one task, read by all managers.
#[derive(Default)]
pub(crate) struct Directory(RwLock<Inner>);

impl Directory {
    /// What a timeline's chooser sees. `pushes` are this node's choices by safekeeper.
    pub(crate) fn view(&self, ttid: TenantTimelineId, pushes: &BTreeMap<NodeId, u32>) -> View {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let records = inner.records.get(&ttid);
        let candidates = records.into_iter().flatten().filter_map(|(id, record)| {
            let node = inner.nodes.get(id)?;
            let candidate = Candidate {
                commit_lsn: record.commit_lsn.filter(|lsn| lsn.get() != 0),
                zone: node.availability_zone.clone(),
                pushes: pushes.get(id).copied().unwrap_or(0),
            };
            Some((*id, candidate))
        });
        View { broker: inner.nodes_seen && inner.records_seen, candidates: candidates.collect() }
    }

    /// The highest commit position that safekeepers have published; none while the broker is away.
    pub(crate) fn commit(&self, ttid: TenantTimelineId) -> Option<Lsn> {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let records = inner.records.get(&ttid).filter(|_| inner.records_seen)?;
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

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Follows the broker until the node stops.
pub(crate) async fn follow(node: Arc<Node>) {
    let keys = node.broker.keys().clone();
    let mut nodes = Watch::start(node.broker.clone(), keys.safekeepers());
    let mut timelines = Watch::start(node.broker.clone(), keys.timelines());
    loop {
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            event = nodes.next() => {
                node.directory.change(|inner| on_nodes(inner, event));
                // Nodes come and go rarely; everybody may be concerned.
                node.timelines().iter().for_each(|t| t.view_changed.notify_one());
            }
            event = timelines.next() => {
                let is_one = matches!(event, WatchEvent::Put(_) | WatchEvent::Delete(_));
                let changed = node.directory.change(|inner| on_timelines(inner, &keys, event));
                match changed.and_then(|ttid| node.timeline(ttid)) {
                    Some(timeline) => timeline.view_changed.notify_one(),
                    None if is_one => {}
                    None => node.timelines().iter().for_each(|t| t.view_changed.notify_one()),
                }
            }
        }
    }
}

fn on_nodes(inner: &mut Inner, event: WatchEvent) {
    match event {
        WatchEvent::Snapshot(entries) => {
            inner.nodes_seen = true;
            inner.nodes = entries.iter().filter_map(node_record).map(|n| (n.id, n)).collect();
        }
        WatchEvent::Put(entry) => {
            if let Some(record) = node_record(&entry) {
                inner.nodes.insert(record.id, record);
            }
        }
        WatchEvent::Delete(key) => {
            if let Some(id) = Keys::leaf_node(&key) {
                inner.nodes.remove(&id);
            }
        }
        WatchEvent::Away => inner.nodes_seen = false,
    }
}

/// Returns the timeline that one changed key belongs to.
fn on_timelines(inner: &mut Inner, keys: &Keys, event: WatchEvent) -> Option<TenantTimelineId> {
    match event {
        WatchEvent::Snapshot(entries) => {
            inner.records_seen = true;
            inner.records.clear();
            for entry in &entries {
                insert_record(inner, keys, entry);
            }
            None
        }
        WatchEvent::Put(entry) => insert_record(inner, keys, &entry),
        WatchEvent::Delete(key) => {
            let ttid = ttid_of_safekeeper_key(keys, &key)?;
            let records = inner.records.get_mut(&ttid)?;
            records.remove(&Keys::leaf_node(&key)?);
            if records.is_empty() {
                inner.records.remove(&ttid);
            }
            Some(ttid)
        }
        WatchEvent::Away => {
            inner.records_seen = false;
            None
        }
    }
}

fn insert_record(inner: &mut Inner, keys: &Keys, entry: &Entry) -> Option<TenantTimelineId> {
    let ttid = ttid_of_safekeeper_key(keys, &entry.key)?;
    let record: SafekeeperTimelineRecord = parse(entry)?;
    if record.schema != SCHEMA || Keys::leaf_node(&entry.key) != Some(record.safekeeper_id) {
        tracing::debug!(key = entry.key, "broker record ignored: other schema or other node");
        return None;
    }
    inner.records.entry(ttid).or_default().insert(record.safekeeper_id, record);
    Some(ttid)
}

/// `.../tl/T/L/sk/ID`; pageservers' records lie beside them.
fn ttid_of_safekeeper_key(keys: &Keys, key: &str) -> Option<TenantTimelineId> {
    let is_safekeeper = key.rsplit('/').nth(1) == Some("sk");
    if is_safekeeper { keys.ttid_of(key) } else { None }
}

fn node_record(entry: &Entry) -> Option<NodeRecord> {
    let record: NodeRecord = parse(entry)?;
    (record.schema == SCHEMA && Keys::leaf_node(&entry.key) == Some(record.id)).then_some(record)
}

fn parse<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    let parsed = serde_json::from_slice(&entry.value);
    parsed.inspect_err(|e| tracing::debug!(key = entry.key, "broker record ignored: {e}")).ok()
}
