//! A small S3 service for tests: PUT (`If-None-Match: *`), GET (ranges), HEAD, DeleteObjects, ListObjectsV2.
//!
//! Owns its objects. One lock covers the check and the write of a conditional PUT, so exactly one of several concurrent
//! creations wins. Signatures are not checked (moto does, see `make s3-moto`). No shipped binary contains this crate.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio::runtime::Runtime;

/// Keys per page of a listing: few, so that tests meet several pages.
const PAGE_KEYS: usize = 7;

/// What the server has, and how it misbehaves.
#[derive(Debug, Default)]
pub struct Objects {
    objects: Mutex<BTreeMap<String, Bytes>>,
    /// So many PUTs are carried out and answered with an error.
    pub lost_answers: AtomicU32,
    /// Planted bug: existence is checked before the lock is taken for the write.
    pub races: AtomicBool,
}

impl Objects {
    /// Names of all objects, `bucket/key`.
    ///
    /// # Panics
    /// When a request panicked.
    pub fn names(&self) -> Vec<String> {
        self.objects.lock().expect("not poisoned").keys().cloned().collect()
    }
}

/// A running server.
#[derive(Debug)]
pub struct S3Server {
    /// `http://127.0.0.1:port`
    pub url: String,
    /// Its objects.
    pub objects: Arc<Objects>,
    /// Also the clients'.
    pub runtime: Runtime,
}

impl S3Server {
    /// Starts on a free port, with threads of its own: not from within a runtime.
    ///
    /// # Panics
    /// When there is no port or no thread left.
    pub fn start() -> S3Server {
        let runtime = Runtime::new().expect("a runtime");
        let objects = Arc::new(Objects::default());
        let app = Router::new()
            .route("/{bucket}", get(list).post(delete))
            .route("/{bucket}/{*key}", any(object))
            .layer(DefaultBodyLimit::disable())
            .with_state(objects.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        runtime.spawn(async move { axum::serve(listener, app).await });
        S3Server { url, objects, runtime }
    }

    /// A fresh one, and the one at `WALFABRIC_TEST_S3_URL` (see `make s3-moto`), which must have a bucket `bucket`.
    pub fn all() -> Vec<S3Server> {
        let other = std::env::var("WALFABRIC_TEST_S3_URL").ok();
        let other = other.map(|url| S3Server { url, ..S3Server::start() });
        std::iter::once(S3Server::start()).chain(other).collect()
    }
}

/// A client's environment for a test service at `url`.
pub fn variables(url: &str) -> Vec<(String, String)> {
    let pairs = [
        ("AWS_ENDPOINT_URL", url),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_ALLOW_HTTP", "true"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn failure(status: StatusCode, code: &str) -> Response {
    (status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>"))
        .into_response()
}

async fn object(
    State(state): State<Arc<Objects>>,
    Path((bucket, key)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let name = format!("{bucket}/{key}");
    match method {
        Method::PUT => put(&state, name, &headers, body).await,
        Method::GET | Method::HEAD => {
            let found = state.objects.lock().expect("not poisoned").get(&name).cloned();
            found.map_or_else(|| failure(StatusCode::NOT_FOUND, "NoSuchKey"), |bytes| read(&headers, &bytes))
        }
        _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

async fn put(state: &Objects, name: String, headers: &HeaderMap, body: Bytes) -> Response {
    let create = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v == "*");
    let exists = |objects: &BTreeMap<String, Bytes>| create && objects.contains_key(&name);
    let taken = || failure(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    if state.races.load(Ordering::Relaxed) {
        if exists(&state.objects.lock().expect("not poisoned")) {
            return taken();
        }
        tokio::task::yield_now().await;
        state.objects.lock().expect("not poisoned").insert(name, body);
    } else {
        let mut objects = state.objects.lock().expect("not poisoned");
        if exists(&objects) {
            return taken();
        }
        objects.insert(name, body);
    }
    let lost = state.lost_answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
    if lost {
        return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    ([(header::ETAG, "\"1\"")], StatusCode::OK).into_response()
}

fn read(headers: &HeaderMap, bytes: &Bytes) -> Response {
    let total = bytes.len();
    let range = headers.get(header::RANGE).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("bytes="));
    let fixed = [
        (header::ETAG, HeaderValue::from_static("\"1\"")),
        (header::LAST_MODIFIED, HeaderValue::from_static("Sat, 01 Jan 2000 00:00:00 GMT")),
    ];
    let Some((first, last)) = range.and_then(|r| r.split_once('-')) else {
        return (fixed, bytes.clone()).into_response();
    };
    let first: usize = first.parse().unwrap_or(usize::MAX);
    let last = last.parse().unwrap_or(usize::MAX).min(total.saturating_sub(1));
    if first > last {
        return failure(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
    }
    let content_range = [(header::CONTENT_RANGE, format!("bytes {first}-{last}/{total}"))];
    (StatusCode::PARTIAL_CONTENT, fixed, content_range, bytes.slice(first..=last)).into_response()
}

/// DeleteObjects: every `<Key>` of the body.
async fn delete(State(state): State<Arc<Objects>>, Path(bucket): Path<String>, body: String) -> Response {
    let keys = body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
    let mut objects = state.objects.lock().expect("not poisoned");
    let mut deleted = String::new();
    for key in keys {
        objects.remove(&format!("{bucket}/{key}"));
        deleted += &format!("<Deleted><Key>{key}</Key></Deleted>");
    }
    let body = format!("<?xml version=\"1.0\"?><DeleteResult>{deleted}</DeleteResult>");
    ([(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

async fn list(
    State(state): State<Arc<Objects>>,
    Path(bucket): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let prefix = format!("{bucket}/{}", query.get("prefix").map_or("", String::as_str));
    let after = query.get("continuation-token").map_or("", String::as_str);
    let objects = state.objects.lock().expect("not poisoned");
    let mut found: Vec<(&String, &Bytes)> =
        objects.iter().filter(|(name, _)| name.starts_with(&prefix) && name.as_str() > after).collect();
    let more = found.len() > PAGE_KEYS;
    found.truncate(PAGE_KEYS);
    let contents: String = found
        .iter()
        .map(|(name, bytes)| {
            let key = &name[bucket.len() + 1..];
            let len = bytes.len();
            format!(
                "<Contents><Key>{key}</Key><Size>{len}</Size><ETag>1</ETag>\
                 <LastModified>2000-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        })
        .collect();
    let next = match (more, found.last()) {
        (true, Some((name, _))) => format!("<NextContinuationToken>{name}</NextContinuationToken>"),
        _ => String::new(),
    };
    let count = found.len();
    let body = format!(
        "<?xml version=\"1.0\"?><ListBucketResult><KeyCount>{count}</KeyCount>\
         <IsTruncated>{more}</IsTruncated>{next}{contents}</ListBucketResult>"
    );
    ([(header::CONTENT_TYPE, "application/xml")], body).into_response()
}
