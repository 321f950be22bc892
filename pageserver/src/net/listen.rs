//! Accepts libpq connections until the server stops.

use std::sync::Arc;
use std::time::Duration;

use node::{Places, serve_sessions};
use tokio::net::TcpListener;

use super::session;
use crate::process::Pageserver;

/// How long streams get at shutdown to bring what they hold to disk.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Accepts until the server stops, then waits for the sessions. Places are kept for pushes.
pub(crate) async fn run(listener: TcpListener, node: Arc<Pageserver>) {
    let places = Places::new("pageserver", node.config.node.pg_connections_max);
    let cancel = node.shutdown.clone();
    let serve = |stream, place| session::serve(stream, place, node.clone());
    serve_sessions(listener, places, DRAIN_LIMIT, cancel, serve).await;
}
