//! Chaos that judges health: it kills, freezes, cuts off, fills and restarts. Meanwhile an observer polls every
//! `/readyz`, `/writable`, `status --check` and SHOW, and a client commits without pause. The run fails when a source
//! reports good for longer than 5 s while commits hang, or bad for longer than 5 s while everything works
//! (tests::check::health).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tests::check::health::{Look, Says, lies};
use tests::fabric::TestFabric;
use tests::health::{STRIKES, Strike, Striker};
use tests::wait::pass;
use walfabric::fabric::{Fabric, NodeEntry};
use walfabric::http::Http;
use walfabric::status::{NodeSource, Only, collect};

#[derive(Parser)]
#[command(about = "Breaks a real fabric and judges what its servers say about their health")]
struct Args {
    /// How long to make trouble
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Strike in this way only, by its place in the list (1, 2, ...); every way in turn without it
    #[arg(long)]
    only: Option<usize>,
}

/// How long a server may be wrong about its health.
const PATIENCE: Duration = Duration::from_secs(5);
/// A client that saw no commit for so long hangs.
const HANGS: Duration = Duration::from_secs(1);
/// How long a fault lasts, and how long everything then works: longer than the patience.
const HOLD: Duration = Duration::from_secs(8);
/// How long commits may take to come back when everything is as it was.
const COMEBACK: Duration = Duration::from_secs(30);
/// Between two looks.
const STEP: Duration = Duration::from_millis(250);

fn main() -> Result<()> {
    let args = Args::parse();
    let fabric = TestFabric::up(&[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(observed(&fabric, &args));
    if let Err(e) = result {
        let kept = fabric.keep();
        return Err(e.context(format!("files and logs are in {}", kept.display())));
    }
    Ok(())
}

/// What observer, client and faults share.
#[derive(Default)]
struct Shared {
    over: AtomicBool,
    whole: AtomicBool,
    commits: AtomicU64,
    looks: Mutex<Vec<Look>>,
}

async fn observed(fabric: &TestFabric, args: &Args) -> Result<()> {
    let striker = Striker::prepare(fabric).await?;
    let described = fabric.read()?;
    let shared = Arc::new(Shared::default());
    let conninfo = described.postgres.as_ref().context("no PostgreSQL")?.conninfo();
    let client = tokio::spawn(commit_for_ever(conninfo, Arc::clone(&shared)));
    let observer = tokio::spawn(observe(described, fabric.path(), Arc::clone(&shared)));
    let end = Instant::now() + Duration::from_secs(args.seconds);
    shared.whole.store(true, Ordering::Relaxed);
    pass(HOLD).await;
    let wanted = (1..).zip(&STRIKES).filter(|(n, s)| args.only.is_none_or(|only| only == *n) && striker.can(s));
    for (_, strike) in wanted.cycle() {
        if Instant::now() >= end {
            break;
        }
        round(&striker, strike, &shared).await?;
    }
    shared.over.store(true, Ordering::Relaxed);
    observer.await??;
    client.abort();
    let looks = std::mem::take(&mut *shared.looks());
    let hung = looks.iter().filter(|l| !l.commits).count();
    let commits = shared.commits.load(Ordering::Relaxed);
    println!("{} looks, {hung} of them while commits hung, {commits} commits", looks.len());
    let found = lies(&looks, PATIENCE);
    ensure!(found.is_empty(), "health was told wrong:\n  {}", found.join("\n  "));
    // The judge is judged: the same run with a shim that is always well must fail.
    let mut planted = looks;
    planted.iter_mut().flat_map(|l| &mut l.says).filter(|s| s.source == "shim /readyz").for_each(|s| s.good = true);
    ensure!(!lies(&planted, PATIENCE).is_empty(), "a readiness that always says good went unnoticed");
    println!("every source told the truth within {PATIENCE:?}; a planted lie is noticed");
    Ok(())
}

/// One strike, and the time after it.
async fn round(striker: &Striker<'_>, strike: &Strike, shared: &Shared) -> Result<()> {
    println!("{:?}", strike.faults);
    shared.whole.store(false, Ordering::Relaxed);
    striker.strike(strike).await?;
    pass(HOLD).await;
    // A strike that does not do what it is for would leave nothing to judge.
    ensure!(shared.commits_now() != strike.hangs, "{strike:?}: commits come back: {}", strike.hangs);
    striker.heal(strike)?;
    shared.whole.store(true, Ordering::Relaxed);
    let healed = Instant::now();
    let before = shared.commits.load(Ordering::Relaxed);
    while shared.commits.load(Ordering::Relaxed) == before {
        // No panic: the fabric is kept for a look at it.
        ensure!(healed.elapsed() < COMEBACK, "{strike:?}: no commit within {COMEBACK:?} after it was over");
        pass(STEP / 10).await;
    }
    println!("  commits came back {} ms after it was over", healed.elapsed().as_millis());
    pass(HOLD).await;
    Ok(())
}

impl Shared {
    fn looks(&self) -> MutexGuard<'_, Vec<Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether commits came back lately, as the last look has it.
    fn commits_now(&self) -> bool {
        self.looks().last().is_some_and(|look| look.commits)
    }
}

/// One commit after the other; a lost connection is made anew.
async fn commit_for_ever(conninfo: String, shared: Arc<Shared>) {
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await {
            let connection = tokio::spawn(connection);
            let made = client.simple_query("CREATE TABLE IF NOT EXISTS health_probe (i int)").await;
            while made.is_ok() && client.simple_query("INSERT INTO health_probe VALUES (1)").await.is_ok() {
                shared.commits.fetch_add(1, Ordering::Relaxed);
            }
            connection.abort();
        }
        pass(STEP).await;
    }
}

async fn observe(fabric: Fabric, dir: std::path::PathBuf, shared: Arc<Shared>) -> Result<()> {
    let (began, http) = (Instant::now(), Http::new(Duration::from_secs(1))?);
    let (mut commits, mut committed_at) = (0, Instant::now());
    while !shared.over.load(Ordering::Relaxed) {
        let says = ask(&http, &fabric, &dir).await;
        let now = shared.commits.load(Ordering::Relaxed);
        if now != commits {
            (commits, committed_at) = (now, Instant::now());
        }
        let look = Look {
            at: began.elapsed(),
            commits: committed_at.elapsed() < HANGS,
            whole: shared.whole.load(Ordering::Relaxed),
            says,
        };
        shared.looks().push(look);
        pass(STEP).await;
    }
    Ok(())
}

async fn ask(http: &Http, fabric: &Fabric, dir: &std::path::Path) -> Vec<Says> {
    let mut asked = Vec::new();
    if let Some(shim) = &fabric.shim {
        asked.push(("shim /readyz".to_owned(), true, shim.http.clone(), "/readyz"));
        asked.push(("shim /writable".to_owned(), true, shim.http.clone(), "/writable"));
    }
    for node in &fabric.safekeepers {
        asked.push((format!("safekeeper {} /readyz", node.id), false, node.http.clone(), "/readyz"));
    }
    for node in &fabric.pageservers {
        asked.push((format!("pageserver {} /readyz", node.id), false, node.http.clone(), "/readyz"));
    }
    let answers =
        futures::future::join_all(asked.into_iter().map(|(source, about_commits, address, path)| async move {
            Says { source, about_commits, good: http.get_ok(&address, path).await.is_ok() }
        }));
    let check = async {
        let status = collect(&NodeSource::Dir(dir.to_path_buf()), Only::default()).await;
        let good = status.is_ok_and(|s| !s.degraded());
        Says { source: "status --check".to_owned(), about_commits: true, good }
    };
    let (mut says, check, shown) = futures::join!(answers, check, show(fabric));
    says.push(check);
    says.extend(shown);
    says
}

/// SHOW TIMELINES of every safekeeper and pageserver: good while it lists the timeline and no reason why it is stopped.
async fn show(fabric: &Fabric) -> Vec<Says> {
    let named = |kind: &'static str, nodes: &'_ [NodeEntry]| {
        nodes.iter().map(|n| (format!("{kind} {} SHOW TIMELINES", n.id), n.pg.clone())).collect::<Vec<_>>()
    };
    let asked = [named("safekeeper", &fabric.safekeepers), named("pageserver", &fabric.pageservers)].concat();
    let ask = asked.into_iter().map(|(source, address)| async move {
        let good = tokio::time::timeout(Duration::from_secs(1), runs(&address)).await;
        let good = good.is_ok_and(|answer| answer.is_ok_and(|runs| runs));
        Says { source, about_commits: false, good }
    });
    futures::future::join_all(ask).await
}

async fn runs(address: &str) -> Result<bool> {
    let (host, port) = address.rsplit_once(':').context("host:port")?;
    let conninfo = format!("host={host} port={port} user=x dbname=x");
    let (client, connection) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let rows = client.simple_query("SHOW TIMELINES").await;
    connection.abort();
    let stopped = rows?.into_iter().filter_map(|m| match m {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get("stopped").is_some()),
        _ => None,
    });
    let all: Vec<bool> = stopped.collect();
    Ok(!all.is_empty() && all.iter().all(|stopped| !stopped))
}
