//! The layer files of a timeline: writing, opening, and which may be deleted since nothing names them any more.
//!
//! Owner of the map from names to open layers and of the list of files that are to go. A name is never used twice. A
//! file may be deleted when no manifest that counts names it, no reader of this process holds it, and the grace period
//! is over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Weak};
use std::time::Duration;

use blobs::{BlobError, BlobErrorKind, Blobs};
use bytes::Bytes;
use pgformat::Lsn;

use super::config::StoreShared;
use super::error::{Damage, KeyBounds};
use super::manifest::{HexKey, LayerEntry, Manifest};
use super::{LAYERS, Layer, LayerSummary, LayerWriter, StoreError};
use crate::cluster::key::Key;

/// Bytes per part of a file in memory: no part is ever moved to grow.
const PART_BYTES: usize = 1 << 20;

/// Why a layer was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerFileError {
    /// Storage gave an error for the file.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Compaction was told to stop.
    #[error("stopped")]
    Stopped,
    /// The versions are out of order, or none: a bug.
    #[error("a layer cannot be made: {0}")]
    Writer(#[from] io::Error),
    /// What was read from other layers, or read back, is bad.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LayerFileError {
    /// What to do about it.
    pub(crate) fn kind(&self) -> BlobErrorKind {
        match self {
            LayerFileError::Blob(e) => e.kind,
            LayerFileError::Stopped | LayerFileError::Store(StoreError::Io { .. }) => BlobErrorKind::Retryable,
            LayerFileError::Store(_) | LayerFileError::Writer(_) => BlobErrorKind::Terminal,
        }
    }
}

/// A file in memory that is being written.
#[derive(Default)]
pub(crate) struct FileParts {
    full: Vec<Bytes>,
    last: Vec<u8>,
}

impl FileParts {
    fn finish(mut self) -> Vec<Bytes> {
        self.full.push(self.last.into());
        self.full
    }
}

impl Write for FileParts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.last.len() == PART_BYTES {
            self.full.push(std::mem::take(&mut self.last).into());
        }
        let n = bytes.len().min(PART_BYTES - self.last.len());
        self.last.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An open layer file and what the manifest says about it.
#[derive(Clone)]
pub(crate) struct LayerFile {
    /// In the manifest.
    pub(crate) entry: LayerEntry,
    /// The open file, for those who read it.
    pub(crate) layer: Arc<Layer>,
}

impl LayerFile {
    /// Whether a version of `key` with an LSN in `[from, to]` may be in it.
    pub(crate) fn may_have(&self, key: Key, from: Lsn, to: Lsn) -> bool {
        let ([first, last], [oldest, newest]) = (self.entry.keys, self.entry.lsns);
        first.0 <= key && key <= last.0 && oldest <= to && from <= newest
    }
}

impl fmt::Debug for LayerFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.entry.name)
    }
}

/// A file that is to go.
pub(super) struct Garbage {
    layer: Weak<Layer>,
    since: Duration,
}

/// Files of one timeline; a list, which asks storage for nothing once it is there.
#[derive(Default)]
pub(crate) struct LayerFiles {
    /// By name: what the manifest lists.
    live: BTreeMap<String, LayerFile>,
    garbage: BTreeMap<String, Garbage>,
    /// Names of files that are damaged inside.
    damaged: BTreeSet<String>,
}

/// Where a file belongs: see [`LayerEntry`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LayerPlace {
    /// How often its versions were merged.
    pub(crate) level: u32,
    /// Shared by the files that were written together.
    pub(crate) run: u64,
}

impl LayerPlace {
    /// A new run of a level.
    pub(crate) fn new_run(level: u32) -> LayerPlace {
        LayerPlace { level, run: fastrand::u64(..) }
    }
}

/// A writer of a layer.
pub(crate) fn writer(shared: &StoreShared) -> io::Result<LayerWriter<FileParts>> {
    LayerWriter::new(FileParts::default(), shared.config.write)
}

/// Ends a layer, stores it durably under a new name, and opens it.
///
/// # Errors
/// After an error a file may be there that no manifest names; the next opening finds it.
pub(crate) fn store(
    blobs: &dyn Blobs,
    shared: &StoreShared,
    writer: LayerWriter<FileParts>,
    place: LayerPlace,
) -> Result<LayerFile, LayerFileError> {
    let (summary, parts) = writer.finish()?;
    let (first, last) = (summary.first_lsn.get(), summary.last_lsn.get());
    let name = format!("{first:016x}-{last:016x}-{:016x}", fastrand::u64(..));
    let path = format!("{LAYERS}/{name}");
    // A random number that exists already means our own request, repeated after its answer was lost: what is there is
    // compared by the checksum that stands for all of it.
    blobs.create(&path, &parts.finish())?;
    let entry = entry(name, &summary, place);
    let layer = open_entry(blobs, shared, &entry)?;
    Ok(LayerFile { entry, layer })
}

fn entry(name: String, summary: &LayerSummary, place: LayerPlace) -> LayerEntry {
    LayerEntry {
        name,
        bytes: summary.file_bytes,
        keys: [HexKey(summary.keys.first), HexKey(summary.keys.last)],
        lsns: [summary.first_lsn, summary.last_lsn],
        level: place.level,
        run: place.run,
        versions: summary.versions,
        chains: summary.chains,
        checksum: summary.crc,
        cleaned_to: None,
        rest: serde_json::Map::new(),
    }
}

/// Opens a layer that a manifest lists, and checks that it is the one that the manifest means.
fn open_entry(blobs: &dyn Blobs, shared: &StoreShared, wanted: &LayerEntry) -> Result<Arc<Layer>, LayerFileError> {
    let layer = Layer::open(blobs.open(&format!("{LAYERS}/{}", wanted.name))?, &shared.cache)?;
    let s = layer.summary();
    if (s.crc, s.file_bytes) != (wanted.checksum, wanted.bytes) {
        let what = "is not the file that the manifest lists (length or checksum differ)";
        let damage = Damage { file: layer.name().to_owned(), offset: 0, keys: None, what };
        return Err(StoreError::Damaged(damage).into());
    }
    Ok(layer)
}

/// A layer that is lost or damaged leaves the rest readable; other errors may go away.
fn damaged(shared: &StoreShared, entry: &LayerEntry, error: LayerFileError) -> Result<Arc<Layer>, LayerFileError> {
    let keys = KeyBounds { first: entry.keys[0].0, last: entry.keys[1].0 };
    let file = format!("{LAYERS}/{}", entry.name);
    let damage = match error {
        LayerFileError::Store(StoreError::Damaged(damage)) => {
            Damage { keys: Some(damage.keys.unwrap_or(keys)), ..damage }
        }
        LayerFileError::Blob(e) if e.kind == BlobErrorKind::NotFound => {
            Damage { file, offset: 0, keys: Some(keys), what: "the file is lost" }
        }
        other => return Err(other),
    };
    tracing::error!("{damage}");
    let summary = LayerSummary {
        keys,
        first_lsn: entry.lsns[0],
        last_lsn: entry.lsns[1],
        versions: entry.versions,
        chains: entry.chains,
        value_bytes: 0,
        file_bytes: entry.bytes,
        crc: entry.checksum,
    };
    Ok(Layer::damaged(damage, summary, &shared.cache))
}

impl LayerFiles {
    /// Opens every layer of a manifest.
    ///
    /// # Errors
    /// Those of storage. Of a layer that is lost or damaged the rest is opened all the same.
    pub(crate) fn open(
        blobs: &dyn Blobs,
        shared: &StoreShared,
        manifest: &Manifest,
    ) -> Result<LayerFiles, LayerFileError> {
        let mut files = LayerFiles::default();
        for entry in &manifest.layers {
            let layer = open_entry(blobs, shared, entry).or_else(|e| damaged(shared, entry, e))?;
            files.live.insert(entry.name.clone(), LayerFile { entry: entry.clone(), layer });
        }
        Ok(files)
    }

    /// Of the names that storage has, takes note of those that the manifest does not list.
    pub(crate) fn note_strays<'a>(&mut self, names: impl Iterator<Item = &'a str>, since: Duration) {
        for name in names {
            if !self.live.contains_key(name) {
                self.garbage.entry(name.to_owned()).or_insert(Garbage { layer: Weak::new(), since });
            }
        }
    }

    /// Every file that the manifest lists.
    pub(crate) fn live(&self) -> impl Iterator<Item = &LayerFile> {
        self.live.values()
    }

    /// Keeps those of the layers that can be merged: not known to be damaged.
    pub(crate) fn retain_whole(&self, layers: &mut Vec<LayerEntry>) {
        let opened = |name: &str| self.live.get(name).is_none_or(|f| f.layer.damage().is_none());
        layers.retain(|l| !self.damaged.contains(&l.name) && opened(&l.name));
    }

    /// Takes note that the file of this path is damaged.
    pub(crate) fn leave_alone(&mut self, path: &str) {
        self.damaged.extend(self.live.keys().find(|name| path.ends_with(*name)).cloned());
    }

    /// After a manifest counts that lists these.
    pub(crate) fn add(&mut self, files: &[LayerFile]) {
        for file in files {
            self.live.insert(file.entry.name.clone(), file.clone());
        }
    }

    /// After a manifest counts that does not list these any more.
    pub(crate) fn drop_files(&mut self, files: &[LayerFile], since: Duration) {
        for file in files {
            if let Some(gone) = self.live.remove(&file.entry.name) {
                self.garbage.insert(gone.entry.name, Garbage { layer: Arc::downgrade(&gone.layer), since });
            }
        }
    }

    /// Files that were written and that no manifest will ever list.
    pub(crate) fn abandon(&mut self, files: &[LayerFile], since: Duration) {
        for file in files {
            self.garbage.insert(file.entry.name.clone(), Garbage { layer: Arc::downgrade(&file.layer), since });
        }
    }

    /// Takes off the list what may be deleted at `now`: the caller deletes it.
    pub(super) fn take_due(&mut self, now: Duration, grace: Duration) -> BTreeMap<String, Garbage> {
        let due = |g: &Garbage| now.saturating_sub(g.since) > grace && g.layer.strong_count() == 0;
        let (due, stays) = std::mem::take(&mut self.garbage).into_iter().partition(|(_, garbage)| due(garbage));
        self.garbage = stays;
        let listed = |due: &BTreeMap<String, Garbage>| due.keys().any(|name| self.live.contains_key(name));
        assert!(!listed(&due), "a name is never used twice");
        due
    }

    /// Puts back what could not be deleted.
    pub(super) fn put_back(&mut self, due: BTreeMap<String, Garbage>) {
        self.garbage.extend(due);
    }
}
