//! `walfabric up`: makes or resumes a fabric of separate processes and waits until it protects commits.

pub mod command;
pub(crate) mod directory;
mod undo;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proto::Lsn;
use proto::api::{PageserverTimelineStatus, ShimStatus, shown};
use proto::id::{NodeId, TenantTimelineId};
use tokio_util::sync::CancellationToken;

use crate::fabric::{
    BrokerEntry, Fabric, FabricDir, FabricPlan, NodeEntry, PostgresEntry, ProcessPlan, ReadyProbe, ShimEntry, StopStyle,
};
use crate::http::Http;
use crate::postgres::InitdbOptions;
use crate::supervisor::{self, Client, SupervisorRequest};
use crate::usage::UsageError;
use crate::{import, ports, postgres, protect, ready, sql, timeline};

/// How long a broker that is not ours may take to answer.
const BROKER_PATIENCE: Duration = Duration::from_secs(5);
/// How long one process may take until it answers.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// What `up` was asked for.
#[derive(Clone, Debug)]
pub struct UpArgs {
    /// Where everything lives.
    pub dir: PathBuf,
    /// How many safekeepers; `None`: 3, or as the directory has it.
    pub safekeepers: Option<u64>,
    /// How many pageservers; `None`: 1, or as the directory has it.
    pub pageservers: Option<u64>,
    /// `embedded` or a URL; `None`: embedded, or as the directory has it.
    pub broker: Option<String>,
    /// Directory of PostgreSQL's programs.
    pub pg_bin: Option<PathBuf>,
    /// `s3://bucket/prefix` or `file:///dir` for the pages, each pageserver in a folder of its own; `None`: in the
    /// fabric's directory, or as the directory has it.
    pub remote_storage: Option<String>,
    /// Neither PostgreSQL nor shim.
    pub no_postgres: bool,
    /// What the cluster is made with, beside what is needed; empty: nothing, or as the directory has it.
    pub initdb: InitdbOptions,
    /// As whom the processes are to run, which must be the caller: root has become that user before.
    pub run_as: Option<String>,
    /// Restart what dies by itself.
    pub supervise: bool,
}

/// Makes or resumes the fabric; prints a line per step. When it fails, what it started is stopped again.
///
/// # Errors
/// When a process does not come up, the fabric does not protect commits in the end, or `interrupted` comes.
pub async fn up(args: &UpArgs, interrupted: &CancellationToken) -> Result<Fabric> {
    let dir = FabricDir::new(&args.dir)?;
    directory::check_user(args.run_as.as_deref())?;
    directory::check_reachable(dir.root())?;
    let fresh = !dir.fabric_json().exists();
    directory::check(&dir, fresh)?;
    let undo = undo::Undo::begin(&dir, fresh)?;
    if fresh {
        create_files(args, &dir)?;
    } else {
        directory::make(&dir)?;
        check_same(args, &dir)?;
    }
    let came = interrupted.run_until_cancelled(bring_up(&dir)).await;
    came.unwrap_or_else(|| Err(anyhow::anyhow!("interrupted"))).map_err(|e| undo.back(&dir, &e))
}

async fn bring_up(dir: &FabricDir) -> Result<Fabric> {
    let began = Instant::now();
    let fabric = dir.read_fabric()?;
    if !fabric.broker.embedded {
        // Nothing is made for a broker that is not there.
        let (url, deadline) = (&fabric.broker.endpoint, Instant::now() + BROKER_PATIENCE);
        while let Err(e) = ready::ask(&ReadyProbe::Broker(url.clone())).await {
            ensure!(Instant::now() < deadline, "broker {url} does not answer within {BROKER_PATIENCE:?}: {e:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    if let Some(folder) = fabric.remote_storage.as_ref().and_then(|url| url.strip_prefix("file://")) {
        directory::check_reachable(Path::new(folder))?;
        directory::make_dirs(Path::new(folder))?;
    }
    ensure_supervisor(dir)?;
    println!("fabric in {}, tenant {}, timeline {}", dir.root().display(), fabric.tenant_id, fabric.timeline_id);

    if fabric.broker.embedded {
        start(dir, "broker").await?;
    }
    println!("broker       {}{}", fabric.broker.endpoint, if fabric.broker.embedded { " (embedded)" } else { "" });
    let names = fabric.safekeepers.iter().map(|s| (format!("safekeeper-{}", s.id), &s.pg));
    let nodes: Vec<_> =
        names.chain(fabric.pageservers.iter().map(|p| (format!("pageserver-{}", p.id), &p.pg))).collect();
    futures::future::try_join_all(nodes.iter().map(|(name, _)| start(dir, name))).await?;
    nodes.iter().for_each(|(name, pg)| println!("{name:<12} {pg}"));

    if let Some(pg) = fabric.postgres.clone() {
        up_postgres(dir, &fabric, &pg).await?;
    }
    let fabric = dir.read_fabric()?;
    println!("up in {:.1} s", began.elapsed().as_secs_f64());
    Ok(fabric)
}

async fn up_postgres(dir: &FabricDir, fabric: &Fabric, pg: &PostgresEntry) -> Result<()> {
    if !pg.data_dir.exists() {
        postgres::create_cluster(&pg.bin_dir, &pg.data_dir, pg.port, None, &pg.initdb)?;
    }
    start(dir, "postgres").await?;
    let client = sql::connect(&pg.conninfo()).await?;
    let served = sql::text(&client, "SHOW data_directory").await?;
    let ours = std::fs::canonicalize(&served).is_ok_and(|at| Some(at) == std::fs::canonicalize(&pg.data_dir).ok());
    ensure!(ours, "the PostgreSQL at {}:{} is another one: its data is in {served}", pg.host, pg.port);
    let version = sql::text(&client, "SHOW server_version").await?;
    println!("postgres     {}:{} (version {version})", pg.host, pg.port);
    let create = timeline::CreateArgs {
        primary: pg.conninfo(),
        broker: fabric.broker.endpoint.clone(),
        broker_prefix: fabric.broker.prefix.clone(),
        ttid: TenantTimelineId::new(fabric.tenant_id, fabric.timeline_id),
        safekeepers: fabric.safekeepers.iter().map(|s| s.id).collect(),
        pageservers: fabric.pageservers.iter().map(|p| p.id).collect(),
        import: true,
        // What an interrupted `up` takes back is more than this.
        interrupted: CancellationToken::new(),
    };
    let created = timeline::create(&create).await.context("cannot create the timeline")?;
    println!("timeline     starts at {}", created.start_lsn);
    start(dir, "shim").await?;
    let protect = protect::ProtectArgs {
        primary: pg.conninfo(),
        timeline: fabric.timeline_id,
        shim: fabric.shim.as_ref().map(|s| s.http.clone()),
        replace: false,
        patience: READY_PATIENCE,
    };
    protect::protect(&protect).await?;
    wait_protected(dir, fabric).await?;
    println!("shim         streams, commits wait for the quorum");
    let lsn = durable_commit(pg).await?;
    let addresses: Vec<_> = fabric.pageservers.iter().map(|p| (NodeId(p.id), p.http.clone())).collect();
    import::follow(&addresses, create.ttid, "the shim must run", &mut |line| println!("             {line}")).await?;
    wait_pageservers(fabric, lsn).await?;
    println!("first commit durable on the quorum and ingested by the pageserver at {lsn}");
    Ok(())
}

/// Commits a transaction under synchronous replication; its end is where the WAL stands afterwards, at the most.
async fn durable_commit(pg: &PostgresEntry) -> Result<Lsn> {
    let client = sql::connect(&pg.conninfo()).await?;
    let commit = client.batch_execute("BEGIN; SELECT pg_current_xact_id(); COMMIT");
    tokio::time::timeout(READY_PATIENCE, commit).await.context("a commit does not become quorum-durable")??;
    Ok(sql::text(&client, "SELECT pg_current_wal_flush_lsn()").await?.parse()?)
}

async fn wait_protected(dir: &FabricDir, fabric: &Fabric) -> Result<()> {
    let Some(shim) = &fabric.shim else { return Ok(()) };
    let http = Http::new(Duration::from_secs(1))?;
    let deadline = Instant::now() + READY_PATIENCE;
    loop {
        let why = match http.get::<ShimStatus>(&shim.http, "/v1/status").await {
            Ok(status) if status.protected => return Ok(()),
            Ok(status) => status.reasons.join("; "),
            Err(e) => format!("{e:#}"),
        };
        if Instant::now() > deadline {
            bail!("commits are not protected: {why}; the end of the shim's log:\n{}", ready::log_tail(dir, "shim"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until every pageserver has ingested up to `lsn`, which may lie behind padding: the last record's end counts.
async fn wait_pageservers(fabric: &Fabric, lsn: Lsn) -> Result<()> {
    let http = Http::new(Duration::from_secs(1))?;
    let path = format!("/v1/tenant/{}/timeline/{}", fabric.tenant_id, fabric.timeline_id);
    let deadline = Instant::now() + READY_PATIENCE;
    for node in &fabric.pageservers {
        loop {
            let status = http.get::<PageserverTimelineStatus>(&node.http, &path).await;
            if status.as_ref().is_ok_and(|s| s.last_record_lsn >= Some(lsn)) {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "pageserver {} has not ingested {lsn}: {}",
                node.id,
                status.map_or_else(
                    |e| format!("{e:#}"),
                    |s| format!("it is at {}, {}", shown(s.last_record_lsn), s.state)
                )
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Starts a process and waits until it answers.
///
/// # Errors
/// When the supervisor refuses, or the process ends or stays silent.
pub async fn start(dir: &FabricDir, name: &str) -> Result<()> {
    let mut client = Client::connect(dir).context("the supervisor is gone: see log/supervisor.log")?;
    let reply = client.ask(&SupervisorRequest::Start { name: name.to_owned() })?;
    if let Some(error) = reply.error {
        bail!("{error}");
    }
    let plan = dir.read_plan()?;
    let process = plan.processes.get(name).with_context(|| format!("no process is called {name}"))?;
    ready::wait_ready(dir, name, &process.ready, READY_PATIENCE).await
}

fn create_files(args: &UpArgs, dir: &FabricDir) -> Result<()> {
    let (safekeepers, pageservers) = (args.safekeepers.unwrap_or(3), args.pageservers.unwrap_or(1));
    ensure!((1..=32).contains(&safekeepers), "--safekeepers {safekeepers}: 1 to 32 are possible");
    ensure!(pageservers <= 32, "--pageservers {pageservers}: at most 32 are possible");
    let count = 3 + 2 * (safekeepers + pageservers);
    let mut ports = ports::free(usize::try_from(count)?)?.into_iter();
    let mut address = || ports.next().map(|p| format!("127.0.0.1:{p}")).context("out of ports");
    let broker = match args.broker.as_deref() {
        None | Some("embedded") => BrokerEntry {
            endpoint: format!("http://{}", address()?),
            prefix: proto::broker::keys::DEFAULT_PREFIX.to_owned(),
            embedded: true,
            pid: None,
        },
        Some(url) => BrokerEntry {
            endpoint: url.to_owned(),
            prefix: proto::broker::keys::DEFAULT_PREFIX.to_owned(),
            embedded: false,
            pid: None,
        },
    };
    let mut node = |kind: &str, id: u64| -> Result<NodeEntry> {
        Ok(NodeEntry { id, pg: address()?, http: address()?, data_dir: dir.data(&format!("{kind}-{id}")), pid: None })
    };
    let safekeepers = (1..=safekeepers).map(|id| node("safekeeper", id)).collect::<Result<Vec<_>>>()?;
    let pageservers = (1..=pageservers).map(|id| node("pageserver", id)).collect::<Result<Vec<_>>>()?;
    let ttid = timeline::random_ttid();
    let (postgres, shim) = if args.no_postgres {
        (None, None)
    } else {
        let bin_dir = postgres::find_bin_dir(args.pg_bin.as_deref())?;
        let port = address()?.parse::<SocketAddr>()?.port();
        let (host, user, dbname) = ("127.0.0.1".to_owned(), "postgres".to_owned(), "postgres".to_owned());
        let (data_dir, initdb) = (dir.data("postgres"), args.initdb.clone());
        let pg = PostgresEntry { host, port, user, dbname, data_dir, bin_dir, initdb, pid: None };
        (Some(pg), Some(ShimEntry { http: address()?, pid: None }))
    };
    let fabric = Fabric {
        schema: 1,
        broker,
        tenant_id: ttid.tenant_id,
        timeline_id: ttid.timeline_id,
        postgres,
        shim,
        safekeepers,
        pageservers,
        remote_storage: args.remote_storage.clone(),
    };
    let plan = plan(&fabric, dir, args.supervise)?;
    // Only now that nothing is amiss with what was asked for.
    directory::make(dir)?;
    dir.write_plan(&plan)?;
    dir.write_fabric(&fabric)
}

/// Resuming takes the directory as it is; parameters that say otherwise are a mistake of the caller's.
fn check_same(args: &UpArgs, dir: &FabricDir) -> Result<()> {
    let fabric = dir.read_fabric()?;
    let differ = |what: &str, asked: String, there: String| {
        let root = dir.root().display();
        Err(UsageError(format!("{root} has {there} {what}, not {asked}: use another --dir, or leave the option out"))
            .into())
    };
    let counts = [
        ("safekeepers", args.safekeepers, fabric.safekeepers.len()),
        ("pageservers", args.pageservers, fabric.pageservers.len()),
    ];
    for (what, asked, there) in counts {
        if let Some(asked) = asked.filter(|n| usize::try_from(*n) != Ok(there)) {
            return differ(what, asked.to_string(), there.to_string());
        }
    }
    if let Some(broker) = &args.broker {
        let there = if fabric.broker.embedded { "embedded" } else { fabric.broker.endpoint.as_str() };
        if broker != there {
            return differ("as its broker", broker.clone(), there.to_owned());
        }
    }
    if let Some(url) = args.remote_storage.as_ref().filter(|url| fabric.remote_storage.as_ref() != Some(url)) {
        let there = fabric.remote_storage.clone().unwrap_or_else(|| "its own directory".to_owned());
        return differ("as its storage", url.clone(), there);
    }
    let mut plan = plan(&fabric, dir, args.supervise)?;
    if let (Some(pg_bin), Some(pg)) = (&args.pg_bin, &fabric.postgres) {
        ensure!(
            std::path::absolute(pg_bin)? == pg.bin_dir,
            "{} was made with --pg-bin {}",
            dir.root().display(),
            pg.bin_dir.display()
        );
    }
    if let Some(pg) = fabric.postgres.as_ref().filter(|pg| !args.initdb.is_empty() && args.initdb != pg.initdb) {
        return differ("as its options of initdb", args.initdb.to_string(), pg.initdb.to_string());
    }
    // Without --supervise on resume, what was chosen at first stays.
    plan.supervise |= dir.read_plan().is_ok_and(|p| p.supervise);
    dir.write_plan(&plan)
}

fn plan(fabric: &Fabric, dir: &FabricDir, supervise: bool) -> Result<FabricPlan> {
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    let exe = exe.to_str().context("this program's path is not UTF-8")?.to_owned();
    let text = |p: &Path| p.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", p.display()));
    let mut plan = FabricPlan { supervise, ..FabricPlan::default() };
    let mut add = |name: String, argv: Vec<String>, stop, ready| {
        plan.processes.insert(name, ProcessPlan { argv, stop, ready });
    };
    let own = |verb: &str, args: &[(&str, String)]| -> Vec<String> {
        let pairs = args.iter().flat_map(|(k, v)| [(*k).to_owned(), v.clone()]);
        [exe.clone(), verb.to_owned()].into_iter().chain(pairs).collect()
    };
    let broker = &fabric.broker;
    if broker.embedded {
        let listen = broker.endpoint.trim_start_matches("http://").to_owned();
        let argv = own("broker", &[("--dir", text(&dir.data("broker"))?), ("--listen", listen)]);
        add("broker".to_owned(), argv, StopStyle::Terminate, ReadyProbe::Broker(broker.endpoint.clone()));
    }
    let nodes = fabric.safekeepers.iter().map(|n| ("safekeeper", n));
    for (kind, node) in nodes.chain(fabric.pageservers.iter().map(|n| ("pageserver", n))) {
        let mut args = vec![
            ("--id", node.id.to_string()),
            ("--data-dir", text(&node.data_dir)?),
            ("--listen-pg", node.pg.clone()),
            ("--listen-http", node.http.clone()),
            ("--broker", broker.endpoint.clone()),
            ("--broker-prefix", broker.prefix.clone()),
        ];
        if kind == "pageserver" {
            let root = match &fabric.remote_storage {
                Some(url) => url.trim_end_matches('/').to_owned(),
                None => format!("file://{}", text(&dir.data("remote"))?),
            };
            args.push(("--remote-storage", format!("{root}/pageserver-{}", node.id)));
        }
        let ready = ReadyProbe::Livez(node.http.clone());
        add(format!("{kind}-{}", node.id), own(kind, &args), StopStyle::Terminate, ready);
    }
    if let (Some(pg), Some(shim)) = (&fabric.postgres, &fabric.shim) {
        let argv = vec![text(&pg.bin_dir.join("postgres"))?, "-D".to_owned(), text(&pg.data_dir)?];
        let ready = ReadyProbe::Postgres(pg.conninfo());
        add("postgres".to_owned(), argv, StopStyle::Postgres, ready);
        let safekeepers: Vec<&str> = fabric.safekeepers.iter().map(|s| s.pg.as_str()).collect();
        let args = [
            ("--primary", pg.conninfo()),
            ("--safekeepers", safekeepers.join(",")),
            ("--tenant-id", fabric.tenant_id.to_string()),
            ("--timeline-id", fabric.timeline_id.to_string()),
            ("--broker", broker.endpoint.clone()),
            ("--broker-prefix", broker.prefix.clone()),
            ("--listen-http", shim.http.clone()),
        ];
        let ready = ReadyProbe::Livez(shim.http.clone());
        add("shim".to_owned(), own("walproposer-shim", &args), StopStyle::Terminate, ready);
    }
    Ok(plan)
}

fn ensure_supervisor(dir: &FabricDir) -> Result<()> {
    if let Some(mut client) = Client::connect(dir) {
        let reply = client.ask(&SupervisorRequest::Reload)?;
        return reply.error.map_or(Ok(()), |e| bail!("{e}"));
    }
    end_strays(dir)?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.log("supervisor"));
    let log = log.context("cannot open log/supervisor.log")?;
    // Its path may lead through a directory that is closed to this user.
    let mut command = Command::new(supervisor::OWN_PROGRAM);
    command.arg0(std::env::current_exe()?).arg("supervise").arg("--dir").arg(dir.root()).current_dir(dir.root());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("cannot start the supervisor")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while Client::connect(dir).is_none() {
        if let Some(status) = child.try_wait()? {
            bail!("the supervisor ended ({status}): {}", ready::log_tail(dir, "supervisor"));
        }
        ensure!(Instant::now() < deadline, "the supervisor does not answer: see {}", dir.log("supervisor").display());
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Ends what a killed supervisor left running: only processes whose command line names this very fabric.
///
/// # Errors
/// When one of them does not die.
pub fn end_strays(dir: &FabricDir) -> Result<()> {
    let Ok(fabric) = dir.read_fabric() else { return Ok(()) };
    let timeline = fabric.timeline_id.to_string();
    // A directory of its own is among the arguments of each but the shim.
    let belongs = |pid: u32| {
        let arguments = supervisor::arguments(pid);
        arguments.iter().any(|word| *word == *timeline || Path::new(word).starts_with(dir.root()))
    };
    let strays: Vec<u32> = fabric.pids().into_iter().map(|(_, pid)| pid).filter(|p| belongs(*p)).collect();
    let family: Vec<u32> =
        strays.iter().flat_map(|p| supervisor::descendants(*p)).chain(strays.iter().copied()).collect();
    for pid in family.iter().filter_map(|p| rustix::process::Pid::from_raw(i32::try_from(*p).ok()?)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    // A zombie still counts: PostgreSQL takes the pid in its lock file for a living postmaster until init has reaped
    // it.
    while family.iter().any(|p| supervisor::exists(*p)) {
        ensure!(Instant::now() < deadline, "processes {family:?} of a dead supervisor do not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
