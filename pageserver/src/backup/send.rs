//! A planned backup as archives in messages: ranges are read ahead on threads that block, and sent in their order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libpq::{AnswerInParts, NetError};
use pgformat::Lsn;
use proto::backup::BackupMessage;
use proto::backup::tar::{ARCHIVE_END, TarEntry, padding};
use proto::pg::{SqlError, sqlstate};
use tokio::task::JoinHandle;

use super::content::{FileRanges, ViewRanges};
use super::plan::{BackupPlan, FileContent, PlannedArchive, PlannedEntry};
use crate::read::{Io, Problem, ReadError, ReadView, Readable, Versions};

/// Bytes of a file that are read at once: a message, and a job of a thread.
const RANGE_BYTES: u64 = 1 << 20;
/// Ranges that are read ahead. With the message that is being sent this bounds a backup's memory.
const RANGES_AHEAD: usize = 4;
/// Pieces that wait for their turn, ranges and small ones: headers of many empty files are not looked at all at once.
const PIECES_AHEAD: usize = 64;
/// Bytes that are queued before the socket is written.
const FLUSH_BYTES: usize = 256 << 10;
/// A client that takes nothing for so long is gone, or holds versions that others want collected.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Where the bytes come from.
pub(crate) struct BackupSource {
    /// Versions of the timeline.
    pub(crate) versions: Arc<dyn Versions>,
    /// The LSN that is read.
    pub(crate) lsn: Lsn,
    /// What is readable, for errors.
    pub(crate) readable: Readable,
    /// Whether pages get checksums.
    pub(crate) checksums: bool,
    /// When the backup was made, in seconds since 1970: the time of its files.
    pub(crate) time: u64,
}

/// Why a backup broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The client is gone.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A page cannot be read, or a name does not fit: told to the client.
    #[error("{0}")]
    Refused(Box<SqlError>),
}

/// A piece of the stream.
enum BackupPiece {
    /// A message that is none of content.
    Message(BackupMessage),
    /// Bytes of the archive.
    Bytes(Bytes),
    /// A range of a file, to be read.
    Range(FileContent, Range<u64>),
}

/// A piece on its way.
enum Coming {
    Ready(BackupMessage),
    Read(JoinHandle<Result<Bytes, Problem>>),
}

impl BackupSource {
    fn view(&self) -> ReadView<'_> {
        ReadView { versions: &*self.versions, lsn: self.lsn, latest: self.readable.to, io: Io::Files }
    }

    fn read(&self, content: FileContent, range: Range<u64>) -> JoinHandle<Result<Bytes, Problem>> {
        let (versions, lsn, latest, checksums) = (self.versions.clone(), self.lsn, self.readable.to, self.checksums);
        tokio::task::spawn_blocking(move || {
            let view = ReadView { versions: &*versions, lsn, latest, io: Io::Files };
            ViewRanges { view, checksums }.range(&content, range)
        })
    }

    fn refused(&self, problem: Problem) -> SendError {
        SendError::Refused(Box::new(ReadError { problem, readable: self.readable }.to_sql()))
    }

    /// Plans on a thread that may block.
    ///
    /// # Errors
    /// What the store says, as SQL.
    pub(crate) async fn plan(
        self: &Arc<Self>,
        plan: impl FnOnce(&ReadView<'_>) -> Result<BackupPlan, Problem> + Send + 'static,
    ) -> Result<BackupPlan, SqlError> {
        let source = Arc::clone(self);
        let planned = tokio::task::spawn_blocking(move || plan(&source.view())).await;
        let planned = planned.unwrap_or_else(|e| Err(Problem::Internal(format!("a reading thread ended: {e}"))));
        planned.map_err(|problem| ReadError { problem, readable: self.readable }.to_sql())
    }

    /// Sends the archives of `plan`; `progress` says how far it is.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(crate) async fn send(
        &self,
        plan: BackupPlan,
        progress: bool,
        out: &mut AnswerInParts,
    ) -> Result<(), SendError> {
        let time = self.time;
        let mut pieces = plan.archives.into_iter().flat_map(move |archive| pieces(archive, time));
        let mut coming: VecDeque<Coming> = VecDeque::new();
        let (mut reading, mut sent) = (0, 0_u64);
        loop {
            while reading < RANGES_AHEAD && coming.len() < PIECES_AHEAD {
                match pieces.next() {
                    None => break,
                    Some(Err(e)) => return Err(SendError::Refused(Box::new(e))),
                    Some(Ok(BackupPiece::Message(message))) => coming.push_back(Coming::Ready(message)),
                    Some(Ok(BackupPiece::Bytes(bytes))) => {
                        coming.push_back(Coming::Ready(BackupMessage::Data(bytes)));
                    }
                    Some(Ok(BackupPiece::Range(content, range))) => {
                        coming.push_back(Coming::Read(self.read(content, range)));
                        reading += 1;
                    }
                }
            }
            let message = match coming.pop_front() {
                None => break,
                Some(Coming::Ready(message)) => message,
                Some(Coming::Read(job)) => {
                    reading -= 1;
                    let read = job.await;
                    let read = read.unwrap_or_else(|e| Err(Problem::Internal(format!("a reading thread ended: {e}"))));
                    BackupMessage::Data(read.map_err(|problem| self.refused(problem))?)
                }
            };
            put(message, progress, &mut sent, out);
            if out.queued_bytes() >= FLUSH_BYTES {
                flush(out).await?;
            }
        }
        flush(out).await
    }
}

fn put(message: BackupMessage, progress: bool, sent: &mut u64, out: &mut AnswerInParts) {
    let head = message.head();
    let BackupMessage::Data(bytes) = message else { return out.data(&head, Bytes::new()) };
    let before = *sent / RANGE_BYTES;
    *sent += bytes.len() as u64;
    out.data(&head, bytes);
    if progress && *sent / RANGE_BYTES != before {
        out.data(&BackupMessage::Progress(*sent).head(), Bytes::new());
    }
}

async fn flush(out: &mut AnswerInParts) -> Result<(), SendError> {
    match tokio::time::timeout(STALL_LIMIT, out.flush()).await {
        Ok(flushed) => Ok(flushed?),
        Err(_) => {
            let problem = format!("the client took nothing of the backup for {} s", STALL_LIMIT.as_secs());
            Err(SendError::Refused(Box::new(SqlError::fatal(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, problem))))
        }
    }
}

/// An archive piece by piece.
fn pieces(archive: PlannedArchive, time: u64) -> impl Iterator<Item = Result<BackupPiece, SqlError>> {
    let (name, path) = match &archive.tablespace {
        None => ("base.tar".to_owned(), String::new()),
        Some((oid, path)) => (format!("{oid}.tar"), path.clone()),
    };
    let head = std::iter::once(Ok(BackupPiece::Message(BackupMessage::Archive { name, path })));
    let entries = archive.entries.into_iter().flat_map(move |entry| entry_pieces(entry, time));
    head.chain(entries).chain(std::iter::once(Ok(BackupPiece::Bytes(Bytes::from_static(&ARCHIVE_END)))))
}

fn entry_pieces(entry: PlannedEntry, time: u64) -> impl Iterator<Item = Result<BackupPiece, SqlError>> {
    let len = entry.content.as_ref().map_or(0, FileContent::len);
    let named = if entry.content.is_some() { TarEntry::file(entry.path, len) } else { TarEntry::directory(entry.path) };
    let header = named.header(time).map(|h| BackupPiece::Bytes(Bytes::copy_from_slice(&h)));
    let header = header.map_err(|e| SqlError::new(sqlstate::INTERNAL_ERROR, e.to_string()));
    let ranges = (0..len.div_ceil(RANGE_BYTES)).filter_map(move |n| {
        let content = entry.content.clone()?;
        Some(Ok(BackupPiece::Range(content, n * RANGE_BYTES..len.min((n + 1) * RANGE_BYTES))))
    });
    let fill = (padding(len) > 0).then(|| Ok(BackupPiece::Bytes(Bytes::from_static(&ARCHIVE_END[..padding(len)]))));
    std::iter::once(header).chain(ranges).chain(fill)
}
