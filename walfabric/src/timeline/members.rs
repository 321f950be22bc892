//! Members of a new timeline: what they are asked to create, and that they do.

use anyhow::{Context, Result, ensure};
use proto::api::{CreateTimelineRequest, SafekeeperTimelineStatus};
use proto::broker::records::NodeRecord;
use proto::id::TenantTimelineId;
use tokio_util::sync::CancellationToken;

use super::prehistory::prehistory;
use super::records::timeline_path;
use super::undo::Made;
use crate::http::Http;

/// Content type of a creation: a line of JSON, and the prehistory.
pub(crate) const BODY_TYPE: &str = "application/x-walfabric-timeline";

/// What is said when somebody gave up.
pub(super) const INTERRUPTED: &str = "interrupted";

/// Between two steps: one that was begun is finished, so that it is known what there is to take back.
///
/// # Errors
/// When somebody gave up.
pub(super) fn go_on(interrupted: &CancellationToken) -> Result<()> {
    ensure!(!interrupted.is_cancelled(), INTERRUPTED);
    Ok(())
}

/// Creates the timeline on each member that does not hold it; true when there was one. `conninfo` leads to the primary.
pub(super) async fn create_on_members(
    http: &Http,
    conninfo: &str,
    interrupted: &CancellationToken,
    request: &CreateTimelineRequest,
    members: &[NodeRecord],
    made: &mut Made,
) -> Result<bool> {
    let ttid = TenantTimelineId::new(request.tenant_id, request.timeline_id);
    let mut changed = false;
    let mut body = None;
    for node in members {
        let there = http.get::<SafekeeperTimelineStatus>(&node.http, &timeline_path(ttid)).await;
        if let Ok(there) = there {
            let equal = there.system_id == request.system_id
                && there.timeline_start_lsn == Some(request.start_lsn)
                && there.wal_seg_size == request.wal_seg_size
                && there.mconf.nodes() == request.mconf.nodes();
            ensure!(equal, "safekeeper {} holds timeline {} with other parameters", node.id, ttid);
            continue;
        }
        go_on(interrupted)?;
        if body.is_none() {
            let mut bytes = serde_json::to_vec(request)?;
            bytes.push(b'\n');
            let prehistory = interrupted.run_until_cancelled(prehistory(conninfo, request)).await;
            bytes.extend_from_slice(&prehistory.context(INTERRUPTED)??);
            body = Some(bytes);
        }
        let bytes = body.clone().unwrap_or_default();
        // Before the answer: a request whose answer is lost may have been carried out.
        made.members.push(node.clone());
        let sent = http.post(&node.http, "/v1/tenant/timeline", bytes, BODY_TYPE).await;
        changed |= sent.with_context(|| format!("safekeeper {} did not create the timeline", node.id))?;
    }
    Ok(changed)
}
