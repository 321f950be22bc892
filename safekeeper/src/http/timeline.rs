//! Timelines over HTTP: create, list, status, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::{Buf, Bytes};
use proto::api::{CreateTimelineRequest, SafekeeperTimelineStatus};
use proto::id::TenantTimelineId;
use serde::Deserialize;
use tracing::{info, warn};

use super::failure;
use crate::server::Context;
use crate::timeline::{CreateError, Creation, DeleteError};

/// The JSON line is a few KiB even with a long history; what is longer is no such line.
const LINE_BYTES_MAX: usize = 1 << 20;

/// `POST /v1/tenant/timeline`: one line of JSON, a line feed, the prehistory.
pub(super) async fn create(State(ctx): State<Arc<Context>>, body: Bytes) -> Response {
    let (request, prehistory) = match read_body(body) {
        Ok(parts) => parts,
        Err(problem) => return failure(StatusCode::BAD_REQUEST, problem, None),
    };
    let ttid = TenantTimelineId::new(request.tenant_id, request.timeline_id);
    // A client that goes away in the middle must not leave the work half done.
    let timelines = ctx.timelines.clone();
    let working = tokio::spawn(async move { timelines.create(request, prehistory).await });
    match working.await {
        Ok(outcome) => answer(&ctx, ttid, outcome),
        Err(e) => failure(StatusCode::INTERNAL_SERVER_ERROR, format!("creating timeline {ttid}: {e}"), None),
    }
}

fn answer(ctx: &Context, ttid: TenantTimelineId, outcome: Result<Creation, CreateError>) -> Response {
    let status = match outcome {
        Ok(Creation::Created) => {
            info!(%ttid, "timeline created");
            StatusCode::CREATED
        }
        Ok(Creation::Unchanged) => StatusCode::OK,
        Err(e @ CreateError::Conflict { .. }) => {
            let hint = "The timeline stays as it is. Compare with GET /v1/tenant/T/timeline/L.";
            return failure(StatusCode::CONFLICT, e.to_string(), Some(hint));
        }
        Err(e @ CreateError::Invalid(_)) => return failure(StatusCode::BAD_REQUEST, e.to_string(), None),
        Err(e @ CreateError::Io { .. }) => {
            warn!(%ttid, error = %e, "a timeline could not be created");
            let hint = "Nothing was kept of it. See to the disk, then try again.";
            return failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), Some(hint));
        }
    };
    match ctx.timelines.get(ttid) {
        Some(handle) => (status, Json(ctx.timeline_status(&handle))).into_response(),
        None => failure(StatusCode::INTERNAL_SERVER_ERROR, format!("timeline {ttid} is gone again"), None),
    }
}

fn read_body(mut body: Bytes) -> Result<(CreateTimelineRequest, Bytes), String> {
    let end = body.iter().take(LINE_BYTES_MAX).position(|b| *b == b'\n');
    // Without a prehistory the line feed may be left out.
    let line = match end {
        Some(end) => {
            let line = body.split_to(end);
            body.advance(1);
            line
        }
        None if body.len() < LINE_BYTES_MAX => std::mem::take(&mut body),
        None => return Err(format!("no line feed in the first {LINE_BYTES_MAX} bytes: expected a line of JSON")),
    };
    let request: CreateTimelineRequest =
        serde_json::from_slice(&line).map_err(|e| format!("the first line of the body: {e}"))?;
    if body.len() as u64 != request.prehistory_len {
        let (said, came) = (request.prehistory_len, body.len());
        return Err(format!("prehistory_len says {said} bytes, {came} follow the first line"));
    }
    let wanted = request.start_lsn.segment_offset(request.wal_seg_size);
    if ![0, wanted].contains(&request.prehistory_len) {
        let (said, start) = (request.prehistory_len, request.start_lsn);
        return Err(format!(
            "prehistory_len is {said}: the segment of start_lsn {start} needs {wanted} bytes, or none"
        ));
    }
    Ok((request, body))
}

/// `GET /v1/tenant/timeline`.
pub(super) async fn list(State(ctx): State<Arc<Context>>) -> Json<Vec<SafekeeperTimelineStatus>> {
    Json(ctx.timelines.list().iter().map(|handle| ctx.timeline_status(handle)).collect())
}

fn parse_ids((t, l): (String, String)) -> Result<TenantTimelineId, Box<Response>> {
    match (t.parse(), l.parse()) {
        (Ok(t), Ok(l)) => Ok(TenantTimelineId::new(t, l)),
        (Err(e), _) | (_, Err(e)) => Err(Box::new(failure(StatusCode::BAD_REQUEST, e.to_string(), None))),
    }
}

/// How a deletion is meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuery {
    /// Also while a proposer leads it.
    #[serde(default)]
    force: bool,
}

/// `DELETE /v1/tenant/T/timeline/L[?force=true]`: 200 when it is gone, 404 when there was none, 409 while it is
/// written.
pub(super) async fn delete(
    State(ctx): State<Arc<Context>>,
    Path(ids): Path<(String, String)>,
    Query(query): Query<DeleteQuery>,
) -> Response {
    let ttid = match parse_ids(ids) {
        Ok(ttid) => ttid,
        Err(response) => return *response,
    };
    match ctx.timelines.delete(ttid, query.force).await {
        Ok(true) => Json(serde_json::json!({ "deleted": ttid.to_string() })).into_response(),
        Ok(false) => failure(StatusCode::NOT_FOUND, format!("timeline {ttid} does not exist"), None),
        Err(e @ DeleteError::Busy(_)) => {
            let hint = "Stop its shim first; force=true deletes it all the same.";
            failure(StatusCode::CONFLICT, e.to_string(), Some(hint))
        }
        Err(e) => {
            warn!(%ttid, error = %e, "a timeline could not be deleted");
            failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), Some("See to the disk, then try again."))
        }
    }
}

/// `GET /v1/tenant/T/timeline/L`.
pub(super) async fn status(State(ctx): State<Arc<Context>>, Path(ids): Path<(String, String)>) -> Response {
    let ttid = match parse_ids(ids) {
        Ok(ttid) => ttid,
        Err(response) => return *response,
    };
    match ctx.timelines.get(ttid) {
        Some(handle) => Json(ctx.timeline_status(&handle)).into_response(),
        None => {
            let hint = "Create it on every member with 'walfabric timeline create'.";
            failure(StatusCode::NOT_FOUND, format!("timeline {ttid} does not exist"), Some(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(prehistory_len: u64, line_feed: &str, prehistory: &[u8]) -> Bytes {
        let line = format!(
            r#"{{"tenant_id":"{0}","timeline_id":"{0}","mconf":{{"generation":1,"members":[],"new_members":[]}},
            "pg_version_num":150004,"system_id":7,"wal_seg_size":1048576,"start_lsn":"0/100008","source":"vanilla",
            "primary_epoch":1,"pg_history":[{{"tli":1,"start_lsn":"0/0"}}],"prehistory_len":{prehistory_len}}}"#,
            "0123456789abcdef0123456789abcdef",
        );
        let mut bytes = line.replace('\n', " ").into_bytes();
        bytes.extend_from_slice(line_feed.as_bytes());
        bytes.extend_from_slice(prehistory);
        Bytes::from(bytes)
    }

    #[test]
    fn the_body_is_a_line_and_the_prehistory() {
        let (request, prehistory) = read_body(body(8, "\n", b"12345\n78")).expect("both parts");
        assert_eq!((request.pg_version_num, &prehistory[..]), (150_004, &b"12345\n78"[..]));
        assert!(read_body(body(0, "", b"")).is_ok(), "no prehistory, no line feed");
    }

    #[test]
    fn bodies_that_contradict_themselves_are_refused() {
        for (bad, problem) in [
            (body(8, "\n", b"1234567"), "7 follow"),
            (body(4, "\n", b"1234"), "needs 8 bytes"),
            (Bytes::from_static(b"{}\n"), "first line"),
            (Bytes::from_static(b"garbage"), "first line"),
            (Bytes::from(vec![b'x'; LINE_BYTES_MAX]), "no line feed"),
        ] {
            let e = read_body(bad).expect_err(problem);
            assert!(e.contains(problem), "{e}");
        }
    }
}
