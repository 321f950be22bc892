//! The HTTP port: attach, import, status, pages, tables, health, metrics.

mod answer;
mod pages;
mod xacts;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use libpq::{ConnectOptions, Environment};
use node::health_router;
use proto::api::{AttachRequest, ImportCheckRequest, ImportRequest};
use proto::id::{NodeId, TenantTimelineId};
use serde::{Deserialize, Serialize};

use self::answer::{fail, find, parse_ids};
use crate::attach::{self, AttachError, Attached};
use crate::choose::Input;
use crate::process::{Pageserver, VERSION};

/// What there is, for whoever asks for something else.
pub(crate) const KNOWN: &str =
    "/v1/status, /v1/show/TABLE, /v1/tenant/timeline, /v1/tenant/T/timeline/L, /metrics, /livez, /readyz?verbose";

/// What is answered at which path.
pub(crate) fn router(pageserver: &Arc<Pageserver>) -> Router {
    let (ready, measured) = (Arc::clone(pageserver), Arc::clone(pageserver));
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/show/{table}", get(table))
        .route("/v1/tenant/timeline", get(list))
        .route("/v1/tenant/{tenant}/timeline/{timeline}", get(one).delete(delete))
        .route("/v1/import/check", post(import_check))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/attach", post(attach))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/choose", post(choose))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/import", post(import))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/flush", post(flush))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/xacts", get(xacts::list))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/record", get(xacts::record))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/page", get(pages::page))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/relation", get(pages::relation))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/relations", get(pages::relations))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/slru", get(pages::slru))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/files", get(pages::files))
        .route("/v1/tenant/{tenant}/timeline/{timeline}/control/compare", post(pages::compare_control))
        .with_state(Arc::clone(pageserver))
        .merge(health_router(move || ready.readiness(), move || Ok(measured.metrics.render(measured.levels()))))
}

#[derive(Serialize)]
struct PageserverStatus {
    kind: &'static str,
    id: NodeId,
    version: &'static str,
    uptime_s: u64,
    pg: String,
    timelines: usize,
    broker_connected: bool,
}

async fn status(State(pageserver): State<Arc<Pageserver>>) -> Json<PageserverStatus> {
    Json(PageserverStatus {
        kind: "pageserver",
        id: pageserver.config.node.id,
        version: VERSION,
        uptime_s: pageserver.now().as_secs(),
        pg: pageserver.advertise_pg.clone(),
        timelines: pageserver.timelines().len(),
        broker_connected: pageserver.session.is_connected(),
    })
}

async fn table(State(pageserver): State<Arc<Pageserver>>, Path(name): Path<String>) -> Response {
    let Some(table) = pageserver.table(&name.to_ascii_lowercase()) else {
        let hint = "timelines, layers, safekeepers, choices, lag, config, version";
        return fail(StatusCode::NOT_FOUND, format!("no table {name:?}"), Some(hint));
    };
    let rows: Vec<serde_json::Map<String, serde_json::Value>> = table
        .rows
        .iter()
        .map(|row| table.columns.iter().zip(row).map(|(c, v)| ((*c).to_owned(), v.clone().into())).collect())
        .collect();
    Json(rows).into_response()
}

async fn list(State(pageserver): State<Arc<Pageserver>>) -> Response {
    Json(pageserver.statuses()).into_response()
}

async fn one(State(pageserver): State<Arc<Pageserver>>, Path(ids): Path<(String, String)>) -> Response {
    match find(&pageserver, ids) {
        Ok(timeline) => Json(timeline.status(pageserver.config.node.id)).into_response(),
        Err(response) => *response,
    }
}

async fn attach(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Path<(String, String)>,
    body: bytes::Bytes,
) -> Response {
    let ttid = match parse_ids(ids) {
        Ok(ttid) => ttid,
        Err(response) => return *response,
    };
    let request: AttachRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(e) => return fail(StatusCode::BAD_REQUEST, format!("attach request: {e}"), None),
    };
    attached(&pageserver, ttid, attach::attach(&pageserver, ttid, request).await)
}

async fn import(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Path<(String, String)>,
    body: bytes::Bytes,
) -> Response {
    let ttid = match parse_ids(ids) {
        Ok(ttid) => ttid,
        Err(response) => return *response,
    };
    let request: ImportRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(e) => return fail(StatusCode::BAD_REQUEST, format!("import request: {e}"), None),
    };
    if let Err(e) = ConnectOptions::from_conninfo(&request.from, &Environment::none()) {
        return fail(StatusCode::BAD_REQUEST, format!("connection string of the cluster: {e}"), None);
    }
    attached(&pageserver, ttid, attach::import(&pageserver, ttid, request.attach, request.from).await)
}

/// Whether the cluster could be copied from here.
async fn import_check(body: bytes::Bytes) -> Response {
    let request: ImportCheckRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(e) => return fail(StatusCode::BAD_REQUEST, format!("import check: {e}"), None),
    };
    match crate::import::check::check(&request).await {
        Ok(()) => Json(serde_json::json!({ "ok": true })).into_response(),
        Err(why) => {
            let hint = "pg_hba.conf of the primary must admit the role from the pageserver's address, for replication \
                        and for its database.";
            fail(StatusCode::CONFLICT, why, Some(hint))
        }
    }
}

/// 200 when it is gone, 404 when there was none.
async fn delete(State(pageserver): State<Arc<Pageserver>>, Path(ids): Path<(String, String)>) -> Response {
    let ttid = match parse_ids(ids) {
        Ok(ttid) => ttid,
        Err(response) => return *response,
    };
    // A client that goes away in the middle must not leave the work half done.
    let deleting = tokio::spawn(async move { attach::delete::delete(&pageserver, ttid).await });
    match deleting.await.unwrap_or_else(|e| Err(e.to_string())) {
        Ok(true) => Json(serde_json::json!({ "deleted": ttid.to_string() })).into_response(),
        Ok(false) => fail(StatusCode::NOT_FOUND, format!("timeline {ttid} does not exist"), None),
        Err(e) => {
            tracing::error!(timeline = %ttid, "could not be deleted: {e}");
            fail(StatusCode::INTERNAL_SERVER_ERROR, e, Some("What is left is listed; repeat the deletion."))
        }
    }
}

fn attached(pageserver: &Pageserver, ttid: TenantTimelineId, done: Result<Attached, AttachError>) -> Response {
    match done {
        Ok(done) => {
            let code = if done == Attached::Created { StatusCode::CREATED } else { StatusCode::OK };
            let status = pageserver.timeline(ttid).map(|t| t.status(pageserver.config.node.id));
            (code, Json(status)).into_response()
        }
        Err(AttachError::Invalid(e)) => fail(StatusCode::BAD_REQUEST, e, None),
        Err(AttachError::Conflict(e)) => {
            fail(StatusCode::CONFLICT, e, Some("A timeline keeps what it was attached with; use another timeline id."))
        }
        Err(AttachError::Unfit(e)) => fail(StatusCode::CONFLICT, e, None),
        Err(AttachError::Disk(e)) => {
            tracing::error!(timeline = %ttid, "attach failed: {e}");
            fail(StatusCode::INTERNAL_SERVER_ERROR, e, None)
        }
    }
}

/// Brings everything that is ingested to storage and answers when it is there, with the timeline's status.
async fn flush(State(pageserver): State<Arc<Pageserver>>, Path(ids): Path<(String, String)>) -> Response {
    let timeline = match find(&pageserver, ids) {
        Ok(timeline) => timeline,
        Err(response) => return *response,
    };
    let Some(store) = timeline.store.clone() else {
        return fail(StatusCode::CONFLICT, timeline.trouble().stopped.unwrap_or_default(), None);
    };
    match tokio::task::spawn_blocking(move || store.flush()).await {
        Ok(Ok(durable)) => {
            timeline.note_durable(durable.lsn());
            Json(timeline.status(pageserver.config.node.id)).into_response()
        }
        Ok(Err(e)) => fail(StatusCode::SERVICE_UNAVAILABLE, e.to_string(), Some("It is tried again by itself.")),
        Err(e) => fail(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), None),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChooseRequest {
    safekeeper_id: NodeId,
}

/// An operator's choice: 202 when it was taken, 409 when that safekeeper is no candidate.
async fn choose(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Path<(String, String)>,
    body: bytes::Bytes,
) -> Response {
    let timeline = match find(&pageserver, ids) {
        Ok(timeline) => timeline,
        Err(response) => return *response,
    };
    let request: ChooseRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(e) => return fail(StatusCode::BAD_REQUEST, format!("choose request: {e}"), None),
    };
    let id = request.safekeeper_id;
    let pushes = pageserver.pushes().clone();
    if !pageserver.directory.view(timeline.ttid, &pushes).candidates.contains_key(&id) {
        let hint = "A candidate has a living node record and a record of this timeline: SHOW SAFEKEEPERS.";
        return fail(StatusCode::CONFLICT, format!("safekeeper {id} is no candidate"), Some(hint));
    }
    timeline.tell(Input::Operator(id)).await;
    StatusCode::ACCEPTED.into_response()
}
