//! The visibility map: changes that heap records imply without naming the map's page.

use super::{Change, RedoError};
use crate::page::Page;
use crate::rel::Fork;

/// Whether the change is to a block of a visibility map.
pub fn is_map_block(change: &Change<'_>) -> bool {
    change.fork == Fork::Vm
}

/// Applies one of our own changes.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(_page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    Err(change.unknown())
}
