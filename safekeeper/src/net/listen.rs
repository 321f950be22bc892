//! Accepts libpq connections until the server stops.

use std::sync::Arc;
use std::time::Duration;

use node::{Places, serve_sessions};
use tokio::net::TcpListener;

use super::session;
use crate::context::SafekeeperContext;

/// How long open sessions get to end by themselves at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts until the server stops, then waits for the sessions. Places are kept for proposers.
pub(crate) async fn run(listener: TcpListener, ctx: Arc<SafekeeperContext>) {
    let places = Places::new("safekeeper", ctx.config.node.pg_connections_max);
    let cancel = ctx.cancel.clone();
    let serve = |stream, place| session::serve(stream, place, Arc::clone(&ctx));
    serve_sessions(listener, places, DRAIN_TIMEOUT, cancel, serve).await;
}
