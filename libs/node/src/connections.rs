//! HTTP connections: bounds on their number, on the time of a request's head and body, and on idle time.
//!
//! When all connections are taken, a small reserve still answers liveness and readiness probes, one request for each
//! connection: a flood of requests must not look like a dead server. The reserve refuses all other requests. When it is
//! full too, its oldest connection that has not sent a probe's whole head gives way to a new one.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::RepeatLog;
use libpq::tune;

/// A request's head must have come after so long, counted from the start of the connection or the answer before it: so
/// an idle connection is closed too.
const HEAD_LIMIT: Duration = Duration::from_secs(15);

/// The head's longest size: ours have some hundred bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// A body must go on after so long, and be there after the second time.
const BODY_LIMITS: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));

/// How long open requests may go on when the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Pause after a failed accept (no file descriptors left): trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections of the reserve; beyond them the oldest that is no probe is closed for the next, without a word.
const RESERVE: usize = 32;

/// How long a connection of the reserve may take in all: so who holds it without asking gives it back soon.
const RESERVE_LIMIT: Duration = Duration::from_secs(2);

/// How long a refused request's body is read first: a socket closed with unread input is reset, and the reset would
/// take the answer with it.
const REFUSED_BODY_LIMIT: Duration = Duration::from_millis(300);

/// What the reserve answers.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/writable"];

const REFUSAL: &str = "{\"error\":\"too many HTTP connections\",\"hint\":\"Close idle ones, or raise \
                       --http-connections-max there.\"}";

/// Serves until cancelled; open requests get five seconds to end.
pub(super) async fn serve(listener: TcpListener, router: Router, connections_max: usize, cancel: CancellationToken) {
    let places = Arc::new(Semaphore::new(connections_max));
    let mut reserve = Reserve::default();
    let probes = router.clone();
    let trouble = RepeatLog::events("an HTTP connection could not be accepted");
    let refused = RepeatLog::events("an HTTP connection beyond the limit");
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match Arc::clone(&places).try_acquire_owned() {
                    Ok(place) => drop(open.spawn(connection(stream, router.clone(), cancel.clone(), place))),
                    Err(_) => {
                        refused.warn(format!("{peer}: all {connections_max} of --http-connections-max are open"));
                        if let Some(place) = reserve.place() {
                            open.spawn(spare_connection(stream, probes.clone(), place));
                        }
                    }
                },
                Err(e) => {
                    trouble.warn(e);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    if timeout(DRAIN, async { while open.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(open = open.len(), "HTTP requests were still open after {DRAIN:?}, cut");
    }
    open.shutdown().await;
}

async fn connection(stream: TcpStream, router: Router, cancel: CancellationToken, _place: OwnedSemaphorePermit) {
    tune(&stream);
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(HEAD_BYTES_MAX);
    let serving = protocol.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = cancel.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "an HTTP connection broke off");
    }
}

/// Who is in the reserve, oldest first.
#[derive(Default)]
struct Reserve(VecDeque<Arc<Spare>>);

/// A connection of the reserve.
#[derive(Default)]
struct Spare {
    /// A probe's whole head is there: it is being answered, and is let be.
    probes: AtomicBool,
    /// Somebody else gets its place.
    evicted: CancellationToken,
}

impl Reserve {
    /// A place for a new connection, which is given back when it is dropped; none while all are being answered.
    fn place(&mut self) -> Option<Arc<Spare>> {
        // Its connection's task holds the other one.
        self.0.retain(|spare| Arc::strong_count(spare) > 1);
        if self.0.len() >= RESERVE {
            let oldest = self.0.iter().position(|spare| !spare.probes.load(Ordering::Relaxed))?;
            self.0.remove(oldest)?.evicted.cancel();
        }
        let spare = Arc::new(Spare::default());
        self.0.push_back(Arc::clone(&spare));
        Some(spare)
    }
}

/// One request of a probe, or one refusal.
async fn spare_connection(stream: TcpStream, router: Router, spare: Arc<Spare>) {
    tune(&stream);
    let asking = Arc::clone(&spare);
    let probes = router.layer(from_fn(only_probes)).layer(from_fn(move |request: Request, next: Next| {
        asking.probes.store(PROBES.contains(&request.uri().path()), Ordering::Relaxed);
        next.run(request)
    }));
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(RESERVE_LIMIT).max_buf_size(HEAD_BYTES_MAX).keep_alive(false);
    let serving = protocol.serve_connection(TokioIo::new(stream), TowerToHyperService::new(probes));
    tokio::select! {
        // The client may be gone, or may never have asked; there is nobody else to tell.
        _ = timeout(RESERVE_LIMIT, serving) => {}
        () = spare.evicted.cancelled() => {}
    }
}

async fn only_probes(request: Request, next: Next) -> Response {
    if PROBES.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let mut body = request.into_body().into_data_stream();
    let _ = timeout(REFUSED_BODY_LIMIT, async { while let Some(Ok(_)) = body.next().await {} }).await;
    (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, "application/json")], REFUSAL).into_response()
}

/// Ends a request whose body does not go on, or never ends.
pub(super) async fn unhurried(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let deadline = Instant::now() + BODY_LIMITS.1;
    let frames = futures::stream::unfold(Some(body.into_data_stream()), move |frames| async move {
        let mut frames = frames?;
        match timeout_at(deadline.min(Instant::now() + BODY_LIMITS.0), frames.next()).await {
            Ok(Some(Ok(data))) => Some((Ok(data), Some(frames))),
            Ok(Some(Err(e))) => Some((Err(io::Error::other(e)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(io::Error::new(io::ErrorKind::TimedOut, "the body does not go on")), None)),
        }
    });
    // Fused: a handler may poll once more after the end.
    next.run(Request::from_parts(parts, Body::from_stream(frames.fuse()))).await
}
