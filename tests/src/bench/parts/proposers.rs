//! Eight timelines on one safekeeper, each with sixteen commits in flight: the number of syncs per commit.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::task::JoinSet;

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::keeper::{Keeper, rss_peak_mib, ttid};
use crate::bench::proposer::Proposer;
use crate::bench::run::Run;
use crate::bench::wal::{Origin, Records};
use crate::bench::window::Window;

const TIMELINES: u32 = 8;
const IN_FLIGHT: usize = 16;
const SEGMENT: u32 = 16 << 20;
/// Sizes of the records, in turn.
const SIZES: [u32; 5] = [100, 144, 200, 248, 300];
/// Bytes of records prepared for each timeline and second; running out is an error, not a shorter block.
const PREPARED_PER_SECOND: usize = 10 << 20;

/// Measures.
///
/// # Errors
/// When the safekeeper does not do its part.
pub async fn run(run: &mut Run) -> Result<()> {
    let (rounds, seconds) = run.extent.pick((1, 3), (5, 3), (9, 5));
    let origin = Origin::synthetic(SEGMENT)?;
    let records = Records::build(&origin, &SIZES, PREPARED_PER_SECOND * (rounds * seconds + 1))?;
    let keeper = Keeper::start(run.dir()).await?;
    let mut proposers = Vec::new();
    for n in 1..=TIMELINES {
        keeper.create(ttid(n), &origin).await?;
        proposers.push((Proposer::elected(&keeper, ttid(n), &origin).await?, 0));
    }
    proposers = block(proposers, &records, Duration::from_millis(500)).await?.0;
    let (mut syncs, mut speed, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let before = keeper.syncs().await?;
        let window = Window::open(&[keeper.pid()]);
        let (after, commits) = block(proposers, &records, Duration::from_secs(seconds as u64)).await?;
        proposers = after;
        let elapsed = window.close();
        let synced = keeper.syncs().await?.since(&before);
        let (commits, crowd) = (commits as f64, elapsed.crowd);
        syncs.push(Sample { value: synced.total() as f64 / commits, crowd });
        speed.push(Sample { value: commits / elapsed.seconds, crowd });
        cpu.push(Sample { value: elapsed.cpu_seconds * 1000.0 / commits, crowd });
        run.raw(json!({"round": round, "timelines": TIMELINES, "in_flight": IN_FLIGHT, "commits": commits,
            "seconds": elapsed.seconds, "cpu_seconds": elapsed.cpu_seconds, "syncs": synced.json(),
            "pressure": crowd.pressure, "foreign": crowd.foreign}))?;
    }
    let peak = [Sample::exact(rss_peak_mib(keeper.pid()))];
    run.figure(Figure::of("8 timelines x 16 in flight, syncs per commit", &syncs).goal(Goal::AtMost(0.15)));
    run.figure(Figure::of("8 timelines x 16 in flight, commits/s", &speed));
    run.figure(Figure::of("8 timelines x 16 in flight, CPU ms per commit", &cpu));
    run.figure(Figure::of("8 timelines x 16 in flight, RSS peak MiB", &peak));
    Ok(())
}

/// All proposers commit for so long; gives them back, each with the number of its next record, and the commits.
async fn block(
    proposers: Vec<(Proposer, usize)>,
    records: &Records,
    length: Duration,
) -> Result<(Vec<(Proposer, usize)>, usize)> {
    let mut tasks = JoinSet::new();
    for (mut proposer, first) in proposers {
        let records = records.clone();
        tasks.spawn(async move {
            let until = Instant::now() + length;
            let done = proposer.commit_many(&records, first, IN_FLIGHT, |_| Instant::now() >= until).await?;
            anyhow::Ok((proposer, first + done, done))
        });
    }
    let (mut back, mut commits) = (Vec::new(), 0);
    while let Some(ended) = tasks.join_next().await {
        let (proposer, next, done) = ended.context("a proposer panicked")??;
        back.push((proposer, next));
        commits += done;
    }
    Ok((back, commits))
}
