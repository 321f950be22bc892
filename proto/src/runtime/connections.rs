//! HTTP connections: a bound on their number, on the time that a request's head and body may take, and on idleness.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::RepeatLog;
use crate::net::tune;

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

/// Connections that are being refused at once; beyond them a connection is closed without a word.
const REFUSING_MAX: usize = 32;

/// How long a client that is refused may take to read why.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

const REFUSAL: &str = "{\"error\":\"too many HTTP connections\",\"hint\":\"Close idle ones, or raise \
                       --http-connections-max there.\"}";

/// Serves until cancelled; open requests get five seconds to end.
pub(super) async fn serve(listener: TcpListener, router: Router, connections_max: usize, cancel: CancellationToken) {
    let places = Arc::new(Semaphore::new(connections_max));
    let refusing = Arc::new(Semaphore::new(REFUSING_MAX));
    let trouble = RepeatLog::events("an HTTP connection could not be accepted");
    let refused = RepeatLog::events("an HTTP connection was refused");
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
                        if let Ok(permit) = Arc::clone(&refusing).try_acquire_owned() {
                            open.spawn(refuse(stream, permit));
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

async fn refuse(mut stream: TcpStream, _permit: OwnedSemaphorePermit) {
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{REFUSAL}", REFUSAL.len());
    let telling = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // A socket closed with unread input is reset, and a reset would take the answer with it.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // The client may be gone by now; there is nobody else to tell.
    let _ = timeout(REFUSAL_LIMIT, telling).await;
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
    next.run(Request::from_parts(parts, Body::from_stream(frames))).await
}
