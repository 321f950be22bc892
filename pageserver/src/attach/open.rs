//! Opening what is attached: files first, then the tasks.
//!
//! A timeline that cannot be opened is listed as stopped, with the reason; when the reason may pass, it is tried again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::id::TenantTimelineId;
use tokio_util::sync::CancellationToken;

use super::files::{self, TimelineOpenError};
use crate::ingest::{Engine, Ingest};
use crate::process::{Pageserver, TENANTS};
use crate::store::upkeep;
use crate::timeline::{Timeline, TimelineParts};
use crate::{import, manager};

/// A timeline that could not be opened for a reason that may pass is tried again this often.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// Why a timeline's files cannot be opened.
struct NotOpened {
    why: String,
    may_pass: bool,
}

impl NotOpened {
    fn for_good(why: impl ToString) -> NotOpened {
        NotOpened { why: why.to_string(), may_pass: false }
    }
}

impl From<TimelineOpenError> for NotOpened {
    fn from(e: TimelineOpenError) -> NotOpened {
        NotOpened { why: e.to_string(), may_pass: e.may_pass() }
    }
}

/// A timeline's files, with the number of its last choice and the import that is not done.
type TimelineToStart = (TimelineParts, u64, Option<import::KeptImport>);

/// Opens what is in the data directory. A timeline that cannot be opened is listed as stopped; the others serve.
///
/// # Errors
/// When the directory itself cannot be read.
pub(crate) async fn open_all(pageserver: &Arc<Pageserver>) -> std::io::Result<()> {
    let shared = pageserver.clone();
    let list = tokio::task::spawn_blocking(move || list_dirs(&shared)).await.map_err(std::io::Error::other)??;
    for (ttid, dir) in list {
        open(pageserver, ttid, dir).await;
    }
    Ok(())
}

fn list_dirs(pageserver: &Pageserver) -> std::io::Result<Vec<(TenantTimelineId, PathBuf)>> {
    let mut found = Vec::new();
    let (disk, base) = (&pageserver.disk, pageserver.config.node.data_dir.join(TENANTS));
    let tenants = match disk.list(&base) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for tenant in tenants {
        let Ok(tenant_id) = tenant.name.parse() else { continue };
        for timeline in disk.list(&base.join(&tenant.name))? {
            let dir = base.join(&tenant.name).join(&timeline.name);
            if timeline.name.ends_with(files::UNFINISHED) {
                disk.remove_dir_all(&dir)?;
            } else if let Ok(timeline_id) = timeline.name.parse() {
                found.push((TenantTimelineId::new(tenant_id, timeline_id), dir));
            }
        }
    }
    Ok(found)
}

/// Opens a timeline and lists it; one whose storage does not answer is tried again until it does.
pub(super) async fn open(pageserver: &Arc<Pageserver>, ttid: TenantTimelineId, dir: PathBuf) {
    let opened = open_files(pageserver, ttid, dir.clone()).await;
    if let Err(NotOpened { why, may_pass: true }) = &opened {
        tracing::warn!(timeline = %ttid, "cannot be opened, and is tried again: {why}");
        // Listed as stopped meanwhile; nobody chooses for it.
        let why = format!("it cannot be opened, and is tried again: {why}");
        let gone = pageserver.shutdown.child_token();
        let timeline = Timeline::new(ttid, Err(why), 0, gone.clone()).0;
        pageserver.list(&timeline);
        pageserver.run_part(&timeline, "opening", open_again(pageserver.clone(), ttid, dir, gone));
        return;
    }
    take_up(pageserver, ttid, opened);
}

async fn open_again(pageserver: Arc<Pageserver>, ttid: TenantTimelineId, dir: PathBuf, gone: CancellationToken) {
    while gone.run_until_cancelled(tokio::time::sleep(OPEN_AGAIN)).await.is_some() {
        let opened = open_files(&pageserver, ttid, dir.clone()).await;
        if !matches!(opened, Err(NotOpened { may_pass: true, .. })) {
            return take_up(&pageserver, ttid, opened);
        }
    }
}

/// Lists a timeline and starts its tasks.
fn take_up(pageserver: &Arc<Pageserver>, ttid: TenantTimelineId, opened: Result<TimelineToStart, NotOpened>) {
    let (opened, choice_seq, request) = match opened {
        Ok((opened, choice_seq, request)) => (Ok(opened), choice_seq, request),
        Err(NotOpened { why, .. }) => {
            tracing::error!(timeline = %ttid, "cannot be opened: {why}");
            (Err(why), 0, None)
        }
    };
    let (timeline, queue) = Timeline::new(ttid, opened, choice_seq, pageserver.shutdown.child_token());
    pageserver.list(&timeline);
    pageserver.run_part(&timeline, "chooser", manager::driver::run(pageserver.clone(), timeline.clone(), queue));
    if let Some(store) = timeline.store.clone() {
        if let Some(why) = timeline.trouble().full {
            tracing::error!(timeline = %ttid, "can be read, and takes nothing in before storage does: {why}");
        }
        pageserver.run_part(&timeline, "upkeep", upkeep::run(store, timeline.gone.clone()));
    }
    if let Some(request) = request {
        pageserver.run_part(&timeline, "import", import::run(pageserver.clone(), timeline.clone(), request));
    }
}

async fn open_files(
    pageserver: &Pageserver,
    ttid: TenantTimelineId,
    dir: PathBuf,
) -> Result<TimelineToStart, NotOpened> {
    let (disk, storage, shared) = (pageserver.disk.clone(), pageserver.storage().clone(), pageserver.shared().clone());
    let (metrics, me, is_remote) =
        (pageserver.metrics.clone(), pageserver.config.node.id, pageserver.config.is_remote());
    let open = move || {
        let request = import::read(&*disk, &dir);
        let request = request.map_err(|e| NotOpened::for_good(format!("the import's request: {e}")))?;
        let opened = files::open(&*disk, &dir, &storage, &shared)?;
        let (record, store) = (opened.record, opened.store);
        if record.ttid() != ttid || record.pageserver_id != me {
            let (other, node) = (record.ttid(), record.pageserver_id);
            let why = format!("its attach record is that of timeline {other} on pageserver {node}");
            return Err(NotOpened::for_good(why));
        }
        // Pages that are still to be copied come first: until then no WAL is wanted.
        let is_copied = store.readable_from().is_some() || request.is_none();
        let ingest = if is_copied {
            let engine = Engine::open(&store, &record.attach).map_err(TimelineOpenError::from)?;
            Some(Ingest::new(engine, store.clone(), is_remote, metrics))
        } else {
            None
        };
        let choice_seq = record.choice_seq.max(store.choice_seq());
        Ok((TimelineParts { attach: record.attach, store, ingest }, choice_seq, request))
    };
    tokio::task::spawn_blocking(open).await.map_err(NotOpened::for_good)?
}
