//! Timelines over HTTP: create, list, status, delete.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use proto::api::{CreateTimelineRequest, SafekeeperTimelineStatus};
use proto::id::TenantTimelineId;
use serde::Deserialize;
use tracing::{info, warn};

use super::failure::failure;
use super::foreign;
use crate::context::SafekeeperContext;
use crate::timeline::{CreateError, Creation, DeleteError};

/// The JSON line is a few KiB even with a long history; what is longer is no such line.
const LINE_BYTES_MAX: usize = 1 << 20;

/// How long a creation waits for the one before it.
const TURN_MAX: Duration = Duration::from_secs(10);

/// `POST /v1/tenant/timeline`: one line of JSON, a line feed, the prehistory; or the existing control plane's body.
///
/// The line is checked before more is taken in, and one body is taken in at a time: memory grows with the bytes that
/// came, to one segment at most, whatever strangers send.
pub(super) async fn create(State(ctx): State<Arc<SafekeeperContext>>, body: Body) -> Response {
    let mut frames = body.into_data_stream();
    let (request, begun) = match head(&mut frames).await {
        Ok(parts) => parts,
        Err(problem) => return failure(StatusCode::BAD_REQUEST, problem, None),
    };
    let permit = match tokio::time::timeout(TURN_MAX, ctx.creations.acquire()).await {
        Ok(Ok(permit)) => permit,
        _ => {
            let busy = "another timeline's prehistory is being taken in";
            return failure(StatusCode::SERVICE_UNAVAILABLE, busy, Some("Try again."));
        }
    };
    let prehistory = match rest(begun, &mut frames, request.prehistory_len).await {
        Ok(prehistory) => prehistory,
        Err(problem) => return failure(StatusCode::BAD_REQUEST, problem, None),
    };
    let ttid = TenantTimelineId::new(request.tenant_id, request.timeline_id);
    // A client that goes away in the middle must not leave the work half done.
    let timelines = ctx.timelines.clone();
    let working = tokio::spawn(async move { timelines.create(request, prehistory).await });
    let ended = working.await;
    drop(permit);
    match ended {
        Ok(outcome) => answer(&ctx, ttid, outcome),
        Err(e) => failure(StatusCode::INTERNAL_SERVER_ERROR, format!("creating timeline {ttid}: {e}"), None),
    }
}

fn answer(ctx: &SafekeeperContext, ttid: TenantTimelineId, outcome: Result<Creation, CreateError>) -> Response {
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
        Err(e @ CreateError::NoRoom { .. }) => {
            warn!(%ttid, error = %e, "a timeline could not be created");
            let hint = "Free space there, or delete timelines that nobody needs; then try again.";
            return failure(StatusCode::INSUFFICIENT_STORAGE, e.to_string(), Some(hint));
        }
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

/// Reads and checks the first line; gives what came behind it.
async fn head(
    frames: &mut (impl Stream<Item = Result<Bytes, axum::Error>> + Unpin),
) -> Result<(CreateTimelineRequest, BytesMut), String> {
    let mut came = BytesMut::new();
    // Without a prehistory the line feed may be left out.
    let (end, ended) = loop {
        if let Some(end) = came.iter().position(|b| *b == b'\n').filter(|end| *end < LINE_BYTES_MAX) {
            break (end, false);
        }
        if came.len() >= LINE_BYTES_MAX {
            return Err(format!("no line feed in the first {LINE_BYTES_MAX} bytes: expected a line of JSON"));
        }
        match frames.next().await {
            Some(frame) => came.extend_from_slice(&frame.map_err(|e| format!("the body broke off: {e}"))?),
            None => break (came.len(), true),
        }
    };
    let line = came.split_to(end);
    if !ended {
        came.advance(1);
    }
    let request = foreign::creation(&line)?;
    let wanted = request.start_lsn.segment_offset(request.wal_seg_size);
    if ![0, wanted].contains(&request.prehistory_len) {
        let (said, start) = (request.prehistory_len, request.start_lsn);
        return Err(format!(
            "prehistory_len is {said}: the segment of start_lsn {start} needs {wanted} bytes, or none"
        ));
    }
    Ok((request, came))
}

/// The prehistory: exactly as long as the line said.
async fn rest(
    mut came: BytesMut,
    frames: &mut (impl Stream<Item = Result<Bytes, axum::Error>> + Unpin),
    said: u64,
) -> Result<Bytes, String> {
    let differs = |came: usize| format!("prehistory_len says {said} bytes, {came} follow the first line");
    loop {
        if came.len() as u64 > said {
            return Err(format!("prehistory_len says {said} bytes, more follow the first line"));
        }
        match frames.next().await {
            Some(frame) => came.extend_from_slice(&frame.map_err(|e| format!("the body broke off: {e}"))?),
            None if came.len() as u64 == said => return Ok(came.freeze()),
            None => return Err(differs(came.len())),
        }
    }
}

/// `GET /v1/tenant/timeline`: the status of every timeline held here.
pub(super) async fn list(State(ctx): State<Arc<SafekeeperContext>>) -> Json<Vec<SafekeeperTimelineStatus>> {
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
    State(ctx): State<Arc<SafekeeperContext>>,
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

/// `GET /v1/tenant/T/timeline/L`: the status of one timeline.
pub(super) async fn status(State(ctx): State<Arc<SafekeeperContext>>, Path(ids): Path<(String, String)>) -> Response {
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

/// `POST /v1/tenant/T/timeline/L/readmit`: says what a barred member waits for; with `force=true` it takes part again,
/// as it is.
pub(super) async fn readmit(
    State(ctx): State<Arc<SafekeeperContext>>,
    Path((t, l)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let ttid = match (t.parse(), l.parse()) {
        (Ok(t), Ok(l)) => TenantTimelineId::new(t, l),
        (Err(e), _) | (_, Err(e)) => return failure(StatusCode::BAD_REQUEST, e.to_string(), None),
    };
    let Some(handle) = ctx.timelines.get(ttid) else {
        return failure(StatusCode::NOT_FOUND, format!("timeline {ttid} does not exist"), None);
    };
    if query.is_some_and(|q| q.split('&').any(|p| p == "force=true")) {
        warn!(%ttid, "an operator admits this member as it is");
        handle.vouch();
        // Behind it in the driver's queue: answered when it was taken.
        let _ = handle.statement().await;
    }
    Json(ctx.timeline_status(&handle)).into_response()
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

    /// The body in pieces, as a socket gives it.
    async fn read_body(body: Bytes) -> Result<(CreateTimelineRequest, Bytes), String> {
        let pieces: Vec<Result<Bytes, axum::Error>> =
            body.chunks(1000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let mut frames = futures::stream::iter(pieces);
        let (request, begun) = head(&mut frames).await?;
        let prehistory = rest(begun, &mut frames, request.prehistory_len).await?;
        Ok((request, prehistory))
    }

    /// Goal: a body that cannot be one is not taken in. Method: it is a MiB of garbage, and it never ends.
    #[tokio::test]
    async fn garbage_is_refused_before_it_is_all_there() {
        let piece = Bytes::from(vec![b'x'; 64 << 10]);
        let mut endless = futures::stream::repeat_with(|| Ok(piece.clone()));
        let refused = head(&mut endless).await.expect_err("no line");
        assert!(refused.contains("no line feed"), "{refused}");
    }

    #[tokio::test]
    async fn the_body_is_a_line_and_the_prehistory() {
        let (request, prehistory) = read_body(body(8, "\n", b"12345\n78")).await.expect("both parts");
        assert_eq!((request.pg_version_num, &prehistory[..]), (150_004, &b"12345\n78"[..]));
        assert!(read_body(body(0, "", b"")).await.is_ok(), "no prehistory, no line feed");
    }

    #[tokio::test]
    async fn bodies_that_contradict_themselves_are_refused() {
        for (bad, problem) in [
            (body(8, "\n", b"1234567"), "7 follow"),
            (body(4, "\n", b"1234"), "needs 8 bytes"),
            (Bytes::from_static(b"{}\n"), "first line"),
            (Bytes::from_static(b"garbage"), "first line"),
            (Bytes::from(vec![b'x'; LINE_BYTES_MAX]), "no line feed"),
        ] {
            let e = read_body(bad).await.expect_err(problem);
            assert!(e.contains(problem), "{e}");
        }
    }
}
