//! A page from the pageserver, against `get_raw_page()` of the primary over libpq; and pages with many changes.
//!
//! Both sides serve the same pages, the primary from shared_buffers and the pageserver from its block cache. Every page
//! is compared before the measurement. Each client has one request in flight.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pgformat::Lsn;
use pgformat::compare::{self, Against, Case, Kind};
use pgformat::page::Page;
use pgformat::rel::{BlockTag, Fork, PG_DEFAULT, RelFileLocator, RelFork};
use proto::api::PageserverTimelineStatus;
use proto::id::TenantTimelineId;
use serde_json::json;
use walfabric::fabric::Fabric;
use walfabric::http::Http;
use walfabric::sql;

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::pages::{Asked, Bare, Pagestream, RawPages, ask};
use crate::bench::run::Run;
use crate::bench::stats::percentile;
use crate::bench::window::Window;
use crate::fabric::TestFabric;
use crate::wait;

const PEER: &str = "get_raw_page";
/// Pages of either table: 8 MiB.
const PAGES: u32 = 1024;
/// Of those with many changes: fewer, since making them takes long.
const HOT_PAGES: u32 = 64;
/// Changes of each since its image.
const CHANGES: u32 = 1000;
/// One row a page: the padding fills the rest.
const TABLES: &str = "CREATE EXTENSION pageinspect;
    CREATE TABLE warm (id int PRIMARY KEY, n int, pad text) WITH (fillfactor = 10, autovacuum_enabled = off);
    CREATE TABLE hot (LIKE warm INCLUDING ALL) WITH (fillfactor = 10, autovacuum_enabled = off);
    ALTER TABLE warm ALTER pad SET STORAGE plain;
    ALTER TABLE hot ALTER pad SET STORAGE plain;
    CREATE PROCEDURE change(times int) LANGUAGE plpgsql AS $$
    BEGIN
      FOR i IN 1..times LOOP
        UPDATE hot SET n = n + 1;
        COMMIT;
      END LOOP;
    END $$";

/// Who is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
    /// A server that only sends.
    Bare,
}

/// One block of requests.
struct Block {
    p50: Sample,
    p99: Sample,
}

/// Where both sides are.
struct Place {
    fabric: Fabric,
    postgres: String,
    pageserver: String,
    timeline: TenantTimelineId,
    http: String,
    bare: String,
}

/// A table on both sides.
#[derive(Clone)]
struct Table {
    name: &'static str,
    fork: RelFork,
    blocks: Vec<u32>,
    since: Lsn,
}

/// Measures.
///
/// # Errors
/// When the fabric does not come up, or when the two sides do not have the same pages.
pub async fn run(run: &mut Run) -> Result<()> {
    let pairs = run.extent.pick(3, 9, 15);
    let seconds = run.extent.pick(0.25, 0.8, 4.0);
    let fabric = TestFabric::up(&[])?;
    let place = Place::of(fabric.read()?)?;
    let client = sql::connect(&place.fabric.postgres.clone().context("no PostgreSQL")?.conninfo()).await?;
    client.batch_execute(TABLES).await?;
    for (name, pages) in [("warm", PAGES), ("hot", HOT_PAGES)] {
        let fill = format!("INSERT INTO {name} SELECT i, 0, repeat('x', 700) FROM generate_series(1, {pages}) i");
        client.batch_execute(&fill).await?;
    }
    // One by one: these do not run in a transaction with others.
    let change = format!("CALL change({CHANGES})");
    for step in ["VACUUM (FREEZE) warm, hot", "CHECKPOINT", "SET synchronous_commit = off", &change] {
        client.batch_execute(step).await?;
    }
    client.batch_execute("SET synchronous_commit = on; CREATE TABLE last()").await?;
    let warm = place.table(&client, "warm").await?;
    let hot = place.table(&client, "hot").await?;
    place.compare(&warm)?;
    let first = place.compare(&hot)?;
    for clients in [1, 8] {
        let (mut ours, mut theirs, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..pairs {
            let mut sides = [Side::Ours, Side::Bare, Side::Theirs];
            if round % 2 == 1 {
                sides.reverse();
            }
            for side in sides {
                let block = place.block(run, &warm, side, clients, seconds)?;
                match side {
                    Side::Ours => ours.push(block),
                    Side::Theirs => theirs.push(block),
                    Side::Bare => bare.push(block),
                }
            }
        }
        figures(run, &ours, &theirs, clients);
        let what = format!("p50 us of a server that only sends, clients: {clients}");
        let p50 = |blocks: &[Block]| -> Vec<Sample> { blocks.iter().map(|b| b.p50).collect() };
        run.figure(Figure::against(what, &p50(&bare), PEER, &p50(&theirs)));
    }
    let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
    for round in 0..pairs {
        for first in [true, false] {
            let is_hot = first == (round % 2 == 0);
            let block = place.block(run, if is_hot { &hot } else { &warm }, Side::Ours, 1, seconds)?;
            if is_hot { &mut changed } else { &mut unchanged }.push(block);
        }
    }
    let p99 = |blocks: &[Block]| -> Vec<Sample> { blocks.iter().map(|b| b.p99).collect() };
    let what = format!("p99 us of a page with {CHANGES} changes since its image, 1 client");
    run.figure(Figure::against(what, &p99(&changed), "warm", &p99(&unchanged)).goal(Goal::AtMost(3.0)));
    let crowd = Window::open(&[]).close().crowd;
    let us: Vec<Sample> = first.iter().map(|ns| Sample { value: *ns as f64 / 1000.0, crowd }).collect();
    run.figure(Figure::of(format!("us of the first read of a page with {CHANGES} changes, 1 client"), &us));
    Ok(())
}

fn figures(run: &mut Run, ours: &[Block], theirs: &[Block], clients: usize) {
    let of = |blocks: &[Block], value: fn(&Block) -> Sample| -> Vec<Sample> { blocks.iter().map(value).collect() };
    let mut figure = |name: &str, value: fn(&Block) -> Sample| {
        let what = format!("{name} us of a warm page, clients: {clients}");
        run.figure(Figure::against(what, &of(ours, value), PEER, &of(theirs, value)).goal(Goal::AtMost(0.5)));
    };
    figure("p50", |b| b.p50);
    figure("p99", |b| b.p99);
}

impl Place {
    fn of(fabric: Fabric) -> Result<Place> {
        let postgres = fabric.postgres.as_ref().context("no PostgreSQL")?;
        let pageserver = fabric.pageservers.first().context("no pageserver")?;
        Ok(Place {
            postgres: format!("{}:{}", postgres.host, postgres.port),
            pageserver: pageserver.pg.clone(),
            http: pageserver.http.clone(),
            bare: Bare::serve()?,
            timeline: TenantTimelineId::new(fabric.tenant_id, fabric.timeline_id),
            fabric,
        })
    }

    /// A table that does not change any more, once the pageserver has all of it.
    async fn table(&self, client: &tokio_postgres::Client, name: &'static str) -> Result<Table> {
        let oid = |what: &str| format!("SELECT {what} FROM pg_class WHERE relname = '{name}'");
        let rel = sql::text(client, &oid("relfilenode")).await?.parse()?;
        let db = sql::text(client, "SELECT oid FROM pg_database WHERE datname = current_database()").await?.parse()?;
        let count = format!("SELECT pg_relation_size('{name}') / current_setting('block_size')::int");
        let blocks: u32 = sql::text(client, &count).await?.parse()?;
        let since: Lsn = sql::text(client, "SELECT pg_current_wal_flush_lsn()").await?.parse()?;
        let http = Http::new(Duration::from_secs(5))?;
        let path = format!("/v1/tenant/{}/timeline/{}", self.timeline.tenant_id, self.timeline.timeline_id);
        wait::until("the pageserver has it", Duration::from_secs(60), async || {
            let status: PageserverTimelineStatus = http.get(&self.http, &path).await.ok()?;
            (status.last_record_lsn >= Some(since)).then_some(())
        })
        .await;
        let rel = RelFileLocator { spc: PG_DEFAULT, db, rel };
        // In an order that no read-ahead follows.
        let blocks = (0..blocks).map(|n| n * 379 % blocks.max(1)).collect();
        Ok(Table { name, fork: RelFork { rel, fork: Fork::Main }, blocks, since })
    }

    fn ours(&self, table: &Table) -> Result<Box<dyn Asked>> {
        let timeline = format!("{} {}", self.timeline.tenant_id, self.timeline.timeline_id);
        Ok(Box::new(Pagestream::open(&self.pageserver, &timeline, table.fork, table.since)?))
    }

    fn theirs(&self, table: &Table) -> Result<Box<dyn Asked>> {
        Ok(Box::new(RawPages::open(&self.postgres, table.name)?))
    }

    /// Every page is the same on both sides, but for what is not logged: hints and the checksum. Gives nanoseconds of
    /// each of our answers.
    fn compare(&self, table: &Table) -> Result<Vec<u64>> {
        let (mut ours, mut theirs, mut latencies) = (self.ours(table)?, self.theirs(table)?, Vec::new());
        for blk in &table.blocks {
            let tag = BlockTag { fork: table.fork, blk: *blk };
            let case = Case { against: Against::File, tag, kind: Kind::Heap, logged_database: false };
            let asked_at = Instant::now();
            let ours = ours.page(*blk)?;
            latencies.push(u64::try_from(asked_at.elapsed().as_nanos())?);
            let [a, b] = [ours, theirs.page(*blk)?].map(|bytes| Page::from_slice(&bytes));
            let verdict = compare::verdict(&*a.context("ours")?, &*b.context("theirs")?, &case)?;
            ensure!(verdict.left.is_empty(), "block {blk} of {} differs at {:?}", table.name, verdict.left);
        }
        println!("{}: {} pages are the same on both sides", table.name, table.blocks.len());
        Ok(latencies)
    }

    /// All clients ask at once, each from another place of the same pages.
    fn block(&self, run: &mut Run, table: &Table, side: Side, clients: usize, seconds: f64) -> Result<Block> {
        let open = || match side {
            Side::Ours => self.ours(table),
            Side::Theirs => self.theirs(table),
            Side::Bare => Ok(Box::new(Bare::open(&self.bare)?) as Box<dyn Asked>),
        };
        let sessions = (0..clients).map(|_| open()).collect::<Result<Vec<_>>>()?;
        let pids: Vec<u32> = self.fabric.pids().into_iter().map(|(_, pid)| pid).collect();
        let window = Window::open(&pids);
        let mut latencies = std::thread::scope(|scope| {
            let threads: Vec<_> = sessions
                .into_iter()
                .enumerate()
                .map(|(n, mut session)| {
                    let mut blocks = table.blocks.clone();
                    blocks.rotate_left(n * table.blocks.len() / clients);
                    scope.spawn(move || ask(session.as_mut(), &blocks, seconds))
                })
                .collect();
            let all = threads.into_iter().map(|t| t.join().expect("a client does not panic"));
            all.collect::<Result<Vec<Vec<u64>>>>()
        })?
        .concat();
        let elapsed = window.close();
        latencies.sort_unstable();
        let us = |share| percentile(&latencies, share).map_or(f64::NAN, |ns| ns as f64 / 1000.0);
        let name = match side {
            Side::Ours => "walfabric",
            Side::Theirs => PEER,
            Side::Bare => "bare",
        };
        let (p50, p99) = (us(0.5), us(0.99));
        run.raw(json!({"system": name, "table": table.name, "clients": clients, "requests": latencies.len(),
            "p50_us": p50, "p99_us": p99, "cpu_seconds": elapsed.cpu_seconds, "seconds": elapsed.seconds,
            "pressure": elapsed.crowd.pressure, "foreign": elapsed.crowd.foreign}))?;
        let sample = |value| Sample { value, crowd: elapsed.crowd };
        Ok(Block { p50: sample(p50), p99: sample(p99) })
    }
}
