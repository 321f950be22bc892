//! The HTTP interface: status, metrics, health.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use node::{health_router, probe_router};
use proto::api::ShimStatus;

use crate::context::ShimContext;

/// What there is, for whoever asks for something else.
pub(crate) const KNOWN: &str = "/v1/status, /primary, /writable, /metrics, /livez, /readyz?verbose";

/// The routes. Ready means: synchronous commits are known to wait for the quorum.
pub(crate) fn router(ctx: &Arc<ShimContext>) -> Router {
    let (primary, writable) = (Arc::clone(ctx), Arc::clone(ctx));
    let (ready, measured) = (Arc::clone(ctx), Arc::clone(ctx));
    Router::new()
        .route("/v1/status", get(status))
        .with_state(Arc::clone(ctx))
        .merge(probe_router("/primary", move || primary.board.writable()))
        .merge(probe_router("/writable", move || writable.board.writable()))
        .merge(health_router(move || ready.board.readiness(), move || metrics(&measured)))
}

async fn status(State(ctx): State<Arc<ShimContext>>) -> Json<ShimStatus> {
    Json(ctx.board.status(&ctx.config))
}

fn metrics(ctx: &ShimContext) -> Result<String, std::fmt::Error> {
    ctx.metrics.encode(&ctx.board.snapshot(), ctx.broker.is_connected())
}
