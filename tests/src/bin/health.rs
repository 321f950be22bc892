//! Chaos that judges health: while it kills and freezes, an observer asks every `/readyz`, `/writable`, `status
//! --check` and SHOW, and a client commits without end. Who says good for longer than 5 s while commits hang, or bad
//! for longer than 5 s while everything works, fails it (tests::check::health).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rustix::process::Signal;
use tests::check::health::{Look, Says, lies};
use tests::fabric::TestFabric;
use tests::wait::pass;
use walfabric::fabric::Fabric;
use walfabric::http::Http;
use walfabric::status::{Only, Source, collect};

#[derive(Parser)]
#[command(about = "Breaks a real fabric and judges what its servers say about their health")]
struct Args {
    /// How long to make trouble
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// How long a server may be wrong about its health.
const PATIENCE: Duration = Duration::from_secs(5);
/// A client that saw no commit for so long hangs.
const HANGS: Duration = Duration::from_secs(1);
/// How long a fault lasts, and how long everything then works: longer than the patience.
const HOLD: Duration = Duration::from_secs(9);
/// Between two looks.
const STEP: Duration = Duration::from_millis(250);

/// What is done to whom.
const FAULTS: [(Fault, &[&str]); 6] = [
    (Fault::Freeze, &["safekeeper-1", "safekeeper-2"]),
    (Fault::Kill, &["safekeeper-2", "safekeeper-3"]),
    (Fault::Kill, &["pageserver-1"]),
    (Fault::Freeze, &["shim"]),
    (Fault::Kill, &["safekeeper-3"]),
    (Fault::Kill, &["shim"]),
];

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Freeze,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let fabric = TestFabric::up(&[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(observed(&fabric, Duration::from_secs(args.seconds)));
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

async fn observed(fabric: &TestFabric, time: Duration) -> Result<()> {
    let described = fabric.read()?;
    let shared = Arc::new(Shared::default());
    let conninfo = described.postgres.as_ref().context("no PostgreSQL")?.conninfo();
    let client = tokio::spawn(commit_for_ever(conninfo, Arc::clone(&shared)));
    let observer = tokio::spawn(observe(described, fabric.path(), Arc::clone(&shared)));
    let end = Instant::now() + time;
    shared.whole.store(true, Ordering::Relaxed);
    pass(HOLD).await;
    for (fault, victims) in FAULTS.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        println!("{fault:?} {}", victims.join(" + "));
        shared.whole.store(false, Ordering::Relaxed);
        victims.iter().try_for_each(|v| strike(fabric, *fault, v))?;
        pass(HOLD).await;
        victims.iter().try_for_each(|v| heal(fabric, *fault, v))?;
        shared.whole.store(true, Ordering::Relaxed);
        pass(HOLD).await;
    }
    shared.over.store(true, Ordering::Relaxed);
    observer.await??;
    client.abort();
    let looks = std::mem::take(&mut *shared.looks.lock().unwrap_or_else(PoisonError::into_inner));
    let hung = looks.iter().filter(|l| !l.commits).count();
    println!(
        "{} looks, {hung} of them while commits hung, {} commits",
        looks.len(),
        shared.commits.load(Ordering::Relaxed)
    );
    ensure!(hung > 0, "no fault stopped commits: nothing was judged");
    let found = lies(&looks, PATIENCE);
    ensure!(found.is_empty(), "health was told wrong:\n  {}", found.join("\n  "));
    // The judge is judged: the same run with a shim that is always well must fail.
    let mut planted = looks;
    planted.iter_mut().flat_map(|l| &mut l.says).filter(|s| s.source == "shim /readyz").for_each(|s| s.good = true);
    ensure!(!lies(&planted, PATIENCE).is_empty(), "a readiness that always says good went unnoticed");
    println!("every source told the truth within {PATIENCE:?}; a planted lie is noticed");
    Ok(())
}

fn strike(fabric: &TestFabric, fault: Fault, victim: &str) -> Result<()> {
    match fault {
        Fault::Kill => fabric.ok(&["kill", victim]).map(drop),
        Fault::Freeze => signal(&fabric.read()?, victim, Signal::STOP),
    }
}

fn heal(fabric: &TestFabric, fault: Fault, victim: &str) -> Result<()> {
    match fault {
        Fault::Kill => fabric.ok(&["start", victim]).map(drop),
        Fault::Freeze => signal(&fabric.read()?, victim, Signal::CONT),
    }
}

fn signal(fabric: &Fabric, name: &str, signal: Signal) -> Result<()> {
    let pid = fabric.pids().into_iter().find(|(n, _)| n == name).map(|(_, pid)| pid);
    let pid = pid.and_then(|p| rustix::process::Pid::from_raw(p.cast_signed()));
    rustix::process::kill_process(pid.with_context(|| format!("{name} does not run"))?, signal)?;
    Ok(())
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
        shared.looks.lock().unwrap_or_else(PoisonError::into_inner).push(look);
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
        let status = collect(&Source::Dir(dir.to_path_buf()), Only::default()).await;
        let good = status.is_ok_and(|s| !s.degraded());
        Says { source: "status --check".to_owned(), about_commits: true, good }
    };
    let (mut says, check, shown) = futures::join!(answers, check, show(fabric));
    says.push(check);
    says.extend(shown);
    says
}

/// SHOW TIMELINES of every safekeeper: good while it lists the timeline and no reason why it is stopped.
async fn show(fabric: &Fabric) -> Vec<Says> {
    let ask = fabric.safekeepers.iter().map(|node| async move {
        let good = tokio::time::timeout(Duration::from_secs(1), stopped_of(&node.pg)).await;
        let good = good.is_ok_and(|answer| answer.is_ok_and(|stopped| stopped));
        Says { source: format!("safekeeper {} SHOW TIMELINES", node.id), about_commits: false, good }
    });
    futures::future::join_all(ask).await
}

async fn stopped_of(address: &str) -> Result<bool> {
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
