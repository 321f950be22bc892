//! Follows a prefix: first everything that is there, then every change; after compaction, a broker restart or an emptied
//! broker, everything again.

use super::{Broker, Entry};

/// What happened below a watched prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchEvent {
    /// All that is there now: what is not in it is gone. Comes first, and again after every gap.
    Snapshot(Vec<Entry>),
    /// A key was put.
    Put(Entry),
    /// A key is gone (deleted, or its lease ended).
    Delete(String),
    /// The broker went away; what was seen last still stands. A snapshot follows when it is back.
    Away,
}

/// A running watch. Retries for ever with back-off; dropping it ends it.
pub struct Watch {}

impl Watch {
    /// Starts to follow `prefix` (must end in a slash).
    pub fn start(broker: Broker, prefix: String) -> Watch {
        let _ = (broker, prefix);
        Watch {}
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> WatchEvent {
        todo!()
    }
}
