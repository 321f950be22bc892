//! All timelines of this safekeeper. Owner of the map; each timeline's state is its driver's.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use proto::api::CreateTimelineRequest;
use proto::consensus::ProposerGreeting;
use proto::id::{NodeId, TenantTimelineId};
use tokio::sync::watch;

use super::handle::TimelineHandle;
use crate::storage::disk::Disk;

/// Settings of the registry and of every timeline.
#[derive(Clone, Debug)]
pub struct TimelinesConfig {
    /// Data directory, locked by the caller.
    pub dir: PathBuf,
    /// This safekeeper.
    pub node_id: NodeId,
    /// Whether a foreign walproposer's greeting may create a timeline.
    pub allow_implicit: bool,
}

/// Outcome of a creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Creation {
    /// It is new and durable.
    Created,
    /// It was there with equal parameters.
    Unchanged,
}

/// Why a timeline is not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// It exists with other parameters.
    #[error("timeline {ttid} exists with another {field}: {here} here, {asked} asked for")]
    Conflict {
        /// Which.
        ttid: TenantTimelineId,
        /// What differs.
        field: &'static str,
        /// Held here.
        here: String,
        /// Asked for.
        asked: String,
    },
    /// The request contradicts itself, or this node.
    #[error("{0}")]
    Invalid(String),
    /// The disk.
    #[error("creating timeline {ttid}: {source}")]
    Io {
        /// Which.
        ttid: TenantTimelineId,
        /// What the disk said.
        source: std::io::Error,
    },
}

/// Why the timelines cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Data is damaged: exit code 5.
    #[error("timeline {ttid} is damaged: {problem}")]
    Corrupt {
        /// Which.
        ttid: TenantTimelineId,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The disk.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
}

/// The registry. Clones share it.
#[derive(Clone, Debug)]
pub struct Timelines {}

impl Timelines {
    /// Loads every timeline below `config.dir` and starts its driver. Blocks on the disk; needs a tokio runtime around it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn open(disk: Arc<dyn Disk>, config: TimelinesConfig) -> Result<Timelines, RegistryError> {
        let _ = (disk, config);
        todo!()
    }

    /// Creates a timeline: either wholly and durably, or not at all.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub async fn create(&self, request: CreateTimelineRequest, prehistory: Bytes) -> Result<Creation, CreateError> {
        let _ = (request, prehistory);
        todo!()
    }

    /// The timeline that a foreign walproposer's greeting names, created when allowed and not there; `None` when it is not
    /// there and must not be created.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub async fn for_greeting(&self, greeting: &ProposerGreeting) -> Result<Option<TimelineHandle>, CreateError> {
        let _ = greeting;
        todo!()
    }

    /// A timeline, when it exists.
    pub fn get(&self, ttid: TenantTimelineId) -> Option<TimelineHandle> {
        let _ = ttid;
        todo!()
    }

    /// All timelines, ordered by id.
    pub fn list(&self) -> Vec<TimelineHandle> {
        todo!()
    }

    /// Counts creations: wakes who follows the list.
    pub fn changes(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// Stops every driver after what was received is durable and the commit position is persisted.
    pub async fn shutdown(&self) {
        todo!()
    }
}
