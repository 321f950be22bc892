//! The process: what its parts share, and the order in which they start and stop.
//!
//! Start: lock, timelines, broker session, listeners. Stop: no new connections, sessions and pushes end, everything
//! received is made durable, the keys leave the broker, the lock goes last. A broker that is away delays neither.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Broker, BrokerError, Session};
use broker::{TwoProcesses, one_process};
use disk::FsDisk;
use node::datadir::{DataDir, DataDirError};
use node::parts::{Part, Parts};
use node::{RepeatLogs, TooFewDescriptors, claim_descriptors, exit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::SafekeeperSettings;
use crate::context::{SafekeeperContext, VERSION};
use crate::measured::{DiskMetrics, MeasuredDisk};
use crate::metrics::SafekeeperMetrics;
use crate::push::board::PushBoard;
use crate::timeline::{RegistryError, Timelines, TimelinesConfig};
use crate::{admission, announce, http, net, push, relay};

/// Lifetime of the node's lease: how long a dead safekeeper still looks alive.
const LEASE_S: i64 = 10;

/// How long the broker gets to take our keys away at an orderly stop.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The timelines in it.
    #[error(transparent)]
    Timelines(#[from] RegistryError),
    /// Another process lives under this id.
    #[error(transparent)]
    TwoProcesses(#[from] TwoProcesses),
    /// The limit of open files.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
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
            StartError::DataDir(e) if e.is_usage() => exit::USAGE,
            StartError::TwoProcesses(_) | StartError::Descriptors(_) | StartError::Broker(_) => exit::USAGE,
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
    ctx: Arc<SafekeeperContext>,
    parts: Parts,
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
    pub async fn start(config: SafekeeperSettings, cancel: CancellationToken) -> Result<Server, StartError> {
        Server::start_parts(config, cancel, |parts| parts).await
    }

    /// `change` is for tests: it sees the parts before they start.
    async fn start_parts(
        config: SafekeeperSettings,
        cancel: CancellationToken,
        change: impl FnOnce(Vec<Part>) -> Vec<Part>,
    ) -> Result<Server, StartError> {
        claim_descriptors(config.node.pg_connections_max + config.process.http_connections_max)?;
        let data_dir = DataDir::open(&config.node.data_dir, "safekeeper", config.node.id)?;
        let metrics = SafekeeperMetrics::new();
        let timelines = open_timelines(&config, metrics.disk.clone()).await?;
        let (pg_listener, pg) = bind(config.node.listen_pg).await?;
        let bound = node::bind_http(config.process.listen_http)
            .map_err(|source| StartError::Listen { address: config.process.listen_http, source })?
            .with_connections_max(config.process.http_connections_max);
        let http = bound.address();
        if !pg.ip().is_loopback() {
            warn!(address = %pg, "anyone who reaches this address is trusted");
        }
        let broker = Broker::new(&config.process.broker, &config.process.broker_prefix)?;
        let advertise_pg = config.node.advertise_pg.clone().unwrap_or_else(|| pg.to_string());
        let advertise_http = config.process.advertise_http.clone().unwrap_or_else(|| http.to_string());
        if !config.node.take_over {
            let key = broker.keys().safekeeper(config.node.id);
            one_process(&broker, "safekeeper", &key, (&advertise_pg, &advertise_http)).await?;
        }
        // Outlives `cancel`: the keys are taken away at the very end.
        let session_end = CancellationToken::new();
        let session = Session::start(broker.clone(), LEASE_S, session_end.clone());
        let ctx = Arc::new(SafekeeperContext {
            timelines,
            metrics,
            broker,
            session,
            pushes: PushBoard::default(),
            streams: Arc::default(),
            refusals: RepeatLogs::new("refused"),
            creations: Semaphore::new(1),
            started: Instant::now(),
            advertise_pg,
            advertise_http,
            cancel,
            config,
        });
        let parts = change(parts(&ctx, pg_listener, bound));
        let parts = Parts::start(parts, ctx.cancel.clone());
        let timelines = ctx.timelines.list().len();
        info!(id = %ctx.config.node.id, %pg, %http, timelines, version = VERSION, "safekeeper runs");
        Ok(Server { ctx, parts, session_end, pg, http, _data_dir: data_dir })
    }

    /// Address of the libpq listener.
    pub fn pg_address(&self) -> SocketAddr {
        self.pg
    }

    /// Address of the HTTP listener.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Waits for the token given to [`Server::start`], or for the end of a part, then stops everything in order.
    /// Returns an exit code.
    pub async fn stopped(self) -> u8 {
        // Logged there.
        let code = self.parts.ended().await.map_or(exit::ERROR, |()| exit::OK);
        self.ctx.timelines.shutdown().await;
        self.ctx.session.close(FAREWELL_MAX).await;
        self.session_end.cancel();
        info!("safekeeper stopped");
        code
    }
}

/// Everything that must not die.
fn parts(ctx: &Arc<SafekeeperContext>, pg: TcpListener, http: node::BoundHttp) -> Vec<Part> {
    let (session, cancel) = (ctx.session.clone(), ctx.cancel.clone());
    let broker = async move {
        cancel.run_until_cancelled(session.ended()).await;
    };
    vec![
        Part::new("libpq listener", net::listen::run(pg, Arc::clone(ctx))),
        Part::new("HTTP interface", http::serve(http, Arc::clone(ctx))),
        Part::new("push reconciler", push::run(Arc::clone(ctx))),
        Part::new("announcer", announce::run(Arc::clone(ctx))),
        Part::new("admission", admission::run(Arc::clone(ctx))),
        Part::new("relay of positions", relay::run(Arc::clone(ctx))),
        Part::new("broker session", broker),
    ]
}

async fn open_timelines(config: &SafekeeperSettings, measured: DiskMetrics) -> Result<Timelines, StartError> {
    let settings = TimelinesConfig {
        rings_bytes: config.rings_bytes,
        ..TimelinesConfig::new(config.node.data_dir.clone(), config.node.id, config.allow_implicit_timelines)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proto::api::CreateTimelineRequest;
    use proto::command::StartWalPush;
    use proto::consensus::ProtoVersion;
    use proto::id::{TenantTimelineId, TimelineId};
    use proto::pg::sqlstate;

    use crate::planted;
    use crate::storage::tests::{prehistory, state};
    use crate::timeline::TimelineHandle;

    fn config(dir: &tempfile::TempDir) -> SafekeeperSettings {
        let data = dir.path().join("data").display().to_string();
        let any = ["--id", "1", "--listen-pg", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"];
        let flags = [&any[..], &["--broker", "http://127.0.0.1:1", "--data-dir", &data]].concat();
        node::settings::from_flags::<SafekeeperSettings>(&flags).expect("valid")
    }

    /// A timeline whose id ends in `last`.
    async fn create(server: &Server, last: u8) -> TimelineHandle {
        let mut state = state();
        state.ttid.timeline_id = TimelineId::new([last; 16]);
        let body = prehistory(&state);
        let request = CreateTimelineRequest {
            tenant_id: state.ttid.tenant_id,
            timeline_id: state.ttid.timeline_id,
            mconf: state.mconf,
            pg_version_num: state.pg_version_num,
            system_id: state.system_id,
            wal_seg_size: state.seg_size,
            start_lsn: state.timeline_start_lsn.expect("a start"),
            source: state.source,
            primary_epoch: state.primary_epoch,
            pg_history: state.pg_history,
            prehistory_len: body.len() as u64,
        };
        server.ctx.timelines.create(request, body).await.expect("created");
        server.ctx.timelines.get(state.ttid).expect("listed")
    }

    #[tokio::test]
    async fn a_panic_in_a_part_of_a_timeline_stops_that_one_and_readiness_says_why() {
        let (dir, cancel) = (tempfile::tempdir().expect("a directory"), CancellationToken::new());
        let server = Server::start(config(&dir), cancel.clone()).await.expect("it starts");
        let good = create(&server, 0xD0).await;
        for (last, part) in [(0xD1, "driver"), (0xD2, "announcer")] {
            let ttid = TenantTimelineId::new(good.ttid().tenant_id, TimelineId::new([last; 16]));
            planted::plant(ttid, part);
            let handle = create(&server, last).await;
            let stopped = async {
                while handle.stopped().is_none() {
                    // The driver looks at its next command.
                    handle.poke();
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), stopped).await.expect("it stops");
            let why = format!("its {part} panicked: planted in the {part}");
            assert_eq!(handle.status().stopped, Some(why.clone()));
            let now = http::health::readiness(&server.ctx);
            assert!(!now.ready && now.reasons.contains(&format!("timeline {ttid} accepts no WAL: {why}")), "{now:?}");
            let command = StartWalPush {
                version: ProtoVersion::V3,
                allow_timeline_creation: false,
                primary_epoch: None,
                lazy_feedback: false,
            };
            assert_eq!(handle.connect_proposer(&command).expect_err("stopped").0.code, sqlstate::TIMELINE_STOPPED);
            assert!(good.stopped().is_none() && good.connect_proposer(&command).is_ok(), "its neighbour goes on");
        }
        cancel.cancel();
        assert_eq!(server.stopped().await, exit::OK);
    }

    #[tokio::test]
    async fn a_panic_in_any_part_ends_the_process_with_an_error() {
        for planted in 0..7 {
            let dir = tempfile::tempdir().expect("a directory");
            let plant = |mut parts: Vec<Part>| {
                assert_eq!(parts.len(), 7, "each part gets its panic");
                parts[planted] = Part::new(parts[planted].name(), async { panic!("planted") });
                parts
            };
            let server = Server::start_parts(config(&dir), CancellationToken::new(), plant).await;
            let stopped = server.expect("it starts").stopped();
            let code = tokio::time::timeout(Duration::from_secs(20), stopped).await.expect("it ends");
            assert_eq!(code, exit::ERROR, "part {planted}");
        }
    }
}
