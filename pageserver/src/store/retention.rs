//! Which old versions a timeline keeps: everything from the horizon on, and below it what leases name.
//!
//! Compaction removes the rest, some time later. Nothing here waits for it, and nothing brings back what it removed.

use pgformat::Lsn;

use super::manifest::{ManifestError, VersionLease};
use super::timeline_store::Store;

impl Store {
    /// No read, branch or backup below `horizon`; it never moves back. False, and nothing changes, when the timeline
    /// has not come as far: what is to come could not be read.
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) fn set_horizon(&self, horizon: Lsn) -> Result<bool, ManifestError> {
        if horizon > self.published().end {
            return Ok(false);
        }
        self.edit(
            |m| {
                if m.horizon.is_none_or(|h| h < horizon) {
                    m.horizon = Some(horizon);
                    m.readable_from = m.readable_from.max(horizon);
                }
            },
            |_| {},
        )?;
        Ok(true)
    }

    /// Keeps the versions at a position, in the place of the lease of that name. False when the position is not
    /// readable any more: compaction may have removed its versions.
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) fn put_lease(&self, lease: VersionLease) -> Result<bool, ManifestError> {
        let mut is_readable = false;
        self.edit(
            |m| {
                is_readable = lease.lsn >= m.readable_from || m.leases.iter().any(|l| l.lsn == lease.lsn);
                if is_readable {
                    m.leases.retain(|l| l.name != lease.name);
                    m.leases.push(lease);
                }
            },
            |_| {},
        )?;
        Ok(is_readable)
    }

    /// Ends a lease; none is no error.
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) fn drop_lease(&self, name: &str) -> Result<(), ManifestError> {
        self.edit(|m| m.leases.retain(|l| l.name != name), |_| {})
    }
}
