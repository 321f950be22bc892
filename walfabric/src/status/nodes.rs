//! Which nodes there are and where: from `fabric.json` or from the broker, before anything is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use broker::Broker;
use proto::broker::records::{NodeRecord, PrimaryRecord, TimelineConfRecord};
use proto::id::{NodeId, TenantTimelineId};

use crate::fabric::{FabricDir, NodeEntry};

/// Where to find the nodes.
#[derive(Clone, Debug)]
pub enum NodeSource {
    /// A local fabric.
    Dir(PathBuf),
    /// A broker that nodes publish on.
    Broker {
        /// URL of the broker.
        url: String,
        /// What all keys of the fabric begin with.
        prefix: String,
    },
}

/// Addresses of everything, before anything was asked.
pub(super) struct KnownNodes {
    pub(super) safekeepers: Vec<(NodeId, String)>,
    pub(super) pageservers: Vec<(NodeId, String)>,
    pub(super) shims: Vec<(TenantTimelineId, String)>,
    pub(super) timelines: BTreeSet<TenantTimelineId>,
    /// Pageservers that a timeline was attached to at creation, as far as it is known.
    pub(super) hosts: BTreeMap<TenantTimelineId, BTreeSet<NodeId>>,
    /// Member sets, as far as they are known.
    pub(super) members: BTreeMap<TenantTimelineId, BTreeSet<NodeId>>,
    pub(super) broker: Broker,
}

impl KnownNodes {
    /// Reads what `source` says.
    ///
    /// # Errors
    /// When there is no fabric, or the broker does not answer.
    pub(super) async fn find(source: &NodeSource) -> Result<KnownNodes> {
        match source {
            NodeSource::Dir(dir) => from_dir(&FabricDir::new(dir)?),
            NodeSource::Broker { url, prefix } => from_broker(Broker::new(url, prefix)?).await,
        }
    }
}

fn from_dir(dir: &FabricDir) -> Result<KnownNodes> {
    let fabric = dir.read_fabric()?;
    let ttid = TenantTimelineId::new(fabric.tenant_id, fabric.timeline_id);
    let list = |nodes: &[NodeEntry]| {
        let mut all: Vec<_> = nodes.iter().map(|n| (NodeId(n.id), n.http.clone())).collect();
        all.sort();
        all
    };
    let hosts = fabric.pageservers.iter().map(|p| NodeId(p.id)).collect();
    let members = fabric.safekeepers.iter().map(|s| NodeId(s.id)).collect();
    Ok(KnownNodes {
        hosts: BTreeMap::from([(ttid, hosts)]),
        members: BTreeMap::from([(ttid, members)]),
        safekeepers: list(&fabric.safekeepers),
        pageservers: list(&fabric.pageservers),
        shims: fabric.shim.into_iter().map(|s| (ttid, s.http)).collect(),
        timelines: BTreeSet::from([ttid]),
        broker: Broker::new(&fabric.broker.endpoint, &fabric.broker.prefix)?,
    })
}

async fn from_broker(broker: Broker) -> Result<KnownNodes> {
    let keys = broker.keys().clone();
    let list = |entries: Vec<broker::KeyEntry>| {
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
        let Ok(conf) = serde_json::from_slice::<TimelineConfRecord>(&entry.value) else {
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
    Ok(KnownNodes { safekeepers, pageservers, shims, timelines, hosts, members, broker })
}
