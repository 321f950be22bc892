//! `walfabric wal get|copy`: a timeline's WAL as segment files, for `restore_command`, for archives, and for a restore
//! without any of them.
//!
//! A file is taken from any living member, checked as it comes, written beside its place and renamed, so that nobody
//! ever sees half of one. The end of the log is never guessed: where it is not known, nothing is said to be absent,
//! since PostgreSQL would end its recovery there and lose what was acknowledged.

mod check;
pub mod command;
mod feed;
mod members;
mod outcome;
mod segment;
mod write;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use broker::Broker;
use libpq::ClientConnection;
use pgformat::{Lsn, Tli};
use proto::api::shown;
use proto::id::{TenantId, TenantTimelineId, TimelineId};
use tokio::time::{Instant, sleep};

pub(crate) use self::check::check_prehistory;
pub(crate) use self::members::stream_config;
use self::members::{EndOfWal, MemberAccount, ask_all, check_same, dial, end_of};
use self::outcome::not_there;
use self::segment::Wanted;
use self::write::{check_place, write_small};
use crate::fabric::FabricDir;
use crate::timeline::conf_of;

pub use self::outcome::Outcome;

/// Exit code that stops PostgreSQL's recovery: above 125, as for a command that could not be run.
pub const STOP: u8 = 126;

/// Exit code for a file that does not exist: recovery takes it as the end of what there is.
pub const NOT_THERE: u8 = 1;

/// Pause before members are asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Where the members are.
#[derive(Clone, Debug, clap::Args)]
pub struct WalSource {
    /// Directory of a local fabric
    #[arg(long, conflicts_with_all = ["broker", "safekeepers"])]
    dir: Option<PathBuf>,
    /// URL of the broker, which knows the members
    #[arg(long, conflicts_with = "safekeepers")]
    broker: Option<String>,
    /// Key prefix on the broker
    #[arg(long, default_value = proto::broker::keys::DEFAULT_PREFIX)]
    broker_prefix: String,
    /// The members' libpq addresses, host:port,...: no broker is needed
    #[arg(long, value_delimiter = ',')]
    safekeepers: Vec<String>,
    /// Tenant, 32 hex digits [default with --dir: the fabric's]
    #[arg(long)]
    tenant_id: Option<TenantId>,
    /// Timeline, 32 hex digits [default with --dir: the fabric's]
    #[arg(long)]
    timeline_id: Option<TimelineId>,
    /// Only whole segments, as an archive has them; else the last one comes as far as the log goes, then zeros
    #[arg(long)]
    complete: bool,
    /// Seconds to wait for members that do not answer
    #[arg(long, default_value_t = 10)]
    wait_s: u64,
}

/// A timeline and its members' addresses.
struct Located {
    ttid: TenantTimelineId,
    addresses: Vec<String>,
}

/// Writes the file `name` of pg_wal to `path`.
///
/// # Errors
/// When whether it exists cannot be known, when every member's copy is bad, and when it cannot be written: reasons to
/// stop a recovery.
pub async fn get(source: &WalSource, name: &str, path: &Path) -> Result<Outcome> {
    // Before anything is asked: waiting does not change it.
    check_place(path)?;
    let located = locate(source).await?;
    let deadline = Instant::now() + Duration::from_secs(source.wait_s);
    loop {
        match attempt(&located, source.complete, name, path).await {
            Err(e) if Instant::now() >= deadline => return Err(e),
            Err(e) => tracing::debug!("{e:#}, trying again"),
            done => return done,
        }
        sleep(PAUSE).await;
    }
}

/// Writes the segment `first` and every one behind it, and the history files of its tlis, into `dir`; what is there is
/// replaced. Gives their names.
///
/// # Errors
/// As [`get`]; and when the first segment does not exist.
pub async fn copy(source: &WalSource, first: &str, dir: &Path) -> Result<Vec<(String, Outcome)>> {
    let located = locate(source).await?;
    let (members, silent) = ask_all(&located.addresses, located.ttid).await;
    let member = members.first().with_context(|| format!("no member answers: {}", silent.join("; ")))?;
    let (cfg, seg) = (stream_config(&member.status)?, member.status.wal_seg_size);
    let (_, mut segno) = seg.parse_file_name(first).with_context(|| format!("{first} is not a segment's name"))?;
    let mut copied = Vec::new();
    for tli in cfg.tlis.iter().map(|(tli, _)| *tli).filter(|tli| *tli != Tli(1)) {
        let name = format!("{:08X}.history", tli.0);
        let outcome = get(source, &name, &dir.join(&name)).await?;
        copied.push((name, outcome));
    }
    loop {
        // A segment has the name of the tli at its end, and only the last one ends elsewhere.
        let ends = shown(members.iter().filter_map(|m| m.status.flush_lsn).max());
        let last = Lsn::new(seg.start_of(segno + 1).min(ends).get().saturating_sub(1));
        let name = seg.file_name(cfg.tli_at(last).unwrap_or(Tli(1)), segno);
        let outcome = get(source, &name, &dir.join(&name)).await?;
        if let Outcome::NotThere(why) = &outcome {
            ensure!(copied.iter().any(|(n, _)| !n.ends_with("history")), "{name} is not there: {why}");
            return Ok(copied);
        }
        copied.push((name, outcome));
        segno += 1;
    }
}

async fn locate(source: &WalSource) -> Result<Located> {
    let ids = source.tenant_id.zip(source.timeline_id).map(|(t, l)| TenantTimelineId::new(t, l));
    if let Some(dir) = &source.dir {
        let fabric = FabricDir::new(dir)?.read_fabric()?;
        let ttid = ids.unwrap_or(TenantTimelineId::new(fabric.tenant_id, fabric.timeline_id));
        return Ok(Located { ttid, addresses: fabric.safekeepers.into_iter().map(|s| s.pg).collect() });
    }
    let ttid = ids.context("--tenant-id and --timeline-id are needed")?;
    if !source.safekeepers.is_empty() {
        return Ok(Located { ttid, addresses: source.safekeepers.clone() });
    }
    let url = source.broker.as_deref().context("one of --dir, --broker and --safekeepers is needed")?;
    let conf = conf_of(&Broker::new(url, &source.broker_prefix)?, ttid).await?;
    let conf = conf.with_context(|| format!("timeline {ttid} has no record on the broker {url}"))?;
    let both = conf.mconf.members.iter().chain(&conf.mconf.new_members);
    Ok(Located { ttid, addresses: both.map(|m| format!("{}:{}", m.host, m.pg_port)).collect() })
}

async fn attempt(located: &Located, complete: bool, name: &str, path: &Path) -> Result<Outcome> {
    let (members, silent) = ask_all(&located.addresses, located.ttid).await;
    ensure!(!members.is_empty(), "no member answers: {}", silent.join("; "));
    check_same(&members)?;
    if let Some(digits) = name.strip_suffix(".history") {
        let tli = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 8);
        let Some(tli) = tli else { return Ok(not_there(format!("{name} is not a history file's name"))) };
        return history(located, &members, Tli(tli), path).await;
    }
    let seg = members[0].status.wal_seg_size;
    let Some((tli, segno)) = seg.parse_file_name(name) else {
        return Ok(not_there(format!("{name} is no segment of WAL, and nothing else is kept")));
    };
    let (start, next) = (seg.start_of(segno), seg.start_of(segno + 1));
    let end = end_of(&members);
    let upto = match end {
        EndOfWal::Committed(end) | EndOfWal::Elected { end, .. } => end.min(next),
        EndOfWal::Unknown(end) if end >= next => next,
        EndOfWal::Unknown(end) => bail!(
            "where the WAL ends is not known: it is committed up to {end} at least, but too few members answer to \
             know what else was acknowledged ({}); start another member, then try again",
            silent.join("; ")
        ),
    };
    if upto <= start {
        return Ok(not_there(format!("the WAL ends at {upto}, before {start}")));
    }
    if complete && upto < next {
        return Ok(not_there(format!("the WAL ends at {upto}, inside of the segment")));
    }
    let cfg = stream_config(&members[0].status)?;
    let here = cfg.tli_at(Lsn::new(upto.get() - 1)).unwrap_or(Tli(1));
    if here != tli {
        return Ok(not_there(format!("at {upto} the tli is {here}, not {tli}")));
    }
    let wanted = Wanted { ttid: located.ttid, cfg: &cfg, start, upto, end, path };
    wanted.take(&members).await
}

/// A history file, from the first member that knows the tli.
async fn history(located: &Located, members: &[MemberAccount], tli: Tli, path: &Path) -> Result<Outcome> {
    let Some(member) = members.iter().find(|m| tli != Tli(1) && m.status.pg_history.iter().any(|e| e.tli == tli))
    else {
        return Ok(not_there(format!("the timeline has no history file of tli {tli}")));
    };
    let mut session: ClientConnection = dial(&member.address, located.ttid).await?;
    let results = session.simple_query(&format!("TIMELINE_HISTORY {tli}")).await?;
    let content = results.first().and_then(|r| r.rows.first()?.get(1)?.as_deref()).context("no history came")?;
    write_small(path, content.as_bytes())?;
    Ok(Outcome::Written { from: member.address.clone(), upto: None })
}
