//! One-time bootstrap of a timeline, also for a PostgreSQL that we did not start: slot, members, pageservers, then
//! protection.
//!
//! Only this creates timelines. Repeating it with equal parameters changes nothing and heals a half-finished attempt;
//! differing parameters are a conflict. The start position is fixed by the slot, or by whoever holds the timeline
//! already.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use broker::Broker;
use bytes::BytesMut;
use libpq::{ClientConnection, ConnectOptions, CopyEvent, Environment};
use pageserver::custom_managers;
use proto::api::{
    AttachRequest, CreateTimelineRequest, ImportRequest, PageserverTimelineStatus, PgHistoryEntry,
    SafekeeperTimelineStatus, TimelineSource,
};
use proto::broker::records::{NodeRecord, SCHEMA, TimelineConfRecord};
use proto::consensus::{Member, MemberConf};
use proto::id::{Generation, NodeId, PrimaryEpoch, SystemId, TenantId, TenantTimelineId, TimelineId};
use proto::replication::SenderMessage;
use proto::{Lsn, SegSize, Tli};
use tokio_util::sync::CancellationToken;
use walproposer_shim::names;

use crate::http::Http;
use crate::sql;

pub mod command;
pub mod inventory;
mod preflight;
mod undo;

/// Content type of a creation: a line of JSON, and the prehistory.
pub(crate) const BODY_TYPE: &str = "application/x-walfabric-timeline";

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

/// What the primary says about itself.
struct Primary {
    system_id: SystemId,
    version_num: u32,
    seg_size: SegSize,
    history: Vec<PgHistoryEntry>,
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
    let mut made = undo::Made::default();
    match site.make(existing, &mut made).await {
        Ok(created) => Ok(created),
        // What was there before this run holds WAL and pages: nothing of it is ever taken back.
        Err(e) if existing.is_some() => Err(e.context("the timeline was there before, and stays as it is")),
        Err(e) => {
            let left = made.undo(args.ttid, &site.client, &site.http, &site.broker).await;
            if left.is_empty() {
                return Err(e.context("the timeline is not created, and nothing of it is left behind"));
            }
            let ids = format!("--tenant-id {} --timeline-id {}", args.ttid.tenant_id, args.ttid.timeline_id);
            Err(e.context(format!(
                "the timeline is not created; these could not be taken back: {}. Remove them with 'walfabric timeline \
                 delete --force {ids}', or repeat this command with {ids}",
                left.join(", ")
            )))
        }
    }
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
        preflight::check_room(&client, args, pageservers.len()).await?;
        preflight::check_promotion(&client, &primary).await?;
    }
    if args.import {
        preflight::check_import(&http, args, &primary, &pageservers).await?;
    }
    Ok((Site { args, broker, client, http, primary, members, pageservers }, existing))
}

const INTERRUPTED: &str = "interrupted";

/// Between two steps: one that was begun is finished, so that it is known what there is to take back.
fn go_on(args: &CreateArgs) -> Result<()> {
    ensure!(!args.interrupted.is_cancelled(), INTERRUPTED);
    Ok(())
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
    async fn make(&self, existing: Option<Lsn>, made: &mut undo::Made) -> Result<Created> {
        let (args, http) = (self.args, &self.http);
        let start_lsn = match existing {
            Some(lsn) => lsn,
            None => reserve_slot(&self.client, args.ttid.timeline_id, made).await?,
        };
        let request = request(args, &self.primary, &self.members, start_lsn)?;
        let mut changed = create_on_members(http, args, &request, &self.members, made).await?;
        go_on(args)?;
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
            go_on(args)?;
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

/// The primary's own timeline history, oldest first.
async fn pg_history(conninfo: &str, tli: Tli) -> Result<Vec<PgHistoryEntry>> {
    let mut history = Vec::new();
    let mut from = Lsn::new(0);
    if tli.0 > 1 {
        let mut connection = ClientConnection::dial(&replication_options(conninfo)?).await?;
        let results = connection.simple_query(&format!("TIMELINE_HISTORY {tli}")).await?;
        let content = results.first().and_then(|r| r.rows.first()).and_then(|row| row.get(1).cloned().flatten());
        let content = content.with_context(|| format!("the primary did not give the history of tli {tli}"))?;
        for line in content.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let mut fields = line.split_whitespace();
            let (Some(t), Some(switch)) = (fields.next(), fields.next()) else {
                bail!("malformed history line {line:?}")
            };
            history.push(PgHistoryEntry { tli: Tli(t.parse()?), start_lsn: from });
            from = switch.parse()?;
        }
    }
    history.push(PgHistoryEntry { tli, start_lsn: from });
    Ok(history)
}

fn replication_options(conninfo: &str) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::from_conninfo(conninfo, &Environment::none())?;
    options.parameters.push(("replication".to_owned(), "true".to_owned()));
    options.application_name = "walfabric_bootstrap".to_owned();
    options.database = None;
    Ok(options)
}

/// Node records below `prefix`: those of `ids`, or all.
async fn nodes(broker: &Broker, prefix: &str, ids: &[u64], kind: &str) -> Result<Vec<NodeRecord>> {
    let wanted: BTreeSet<u64> = ids.iter().copied().collect();
    ensure!(wanted.len() == ids.len(), "one {kind} id is given twice");
    let (entries, _) = broker.get_prefix(prefix).await?;
    let mut found = Vec::new();
    for entry in entries {
        let record: NodeRecord =
            serde_json::from_slice(&entry.value).with_context(|| format!("{} is malformed", entry.key))?;
        if wanted.is_empty() || wanted.contains(&record.id.0) {
            found.push(record);
        }
    }
    found.sort_by_key(|r| r.id);
    let seen: BTreeSet<u64> = found.iter().map(|r| r.id.0).collect();
    let missing: Vec<_> = wanted.difference(&seen).collect();
    ensure!(missing.is_empty(), "{kind} {missing:?} is not on the broker: is it running?");
    Ok(found)
}

/// Every timeline that has a record on the broker.
pub(crate) async fn conf_records(broker: &Broker) -> Result<Vec<(TenantTimelineId, TimelineConfRecord)>> {
    let (entries, _) = broker.get_prefix(&broker.keys().confs()).await?;
    let mut found = Vec::new();
    for entry in entries {
        let record = serde_json::from_slice(&entry.value).with_context(|| format!("{} is malformed", entry.key))?;
        let ttid = broker.keys().ttid_of(&entry.key).with_context(|| format!("{} names no timeline", entry.key))?;
        found.push((ttid, record));
    }
    Ok(found)
}

/// A timeline's record on the broker.
pub(crate) async fn conf_of(broker: &Broker, ttid: TenantTimelineId) -> Result<Option<TimelineConfRecord>> {
    let Some(entry) = broker.get(&broker.keys().conf(ttid)).await? else { return Ok(None) };
    serde_json::from_slice(&entry.value).with_context(|| format!("{} is malformed", entry.key))
}

pub(crate) fn timeline_path(ttid: TenantTimelineId) -> String {
    format!("/v1/tenant/{}/timeline/{}", ttid.tenant_id, ttid.timeline_id)
}

/// Where the log starts when the timeline exists already, on the broker or on a member.
async fn existing_start(
    broker: &Broker,
    http: &Http,
    args: &CreateArgs,
    members: &[NodeRecord],
) -> Result<Option<Lsn>> {
    if let Some(entry) = broker.get(&broker.keys().conf(args.ttid)).await? {
        let conf: TimelineConfRecord =
            serde_json::from_slice(&entry.value).context("the timeline's record is malformed")?;
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
    Ok(held.map(|s| s.timeline_start_lsn))
}

/// Creates the slot that pins the WAL from the redo pointer of the last checkpoint on; an idle one of an earlier
/// attempt is taken over.
async fn reserve_slot(client: &tokio_postgres::Client, timeline: TimelineId, made: &mut undo::Made) -> Result<Lsn> {
    let slot = names::slot_name(timeline);
    let query = format!(
        "SELECT coalesce(restart_lsn::text, ''), coalesce(active_pid::text, '') FROM pg_replication_slots \
         WHERE slot_name = '{slot}'"
    );
    let rows = client.simple_query(&query).await.context("cannot read pg_replication_slots")?;
    let row = rows.iter().find_map(|m| match m {
        tokio_postgres::SimpleQueryMessage::Row(r) => {
            Some((r.get(0).unwrap_or_default().to_owned(), r.get(1).unwrap_or_default().to_owned()))
        }
        _ => None,
    });
    let restart = match row {
        Some((_, pid)) if !pid.is_empty() => bail!(
            "slot {slot} is in use by walsender {pid}, though no safekeeper holds timeline {timeline}: a shim of \
             another fabric is at work on this primary, for a timeline whose id begins with the same 16 digits. Use \
             another --timeline-id"
        ),
        Some((restart, _)) if !restart.is_empty() => restart,
        Some(_) => bail!(
            "slot {slot} exists and keeps no WAL. An earlier attempt with timeline {timeline} may have left it, or a \
             timeline of another fabric whose id begins with the same 16 digits may need it. Use another \
             --timeline-id; or, if you know that nobody needs it, drop it and repeat"
        ),
        None => {
            let create = format!("SELECT lsn FROM pg_create_physical_replication_slot('{slot}', true)");
            let lsn = sql::text(client, &create).await.context("cannot create the replication slot")?;
            made.slot = Some(slot);
            lsn
        }
    };
    Ok(restart.parse()?)
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

async fn create_on_members(
    http: &Http,
    args: &CreateArgs,
    request: &CreateTimelineRequest,
    members: &[NodeRecord],
    made: &mut undo::Made,
) -> Result<bool> {
    let mut changed = false;
    let mut body = None;
    for node in members {
        let there = http.get::<SafekeeperTimelineStatus>(&node.http, &timeline_path(args.ttid)).await;
        if let Ok(there) = there {
            let equal = there.system_id == request.system_id
                && there.timeline_start_lsn == request.start_lsn
                && there.wal_seg_size == request.wal_seg_size
                && there.mconf.nodes() == request.mconf.nodes();
            ensure!(equal, "safekeeper {} holds timeline {} with other parameters", node.id, args.ttid);
            continue;
        }
        go_on(args)?;
        if body.is_none() {
            let mut bytes = serde_json::to_vec(request)?;
            bytes.push(b'\n');
            let prehistory = args.interrupted.run_until_cancelled(prehistory(&args.primary, request)).await;
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

/// The primary's own bytes of `[segment start, start_lsn)`.
async fn prehistory(conninfo: &str, request: &CreateTimelineRequest) -> Result<BytesMut> {
    let from = request.start_lsn.segment_start(request.wal_seg_size);
    let want = usize::try_from(request.prehistory_len)?;
    if want == 0 {
        return Ok(BytesMut::new());
    }
    // The segment of the tli at `start_lsn` has everything: when PostgreSQL is promoted within a segment, it copies
    // what comes before into the new tli's file. The older tli's own file ends at the promotion.
    let at_start = request.pg_history.iter().rev().find(|e| e.start_lsn <= request.start_lsn);
    let tli = at_start.or(request.pg_history.first()).context("the primary has no timeline history")?.tli;
    let connection = ClientConnection::dial(&replication_options(conninfo)?).await?;
    let command = format!("START_REPLICATION PHYSICAL {from} TIMELINE {tli}");
    stretch(connection, &command, from, want, "the primary").await
}

/// The first `want` bytes from `from` on that `command` streams; `whose` is for errors.
pub(crate) async fn stretch(
    connection: ClientConnection,
    command: &str,
    from: Lsn,
    want: usize,
    whose: &str,
) -> Result<BytesMut> {
    let mut bytes = BytesMut::with_capacity(want);
    let (mut reader, mut writer) = connection.copy_both(command).await?;
    while bytes.len() < want {
        match reader.next().await? {
            CopyEvent::Data(data) => {
                if let SenderMessage::XLogData { start, wal, .. } = SenderMessage::decode(data)? {
                    let at = usize::try_from(start.bytes_since(from))?;
                    ensure!(at == bytes.len(), "{whose} skipped WAL at {start}");
                    let take = wal.len().min(want - bytes.len());
                    bytes.extend_from_slice(wal.get(..take).unwrap_or_default());
                }
            }
            CopyEvent::Error(e) => bail!("{whose} does not give its WAL from {from} on: {e}"),
            other => bail!("{whose} ended the stream at {from} + {} bytes: {other:?}", bytes.len()),
        }
    }
    writer.queue_done();
    let _ = writer.flush().await;
    Ok(bytes)
}
