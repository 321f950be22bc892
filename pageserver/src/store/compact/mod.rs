//! Compaction: one algorithm that merges layers, makes images where chains are long, and drops what nothing needs.
//!
//! A job reads its layers as one stream by (key, LSN), decides key by key what stays, and writes new layers. They take
//! the place of the old ones in one manifest. Until that counts, nothing is deleted and nothing is visible; readers
//! with an older set keep the old layers. Memory is bounded: a block of every input, one output, and of one key what
//! one point needs.

mod plan;
mod retain;
pub(super) mod swap;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;

use pgformat::page::Page;
use pgformat::slru::SEGMENT_PAGES;
use pgformat::{Lsn, PgMajor};

use super::catalogue::WriteError;
use super::files::{self, FileParts, LayerFile, LayerFileError, LayerPlace};
use super::layer::Through;
use super::manifest::Manifest;
use super::merge::{LayerIter, merge};
use super::redo::materialise_into;
use super::timeline_store::Store;
use super::{History, LayerWriter, Snapshot, StoreError, Version};
use crate::cluster::extent::Extent;
use crate::cluster::key::{Key, KeyKind};
use crate::cluster::value::encode_page;
use plan::{CompactionJob, CompactionRules, plan};
use retain::{ChainLimit, Retain, Surroundings};
use swap::{CompactionReport, Swap};

impl Store {
    /// Does one job; none when there is nothing to do. Repeated after an error, it goes on where it was.
    ///
    /// # Errors
    /// By [`WriteError::kind`]. Nothing is lost and reads go on; ingest is not stopped.
    pub(crate) fn compact_one(&self) -> Result<Option<CompactionReport>, WriteError> {
        self.claim()?;
        let mut swap = self.compaction.turn.take();
        if swap.is_none() {
            *swap = self.compact_planned()?;
        }
        let Some(Swap { inputs, outputs, done }) = &*swap else { return Ok(None) };
        let now = self.shared.clock.now();
        // As long as it is unknown whether this manifest counts, both sides stay, and this is tried again.
        self.edit(
            |manifest| {
                manifest.layers.retain(|l| !inputs.iter().chain(outputs).any(|f| f.entry.name == l.name));
                manifest.layers.extend(outputs.iter().map(|f| f.entry.clone()));
            },
            |files| {
                files.add(outputs);
                files.drop_files(inputs, now);
            },
        )?;
        let gone: Vec<_> = inputs.iter().map(|f| f.layer.clone()).collect();
        self.reader.layers().replace(&gone, outputs.iter().map(|f| f.layer.clone()).collect());
        let done = *done;
        *swap = None;
        Ok(Some(done))
    }

    fn compact_planned(&self) -> Result<Option<Swap>, WriteError> {
        let manifest = self.manifest();
        let rules = CompactionRules { fanout: self.shared.config.fanout, horizon: manifest.horizon };
        let mut layers = manifest.layers.clone();
        self.catalogue.files(|files| files.retain_whole(&mut layers));
        let Some(job) = plan(&layers, rules) else { return Ok(None) };
        let all: Vec<LayerFile> = self.catalogue.files(|files| files.live().cloned().collect());
        let (inputs, others): (Vec<LayerFile>, Vec<LayerFile>) =
            all.into_iter().partition(|f| job.inputs.contains(&f.entry.name));
        if inputs.len() < job.inputs.len() {
            // A flush did not learn yet that its manifest counts.
            return Ok(None);
        }
        let mut run = Run::new(self, &manifest, &others, &job);
        match run.all(&inputs) {
            Ok(()) => {}
            Err(e) => {
                let now = self.shared.clock.now();
                self.catalogue.files(|files| {
                    files.abandon(&run.outputs, now);
                    if let LayerFileError::Store(StoreError::Damaged(damage)) = &e {
                        // Its readers get the error; the others are compacted without it.
                        files.leave_alone(&damage.file);
                    }
                });
                return Err(e.into());
            }
        }
        let bytes = |files: &[LayerFile]| files.iter().map(|f| f.entry.bytes).sum();
        let done = CompactionReport {
            reason: job.reason,
            inputs: inputs.len(),
            outputs: run.outputs.len(),
            bytes_in: bytes(&inputs),
            bytes_out: bytes(&run.outputs),
            images: run.around.images,
        };
        Ok(Some(Swap { inputs, outputs: run.outputs, done }))
    }
}

/// One job while it runs.
struct Run<'a> {
    store: &'a Store,
    points: Vec<Lsn>,
    horizon: Option<Lsn>,
    place: LayerPlace,
    around: Around<'a>,
    writer: Option<LayerWriter<FileParts>>,
    outputs: Vec<LayerFile>,
}

impl<'a> Run<'a> {
    fn new(store: &'a Store, manifest: &Manifest, others: &'a [LayerFile], job: &CompactionJob) -> Run<'a> {
        let points = points(manifest);
        let version = PgMajor::from_version_num(manifest.origin.pg_version_num);
        let extents = Extents { points: points.clone(), last: None };
        let around = Around { snapshot: store.snapshot(), others, version, extents, page: Page::zeroed(), images: 0 };
        let (horizon, place) = (manifest.horizon, LayerPlace::new_run(job.level));
        Run { store, points, horizon, place, around, writer: None, outputs: Vec::new() }
    }

    fn all(&mut self, inputs: &[LayerFile]) -> Result<(), LayerFileError> {
        let config = self.store.shared.config.clone();
        let limit = ChainLimit { versions: config.chain_versions, bytes: config.chain_bytes };
        let points = self.points.clone();
        let iters = inputs.iter().map(|f| LayerIter::File(f.layer.iter(.., Through::Bulk))).collect();
        let mut retain: Option<(Key, Retain<'_>)> = None;
        let mut out = Vec::new();
        for next in merge(iters) {
            let (key, version) = next?;
            if self.store.compaction.stop.load(Ordering::Relaxed) || self.store.is_stopping() {
                return Err(LayerFileError::Stopped);
            }
            if retain.as_ref().is_none_or(|(k, _)| *k != key) {
                if let Some((key, ended)) = retain.take() {
                    ended.finish(&mut self.around, &mut out);
                    self.write(key, &mut out, 0)?;
                    self.cut(config.file_bytes)?;
                }
                retain = Some((key, Retain::new(key, &points, limit)));
            }
            if let Some((_, retain)) = &mut retain {
                retain.push(version, &mut self.around, &mut out);
                self.write(key, &mut out, 1)?;
                // A key with more versions than a file holds is divided by LSN.
                self.cut(config.file_bytes.saturating_mul(2))?;
            }
        }
        if let Some((key, ended)) = retain.take() {
            ended.finish(&mut self.around, &mut out);
            self.write(key, &mut out, 0)?;
        }
        self.cut(0)
    }

    /// Writes all but the last `keep` of the versions that stay.
    fn write(&mut self, key: Key, out: &mut Vec<Version>, keep: usize) -> Result<(), LayerFileError> {
        if out.len() <= keep {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(files::writer(&self.store.shared)?),
        };
        for v in out.drain(..out.len() - keep) {
            writer.push(key, v.lsn, v.kind, &v.value)?;
        }
        Ok(())
    }

    /// Ends the file when it has so many bytes.
    fn cut(&mut self, bytes: u64) -> Result<(), LayerFileError> {
        if let Some(writer) = self.writer.take_if(|w| w.written() >= bytes) {
            let mut file = files::store(&*self.store.blobs, &self.store.shared, writer, self.place)?;
            file.entry.cleaned_to = self.horizon;
            self.outputs.push(file);
        }
        Ok(())
    }
}

/// Positions at or below the horizon that are read, ascending; the last one is the horizon.
fn points(manifest: &Manifest) -> Vec<Lsn> {
    let Some(horizon) = manifest.horizon else { return Vec::new() };
    let mut points: Vec<Lsn> = manifest.leases.iter().map(|l| l.lsn).filter(|lsn| *lsn < horizon).collect();
    points.push(horizon);
    points.sort_unstable();
    points.dedup();
    points
}

/// Since when versions of pages count.
struct Extents {
    points: Vec<Lsn>,
    /// The file that was asked for last, since many pages of one follow each other.
    last: Option<(Key, Lsn, Extent)>,
}

impl Extents {
    /// Since when the versions of a page count for a reader of the version at `lsn`. A size at or below the horizon may
    /// be gone already, but not the one that the next point sees: a page that is read there from this version has
    /// begun before it.
    fn since(&mut self, key: Key, lsn: Lsn, snapshot: &Snapshot) -> Result<Option<Lsn>, StoreError> {
        let (file, page) = match key.tag() {
            Some(tag) => (Key::rel_size(tag.fork), tag.blk),
            None => (Key::numbered(KeyKind::SlruSegment, key.spc, key.blk / SEGMENT_PAGES), key.blk % SEGMENT_PAGES),
        };
        let at = self.points.iter().copied().find(|point| *point >= lsn).unwrap_or(lsn);
        match &self.last {
            Some((last, of, _)) if (*last, *of) == (file, at) => {}
            _ => {
                let stored = snapshot.blob(file, at)?;
                // A size that makes no sense is an error for readers.
                let extent = stored.and_then(|bytes| Extent::decode(&bytes).ok()).unwrap_or_default();
                self.last = Some((file, at, extent));
            }
        }
        Ok(self.last.as_ref().and_then(|(_, _, extent)| extent.since(page)))
    }
}

/// What is around the layers that are merged.
struct Around<'a> {
    snapshot: Snapshot,
    others: &'a [LayerFile],
    version: Option<PgMajor>,
    extents: Extents,
    page: Box<Page>,
    images: u64,
}

impl Surroundings for Around<'_> {
    fn image(&mut self, history: History) -> Option<Vec<u8>> {
        let version = self.version?;
        if !matches!(history.key.kind, KeyKind::Block | KeyKind::SlruPage) {
            return None;
        }
        let since = self.extents.since(history.key, history.lsn, &self.snapshot).ok()?;
        // The key's versions of layers that are not merged can lie between those that are.
        let base = history.versions.first().filter(|v| v.kind.is_base()).map(|v| v.lsn);
        let base = base.filter(|base| since.is_none_or(|since| *base >= since));
        let whole = base.is_some_and(|base| !self.others.iter().any(|f| f.may_have(history.key, base, history.lsn)));
        // A page that cannot be rebuilt is an error for its readers, not for compaction: nothing of it is dropped.
        let history =
            if whole { history } else { self.snapshot.history_since(history.key, history.lsn, since).ok()? };
        materialise_into(&history, version, &mut self.page).ok()?;
        let mut value = Vec::new();
        encode_page(&self.page, &mut value);
        self.images += 1;
        Some(value)
    }

    fn has_older(&self, key: Key, lsn: Lsn) -> bool {
        self.others.iter().any(|f| f.may_have(key, Lsn::new(0), lsn))
    }
}
