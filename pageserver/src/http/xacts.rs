//! `GET /v1/tenant/T/timeline/L/xacts?from=X/X&to=Y/Y`: how transactions ended, and
//! `.../record?lsn=X/X`: where a record is.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pgformat::wal::StreamConfig;
use pgformat::{Lsn, PgMajor};
use proto::api::{RecordPlace, XactRow};
use serde::Deserialize;

use super::answer::{fail, find};
use crate::cluster::error::LookError;
use crate::cluster::records::floor_record;
use crate::cluster::xacts::{XactEntry, ends_between};
use crate::ingest::stream_config;
use crate::process::Pageserver;
use crate::store::Store;
use crate::store::state::StateAt;
use crate::timeline::Timeline;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct XactsQuery {
    from: Lsn,
    to: Lsn,
    limit: Option<usize>,
}

/// The most rows of an answer: about 10 MB of JSON without subtransactions.
const ROWS_MAX: usize = 100_000;

pub(super) async fn list(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Path<(String, String)>,
    query: Result<Query<XactsQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let timeline = match find(&pageserver, ids) {
        Ok(timeline) => timeline,
        Err(response) => return *response,
    };
    let XactsQuery { from, to, limit } = match query {
        Ok(Query(range)) => range,
        Err(e) => return fail(StatusCode::BAD_REQUEST, format!("range: {e}"), Some("?from=X/X&to=Y/Y[&limit=N]")),
    };
    if limit.is_some_and(|limit| !(1..=ROWS_MAX).contains(&limit)) {
        return fail(StatusCode::BAD_REQUEST, format!("limit: 1 to {ROWS_MAX} rows"), None);
    }
    let (store, cfg) = match opened(&timeline) {
        Ok(opened) => opened,
        Err(response) => return *response,
    };
    if from > to {
        let text = format!("range: {from} is behind {to}");
        return fail(StatusCode::BAD_REQUEST, text, Some("?from=X/X&to=Y/Y"));
    }
    let end = timeline.position().last_record_lsn;
    if to > end {
        let text = format!("ingested is up to {end}, {to} was asked");
        return fail(StatusCode::RANGE_NOT_SATISFIABLE, text, Some("Wait until last_record_lsn has passed it."));
    }
    // Without a limit nobody expects less than all: one row more shows that there is more.
    let max = limit.unwrap_or(ROWS_MAX + 1);
    match tokio::task::spawn_blocking(move || read(&store, cfg.version, (from, to), max)).await {
        Ok(Ok(rows)) if rows.len() > ROWS_MAX => {
            let text = format!("more than {ROWS_MAX} transactions ended in ({from}, {to}]");
            let hint = "Ask with &limit=N, and again from the last row's end_lsn on while N rows come.";
            fail(StatusCode::BAD_REQUEST, text, Some(hint))
        }
        Ok(Ok(rows)) => Json(rows).into_response(),
        Ok(Err(e)) => fail(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), None),
        Err(e) => fail(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), None),
    }
}

/// Ends of transactions whose records end in `(from, to]`, the first `max`.
fn read(store: &Store, version: PgMajor, (from, to): (Lsn, Lsn), max: usize) -> Result<Vec<XactRow>, LookError> {
    let snapshot = store.snapshot();
    let ends = ends_between(&StateAt { snapshot: &snapshot, lsn: Lsn::MAX, version }, from, to, max)?;
    let row = |e: XactEntry| XactRow {
        kind: e.kind.name().to_owned(),
        xid: e.xid,
        end_lsn: e.end,
        time_us: e.time,
        subxids: e.subxids.to_vec(),
    };
    Ok(ends.into_iter().map(row).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordQuery {
    lsn: Lsn,
}

/// `GET /v1/tenant/T/timeline/L/record?lsn=X/X`: the last record that ends at or below an LSN. The record behind it
/// names its start as predecessor.
pub(super) async fn record(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Path<(String, String)>,
    query: Result<Query<RecordQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let timeline = match find(&pageserver, ids) {
        Ok(timeline) => timeline,
        Err(response) => return *response,
    };
    let lsn = match query {
        Ok(Query(place)) => place.lsn,
        Err(e) => return fail(StatusCode::BAD_REQUEST, format!("place: {e}"), Some("?lsn=X/X")),
    };
    let (store, cfg) = match opened(&timeline) {
        Ok(opened) => opened,
        Err(response) => return *response,
    };
    let found = tokio::task::spawn_blocking(move || {
        let snapshot = store.snapshot();
        floor_record(&StateAt { snapshot: &snapshot, lsn: Lsn::MAX, version: cfg.version }, lsn, cfg.seg_size)
    });
    match found.await {
        Ok(Ok(Some(place))) => Json(RecordPlace { start_lsn: place.start, end_lsn: place.end }).into_response(),
        Ok(Ok(None)) => {
            let text = format!("no record is known that ends at or below {lsn}");
            fail(StatusCode::RANGE_NOT_SATISFIABLE, text, None)
        }
        Ok(Err(e)) => fail(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), None),
        Err(e) => fail(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), None),
    }
}

/// A timeline's store, and what its log looks like.
fn opened(timeline: &Timeline) -> Result<(Arc<Store>, StreamConfig), Box<Response>> {
    let store = timeline.store.clone().zip(timeline.attach.as_ref().and_then(stream_config));
    let why = || timeline.trouble().stopped.unwrap_or_default();
    store.ok_or_else(|| Box::new(fail(StatusCode::CONFLICT, why(), None)))
}
