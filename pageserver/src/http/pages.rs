//! `GET /v1/tenant/T/timeline/L/page` and what belongs to it: reads exactly at an LSN, without a promise.
//!
//! Without `lsn` the latest is read; the header `x-walfabric-lsn` and the field `lsn` say which that was. `wait_ms`
//! shortens or lengthens the wait for an LSN that is not here yet.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use pgformat::Lsn;
use pgformat::control::ControlFile;
use pgformat::rel::{BlockTag, RelFork};
use pgformat::slru::Slru;
use proto::api::{ControlDifference, ErrorBody, Files, RelationSize, Relations, SegmentSize, Segments};
use serde::Deserialize;

use super::answer::{fail, find};
use crate::cluster::compare;
use crate::config::LSN_WAIT_MS_MAX;
use crate::process::Pageserver;
use crate::read::{PageReader, Problem, ReadError, ReadPoint, ReadView};

/// Which LSN was read.
const LSN_HEADER: HeaderName = HeaderName::from_static("x-walfabric-lsn");

type QueryOf<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;
type Ids = Path<(String, String)>;

/// As of when, and how long to wait for that.
#[derive(Deserialize, Clone, Copy)]
struct When {
    lsn: Option<Lsn>,
    wait_ms: Option<u64>,
}

macro_rules! query {
    ($name:ident { $($field:ident : $ty:ty),* }) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $($field: $ty,)*
            lsn: Option<Lsn>,
            wait_ms: Option<u64>,
        }

        impl $name {
            fn when(&self) -> When {
                When { lsn: self.lsn, wait_ms: self.wait_ms }
            }
        }
    };
}

query!(PageQuery { rel: String, block: u32 });
query!(RelationQuery { rel: String });
query!(RelationsQuery { db: Option<u32> });
query!(ControlQuery {});
query!(FilesQuery { path: Option<String> });
query!(SlruQuery { kind: String, segno: Option<u32> });

pub(super) async fn page(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Ids,
    query: QueryOf<PageQuery>,
) -> Response {
    let hint = "?rel=TABLESPACE/DATABASE/RELATION[_vm|_fsm|_init]&block=N[&lsn=X/X][&wait_ms=N]";
    let answer = async {
        let Query(q) = query.map_err(|e| bad(e, hint))?;
        let fork: RelFork = q.rel.parse().map_err(|e| bad(e, hint))?;
        let tag = BlockTag { fork, blk: q.block };
        let (reader, lsn) = at(&pageserver, ids, q.when()).await?;
        let mut page = read(&pageserver, &reader, lsn, move |view| view.page(tag)).await?;
        page.stamp_checksum(tag.blk, reader.has_checksums());
        Ok(bytes(lsn, page.0.to_vec()))
    };
    answer.await.unwrap_or_else(|refusal: Box<Response>| *refusal)
}

pub(super) async fn relation(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Ids,
    query: QueryOf<RelationQuery>,
) -> Response {
    let hint = "?rel=TABLESPACE/DATABASE/RELATION[_vm|_fsm|_init][&lsn=X/X][&wait_ms=N]";
    let answer = async {
        let Query(q) = query.map_err(|e| bad(e, hint))?;
        let fork: RelFork = q.rel.parse().map_err(|e| bad(e, hint))?;
        let (reader, lsn) = at(&pageserver, ids, q.when()).await?;
        let size = move |view: ReadView<'_>| if view.exists(fork)? { view.rel_size(fork).map(Some) } else { Ok(None) };
        let blocks = read(&pageserver, &reader, lsn, size).await?;
        Ok(Json(RelationSize { lsn: Some(lsn), rel: fork.to_string(), blocks }).into_response())
    };
    answer.await.unwrap_or_else(|refusal: Box<Response>| *refusal)
}

pub(super) async fn relations(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Ids,
    query: QueryOf<RelationsQuery>,
) -> Response {
    let answer = async {
        let Query(q) = query.map_err(|e| bad(e, "?[db=OID][&lsn=X/X][&wait_ms=N]"))?;
        let (reader, lsn) = at(&pageserver, ids, q.when()).await?;
        let what = move |view: ReadView<'_>| Ok((view.relations(q.db)?, view.logged_databases()?));
        let (found, logged_databases) = read(&pageserver, &reader, lsn, what).await?;
        let one =
            |(fork, blocks): (RelFork, u32)| RelationSize { lsn: None, rel: fork.to_string(), blocks: Some(blocks) };
        let bytes = found.iter().map(|(_, blocks)| u64::from(*blocks) * pgformat::page::PAGE_SIZE as u64).sum();
        let relations = found.into_iter().map(one).collect();
        Ok(Json(Relations { lsn, bytes, relations, logged_databases }).into_response())
    };
    answer.await.unwrap_or_else(|refusal: Box<Response>| *refusal)
}

pub(super) async fn slru(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Ids,
    query: QueryOf<SlruQuery>,
) -> Response {
    let hint = "?kind=pg_xact|pg_multixact/members|pg_multixact/offsets|pg_commit_ts[&segno=N][&lsn=X/X][&wait_ms=N]";
    let answer = async {
        let Query(q) = query.map_err(|e| bad(e, hint))?;
        let slru = Slru::ALL.into_iter().find(|s| s.directory() == q.kind);
        let slru = slru.ok_or_else(|| bad(format!("no SLRU is called {:?}", q.kind), hint))?;
        let (reader, lsn) = at(&pageserver, ids, q.when()).await?;
        if let Some(segno) = q.segno {
            return Ok(bytes(lsn, read(&pageserver, &reader, lsn, move |view| view.slru_segment(slru, segno)).await?));
        }
        let found = read(&pageserver, &reader, lsn, move |view| view.slru_segments(slru)).await?;
        let segments = found.into_iter().map(|(segno, pages)| SegmentSize { segno, pages }).collect();
        Ok(Json(Segments { lsn, segments }).into_response())
    };
    answer.await.unwrap_or_else(|refusal: Box<Response>| *refusal)
}

/// Small files beside the pages: their paths, or what is in one.
pub(super) async fn files(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Ids,
    query: QueryOf<FilesQuery>,
) -> Response {
    let answer = async {
        let Query(q) = query.map_err(|e| bad(e, "?[path=base/OID/pg_filenode.map][&lsn=X/X][&wait_ms=N]"))?;
        let (reader, lsn) = at(&pageserver, ids, q.when()).await?;
        let version = reader.control(lsn).await.map_err(|e| refusal(&pageserver, &e))?.file.version;
        let Some(path) = q.path.clone() else {
            let files = read(&pageserver, &reader, lsn, move |view| view.files(version)).await?;
            return Ok(Json(Files { lsn, files }).into_response());
        };
        let asked = path.clone();
        let file = read(&pageserver, &reader, lsn, move |view| view.file(&asked, version)).await?;
        let none = || Box::new(fail(StatusCode::NOT_FOUND, format!("there is no file {path:?} at {lsn}"), None));
        Ok(bytes(lsn, file.ok_or_else(none)?))
    };
    answer.await.unwrap_or_else(|refusal: Box<Response>| *refusal)
}

/// What of a control file, the body, differs from what is known at an LSN: nothing at the end of a shutdown's
/// checkpoint.
pub(super) async fn compare_control(
    State(pageserver): State<Arc<Pageserver>>,
    Path(ids): Ids,
    query: QueryOf<ControlQuery>,
    body: Bytes,
) -> Response {
    let hint = "The body is a pg_control; ?[lsn=X/X][&wait_ms=N]";
    let answer = async {
        let Query(q) = query.map_err(|e| bad(e, hint))?;
        let file = ControlFile::parse(&body).map_err(|e| bad(e, hint))?;
        let (reader, lsn) = at(&pageserver, ids, q.when()).await?;
        let state = reader.control(lsn).await.map_err(|e| refusal(&pageserver, &e))?;
        let found = compare::control(&state, &file).into_iter();
        let one = |d: compare::StateDifference| ControlDifference { what: d.what, ours: d.ours, theirs: d.theirs };
        Ok(Json(found.map(one).collect::<Vec<_>>()).into_response())
    };
    answer.await.unwrap_or_else(|refusal: Box<Response>| *refusal)
}

fn bytes(lsn: Lsn, body: Vec<u8>) -> Response {
    let headers =
        [(LSN_HEADER, lsn.to_string()), (axum::http::header::CONTENT_TYPE, "application/octet-stream".into())];
    (headers, body).into_response()
}

fn bad(error: impl std::fmt::Display, hint: &str) -> Box<Response> {
    Box::new(fail(StatusCode::BAD_REQUEST, error.to_string(), Some(hint)))
}

/// The timeline's reader, and the LSN to read at once it is here.
async fn at(pageserver: &Pageserver, ids: (String, String), when: When) -> Result<(PageReader, Lsn), Box<Response>> {
    let timeline = find(pageserver, ids)?;
    let reader =
        PageReader::of(&timeline).map_err(|e| Box::new(fail(StatusCode::CONFLICT, e.message, e.hint.as_deref())))?;
    let limit = when.wait_ms.map_or(pageserver.config.lsn_wait, |ms| Duration::from_millis(ms.min(LSN_WAIT_MS_MAX)));
    let lsn = reader.resolve(when.lsn.map_or(ReadPoint::latest(), ReadPoint::exactly), limit).await;
    let lsn = lsn.map_err(|e| refusal(pageserver, &e))?;
    Ok((reader, lsn))
}

async fn read<T: Send + 'static>(
    pageserver: &Pageserver,
    reader: &PageReader,
    lsn: Lsn,
    what: impl Fn(ReadView<'_>) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Box<Response>> {
    let outcome = reader.read(lsn, what).await;
    pageserver.metrics.reads(u64::from(outcome.is_ok()));
    outcome.map_err(|e| refusal(pageserver, &e))
}

fn refusal(pageserver: &Pageserver, error: &ReadError) -> Box<Response> {
    let sql = error.to_sql();
    pageserver.metrics.read_refused(&sql.code);
    let body = ErrorBody { error: sql.to_copy_fail(), hint: None };
    Box::new((error.problem.status(), Json(body)).into_response())
}
