//! `walfabric timeline list|show|delete`: where a timeline is known, and how to be rid of it.
//!
//! A timeline has a record on the broker, a log on its members, pages on pageservers, and two slots on its primary. One
//! whose creation was cut off has only some of them. All are asked at call time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use broker::Broker;
use proto::api::{PageserverTimelineStatus, SafekeeperTimelineStatus};
use proto::broker::records::{NodeRecord, PrimaryRecord, TimelineConfRecord};
use proto::id::TenantTimelineId;
use serde::Serialize;
use walproposer_shim::{names, sync_names};

use super::records::{conf_records, nodes, timeline_path};
use crate::http::Http;
use crate::sql;

/// A node that does not answer in this time counts as away.
const NODE_LIMIT: Duration = Duration::from_secs(5);

/// What is known of one timeline.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KnownTimeline {
    /// Its record on the broker: members, start, pageservers.
    pub conf: Option<TimelineConfRecord>,
    /// The shim at work.
    pub primary: Option<PrimaryRecord>,
    /// What each living safekeeper holds of it.
    pub safekeepers: BTreeMap<u64, SafekeeperTimelineStatus>,
    /// What each living pageserver holds of it.
    pub pageservers: BTreeMap<u64, PageserverTimelineStatus>,
    /// Nodes of its record that do not answer, or do not hold it.
    pub missing: Vec<String>,
}

impl KnownTimeline {
    /// Whether every part that belongs to it is there.
    pub fn is_whole(&self) -> bool {
        self.conf.is_some() && self.missing.is_empty()
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let ids = |ids: Vec<String>| if ids.is_empty() { "none".to_owned() } else { ids.join(",") };
        let held = ids(self.safekeepers.keys().map(u64::to_string).collect());
        let pages = ids(self.pageservers.keys().map(u64::to_string).collect());
        let shim = match &self.primary {
            Some(p) if p.protected => "shim at work, protected".to_owned(),
            Some(p) => format!("shim at work, not protected: {}", p.reasons.join("; ")),
            None => "no shim".to_owned(),
        };
        let mut text = format!("safekeepers {held}; pageservers {pages}; {shim}");
        if self.conf.is_none() {
            text.push_str("; half-made: no record on the broker");
        }
        if !self.missing.is_empty() {
            text.push_str(&format!("; missing: {}", self.missing.join(", ")));
        }
        text
    }
}

/// The nodes of a fabric.
struct FabricNodes {
    safekeepers: Vec<NodeRecord>,
    pageservers: Vec<NodeRecord>,
}

/// Every timeline that the broker or a living node knows.
///
/// # Errors
/// When the broker does not answer.
pub async fn list(broker_url: &str, prefix: &str) -> Result<BTreeMap<TenantTimelineId, KnownTimeline>> {
    let broker = Broker::new(broker_url, prefix)?;
    let fabric = fabric_nodes(&broker).await?;
    let http = Http::new(NODE_LIMIT)?;
    let mut found: BTreeMap<TenantTimelineId, KnownTimeline> = BTreeMap::new();
    for (ttid, conf) in conf_records(&broker).await? {
        found.entry(ttid).or_default().conf = Some(conf);
    }
    let mut away = Vec::new();
    for node in &fabric.safekeepers {
        match http.get::<Vec<SafekeeperTimelineStatus>>(&node.http, "/v1/tenant/timeline").await {
            Ok(held) => held.into_iter().for_each(|t| {
                let ttid = TenantTimelineId::new(t.tenant_id, t.timeline_id);
                found.entry(ttid).or_default().safekeepers.insert(node.id.0, t);
            }),
            Err(e) => away.push((format!("safekeeper {}", node.id), format!("{e:#}"))),
        }
    }
    for node in &fabric.pageservers {
        match http.get::<Vec<PageserverTimelineStatus>>(&node.http, "/v1/tenant/timeline").await {
            Ok(held) => held.into_iter().for_each(|t| {
                let ttid = TenantTimelineId::new(t.tenant_id, t.timeline_id);
                found.entry(ttid).or_default().pageservers.insert(node.id.0, t);
            }),
            Err(e) => away.push((format!("pageserver {}", node.id), format!("{e:#}"))),
        }
    }
    for (ttid, known) in &mut found {
        if let Some(entry) = broker.get(&broker.keys().primary(*ttid)).await? {
            known.primary = serde_json::from_slice(&entry.value).ok();
        }
        known.missing = missing(known, &away);
    }
    Ok(found)
}

/// Parts of the record that are not there, each with why.
fn missing(known: &KnownTimeline, away: &[(String, String)]) -> Vec<String> {
    let Some(conf) = &known.conf else { return Vec::new() };
    let why = |name: String| {
        let silent = away.iter().any(|(n, _)| *n == name);
        if silent { format!("{name} (does not answer)") } else { format!("{name} (does not hold it)") }
    };
    let members = conf.mconf.nodes().into_iter().filter(|id| !known.safekeepers.contains_key(&id.0));
    let pages = conf.pageservers.iter().filter(|id| !known.pageservers.contains_key(&id.0));
    members.map(|id| why(format!("safekeeper {id}"))).chain(pages.map(|id| why(format!("pageserver {id}")))).collect()
}

async fn fabric_nodes(broker: &Broker) -> Result<FabricNodes> {
    Ok(FabricNodes {
        safekeepers: nodes(broker, &broker.keys().safekeepers(), &[], "safekeeper").await?,
        pageservers: nodes(broker, &broker.keys().pageservers(), &[], "pageserver").await?,
    })
}

/// What `timeline delete` was asked for.
#[derive(Clone, Debug)]
pub struct DeleteArgs {
    /// URL of the broker.
    pub broker: String,
    /// Broker key prefix.
    pub broker_prefix: String,
    /// The timeline to delete.
    pub ttid: TenantTimelineId,
    /// Connection string of the primary, whose slots shall go too.
    pub primary: Option<String>,
    /// Also one that is written, and although nodes are away.
    pub force: bool,
}

/// Removes a timeline from its members, pageservers, the broker, and the primary's slots. `say` is told each step.
/// One that was cut short can be repeated.
///
/// # Errors
/// When nobody who can be asked knows it. When it is being written, commits of the primary wait for it, or a node is
/// away, unless forced; or a node refuses.
pub async fn delete(args: &DeleteArgs, say: &mut dyn FnMut(&str)) -> Result<()> {
    let broker = Broker::new(&args.broker, &args.broker_prefix)?;
    let known = list(&args.broker, &args.broker_prefix).await?.remove(&args.ttid).unwrap_or_default();
    let client = match &args.primary {
        Some(conninfo) => Some(sql::connect(conninfo).await?),
        None => None,
    };
    refuse_unknown(args, &known, client.as_ref()).await?;
    if !args.force {
        refuse_in_use(args, &known, client.as_ref()).await?;
    }
    let fabric = fabric_nodes(&broker).await?;
    let http = Http::new(Duration::from_secs(60))?;
    let path = format!("{}{}", timeline_path(args.ttid), if args.force { "?force=true" } else { "" });
    let mut left = Vec::new();
    // Pages first: a pageserver that loses its safekeepers would only look for others.
    let pages = fabric.pageservers.iter().map(|n| ("pageserver", n));
    for (kind, node) in pages.chain(fabric.safekeepers.iter().map(|n| ("safekeeper", n))) {
        match http.delete(&node.http, &path).await {
            Ok(true) => say(&format!("{kind} {}: deleted", node.id)),
            Ok(false) => {}
            Err(e) => left.push(format!("{kind} {}: {e:#}", node.id)),
        }
    }
    // A node of the record that is not on the broker may come back with it.
    for absent in known.missing.iter().filter(|m| m.contains("does not answer")) {
        left.push(format!("{absent}: repeat this when it is back"));
    }
    ensure!(left.is_empty() || args.force, "not deleted everywhere: {}", left.join("; "));
    forget_on_broker(&broker, args.ttid, &fabric).await?;
    say("broker: deleted");
    match &client {
        Some(client) => drop_slots(client, args.ttid, say).await?,
        None => {
            let slot = names::slot_name(args.ttid.timeline_id);
            say(&format!(
                "primary: not asked; if it lives on, its slots {slot} and {} keep WAL there: repeat this with \
                 --primary",
                names::pin_slot_name(&slot)
            ));
        }
    }
    ensure!(left.is_empty(), "deleted, but for: {}", left.join("; "));
    Ok(())
}

/// A timeline that somebody relies on is not deleted unasked.
async fn refuse_in_use(
    args: &DeleteArgs,
    known: &KnownTimeline,
    client: Option<&tokio_postgres::Client>,
) -> Result<()> {
    let writing = known.safekeepers.values().any(|s| s.streaming);
    ensure!(
        !writing && known.primary.is_none(),
        "timeline {} is in use: its shim is at work. Run 'walfabric timeline unprotect', stop the shim, then repeat",
        args.ttid
    );
    if let Some(client) = client {
        let setting = sql::text(client, "SHOW synchronous_standby_names").await?;
        ensure!(
            sync_names::problem(&setting, &names::standby_name(args.ttid.timeline_id)).is_some(),
            "commits of the primary wait for timeline {}: run 'walfabric timeline unprotect' first, then repeat",
            args.ttid
        );
    }
    Ok(())
}

/// A timeline that nobody knows is more likely a wrong id than one that is gone.
async fn refuse_unknown(
    args: &DeleteArgs,
    known: &KnownTimeline,
    client: Option<&tokio_postgres::Client>,
) -> Result<()> {
    // A creation that was cut short may have left nothing but its slots.
    let slot = match client {
        Some(client) => has_slot(client, args.ttid).await?,
        None => false,
    };
    let nobody = known.conf.is_none() && known.safekeepers.is_empty() && known.pageservers.is_empty();
    ensure!(
        !nobody || slot,
        "timeline {} is known to nobody: 'walfabric timeline list' shows those that are",
        args.ttid
    );
    Ok(())
}

async fn forget_on_broker(broker: &Broker, ttid: TenantTimelineId, fabric: &FabricNodes) -> Result<()> {
    let keys = broker.keys();
    broker.delete(&keys.conf(ttid)).await?;
    // Nodes withdraw what they publish; this is for records of nodes that are gone.
    for prefix in [keys.timeline_safekeepers(ttid), keys.timeline_pageservers(ttid)] {
        broker.delete_prefix(&prefix).await?;
    }
    for safekeeper in &fabric.safekeepers {
        for pageserver in &fabric.pageservers {
            broker.delete(&keys.choice(safekeeper.id, ttid, pageserver.id)).await?;
        }
    }
    Ok(())
}

async fn has_slot(client: &tokio_postgres::Client, ttid: TenantTimelineId) -> Result<bool> {
    let slot = names::slot_name(ttid.timeline_id);
    let pin = names::pin_slot_name(&slot);
    let query = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name IN ('{slot}', '{pin}')");
    Ok(sql::text(client, &query).await? != "0")
}

/// Drops the two slots. One that is in use stays, and is named.
async fn drop_slots(client: &tokio_postgres::Client, ttid: TenantTimelineId, say: &mut dyn FnMut(&str)) -> Result<()> {
    let slot = names::slot_name(ttid.timeline_id);
    for name in [names::pin_slot_name(&slot), slot] {
        let there = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'");
        if sql::text(client, &there).await? == "0" {
            continue;
        }
        let dropped = client.simple_query(&format!("SELECT pg_drop_replication_slot('{name}')")).await;
        dropped.with_context(|| format!("slot {name} cannot be dropped: is a shim still connected?"))?;
        say(&format!("primary: slot {name} dropped"));
    }
    Ok(())
}
