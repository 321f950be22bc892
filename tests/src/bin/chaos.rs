//! Chaos on a real fabric: kills and pauses processes at random under load. Then it proves that no acknowledged commit
//! was lost, that all copies of the WAL are equal, and that the pageserver's pages are those of the stopped cluster.
//! The same run must also detect a planted loss and a planted byte.
//!
//! The seed fixes the sequence of faults, not the timing of the processes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use proto::api::{SafekeeperTimelineStatus, shown};
use tests::fabric::TestFabric;
use walfabric::ddl::Ddl;
use walfabric::fabric::Fabric;
use walfabric::http::Http;
use walfabric::ledger::{Acked, Ledger};
use walfabric::verify::{verify, verify_pages};

#[derive(Parser)]
#[command(about = "Kills processes of a real fabric at random and proves that nothing was lost")]
struct Args {
    /// How long to make trouble
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Sequence of faults; 0 draws one
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Clients of the ledger, one commit in flight each.
const CLIENTS: i32 = 8;
/// The whole fabric must work again within this time once everything runs.
const HEAL_PATIENCE: Duration = Duration::from_secs(90);

fn main() -> Result<()> {
    let args = Args::parse();
    let seed = if args.seed == 0 { fastrand::u64(1..1 << 32) } else { args.seed };
    println!("chaos: {} s, seed {seed}", args.seconds);
    let fabric = TestFabric::up(&[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(chaos(&fabric, &args, seed));
    if let Err(e) = result {
        let kept = fabric.keep();
        return Err(e.context(format!("chaos failed (seed {seed}), files and logs are in {}", kept.display())));
    }
    Ok(())
}

/// Pauses between two steps of the script; chaos is about time passing, so this is no wait for a condition.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await; // between two looks
}

async fn chaos(fabric: &TestFabric, args: &Args, seed: u64) -> Result<()> {
    let described = fabric.read()?;
    let conninfo = described.postgres.as_ref().context("no PostgreSQL")?.conninfo();
    let ledger = Ledger::start(&conninfo, CLIENTS).await?;
    ledger.wait_progress(100, HEAL_PATIENCE).await?;
    let ddl = Ddl::start(&conninfo);
    let mut faults = Faults { rng: fastrand::Rng::with_seed(seed), kills: 0, pauses: 0, log: Vec::new() };
    let end = Instant::now() + Duration::from_secs(args.seconds);
    while Instant::now() < end {
        faults.one(fabric).await?;
    }
    for name in names(&described) {
        fabric.ok(&["start", &name])?;
    }
    println!("{} statements of DDL beside that", ddl.finish().await);
    println!("healing after {} kills and {} pauses: {}", faults.kills, faults.pauses, faults.log.join(" "));
    let healed =
        ledger.wait_progress(200, HEAL_PATIENCE).await.context("no progress after everything was started again")?;
    let (unknown, stall) = (ledger.unknown(), ledger.take_longest_stall());
    let acked = ledger.finish().await;
    println!(
        "{} commits acknowledged, {unknown} unknown, progress {} ms after healing, longest pause {} ms",
        acked.len(),
        healed.as_millis(),
        stall.as_millis()
    );
    let described = fabric.read()?;
    verify(&described, &acked, &mut |text| println!("  {text}")).await?;
    planted_faults_are_noticed(fabric, &described, &acked).await?;
    verify_pages(&fabric.path(), &described, &mut |text| println!("  {text}")).await?;
    println!("0 lost acknowledged commits, bytes and pages equal everywhere (seed {seed})");
    Ok(())
}

struct Faults {
    rng: fastrand::Rng,
    kills: u32,
    pauses: u32,
    log: Vec<String>,
}

impl Faults {
    /// One round: a fault for one or two processes, some time, and everything back.
    async fn one(&mut self, fabric: &TestFabric) -> Result<()> {
        let mut names = names(&fabric.read()?);
        self.rng.shuffle(&mut names);
        let victims: Vec<String> = names.into_iter().take(if self.rng.u8(..) < 64 { 2 } else { 1 }).collect();
        let hold = Duration::from_millis(self.rng.u64(50..1500));
        if self.rng.u8(..) < 60 {
            self.pauses += 1;
            self.log.push(format!("pause({})", victims.join("+")));
            victims.iter().try_for_each(|v| signal(&fabric.read()?, v, rustix::process::Signal::STOP))?;
            pass(hold).await;
            victims.iter().try_for_each(|v| signal(&fabric.read()?, v, rustix::process::Signal::CONT))?;
        } else {
            self.kills += 1;
            self.log.push(format!("kill({})", victims.join("+")));
            for victim in &victims {
                fabric.ok(&["kill", victim])?;
            }
            pass(hold).await;
            for victim in &victims {
                fabric.ok(&["start", victim])?;
            }
        }
        if self.rng.u8(..) < 128 {
            flush(&fabric.read()?).await;
        }
        pass(Duration::from_millis(self.rng.u64(20..1000))).await;
        Ok(())
    }
}

/// Has the pageservers write layers, so that kills come between, and during, writes. One that is being killed need not
/// answer.
async fn flush(fabric: &Fabric) {
    let Ok(http) = Http::new(Duration::from_secs(2)) else { return };
    let path = format!("/v1/tenant/{}/timeline/{}/flush", fabric.tenant_id, fabric.timeline_id);
    for node in &fabric.pageservers {
        let _ = http.post(&node.http, &path, Vec::new(), "application/json").await;
    }
}

fn names(fabric: &Fabric) -> Vec<String> {
    let safekeepers = fabric.safekeepers.iter().map(|s| format!("safekeeper-{}", s.id));
    let pageservers = fabric.pageservers.iter().map(|p| format!("pageserver-{}", p.id));
    let singles = ["postgres", "shim", "broker"].into_iter().map(str::to_owned);
    safekeepers.chain(pageservers).chain(singles).collect()
}

fn signal(fabric: &Fabric, name: &str, signal: rustix::process::Signal) -> Result<()> {
    let pid = fabric.pids().into_iter().find(|(n, _)| n == name).map(|(_, pid)| pid);
    // It may have ended by itself; pausing nothing is fine.
    let Some(pid) = pid.and_then(|p| rustix::process::Pid::from_raw(p.cast_signed())) else { return Ok(()) };
    let _ = rustix::process::kill_process(pid, signal);
    Ok(())
}

/// The verifier itself is verified: a commit that never was, and one flipped bit in one safekeeper's WAL, must both
/// fail it.
async fn planted_faults_are_noticed(fabric: &TestFabric, described: &Fabric, acked: &[Acked]) -> Result<()> {
    let mut never = acked.to_vec();
    never.push(Acked { client: CLIENTS + 1, seq: 1, xid: 3 });
    ensure!(verify(described, &never, &mut |_| {}).await.is_err(), "a commit that never was went unnoticed");

    let node = described.safekeepers.first().context("no safekeepers")?;
    let timeline = format!("/v1/tenant/{}/timeline/{}", described.tenant_id, described.timeline_id);
    let http = Http::new(Duration::from_secs(5))?;
    let status: SafekeeperTimelineStatus = http.get(&node.http, &timeline).await?;
    let (start, seg) = (shown(status.timeline_start_lsn), status.wal_seg_size);
    let tli = status.pg_history.last().context("no tli")?.tli;
    let wal = node.data_dir.join(described.tenant_id.to_string()).join(described.timeline_id.to_string());
    let path = wal.join(seg.file_name(tli, start.segment_no(seg)));
    fabric.ok(&["stop", &format!("safekeeper-{}", node.id)])?;
    flip_a_bit(&path, start.segment_offset(seg))?;
    fabric.ok(&["start", &format!("safekeeper-{}", node.id)])?;
    let outcome = verify(described, acked, &mut |_| {}).await;
    ensure!(outcome.is_err(), "a flipped bit in {} went unnoticed", path.display());
    println!(
        "  planted faults are noticed: a commit that never was, a flipped bit ({:#})",
        outcome.err().context("checked")?
    );
    Ok(())
}

fn flip_a_bit(path: &std::path::Path, at: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0u8];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(())
}
