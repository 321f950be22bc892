//! The files of a stopped cluster that WAL describes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pgformat::control::{CONTROL_FILE_NAME, ControlFile, DbState};
use pgformat::datadir::{FileKind, classify};
use pgformat::rel::{BlockNumber, RelFork};
use pgformat::slru::Slru;
use pgformat::wal::page::header_len;
use pgformat::wal::record::{RM_XLOG, XLOG_CHECKPOINT_SHUTDOWN};
use pgformat::wal::{StreamConfig, WalBuilder};
use pgformat::{Lsn, checkpoint::CHECKPOINT_LEN};

/// Directories below the data directory that hold what is compared.
const DIRECTORIES: [&str; 8] =
    ["global", "base", "pg_tblspc", "pg_xact", "pg_multixact", "pg_commit_ts", "pg_twophase", "pg_logical"];

/// A file of a fork.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalFile {
    /// Path below the data directory.
    pub path: String,
    /// Number of its first block.
    pub first: BlockNumber,
    /// Its length in bytes.
    pub len: u64,
}

/// A stopped cluster.
#[derive(Clone, Debug)]
pub struct Local {
    /// Its data directory.
    pub root: PathBuf,
    /// Its control file.
    pub control: ControlFile,
    /// The bytes of that.
    pub control_bytes: Vec<u8>,
    /// End of the checkpoint that it wrote last: what its files are the state of.
    pub lsn: Lsn,
    /// Files of each fork, ascending.
    pub forks: BTreeMap<RelFork, Vec<LocalFile>>,
    /// Segments of SLRUs.
    pub segments: BTreeMap<(Slru, u32), String>,
    /// Paths of relation maps, prepared transactions, and the progress of replication origins.
    pub files: BTreeSet<String>,
}

impl Local {
    /// Lists the data directory.
    ///
    /// # Errors
    /// When it cannot be read, or the cluster was not shut down cleanly.
    pub fn read(root: &Path) -> Result<Local> {
        let path = root.join(CONTROL_FILE_NAME);
        let control_bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let control = ControlFile::parse(&control_bytes).with_context(|| path.display().to_string())?;
        ensure!(
            control.state == DbState::Shutdown,
            "{} was not shut down cleanly (its state is {:?}): only then its files are complete",
            root.display(),
            control.state
        );
        let at = control.checkpoint;
        let is_record = at.is_aligned8() && at.page_offset() >= header_len(at.page_start(), control.seg_size);
        ensure!(is_record, "{}: no record can begin at {at}, where its checkpoint is said to be", path.display());
        let lsn = end_of_checkpoint(&control);
        let mut local = Local {
            root: root.to_owned(),
            control,
            control_bytes,
            lsn,
            forks: BTreeMap::new(),
            segments: BTreeMap::new(),
            files: BTreeSet::new(),
        };
        for directory in DIRECTORIES {
            local.list(directory)?;
        }
        local.forks.values_mut().for_each(|files| files.sort_by_key(|f| f.first));
        Ok(local)
    }

    fn list(&mut self, directory: &str) -> Result<()> {
        let path = self.root.join(directory);
        let entries = match std::fs::read_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.with_context(|| format!("cannot list {}", path.display()))?,
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", path.display()))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let below = format!("{directory}/{name}");
            // A tablespace is a link.
            let meta = std::fs::metadata(entry.path()).with_context(|| format!("cannot read {below}"))?;
            if meta.is_dir() {
                if self.is_ours(directory, name) {
                    self.list(&below)?;
                }
                continue;
            }
            match classify(&below, None) {
                FileKind::Relation(fork, first) => {
                    self.forks.entry(fork).or_default().push(LocalFile { path: below, first, len: meta.len() });
                }
                FileKind::Slru(slru, segno) => drop(self.segments.insert((slru, segno), below)),
                FileKind::RelMap(..) | FileKind::TwoPhase(_) | FileKind::Origins => drop(self.files.insert(below)),
                _ => {}
            }
        }
        Ok(())
    }

    /// A tablespace can hold a cluster of another major as well, after an upgrade.
    fn is_ours(&self, directory: &str, name: &str) -> bool {
        let in_tablespace = directory.strip_prefix("pg_tblspc/").is_some_and(|spc| !spc.contains('/'));
        let version = self.control.version;
        !in_tablespace || name == format!("PG_{version}_{}", version.catalog_version())
    }
}

/// Where the checkpoint at shutdown ends. Its record has the same length in every major; where pages and segments cut
/// it, the builder knows.
fn end_of_checkpoint(control: &ControlFile) -> Lsn {
    let config =
        StreamConfig { version: control.version, seg_size: control.seg_size, system_id: None, tlis: Vec::new() };
    let mut wal = WalBuilder::new(config, control.checkpoint, None);
    wal.record(RM_XLOG, XLOG_CHECKPOINT_SHUTDOWN, 0, &[0; CHECKPOINT_LEN]).end
}
