//! A small server that speaks the etcd v3 subset that walfabric uses (KV, Txn, Watch, Lease), durable in a directory.
//!
//! `store` is the pure state machine, `log` its files, `writer` the task that owns both, `history` the source of
//! watches, `services` and `watch` the gRPC side. The writer carries a request out on the store, makes it durable in
//! the log together with its neighbours, and answers it. Watches learn of it from the history.
//!
//! The server is one process without replicas. That is enough for its content: nodes publish hints, choices and leases
//! again, and log safety never depends on the broker.
//! again, and log safety never depends on the broker.
//!
//! # Example
//! What a client was told is there when the server starts again. Any client of etcd v3 will do:
//!
//! ```
//! use etcd_client::Client;
//! use tokio_util::sync::CancellationToken;
//!
//! # let run = async {
//! let dir = tempfile::tempdir()?;
//! for value in [None, Some("here")] {
//!     let (tell, address) = tokio::sync::oneshot::channel();
//!     let (listen, stop) = ("127.0.0.1:0".parse()?, CancellationToken::new());
//!     let ready = |address| tell.send(address).expect("somebody waits");
//!     let server = tokio::spawn(brokerd::serve(dir.path().to_owned(), listen, ready, stop.clone()));
//!
//!     let mut client = Client::connect([format!("http://{}", address.await?)], None).await?;
//!     let found = client.get("key", None).await?;
//!     assert_eq!(found.kvs().first().and_then(|kv| kv.value_str().ok()), value);
//!     client.put("key", "here", None).await?;
//!
//!     stop.cancel();
//!     server.await??;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # };
//! # tokio::runtime::Runtime::new()?.block_on(run)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod door;
mod history;
mod limits;
mod log;
mod services;
mod store;
mod watch;
mod writer;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbWatchServer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;

use self::limits::{CONNECTION_STREAMS_MAX, HANDSHAKE_LIMIT, MESSAGE_BYTES_MAX, WINDOW_BYTES};
use self::log::{Opened, StoreLog};
use self::services::{STREAMS_END, Services};
use self::watch::Watches;
use self::writer::{Requests, ServerClock, Writer};
use node::datadir::{DataDir, DataDirError};
use node::{TooFewDescriptors, claim_descriptors};
use proto::id::NodeId;

pub use self::limits::{BrokerLimits, CONNECTIONS_MAX, QUOTA_BYTES};
pub use self::log::LogError;

/// A client that does not answer pings for so long is gone.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Why the embedded broker cannot run, or not any longer.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The directory cannot be used.
    #[error(transparent)]
    Dir(#[from] DataDirError),
    /// Its files cannot be read, or could not be written any more.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The address cannot be used.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The system does not allow as many open files as the limits need.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// The gRPC server failed.
    #[error("the server failed: {0}")]
    Server(#[from] tonic::transport::Error),
}

impl EmbeddedError {
    /// Whether another directory or user was meant: exit code 2.
    pub fn is_usage(&self) -> bool {
        matches!(self, EmbeddedError::Dir(e) if e.is_usage())
    }

    /// Whether the files are damaged, rather than out of reach: exit code 5.
    pub fn is_corruption(&self) -> bool {
        matches!(self, EmbeddedError::Log(LogError::Damaged { .. }))
    }
}

/// [`serve_within`] the limits that hold unless configured.
///
/// # Errors
/// As there.
pub async fn serve(
    dir: PathBuf,
    listen: SocketAddr,
    ready: impl FnOnce(SocketAddr) + Send,
    cancel: CancellationToken,
) -> Result<(), EmbeddedError> {
    serve_within(BrokerLimits::default(), dir, listen, ready, cancel).await
}

/// Runs the embedded broker until cancelled. Binds `listen` ("127.0.0.1:2379"); calls `ready` with the bound address.
///
/// # Errors
/// When the directory or the socket cannot be used, when the log is damaged, and when it cannot be written any more.
pub async fn serve_within(
    limits: BrokerLimits,
    dir: PathBuf,
    listen: SocketAddr,
    ready: impl FnOnce(SocketAddr) + Send,
    cancel: CancellationToken,
) -> Result<(), EmbeddedError> {
    claim_descriptors(limits.connections_max)?;
    // The lock is held until the end.
    let dir = DataDir::open(&dir, "broker", NodeId(0))?;
    let clock = ServerClock::start();
    let Opened { mut store, log, history } = open(dir.path()).await?;
    store.set_quota(limits.quota_bytes);
    let bind_error = |source| EmbeddedError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(bind_error)?;
    let address = listener.local_addr().map_err(bind_error)?;
    let identity = store.identity();
    tracing::info!(
        %address,
        dir = %dir.path().display(),
        revision = store.revision(),
        keys = store.keys().len(),
        leases = store.leases().len(),
        used_bytes = store.used_bytes(),
        quota_bytes = store.quota_bytes(),
        start = identity.boots,
        "embedded broker serves"
    );
    let history = Arc::new(history);
    let (writer, requests) = Writer::new(store, log, history.clone(), clock);
    let (stop, streams) = (cancel.child_token(), TaskTracker::new());
    let watches = Watches::new(history, identity, stop.clone(), streams.clone());
    let server = run_server((listener, limits.connections_max), address, requests, watches, stop.clone());
    ready(address);
    let outcome = run_both(writer, server, stop).await;
    streams.close();
    outcome
}

async fn open(dir: &Path) -> Result<Opened, LogError> {
    let dir = dir.to_owned();
    let cluster = fastrand::u64(1..);
    // Time zero: every earlier lease starts with its full time.
    tokio::task::spawn_blocking(move || StoreLog::open(&dir, cluster, 0)).await.expect("reading the log does not panic")
}

async fn run_server(
    (listener, connections_max): (TcpListener, usize),
    address: SocketAddr,
    requests: Requests,
    watches: Watches,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let services =
        Services { requests, address: address.to_string(), cancel: stop.clone(), streams: watches.streams.clone() };
    let incoming = Box::pin(door::connections(listener, connections_max, HANDSHAKE_LIMIT));
    let kv = PbKvServer::new(services.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let lease = PbLeaseServer::new(services.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let watch = PbWatchServer::new(watches).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let routes = Routes::new(kv)
        .add_service(lease)
        .add_service(watch)
        .add_service(PbClusterServer::new(services.clone()))
        .add_service(PbMaintenanceServer::new(services));
    Server::builder()
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .add_routes(Routes::from(door::with_door(routes.prepare().into_axum_router())))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
}

/// Runs writer and server until `stop`, or until one of them fails; the other is stopped then.
async fn run_both(
    writer: Writer,
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
    stop: CancellationToken,
) -> Result<(), EmbeddedError> {
    let served = async {
        let server = std::pin::pin!(server);
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(STREAMS_END).await;
        };
        let outcome = tokio::select! {
            outcome = server => outcome,
            // Connections that do not end by themselves are cut.
            () = deadline => Ok(()),
        };
        stop.cancel();
        outcome
    };
    let written = async {
        let outcome = writer.run(stop.clone()).await;
        stop.cancel();
        outcome
    };
    let (served, written) = tokio::join!(served, written);
    written?;
    Ok(served?)
}
