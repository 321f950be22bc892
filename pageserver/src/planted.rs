//! Panics that tests plant into the parts of a timeline.

use std::sync::{Mutex, PoisonError};

use proto::id::TenantTimelineId;

/// Tests run beside each other: each has a timeline of its own.
static PLANTED: Mutex<Vec<(TenantTimelineId, &'static str)>> = Mutex::new(Vec::new());

/// From now on this part of this timeline panics where it looks.
pub(crate) fn plant(ttid: TenantTimelineId, part: &'static str) {
    PLANTED.lock().unwrap_or_else(PoisonError::into_inner).push((ttid, part));
}

/// Panics when that was planted.
pub(crate) fn look(ttid: TenantTimelineId, part: &'static str) {
    let planted = PLANTED.lock().unwrap_or_else(PoisonError::into_inner).contains(&(ttid, part));
    assert!(!planted, "planted in the {part}");
}
