//! Reads of one timeline: waits for WAL, tries memory on the spot, and goes to files on a thread that may block.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgformat::page::Page;
use pgformat::rel::BlockNumber;
use pgformat::{Lsn, SegSize};
use proto::pagestream::{Ask, Reply};
use proto::pg::SqlError;
use proto::pg::sqlstate;
use tokio::sync::watch;

use super::at::ReadPlan;
use super::{Fault, Io, Problem, ReadError, ReadPoint, ReadView, Readable, TimelineReads, Versions};
use crate::cluster::records::RecordSpan;
use crate::cluster::state::ClusterState;
use crate::cluster::xacts::XactEntry;
use crate::ingest::IngestPosition;
use crate::timeline::{Timeline, Trouble};

/// What a request comes to.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum ReadAnswer {
    /// Answers [`Ask::Exists`]: whether it does.
    Exists(bool),
    /// Answers [`Ask::Nblocks`]: how many.
    Nblocks(BlockNumber),
    /// To [`Ask::Page`], its checksum zero.
    Page(Box<Page>),
    /// To [`Ask::DbSize`], in bytes.
    DbSize(u64),
    /// To [`Ask::SlruSegment`]: whole pages.
    SlruSegment(Vec<u8>),
}

/// A page as a buffer that nobody copies.
struct Owned(Box<Page>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

impl ReadAnswer {
    /// As a pagestream says it.
    pub(crate) fn into_reply(self) -> Reply {
        match self {
            ReadAnswer::Exists(exists) => Reply::Exists(exists),
            ReadAnswer::Nblocks(blocks) => Reply::Nblocks(blocks),
            ReadAnswer::Page(page) => Reply::Page(Bytes::from_owner(Owned(page))),
            ReadAnswer::DbSize(bytes) => Reply::DbSize(i64::try_from(bytes).unwrap_or(i64::MAX)),
            ReadAnswer::SlruSegment(pages) => Reply::SlruSegment(pages.into()),
        }
    }
}

/// Answers requests to one timeline.
pub(crate) struct PageReader {
    reads: Arc<dyn TimelineReads>,
    positions: watch::Receiver<IngestPosition>,
    troubles: watch::Receiver<Trouble>,
}

impl PageReader {
    /// A reader of `timeline`.
    ///
    /// # Errors
    /// SQLSTATE 55000 when it keeps no pages.
    pub(crate) fn of(timeline: &Timeline) -> Result<PageReader, SqlError> {
        let reads = timeline.reads().ok_or_else(|| {
            let text = format!("timeline {} keeps no pages here", timeline.ttid);
            SqlError::new(sqlstate::NOT_IN_PREREQUISITE_STATE, text)
                .with_hint("Import its cluster with walfabric timeline import.")
        })?;
        Ok(PageReader::new(reads, timeline.positions(), timeline.troubles()))
    }

    /// A reader that waits for `positions`, as long as there is no trouble that stops ingest.
    pub(crate) fn new(
        reads: Arc<dyn TimelineReads>,
        positions: watch::Receiver<IngestPosition>,
        troubles: watch::Receiver<Trouble>,
    ) -> PageReader {
        PageReader { reads, positions, troubles }
    }

    /// Whether the cluster has page checksums.
    pub(crate) fn has_checksums(&self) -> bool {
        self.reads.has_checksums()
    }

    /// What is readable now.
    pub(crate) fn readable(&self) -> Readable {
        Readable { from: self.reads.readable_from(), to: self.positions.borrow().last_record_lsn }
    }

    /// The LSN to read at, if nothing has to be waited for.
    ///
    /// # Errors
    /// See [`ReadPoint::plan`].
    pub(crate) fn try_resolve(&self, at: ReadPoint) -> Result<Option<Lsn>, ReadError> {
        let readable = self.readable();
        match at.plan(&readable) {
            Ok(ReadPlan::Read(lsn)) => Ok(Some(lsn)),
            Ok(ReadPlan::Wait(_)) => Ok(None),
            Err(problem) => Err(ReadError { problem, readable }),
        }
    }

    /// The LSN to read at; waits for it up to `limit`. A timeline whose ingest has stopped is not waited for.
    ///
    /// # Errors
    /// See [`ReadPoint::plan`]; [`Problem::NotReached`].
    pub(crate) async fn resolve(&self, at: ReadPoint, limit: Duration) -> Result<Lsn, ReadError> {
        let readable = self.readable();
        let lsn = match at.plan(&readable) {
            Ok(ReadPlan::Read(lsn)) => return Ok(lsn),
            Ok(ReadPlan::Wait(lsn)) => lsn,
            Err(problem) => return Err(ReadError { problem, readable }),
        };
        let started = tokio::time::Instant::now();
        let (mut positions, mut troubles) = (self.positions.clone(), self.troubles.clone());
        let why = tokio::select! {
            Ok(_) = positions.wait_for(|p| p.last_record_lsn >= lsn) => return Ok(lsn),
            Ok(trouble) = troubles.wait_for(|t| t.stopped.is_some()) => trouble.stopped.clone(),
            () = tokio::time::sleep(limit) => self.troubles.borrow().full.clone(),
            else => Some("the timeline is being closed".to_owned()),
        };
        let problem = Problem::NotReached { lsn, waited: started.elapsed(), why };
        Err(ReadError { problem, readable: self.readable() })
    }

    /// Reads something at `lsn`, which [`PageReader::resolve`] gave.
    ///
    /// # Errors
    /// What `read` says.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        lsn: Lsn,
        read: impl Fn(ReadView<'_>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, ReadError> {
        let readable = self.readable();
        let versions = self.reads.versions();
        let view = |versions, io| ReadView { versions, lsn, latest: readable.to, io };
        let outcome = match read(view(&*versions, Io::Memory)) {
            Err(Problem::NotInMemory) => {
                let ended = tokio::task::spawn_blocking(move || {
                    read(ReadView { versions: &*versions, lsn, latest: readable.to, io: Io::Files })
                });
                ended.await.unwrap_or_else(|e| Err(Problem::Internal(format!("a reading thread ended: {e}"))))
            }
            other => other,
        };
        outcome.map_err(|problem| ReadError { problem, readable })
    }

    /// What the control file would hold at `lsn`, which [`PageReader::resolve`] gave.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn control(&self, lsn: Lsn) -> Result<ClusterState, ReadError> {
        let reads = self.reads.clone();
        let ended = tokio::task::spawn_blocking(move || reads.control(lsn)).await;
        let loaded = ended.unwrap_or_else(|e| Err(Fault::Io(format!("a reading thread ended: {e}"))));
        let problem = |fault| Problem::of_fault(fault, "the control state", lsn);
        loaded.map_err(|fault| ReadError { problem: problem(fault), readable: self.readable() })
    }

    /// The last record that ends at or below `lsn`, in a log of segments of this size; none before the first one known.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn last_record(&self, lsn: Lsn, seg: SegSize) -> Result<Option<RecordSpan>, ReadError> {
        let reads = self.reads.clone();
        let ended = tokio::task::spawn_blocking(move || reads.last_record(lsn, seg)).await;
        let found = ended.unwrap_or_else(|e| Err(Fault::Io(format!("a reading thread ended: {e}"))));
        let problem = |fault| Problem::of_fault(fault, "the list of records", lsn);
        found.map_err(|fault| ReadError { problem: problem(fault), readable: self.readable() })
    }

    /// The first end of a transaction whose record ends in `(from, to]` and is `wanted`.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn first_end(
        &self,
        (from, to): (Lsn, Lsn),
        mut wanted: impl FnMut(&XactEntry) -> bool + Send + 'static,
    ) -> Result<Option<XactEntry>, ReadError> {
        let reads = self.reads.clone();
        let ended = tokio::task::spawn_blocking(move || reads.first_end(from, to, &mut wanted)).await;
        let found = ended.unwrap_or_else(|e| Err(Fault::Io(format!("a reading thread ended: {e}"))));
        let problem = |fault| Problem::of_fault(fault, "the list of transactions", to);
        found.map_err(|fault| ReadError { problem: problem(fault), readable: self.readable() })
    }

    /// The versions as they are now, for a reader with threads of its own.
    pub(crate) fn versions(&self) -> Arc<dyn Versions> {
        self.reads.versions()
    }

    /// Answers several requests, in their order: what is in memory on the spot, the rest in one go on another thread.
    pub(crate) async fn batch(&self, asks: Vec<(Ask, Lsn)>) -> Vec<Result<ReadAnswer, ReadError>> {
        let readable = self.readable();
        let versions = self.reads.versions();
        let mut answers: Vec<Result<ReadAnswer, Problem>> =
            asks.iter().map(|(ask, lsn)| answer(*ask, *lsn, &*versions, readable.to, Io::Memory)).collect();
        let missing = |a: &Result<ReadAnswer, Problem>| matches!(a, Err(Problem::NotInMemory));
        if answers.iter().any(missing) {
            let left: Vec<(Ask, Lsn)> =
                asks.into_iter().zip(&answers).filter(|(_, a)| missing(a)).map(|(a, _)| a).collect();
            let count = left.len();
            let ended = tokio::task::spawn_blocking(move || {
                let files = |(ask, lsn)| answer(ask, lsn, &*versions, readable.to, Io::Files);
                left.into_iter().map(files).collect::<Vec<_>>()
            });
            let failed = |e| vec![Err(Problem::Internal(format!("a reading thread ended: {e}"))); count];
            let mut read = ended.await.unwrap_or_else(failed).into_iter();
            for slot in answers.iter_mut().filter(|a| missing(a)) {
                *slot = read.next().unwrap_or(Err(Problem::NotInMemory));
            }
        }
        answers.into_iter().map(|a| a.map_err(|problem| ReadError { problem, readable })).collect()
    }
}

fn answer(ask: Ask, lsn: Lsn, versions: &dyn Versions, latest: Lsn, io: Io) -> Result<ReadAnswer, Problem> {
    let view = ReadView { versions, lsn, latest, io };
    match ask {
        Ask::Exists(fork) => view.exists(fork).map(ReadAnswer::Exists),
        Ask::Nblocks(fork) => view.rel_size(fork).map(ReadAnswer::Nblocks),
        Ask::Page(tag) => view.page(tag).map(ReadAnswer::Page),
        Ask::DbSize { db } => view.db_size(db).map(ReadAnswer::DbSize),
        Ask::SlruSegment { slru, segno } => view.slru_segment(slru, segno).map(ReadAnswer::SlruSegment),
    }
}
