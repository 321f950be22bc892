//! What one compaction leaves for the next: files that wait for their manifest, and whether there may be work.

use std::sync::atomic::AtomicBool;

use tokio::sync::Notify;

use super::plan::CompactionReason;
use crate::store::files::LayerFile;
use crate::store::order::{Rank, Turn};

/// What a compaction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CompactionReport {
    /// Why its layers were rewritten.
    pub(crate) reason: CompactionReason,
    /// Number of files that were read.
    pub(crate) inputs: usize,
    /// Number of files that were written.
    pub(crate) outputs: usize,
    /// Length of the files that were read.
    pub(crate) bytes_in: u64,
    /// Length of the files that were written.
    pub(crate) bytes_out: u64,
    /// Number of images that were made.
    pub(crate) images: u64,
}

/// Files that take the place of others, until the manifest that says so is known to count.
pub(in crate::store) struct Swap {
    pub(super) inputs: Vec<LayerFile>,
    pub(in crate::store) outputs: Vec<LayerFile>,
    pub(super) done: CompactionReport,
}

/// The compactions of one timeline.
pub(in crate::store) struct CompactionState {
    /// To merge layers; with what the last one left.
    pub(in crate::store) turn: Turn<Option<Swap>>,
    /// There may be something to compact.
    pub(in crate::store) flushed: Notify,
    /// The running compaction ends at its next version.
    pub(in crate::store) stop: AtomicBool,
}

impl Default for CompactionState {
    fn default() -> CompactionState {
        let turn = Turn::new(Rank::Compaction, None);
        CompactionState { turn, flushed: Notify::new(), stop: AtomicBool::new(false) }
    }
}
