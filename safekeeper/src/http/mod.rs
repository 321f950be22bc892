//! The HTTP interface: timelines, status, metrics, health.

mod failure;
mod foreign;
pub(crate) mod health;
mod timeline;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use node::BoundHttp;

use crate::context::SafekeeperContext;
use failure::failure;

/// Serves until the server stops.
pub(crate) async fn serve(bound: BoundHttp, ctx: Arc<SafekeeperContext>) {
    let stop = ctx.cancel.clone();
    bound.serve_as_is(router(ctx), stop).await;
}

/// The routes.
fn router(ctx: Arc<SafekeeperContext>) -> Router {
    Router::new()
        .route("/v1/tenant/timeline", post(timeline::create))
        .route("/v1/tenant/timeline", get(timeline::list))
        .route("/v1/tenant/{tenant}/timeline/{timeline}", get(timeline::status).delete(timeline::delete))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/readmit", post(timeline::readmit))
        .route("/v1/choices", get(health::choices))
        .route("/v1/status", get(health::status))
        .route("/metrics", get(health::metrics))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(nowhere)
        .with_state(ctx)
}

async fn nowhere() -> Response {
    let hint = "GET /v1/status, /v1/choices, /v1/tenant/timeline, /v1/tenant/T/timeline/L, /metrics, /livez, \
                /readyz?verbose; POST /v1/tenant/timeline, /v1/tenant/T/timeline/L/readmit?force=true; DELETE \
                /v1/tenant/T/timeline/L";
    failure(StatusCode::NOT_FOUND, "there is nothing at this path", Some(hint))
}
