//! What an offline timeline shows where it is, as a pageserver does.

use bytes::Bytes;
use pgformat::control::ControlFile;
use pgformat::rel::{BlockNumber, BlockTag, RelFork};
use pgformat::slru::Slru;
use proto::api::ControlDifference;

use super::{Cause, Offline, OfflineError};
use crate::cluster::compare;
use crate::cluster::state::ClusterState;
use crate::read::store::StoredVersions;
use crate::read::{Io, Problem, ReadView};
use crate::store::state::StateAt;

impl Offline {
    /// Every fork with its blocks.
    ///
    /// # Errors
    /// A damaged file.
    pub fn relations(&self) -> Result<Vec<(RelFork, BlockNumber)>, OfflineError> {
        self.see(|view| view.relations(None))
    }

    /// Databases whose visibility maps were logged without their bits.
    ///
    /// # Errors
    /// A damaged file.
    pub fn logged_databases(&self) -> Result<Vec<u32>, OfflineError> {
        self.see(|view| view.logged_databases())
    }

    /// Paths of relation maps, prepared transactions and the origins' progress, below the data directory.
    ///
    /// # Errors
    /// A damaged file.
    pub fn files(&self) -> Result<Vec<String>, OfflineError> {
        self.see(|view| view.files(self.version))
    }

    /// What is in one of them; none when there is no such file.
    ///
    /// # Errors
    /// A damaged file.
    pub fn file(&self, path: &str) -> Result<Option<Vec<u8>>, OfflineError> {
        self.see(|view| view.file(path, self.version))
    }

    /// A page, its checksum zero.
    ///
    /// # Errors
    /// Why there is none.
    pub fn page(&self, tag: BlockTag) -> Result<Bytes, OfflineError> {
        self.see(|view| view.page(tag)).map(|page| Bytes::copy_from_slice(&page.0))
    }

    /// Numbers of an SLRU's segments.
    ///
    /// # Errors
    /// A damaged file.
    pub fn slru_segments(&self, slru: Slru) -> Result<Vec<u32>, OfflineError> {
        Ok(self.see(|view| view.slru_segments(slru))?.into_iter().map(|(segno, _)| segno).collect())
    }

    /// All pages of a segment, one behind the other.
    ///
    /// # Errors
    /// Why there is none.
    pub fn slru_segment(&self, slru: Slru, segno: u32) -> Result<Bytes, OfflineError> {
        self.see(|view| view.slru_segment(slru, segno)).map(Bytes::from)
    }

    /// What of a control file differs from what is known.
    ///
    /// # Errors
    /// A file that is none, a damaged state.
    pub fn compare_control(&self, file: &[u8]) -> Result<Vec<ControlDifference>, OfflineError> {
        let file = ControlFile::parse(file).map_err(Cause::from)?;
        let snapshot = self.store.snapshot();
        let look = StateAt { snapshot: &snapshot, lsn: self.position(), version: self.version };
        let state = ClusterState::load(&look, &look, look.lsn).map_err(|e| Cause::Engine(e.into()))?;
        let one = |d: compare::StateDifference| ControlDifference { what: d.what, ours: d.ours, theirs: d.theirs };
        Ok(compare::control(&state, &file).into_iter().map(one).collect())
    }

    fn see<T>(&self, look: impl FnOnce(ReadView<'_>) -> Result<T, Problem>) -> Result<T, OfflineError> {
        let (versions, lsn) =
            (StoredVersions::new(self.store.snapshot(), self.version, self.store.pages()), self.position());
        Ok(look(ReadView { versions: &versions, lsn, latest: lsn, io: Io::Files }).map_err(Cause::from)?)
    }
}
