//! WAL that somebody could not use: it is read back from the files, and what is wrong with it is told.
//!
//! Asked by proposers whose laggard refused this member's WAL (`CHECK_WAL`), and by streams whose receiver refused it.

use std::sync::Arc;

use pgformat::Lsn;

use super::handle::TimelineHandle;
use super::reader::WalReadError;
use crate::storage::read_back::{WalDamage, damage_within};

/// The most WAL that one question reads back, bytes: four segments, which a disk reads in a second. The end of a longer
/// range is checked, where the damage was met.
pub(super) const CHECK_MAX: u64 = 64 << 20;

impl TimelineHandle {
    /// Reads `[from, to)` back from the files, or its last [`CHECK_MAX`] bytes; what is found stands in the status
    /// until the same place reads back well, or was cut away.
    ///
    /// # Errors
    /// When the files cannot be read, the log was cut meanwhile, or too many ask.
    pub async fn check_wal(&self, from: Lsn, to: Lsn) -> Result<Option<WalDamage>, WalReadError> {
        let shared = self.shared();
        let place = Arc::clone(&shared.doubts.places).try_acquire_owned().map_err(|_| WalReadError::Busy)?;
        let _turn = shared.doubts.turn.lock().await;
        let (view, before) = (shared.view(), shared.positions.borrow().clone());
        let end = before.flush_lsn.ok_or(WalReadError::Empty)?;
        let to = to.min(end);
        let from = from.max(Lsn::new(to.get().saturating_sub(CHECK_MAX)));
        let io = |source| WalReadError::Io { at: from, source };
        let reading = tokio::task::spawn_blocking(move || {
            // Held while it reads, also when nobody waits for it any longer.
            let _place = place;
            damage_within(&view.segments, &view.control, (from, to), end).map_err(std::io::Error::other)
        });
        let found = reading.await.map_err(|e| io(std::io::Error::other(e)))?.map_err(io)?;
        let now = shared.positions.borrow().term;
        if now != before.term {
            // An election may have cut what was read.
            return Err(WalReadError::TermChanged { asked: before.term, here: now });
        }
        let known = shared.doubts.get();
        match &found {
            Some(damage) if known.as_ref().is_none_or(|(known, _)| known != damage) => {
                tracing::error!(ttid = %self.ttid(), %from, %to, "WAL held here is damaged {damage}");
                shared.doubts.set(Some((damage.clone(), from)));
            }
            Some(_) => {}
            // The record may begin before the range.
            None if known.as_ref().is_some_and(|(d, asked)| from <= d.at.max(*asked) && d.at < to) => {
                tracing::info!(ttid = %self.ttid(), %from, %to, "WAL that was damaged reads back well");
                shared.doubts.set(None);
            }
            None => tracing::info!(ttid = %self.ttid(), %from, %to, "WAL that somebody refused reads back well here"),
        }
        Ok(found)
    }

    /// A receiver refused what it was sent of `[from, to)`: it is read back beside everything else.
    pub(crate) fn doubt(&self, from: Lsn, to: Lsn) {
        let handle = self.clone();
        // Nobody waits for it; at the end of the process it ends with the runtime.
        tokio::spawn(async move {
            if let Err(e) = handle.check_wal(from, to).await {
                tracing::warn!(ttid = %handle.ttid(), %from, %to, error = %e, "refused WAL cannot be read back");
            }
        });
    }

    /// What is known to be damaged.
    pub fn damage(&self) -> Option<WalDamage> {
        let end = self.shared().positions.borrow().flush_lsn;
        self.shared().doubts.get().map(|(damage, _)| damage).filter(|d| Some(d.at) < end)
    }
}
