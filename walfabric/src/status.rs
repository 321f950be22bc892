//! `walfabric status`: every configured node, dead or alive, with positions asked from the servers at call time.
//!
//! Addresses come from `fabric.json` or the broker; so does the choice while its pageserver is silent. A server that
//! does not answer costs 300 ms at most, all are asked in parallel. `judge` says what is not as it should be.

pub mod command;
mod judge;
mod nodes;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use broker::Broker;
use proto::api::{
    PageserverTimelineState, PageserverTimelineStatus, SafekeeperTimelineStatus, ShimStatus, TimelineSource, shown,
};
use proto::broker::records::PageserverTimelineRecord;
use proto::id::{NodeId, TenantId, TenantTimelineId, TimelineId};

use crate::http::Http;
use nodes::KnownNodes;
use report::{pageserver_row, safekeeper_row, shim_row};

pub use nodes::NodeSource;
pub use report::{FabricStatus, NodeRow, PageserverRow, SafekeeperRow, ShimRow, TimelineStatus};

/// The most that a silent server may cost.
const PATIENCE: Duration = Duration::from_millis(300);

/// The most that a silent broker may cost: another of its endpoints is asked meanwhile.
const BROKER_PATIENCE: Duration = Duration::from_millis(1500);

/// Which timelines to show.
#[derive(Clone, Copy, Default, Debug)]
pub struct Only {
    /// This one, whoever serves it.
    pub timeline: Option<TimelineId>,
    /// Its tenant: needed when nobody knows the timeline.
    pub tenant: Option<TenantId>,
}

/// Asks every server.
///
/// # Errors
/// When neither `fabric.json` nor the broker says which nodes there are, or nobody knows the timeline asked for.
pub async fn collect(source: &NodeSource, only: Only) -> Result<FabricStatus> {
    let mut nodes = KnownNodes::find(source).await?;
    let answers = StatusAnswers::ask(&nodes).await?;
    nodes.timelines.extend(answers.timelines());
    let mut timelines = Vec::new();
    for ttid in chosen(&nodes.timelines, only)? {
        timelines.push(answers.timeline(&nodes, ttid).await);
    }
    let rows = node_rows(&nodes, &answers.safekeepers, &answers.pageservers);
    Ok(FabricStatus { schema: 1, nodes: rows, timelines })
}

/// What the servers said, each list in the order of the nodes, and the broker.
struct StatusAnswers {
    safekeepers: Vec<Result<Vec<SafekeeperTimelineStatus>>>,
    pageservers: Vec<Result<Vec<PageserverTimelineStatus>>>,
    shims: Vec<Result<ShimStatus>>,
    /// Timelines that the broker has a record of; or what is not as it should be with it.
    recorded: Result<BTreeSet<TenantTimelineId>, String>,
}

impl StatusAnswers {
    async fn ask(nodes: &KnownNodes) -> Result<StatusAnswers> {
        let http = Http::new(PATIENCE)?;
        let path = "/v1/tenant/timeline";
        let safekeepers = nodes.safekeepers.iter().map(|(_, address)| http.get(address, path));
        let pageservers = nodes.pageservers.iter().map(|(_, address)| http.get(address, path));
        let shims = nodes.shims.iter().map(|(_, address)| http.get(address, "/v1/status"));
        let (safekeepers, pageservers, shims, recorded) = futures::join!(
            futures::future::join_all(safekeepers),
            futures::future::join_all(pageservers),
            futures::future::join_all(shims),
            recorded(&nodes.broker)
        );
        Ok(StatusAnswers { safekeepers, pageservers, shims, recorded })
    }

    /// Every timeline that a node holds.
    fn timelines(&self) -> impl Iterator<Item = TenantTimelineId> {
        let safekeepers = self.safekeepers.iter().flatten().flatten();
        let pageservers = self.pageservers.iter().flatten().flatten();
        let of_safekeepers = safekeepers.map(|s| TenantTimelineId::new(s.tenant_id, s.timeline_id));
        of_safekeepers.chain(pageservers.map(|p| TenantTimelineId::new(p.tenant_id, p.timeline_id)))
    }

    /// What the safekeepers hold of one timeline.
    fn held(&self, ttid: TenantTimelineId) -> impl Iterator<Item = &SafekeeperTimelineStatus> {
        let is = move |s: &&SafekeeperTimelineStatus| TenantTimelineId::new(s.tenant_id, s.timeline_id) == ttid;
        self.safekeepers.iter().flatten().flatten().filter(is)
    }

    /// One timeline over all nodes, judged.
    async fn timeline(&self, nodes: &KnownNodes, ttid: TenantTimelineId) -> TimelineStatus {
        let is = |tenant: TenantId, timeline: TimelineId| TenantTimelineId::new(tenant, timeline) == ttid;
        let sk_rows = nodes.safekeepers.iter().zip(&self.safekeepers).map(|((id, _), answer)| {
            let held = answer.as_ref().ok().and_then(|l| l.iter().find(|s| is(s.tenant_id, s.timeline_id)));
            safekeeper_row(*id, answer.is_ok(), held)
        });
        let mut sk_rows: Vec<_> = sk_rows.collect();
        let mut members: BTreeSet<NodeId> = self.held(ttid).flat_map(|s| s.mconf.nodes()).collect();
        // A node that is no member has nothing to take part in.
        sk_rows.iter_mut().filter(|row| !members.contains(&row.id)).for_each(|row| row.problem = None);
        let shim = nodes.shims.iter().zip(&self.shims).find(|((of, _), _)| *of == ttid);
        let shim = shim.and_then(|(_, answer)| answer.as_ref().ok());
        let told = sk_rows.iter().filter(|r| r.holds).map(|r| r.commit_lsn).chain(shim.map(|s| shown(s.commit_lsn)));
        let commit = told.max();
        let mut ps_rows = Vec::new();
        for ((id, _), answer) in nodes.pageservers.iter().zip(&self.pageservers) {
            let held = answer.as_ref().ok().and_then(|l| l.iter().find(|p| is(p.tenant_id, p.timeline_id)));
            ps_rows.push(match held {
                Some(held) => pageserver_row(held, commit),
                None => silent_pageserver_row(&nodes.broker, ttid, *id, answer.is_ok()).await,
            });
        }
        let known = |list: &BTreeMap<_, BTreeSet<NodeId>>| list.get(&ttid).cloned().unwrap_or_default();
        members.extend(known(&nodes.members));
        let mut timeline = TimelineStatus {
            tenant_id: ttid.tenant_id,
            timeline_id: ttid.timeline_id,
            safekeepers: sk_rows,
            pageservers: ps_rows,
            shim: shim_row(shim),
            reasons: Vec::new(),
        };
        timeline.reasons = judge::judge(&timeline, &members, &known(&nodes.hosts));
        match &self.recorded {
            Err(problem) => timeline.reasons.push(problem.clone()),
            Ok(recorded) if recorded.contains(&ttid) => {}
            Ok(_) => timeline.reasons.extend(lost_record(&nodes.broker, ttid, self.held(ttid))),
        }
        timeline
    }
}

/// The timelines that the broker has a record of; or what is not as it should be with it.
async fn recorded(broker: &Broker) -> Result<BTreeSet<TenantTimelineId>, String> {
    let keys = broker.keys();
    let confs = keys.confs();
    let asked = async { futures::try_join!(broker.is_full(), broker.get_prefix(&confs)) };
    match tokio::time::timeout(BROKER_PATIENCE, asked).await {
        Ok(Ok((false, (entries, _)))) => Ok(entries.iter().filter_map(|e| keys.ttid_of(&e.key)).collect()),
        Ok(Ok((true, _))) => {
            Err("the broker is full (alarm NOSPACE) and takes no writes: positions and choices there \
                                  grow old; make space, then 'etcdctl alarm disarm' (operations.md, 'When it is full')"
                .to_owned())
        }
        Ok(Err(e)) => Err(format!("the broker does not answer: commits and streams go on, no choice changes: {e}")),
        Err(_) => Err(format!(
            "the broker does not answer within {} ms: commits and streams go on, no choice changes",
            BROKER_PATIENCE.as_millis()
        )),
    }
}

/// A timeline that members hold and that the broker has no record of; a compute with a walproposer of its own makes
/// such timelines.
fn lost_record<'a>(
    broker: &Broker,
    ttid: TenantTimelineId,
    mut held: impl Iterator<Item = &'a SafekeeperTimelineStatus>,
) -> Option<String> {
    let (tenant, id) = (ttid.tenant_id, ttid.timeline_id);
    held.any(|s| s.source == TimelineSource::Vanilla).then(|| {
        format!(
            "its record on the broker ({}) is missing, which no node puts back: repeat 'walfabric timeline create \
             --tenant-id {tenant} --timeline-id {id} ...' as at first",
            broker.keys().conf(ttid)
        )
    })
}

/// The timelines to show, of those that somebody names.
fn chosen(known: &BTreeSet<TenantTimelineId>, only: Only) -> Result<Vec<TenantTimelineId>> {
    let Some(timeline) = only.timeline else { return Ok(known.iter().copied().collect()) };
    let is =
        |t: &&TenantTimelineId| t.timeline_id == timeline && only.tenant.is_none_or(|tenant| t.tenant_id == tenant);
    let found: Vec<_> = known.iter().filter(is).copied().collect();
    match only.tenant {
        _ if !found.is_empty() => Ok(found),
        Some(tenant) => Ok(vec![TenantTimelineId::new(tenant, timeline)]),
        None => {
            anyhow::bail!("no node and no record on the broker names timeline {timeline}; with --tenant it is shown")
        }
    }
}

fn node_rows<S, P>(nodes: &KnownNodes, safekeepers: &[Result<S>], pageservers: &[Result<P>]) -> Vec<NodeRow> {
    let row = |kind, (id, http): &(NodeId, String), alive| NodeRow { kind, id: *id, http: http.clone(), alive };
    let sk = nodes.safekeepers.iter().zip(safekeepers).map(|(node, answer)| row("safekeeper", node, answer.is_ok()));
    let ps = nodes.pageservers.iter().zip(pageservers).map(|(node, answer)| row("pageserver", node, answer.is_ok()));
    sk.chain(ps).collect()
}

/// What the broker still tells of a pageserver that is silent, or that does not hold the timeline.
async fn silent_pageserver_row(broker: &Broker, ttid: TenantTimelineId, id: NodeId, alive: bool) -> PageserverRow {
    let key = broker.keys().timeline_pageserver(ttid, id);
    let entry = tokio::time::timeout(PATIENCE, broker.get(&key)).await;
    let entry = entry.ok().and_then(Result::ok).flatten();
    let record = entry.and_then(|e| serde_json::from_slice::<PageserverTimelineRecord>(&e.value).ok());
    let last = shown(record.as_ref().and_then(|r| r.last_record_lsn));
    PageserverRow {
        id,
        alive,
        safekeeper_id: record.as_ref().and_then(|r| r.safekeeper_id),
        reason: record.as_ref().and_then(|r| r.reason.clone()),
        choice_seq: record.as_ref().map_or(0, |r| r.choice_seq),
        chosen_at: record.as_ref().and_then(|r| r.chosen_at.clone()),
        last_record_lsn: last,
        disk_consistent_lsn: shown(record.as_ref().and_then(|r| r.disk_consistent_lsn)),
        remote_consistent_lsn: shown(record.as_ref().and_then(|r| r.remote_consistent_lsn)),
        lag_bytes: None,
        commit_age_ms: None,
        holds: false,
        state: PageserverTimelineState::Unknown,
        reasons: Vec::new(),
    }
}
