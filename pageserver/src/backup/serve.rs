//! Replication commands on a pageserver that name no stream: a client asks which system this is, and copies it.
//!
//! The timeline comes from the startup parameter `options`, never from `dbname`, which clients replace:
//! `-c tenant_id=T -c timeline_id=L`; so does a target ([`super::target`]) for another LSN than the last. To such a
//! client this is a server whose WAL ends there.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use libpq::{AnswerInParts, ColumnType, NetError, ServerConnection};
use pgformat::{Lsn, Tli};
use proto::backup::{BackupForm, BaseBackup};
use proto::id::TenantTimelineId;
use proto::pg::{SqlError, StartupParams, sqlstate};

use super::plan::{BackupPlan, plan};
use super::point::{BackupPoint, find};
use super::send::{BackupSource, SendError};
use super::settings;
use super::target::BackupTarget;
use crate::process::Pageserver;
use crate::read::PageReader;

/// What `SHOW` tells replication clients before a backup; other names are tables.
pub(crate) fn setting(name: &str, pageserver: &Pageserver, ttid: TenantTimelineId) -> Option<String> {
    let attach = || pageserver.timeline(ttid)?.attach.clone();
    match name {
        "data_directory_mode" => Some("0700".to_owned()),
        "wal_segment_size" => attach().map(|a| format!("{}MB", a.wal_seg_size.bytes() >> 20)),
        _ => None,
    }
}

/// The reader of the client's timeline, and the last LSN that the client shall see, once it is here.
async fn resolve(
    pageserver: &Pageserver,
    ttid: TenantTimelineId,
    target: BackupTarget,
) -> Result<(PageReader, Lsn, Vec<(Tli, Lsn)>), SqlError> {
    let timeline = pageserver.timeline(ttid).ok_or_else(|| SqlError::timeline_not_found(ttid))?;
    let reader = PageReader::of(&timeline)?;
    let lsn = target.resolve(&timeline, &reader, pageserver.config.lsn_wait).await?;
    let known = timeline.attach.as_ref().map_or(&[][..], |a| &a.pg_history);
    Ok((reader, lsn, known.iter().map(|e| (e.tli, e.start_lsn)).collect()))
}

/// `IDENTIFY_SYSTEM`: the cluster, the tli and the end of its WAL, as this client shall see them.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn identify(
    pageserver: &Pageserver,
    ttid: TenantTimelineId,
    mut connection: ServerConnection,
) -> Result<ServerConnection, NetError> {
    let startup = connection.startup().clone();
    let found = async {
        // Where the log ends is said without waiting, as a server says it.
        let target = match BackupTarget::of(&startup)? {
            BackupTarget::Latest => BackupTarget::Here,
            target => target,
        };
        let (reader, lsn, known) = resolve(pageserver, ttid, target).await?;
        find(&reader, lsn, BackupForm::Recover, &known).await
    };
    match found.await {
        Ok(point) => {
            let columns = [
                ("systemid", ColumnType::Text),
                ("timeline", ColumnType::Int8),
                ("xlogpos", ColumnType::Text),
                ("dbname", ColumnType::Text),
            ];
            let system_id = Some(point.state.file.system_id.to_string());
            let row = vec![system_id, Some(point.tli.to_string()), Some(point.last.end.to_string()), None];
            connection.send_rows(&columns, &[row], "IDENTIFY_SYSTEM").await?;
        }
        Err(error) => connection.send_error(&error).await?,
    }
    Ok(connection)
}

/// `BASE_BACKUP`. Gives the session back.
///
/// # Errors
/// When the connection breaks, or the client takes nothing any more.
pub(crate) async fn backup(
    pageserver: &Arc<Pageserver>,
    ttid: TenantTimelineId,
    mut connection: ServerConnection,
    request: BaseBackup,
) -> Result<Option<ServerConnection>, NetError> {
    let startup = connection.startup().clone();
    let prepared = match prepare(pageserver, ttid, &startup, &request).await {
        Ok(prepared) => prepared,
        Err(error) => {
            pageserver.refusals.warn(&error.code, format!("{}: {error}", connection.peer()));
            connection.send_error(&error).await?;
            return Ok(Some(connection));
        }
    };
    let started = std::time::Instant::now();
    let (peer, lsn, bytes) = (connection.peer().to_owned(), prepared.point.last.end, prepared.plan.bytes());
    let mut out = connection.answer_in_parts();
    prepared.head(&request, &mut out);
    out.begin_copy();
    let Prepared { source, plan, point } = prepared;
    let sent = tokio::select! {
        sent = source.send(plan, request.progress, &mut out) => sent,
        () = pageserver.shutdown.cancelled() => {
            let stopping = SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, "the pageserver is being stopped");
            Err(SendError::Refused(Box::new(stopping)))
        }
    };
    match sent {
        Ok(()) => {
            out.end_copy();
            put_position(point.boot.end, point.tli, &mut out);
            tracing::info!(
                timeline = %ttid, %peer, %lsn, bytes, ms = started.elapsed().as_millis() as u64, "base backup sent"
            );
            out.finish("BASE_BACKUP").await.map(Some)
        }
        Err(SendError::Net(e)) => Err(e),
        Err(SendError::Refused(error)) => {
            pageserver.refusals.warn(&error.code, format!("{peer}: base backup at {lsn} broke off: {error}"));
            let connection = out.fail(&error).await?;
            Ok((!error.is_fatal()).then_some(connection))
        }
    }
}

/// All that is known before the first byte is sent.
struct Prepared {
    source: Arc<BackupSource>,
    plan: BackupPlan,
    point: BackupPoint,
}

async fn prepare(
    pageserver: &Pageserver,
    ttid: TenantTimelineId,
    startup: &StartupParams,
    request: &BaseBackup,
) -> Result<Prepared, SqlError> {
    if request.form == BackupForm::Recover {
        return Err(SqlError::unsupported("this pageserver does not give backups that recover through WAL yet")
            .with_hint("walfabric backup makes a cluster that starts at the LSN itself."));
    }
    let (reader, lsn, known) = resolve(pageserver, ttid, BackupTarget::of(startup)?).await?;
    let point = find(&reader, lsn, request.form, &known).await?;
    let versions = reader.versions();
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let checksums = point.state.file.data_checksum_version != 0;
    let source = Arc::new(BackupSource { versions, lsn: point.last.end, readable: reader.readable(), checksums, time });
    let (version, seg, boot) = (point.state.file.version, point.state.file.seg_size, point.boot.clone());
    let settings = settings::files(&point.state.file);
    let plan = source.plan(move |view| plan(view, version, &boot, seg, settings)).await?;
    Ok(Prepared { source, plan, point })
}

impl Prepared {
    /// Where the backup stands, and its tablespaces, sizes in KiB.
    fn head(&self, request: &BaseBackup, out: &mut AnswerInParts) {
        put_position(self.point.last.end, self.point.tli, out);
        let columns = [("spcoid", ColumnType::Int8), ("spclocation", ColumnType::Text), ("size", ColumnType::Int8)];
        let size = |bytes: u64| request.progress.then(|| (bytes >> 10).to_string());
        let row = |archive: &super::plan::PlannedArchive| match &archive.tablespace {
            None => vec![None, None, size(archive.bytes())],
            Some((oid, path)) => vec![Some(oid.to_string()), Some(path.clone()), size(archive.bytes())],
        };
        let rows: Vec<_> = self.plan.archives.iter().map(row).collect();
        out.result(&columns, &rows, "SELECT");
    }
}

fn put_position(lsn: Lsn, tli: Tli, out: &mut AnswerInParts) {
    let columns = [("recptr", ColumnType::Text), ("tli", ColumnType::Int8)];
    out.result(&columns, &[vec![Some(lsn.to_string()), Some(tli.to_string())]], "SELECT");
}
