//! What all routes answer with: errors that say what to do next, and the timeline of a path.

use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use proto::api::ErrorBody;
use proto::id::TenantTimelineId;

use crate::process::Pageserver;
use crate::timeline::Timeline;

/// An error with what to do next.
pub(super) fn fail(status: StatusCode, error: impl Into<String>, hint: Option<&str>) -> Response {
    (status, Json(ErrorBody { error: error.into(), hint: hint.map(str::to_owned) })).into_response()
}

/// The timeline that a path names.
pub(super) fn parse_ids((tenant, timeline): (String, String)) -> Result<TenantTimelineId, Box<Response>> {
    let bad = |e: proto::id::ParseIdError| Box::new(fail(StatusCode::BAD_REQUEST, e.to_string(), None));
    Ok(TenantTimelineId::new(tenant.parse().map_err(bad)?, timeline.parse().map_err(bad)?))
}

/// The timeline that a path names, if it is listed.
pub(super) fn find(pageserver: &Pageserver, ids: (String, String)) -> Result<Arc<Timeline>, Box<Response>> {
    let ttid = parse_ids(ids)?;
    pageserver.timeline(ttid).ok_or_else(|| {
        let hint = "Attach it with POST /v1/tenant/T/timeline/L/attach.";
        Box::new(fail(StatusCode::NOT_FOUND, format!("timeline {ttid} does not exist"), Some(hint)))
    })
}
