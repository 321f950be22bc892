//! From memory to storage: the oldest frozen layer becomes a file that a manifest lists.

use std::sync::Arc;

use super::catalogue::WriteError;
use super::files::{self, LayerFile, LayerFileError, LayerPlace};
use super::manifest::Durable;
use super::open::OpenLayer;
use super::timeline_store::Store;
use super::writer::FrozenLayer;

impl Store {
    /// Writes the oldest frozen layer; false when there is none. Repeated after an error, it goes on where it was.
    ///
    /// # Errors
    /// By [`WriteError::kind`]; [`Store::intake`] says what it means for ingest.
    pub(crate) fn flush_one(&self) -> Result<bool, WriteError> {
        let mut written = self.flusher.take();
        let result = self.catalogue.claim().and_then(|()| self.flush_oldest(&mut written));
        self.update_intake(result.as_ref().err());
        result
    }

    /// Makes everything published so far durable, and returns up to where that is.
    ///
    /// # Errors
    /// As [`Store::flush_one`]; what was not written stays where it is.
    pub(crate) fn flush(&self) -> Result<Durable, WriteError> {
        self.freeze(true);
        while self.flush_one()? {}
        Ok(self.catalogue.durable_now())
    }

    fn flush_oldest(&self, written: &mut Option<LayerFile>) -> Result<bool, WriteError> {
        let Some(FrozenLayer { layer, end, .. }) = self.writer.oldest() else { return Ok(false) };
        if let (Some(layer), None) = (&layer, &written) {
            *written = Some(self.write_layer(layer)?);
        }
        let file = written.as_slice();
        let has_steps = layer.as_ref().is_some_and(|layer| layer.has_steps());
        self.edit(
            |manifest| {
                manifest.has_steps |= has_steps;
                manifest.layers.retain(|l| file.iter().all(|f| f.entry.name != l.name));
                manifest.layers.extend(file.iter().map(|f| f.entry.clone()));
                manifest.disk_consistent_lsn = end.end;
                manifest.last_record_start = end.start;
                if manifest.importing.as_ref().is_some_and(|i| i.end.is_some_and(|copied| end.end >= copied)) {
                    manifest.importing = None;
                }
            },
            |files| files.add(file),
        )?;
        if let Some(layer) = &layer {
            self.reader.layers().flushed(layer, file.iter().map(|f| f.layer.clone()).collect());
        }
        *written = None;
        self.writer.drop_oldest();
        self.compaction.flushed.notify_one();
        Ok(true)
    }

    pub(super) fn write_layer(&self, layer: &Arc<OpenLayer>) -> Result<LayerFile, LayerFileError> {
        let mut writer = files::writer(&self.shared)?;
        layer.visit(|key, lsn, kind, value| writer.push(key, lsn, kind, value))?;
        files::store(&*self.blobs, &self.shared, writer, LayerPlace::new_run(0))
    }
}
