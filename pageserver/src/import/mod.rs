//! Import: a running cluster becomes versions in the page store.
//!
//! A base backup copies its pages, and they are stored as versions of the backup's redo position S. WAL from S on comes
//! from the safekeepers as usual. During a backup PostgreSQL makes sure that the first record after S of each page that
//! changes is an image or an initialisation, so pages that were copied torn or too new are replaced. From the backup's
//! end on everything is consistent; reads below it are refused. The LSNs on the pages are never compared.
//!
//! A copy that was interrupted begins anew, because the server's backup is gone with its session.
//!
//! | module | what |
//! |---|---|
//! | `check` | whether a cluster can be copied, asked beforehand |
//! | `backup` | BASE_BACKUP as a stream of files |
//! | `load` | from files to versions |
//! | `directory` | the files of a cluster that is stopped |
//! | [`managers`] | clusters that are refused |
//! | `request` | what was asked for, kept across restarts |
//! | [`state`] | how far it is: a leaf |

mod backup;
pub(crate) mod check;
pub(crate) mod directory;
mod load;
pub mod managers;
mod request;
pub(crate) mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use node::{RepeatLog, parts};
use pgformat::Lsn;
use proto::api::{ImportStage, shown};
use tokio::sync::mpsc;

use self::state::ImportState;
use crate::ingest::{Engine, Ingest};
use crate::process::Pageserver;
use crate::store::Store;
use crate::timeline::Timeline;
use backup::{Backup, BackupError};
use load::{LoadError, Loader};
pub(crate) use request::{KeptImport, read, remove, write};

/// Pause before an import that failed begins anew.
const RETRY: Duration = Duration::from_secs(2);
/// Pieces of files between the connection and the store: about 8 MiB.
const QUEUE: usize = 256;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{0}")]
    Store(String),
    #[error("{0}")]
    Unfit(String),
}

/// Brings `timeline` to the end of its import, whatever was done of it before; returns when it can be read, or when the
/// node stops.
pub(crate) async fn run(pageserver: Arc<Pageserver>, timeline: Arc<Timeline>, request: KeptImport) {
    let gone = timeline.gone.clone();
    tokio::select! {
        () = gone.cancelled() => {}
        () = work(&pageserver, &timeline, &request) => {}
    }
}

async fn work(pageserver: &Arc<Pageserver>, timeline: &Arc<Timeline>, request: &KeptImport) {
    let Some(store) = timeline.store.clone() else { return };
    let failures = RepeatLog::outage(format!("timeline {}: import failed, begins anew", timeline.ttid));
    let mut copied = store.manifest().importing.as_ref().is_none_or(|importing| importing.end.is_some());
    loop {
        if !copied {
            timeline.set_copying(None);
            // A stream that began before knows nothing of the copy: its writer stands before the pages.
            timeline.stream.end();
            drop(timeline.slot.take_away().await);
            timeline.import.send_modify(|i| {
                *i = ImportState {
                    stage: Some(ImportStage::Copying),
                    attempts: i.attempts + 1,
                    began: Some(Instant::now()),
                    last_error: i.again.take().or(i.last_error.take()),
                    ..ImportState::default()
                }
            });
            if let Err(e) = copy(pageserver, timeline, &store, request).await {
                failures.warn(&e);
                timeline.import.send_modify(|i| i.last_error = Some(e.to_string()));
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        failures.over();
        timeline.import.send_modify(|i| {
            i.stage = Some(ImportStage::Replaying);
            i.took = i.began.map(|b| b.elapsed());
        });
        copied = replayed(timeline, &store).await;
        if copied {
            break;
        }
    }
    timeline.import.send_modify(|i| i.stage = Some(ImportStage::Done));
    tracing::info!(timeline = %timeline.ttid, from = %shown(store.readable_from()), "imported: pages can be read");
    let (disk, dir) = (pageserver.disk.clone(), pageserver.dir_of(timeline.ttid));
    if let Err(e) = parts::blocking(move || remove(&*disk, &dir)).await {
        tracing::warn!(timeline = %timeline.ttid, "the request of the finished import stays: {e}");
    }
}

/// Waits until WAL is ingested up to the end of the backup, and that is durable; false when the copy is of no use.
async fn replayed(timeline: &Timeline, store: &Arc<Store>) -> bool {
    let Some(end) = store.readable_from() else { return false };
    let (mut positions, mut states) = (timeline.positions(), timeline.import.subscribe());
    tokio::select! {
        reached = positions.wait_for(|p| p.last_record_lsn >= end) => if reached.is_err() { return false },
        _ = states.wait_for(|s| s.again.is_some()) => return false,
    }
    // A restart shall not replay from the copy again; if storage is away, it will.
    let store = store.clone();
    let _ = parts::blocking(move || store.flush()).await;
    true
}

/// One attempt: from the backup's beginning to pages that are durable, and a writer that goes on from there.
async fn copy(
    pageserver: &Arc<Pageserver>,
    timeline: &Arc<Timeline>,
    store: &Arc<Store>,
    request: &KeptImport,
) -> Result<(), ImportError> {
    let attach = timeline.attach.clone().ok_or_else(|| ImportError::Store("it cannot be opened".to_owned()))?;
    if let Some(why) = managers::check(&request.from, attach.pg_version_num).await? {
        return Err(ImportError::Unfit(why));
    }
    let mut backup = Backup::begin(&request.from).await?;
    if pgformat::PgMajor::from_version_num(attach.pg_version_num) != Some(backup.version) {
        let text = format!("the server is PostgreSQL {}, the timeline of {}", backup.version, attach.pg_version_num);
        return Err(ImportError::Unfit(text));
    }
    let start = backup.start;
    if start < attach.start_lsn {
        let text = format!("the backup starts at {start}, the timeline's WAL only at {}", attach.start_lsn);
        return Err(ImportError::Unfit(text));
    }
    timeline.import.send_modify(|i| {
        i.start = Some(start);
        i.bytes_total = backup.bytes_total;
    });
    let restarted = store.clone();
    blocking(move || restarted.restart_import(start).map_err(|e| ImportError::Store(e.to_string()))).await?;

    let (send, receive) = mpsc::channel(QUEUE);
    let loader = Loader::new(store.clone(), backup.version, start);
    let (report, tablespaces) = (timeline.clone(), backup.tablespaces.clone());
    let loading = parts::blocking(move || load(loader, receive, &report, &tablespaces));
    let (end, loaded) = tokio::join!(receive_all(&mut backup, send), loading);
    // A loader that failed closes the queue: its error is the cause.
    let control = loaded?;
    let end = end?;
    if control.system_id != attach.system_id.0 && attach.system_id.0 != 0 {
        let text = format!("the server is cluster {}, the timeline belongs to {}", control.system_id, attach.system_id);
        return Err(ImportError::Unfit(text));
    }
    timeline.import.send_modify(|i| i.end = Some(end));
    let (copied, metrics, is_remote) = (store.clone(), pageserver.metrics.clone(), pageserver.config.is_remote());
    let ingest = blocking(move || {
        copied.pages_copied(end).map_err(|e| ImportError::Store(e.to_string()))?;
        let engine = Engine::open(&copied, &attach).map_err(|e| ImportError::Store(e.to_string()))?;
        Ok(Ingest::new(engine, copied, is_remote, metrics))
    })
    .await?;
    timeline.set_copying(Some(ingest));
    Ok(())
}

async fn receive_all(backup: &mut Backup, send: mpsc::Sender<backup::BackupEvent>) -> Result<Lsn, ImportError> {
    loop {
        let mut events = Vec::new();
        let end = backup.next(&mut |event| events.push(event)).await?;
        for event in events {
            if send.send(event).await.is_err() {
                return Err(ImportError::Store("the copy ended early".to_owned()));
            }
        }
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

fn load(
    mut loader: Loader,
    mut events: mpsc::Receiver<backup::BackupEvent>,
    timeline: &Timeline,
    tablespaces: &[backup::Tablespace],
) -> Result<pgformat::control::ControlFile, ImportError> {
    let mut told = 0;
    while let Some(event) = events.blocking_recv() {
        loader.take(event)?;
        if loader.bytes - told > 1 << 20 {
            told = loader.bytes;
            timeline.import.send_modify(|i| i.bytes = told);
        }
    }
    timeline.import.send_modify(|i| i.bytes = loader.bytes);
    Ok(loader.finish(tablespaces)?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImportError> + Send + 'static,
) -> Result<T, ImportError> {
    parts::blocking(work).await
}
