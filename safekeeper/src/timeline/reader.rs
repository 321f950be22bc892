//! Reads WAL in order for one receiver: from the ring when the position is in it, else from the files, off the async
//! threads.
//!
//! Owner of its position, the only cursor of a stream: it moves by exactly what is handed out, so that switching
//! between file and ring cannot leave a gap or repeat a byte. A reader never passes the published commit_lsn, or
//! flush_lsn with a guarded term; bytes below those do not change.

use std::sync::Arc;

use bytes::Bytes;
use disk::DiskFile;
use pgformat::{Lsn, WAL_PAGE_SIZE};
use proto::id::Term;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::positions::TimelinePositions;
use super::shared::TimelineShared;
use crate::storage::segment::HeldSegments;

/// How far a reader may read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadMode {
    /// Up to commit_lsn.
    Committed,
    /// Up to flush_lsn, as long as the term is this.
    Recovery {
        /// The term that must hold.
        term: Term,
    },
}

/// Why WAL cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WalReadError {
    /// Start lies before the first byte held.
    #[error("WAL from {start} is not held here: the first byte is {held}")]
    BelowStart {
        /// The position asked for.
        start: Lsn,
        /// First byte held.
        held: Lsn,
    },
    /// No log here yet.
    #[error("no WAL is held here yet")]
    Empty,
    /// The term changed under a recovery reader.
    #[error("the term changed from {asked} to {here}")]
    TermChanged {
        /// The term that the reader was opened under.
        asked: Term,
        /// The term that holds now.
        here: Term,
    },
    /// A file could not be read.
    #[error("reading WAL at {at}: {source}")]
    Io {
        /// Position of the first byte that was wanted.
        at: Lsn,
        /// What the disk said.
        source: std::io::Error,
    },
    /// Too many ask for WAL to be read back.
    #[error("other questions about this timeline's WAL are being answered; ask again")]
    Busy,
    /// The timeline is shut down.
    #[error("the timeline is shut down")]
    Closed,
}

/// A piece of WAL without gaps, as a stream sends it on.
#[derive(Clone, Debug)]
pub struct WalChunk {
    /// Position of the first byte.
    pub start: Lsn,
    /// Position behind the last byte.
    pub end: Lsn,
    /// End of what may be read now (commit_lsn or flush_lsn), at least `end`.
    pub available: Lsn,
    /// The bytes, one slice behind the other; none is empty.
    pub bytes: Vec<Bytes>,
}

/// Reads WAL in order, without gap or overlap, from the newest part kept in memory or from the files.
#[derive(Debug)]
pub struct TimelineWalReader {
    shared: Arc<TimelineShared>,
    positions: watch::Receiver<TimelinePositions>,
    mode: ReadMode,
    position: Lsn,
    ahead: Ahead,
}

/// What is read from files beyond the position: one thread's turn brings more than one message, and the next turn runs
/// while this one's bytes go out. At most two turns' bytes are held, and only by a reader that is behind.
#[derive(Debug, Default)]
struct Ahead {
    /// The segment read last, kept open.
    open: Option<OpenSegment>,
    /// Read and not handed out yet: where it starts, and the bytes, whole pages.
    read: Option<(Lsn, Bytes)>,
    /// Being read, from there on.
    reading: Option<ReadAheadTurn>,
}

/// A turn under way, and where it starts.
type ReadAheadTurn = (Lsn, JoinHandle<Result<(OpenSegment, Bytes), WalReadError>>);

/// Bytes per turn: eight messages of the largest size.
const READ_AHEAD: u64 = 1 << 20;

#[derive(Clone, Debug)]
struct OpenSegment {
    segments: Arc<HeldSegments>,
    segno: u64,
    file: Arc<dyn DiskFile>,
}

impl TimelineWalReader {
    pub(super) fn open(
        shared: Arc<TimelineShared>,
        mode: ReadMode,
        start: Lsn,
    ) -> Result<TimelineWalReader, WalReadError> {
        let control = shared.view().control;
        let held = control.local_start_lsn.ok_or(WalReadError::Empty)?.segment_start(control.seg_size);
        if start < held {
            return Err(WalReadError::BelowStart { start, held });
        }
        let positions = shared.positions.clone();
        let reader = TimelineWalReader { shared, positions, mode, position: start, ahead: Ahead::default() };
        reader.limit()?;
        Ok(reader)
    }

    /// Position of the next byte.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// End of what may be read now; `None` = nothing yet. May lie before the position.
    pub fn available(&self) -> Option<Lsn> {
        let now = self.positions.borrow();
        match self.mode {
            ReadMode::Committed => now.commit_lsn,
            ReadMode::Recovery { .. } => now.flush_lsn,
        }
    }

    /// Waits until there is something to read. Cancel safe.
    ///
    /// # Errors
    /// Term changed (recovery mode), or the timeline closed.
    pub async fn wait(&mut self) -> Result<(), WalReadError> {
        loop {
            self.positions.borrow_and_update();
            if self.limit()?.is_some_and(|end| end > self.position) {
                return Ok(());
            }
            self.positions.changed().await.map_err(|_| WalReadError::Closed)?;
        }
    }

    /// Reads at most `max` bytes (at least a page); `None` when there is nothing yet. A chunk that does not reach
    /// `available` ends at a page border. Cancel safe: the position moves only with the result.
    ///
    /// # Errors
    /// See [`WalReadError`].
    pub async fn read(&mut self, max: usize) -> Result<Option<WalChunk>, WalReadError> {
        let Some(available) = self.limit()? else { return Ok(None) };
        let start = self.position;
        if available <= start {
            return Ok(None);
        }
        let wanted = start.add((max as u64).max(WAL_PAGE_SIZE)).min(available);
        let end = if wanted < available { wanted.page_start() } else { wanted };
        let bytes = match self.read_ring(start, end) {
            Some(bytes) => {
                // Caught up: nothing is read ahead any more.
                (self.ahead.read, self.ahead.reading) = (None, None);
                bytes
            }
            None => vec![self.read_file(start, end, available).await?],
        };
        // What was read under another term may have been cut away while it was read.
        self.limit()?;
        let len: u64 = bytes.iter().map(|b| b.len() as u64).sum();
        self.position = start.add(len);
        Ok(Some(WalChunk { start, end: self.position, available, bytes }))
    }

    /// End of what may be read, checked against the term.
    fn limit(&self) -> Result<Option<Lsn>, WalReadError> {
        let now = self.positions.borrow();
        match self.mode {
            ReadMode::Committed => Ok(now.commit_lsn),
            ReadMode::Recovery { term } if term != now.term => {
                Err(WalReadError::TermChanged { asked: term, here: now.term })
            }
            ReadMode::Recovery { .. } => Ok(now.flush_lsn),
        }
    }

    /// Slices of `[start, end)` when the ring has all of it, or its beginning up to a page border.
    fn read_ring(&self, start: Lsn, end: Lsn) -> Option<Vec<Bytes>> {
        let slices = self.shared.recent.read(start, end)?;
        let len: u64 = slices.iter().map(|b| b.len() as u64).sum();
        // The ring ends before `end` only behind a switch record whose fill did not come: the file has its zeros.
        (start.add(len) == end).then_some(slices)
    }

    /// Bytes of `[start, end)` from the files, or of its beginning up to a page border.
    async fn read_file(&mut self, start: Lsn, end: Lsn, available: Lsn) -> Result<Bytes, WalReadError> {
        if self.ahead.read.as_ref().is_none_or(|(at, _)| *at != start) {
            let fitting = self.ahead.reading.take_if(|(at, _)| *at == start);
            let (_, turn) = match fitting {
                Some(turn) => turn,
                None => self.start_reading(start, end.max(ahead_of(start, available))),
            };
            // Kept where it is until it is done: whoever cancels this loses no bytes, the next call waits for them.
            let (_, turn) = self.ahead.reading.insert((start, turn));
            let done = turn.await;
            self.ahead.reading = None;
            let (open, bytes) = done.map_err(|e| io(start, std::io::Error::other(e)))??;
            self.ahead.open = Some(open);
            self.ahead.read = Some((start, bytes));
        }
        let (_, mut bytes) = self.ahead.read.take().expect("filled above");
        let wanted = usize::try_from(end.bytes_since(start)).unwrap_or(usize::MAX);
        let out = bytes.split_to(wanted.min(bytes.len()));
        let next = start.add(out.len() as u64);
        if !bytes.is_empty() {
            self.ahead.read = Some((next, bytes));
        } else if ahead_of(next, available) > next && self.ahead.reading.is_none() {
            self.ahead.reading = Some(self.start_reading(next, ahead_of(next, available)));
        }
        Ok(out)
    }

    fn start_reading(&mut self, start: Lsn, end: Lsn) -> ReadAheadTurn {
        let view = self.shared.view();
        let seg = view.segments.seg_size();
        let end = end.min(seg.start_of(start.segment_no(seg) + 1));
        let fits = |o: &OpenSegment| o.segno == start.segment_no(seg) && Arc::ptr_eq(&o.segments, &view.segments);
        let cached = self.ahead.open.take().filter(fits);
        (start, tokio::task::spawn_blocking(move || read_segment(cached, view.segments, start, end)))
    }
}

/// How far a turn that begins at `start` goes: whole pages, so that no message is cut inside of one.
fn ahead_of(start: Lsn, available: Lsn) -> Lsn {
    start.add(READ_AHEAD).min(available).page_start().max(start)
}

fn io(at: Lsn, source: std::io::Error) -> WalReadError {
    WalReadError::Io { at, source }
}

fn read_segment(
    cached: Option<OpenSegment>,
    segments: Arc<HeldSegments>,
    start: Lsn,
    end: Lsn,
) -> Result<(OpenSegment, Bytes), WalReadError> {
    let seg = segments.seg_size();
    let open = match cached {
        Some(open) => open,
        None => {
            let file = segments.open_for_reading(start).map_err(|e| io(start, std::io::Error::other(e)))?;
            let missing = || io(start, std::io::Error::from(std::io::ErrorKind::NotFound));
            let file = file.ok_or_else(missing)?;
            OpenSegment { segments, segno: start.segment_no(seg), file }
        }
    };
    let len = usize::try_from(end.bytes_since(start)).map_err(|e| io(start, std::io::Error::other(e)))?;
    let mut buf = vec![0; len];
    let read = open.file.read_at(start.segment_offset(seg), &mut buf).map_err(|e| io(start, e))?;
    if read < len {
        return Err(io(start, std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
    }
    Ok((open, Bytes::from(buf)))
}
