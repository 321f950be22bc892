//! Deleting the manifests that were replaced.
//!
//! A sweep runs beside whoever writes the next manifest. What it deletes is below a number that counted when it began:
//! nothing that is written later, by whomever, makes one of those the highest again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blobs::Blobs;

use super::{Clock, ManifestError, list, name};

/// One deletion of old manifests.
pub(crate) struct Sweep {
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) clock: Clock,
    pub(super) grace: Duration,
    /// A number that counts.
    pub(super) number: u64,
    /// Numbers below, and since when they are known to be replaced.
    pub(super) replaced: BTreeMap<u64, Duration>,
}

impl Sweep {
    /// Deletes manifests that were replaced longer than the grace period ago; returns how many.
    ///
    /// # Errors
    /// Those of storage; what is left is tried again by the next sweep.
    pub(crate) fn run(&mut self) -> Result<usize, ManifestError> {
        let numbers = list(&self.blobs, &self.clock, self.grace)?;
        let now = self.clock.now();
        let mut deleted = 0;
        for old in numbers.into_iter().filter(|n| *n < self.number) {
            let since = *self.replaced.entry(old).or_insert(now);
            if now.saturating_sub(since) > self.grace {
                self.blobs.delete(&name(old))?;
                self.replaced.remove(&old);
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}
