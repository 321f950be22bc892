//! The process: what its parts share, and the order in which they start and stop.
//!
//! Start: lock, timelines, broker session, listeners. Stop: no new connections, sessions and pushes end, everything
//! received is made durable, the keys leave the broker, the lock goes last. A broker that is away delays neither.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::api::SafekeeperTimelineStatus;
use proto::broker::records::{NodeRecord, SCHEMA};
use proto::broker::{Broker, BrokerError, Session};
use proto::runtime::datadir::{DataDir, DataDirError};
use proto::runtime::{RepeatLogs, exit};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::measured::{DiskMetrics, MeasuredDisk};
use crate::metrics::Metrics;
use crate::net::streams::Streams;
use crate::push::PushBoard;
use crate::storage::disk::FsDisk;
use crate::timeline::{RegistryError, TimelineHandle, Timelines, TimelinesConfig};
use crate::{admission, announce, http, net, push, relay};

/// Lifetime of the node's lease: how long a dead safekeeper still looks alive.
const LEASE_S: i64 = 10;

/// How long the broker gets to take our keys away at an orderly stop.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// What every part of the process may use.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) timelines: Timelines,
    pub(crate) metrics: Metrics,
    pub(crate) broker: Broker,
    pub(crate) session: Session,
    pub(crate) pushes: PushBoard,
    pub(crate) streams: Arc<Streams>,
    /// Refused commands, in the log, by SQLSTATE.
    pub(crate) refusals: RepeatLogs,
    pub(crate) started: Instant,
    pub(crate) advertise_pg: String,
    pub(crate) advertise_http: String,
    /// Cancelled when the server stops.
    pub(crate) cancel: CancellationToken,
}

impl Context {
    /// Everything about a timeline, as HTTP and SHOW TIMELINE give it.
    pub(crate) fn timeline_status(&self, handle: &TimelineHandle) -> SafekeeperTimelineStatus {
        SafekeeperTimelineStatus { pushes: self.streams.pushes_of(handle.ttid()), ..handle.status() }
    }

    /// This node, as published.
    pub(crate) fn node_record(&self) -> NodeRecord {
        NodeRecord {
            schema: SCHEMA,
            id: self.config.id,
            pg: self.advertise_pg.clone(),
            http: self.advertise_http.clone(),
            availability_zone: self.config.availability_zone.clone(),
            version: crate::VERSION.to_owned(),
        }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The timelines in it.
    #[error(transparent)]
    Timelines(#[from] RegistryError),
    /// The broker's URL.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A listener.
    #[error("listening on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A part of the start-up panicked.
    #[error("opening the timelines: {0}")]
    Panicked(JoinError),
}

impl StartError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::DataDir(DataDirError::OtherNode { .. }) | StartError::Broker(_) => exit::USAGE,
            StartError::DataDir(DataDirError::BadIdFile { .. })
            | StartError::Timelines(RegistryError::Corrupt { .. }) => exit::CORRUPTION,
            StartError::DataDir(_) | StartError::Timelines(_) | StartError::Listen { .. } | StartError::Panicked(_) => {
                exit::ERROR
            }
        }
    }
}

/// A safekeeper that runs.
pub struct Server {
    ctx: Arc<Context>,
    tasks: JoinSet<()>,
    session_end: CancellationToken,
    pg: SocketAddr,
    http: SocketAddr,
    _data_dir: DataDir,
}

impl Server {
    /// Starts everything; returns when connections are accepted. Stops when `cancel` is cancelled: see
    /// [`Server::stopped`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config, cancel: CancellationToken) -> Result<Server, StartError> {
        let data_dir = DataDir::open(&config.data_dir, "safekeeper", config.id)?;
        let metrics = Metrics::new();
        let timelines = open_timelines(&config, metrics.disk.clone()).await?;
        let (pg_listener, pg) = bind(config.listen_pg).await?;
        let (http_listener, http) = bind(config.listen_http).await?;
        if !pg.ip().is_loopback() {
            warn!(address = %pg, "anyone who reaches this address is trusted");
        }
        let broker = Broker::new(&config.broker, &config.broker_prefix)?;
        // Outlives `cancel`: the keys are taken away at the very end.
        let session_end = CancellationToken::new();
        let session = Session::start(broker.clone(), LEASE_S, session_end.clone());
        let ctx = Arc::new(Context {
            timelines,
            metrics,
            broker,
            session,
            pushes: PushBoard::default(),
            streams: Arc::default(),
            refusals: RepeatLogs::new("refused"),
            started: Instant::now(),
            advertise_pg: config.advertise_pg.clone().unwrap_or_else(|| pg.to_string()),
            advertise_http: config.advertise_http.clone().unwrap_or_else(|| http.to_string()),
            cancel,
            config,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(net::listen::run(pg_listener, Arc::clone(&ctx)));
        tasks.spawn(http::serve(http_listener, Arc::clone(&ctx)));
        tasks.spawn(push::run(Arc::clone(&ctx)));
        tasks.spawn(announce::run(Arc::clone(&ctx)));
        tasks.spawn(admission::run(Arc::clone(&ctx)));
        tasks.spawn(relay::run(Arc::clone(&ctx)));
        let timelines = ctx.timelines.list().len();
        info!(id = %ctx.config.id, %pg, %http, timelines, version = crate::VERSION, "safekeeper runs");
        Ok(Server { ctx, tasks, session_end, pg, http, _data_dir: data_dir })
    }

    /// Address of the libpq listener.
    pub fn pg_address(&self) -> SocketAddr {
        self.pg
    }

    /// Address of the HTTP listener.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Waits for the token given to [`Server::start`], then stops everything in order. Returns an exit code.
    pub async fn stopped(mut self) -> u8 {
        let mut code = exit::OK;
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(e) = ended {
                error!(error = %e, "a part of the server failed: stopping");
                code = exit::ERROR;
            }
            // No part ends by itself; without one of them the rest is of no use.
            self.ctx.cancel.cancel();
        }
        self.ctx.timelines.shutdown().await;
        self.ctx.session.close(FAREWELL_MAX).await;
        self.session_end.cancel();
        info!("safekeeper stopped");
        code
    }
}

async fn open_timelines(config: &Config, measured: DiskMetrics) -> Result<Timelines, StartError> {
    let settings = TimelinesConfig {
        rings_bytes: config.rings_bytes,
        ..TimelinesConfig::new(config.data_dir.clone(), config.id, config.allow_implicit_timelines)
    };
    let disk = Arc::new(MeasuredDisk::new(FsDisk, measured));
    let opening = tokio::task::spawn_blocking(move || Timelines::open(disk, settings));
    Ok(opening.await.map_err(StartError::Panicked)??)
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((listener, bound))
}
