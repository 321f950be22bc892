//! Changes of a timeline's manifest by others than flush and compaction: the last choice, and the steps of an import.

use pgformat::Lsn;

use super::catalogue::WriteError;
use super::files::LayerFile;
use super::manifest::ManifestError;
use super::timeline_store::Store;
use super::writer::Position;

impl Store {
    /// Remembers the number of the last choice that was published.
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) fn set_choice_seq(&self, choice_seq: u64) -> Result<(), ManifestError> {
        self.edit(|m| m.choice_seq = m.choice_seq.max(choice_seq), |_| {})
    }

    /// All pages of the cluster are here, durably, and readable once WAL up to `end` is: see [`Importing`].
    ///
    /// [`Importing`]: crate::store::manifest::Importing
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) fn pages_copied(&self, end: Lsn) -> Result<(), WriteError> {
        self.flush()?;
        let copied = self.edit(
            |m| {
                m.readable_from = m.readable_from.max(end);
                if let Some(importing) = &mut m.importing {
                    importing.end = Some(end);
                }
            },
            |_| {},
        );
        Ok(copied?)
    }

    /// Forgets every version, to begin an import anew with pages as of `pages_at`.
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) fn restart_import(&self, pages_at: Lsn) -> Result<(), WriteError> {
        // Nothing is written or merged meanwhile, and what was is forgotten.
        let mut written = self.flusher.take();
        let mut swap = self.compaction.turn.take();
        let outputs = swap.iter().flat_map(|swap| &swap.outputs);
        let unlisted: Vec<LayerFile> = written.iter().chain(outputs).cloned().collect();
        let now = self.shared.clock.now();
        self.edit(
            |m| {
                m.layers.clear();
                m.disk_consistent_lsn = pages_at;
                m.last_record_start = None;
                m.readable_from = pages_at;
                if let Some(importing) = &mut m.importing {
                    importing.pages_at = pages_at;
                    importing.end = None;
                }
            },
            |files| {
                let all: Vec<LayerFile> = files.live().cloned().collect();
                files.drop_files(&all, now);
                files.abandon(&unlisted, now);
            },
        )?;
        *written = None;
        *swap = None;
        self.writer.restart(Position { end: pages_at, start: None });
        let set = self.snapshot();
        self.reader.layers().replace(&set.set().layers, vec![]);
        Ok(())
    }
}
