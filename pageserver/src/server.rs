//! The process: what starts in which order, and what stops.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blobs::Storage;
use broker::Broker;
use node::datadir::{DataDir, DataDirError, create_dir_durably};
use node::parts::{Part, Parts};
use node::{BoundHttp, exit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::PageserverSettings;
use crate::manager;
use crate::process::Pageserver;
use crate::store::{BlockCache, Shared};
use crate::{attach, http, net};

/// How long the tasks of timelines may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// After so long, jobs that block do not go on to their ends: what they would have taken in is received again.
const JOB_LIMIT: Duration = Duration::from_millis(300);
/// How long taking our keys off the broker may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A socket.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Reading the timelines.
    #[error("data directory cannot be read: {0}")]
    Timelines(io::Error),
    /// Where pages are to be stored.
    #[error("storage: {0}")]
    Storage(String),
    /// Another process lives under this id.
    #[error(transparent)]
    TwoProcesses(#[from] broker::TwoProcesses),
    /// The limit of open files.
    #[error(transparent)]
    Descriptors(#[from] node::TooFewDescriptors),
    /// The broker's URL.
    #[error(transparent)]
    Broker(#[from] broker::BrokerError),
}

impl StartError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::DataDir(e) if e.is_usage() => exit::USAGE,
            StartError::TwoProcesses(_) | StartError::Descriptors(_) | StartError::Broker(_) => exit::USAGE,
            StartError::DataDir(DataDirError::BadIdFile { .. }) => exit::CORRUPTION,
            _ => exit::ERROR,
        }
    }
}

/// A running pageserver.
pub struct Server {
    node: Arc<Pageserver>,
    pg: SocketAddr,
    http: SocketAddr,
    parts: Parts,
    _data_dir: DataDir,
}

impl Server {
    /// Starts everything; returns when both ports answer.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: PageserverSettings, cancel: CancellationToken) -> Result<Server, StartError> {
        Server::start_on(config, cancel, Arc::new(blobs::RealDisk)).await
    }

    pub(crate) async fn start_on(
        config: PageserverSettings,
        cancel: CancellationToken,
        disk: Arc<dyn blobs::Disk>,
    ) -> Result<Server, StartError> {
        Server::start_parts(config, cancel, disk, |parts| parts).await
    }

    /// `change` is for tests: it sees the parts before they start.
    pub(crate) async fn start_parts(
        config: PageserverSettings,
        cancel: CancellationToken,
        disk: Arc<dyn blobs::Disk>,
        change: impl FnOnce(Vec<Part>) -> Vec<Part>,
    ) -> Result<Server, StartError> {
        node::claim_descriptors(config.node.pg_connections_max + config.process.http_connections_max)?;
        let data_dir = DataDir::open(&config.node.data_dir, "pageserver", config.node.id)?;
        let broker = Broker::new(&config.process.broker, &config.process.broker_prefix)?;
        let pages = storage(&config, disk)?;
        let (pg_listener, pg) = listen(config.node.listen_pg)?;
        let bound = node::bind_http(config.process.listen_http)
            .map_err(|source| StartError::Listen { address: config.process.listen_http, source })?
            .with_connections_max(config.process.http_connections_max);
        let http = bound.address();
        let advertise = (
            config.node.advertise_pg.clone().unwrap_or_else(|| pg.to_string()),
            config.process.advertise_http.clone().unwrap_or_else(|| http.to_string()),
        );
        if !config.node.take_over {
            let key = broker.keys().pageserver(config.node.id);
            broker::one_process(&broker, "pageserver", &key, (&advertise.0, &advertise.1)).await?;
        }
        let node = Pageserver::new(config, broker, pages, advertise, cancel.clone());
        attach::open::open_all(&node).await.map_err(StartError::Timelines)?;
        node.publish();
        let parts = Parts::start(change(parts(&node, pg_listener, bound)), cancel);
        tracing::info!(id = %node.config.node.id, %pg, %http, timelines = node.timelines().len(), "pageserver started");
        Ok(Server { node, pg, http, parts, _data_dir: data_dir })
    }

    /// Bound address of the libpq port.
    pub fn pg(&self) -> SocketAddr {
        self.pg
    }

    /// Bound address of the HTTP port.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// What the server's tasks share.
    #[cfg(test)]
    pub(crate) fn node(&self) -> Arc<Pageserver> {
        self.node.clone()
    }

    /// Waits until the token given at the start is cancelled, or a part has ended, and everything has stopped; an exit
    /// code.
    pub async fn stopped(self) -> u8 {
        let node = self.node.clone();
        let impatience = tokio::spawn(async move {
            node.shutdown.cancelled().await;
            tokio::time::sleep(JOB_LIMIT).await;
            node.stop_jobs();
        });
        // Streams first: they bring what they hold to disk. Then the keys, so that nobody is asked to push here. What
        // went wrong was logged there.
        let code = self.parts.ended().await.map_or(exit::ERROR, |()| exit::OK);
        self.node.tasks.close();
        if tokio::time::timeout(STOP_LIMIT, self.node.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        impatience.abort();
        self.node.stop_jobs();
        self.node.session.close(FAREWELL_LIMIT).await;
        tracing::info!("pageserver stopped");
        code
    }
}

/// Everything that must not die.
fn parts(node: &Arc<Pageserver>, pg: TcpListener, http: BoundHttp) -> Vec<Part> {
    let router = http::router(node.clone());
    let (served, session) = (node.clone(), node.clone());
    let serve = async move {
        if let Err(e) = http.serve(router, served.shutdown.clone()).await {
            tracing::error!("the HTTP interface failed: {e}");
        }
    };
    let broker = async move {
        session.shutdown.run_until_cancelled(session.session.ended()).await;
    };
    vec![
        Part::new("libpq listener", net::listen::run(pg, node.clone())),
        Part::new("HTTP interface", serve),
        Part::new("follower of the broker", manager::follow::run(node.clone())),
        Part::new("watch of timelines", manager::watch::run(node.clone())),
        Part::new("broker session", broker),
    ]
}

/// Where pages are stored, and how.
fn storage(config: &PageserverSettings, disk: Arc<dyn blobs::Disk>) -> Result<(Storage, Shared), StartError> {
    let url = config.storage_url();
    if let Some(dir) = url.strip_prefix("file://") {
        create_dir_durably(Path::new(dir)).map_err(|e| StartError::Storage(format!("{dir}: {e}")))?;
    }
    let runtime = tokio::runtime::Handle::current();
    let storage = Storage::from_url(&url, std::env::vars(), disk, runtime);
    let storage = storage.map_err(|e| StartError::Storage(e.to_string()))?;
    tracing::info!(%url, "pages are stored");
    // The fourth part is for built pages.
    let cache = BlockCache::new(config.cache_bytes as u64 / 4 * 3);
    Ok((storage, Shared::new(config.store(), cache)))
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |source| StartError::Listen { address, source };
    let listener = node::bind_tcp(address).map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}
