//! Which directories and files a data directory has at an LSN.
//!
//! Free space maps are not among them: they are hints, and not in WAL. The main fork of an unlogged relation is a copy
//! of its init fork, as after a crash; its other forks are left out.
//!
//! Source: PostgreSQL 15, `sendDir` in `basebackup.c`, `ResetUnloggedRelationsInDbspaceDir` in `reinit.c`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use pgformat::boot::BootFiles;
use pgformat::control::CONTROL_FILE_NAME;
use pgformat::datadir::{
    SEGMENT_BLOCKS, TABLESPACES_DIR, VERSION_FILE_NAME, database_path, directories, relation_path,
};
use pgformat::page::PAGE_SIZE;
use pgformat::rel::{BlockNumber, Fork, RelFork};
use pgformat::{PgMajor, SegSize, Slru};

use crate::read::{Problem, ReadView};

/// What is in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FileContent {
    /// Blocks of a fork, from the first given on.
    Blocks {
        /// The fork that they are stored as.
        fork: RelFork,
        /// The first block.
        first: BlockNumber,
        /// How many blocks, at most those of a file.
        blocks: BlockNumber,
    },
    /// A segment of an SLRU, of so many pages.
    Segment(Slru, u32, u32),
    /// These bytes, and zeros up to the length.
    Bytes(Bytes, u64),
}

impl FileContent {
    /// Bytes that end with the last given one.
    pub(crate) fn of_bytes(bytes: impl Into<Bytes>) -> FileContent {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        FileContent::Bytes(bytes, len)
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            FileContent::Blocks { blocks: pages, .. } | FileContent::Segment(_, _, pages) => {
                u64::from(*pages) * PAGE_SIZE as u64
            }
            FileContent::Bytes(_, len) => *len,
        }
    }
}

/// A directory, or a file with what is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PlannedEntry {
    /// Path below the archive's root.
    pub(crate) path: String,
    /// None for a directory.
    pub(crate) content: Option<FileContent>,
}

/// One archive: the data directory, or a tablespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PlannedArchive {
    /// Oid and former directory of the tablespace; none for the data directory.
    pub(crate) tablespace: Option<(u32, String)>,
    /// Parents before what is in them, the control file last.
    pub(crate) entries: Vec<PlannedEntry>,
}

impl PlannedArchive {
    /// Bytes of all its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.iter().filter_map(|e| e.content.as_ref()).map(FileContent::len).sum()
    }

    fn directory(&mut self, path: impl Into<String>) {
        self.entries.push(PlannedEntry { path: path.into(), content: None });
    }

    fn file(&mut self, path: impl Into<String>, content: FileContent) {
        self.entries.push(PlannedEntry { path: path.into(), content: Some(content) });
    }
}

/// A whole data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BackupPlan {
    /// Tablespaces, ascending by oid, and the data directory behind them.
    pub(crate) archives: Vec<PlannedArchive>,
}

impl BackupPlan {
    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.archives.iter().map(PlannedArchive::bytes).sum()
    }
}

/// The data directory that `view` shows, with what a server needs to start there.
///
/// # Errors
/// What the store says.
pub(crate) fn plan(
    view: &ReadView<'_>,
    version: PgMajor,
    boot: &BootFiles,
    seg: SegSize,
    settings: Vec<(&'static str, Bytes)>,
) -> Result<BackupPlan, Problem> {
    let mut base = PlannedArchive::default();
    directories(version).for_each(|d| base.directory(d));
    base.file(VERSION_FILE_NAME, version_file(version));
    let mut spaces: BTreeMap<u32, PlannedArchive> = BTreeMap::new();
    for (oid, path) in view.tablespace_dirs()? {
        spaces.insert(oid, PlannedArchive { tablespace: Some((oid, path)), entries: Vec::new() });
    }
    let mut placed = Placed { base, spaces };
    databases(view, version, &mut placed)?;
    relations(view, version, &mut placed)?;
    for slru in Slru::ALL {
        for (segno, pages) in view.slru_segments(slru)? {
            placed.base.file(slru.path(segno), FileContent::Segment(slru, segno, pages));
        }
    }
    for path in view.files(version)? {
        if let Some(bytes) = view.file(&path, version)? {
            placed.file(&path, FileContent::of_bytes(bytes));
        }
    }
    for (name, text) in settings {
        placed.base.file(name, FileContent::of_bytes(text));
    }
    wal(boot, seg, &mut placed.base);
    placed.base.file(CONTROL_FILE_NAME, FileContent::of_bytes(boot.control.clone()));
    let mut archives: Vec<PlannedArchive> = placed.spaces.into_values().collect();
    archives.push(placed.base);
    Ok(BackupPlan { archives })
}

/// Archives that are being filled.
struct Placed {
    base: PlannedArchive,
    spaces: BTreeMap<u32, PlannedArchive>,
}

impl Placed {
    /// The archive that a path below the data directory belongs to, and the path in there.
    fn of<'a>(&mut self, path: &'a str) -> (&mut PlannedArchive, &'a str) {
        let inner =
            path.strip_prefix(TABLESPACES_DIR).and_then(|p| p.strip_prefix('/')).and_then(|p| p.split_once('/'));
        if let Some((oid, inner)) = inner
            && let Some(space) = oid.parse().ok().and_then(|oid: u32| self.spaces.get_mut(&oid))
        {
            return (space, inner);
        }
        (&mut self.base, path)
    }

    fn directory(&mut self, path: &str) {
        let (archive, path) = self.of(path);
        archive.directory(path);
    }

    fn file(&mut self, path: &str, content: FileContent) {
        let (archive, path) = self.of(path);
        archive.file(path, content);
    }
}

fn version_file(version: PgMajor) -> FileContent {
    FileContent::of_bytes(format!("{version}\n").into_bytes())
}

fn databases(view: &ReadView<'_>, version: PgMajor, placed: &mut Placed) -> Result<(), Problem> {
    for space in placed.spaces.values_mut() {
        space.directory(format!("PG_{version}_{}", version.catalog_version()));
    }
    for (spc, db, own) in view.database_dirs()? {
        let path = database_path(spc, db, version);
        placed.directory(&path);
        if own {
            placed.file(&format!("{path}/{VERSION_FILE_NAME}"), version_file(version));
        }
    }
    Ok(())
}

fn relations(view: &ReadView<'_>, version: PgMajor, placed: &mut Placed) -> Result<(), Problem> {
    let found = view.relations(None)?;
    let unlogged: BTreeSet<_> = found.iter().filter(|(f, _)| f.fork == Fork::Init).map(|(f, _)| f.rel).collect();
    for (fork, blocks) in found {
        let is_reset = unlogged.contains(&fork.rel);
        match fork.fork {
            Fork::Fsm => continue,
            Fork::Main | Fork::Vm if is_reset => continue,
            Fork::Init => {
                let main = RelFork { fork: Fork::Main, ..fork };
                segments(main, fork, blocks, version, placed);
            }
            Fork::Main | Fork::Vm => {}
        }
        segments(fork, fork, blocks, version, placed);
    }
    Ok(())
}

/// The files of fork `named`, whose blocks are stored as those of `stored`. There is one, even without blocks.
fn segments(named: RelFork, stored: RelFork, blocks: BlockNumber, version: PgMajor, placed: &mut Placed) {
    let mut first = 0;
    loop {
        let here = (blocks - first).min(SEGMENT_BLOCKS);
        let content = FileContent::Blocks { fork: stored, first, blocks: here };
        placed.file(&relation_path(named, first, version), content);
        first += here;
        if first >= blocks {
            return;
        }
    }
}

fn wal(boot: &BootFiles, seg: SegSize, base: &mut PlannedArchive) {
    if let Some((name, text)) = &boot.history {
        base.file(format!("pg_wal/{name}"), FileContent::of_bytes(text.clone().into_bytes()));
    }
    for segment in &boot.segments {
        let content = FileContent::Bytes(segment.bytes.clone().into(), seg.bytes());
        base.file(format!("pg_wal/{}", segment.name), content);
    }
}
