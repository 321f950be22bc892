//! Files of a data directory on their way into the page store, all as versions of one LSN.
//!
//! Owner of what is gathered over many files: sizes of forks and segments. Everything else goes straight into batches.
//! Free space maps are hints and stay behind; main forks of unlogged relations are not in a base backup.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use pgformat::control::{ControlError, ControlFile};
use pgformat::datadir::{FileKind, classify};
use pgformat::origins::{OriginsError, parse_origins};
use pgformat::page::{PAGE_SIZE, Page};
use pgformat::rel::{BlockNumber, BlockTag, Fork, RelFork};
use pgformat::relmap::{RelMapError, parse_relmap};
use pgformat::slru::{SEGMENT_PAGES, Slru, full_xid};
use pgformat::twophase::{TwoPhase, TwoPhaseError, check_file};
use pgformat::{Lsn, PgMajor};

use super::backup::{BackupEvent, Tablespace};
use crate::cluster::database::WHOLE;
use crate::cluster::key::{Key, KeyKind};
use crate::cluster::state::{ClusterState, STATE_KEY};
use crate::cluster::value::{ValueKind, encode_page};
use crate::store::{AppendError, Batch, Intake, Store, WriteError};

/// Bytes of a batch before it goes to the store.
const BATCH_BYTES: usize = 1 << 20;
/// Longest file other than those that are read page by page: a prepared transaction can have many invalidations.
const SMALL_FILE_MAX: usize = 64 << 20;

/// Why a file cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// Storage does not take a layer.
    #[error(transparent)]
    Store(#[from] WriteError),
    /// The store takes no more versions.
    #[error("the store does not take the pages: {0}")]
    Append(String),
    /// The control file.
    #[error("global/pg_control: {0}")]
    Control(#[from] ControlError),
    /// A relation map.
    #[error("relation map of database {1}: {0}")]
    RelMap(RelMapError, u32),
    /// A prepared transaction.
    #[error("prepared transaction {1:X}: {0}")]
    TwoPhase(TwoPhaseError, u64),
    /// The file of replication origins.
    #[error("pg_logical/replorigin_checkpoint: {0}")]
    Origins(#[from] OriginsError),
    /// Anything else about a file, in words.
    #[error("{0}")]
    File(String),
}

/// A file that is being read.
struct Open {
    kind: FileKind,
    path: String,
    /// What is not a whole page yet, or the whole of a small file.
    rest: Vec<u8>,
    pages: BlockNumber,
}

/// Takes the files of a cluster, and makes versions of one LSN of them.
pub(super) struct Loader {
    store: Arc<Store>,
    version: PgMajor,
    /// All versions are of this LSN.
    lsn: Lsn,
    batch: Batch,
    open: Option<Open>,
    forks: BTreeMap<RelFork, BlockNumber>,
    segments: BTreeMap<(Slru, u32), u32>,
    control: Option<ControlFile>,
    /// States of prepared transactions, by the number in their file's name.
    two_phase: Vec<(u64, Vec<u8>)>,
    /// Bytes of files that were taken.
    pub(super) bytes: u64,
}

impl Loader {
    /// Takes files as of `lsn`.
    pub(super) fn new(store: Arc<Store>, version: PgMajor, lsn: Lsn) -> Loader {
        Loader {
            store,
            version,
            lsn,
            batch: Batch::default(),
            open: None,
            forks: BTreeMap::new(),
            segments: BTreeMap::new(),
            control: None,
            two_phase: Vec::new(),
            bytes: 0,
        }
    }

    /// One step of the stream of files. Blocks while storage is slow.
    ///
    /// # Errors
    /// See [`LoadError`]; the load is then of no use.
    pub(super) fn take(&mut self, event: BackupEvent) -> Result<(), LoadError> {
        match event {
            BackupEvent::File { spc, path, len: _ } => {
                let kind = classify(&path, spc);
                self.open = Some(Open { kind, path, rest: Vec::new(), pages: 0 });
                Ok(())
            }
            BackupEvent::Content(bytes) => self.content(bytes),
            BackupEvent::End => self.end(),
        }
    }

    fn content(&mut self, mut bytes: Bytes) -> Result<(), LoadError> {
        self.bytes += bytes.len() as u64;
        let Some(mut open) = self.open.take() else { return Ok(()) };
        match &open.kind {
            FileKind::Skip => {}
            FileKind::Relation(fork, _) if fork.fork == Fork::Fsm => {}
            FileKind::Relation(..) | FileKind::Slru(..) => {
                while open.rest.len() + bytes.len() >= PAGE_SIZE {
                    let page = if open.rest.is_empty() {
                        Page::from_slice(&bytes.split_to(PAGE_SIZE))
                    } else {
                        let missing = PAGE_SIZE - open.rest.len();
                        open.rest.extend_from_slice(&bytes[..missing]);
                        bytes.advance(missing);
                        let page = Page::from_slice(&open.rest);
                        open.rest.clear();
                        page
                    };
                    self.page(&open, &page.expect("exactly a page"))?;
                    open.pages += 1;
                }
                open.rest.extend_from_slice(&bytes);
            }
            _ if open.rest.len() + bytes.len() > SMALL_FILE_MAX => {
                return Err(LoadError::File(format!("{} is longer than {SMALL_FILE_MAX} bytes", open.path)));
            }
            _ => open.rest.extend_from_slice(&bytes),
        }
        self.open = Some(open);
        Ok(())
    }

    fn page(&mut self, open: &Open, page: &Page) -> Result<(), LoadError> {
        let key = match open.kind {
            FileKind::Relation(fork, first) => Key::block(BlockTag { fork, blk: first.saturating_add(open.pages) }),
            FileKind::Slru(slru, segment) => {
                Key::numbered(KeyKind::SlruPage, slru as u32, segment * SEGMENT_PAGES + open.pages)
            }
            _ => return Ok(()),
        };
        self.batch.put(key, self.lsn, ValueKind::Image, |out| encode_page(page, out));
        if self.batch.bytes() >= BATCH_BYTES { self.hand_over() } else { Ok(()) }
    }

    fn end(&mut self) -> Result<(), LoadError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        match open.kind {
            FileKind::Skip | FileKind::Label | FileKind::TablespaceMap => {}
            FileKind::Relation(fork, _) if fork.fork == Fork::Fsm => {}
            FileKind::Relation(fork, first) => {
                // A file that grew while it was read may end within a page: WAL has the rest.
                let end = first.saturating_add(open.pages);
                let size = self.forks.entry(fork).or_insert(0);
                *size = end.max(*size);
            }
            FileKind::Slru(slru, segment) => {
                self.segments.insert((slru, segment), open.pages);
            }
            FileKind::RelMap(spc, db) => {
                parse_relmap(&open.rest, self.version).map(drop).map_err(|e| LoadError::RelMap(e, db))?;
                self.blob(Key::of_database(KeyKind::RelMap, spc, db), &open.rest);
            }
            FileKind::Database(spc, db) => self.blob(Key::of_database(KeyKind::Database, spc, db), &[WHOLE]),
            FileKind::Control => self.control = Some(ControlFile::parse(&open.rest)?),
            FileKind::TwoPhase(xid) => self.two_phase(xid, &open.rest)?,
            FileKind::Origins => self.origins(&open.rest)?,
        }
        Ok(())
    }

    /// A prepared transaction: its record lies before the backup's start, or comes again in the WAL.
    fn two_phase(&mut self, named: u64, file: &[u8]) -> Result<(), LoadError> {
        let wrong = |e| LoadError::TwoPhase(e, named);
        let state = check_file(file).map_err(wrong)?;
        TwoPhase::parse(state, self.version).map_err(wrong)?;
        self.two_phase.push((named, [&self.lsn.get().to_le_bytes(), state].concat()));
        Ok(())
    }

    fn origins(&mut self, file: &[u8]) -> Result<(), LoadError> {
        for (origin, remote) in parse_origins(file)? {
            self.blob(Key::numbered(KeyKind::Origin, 0, origin.into()), &remote.get().to_le_bytes());
        }
        Ok(())
    }

    /// After the last file: what was gathered. The cluster's settings, for whoever needs them.
    ///
    /// # Errors
    /// When there was no control file, and as [`Loader::take`].
    pub(super) fn finish(mut self, tablespaces: &[Tablespace]) -> Result<ControlFile, LoadError> {
        let control = self.control.take().ok_or_else(|| LoadError::File("there is no global/pg_control".to_owned()))?;
        for (named, state) in std::mem::take(&mut self.two_phase) {
            // Up to 16 the name has no epoch.
            let low = u32::try_from(named).ok();
            let xid = low.map_or(named, |xid| full_xid(xid, control.checkpoint_copy.next_xid));
            self.blob(Key::two_phase(xid), &state);
        }
        for (fork, size) in std::mem::take(&mut self.forks) {
            self.blob(Key::rel_size(fork), &size.to_le_bytes());
        }
        for ((slru, segment), pages) in std::mem::take(&mut self.segments) {
            self.blob(Key::numbered(KeyKind::SlruSegment, slru as u32, segment), &pages.to_le_bytes());
        }
        for tablespace in tablespaces {
            if let Some(oid) = tablespace.oid {
                let key = Key { spc: oid, ..Key::first(KeyKind::Tablespace) };
                self.blob(key, tablespace.path.as_bytes());
            }
        }
        let state = ClusterState::of_file(control.clone(), false);
        let lsn = self.lsn;
        self.blob(STATE_KEY, &state.encode(lsn));
        self.hand_over()?;
        Ok(control)
    }

    fn blob(&mut self, key: Key, value: &[u8]) {
        self.batch.put(key, self.lsn, ValueKind::Blob, |out| out.extend_from_slice(value));
    }

    fn hand_over(&mut self) -> Result<(), LoadError> {
        loop {
            match self.store.append(&mut self.batch) {
                Ok(()) => break,
                Err(AppendError::NotNow(Intake::Stopped(why))) => return Err(LoadError::Append(why)),
                Err(AppendError::NotNow(_)) => self.store.flush_one().map(drop)?,
                Err(AppendError::Store(e)) => return Err(LoadError::Append(e.to_string())),
            }
        }
        self.store.publish(crate::store::Position { end: self.lsn, start: None });
        while self.store.flush_one()? {}
        Ok(())
    }
}
