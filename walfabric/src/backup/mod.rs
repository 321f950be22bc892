//! `walfabric backup`: a cluster as of an LSN, written to a new directory, ready to be started.
//!
//! The pageserver makes the files of its pages; no WAL is replayed when the server starts. Nothing is left of a backup
//! that broke off, and a directory that lacks its end is one that no server starts: the control file comes last, after
//! everything else is on disk.
//!
//! | module | what |
//! |---|---|
//! | [`command`] | the command line |
//! | [`directory`] | the new directory |
//! | [`receive`] | the backup's stream |
//! | [`when`] | the moment that is asked for |

pub mod command;
pub mod directory;
pub mod receive;
pub mod when;

use std::path::PathBuf;

use anyhow::{Context, Result};
use pgformat::{Lsn, Tli};
use proto::id::TenantTimelineId;
use tokio_util::sync::CancellationToken;

use directory::NewDirectory;
use receive::{BackupStream, DirectoryEvent};
use when::When;

/// Events between the connection and the thread that writes: each of a megabyte at most.
const QUEUE: usize = 8;

const INTERRUPTED: &str = "interrupted; what was made is removed";

/// What to copy, and whereto.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// Address of the pageserver's libpq port.
    pub pageserver: String,
    /// The timeline whose cluster is copied.
    pub ttid: TenantTimelineId,
    /// As of then. None: as of the last record that is committed when it begins.
    pub at: Option<When>,
    /// On the log's own tli, for whoever goes on with that log; else on a new one.
    pub same_tli: bool,
    /// The directory to make.
    pub to: PathBuf,
    /// Where tablespaces go that are not to be in `<to>_tablespaces`: former and new directory.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
}

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupMade {
    /// The end of the last record that counts.
    pub lsn: Lsn,
    /// Where the server's own WAL will begin.
    pub end: Lsn,
    /// The tli that it goes on with.
    pub tli: Tli,
    /// Bytes of all files.
    pub bytes: u64,
    /// Directories of tablespaces.
    pub tablespaces: Vec<PathBuf>,
}

/// Makes the directory. On an error, or when it is `interrupted`, everything that was made is removed.
///
/// # Errors
/// When the directory is not empty, the pageserver refuses or breaks off, or the disk is full.
pub async fn run(request: &BackupRequest, interrupted: &CancellationToken) -> Result<BackupMade> {
    let mut directory = NewDirectory::make(&request.to, &request.tablespaces)?;
    let begun = interrupted.run_until_cancelled(BackupStream::begin(request)).await;
    let mut stream = begun.context(INTERRUPTED)??;
    let (lsn, tli) = (stream.lsn, stream.tli);
    let (events, mut queue) = tokio::sync::mpsc::channel::<DirectoryEvent>(QUEUE);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(event) = queue.blocking_recv() {
            directory.take(event)?;
        }
        Ok::<_, anyhow::Error>(directory)
    });
    let received = interrupted.run_until_cancelled(stream.copy(&events)).await;
    drop(events);
    // The writer's error is the cause when it is the one that gave up.
    let directory = writer.await.context("the writing thread ended")??;
    let end = received.context(INTERRUPTED)??;
    let (bytes, tablespaces) = tokio::task::spawn_blocking(move || directory.finish()).await.context("the end")??;
    Ok(BackupMade { lsn, end, tli, bytes, tablespaces })
}

#[cfg(test)]
mod tests;
