//! What the parts of the process share: sessions, HTTP, pushes and the tasks that speak to the broker.
//!
//! Owner: the server, which makes it once and starts the parts with it. It knows none of them.

use std::sync::Arc;
use std::time::Instant;

use broker::{Broker, Session};
use node::RepeatLogs;
use proto::api::SafekeeperTimelineStatus;
use proto::broker::records::{NodeRecord, SCHEMA};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::SafekeeperSettings;
use crate::metrics::SafekeeperMetrics;
use crate::net::streams::OutgoingStreams;
use crate::push::board::PushBoard;
use crate::timeline::{TimelineHandle, Timelines};

/// The version of this build, as Cargo's manifest names it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What every part of the process may use.
pub(crate) struct SafekeeperContext {
    pub(crate) config: SafekeeperSettings,
    pub(crate) timelines: Timelines,
    pub(crate) metrics: SafekeeperMetrics,
    pub(crate) broker: Broker,
    pub(crate) session: Session,
    pub(crate) pushes: PushBoard,
    pub(crate) streams: Arc<OutgoingStreams>,
    /// Refused commands, in the log, by SQLSTATE.
    pub(crate) refusals: RepeatLogs,
    /// One timeline that brings a prehistory is created at a time: the memory that it takes is that of one segment.
    pub(crate) creations: Semaphore,
    pub(crate) started: Instant,
    pub(crate) advertise_pg: String,
    pub(crate) advertise_http: String,
    /// Cancelled when the server stops.
    pub(crate) cancel: CancellationToken,
}

impl SafekeeperContext {
    /// Everything about a timeline, for HTTP and SHOW TIMELINE.
    pub(crate) fn timeline_status(&self, handle: &TimelineHandle) -> SafekeeperTimelineStatus {
        SafekeeperTimelineStatus { pushes: self.streams.pushes_of(handle.ttid()), ..handle.status() }
    }

    /// This node, as published.
    pub(crate) fn node_record(&self) -> NodeRecord {
        NodeRecord {
            schema: SCHEMA,
            id: self.config.node.id,
            pg: self.advertise_pg.clone(),
            http: self.advertise_http.clone(),
            availability_zone: self.config.node.availability_zone.clone(),
            version: VERSION.to_owned(),
        }
    }
}
