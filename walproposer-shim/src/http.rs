//! The HTTP interface: status, metrics, health.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use node::{HttpError, health_router, probe_router};
use proto::api::ShimStatus;

use crate::context::ShimContext;

/// Content type of the exposition format.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes. Ready means: synchronous commits are known to wait for the quorum.
pub(crate) fn router(ctx: &Arc<ShimContext>) -> Router {
    let (readiness, primary, writable) = (Arc::clone(ctx), Arc::clone(ctx), Arc::clone(ctx));
    Router::new()
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(ctx))
        .merge(probe_router("/primary", move || primary.board.writable()))
        .merge(probe_router("/writable", move || writable.board.writable()))
        .merge(health_router(move || readiness.board.readiness()))
}

async fn status(State(ctx): State<Arc<ShimContext>>) -> Json<ShimStatus> {
    Json(ctx.board.status(&ctx.config))
}

async fn metrics(State(ctx): State<Arc<ShimContext>>) -> Result<impl IntoResponse, HttpError> {
    let encoded = ctx.metrics.encode(&ctx.board.snapshot(), ctx.broker.is_connected());
    let text = encoded.map_err(|e| HttpError::internal(format!("metrics cannot be written: {e}")))?;
    Ok(([(CONTENT_TYPE, METRICS_TYPE)], text))
}
