//! The body of every answer that is an error.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use proto::api::ErrorBody;

/// An answer that says what is wrong and, where there is something to do about it, what.
pub(super) fn failure(status: StatusCode, error: impl Into<String>, hint: Option<&str>) -> Response {
    (status, Json(ErrorBody { error: error.into(), hint: hint.map(str::to_owned) })).into_response()
}
