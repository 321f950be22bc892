//! `GET /v1/tenant/T/timeline/L/wal?from=X/X&to=Y/Y`: the ingested WAL itself, for byte-by-byte proofs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::stream;
use pgformat::Lsn;
use serde::Deserialize;

use super::{fail, find};
use crate::ingest::spool::Layout;
use crate::node::Node;

/// Bytes read and sent at a time.
const CHUNK: usize = 1 << 20;
/// What was received just now is on disk after this at the latest, or the disk has a problem.
const DISK_WAIT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    from: Lsn,
    to: Lsn,
}

pub(super) async fn range(
    State(node): State<Arc<Node>>,
    Path(ids): Path<(String, String)>,
    query: Result<Query<Range>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let timeline = match find(&node, ids) {
        Ok(timeline) => timeline,
        Err(response) => return *response,
    };
    let Range { from, to } = match query {
        Ok(Query(range)) => range,
        Err(e) => {
            let hint = "?from=X/X&to=Y/Y";
            return fail(StatusCode::BAD_REQUEST, format!("range: {e}"), Some(hint));
        }
    };
    let (Some(layout), Some(attach)) = (timeline.layout.clone(), &timeline.attach) else {
        return fail(StatusCode::CONFLICT, timeline.trouble().stopped.unwrap_or_default(), None);
    };
    if from > to || from < attach.start_lsn {
        let text =
            format!("range {from} to {to} is not inside the WAL held here, which starts at {}", attach.start_lsn);
        return fail(StatusCode::RANGE_NOT_SATISFIABLE, text, None);
    }
    let mut positions = timeline.positions();
    let on_disk = positions.wait_for(|p| p.disk_consistent_lsn >= to || p.last_record_lsn < to);
    let end = match tokio::time::timeout(DISK_WAIT, on_disk).await {
        Ok(Ok(p)) => p.disk_consistent_lsn,
        _ => timeline.position().disk_consistent_lsn,
    };
    if to > end {
        let text = format!("WAL is held up to {end}, {to} was asked");
        return fail(StatusCode::RANGE_NOT_SATISFIABLE, text, Some("Wait until last_record_lsn has passed it."));
    }
    let body = stream::unfold((layout, from), move |(layout, at)| read_chunk(layout, at, to));
    ([("content-type", "application/octet-stream")], Body::from_stream(body)).into_response()
}

async fn read_chunk(layout: Layout, at: Lsn, to: Lsn) -> Option<(io::Result<Bytes>, (Layout, Lsn))> {
    let left = to.checked_sub(at).filter(|left| *left > 0)?;
    let max = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
    let reader = layout.clone();
    let read =
        tokio::task::spawn_blocking(move || reader.read(at, max)).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    match read {
        Ok(bytes) if bytes.is_empty() => {
            let gone = io::Error::new(io::ErrorKind::UnexpectedEof, format!("WAL at {at} is missing on disk"));
            Some((Err(gone), (layout, to)))
        }
        Ok(bytes) => {
            let next = at.add(bytes.len() as u64);
            Some((Ok(bytes), (layout, next)))
        }
        Err(e) => Some((Err(e), (layout, to))),
    }
}
