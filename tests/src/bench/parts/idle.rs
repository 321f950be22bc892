//! Thousands of idle timelines on one safekeeper: their cost in memory, files, broker writes and start-up time.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use serde_json::json;

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::keeper::{Keeper, ttid};
use crate::bench::run::Run;
use crate::bench::usage::rss_mib;
use crate::bench::wal::Origin;
use crate::bench::window::Window;
use crate::wait;

const SEGMENT: u32 = 1 << 20;
/// Creations asked for at a time.
const CONCURRENT: usize = 32;
const KIB_MAX: f64 = 64.0;
const KIB_AIM: f64 = 16.0;

/// Measures.
///
/// # Errors
/// When the safekeeper does not do its part.
pub async fn run(run: &mut Run) -> Result<()> {
    let count: u32 = run.extent.pick(500, 5000, 5000);
    let quiet = Duration::from_secs(run.extent.pick(3, 10, 30));
    let origin = Origin::synthetic(SEGMENT)?;
    let mut keeper = Keeper::start(run.dir()).await?;
    keeper.settled().await?;
    let bare = rss_mib(keeper.pid());
    create(run, &keeper, count, &origin).await?;
    keeper.settled().await?;
    memory(run, "after their creation", count, bare, rss_mib(keeper.pid()))?;
    at_rest(run, &keeper, count, quiet).await?;
    files(run, &keeper.data_dir(), count)?;

    let start = keeper.restart().await?.as_secs_f64();
    let synced = keeper.syncs().await?;
    run.raw(json!({"what": "start", "timelines": count, "seconds": start, "syncs": synced.json()}))?;
    run.figure(Figure::of(format!("{count} idle timelines: start after kill -9, s"), &[Sample::exact(start)]));
    let each = Sample::exact(synced.total() as f64 / f64::from(count));
    run.figure(Figure::of("start after kill -9, syncs per timeline", &[each]));
    keeper.settled().await?;
    memory(run, "after a restart", count, bare, rss_mib(keeper.pid()))?;
    let listed = keeper.listed().await?;
    ensure!(listed == count as usize, "{listed} of {count} timelines are there after the restart");
    Ok(())
}

async fn create(run: &mut Run, keeper: &Keeper, count: u32, origin: &Origin) -> Result<()> {
    let before = keeper.syncs().await?;
    let window = Window::open(&[keeper.pid()]);
    let all = futures::stream::iter((1..=count).map(Ok::<_, anyhow::Error>));
    all.try_for_each_concurrent(CONCURRENT, |n| keeper.create(ttid(n), origin)).await?;
    let elapsed = window.close();
    let synced = keeper.syncs().await?.since(&before);
    run.raw(json!({"what": "creation", "timelines": count, "seconds": elapsed.seconds,
        "cpu_seconds": elapsed.cpu_seconds, "syncs": synced.json()}))?;
    let each = |total: f64| [Sample { value: total / f64::from(count), crowd: elapsed.crowd }];
    run.figure(Figure::of(format!("creation of {count} timelines, ms each"), &each(elapsed.seconds * 1000.0)));
    run.figure(Figure::of("creation, syncs each", &each(synced.total() as f64)));
    run.figure(Figure::of("creation, CPU ms each", &each(elapsed.cpu_seconds * 1000.0)));
    Ok(())
}

fn memory(run: &mut Run, when: &str, count: u32, bare: f64, now: f64) -> Result<()> {
    let each = (now - bare) * 1024.0 / f64::from(count);
    run.raw(json!({"what": "memory", "when": when, "timelines": count, "rss_mib": now, "rss_mib_without": bare}))?;
    let what = format!("RSS per idle timeline {when}, KiB ({KIB_AIM} is aimed at)");
    run.figure(Figure::of(what, &[Sample::exact(each)]).goal(Goal::AtMost(KIB_MAX)));
    Ok(())
}

/// Nothing happens: what is written to the broker, and what does the process do?
async fn at_rest(run: &mut Run, keeper: &Keeper, count: u32, length: Duration) -> Result<()> {
    let events = keeper.events().await;
    let (revision, seen) = (keeper.revision().await?, events.count());
    let window = Window::open(&[keeper.pid()]);
    wait::pass(length).await;
    let elapsed = window.close();
    let (writes, puts) = (keeper.revision().await? - revision, events.count() - seen);
    run.raw(json!({"what": "at rest", "timelines": count, "seconds": elapsed.seconds, "broker_revisions": writes,
        "broker_events": puts, "cpu_seconds": elapsed.cpu_seconds}))?;
    let rate = |total: f64| [Sample { value: total / elapsed.seconds, crowd: elapsed.crowd }];
    let what = format!("{count} idle timelines: broker");
    let most = (puts as f64).max(writes as f64);
    run.figure(Figure::of(format!("{what} puts/s"), &rate(most)).goal(Goal::AtMost(0.2)));
    run.figure(Figure::of(format!("{count} idle timelines: CPU %"), &rate(elapsed.cpu_seconds * 100.0)));
    Ok(())
}

fn files(run: &mut Run, data_dir: &Path, count: u32) -> Result<()> {
    let began = Instant::now();
    let mut held: BTreeMap<String, u32> = BTreeMap::new();
    let mut dirs = Vec::new();
    for n in 1..=count {
        let id = ttid(n);
        let dir = data_dir.join(id.tenant_id.to_string()).join(id.timeline_id.to_string());
        let mut files = 0;
        for entry in std::fs::read_dir(&dir).with_context(|| format!("no {}", dir.display()))? {
            *held.entry(entry?.file_name().to_string_lossy().into_owned()).or_default() += 1;
            files += 1;
        }
        dirs.push(Sample::exact(f64::from(files)));
    }
    println!("files in {count} timelines' directories: {held:?} ({:.1} s)", began.elapsed().as_secs_f64());
    run.raw(json!({"what": "files", "timelines": count, "names": held}))?;
    run.figure(Figure::of("files per timeline without WAL", &dirs).goal(Goal::AtMost(1.0)));
    Ok(())
}
