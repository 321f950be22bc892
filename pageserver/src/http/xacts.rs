//! `GET /v1/tenant/T/timeline/L/xacts?from=X/X&to=Y/Y`: how transactions ended, as the index of this timeline has them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pgformat::Lsn;
use proto::api::XactRow;
use serde::Deserialize;

use super::{fail, find};
use crate::ingest::map::ends::XactChunk;
use crate::key::{Key, Kind};
use crate::node::Node;
use crate::store::{Store, StoreError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    from: Lsn,
    to: Lsn,
}

pub(super) async fn list(
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
        Err(e) => return fail(StatusCode::BAD_REQUEST, format!("range: {e}"), Some("?from=X/X&to=Y/Y")),
    };
    let Some(store) = timeline.store.clone() else {
        return fail(StatusCode::CONFLICT, timeline.trouble().stopped.unwrap_or_default(), None);
    };
    let end = timeline.position().last_record_lsn;
    if to > end {
        let text = format!("ingested is up to {end}, {to} was asked");
        return fail(StatusCode::RANGE_NOT_SATISFIABLE, text, Some("Wait until last_record_lsn has passed it."));
    }
    match tokio::task::spawn_blocking(move || read(&store, from, to)).await {
        Ok(Ok(rows)) => Json(rows).into_response(),
        Ok(Err(e)) => fail(StatusCode::INTERNAL_SERVER_ERROR, e, None),
        Err(e) => fail(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), None),
    }
}

/// Ends of transactions whose records end in `(from, to]`.
fn read(store: &Store, from: Lsn, to: Lsn) -> Result<Vec<XactRow>, String> {
    let text = |e: StoreError| e.to_string();
    let chunks = store.snapshot().scan(Key::first(Kind::XactIndex)..Key::at(Kind::XactIndex, to.get()), Lsn::MAX);
    let mut rows = Vec::new();
    for (key, version) in chunks.map_err(text)? {
        let chunk = XactChunk::decode(key, &version.value).map_err(|_| format!("{key} is damaged"))?;
        let inside = chunk.ends.into_iter().filter(|e| from < e.end && e.end <= to);
        rows.extend(inside.map(|e| XactRow {
            kind: e.kind.name().to_owned(),
            xid: e.xid,
            end_lsn: e.end,
            time_us: e.time,
            subxids: e.subxids.to_vec(),
        }));
    }
    Ok(rows)
}
