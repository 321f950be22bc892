//! `walfabric timeline readmit`: what a member that forgot waits for, and the operator's word for it.

use std::time::Duration;

use anyhow::{Context, Result};
use proto::api::SafekeeperTimelineStatus;
use proto::broker::Broker;
use proto::broker::records::NodeRecord;
use proto::id::{NodeId, TenantTimelineId};
use proto::runtime::exit;

use crate::http::Http;

/// The most that the broker and the safekeeper may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks the member; with `force` it takes part again, as it is. The exit code is 3 while it does not.
///
/// # Errors
/// When broker or safekeeper do not answer, or do not know the node or the timeline.
pub async fn run(broker: &str, prefix: &str, ttid: TenantTimelineId, safekeeper: u64, force: bool) -> Result<u8> {
    let broker = Broker::new(broker, prefix)?;
    let key = broker.keys().safekeeper(NodeId(safekeeper));
    let entry = tokio::time::timeout(LIMIT, broker.get(&key)).await.context("the broker does not answer")??;
    let entry = entry.with_context(|| format!("no safekeeper {safekeeper} is alive on the broker"))?;
    let node: NodeRecord = serde_json::from_slice(&entry.value)?;
    let (tenant, timeline) = (ttid.tenant_id, ttid.timeline_id);
    let path = format!("/v1/tenant/{tenant}/timeline/{timeline}/readmit?force={force}");
    let status: SafekeeperTimelineStatus =
        Http::new(LIMIT)?.post_for(&node.http, &path, Vec::new(), "application/json").await?;
    match status.not_admitted {
        None => {
            println!("safekeeper {safekeeper} takes part: term {}, flush {}", status.term, status.flush_lsn);
            Ok(exit::OK)
        }
        Some(why) => {
            println!("safekeeper {safekeeper} takes no part: {why}");
            Ok(exit::NOT_READY)
        }
    }
}
