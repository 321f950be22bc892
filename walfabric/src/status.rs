//! `walfabric status`: every configured node, dead or alive, with positions asked from the servers at call time.
//!
//! Addresses come from `fabric.json` or the broker; so does the choice while its pageserver is silent. A server that
//! does not answer costs 300 ms at most, all are asked in parallel. `judge` says what is not as it should be.

pub mod command;
mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use broker::Broker;
use proto::Lsn;
use proto::api::{
    PageserverTimelineState, PageserverTimelineStatus, SafekeeperTimelineStatus, ShimSafekeeperStatus, ShimStatus,
    TimelineSource,
};
use proto::broker::records::{NodeRecord, PageserverTimelineRecord, PrimaryRecord};
use proto::id::{NodeId, TenantId, TenantTimelineId, Term, TimelineId};
use serde::Serialize;

use crate::fabric::FabricDir;
use crate::http::Http;

/// The most that a silent server may cost.
const PATIENCE: Duration = Duration::from_millis(300);

/// The most that a silent broker may cost: another of its endpoints is asked meanwhile.
const BROKER_PATIENCE: Duration = Duration::from_millis(1500);

/// `status --json`, schema 1: fields may be added, never renamed.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Always 1.
    pub schema: u32,
    /// Every node that is known, also before there is a timeline.
    pub nodes: Vec<NodeRow>,
    /// One entry per timeline.
    pub timelines: Vec<TimelineStatus>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeRow {
    /// safekeeper or pageserver.
    pub kind: &'static str,
    /// Its number.
    pub id: NodeId,
    /// Address of its HTTP port; empty when its lease has ended.
    pub http: String,
    /// Whether it answered now.
    pub alive: bool,
}

/// One timeline over all nodes.
#[derive(Clone, Debug, Serialize)]
pub struct TimelineStatus {
    /// Tenant.
    pub tenant_id: TenantId,
    /// Timeline.
    pub timeline_id: TimelineId,
    /// Every configured safekeeper, by id.
    pub safekeepers: Vec<SafekeeperRow>,
    /// Every configured pageserver, by id.
    pub pageservers: Vec<PageserverRow>,
    /// The shim.
    pub shim: ShimRow,
    /// What is not as it should be, each in its own words; empty: all is.
    pub reasons: Vec<String>,
}

/// A safekeeper; positions are 0/0 when unknown.
#[derive(Clone, Debug, Serialize)]
pub struct SafekeeperRow {
    /// Node.
    pub id: NodeId,
    /// Whether it answered now.
    pub alive: bool,
    /// Term.
    pub term: Term,
    /// Term that wrote the end of its log.
    pub last_log_term: Term,
    /// Durable there.
    pub flush_lsn: Lsn,
    /// Durable on a quorum, as known there.
    pub commit_lsn: Lsn,
    /// In object storage.
    pub remote_consistent_lsn: Lsn,
    /// Bytes of WAL files held.
    pub wal_bytes: u64,
    /// Whether it has the timeline.
    pub holds: bool,
    /// Whether a proposer streams to it.
    pub streaming: bool,
    /// Why it accepts no WAL, when so.
    pub stopped: Option<String>,
    /// Why it takes no part, though it answers: it forgot what it promised, or does not have the timeline.
    pub problem: Option<String>,
    /// Where WAL held there does not read back, when that was found out.
    pub damaged: Option<String>,
}

/// A pageserver and its choice.
#[derive(Clone, Debug, Serialize)]
pub struct PageserverRow {
    /// Node.
    pub id: NodeId,
    /// Whether it answered now.
    pub alive: bool,
    /// Whom it chose.
    pub safekeeper_id: Option<NodeId>,
    /// Why.
    pub reason: Option<String>,
    /// Counts its choices.
    pub choice_seq: u64,
    /// When, RFC 3339.
    pub chosen_at: Option<String>,
    /// End of the last record ingested.
    pub last_record_lsn: Lsn,
    /// Durable on its disk.
    pub disk_consistent_lsn: Lsn,
    /// In object storage.
    pub remote_consistent_lsn: Lsn,
    /// Behind the highest commit position that anybody told, in bytes; none when it is unknown.
    pub lag_bytes: Option<u64>,
    /// For how long nobody confirmed the commit position that the pageserver knows, in milliseconds.
    pub commit_age_ms: Option<u64>,
    /// Whether it has the timeline.
    pub holds: bool,
    /// What it does about the timeline, unknown when it does not answer.
    pub state: PageserverTimelineState,
    /// Why it does not follow, each to be read behind "the timeline".
    pub reasons: Vec<String>,
}

/// The shim.
#[derive(Clone, Debug, Serialize)]
pub struct ShimRow {
    /// Whether it answered now.
    pub alive: bool,
    /// Its state, `down` when it does not answer.
    pub state: String,
    /// Term won last.
    pub term: Term,
    /// Reported to PostgreSQL.
    pub reported_lsn: Lsn,
    /// Whether synchronous commits wait for the quorum.
    pub protected: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// The safekeepers as it sees them.
    pub safekeepers: Vec<ShimSafekeeperStatus>,
}

/// Where to find the nodes.
#[derive(Clone, Debug)]
pub enum Source {
    /// A local fabric.
    Dir(PathBuf),
    /// A broker.
    Broker {
        /// URL.
        url: String,
        /// Key prefix.
        prefix: String,
    },
}

/// Addresses of everything, before anything was asked.
struct Nodes {
    safekeepers: Vec<(NodeId, String)>,
    pageservers: Vec<(NodeId, String)>,
    shims: Vec<(TenantTimelineId, String)>,
    timelines: BTreeSet<TenantTimelineId>,
    /// Pageservers that a timeline was attached to at creation, as far as it is known.
    hosts: BTreeMap<TenantTimelineId, BTreeSet<NodeId>>,
    /// Member sets, as far as they are known.
    members: BTreeMap<TenantTimelineId, BTreeSet<NodeId>>,
    broker: Broker,
}

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
pub async fn collect(source: &Source, only: Only) -> Result<Status> {
    let mut nodes = match source {
        Source::Dir(dir) => from_dir(&FabricDir::new(dir)?)?,
        Source::Broker { url, prefix } => from_broker(Broker::new(url, prefix)?).await?,
    };
    let http = Http::new(PATIENCE)?;
    let path = "/v1/tenant/timeline";
    let safekeepers =
        nodes.safekeepers.iter().map(|(_, address)| http.get::<Vec<SafekeeperTimelineStatus>>(address, path));
    let pageservers =
        nodes.pageservers.iter().map(|(_, address)| http.get::<Vec<PageserverTimelineStatus>>(address, path));
    let shims = nodes.shims.iter().map(|(_, address)| http.get::<ShimStatus>(address, "/v1/status"));
    let (safekeepers, pageservers, shims, broker) = futures::join!(
        futures::future::join_all(safekeepers),
        futures::future::join_all(pageservers),
        futures::future::join_all(shims),
        recorded(&nodes.broker)
    );
    let seen_sk = safekeepers.iter().flatten().flatten().map(|s| TenantTimelineId::new(s.tenant_id, s.timeline_id));
    let seen_ps = pageservers.iter().flatten().flatten().map(|p| TenantTimelineId::new(p.tenant_id, p.timeline_id));
    nodes.timelines.extend(seen_sk.chain(seen_ps));

    let rows = node_rows(&nodes, &safekeepers, &pageservers);
    let mut timelines = Vec::new();
    for ttid in chosen(&nodes.timelines, only)? {
        let is = |tenant: TenantId, timeline: TimelineId| TenantTimelineId::new(tenant, timeline) == ttid;
        let sk_rows = nodes.safekeepers.iter().zip(&safekeepers).map(|((id, _), answer)| {
            let held = answer.as_ref().ok().and_then(|l| l.iter().find(|s| is(s.tenant_id, s.timeline_id)));
            safekeeper_row(*id, answer.is_ok(), held)
        });
        let mut sk_rows: Vec<_> = sk_rows.collect();
        let held = safekeepers.iter().flatten().flatten().filter(|s| is(s.tenant_id, s.timeline_id));
        let members: BTreeSet<NodeId> = held.flat_map(|s| s.mconf.nodes()).collect();
        // A node that is no member has nothing to take part in.
        sk_rows.iter_mut().filter(|row| !members.contains(&row.id)).for_each(|row| row.problem = None);
        let shim = nodes.shims.iter().zip(&shims).find(|((of, _), _)| *of == ttid).and_then(|(_, s)| s.as_ref().ok());
        let told = sk_rows.iter().filter(|r| r.holds).map(|r| r.commit_lsn).chain(shim.map(|s| s.commit_lsn));
        let commit = told.max();
        let mut ps_rows = Vec::new();
        for ((id, _), answer) in nodes.pageservers.iter().zip(&pageservers) {
            let held = answer.as_ref().ok().and_then(|l| l.iter().find(|p| is(p.tenant_id, p.timeline_id)));
            ps_rows.push(match held {
                Some(held) => pageserver_row(held, commit),
                None => silent_pageserver_row(&nodes.broker, ttid, *id, answer.is_ok()).await,
            });
        }
        let known = |list: &BTreeMap<_, BTreeSet<NodeId>>| list.get(&ttid).cloned().unwrap_or_default();
        let mut members = known(&nodes.members);
        for held in safekeepers.iter().flatten().flatten().filter(|s| is(s.tenant_id, s.timeline_id)) {
            members.extend(held.mconf.nodes());
        }
        let mut timeline = TimelineStatus {
            tenant_id: ttid.tenant_id,
            timeline_id: ttid.timeline_id,
            safekeepers: sk_rows,
            pageservers: ps_rows,
            shim: shim_row(shim),
            reasons: Vec::new(),
        };
        timeline.reasons = judge::judge(&timeline, &members, &known(&nodes.hosts));
        match &broker {
            Err(problem) => timeline.reasons.push(problem.clone()),
            Ok(recorded) if recorded.contains(&ttid) => {}
            Ok(_) => timeline.reasons.extend(lost_record(&nodes.broker, ttid, safekeepers.iter().flatten().flatten())),
        }
        timelines.push(timeline);
    }
    Ok(Status { schema: 1, nodes: rows, timelines })
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
    let is_ours = |s: &SafekeeperTimelineStatus| {
        (s.tenant_id, s.timeline_id) == (tenant, id) && s.source == TimelineSource::Vanilla
    };
    held.any(is_ours).then(|| {
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

fn node_rows<S, P>(nodes: &Nodes, safekeepers: &[Result<S>], pageservers: &[Result<P>]) -> Vec<NodeRow> {
    let row = |kind, (id, http): &(NodeId, String), alive| NodeRow { kind, id: *id, http: http.clone(), alive };
    let sk = nodes.safekeepers.iter().zip(safekeepers).map(|(node, answer)| row("safekeeper", node, answer.is_ok()));
    let ps = nodes.pageservers.iter().zip(pageservers).map(|(node, answer)| row("pageserver", node, answer.is_ok()));
    sk.chain(ps).collect()
}

fn from_dir(dir: &FabricDir) -> Result<Nodes> {
    let fabric = dir.read_fabric()?;
    let ttid = TenantTimelineId::new(fabric.tenant_id, fabric.timeline_id);
    let list = |nodes: &[crate::fabric::NodeEntry]| {
        let mut all: Vec<_> = nodes.iter().map(|n| (NodeId(n.id), n.http.clone())).collect();
        all.sort();
        all
    };
    let hosts = fabric.pageservers.iter().map(|p| NodeId(p.id)).collect();
    let members = fabric.safekeepers.iter().map(|s| NodeId(s.id)).collect();
    Ok(Nodes {
        hosts: BTreeMap::from([(ttid, hosts)]),
        members: BTreeMap::from([(ttid, members)]),
        safekeepers: list(&fabric.safekeepers),
        pageservers: list(&fabric.pageservers),
        shims: fabric.shim.into_iter().map(|s| (ttid, s.http)).collect(),
        timelines: BTreeSet::from([ttid]),
        broker: Broker::new(&fabric.broker.endpoint, &fabric.broker.prefix)?,
    })
}

async fn from_broker(broker: Broker) -> Result<Nodes> {
    let keys = broker.keys().clone();
    let list = |entries: Vec<broker::Entry>| {
        let records = entries.iter().filter_map(|e| serde_json::from_slice::<NodeRecord>(&e.value).ok());
        let mut nodes: Vec<_> = records.map(|r| (r.id, r.http)).collect();
        nodes.sort();
        nodes
    };
    let read = |prefix: String| {
        let broker = broker.clone();
        async move {
            let read = tokio::time::timeout(Duration::from_secs(5), async { broker.get_prefix(&prefix).await }).await;
            read.context("the broker does not answer")?.map(|(entries, _)| entries).context("cannot read the broker")
        }
    };
    let safekeepers = list(read(keys.safekeepers()).await?);
    let pageservers = list(read(keys.pageservers()).await?);
    let confs = read(keys.confs()).await?;
    let timelines: BTreeSet<_> = confs.iter().filter_map(|e| keys.ttid_of(&e.key)).collect();
    let primaries = read(format!("{}/primary/", keys.prefix())).await?;
    let shims = primaries.iter().filter_map(|e| {
        let record: PrimaryRecord = serde_json::from_slice(&e.value).ok()?;
        Some((keys.ttid_of(&e.key)?, record.shim_http))
    });
    let mut safekeepers = safekeepers;
    let (mut hosts, mut members) = (BTreeMap::new(), BTreeMap::new());
    // A member whose lease ended is configured all the same.
    for entry in &confs {
        let Ok(conf) = serde_json::from_slice::<proto::broker::records::TimelineConfRecord>(&entry.value) else {
            continue;
        };
        if let Some(ttid) = keys.ttid_of(&entry.key) {
            hosts.insert(ttid, conf.pageservers.iter().copied().collect());
            members.insert(ttid, conf.mconf.nodes().into_iter().collect());
        }
        for node in conf.mconf.nodes() {
            if !safekeepers.iter().any(|(id, _)| *id == node) {
                safekeepers.push((node, String::new()));
            }
        }
    }
    safekeepers.sort();
    let shims = shims.collect();
    Ok(Nodes { safekeepers, pageservers, shims, timelines, hosts, members, broker })
}

fn safekeeper_row(id: NodeId, alive: bool, held: Option<&SafekeeperTimelineStatus>) -> SafekeeperRow {
    let zero = Lsn::new(0);
    SafekeeperRow {
        id,
        alive,
        term: held.map_or(Term::ZERO, |s| s.term),
        last_log_term: held.map_or(Term::ZERO, |s| s.last_log_term),
        flush_lsn: held.map_or(zero, |s| s.flush_lsn),
        commit_lsn: held.map_or(zero, |s| s.commit_lsn),
        remote_consistent_lsn: held.map_or(zero, |s| s.remote_consistent_lsn),
        wal_bytes: held.map_or(0, |s| s.wal_bytes),
        holds: held.is_some(),
        streaming: held.is_some_and(|s| s.streaming),
        stopped: held.and_then(|s| s.stopped.clone()),
        problem: match held {
            Some(held) => held.not_admitted.clone(),
            None => alive.then(|| "it does not have the timeline".to_owned()),
        },
        damaged: held.and_then(|s| s.damaged.clone()),
    }
}

fn pageserver_row(held: &PageserverTimelineStatus, commit: Option<Lsn>) -> PageserverRow {
    let choice = held.choice.as_ref();
    PageserverRow {
        id: held.pageserver_id,
        alive: true,
        safekeeper_id: choice.map(|c| c.safekeeper_id),
        reason: choice.map(|c| c.reason.clone()),
        choice_seq: choice.map_or(0, |c| c.choice_seq),
        chosen_at: choice.map(|c| c.chosen_at.clone()),
        last_record_lsn: held.last_record_lsn,
        disk_consistent_lsn: held.disk_consistent_lsn,
        remote_consistent_lsn: held.remote_consistent_lsn,
        lag_bytes: commit.map(|commit| commit.bytes_since(held.last_record_lsn)).or(held.lag_bytes),
        commit_age_ms: held.commit_age_ms,
        holds: true,
        state: held.state,
        reasons: held.reasons.clone(),
    }
}

/// What the broker still tells of a pageserver that is silent, or that does not hold the timeline.
async fn silent_pageserver_row(broker: &Broker, ttid: TenantTimelineId, id: NodeId, alive: bool) -> PageserverRow {
    let key = broker.keys().timeline_pageserver(ttid, id);
    let entry = tokio::time::timeout(PATIENCE, broker.get(&key)).await;
    let entry = entry.ok().and_then(Result::ok).flatten();
    let record = entry.and_then(|e| serde_json::from_slice::<PageserverTimelineRecord>(&e.value).ok());
    let shown = |lsn: Option<Lsn>| lsn.unwrap_or(Lsn::new(0));
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

fn shim_row(status: Option<&ShimStatus>) -> ShimRow {
    match status {
        Some(s) => ShimRow {
            alive: true,
            state: s.state.clone(),
            term: s.term,
            reported_lsn: s.reported_lsn,
            protected: s.protected,
            reasons: s.reasons.clone(),
            safekeepers: s.safekeepers.clone(),
        },
        None => ShimRow {
            alive: false,
            state: "down".to_owned(),
            term: Term::ZERO,
            reported_lsn: Lsn::new(0),
            protected: false,
            reasons: vec!["the shim does not answer".to_owned()],
            safekeepers: Vec::new(),
        },
    }
}

impl Status {
    /// Whether anything configured is away or not as it should be.
    pub fn degraded(&self) -> bool {
        self.timelines.is_empty() || self.timelines.iter().any(|t| !t.reasons.is_empty())
    }

    /// For people.
    pub fn render(&self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        if self.timelines.is_empty() {
            let _ = writeln!(out, "no timeline yet: make one with `walfabric timeline create`");
            for n in &self.nodes {
                let state = if n.alive { "alive" } else { "DOWN" };
                let _ = writeln!(out, "  {} {:<2} {state:<10} {}", n.kind, n.id, n.http);
            }
        }
        for t in &self.timelines {
            let _ = writeln!(out, "timeline {}/{}", t.tenant_id, t.timeline_id);
            let shim = &t.shim;
            let guard = if shim.protected {
                "protected".to_owned()
            } else {
                format!("NOT PROTECTED: {}", shim.reasons.join("; "))
            };
            let _ = writeln!(
                out,
                "  shim          {:<10} term {} reported {} {guard}",
                shim.state, shim.term, shim.reported_lsn
            );
            for s in &t.safekeepers {
                let state = if s.alive { "alive" } else { "DOWN" };
                let _ = writeln!(
                    out,
                    "  safekeeper {:<2} {state:<10} term {} flush {} commit {} holds {} MiB of WAL",
                    s.id,
                    s.term,
                    s.flush_lsn,
                    s.commit_lsn,
                    s.wal_bytes >> 20
                );
                if let Some(problem) = &s.problem {
                    let _ = writeln!(out, "      takes no part: {problem}");
                }
            }
            for p in &t.pageservers {
                let state = if p.alive { "alive" } else { "DOWN" };
                let lag = p.lag_bytes.map_or_else(|| unknown_lag(p), |lag| format!("{lag} B"));
                let chosen = p.safekeeper_id.map_or("none".to_owned(), |id| format!("safekeeper {id}"));
                let why = p.reason.as_deref().unwrap_or("-");
                let at = p.chosen_at.as_deref().unwrap_or("-");
                let _ = writeln!(
                    out,
                    "  pageserver {:<2} {state:<10} fed by {chosen} (choice {}, {why}, {at}) last record {} disk {} \
                     lag {lag}",
                    p.id, p.choice_seq, p.last_record_lsn, p.disk_consistent_lsn
                );
            }
            for why in &t.reasons {
                let _ = writeln!(out, "  ! {why}");
            }
        }
        out
    }
}

fn unknown_lag(p: &PageserverRow) -> String {
    p.commit_age_ms.map_or("unknown".to_owned(), |age| format!("unknown for {} s", age / 1000))
}
