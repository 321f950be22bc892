//! The process: what its parts share, and the order in which they start and stop.
//!
//! Start: lock, timelines, broker session, listeners. Stop: no new connections, sessions and pushes end, everything
//! received is made durable, the keys leave the broker, the lock goes last. A broker that is away delays neither.

use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Broker, Session, one_process};
use disk::FsDisk;
use node::parts::{Part, panic_of};
use node::server::{LastStep, OpenNode, RunningServer, StartError, open_node};
use node::{BoundHttp, RepeatLogs, SessionPlaces, exit, serve_sessions};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::SafekeeperSettings;
use crate::context::{SafekeeperContext, VERSION};
use crate::measured::{DiskMetrics, MeasuredDisk};
use crate::metrics::SafekeeperMetrics;
use crate::push::board::PushBoard;
use crate::timeline::{RegistryError, Timelines, TimelinesConfig};
use crate::{admission, announce, http, net, push, relay};

/// What it is called, in its directory, on the broker and in the log.
const KIND: &str = "safekeeper";

/// Lifetime of the node's lease: how long a dead safekeeper still looks alive.
const LEASE_S: i64 = 10;

/// How long open sessions get to end by themselves at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what was received may take to become durable at an orderly stop: a disk that hangs holds the process no
/// longer, which is then as safe as after a kill.
const FLUSH_MAX: Duration = Duration::from_secs(60);

/// How long the broker gets to take our keys away at an orderly stop.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Starts a safekeeper; returns when connections are accepted. It stops when `cancel` is cancelled.
///
/// # Errors
/// See [`StartError`].
pub async fn start(config: SafekeeperSettings, cancel: CancellationToken) -> Result<RunningServer, StartError> {
    start_parts(config, cancel, |parts| parts).await.map(|(server, _)| server)
}

/// `change` is for tests: it sees the parts before they start.
async fn start_parts(
    config: SafekeeperSettings,
    cancel: CancellationToken,
    change: impl FnOnce(Vec<Part>) -> Vec<Part>,
) -> Result<(RunningServer, Arc<SafekeeperContext>), StartError> {
    let broker = Broker::new(&config.process.broker, &config.process.broker_prefix);
    let broker = broker.map_err(|e| StartError::own(exit::USAGE, e))?;
    let key = broker.keys().safekeeper(config.node.id);
    let alone = async |pg: &str, http: &str| one_process(&broker, KIND, &key, (pg, http)).await;
    let OpenNode { data_dir, pg, pg_address, advertise_pg, http, advertise_http } =
        open_node(KIND, (&config.node, &config.process), alone).await?;
    let http_address = http.address();
    let metrics = SafekeeperMetrics::new();
    let timelines = open_timelines(&config, metrics.disk.clone()).await?;
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
        cancel: cancel.clone(),
        config,
    });
    let parts = change(parts(&ctx, pg, http));
    let server = RunningServer::start(KIND, http_address, parts, last_steps(&ctx, session_end), cancel);
    let (id, timelines) = (ctx.config.node.id, ctx.timelines.list().len());
    tracing::info!(%id, pg = %pg_address, http = %http_address, timelines, version = VERSION, "safekeeper runs");
    Ok((server.holding(data_dir, pg_address), ctx))
}

/// Everything that must not die.
fn parts(ctx: &Arc<SafekeeperContext>, pg: TcpListener, http: BoundHttp) -> Vec<Part> {
    let (session, cancel) = (ctx.session.clone(), ctx.cancel.clone());
    // Places are kept for proposers.
    let places = SessionPlaces::new(KIND, ctx.config.node.pg_connections_max);
    let serving = Arc::clone(ctx);
    let serve = move |stream, place| net::session::serve(stream, place, Arc::clone(&serving));
    vec![
        Part::new("libpq listener", serve_sessions(pg, places, DRAIN_TIMEOUT, cancel.clone(), serve)),
        Part::new("HTTP interface", http.serve(http::router(ctx), http::KNOWN, cancel.clone())),
        Part::new("push reconciler", push::run(Arc::clone(ctx))),
        Part::new("announcer", announce::run(Arc::clone(ctx))),
        Part::new("admission", admission::run(Arc::clone(ctx))),
        Part::new("relay of positions", relay::run(Arc::clone(ctx))),
        Part::until("broker session", cancel, async move { session.ended().await }),
    ]
}

/// What was received becomes durable; then the keys leave the broker.
fn last_steps(ctx: &Arc<SafekeeperContext>, session_end: CancellationToken) -> Vec<LastStep> {
    let (flushed, leaving) = (Arc::clone(ctx), Arc::clone(ctx));
    let farewell = async move {
        leaving.session.close(FAREWELL_MAX).await;
        session_end.cancel();
    };
    vec![
        LastStep::new("making WAL durable", FLUSH_MAX, async move { flushed.timelines.shutdown().await }),
        LastStep::new("leaving the broker", FAREWELL_MAX * 2, farewell),
    ]
}

async fn open_timelines(config: &SafekeeperSettings, measured: DiskMetrics) -> Result<Timelines, StartError> {
    let settings = TimelinesConfig {
        rings_bytes: config.rings_bytes,
        ..TimelinesConfig::new(config.node.data_dir.clone(), config.node.id, config.allow_implicit_timelines)
    };
    let disk = Arc::new(MeasuredDisk::new(FsDisk, measured));
    let opening = tokio::task::spawn_blocking(move || Timelines::open(disk, settings)).await;
    let panicked = |e| StartError::own(exit::ERROR, format!("opening the timelines: {}", panic_of(e)));
    opening.map_err(panicked)?.map_err(|e| {
        let code = if matches!(e, RegistryError::Corrupt { .. }) { exit::CORRUPTION } else { exit::ERROR };
        StartError::own(code, e)
    })
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
    async fn create(ctx: &SafekeeperContext, last: u8) -> TimelineHandle {
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
        ctx.timelines.create(request, body).await.expect("created");
        ctx.timelines.get(state.ttid).expect("listed")
    }

    #[tokio::test]
    async fn a_panic_in_a_part_of_a_timeline_stops_that_one_and_readiness_says_why() {
        let (dir, cancel) = (tempfile::tempdir().expect("a directory"), CancellationToken::new());
        let (server, ctx) = start_parts(config(&dir), cancel.clone(), |parts| parts).await.expect("it starts");
        let good = create(&ctx, 0xD0).await;
        for (last, part) in [(0xD1, "driver"), (0xD2, "announcer")] {
            let ttid = TenantTimelineId::new(good.ttid().tenant_id, TimelineId::new([last; 16]));
            planted::plant(ttid, part);
            let handle = create(&ctx, last).await;
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
            let now = http::health::readiness(&ctx);
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
            let started = start_parts(config(&dir), CancellationToken::new(), plant).await;
            let stopped = started.expect("it starts").0.stopped();
            let code = tokio::time::timeout(Duration::from_secs(20), stopped).await.expect("it ends");
            assert_eq!(code, exit::ERROR, "part {planted}");
        }
    }
}
