//! `walfabric timeline readmit`: what a member that forgot waits for, and the operator's word for it. A member whose
//! directory is gone gets a new one, from what the others hold.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use broker::Broker;
use bytes::BytesMut;
use clap::Args;
use libpq::{ClientConnection, ConnectOptions};
use node::exit;
use pgformat::wal::StreamConfig;
use pgformat::{Lsn, SegSize};
use proto::api::{CreateTimelineRequest, SafekeeperTimelineStatus, shown};
use proto::broker::records::NodeRecord;
use proto::id::{NodeId, TenantId, TenantTimelineId, TimelineId};

use crate::http::Http;
use crate::timeline;
use crate::wal::{check_prehistory, stream_config};

/// The most that the broker and the safekeeper may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What `walfabric timeline readmit` takes.
#[derive(Args)]
pub struct ReadmitOptions {
    /// URL of the broker
    #[arg(long)]
    broker: String,
    /// Key prefix on the broker
    #[arg(long, default_value = "/walfabric")]
    broker_prefix: String,
    /// Tenant, 32 hex digits
    #[arg(long)]
    tenant_id: TenantId,
    /// Timeline, 32 hex digits
    #[arg(long)]
    timeline_id: TimelineId,
    /// The member's node id
    #[arg(long)]
    safekeeper: u64,
    /// Whatever it may have acknowledged or voted: it takes part with what it has
    #[arg(long)]
    force: bool,
}

impl ReadmitOptions {
    /// Asks the member, or readmits it; gives the exit code.
    ///
    /// # Errors
    /// See [`run`].
    pub async fn run(self) -> Result<u8> {
        let ttid = TenantTimelineId::new(self.tenant_id, self.timeline_id);
        run(&self.broker, &self.broker_prefix, ttid, self.safekeeper, self.force).await
    }
}

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
            println!("safekeeper {safekeeper} takes part: term {}, flush {}", status.term, shown(status.flush_lsn));
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
    let id = node.id;
    let mut from_start = Vec::new();
    for other in nodes.iter().filter(|n| n.id != id) {
        let Ok(Some(there)) = held(http, other, ttid).await else { continue };
        ensure!(there.mconf.contains(id), "safekeeper {id} is not a member of timeline {ttid}");
        if there.local_start_lsn == there.timeline_start_lsn {
            from_start.push((other, there));
        }
    }
    let Some((_, there)) = from_start.first() else {
        bail!("safekeeper {id} does not have timeline {ttid}, and no other one that answers has it from its start")
    };
    let (cfg, start) = (stream_config(there)?, shown(there.timeline_start_lsn));
    let mut copies = Vec::new();
    for (other, _) in &from_start {
        match prehistory(other, ttid, start, cfg.seg_size).await {
            Ok(bytes) => copies.push(PrehistoryCopy { of: other.id, bytes }),
            Err(e) => eprintln!("walfabric: safekeeper {} does not give its first segment: {e:#}", other.id),
        }
    }
    let PrehistoryCopy { of, bytes } = good_copy(&cfg, start, copies)?;
    let Some((_, there)) = from_start.into_iter().find(|(other, _)| other.id == of) else {
        bail!("no safekeeper {of}")
    };
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
        prehistory_len: bytes.len() as u64,
    };
    let mut body = serde_json::to_vec(&request)?;
    body.push(b'\n');
    body.extend_from_slice(&bytes);
    http.post(&node.http, "/v1/tenant/timeline", body, timeline::BODY_TYPE).await?;
    println!("safekeeper {id} had no timeline {ttid}: made anew at {start}, from safekeeper {of}");
    Ok(())
}

/// The bytes below the timeline's start in its first segment, as one member has them.
struct PrehistoryCopy {
    of: NodeId,
    bytes: BytesMut,
}

async fn prehistory(node: &NodeRecord, ttid: TenantTimelineId, start: Lsn, seg: SegSize) -> Result<BytesMut> {
    let from = start.segment_start(seg);
    let want = usize::try_from(start.bytes_since(from))?;
    if want == 0 {
        return Ok(BytesMut::new());
    }
    let connection = ClientConnection::dial(&options(node, ttid)?).await?;
    let whose = format!("safekeeper {}", node.id);
    timeline::stretch(connection, &format!("START_REPLICATION PHYSICAL {from}"), from, want, &whose).await
}

/// The first copy whose records are good. The end of a record from before the segment has no checksum here: in it, all
/// good copies must be equal.
fn good_copy(cfg: &StreamConfig, start: Lsn, copies: Vec<PrehistoryCopy>) -> Result<PrehistoryCopy> {
    let (mut good, mut problems) = (Vec::new(), Vec::new());
    for copy in copies {
        match check_prehistory(cfg, start, &copy.bytes) {
            Ok(from) => good.push((copy, from)),
            Err(e) => {
                let problem = format!("safekeeper {}'s first segment is damaged below {start}: {e:#}", copy.of);
                eprintln!("walfabric: {problem}");
                problems.push(problem);
            }
        }
    }
    let others = good.split_off(good.len().min(1));
    let Some((copy, from)) = good.pop() else {
        bail!("no safekeeper that has the timeline from its start gives a good first segment: {}", problems.join("; "))
    };
    let segment = start.segment_start(cfg.seg_size);
    let unchecked = usize::try_from(from.bytes_since(segment))?;
    for (other, _) in &others {
        let pairs = copy.bytes.iter().zip(other.bytes.iter()).take(unchecked);
        if let Some(i) = pairs.into_iter().position(|(a, b)| a != b) {
            bail!(
                "the first segments of safekeepers {} and {} differ at {}, before the first whole record: one is \
                 damaged, and no checksum tells which; compare both files with the primary's or an archive's copy, \
                 put the right one in the place of the wrong one, then try again",
                copy.of,
                other.of,
                segment.add(i as u64)
            );
        }
    }
    if others.is_empty() && unchecked > 0 {
        eprintln!(
            "walfabric: [{segment}, {from}) of safekeeper {} is the end of a record from before the timeline; no other \
             copy is there to compare it with",
            copy.of
        );
    }
    Ok(copy)
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

#[cfg(test)]
mod tests {
    use pgformat::wal::WalBuilder;
    use pgformat::{PgMajor, Tli};

    use super::*;

    /// Copies of what is below `start`, which is in the second segment of 1 MiB; a record crosses into that one.
    fn copies() -> (StreamConfig, Lsn, Vec<PrehistoryCopy>) {
        let cfg = StreamConfig {
            version: PgMajor::from_version_num(150_004).expect("a version"),
            seg_size: SegSize::new(1 << 20).expect("a size"),
            system_id: Some(7),
            tlis: vec![(Tli(1), Lsn::new(0))],
        };
        let begin = Lsn::new(1 << 20);
        let mut builder = WalBuilder::new(cfg.clone(), begin, None);
        builder.noop_until(Lsn::new((2 << 20) - 4096));
        builder.noop(20_000);
        let start = builder.noop(300).end;
        let bytes =
            BytesMut::from(&builder.bytes()[1 << 20..usize::try_from(start.bytes_since(begin)).expect("small")]);
        (cfg, start, [1, 3].map(|id| PrehistoryCopy { of: NodeId(id), bytes: bytes.clone() }).into())
    }

    #[test]
    fn a_copy_with_a_damaged_record_is_left_out() -> Result<()> {
        let (cfg, start, mut all) = copies();
        let good = all[1].bytes.clone();
        let place = good.len() - 200;
        all[0].bytes[place] ^= 1;
        let chosen = good_copy(&cfg, start, all)?;
        assert!(chosen.of == NodeId(3) && chosen.bytes == good);
        let (cfg, start, mut all) = copies();
        all.iter_mut().for_each(|copy| copy.bytes[place] ^= 1);
        let refused = good_copy(&cfg, start, all).map(|c| c.of).expect_err("both are bad").to_string();
        assert!(refused.contains("safekeeper 1's") && refused.contains("safekeeper 3's"), "{refused}");
        Ok(())
    }

    #[test]
    fn copies_that_differ_where_no_record_is_whole_are_both_named() -> Result<()> {
        let (cfg, start, all) = copies();
        assert_eq!(good_copy(&cfg, start, all)?.of, NodeId(1));
        let (cfg, start, mut all) = copies();
        all[1].bytes[9_000] ^= 1;
        let refused = good_copy(&cfg, start, all).map(|c| c.of).expect_err("they differ").to_string();
        assert!(refused.contains("safekeepers 1 and 3 differ at 0/202328"), "{refused}");
        Ok(())
    }
}
