//! The HTTP interface: timelines, status, metrics, health.

pub(crate) mod health;
mod timeline;

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, extract::DefaultBodyLimit};
use proto::api::ErrorBody;
use tokio::net::TcpListener;
use tracing::{error, warn};

use crate::server::Context;

/// The most that a request may carry: one line of JSON and the prehistory, which is less than the largest segment.
const BODY_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// How long open requests get to end at shutdown.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Serves until the server stops.
pub(crate) async fn serve(listener: TcpListener, ctx: Arc<Context>) {
    let stop = ctx.cancel.clone();
    let serving = axum::serve(listener, router(Arc::clone(&ctx))).with_graceful_shutdown(stop.cancelled_owned());
    let overdue = async {
        ctx.cancel.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        ended = serving.into_future() => {
            if let Err(e) = ended {
                error!(error = %e, "the HTTP interface failed");
            }
        }
        () = overdue => warn!("HTTP requests did not end in time and are cut off"),
    }
}

/// The routes.
fn router(ctx: Arc<Context>) -> Router {
    Router::new()
        .route("/v1/tenant/timeline", post(timeline::create).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)))
        .route("/v1/tenant/timeline", get(timeline::list))
        .route("/v1/tenant/{tenant}/timeline/{timeline}", get(timeline::status).delete(timeline::delete))
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
                /readyz?verbose; POST /v1/tenant/timeline; DELETE /v1/tenant/T/timeline/L";
    failure(StatusCode::NOT_FOUND, "there is nothing at this path", Some(hint))
}

/// An error body.
fn failure(status: StatusCode, error: impl Into<String>, hint: Option<&str>) -> Response {
    (status, Json(ErrorBody { error: error.into(), hint: hint.map(str::to_owned) })).into_response()
}
