//! Passes pageservers' positions on that came by the broker: a proposer that reaches only safekeepers which push
//! nothing still learns how far the pageservers are.
//!
//! For display and for the applied position that a shim may report; never for commit, truncation or removal. A
//! pageserver that streams from here tells its positions itself, fresher, so that the broker's word on it is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use broker::{KeyEntry, Watch, WatchEvent};
use pgformat::Lsn;
use proto::broker::Keys;
use proto::broker::records::{PageserverTimelineRecord, SCHEMA};
use proto::feedback::PageserverFeedback;
use proto::id::{NodeId, TenantTimelineId};

use crate::context::SafekeeperContext;

/// What was passed on last, so that nothing goes backwards.
type ToldPositions = BTreeMap<(TenantTimelineId, NodeId), Lsn>;

/// Relays until the server stops.
pub(crate) async fn run(ctx: Arc<SafekeeperContext>) {
    let mut watch = Watch::start(ctx.broker.clone(), ctx.broker.keys().timelines());
    let mut told = ToldPositions::new();
    loop {
        let event = tokio::select! {
            () = ctx.cancel.cancelled() => return,
            event = watch.next() => event,
        };
        match event {
            WatchEvent::Snapshot(entries) => entries.iter().for_each(|entry| relay(&ctx, entry, &mut told)),
            WatchEvent::Put(entry) => relay(&ctx, &entry, &mut told),
            WatchEvent::Delete(_) | WatchEvent::Away => {}
        }
    }
}

fn relay(ctx: &SafekeeperContext, entry: &KeyEntry, told: &mut ToldPositions) {
    let Some((ttid, record)) = read(ctx.broker.keys(), entry) else { return };
    let (Some(handle), Some(reached)) = (ctx.timelines.get(ttid), record.last_record_lsn) else { return };
    let pageserver = record.pageserver_id;
    let direct =
        ctx.streams.all().iter().any(|s| s.ttid == ttid && s.pageserver == Some(pageserver) && s.is_streaming());
    let last = told.get(&(ttid, pageserver));
    if direct || last.is_some_and(|l| *l >= reached) {
        return;
    }
    told.insert((ttid, pageserver), reached);
    let feedback = PageserverFeedback {
        last_received_lsn: Some(reached),
        disk_consistent_lsn: record.disk_consistent_lsn,
        remote_consistent_lsn: record.remote_consistent_lsn,
        ..PageserverFeedback::default()
    };
    handle.record_feedback(pageserver, feedback);
}

/// A pageserver's record about a timeline; everything else below the prefix is none of ours.
fn read(keys: &Keys, entry: &KeyEntry) -> Option<(TenantTimelineId, PageserverTimelineRecord)> {
    let ttid = keys.ttid_of(&entry.key)?;
    if !entry.key.starts_with(&keys.timeline_pageservers(ttid)) {
        return None;
    }
    let record: PageserverTimelineRecord = serde_json::from_slice(&entry.value).ok()?;
    (record.schema == SCHEMA && Keys::leaf_node(&entry.key) == Some(record.pageserver_id)).then_some((ttid, record))
}
