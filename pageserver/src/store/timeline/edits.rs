//! Changes of a timeline's manifest other than its layers: what is kept, and the steps of an import.
//!
//! Compaction honours a horizon and leases already; nothing sets them yet but tests.

use pgformat::Lsn;

use super::{Position, Store, WriteError, lock};
use crate::store::files::File;
#[cfg(test)]
use crate::store::manifest::Lease;
use crate::store::manifest::ManifestError;

impl Store {
    /// No read, branch or backup below `horizon`; it never moves back.
    ///
    /// # Errors
    /// Those of storage.
    #[cfg(test)]
    pub(crate) fn set_horizon(&self, horizon: Lsn) -> Result<(), ManifestError> {
        self.edit(|m| {
            if m.horizon.is_none_or(|h| h < horizon) {
                m.horizon = Some(horizon);
                m.readable_from = m.readable_from.max(horizon);
            }
        })
    }

    /// Keeps the versions at a position, in the place of the lease of that name. False when the position is not
    /// readable any more: compaction may have removed its versions.
    ///
    /// # Errors
    /// Those of storage.
    #[cfg(test)]
    pub(crate) fn put_lease(&self, lease: Lease) -> Result<bool, ManifestError> {
        let mut readable = false;
        self.edit(|m| {
            readable = lease.lsn >= m.readable_from || m.leases.iter().any(|l| l.lsn == lease.lsn);
            if readable {
                m.leases.retain(|l| l.name != lease.name);
                m.leases.push(lease);
            }
        })?;
        Ok(readable)
    }

    /// Ends a lease; none is no error.
    ///
    /// # Errors
    /// Those of storage.
    #[cfg(test)]
    pub(crate) fn drop_lease(&self, name: &str) -> Result<(), ManifestError> {
        self.edit(|m| m.leases.retain(|l| l.name != name))
    }

    /// Remembers the number of the last choice that was published.
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) fn set_choice_seq(&self, choice_seq: u64) -> Result<(), ManifestError> {
        self.edit(|m| m.choice_seq = m.choice_seq.max(choice_seq))
    }

    /// All pages of the cluster are here, durably, and readable once WAL up to `end` is: see [`Importing`].
    ///
    /// [`Importing`]: crate::store::manifest::Importing
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) fn pages_copied(&self, end: Lsn) -> Result<(), WriteError> {
        self.flush()?;
        Ok(self.edit(|m| {
            m.readable_from = m.readable_from.max(end);
            if let Some(importing) = &mut m.importing {
                importing.end = Some(end);
            }
        })?)
    }

    /// Forgets every version, to begin an import anew with pages as of `pages_at`.
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) fn restart_import(&self, pages_at: Lsn) -> Result<(), WriteError> {
        let _no_flush = lock(&self.flushing);
        let mut swap = lock(&self.swap);
        let mut memory = lock(&self.memory);
        self.edit(|m| {
            m.layers.clear();
            m.disk_consistent_lsn = pages_at;
            m.last_record_start = None;
            m.readable_from = pages_at;
            if let Some(importing) = &mut m.importing {
                importing.pages_at = pages_at;
                importing.end = None;
            }
        })?;
        *swap = None;
        memory.published = Position { end: pages_at, start: None };
        memory.frozen.clear();
        self.map.freeze();
        let set = self.map.snapshot();
        set.set().frozen.iter().for_each(|layer| self.map.flushed(layer, vec![]));
        self.map.replace(&set.set().layers, vec![]);
        let mut files = lock(&self.files);
        let all: Vec<File> = files.live().cloned().collect();
        files.drop_files(&all);
        drop(files);
        self.count(&mut memory, 0);
        Ok(())
    }
}
