//! Accepts libpq connections, for every server: one task each, a bound on their number with places kept for streams
//! that others depend on, an orderly end, and a refusal that the client can read.
//!
//! A connection takes an ordinary place. When those are taken, it gets one of the kept places on trial: its session may
//! only start a stream of the kind for which the places are kept, and anything else is refused. A stream that starts
//! from an ordinary place moves to a kept one when one is free, and back when the session does something else.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::RepeatLog;
use libpq::ServerConnection;
use proto::pg::{SqlError, sqlstate};

/// Pause after a failed accept (no file descriptors left): trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that are being refused at once; beyond them a connection is closed without a word.
const REFUSING_MAX: usize = 64;

/// How long a client that is refused may take to say what it wants.
const REFUSAL_LIMIT: Duration = Duration::from_secs(2);

/// How many sessions there may be, and who gets the next place.
#[derive(Clone, Debug)]
pub struct SessionPlaces {
    server: &'static str,
    max: usize,
    ordinary: Arc<Semaphore>,
    kept: Arc<Semaphore>,
}

/// The place of one session; given back when dropped.
#[derive(Debug)]
pub struct SessionPlace {
    permit: OwnedSemaphorePermit,
    places: SessionPlaces,
    is_kept: bool,
}

impl SessionPlaces {
    /// `max` sessions of `server` ("safekeeper"), a quarter of them kept for streams that others depend on.
    pub fn new(server: &'static str, max: usize) -> SessionPlaces {
        let kept = max / 4;
        let (ordinary, kept) = (Arc::new(Semaphore::new(max - kept)), Arc::new(Semaphore::new(kept)));
        SessionPlaces { server, max, ordinary, kept }
    }

    fn take(&self) -> Option<SessionPlace> {
        let of = |semaphore: &Arc<Semaphore>, is_kept| {
            let permit = Arc::clone(semaphore).try_acquire_owned().ok()?;
            Some(SessionPlace { permit, places: self.clone(), is_kept })
        };
        of(&self.ordinary, false).or_else(|| of(&self.kept, true))
    }

    /// What a client is told that finds no place.
    pub fn refusal(&self) -> SqlError {
        let text = format!("too many connections: this {} serves {} at once", self.server, self.max);
        SqlError::fatal(sqlstate::TOO_MANY_CONNECTIONS, text)
            .with_hint("Close what is not needed, or raise --pg-connections-max there.")
    }
}

impl SessionPlace {
    /// Whether it is one of those that are kept for streams.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// The session does something that no place is kept for: it needs an ordinary one.
    ///
    /// # Errors
    /// What the client is told when its place is a kept one and no other is free; the session is to be closed with it.
    pub fn ordinary(&mut self) -> Result<(), SqlError> {
        if self.is_kept {
            let ordinary = Arc::clone(&self.places.ordinary).try_acquire_owned();
            (self.permit, self.is_kept) = (ordinary.map_err(|_| self.places.refusal())?, false);
        }
        Ok(())
    }

    /// The session becomes a stream that others depend on: it leaves the ordinary places to others when it can.
    pub fn keep(&mut self) {
        if !self.is_kept
            && let Ok(permit) = Arc::clone(&self.places.kept).try_acquire_owned()
        {
            (self.permit, self.is_kept) = (permit, true);
        }
    }
}

/// Accepts until cancelled, then waits for the sessions, `drain` at most.
pub async fn serve_sessions<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    places: SessionPlaces,
    drain: Duration,
    cancel: CancellationToken,
    serve: impl Fn(TcpStream, SessionPlace) -> F,
) {
    let mut sessions = JoinSet::new();
    let refusing = Arc::new(Semaphore::new(REFUSING_MAX));
    let trouble = RepeatLog::events("a connection could not be accepted");
    let refused = RepeatLog::events("a connection was refused");
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match places.take() {
                    Some(place) => drop(sessions.spawn(serve(stream, place))),
                    None => {
                        refused.warn(format!("{peer}: all {} places of --pg-connections-max are taken", places.max));
                        if let Ok(permit) = Arc::clone(&refusing).try_acquire_owned() {
                            sessions.spawn(refuse(stream, places.refusal(), permit));
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
    let drained = tokio::time::timeout(drain, async {
        while let Some(ended) = sessions.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(sessions = sessions.len(), "sessions did not end in time and are cut off");
    }
    sessions.shutdown().await;
}

/// A panic ends its connection only: what it worked on has another owner.
fn report(ended: Result<(), JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        tracing::error!("a session panicked; its connection was closed: {e}");
    }
}

async fn refuse(stream: TcpStream, refusal: SqlError, _permit: OwnedSemaphorePermit) {
    // The client may be gone by now; there is nobody else to tell.
    let _ = tokio::time::timeout(REFUSAL_LIMIT, ServerConnection::refuse(stream, &refusal)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use libpq::{Auth, ClientConnection, ConnectOptions};

    #[test]
    fn kept_places_are_for_streams_alone() {
        let places = SessionPlaces::new("test", 8);
        let mut taken: Vec<SessionPlace> = std::iter::from_fn(|| places.take()).collect();
        assert_eq!(taken.len(), 8);
        assert_eq!(taken.iter().filter(|p| !p.is_kept()).count(), 6);
        taken[0].keep();
        assert!(!taken[0].is_kept(), "no kept place is free: it stays where it is");
        assert!(taken[7].ordinary().is_err(), "its place is kept, and no other is free");
        taken.truncate(6);
        taken[0].keep();
        assert!(taken[0].is_kept());
        let next = places.take().expect("the stream left its ordinary place");
        assert!(!next.is_kept());
        assert!(taken[0].ordinary().is_err(), "somebody else has it now");
        drop(next);
        taken[0].ordinary().expect("a stream that was refused is an ordinary session again");
        assert!(!taken[0].is_kept());
    }

    /// Goal: who finds no place reads why. Method: one place, two clients.
    #[tokio::test]
    async fn a_refused_client_can_read_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let cancel = CancellationToken::new();
        let hold = cancel.clone();
        let serve = move |stream, place: SessionPlace| {
            let hold = hold.clone();
            async move {
                let limit = Duration::from_secs(10);
                let session = ServerConnection::accept(stream, &Auth::Trust, limit, |_| Vec::new()).await;
                hold.cancelled().await;
                drop((session, place));
            }
        };
        let drain = Duration::from_secs(5);
        let serving =
            tokio::spawn(serve_sessions(listener, SessionPlaces::new("test", 1), drain, cancel.clone(), serve));
        let (host, limit) = ("127.0.0.1".to_owned(), Duration::from_secs(10));
        let options = ConnectOptions { host, port: address.port(), timeout: limit, ..ConnectOptions::default() };
        let _first = ClientConnection::dial(&options).await.expect("the only place");
        let refused = ClientConnection::dial(&options).await.map(|_| ()).expect_err("no place is left");
        let text = refused.to_string();
        assert!(text.contains("too many connections") && text.contains("53300"), "{text}");
        cancel.cancel();
        serving.await.expect("no panic");
    }
}
