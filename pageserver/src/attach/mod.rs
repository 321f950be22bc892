//! From a request to a timeline that is listed and has its tasks, and back: attach, import, open, delete.
//!
//! What starts tasks is here, above what the tasks share. A timeline is attached when its directory has its final name;
//! attaches and deletions take turns.
//!
//! | module | what |
//! |---|---|
//! | [`open`] | opens what is attached, at start and after an attach, and starts its tasks |
//! | [`files`] | the directory of a timeline, and its store |
//! | [`record`], [`control_v1`] | the attach record, and the form that it had before |
//! | [`delete`] | the end of a timeline |

mod control_v1;
pub(crate) mod delete;
mod files;
pub(crate) mod open;
mod record;

use std::sync::Arc;

use proto::api::AttachRequest;
use proto::id::TenantTimelineId;

use self::record::AttachRecord;
use crate::import;
use crate::ingest::stream_config;
use crate::process::Pageserver;
use crate::timeline::Timeline;

/// Entries of PostgreSQL's timeline history that an attach may name: far more than a cluster ever has.
const HISTORY_MAX: usize = 2048;

/// What came of an attach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attached {
    /// It is new.
    Created,
    /// It was there, with equal parameters.
    Unchanged,
}

/// Why an attach was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The timeline is here with other parameters.
    #[error("{0}")]
    Conflict(String),
    /// The cluster cannot be imported as it is.
    #[error("{0}")]
    Unfit(String),
    /// The disk refused.
    #[error("{0}")]
    Disk(String),
}

/// Attaches a timeline, durably. Repeating it with equal values changes nothing.
///
/// # Errors
/// See [`AttachError`].
pub(crate) async fn attach(
    pageserver: &Arc<Pageserver>,
    ttid: TenantTimelineId,
    request: AttachRequest,
) -> Result<Attached, AttachError> {
    check_attach(&request)?;
    let _one_at_a_time = pageserver.attaching().await;
    if let Some(timeline) = pageserver.timeline(ttid) {
        return match &timeline.attach {
            Some(attach) if *attach == request => Ok(Attached::Unchanged),
            Some(attach) => Err(AttachError::Conflict(format!(
                "timeline {ttid} is attached with other parameters: {}",
                differences(attach, &request)
            ))),
            None => Err(AttachError::Conflict(format!(
                "timeline {ttid} is here but cannot be opened: {}",
                timeline.trouble().stopped.unwrap_or_default()
            ))),
        };
    }
    let record = AttachRecord::new(ttid, pageserver.config.node.id, request);
    let dir = pageserver.dir_of(ttid);
    let (disk, create_in) = (pageserver.disk.clone(), dir.clone());
    tokio::task::spawn_blocking(move || files::create(&*disk, &create_in, &record))
        .await
        .map_err(|e| AttachError::Disk(e.to_string()))?
        .map_err(|e| AttachError::Disk(e.to_string()))?;
    open::open(pageserver, ttid, dir).await;
    tracing::info!(timeline = %ttid, "attached");
    Ok(Attached::Created)
}

/// Attaches a timeline and copies the cluster that writes it, unless that was done or is under way.
///
/// # Errors
/// See [`AttachError`].
pub(crate) async fn import(
    pageserver: &Arc<Pageserver>,
    ttid: TenantTimelineId,
    request: AttachRequest,
    from: String,
) -> Result<Attached, AttachError> {
    // Before anything is made. A cluster that does not answer now is asked again by the import, which waits for it.
    let is_begun = |t: &Timeline| {
        t.import.borrow().status().is_some() || t.store.as_ref().is_some_and(|s| s.readable_from().is_some())
    };
    if !pageserver.timeline(ttid).is_some_and(|t| is_begun(&t))
        && let Ok(Some(why)) = import::managers::check(&from, request.pg_version_num).await
    {
        return Err(AttachError::Unfit(why));
    }
    let attached = attach(pageserver, ttid, request).await?;
    let _one_at_a_time = pageserver.attaching().await;
    let timeline = pageserver.timeline(ttid).ok_or_else(|| AttachError::Disk("it is gone".to_owned()))?;
    if timeline.store.is_none() {
        return Err(AttachError::Conflict(timeline.trouble().stopped.unwrap_or_default()));
    }
    if is_begun(&timeline) {
        return Ok(attached);
    }
    let (dir, request) = (pageserver.dir_of(ttid), import::KeptImport { from });
    let (disk, kept) = (pageserver.disk.clone(), request.clone());
    tokio::task::spawn_blocking(move || import::write(&*disk, &dir, &kept))
        .await
        .map_err(|e| AttachError::Disk(e.to_string()))?
        .map_err(|e| AttachError::Disk(format!("the request cannot be kept: {e}")))?;
    timeline.set_copying(None);
    pageserver.run_part(&timeline, "import", import::run(pageserver.clone(), timeline.clone(), request));
    tracing::info!(timeline = %ttid, "import begins");
    Ok(Attached::Created)
}

fn check_attach(request: &AttachRequest) -> Result<(), AttachError> {
    let invalid = |text: String| Err(AttachError::Invalid(text));
    let Some(cfg) = stream_config(request) else {
        return invalid(format!("PostgreSQL {} is not supported (14 to 18 are)", request.pg_version_num));
    };
    let history = &request.pg_history;
    if history.is_empty() || history.len() > HISTORY_MAX {
        return invalid(format!("pg_history has {} entries, expected 1 to {HISTORY_MAX}", history.len()));
    }
    if !history.is_sorted_by(|a, b| a.tli < b.tli && a.start_lsn <= b.start_lsn) {
        return invalid("pg_history must ascend in tli and start_lsn".into());
    }
    if request.start_lsn.get() == 0 {
        return invalid("start_lsn 0/0 is no position".into());
    }
    match pgformat::wal::synthetic_prehistory(&cfg, request.start_lsn) {
        Ok(_) => Ok(()),
        Err(e) => invalid(format!("start_lsn: {e}")),
    }
}

fn differences(have: &AttachRequest, asked: &AttachRequest) -> String {
    let mut list = Vec::new();
    let mut note = |name: &str, have: String, asked: String| {
        if have != asked {
            list.push(format!("{name} is {have}, {asked} was asked"));
        }
    };
    note("start_lsn", have.start_lsn.to_string(), asked.start_lsn.to_string());
    note("pg_version_num", have.pg_version_num.to_string(), asked.pg_version_num.to_string());
    note("system_id", have.system_id.to_string(), asked.system_id.to_string());
    note("wal_seg_size", have.wal_seg_size.bytes().to_string(), asked.wal_seg_size.bytes().to_string());
    note("pg_history", format!("{:?}", have.pg_history), format!("{:?}", asked.pg_history));
    list.join("; ")
}
