//! `walfabric timeline readmit`: what a member that forgot waits for, and the operator's word for it. A member whose
//! directory is gone gets a new one, from what the others hold.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use proto::api::{CreateTimelineRequest, SafekeeperTimelineStatus};
use proto::broker::Broker;
use proto::broker::records::NodeRecord;
use proto::id::{NodeId, TenantTimelineId};
use proto::net::{ClientConnection, ConnectOptions};
use proto::runtime::exit;

use crate::http::Http;
use crate::timeline;

/// The most that the broker and the safekeeper may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks the member; with `force` it takes part again, as it is. One that does not have the timeline gets it anew. The
/// exit code is 3 while it takes no part.
///
/// # Errors
/// When broker or safekeeper do not answer, or do not know the node or the timeline.
pub async fn run(broker: &str, prefix: &str, ttid: TenantTimelineId, safekeeper: u64, force: bool) -> Result<u8> {
    let broker = Broker::new(broker, prefix)?;
    let http = Http::new(LIMIT)?;
    let prefix = broker.keys().safekeepers();
    let (entries, _) =
        tokio::time::timeout(LIMIT, broker.get_prefix(&prefix)).await.context("the broker does not answer")??;
    let nodes: Vec<NodeRecord> = entries.iter().filter_map(|e| serde_json::from_slice(&e.value).ok()).collect();
    let node = nodes.iter().find(|n| n.id == NodeId(safekeeper));
    let node = node.with_context(|| format!("no safekeeper {safekeeper} is alive on the broker"))?;
    if held(&http, node, ttid).await?.is_none() {
        make_anew(&http, node, &nodes, ttid).await?;
    }
    let path = format!("{}/readmit?force={force}", timeline::timeline_path(ttid));
    let status: SafekeeperTimelineStatus = http.post_for(&node.http, &path, Vec::new(), "application/json").await?;
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

async fn held(http: &Http, node: &NodeRecord, ttid: TenantTimelineId) -> Result<Option<SafekeeperTimelineStatus>> {
    let all: Vec<SafekeeperTimelineStatus> = http.get(&node.http, "/v1/tenant/timeline").await?;
    Ok(all.into_iter().find(|t| (t.tenant_id, t.timeline_id) == (ttid.tenant_id, ttid.timeline_id)))
}

/// Makes the timeline on a member that lost it, as it was at its start. The others remember that it was there, so it
/// takes no part until it was admitted again; the proposer fills it from them.
async fn make_anew(http: &Http, node: &NodeRecord, nodes: &[NodeRecord], ttid: TenantTimelineId) -> Result<()> {
    for other in nodes.iter().filter(|n| n.id != node.id) {
        let Ok(Some(there)) = held(http, other, ttid).await else { continue };
        let id = node.id;
        ensure!(there.mconf.contains(id), "safekeeper {id} is not a member of timeline {ttid}");
        if there.local_start_lsn != there.timeline_start_lsn {
            continue;
        }
        let (from, start) = (there.timeline_start_lsn.segment_start(there.wal_seg_size), there.timeline_start_lsn);
        let request = CreateTimelineRequest {
            tenant_id: ttid.tenant_id,
            timeline_id: ttid.timeline_id,
            mconf: there.mconf,
            pg_version_num: there.pg_version_num,
            system_id: there.system_id,
            wal_seg_size: there.wal_seg_size,
            start_lsn: start,
            source: there.source,
            primary_epoch: there.primary_epoch,
            pg_history: there.pg_history,
            prehistory_len: start.bytes_since(from),
        };
        let mut body = serde_json::to_vec(&request)?;
        body.push(b'\n');
        if start > from {
            let connection = ClientConnection::dial(&options(other, ttid)?).await?;
            let (command, want) =
                (format!("START_REPLICATION PHYSICAL {from}"), usize::try_from(request.prehistory_len)?);
            let whose = format!("safekeeper {}", other.id);
            body.extend_from_slice(&timeline::stretch(connection, &command, from, want, &whose).await?);
        }
        http.post(&node.http, "/v1/tenant/timeline", body, timeline::BODY_TYPE).await?;
        println!("safekeeper {id} had no timeline {ttid}: made anew at {start}, from safekeeper {}", other.id);
        return Ok(());
    }
    bail!("safekeeper {} does not have timeline {ttid}, and no other one that answers has it from its start", node.id)
}

fn options(node: &NodeRecord, ttid: TenantTimelineId) -> Result<ConnectOptions> {
    let (host, port) = node.pg.rsplit_once(':').with_context(|| format!("{:?} is not host:port", node.pg))?;
    Ok(ConnectOptions {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: port.parse()?,
        user: "walfabric".to_owned(),
        application_name: "walfabric_readmit".to_owned(),
        options: vec![
            ("tenant_id".to_owned(), ttid.tenant_id.to_string()),
            ("timeline_id".to_owned(), ttid.timeline_id.to_string()),
        ],
        timeout: LIMIT,
        ..ConnectOptions::default()
    })
}
