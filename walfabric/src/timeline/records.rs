//! What the broker says about nodes and timelines, and the path of a timeline on a node.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use broker::Broker;
use proto::broker::records::{NodeRecord, TimelineConfRecord};
use proto::id::TenantTimelineId;

/// Node records below `prefix`: those of `ids`, or all.
pub(super) async fn nodes(broker: &Broker, prefix: &str, ids: &[u64], kind: &str) -> Result<Vec<NodeRecord>> {
    let wanted: BTreeSet<u64> = ids.iter().copied().collect();
    ensure!(wanted.len() == ids.len(), "one {kind} id is given twice");
    let (entries, _) = broker.get_prefix(prefix).await?;
    let mut found = Vec::new();
    for entry in entries {
        let record: NodeRecord =
            serde_json::from_slice(&entry.value).with_context(|| format!("{} is malformed", entry.key))?;
        if wanted.is_empty() || wanted.contains(&record.id.0) {
            found.push(record);
        }
    }
    found.sort_by_key(|r| r.id);
    let seen: BTreeSet<u64> = found.iter().map(|r| r.id.0).collect();
    let missing: Vec<_> = wanted.difference(&seen).collect();
    ensure!(missing.is_empty(), "{kind} {missing:?} is not on the broker: is it running?");
    Ok(found)
}

/// Every timeline that has a record on the broker.
pub(crate) async fn conf_records(broker: &Broker) -> Result<Vec<(TenantTimelineId, TimelineConfRecord)>> {
    let (entries, _) = broker.get_prefix(&broker.keys().confs()).await?;
    let mut found = Vec::new();
    for entry in entries {
        let record = serde_json::from_slice(&entry.value).with_context(|| format!("{} is malformed", entry.key))?;
        let ttid = broker.keys().ttid_of(&entry.key).with_context(|| format!("{} names no timeline", entry.key))?;
        found.push((ttid, record));
    }
    Ok(found)
}

/// A timeline's record on the broker.
pub(crate) async fn conf_of(broker: &Broker, ttid: TenantTimelineId) -> Result<Option<TimelineConfRecord>> {
    let Some(entry) = broker.get(&broker.keys().conf(ttid)).await? else { return Ok(None) };
    serde_json::from_slice(&entry.value).with_context(|| format!("{} is malformed", entry.key))
}

/// Where a node answers for a timeline.
pub(crate) fn timeline_path(ttid: TenantTimelineId) -> String {
    format!("/v1/tenant/{}/timeline/{}", ttid.tenant_id, ttid.timeline_id)
}
