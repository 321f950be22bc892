//! The connection behind a [`super::Broker`]: the endpoint in use, the meaning of a failure, when to reconnect.
//!
//! Owns the list of endpoints and the current client. Invariants: only one endpoint is used at a time, so that a watch
//! and the reads beside it see one store; a failed connection is dropped for all users at most once (by generation);
//! no lock is held during I/O.

use std::error::Error as _;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error as EtcdError};
use tonic::Code;

use super::error::{BrokerError, LeaseId, Revision};

/// A broker that does not take the connection within this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests that failed before anything was sent may be sent again; so often per request and endpoint.
const ATTEMPTS_MIN: usize = 2;

/// Where the store was when it answered. A change of `cluster` or `term`, or a lower `revision`, says that the broker
/// was restarted, replaced or emptied, and that what was told to it must be looked at again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) cluster: u64,
    pub(super) term: u64,
    pub(super) revision: Revision,
}

impl Seen {
    pub(super) fn of(header: Option<&etcd_client::ResponseHeader>) -> Seen {
        header.map_or(Seen { cluster: 0, term: 0, revision: 0 }, |header| Seen {
            cluster: header.cluster_id(),
            term: header.raft_term(),
            revision: header.revision(),
        })
    }

    /// Whether `later`, an answer that came after this one, may be from another store or another life of the same one.
    pub(super) fn is_broken_by(&self, later: &Seen) -> bool {
        self.cluster != later.cluster || self.term != later.term || later.revision < self.revision
    }
}

/// One client in use, with the generation that [`Connections::give_up`] wants back.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) generation: u64,
}

/// Endpoints and the client in use.
pub(super) struct Connections {
    url: String,
    endpoints: Vec<String>,
    current: Mutex<Current>,
}

struct Current {
    endpoint: usize,
    generation: u64,
    client: Option<Client>,
}

/// How a request may be repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Only when it is certain that nothing was sent.
    IfUnsent,
    /// Also when it is not known whether the broker saw it: for reads and keep-alives.
    Freely,
}

impl Connections {
    /// Endpoints of `http://host:port[,host:port...]`.
    pub(super) fn parse(url: &str) -> Result<Connections, BrokerError> {
        let bad = || BrokerError::BadUrl(url.to_owned());
        let mut endpoints = Vec::new();
        for part in url.split(',') {
            let part = part.trim().trim_end_matches('/');
            let authority = match part.split_once("://") {
                Some(("http", authority)) => authority,
                Some(_) => return Err(bad()),
                None => part,
            };
            let endpoint = format!("http://{authority}");
            let uri: tonic::transport::Uri = endpoint.parse().map_err(|_| bad())?;
            let complete =
                uri.host().is_some_and(|host| !host.is_empty()) && uri.port_u16().is_some_and(|port| port != 0);
            if !complete || uri.path().len() > 1 || uri.query().is_some() {
                return Err(bad());
            }
            endpoints.push(endpoint);
        }
        let current = Mutex::new(Current { endpoint: 0, generation: 0, client: None });
        Ok(Connections { url: url.to_owned(), endpoints, current })
    }

    /// The URL as it was given.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The client in use; made when there is none. Nothing is dialled before the first request.
    pub(super) async fn connection(&self) -> Result<Connection, BrokerError> {
        let endpoint = {
            let current = self.lock();
            if let Some(client) = &current.client {
                return Ok(Connection { client: client.clone(), generation: current.generation });
            }
            self.endpoints[current.endpoint].clone()
        };
        let options = ConnectOptions::new().with_connect_timeout(CONNECT_TIMEOUT);
        let client =
            Client::connect([&endpoint], Some(options)).await.map_err(|error| self.unreachable(error.to_string()))?;
        let mut current = self.lock();
        let client = current.client.get_or_insert(client).clone();
        Ok(Connection { client, generation: current.generation })
    }

    /// Drops the client of `generation`, so that the next request connects anew, to the next endpoint.
    pub(super) fn give_up(&self, generation: u64) {
        let mut current = self.lock();
        if current.generation == generation {
            current.generation += 1;
            current.client = None;
            current.endpoint = (current.endpoint + 1) % self.endpoints.len();
        }
    }

    /// Runs one request within `timeout`, on the next endpoint too when `repeat` allows.
    pub(super) async fn request<T, F, Fut>(
        &self,
        operation: &'static str,
        timeout: Duration,
        repeat: Repeat,
        run: F,
    ) -> Result<T, BrokerError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, EtcdError>>,
    {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut attempts = self.endpoints.len().max(ATTEMPTS_MIN);
        let mut untried = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        loop {
            let connection = self.connection().await?;
            // An endpoint that hangs does not use up the time of the others.
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let share = if repeat == Repeat::Freely { left / untried.max(1) } else { left };
            untried = untried.saturating_sub(1);
            let Ok(outcome) = tokio::time::timeout(share, run(connection.client)).await else {
                self.give_up(connection.generation);
                if repeat == Repeat::Freely && untried > 0 {
                    continue;
                }
                return Err(self.unreachable(format!("no answer to {operation} within {} ms", timeout.as_millis())));
            };
            let error = match outcome {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = repeat == Repeat::Freely || never_sent(&error);
            let error = self.classify(operation, error);
            if !matches!(error, BrokerError::Unreachable { .. }) {
                return Err(error);
            }
            self.give_up(connection.generation);
            attempts -= 1;
            if attempts == 0 || !again {
                return Err(error);
            }
        }
    }

    /// What an error of the client means to callers.
    pub(super) fn classify(&self, operation: &'static str, error: EtcdError) -> BrokerError {
        match error {
            EtcdError::GRpcStatus(status) => self.classify_status(operation, &status),
            EtcdError::LeaseKeepAliveError(detail) | EtcdError::InvalidArgs(detail) => {
                BrokerError::Refused { operation, detail }
            }
            other => self.unreachable(other.to_string()),
        }
    }

    fn classify_status(&self, operation: &'static str, status: &tonic::Status) -> BrokerError {
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
                let cause = root_cause(status).unwrap_or_else(|| status.message().to_owned());
                self.unreachable(cause)
            }
            Code::NotFound if status.message().contains("lease not found") => BrokerError::LeaseGone(LeaseId(0)),
            _ => BrokerError::Refused { operation, detail: status.message().to_owned() },
        }
    }

    pub(super) fn unreachable(&self, detail: String) -> BrokerError {
        BrokerError::Unreachable { endpoint: self.url.clone(), detail }
    }
}

/// The innermost error below a status: "Connection refused" rather than "transport error".
fn root_cause(status: &tonic::Status) -> Option<String> {
    let mut cause = status.source()?;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Some(cause.to_string())
}

/// Whether the connection could not even be made, so that the broker cannot have seen the request.
fn never_sent(error: &EtcdError) -> bool {
    let EtcdError::GRpcStatus(status) = error else { return false };
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<tonic::ConnectError>().is_some() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_with_one_and_several_endpoints_parse() {
        let one = Connections::parse("http://127.0.0.1:2379").expect("one endpoint");
        assert_eq!(one.endpoints, ["http://127.0.0.1:2379"]);
        let many = Connections::parse("http://a:1/,b:2, http://[::1]:3").expect("three endpoints");
        assert_eq!(many.endpoints, ["http://a:1", "http://b:2", "http://[::1]:3"]);
    }

    #[test]
    fn bad_urls_are_refused() {
        for url in
            ["", "http://", "http://host", "https://host:1", "etcd://host:1", "http://a:1,", "http://a:1/x", "a:0"]
        {
            assert!(matches!(Connections::parse(url), Err(BrokerError::BadUrl(_))), "{url:?} was accepted");
        }
    }

    #[test]
    fn another_life_of_the_store_is_noticed() {
        let seen = Seen { cluster: 1, term: 2, revision: 10 };
        assert!(!seen.is_broken_by(&Seen { revision: 10, ..seen }));
        assert!(!seen.is_broken_by(&Seen { revision: 11, ..seen }));
        assert!(seen.is_broken_by(&Seen { revision: 9, ..seen }));
        assert!(seen.is_broken_by(&Seen { term: 3, ..seen }));
        assert!(seen.is_broken_by(&Seen { cluster: 2, ..seen }));
    }

    #[tokio::test]
    async fn a_failed_connection_is_given_up_once() {
        let connections = Connections::parse("http://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3").expect("endpoints");
        let connection = connections.connection().await.expect("nothing is dialled yet");
        connections.give_up(connection.generation);
        connections.give_up(connection.generation);
        assert_eq!(connections.lock().endpoint, 1);
    }
}
