//! `walfabric timeline create` and `import`: a creation from its checks to its end.
//!
//! Only this creates timelines. Repeating it with equal parameters changes nothing and heals a half-finished attempt;
//! differing parameters are a conflict. The start position is fixed by the slot, or by whoever holds the timeline
//! already.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use broker::Broker;
use pageserver::custom_managers;
use proto::Lsn;
use proto::api::{
    AttachRequest, CreateTimelineRequest, ImportRequest, PageserverTimelineStatus, SafekeeperTimelineStatus,
    TimelineSource,
};
use proto::broker::records::{NodeRecord, SCHEMA, TimelineConfRecord};
use proto::consensus::{Member, MemberConf};
use proto::id::{Generation, NodeId, PrimaryEpoch, TenantId, TenantTimelineId, TimelineId};
use tokio_util::sync::CancellationToken;

use super::members::{INTERRUPTED, create_on_members, go_on};
use super::preflight;
use super::primary::Primary;
use super::records::{conf_of, nodes, timeline_path};
use super::slot::reserve_slot;
use super::undo::Made;
use crate::http::Http;
use crate::sql;

/// What `timeline create` was asked for.
#[derive(Clone, Debug)]
pub struct CreateArgs {
    /// libpq connection string of the primary.
    pub primary: String,
    /// URL of the broker.
    pub broker: String,
    /// Broker key prefix.
    pub broker_prefix: String,
    /// Tenant and timeline.
    pub ttid: TenantTimelineId,
    /// Members by node id; empty: every safekeeper that the broker shows.
    pub safekeepers: Vec<u64>,
    /// Pageservers by node id; empty: every pageserver that the broker shows.
    pub pageservers: Vec<u64>,
    /// Whether the pageservers copy the cluster, so that they can serve its pages.
    pub import: bool,
    /// Cancelled by whoever gives up: what was made is taken back.
    pub interrupted: CancellationToken,
}

/// What was made, or was there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Where the log starts.
    pub start_lsn: Lsn,
    /// The members' libpq addresses, by id.
    pub safekeepers: Vec<(NodeId, String)>,
    /// The pageservers' HTTP addresses, by id.
    pub pageservers: Vec<(NodeId, String)>,
    /// Whether anything had to be made.
    pub changed: bool,
}

/// Fresh random ids.
pub fn random_ttid() -> TenantTimelineId {
    let id = || std::array::from_fn(|_| fastrand::u8(..));
    TenantTimelineId::new(TenantId::new(id()), TimelineId::new(id()))
}

/// Creates the timeline on every member and attaches it to the pageservers. Everything that can be known is checked
/// before anything is made; what was made is taken back when a later step fails.
///
/// # Errors
/// When the primary is not fit, a member is away or refuses, or something exists with other parameters.
pub async fn create(args: &CreateArgs) -> Result<Created> {
    let (site, existing) = args.interrupted.run_until_cancelled(prepare(args)).await.context(INTERRUPTED)??;
    let mut made = Made::default();
    match site.make(existing, &mut made).await {
        Ok(created) => Ok(created),
        // What was there before this run holds WAL and pages: nothing of it is ever taken back.
        Err(e) if existing.is_some() => {
            Err(e.context(format!("the timeline was there before, and stays; a retry with {} continues", ids(args))))
        }
        Err(e) => {
            let left = made.undo(args.ttid, &site.client, &site.http, &site.broker).await;
            if left.is_empty() {
                return Err(e.context("the timeline is not created, and nothing of it is left behind"));
            }
            let ids = ids(args);
            Err(e.context(format!(
                "the timeline is not created; these could not be taken back: {}. Remove them with 'walfabric timeline \
                 delete --force {ids}', or repeat this command with {ids}",
                left.join(", ")
            )))
        }
    }
}

/// The options that name the timeline.
fn ids(args: &CreateArgs) -> String {
    format!("--tenant-id {} --timeline-id {}", args.ttid.tenant_id, args.ttid.timeline_id)
}

/// Checks everything that can be known, and makes nothing. Gives the start of a timeline that is there already, too.
async fn prepare(args: &CreateArgs) -> Result<(Site<'_>, Option<Lsn>)> {
    let broker = Broker::new(&args.broker, &args.broker_prefix)?;
    let client = sql::connect(&args.primary).await?;
    let primary = preflight::inspect(&client, &args.primary).await?;
    if args.import {
        refuse_custom_managers(&client, primary.version_num).await?;
    }
    let members = nodes(&broker, &broker.keys().safekeepers(), &args.safekeepers, "safekeeper").await?;
    let pageservers = nodes(&broker, &broker.keys().pageservers(), &args.pageservers, "pageserver").await?;
    ensure!(!members.is_empty(), "the broker shows no safekeeper: start some, or check --broker and its prefix");
    let http = Http::new(Duration::from_secs(60))?;
    preflight::check_alive(&http, "safekeeper", &members).await?;
    preflight::check_alive(&http, "pageserver", &pageservers).await?;
    let existing = existing_start(&broker, &http, args, &members).await?;
    if existing.is_none() {
        preflight::check_names(&broker, args.ttid).await?;
        preflight::check_room(&client, args.ttid, if args.import { pageservers.len() } else { 0 }).await?;
        preflight::check_promotion(&client, &primary).await?;
    }
    if args.import {
        preflight::check_import(&http, &args.primary, primary.system_id, &pageservers).await?;
    }
    Ok((Site { args, broker, client, http, primary, members, pageservers }, existing))
}

/// Everything that a creation works on, checked.
struct Site<'a> {
    args: &'a CreateArgs,
    broker: Broker,
    client: tokio_postgres::Client,
    http: Http,
    primary: Primary,
    members: Vec<NodeRecord>,
    pageservers: Vec<NodeRecord>,
}

impl Site<'_> {
    /// Makes what is missing, from the slot to the pageservers; `made` says what this run has made.
    async fn make(&self, existing: Option<Lsn>, made: &mut Made) -> Result<Created> {
        let (args, http) = (self.args, &self.http);
        let start_lsn = match existing {
            Some(lsn) => lsn,
            None => reserve_slot(&self.client, args.ttid.timeline_id, made).await?,
        };
        let request = request(args, &self.primary, &self.members, start_lsn)?;
        let mut changed =
            create_on_members(http, &args.primary, &args.interrupted, &request, &self.members, made).await?;
        go_on(&args.interrupted)?;
        // After the members: a record on the broker fixes the start, so it must not outlive an attempt that failed.
        let is_new = put_conf(&self.broker, args, &request, &self.pageservers).await?;
        (changed, made.conf) = (changed | is_new, is_new);
        let attach = AttachRequest {
            start_lsn,
            pg_version_num: self.primary.version_num,
            system_id: self.primary.system_id,
            wal_seg_size: self.primary.seg_size,
            pg_history: self.primary.history.clone(),
        };
        let (verb, body) = if args.import {
            ("import", serde_json::to_vec(&ImportRequest { attach, from: args.primary.clone() })?)
        } else {
            ("attach", serde_json::to_vec(&attach)?)
        };
        let path = format!("{}/{verb}", timeline_path(args.ttid));
        for node in &self.pageservers {
            go_on(&args.interrupted)?;
            // Only what is certainly not there may be taken back later.
            let held: Vec<PageserverTimelineStatus> = http.get(&node.http, "/v1/tenant/timeline").await?;
            if !held.iter().any(|t| (t.tenant_id, t.timeline_id) == (args.ttid.tenant_id, args.ttid.timeline_id)) {
                made.pageservers.push(node.clone());
            }
            let sent = http.post(&node.http, &path, body.clone(), "application/json").await;
            changed |= sent.with_context(|| format!("pageserver {} did not take the timeline", node.id))?;
        }
        let safekeepers = self.members.iter().map(|n| (n.id, n.pg.clone())).collect();
        let pageservers = self.pageservers.iter().map(|n| (n.id, n.http.clone())).collect();
        Ok(Created { start_lsn, safekeepers, pageservers, changed })
    }
}

/// Before anything is made: the pageservers would refuse to import, but slot and timelines would be there.
async fn refuse_custom_managers(client: &tokio_postgres::Client, version_num: u32) -> Result<()> {
    let Some(query) = custom_managers::query(version_num) else { return Ok(()) };
    let rows = client.query(query, &[]).await.context("cannot list the resource managers of the primary")?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    custom_managers::refusal(&names).map_or(Ok(()), |why| bail!(why))
}

/// Where the log starts when the timeline exists already, on the broker or on a member.
async fn existing_start(
    broker: &Broker,
    http: &Http,
    args: &CreateArgs,
    members: &[NodeRecord],
) -> Result<Option<Lsn>> {
    if let Some(conf) = conf_of(broker, args.ttid).await? {
        return Ok(Some(conf.start_lsn));
    }
    let all: Vec<SafekeeperTimelineStatus> = {
        let mut all = Vec::new();
        for node in members {
            let list: Vec<SafekeeperTimelineStatus> = http
                .get(&node.http, "/v1/tenant/timeline")
                .await
                .with_context(|| format!("safekeeper {} must answer when a timeline is created", node.id))?;
            all.extend(list);
        }
        all
    };
    let held = all.iter().find(|s| s.tenant_id == args.ttid.tenant_id && s.timeline_id == args.ttid.timeline_id);
    Ok(held.and_then(|s| s.timeline_start_lsn))
}

fn request(
    args: &CreateArgs,
    primary: &Primary,
    members: &[NodeRecord],
    start_lsn: Lsn,
) -> Result<CreateTimelineRequest> {
    let mut set = Vec::new();
    for node in members {
        let (host, port) = node.pg.rsplit_once(':').with_context(|| format!("{:?} is not host:port", node.pg))?;
        set.push(Member { id: node.id, host: host.to_owned(), pg_port: port.parse()? });
    }
    Ok(CreateTimelineRequest {
        tenant_id: args.ttid.tenant_id,
        timeline_id: args.ttid.timeline_id,
        mconf: MemberConf::new(Generation::FIRST, set, Vec::new())?,
        pg_version_num: primary.version_num,
        system_id: primary.system_id,
        wal_seg_size: primary.seg_size,
        start_lsn,
        source: TimelineSource::Vanilla,
        primary_epoch: PrimaryEpoch::FIRST,
        pg_history: primary.history.clone(),
        prehistory_len: start_lsn.segment_offset(primary.seg_size),
    })
}

async fn put_conf(
    broker: &Broker,
    args: &CreateArgs,
    request: &CreateTimelineRequest,
    pageservers: &[NodeRecord],
) -> Result<bool> {
    let conf = TimelineConfRecord {
        schema: SCHEMA,
        mconf: request.mconf.clone(),
        pg_version_num: request.pg_version_num,
        system_id: request.system_id,
        wal_seg_size: request.wal_seg_size.to_u32(),
        start_lsn: request.start_lsn,
        pageservers: pageservers.iter().map(|p| p.id).collect(),
    };
    let existing = match broker.create(&broker.keys().conf(args.ttid), serde_json::to_vec(&conf)?).await? {
        Ok(_) => return Ok(true),
        Err(existing) => existing,
    };
    let there: TimelineConfRecord =
        serde_json::from_slice(&existing.value).context("the timeline's record is malformed")?;
    let ids = |c: &TimelineConfRecord| c.mconf.nodes();
    let mut differs = Vec::new();
    if ids(&there) != ids(&conf) {
        differs.push(format!("members {:?}, asked for {:?}", ids(&there), ids(&conf)));
    }
    if there.system_id != conf.system_id {
        differs.push(format!("system identifier {}, the primary has {}", there.system_id, conf.system_id));
    }
    if there.wal_seg_size != conf.wal_seg_size || there.pg_version_num / 10_000 != conf.pg_version_num / 10_000 {
        differs.push("another PostgreSQL major version or WAL segment size".to_owned());
    }
    if there.pageservers != conf.pageservers {
        differs.push(format!("pageservers {:?}, asked for {:?}", there.pageservers, conf.pageservers));
    }
    ensure!(differs.is_empty(), "timeline {} exists with {}", args.ttid, differs.join("; "));
    Ok(false)
}
