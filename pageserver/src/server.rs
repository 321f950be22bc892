//! The process: what starts in which order, and what stops.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blobs::Storage;
use broker::{Broker, one_process};
use disk::{Disk, FsDisk};
use node::parts::Part;
use node::server::{LastStep, OpenNode, RunningServer, StartError, open_node};
use node::{BoundHttp, SessionPlaces, exit, serve_sessions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::PageserverSettings;
use crate::manager;
use crate::process::Pageserver;
use crate::store::{BlockCache, StoreShared};
use crate::{attach, http, net};

/// What it is called, in its directory, on the broker and in the log.
const KIND: &str = "pageserver";
/// How long streams get at shutdown to bring what they hold to disk.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long the tasks of timelines may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// After so long, jobs that block do not go on to their ends: what they would have taken in is received again.
const JOB_LIMIT: Duration = Duration::from_millis(300);
/// How long taking our keys off the broker may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// Starts a pageserver; returns when both ports answer. It stops when `cancel` is cancelled.
///
/// # Errors
/// See [`StartError`].
pub async fn start(config: PageserverSettings, cancel: CancellationToken) -> Result<RunningServer, StartError> {
    start_parts(config, cancel, Arc::new(FsDisk), |parts| parts).await.map(|(server, _)| server)
}

/// `disk` and `change` are for tests: the second one sees the parts before they start.
pub(crate) async fn start_parts(
    config: PageserverSettings,
    cancel: CancellationToken,
    disk: Arc<dyn Disk>,
    change: impl FnOnce(Vec<Part>) -> Vec<Part>,
) -> Result<(RunningServer, Arc<Pageserver>), StartError> {
    let broker = Broker::new(&config.process.broker, &config.process.broker_prefix);
    let broker = broker.map_err(|e| StartError::own(exit::USAGE, e))?;
    let key = broker.keys().pageserver(config.node.id);
    let alone = async |pg: &str, http: &str| one_process(&broker, KIND, &key, (pg, http)).await;
    let OpenNode { data_dir, pg, pg_address, advertise_pg, http, advertise_http } =
        open_node(KIND, (&config.node, &config.process), alone).await?;
    let http_address = http.address();
    let pages = storage(&config, Arc::clone(&disk))?;
    let advertise = (advertise_pg, advertise_http);
    let node = Pageserver::new(config, broker, disk, pages, advertise, cancel.clone());
    let unread = |e| StartError::own(exit::ERROR, format!("data directory cannot be read: {e}"));
    attach::open::open_all(&node).await.map_err(unread)?;
    node.publish();
    tokio::spawn(stop_jobs(Arc::clone(&node)));
    let parts = change(parts(&node, pg, http));
    let server = RunningServer::start(KIND, http_address, parts, last_steps(&node), cancel);
    let (id, timelines) = (node.config.node.id, node.timelines().len());
    tracing::info!(%id, pg = %pg_address, http = %http_address, timelines, "pageserver started");
    Ok((server.holding(data_dir, pg_address), node))
}

/// Everything that must not die.
fn parts(node: &Arc<Pageserver>, pg: TcpListener, http: BoundHttp) -> Vec<Part> {
    let (cancel, session) = (node.shutdown.clone(), node.session.clone());
    // Places are kept for pushes.
    let places = SessionPlaces::new(KIND, node.config.node.pg_connections_max);
    let serving = Arc::clone(node);
    let serve = move |stream, place| net::session::serve(stream, place, Arc::clone(&serving));
    vec![
        Part::new("libpq listener", serve_sessions(pg, places, DRAIN_LIMIT, cancel.clone(), serve)),
        Part::new("HTTP interface", http.serve(http::router(node), http::KNOWN, cancel.clone())),
        Part::new("follower of the broker", manager::follow::run(node.clone())),
        Part::new("watch of timelines", manager::watch::run(node.clone())),
        Part::until("broker session", cancel, async move { session.ended().await }),
    ]
}

/// Streams have brought what they hold to disk; now the tasks of timelines end. Then the keys leave the broker, so that
/// nobody is asked to push here.
fn last_steps(node: &Arc<Pageserver>) -> Vec<LastStep> {
    let (ending, leaving) = (Arc::clone(node), Arc::clone(node));
    let tasks = async move {
        ending.tasks.close();
        ending.tasks.wait().await;
    };
    let farewell = async move {
        leaving.stop_jobs();
        leaving.session.close(FAREWELL_LIMIT).await;
    };
    vec![
        LastStep::new("ending the tasks of timelines", STOP_LIMIT, tasks),
        LastStep::new("leaving the broker", FAREWELL_LIMIT * 2, farewell),
    ]
}

/// Once the server stops, jobs that block get a moment and no more.
async fn stop_jobs(node: Arc<Pageserver>) {
    node.shutdown.cancelled().await;
    tokio::time::sleep(JOB_LIMIT).await;
    node.stop_jobs();
}

/// Where pages are stored, and how.
fn storage(config: &PageserverSettings, disk: Arc<dyn Disk>) -> Result<(Storage, StoreShared), StartError> {
    let unusable = |problem: String| StartError::own(exit::ERROR, format!("storage: {problem}"));
    let url = config.storage_url();
    if let Some(dir) = url.strip_prefix("file://") {
        disk::create_dir_durably(&*disk, Path::new(dir)).map_err(|e| unusable(format!("{dir}: {e}")))?;
    }
    let runtime = tokio::runtime::Handle::current();
    let storage = Storage::from_url(&url, std::env::vars(), disk, runtime);
    let storage = storage.map_err(|e| unusable(e.to_string()))?;
    tracing::info!(%url, "pages are stored");
    // The fourth part is for built pages.
    let cache = BlockCache::new(config.cache_bytes as u64 / 4 * 3);
    Ok((storage, StoreShared::new(config.store(), cache)))
}
