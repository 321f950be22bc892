//! Many timelines with one commit a second each: the work of a safekeeper and the broker for a trickle.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};

use crate::bench::figure::{Figure, Sample};
use crate::bench::keeper::{Keeper, ttid};
use crate::bench::proposer::Proposer;
use crate::bench::run::Run;
use crate::bench::usage::rss_mib;
use crate::bench::wal::{Origin, Records};
use crate::bench::window::Window;
use crate::wait;

const SEGMENT: u32 = 1 << 20;
/// Timelines that are made ready at a time.
const CONCURRENT: usize = 16;
const PERIOD: Duration = Duration::from_secs(1);
/// Commits before anything is measured: by then every timeline has been published.
const WARM_UP: usize = 3;

/// Measures.
///
/// # Errors
/// When the safekeeper does not do its part.
pub async fn run(run: &mut Run) -> Result<()> {
    let (count, seconds): (u32, usize) = run.extent.pick((100, 3), (1000, 15), (1000, 20));
    let origin = Origin::synthetic(SEGMENT)?;
    let records = Records::build(&origin, &[200], 1 << 17)?;
    let keeper = Keeper::start(run.dir()).await?;
    let elected = async |n| {
        keeper.create(ttid(n), &origin).await?;
        Proposer::elected(&keeper, ttid(n), &origin).await
    };
    let all = futures::stream::iter(1..=count).map(elected).buffered(CONCURRENT);
    let proposers: Vec<Proposer> = all.try_collect().await?;
    let events = keeper.events().await;
    let begin = Instant::now() + PERIOD;
    let mut tasks = JoinSet::new();
    for (n, proposer) in (0..).zip(proposers) {
        let first = begin + PERIOD * n / count;
        tasks.spawn(trickle(proposer, records.clone(), first, WARM_UP + seconds + 1));
    }
    wait::pass((begin + PERIOD * u32::try_from(WARM_UP)?).saturating_duration_since(Instant::now())).await;
    let (revision, seen, before) = (keeper.revision().await?, events.count(), keeper.syncs().await?);
    let window = Window::open(&[keeper.pid()]);
    wait::pass(PERIOD * u32::try_from(seconds)?).await;
    let elapsed = window.close();
    let synced = keeper.syncs().await?.since(&before);
    let (writes, puts) = (keeper.revision().await? - revision, events.count() - seen);
    let rss = rss_mib(keeper.pid());
    let mut late = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        late.push(ended.context("a proposer panicked")??);
    }
    late.sort_unstable();
    let worst = late.last().copied().unwrap_or_default();
    run.raw(json!({"timelines": count, "seconds": elapsed.seconds, "cpu_seconds": elapsed.cpu_seconds,
        "broker_revisions": writes, "broker_events": puts, "syncs": synced.json(), "rss_mib": rss,
        "slowest_commit_us": worst.as_micros(), "pressure": elapsed.crowd.pressure}))?;
    let mut shown = |what: &str, total: f64| {
        let sample = Sample { value: total / elapsed.seconds, crowd: elapsed.crowd };
        run.figure(Figure::of(format!("{count} timelines, a commit/s each: {what}"), &[sample]));
    };
    shown("CPU % of the safekeeper", elapsed.cpu_seconds * 100.0);
    shown("broker writes/s", writes as f64);
    shown("watch events/s", puts as f64);
    shown("syncs/s", synced.total() as f64);
    let slowest = Sample { value: worst.as_secs_f64() * 1000.0, crowd: elapsed.crowd };
    run.figure(Figure::of(format!("{count} timelines, a commit/s each: slowest commit, ms"), &[slowest]));
    Ok(())
}

/// A commit each period, told as the shim does; gives the longest time that one took.
async fn trickle(mut proposer: Proposer, records: Records, first: Instant, commits: usize) -> Result<Duration> {
    let mut ticks = interval_at(first, PERIOD);
    let mut longest = Duration::ZERO;
    for n in 0..commits {
        ticks.tick().await;
        let began = Instant::now();
        proposer.queue(records.record(n)?);
        proposer.flush().await?;
        proposer.acknowledged(records.end_of(n + 1)?).await?;
        longest = longest.max(began.elapsed());
        proposer.queue_commit();
        proposer.flush().await?;
    }
    Ok(longest)
}
