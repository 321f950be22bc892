//! The broker's door: bounds on connections, requests and streams, and on the time of a request.
//!
//! A request holds its place from its first byte until its answer is sent, so neither large requests nor unread answers
//! accumulate. Streams (watches, keep-alives) have places of their own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tokio_stream::Stream;
use tonic::Status;
use tonic::transport::server::Connected;

use super::limits::{CALL_LIMIT, CALLS_MAX, STREAMS_MAX};
use node::RepeatLog;

/// Methods that answer with a stream that has no end.
const STREAMS: [&str; 2] = ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"];

/// Bytes that every HTTP/2 client sends first.
const PREFACE_BYTES: usize = 24;

/// Pause after a failed accept (no file descriptors left): trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Puts the door before the services.
pub(super) fn with_door(services: Router) -> Router {
    let places = Places { calls: Arc::new(Semaphore::new(CALLS_MAX)), streams: Arc::new(Semaphore::new(STREAMS_MAX)) };
    services.layer(from_fn_with_state(places, enter))
}

#[derive(Clone)]
struct Places {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

async fn enter(State(places): State<Places>, request: Request, next: Next) -> Response {
    if STREAMS.contains(&request.uri().path()) {
        let Ok(place) = places.streams.try_acquire_owned() else {
            let text = format!("all {STREAMS_MAX} streams of the embedded broker are taken");
            return Status::resource_exhausted(text).into_http();
        };
        return held(next.run(request).await, place, None);
    }
    let deadline = Instant::now() + CALL_LIMIT;
    let answering = async {
        let place = places.calls.acquire_owned().await;
        (next.run(request).await, place)
    };
    match timeout_at(deadline, answering).await {
        Ok((response, Ok(place))) => held(response, place, Some(deadline)),
        Ok((_, Err(_))) | Err(_) => {
            Status::unavailable(format!("the embedded broker has no answer after {CALL_LIMIT:?}")).into_http()
        }
    }
}

fn held(response: Response, place: OwnedSemaphorePermit, deadline: Option<Instant>) -> Response {
    let limit = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
    response.map(|body| Body::new(HeldBody { body, limit, _place: place }))
}

/// A body that holds its place until it was sent, and breaks off at its limit.
struct HeldBody {
    body: Body,
    limit: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.limit.as_mut().is_some_and(|limit| limit.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Some(Err(format!("the answer was not read within {CALL_LIMIT:?}").into())));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Connections of `listener`, at most `connections_max` at once; one more is closed at once. A new one has
/// `handshake` to say that it speaks HTTP/2.
pub(super) fn connections(
    listener: TcpListener,
    connections_max: usize,
    handshake: Duration,
) -> impl Stream<Item = io::Result<AcceptedConnection>> {
    let places = Arc::new(Semaphore::new(connections_max));
    let refused = RepeatLog::events("a connection to the embedded broker was refused");
    let trouble = RepeatLog::events("a connection to the embedded broker could not be accepted");
    futures::stream::unfold(
        (listener, places, refused, trouble),
        move |(listener, places, refused, trouble)| async move {
            loop {
                let (stream, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        trouble.warn(error);
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    refused.warn(format!("{peer}: all {connections_max} of --connections-max are open"));
                    continue;
                };
                libpq::tune(&stream);
                let handshake = Some(Handshake { limit: Box::pin(sleep(handshake)), missing: PREFACE_BYTES });
                return Some((
                    Ok(AcceptedConnection { stream, handshake, _place: place }),
                    (listener, places, refused, trouble),
                ));
            }
        },
    )
}

/// A connection that holds its place, and that fails when its client does not start to speak.
pub(super) struct AcceptedConnection {
    stream: TcpStream,
    handshake: Option<Handshake>,
    _place: OwnedSemaphorePermit,
}

struct Handshake {
    limit: Pin<Box<Sleep>>,
    missing: usize,
}

impl Connected for AcceptedConnection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for AcceptedConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(handshake) = &mut self.handshake else { return read };
        handshake.missing = handshake.missing.saturating_sub(buf.filled().len() - before);
        if handshake.missing == 0 {
            self.handshake = None;
        } else if handshake.limit.as_mut().poll(cx).is_ready() {
            let text = "a connection that does not say that it speaks HTTP/2";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        read
    }
}

impl AsyncWrite for AcceptedConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    async fn pair(
        listener: &mut (impl Stream<Item = io::Result<AcceptedConnection>> + Unpin),
        to: std::net::SocketAddr,
    ) -> (TcpStream, AcceptedConnection) {
        let (client, accepted) = tokio::join!(TcpStream::connect(to), listener.next());
        (client.expect("connects"), accepted.expect("no end").expect("accepted"))
    }

    /// Goal: who connects and says nothing, or not enough, keeps no place. Method: one place, and a short limit.
    #[tokio::test]
    async fn a_silent_connection_is_given_up_and_its_place_is_free() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let mut accepted = Box::pin(connections(listener, 1, LIMIT));
        let (mut silent, mut connection) = pair(&mut accepted, address).await;
        silent.write_all(b"PRI * HTTP").await.expect("write");
        let mut bytes = [0; 64];
        let error = loop {
            match connection.read(&mut bytes).await {
                Ok(count) => assert_eq!(count, 10, "what came is handed on"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // The one place is still taken: the next client is closed at once; a client after its release is served.
        let mut refused = TcpStream::connect(address).await.expect("connects");
        tokio::select! {
            closed = refused.read(&mut bytes) => assert_eq!(closed.expect("read"), 0, "it is closed"),
            _ = accepted.next() => panic!("there is no place for it"),
        }
        drop(connection);
        let (mut speaking, mut connection) = pair(&mut accepted, address).await;
        speaking.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("write");
        assert_eq!(connection.read(&mut bytes).await.expect("read"), PREFACE_BYTES);
        let idle = tokio::time::timeout(2 * LIMIT, connection.read(&mut bytes)).await;
        assert!(idle.is_err(), "who spoke may be silent");
    }
}
