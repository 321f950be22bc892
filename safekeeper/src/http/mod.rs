//! The HTTP interface: timelines, status, metrics, health.

mod failure;
mod foreign;
pub(crate) mod health;
mod timeline;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use node::health_router;

use crate::context::SafekeeperContext;

/// What there is, for whoever asks for something else.
pub(crate) const KNOWN: &str = "GET /v1/status, /v1/choices, /v1/tenant/timeline, /v1/tenant/T/timeline/L, /metrics, \
                                /livez, /readyz?verbose; POST /v1/tenant/timeline, \
                                /v1/tenant/T/timeline/L/readmit?force=true; DELETE /v1/tenant/T/timeline/L";

/// What is answered at which path.
pub(crate) fn router(ctx: &Arc<SafekeeperContext>) -> Router {
    let (ready, measured) = (Arc::clone(ctx), Arc::clone(ctx));
    Router::new()
        .route("/v1/tenant/timeline", post(timeline::create))
        .route("/v1/tenant/timeline", get(timeline::list))
        .route("/v1/tenant/{tenant}/timeline/{timeline}", get(timeline::status).delete(timeline::delete))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/readmit", post(timeline::readmit))
        .route("/v1/choices", get(health::choices))
        .route("/v1/status", get(health::status))
        .with_state(Arc::clone(ctx))
        .merge(health_router(move || health::readiness(&ready), move || health::metrics(&measured)))
}
