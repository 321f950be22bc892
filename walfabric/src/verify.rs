//! Verification of a running fabric: every acknowledged commit must be everywhere it was promised to be.
//!
//! The load must have ended; what was acknowledged comes from a [`crate::ledger::Ledger`].

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::api::{PageserverTimelineStatus, SafekeeperTimelineStatus, XactRow, shown};
use proto::id::TenantTimelineId;
use proto::{Lsn, PgMajor};

use crate::fabric::{Fabric, PostgresEntry};
use crate::http::Http;
use crate::ledger::{self, Acked};
use crate::proof::{self, WalCopy};
use crate::supervisor::STOP_PATIENCE_S;
use crate::timeline::timeline_path;
use crate::{page, sql, verbs};

/// How long the copies may take to reach PostgreSQL's last position once the load has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Verifies PostgreSQL, a quorum of safekeepers and every pageserver; `say` is told each thing that was proved.
///
/// # Errors
/// Names the first commit that is missing, or the first position at which two copies differ.
pub async fn verify(fabric: &Fabric, acked: &[Acked], say: &mut dyn FnMut(&str)) -> Result<()> {
    ensure!(!acked.is_empty(), "no commit was acknowledged: there is nothing to prove");
    let pg = fabric.postgres.as_ref().context("no PostgreSQL")?;
    let missing = ledger::missing_rows(&pg.conninfo(), acked).await?;
    ensure!(
        missing.is_empty(),
        "{} acknowledged commits are not in PostgreSQL, the first is {:?}",
        missing.len(),
        missing.first()
    );
    say(&format!("PostgreSQL holds all {} acknowledged rows", acked.len()));

    let client = sql::connect(&pg.conninfo()).await?;
    let end: Lsn = sql::text(&client, "SELECT pg_current_wal_flush_lsn()").await?.parse()?;
    let (first, durable) = wait_copies(fabric, end).await?;
    let ttid = TenantTimelineId::new(fabric.tenant_id, fabric.timeline_id);
    let major = PgMajor::from_version_num(first.pg_version_num).context("unknown PostgreSQL version")?;
    let copies: Vec<WalCopy> = durable
        .iter()
        .map(|node| WalCopy {
            name: format!("safekeeper {}", node.id),
            path: node.data_dir.join(fabric.tenant_id.to_string()).join(fabric.timeline_id.to_string()),
        })
        .collect();
    let start = shown(first.timeline_start_lsn);
    let proof = proof::compare(&copies, major, first.wal_seg_size, start, end)?;
    say(&format!(
        "{} MiB of WAL [{start}, {end}) are the same, byte by byte, on {} safekeepers; every record's CRC and prev \
         link hold",
        proof.bytes >> 20,
        durable.len()
    ));
    let lost = ledger::missing_commits(acked, &proof.committed);
    ensure!(
        lost.is_empty(),
        "{} acknowledged commits have no commit record in the WAL, the first is {:?}",
        lost.len(),
        lost.first()
    );
    say(&format!("the commit record of each of the {} acknowledged transactions is in that WAL", acked.len()));
    compare_with_postgres(say, pg, &copies, &first, end)?;
    for node in &fabric.pageservers {
        let known = committed_on(&node.http, ttid, end).await?;
        let lost = ledger::missing_commits(acked, &known);
        ensure!(
            lost.is_empty(),
            "{} acknowledged commits are not in pageserver {}, the first is {:?}",
            lost.len(),
            node.id,
            lost.first()
        );
        say(&format!("pageserver {} has ingested and stored each of them", node.id));
    }
    Ok(())
}

/// Stops PostgreSQL in order and compares all of its files with what each pageserver makes of the WAL.
///
/// # Errors
/// When something differs; `say` was told what.
pub async fn verify_pages(dir: &Path, fabric: &Fabric, say: &mut dyn FnMut(&str)) -> Result<()> {
    let pg = fabric.postgres.as_ref().context("the fabric has no PostgreSQL")?;
    let code = verbs::run(dir, verbs::Verb::Stop, "postgres", STOP_PATIENCE_S).await?;
    ensure!(code == 0, "PostgreSQL does not stop in order (exit code {code})");
    let local = page::verify::read_local(&pg.data_dir).await?;
    let ttid = TenantTimelineId::new(fabric.tenant_id, fabric.timeline_id);
    for node in &fabric.pageservers {
        let server = page::PageserverPorts { pg: node.pg.clone(), http: node.http.clone() };
        let mut remote = page::remote::Remote::open(server, ttid, local.lsn, PATIENCE).await?;
        let report = page::verify::verify(&local, &mut remote).await?;
        report.render().lines().for_each(&mut *say);
        ensure!(report.equal, "the pages of pageserver {} are not those of the stopped cluster", node.id);
        let metrics = Http::new(PATIENCE)?.get_bytes(&node.http, "/metrics").await?;
        let records = String::from_utf8_lossy(&metrics)
            .lines()
            .find_map(|line| line.strip_prefix("walfabric_pageserver_wal_records_total ").map(str::to_owned))
            .context("the pageserver does not count records")?;
        say(&format!(
            "pageserver {} took in {records} WAL records since it started; {} pages made of them are those of \
             PostgreSQL's own files",
            node.id, report.pages
        ));
    }
    Ok(())
}

/// Ends of transactions asked for at a time.
const XACTS_PAGE: usize = 20_000;

/// The transactions that a pageserver knows as committed, up to `end`.
async fn committed_on(address: &str, ttid: TenantTimelineId, end: Lsn) -> Result<BTreeSet<u32>> {
    let http = Http::new(Duration::from_secs(30))?;
    let (mut from, mut committed) = (Lsn::new(0), BTreeSet::new());
    loop {
        let path = format!("{}/xacts?from={from}&to={end}&limit={XACTS_PAGE}", timeline_path(ttid));
        let rows: Vec<XactRow> = http.get(address, &path).await?;
        let more = (rows.len() == XACTS_PAGE).then(|| rows.last().map(|row| row.end_lsn)).flatten();
        let ended = rows.into_iter().filter(|row| row.kind.starts_with("commit"));
        committed.extend(ended.flat_map(|row| row.subxids.into_iter().chain([row.xid])));
        match more {
            Some(last) => from = last,
            None => return Ok(committed),
        }
    }
}

/// PostgreSQL recycles old segments, so the comparison starts where its own files start.
fn compare_with_postgres(
    say: &mut dyn FnMut(&str),
    pg: &PostgresEntry,
    copies: &[WalCopy],
    first: &SafekeeperTimelineStatus,
    end: Lsn,
) -> Result<()> {
    let (path, seg, start) = (pg.data_dir.join("pg_wal"), first.wal_seg_size, shown(first.timeline_start_lsn));
    let mut from = end.segment_start(seg);
    while from > start {
        let Some(before) = from.get().checked_sub(seg.bytes()).map(Lsn::new) else { break };
        if proof::read_segments(&path, seg, before, before.add(1)).is_err() {
            break;
        }
        from = before;
    }
    let from = from.max(start);
    let own = WalCopy { name: "PostgreSQL".to_owned(), path };
    let one = copies.first().cloned().context("no copies")?;
    proof::same_bytes(&[one, own], seg, from, end)?;
    say(&format!("PostgreSQL's own files agree from {from} on"));
    Ok(())
}

/// Waits until every copy holds the WAL durably up to `end`; gives the safekeepers that do, a quorum at least.
async fn wait_copies(fabric: &Fabric, end: Lsn) -> Result<(SafekeeperTimelineStatus, Vec<crate::fabric::NodeEntry>)> {
    let http = Http::new(Duration::from_secs(5))?;
    let path = format!("/v1/tenant/{}/timeline/{}", fabric.tenant_id, fabric.timeline_id);
    let deadline = Instant::now() + PATIENCE;
    for node in &fabric.pageservers {
        loop {
            let at = http.get::<PageserverTimelineStatus>(&node.http, &path).await?;
            if at.last_record_lsn >= Some(end) && at.disk_consistent_lsn < Some(end) {
                // Nobody else waits for that, so it would take its time.
                http.post(&node.http, &format!("{path}/flush"), Vec::new(), "application/json").await?;
            }
            let at = shown(at.disk_consistent_lsn);
            if at >= end {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "pageserver {} is durable up to {at} only, PostgreSQL is at {end}",
                node.id
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    loop {
        let mut durable = Vec::new();
        let mut status = None;
        for node in &fabric.safekeepers {
            let Ok(s) = http.get::<SafekeeperTimelineStatus>(&node.http, &path).await else { continue };
            if s.flush_lsn >= Some(end) && s.commit_lsn >= Some(end) {
                durable.push(node.clone());
                status = Some(s);
            }
        }
        let late = Instant::now() >= deadline;
        let quorum = durable.len() > fabric.safekeepers.len() / 2;
        if durable.len() == fabric.safekeepers.len() || (late && quorum) {
            return Ok((status.context("no safekeeper answers")?, durable));
        }
        ensure!(!late, "only {} safekeepers hold the WAL up to {end}", durable.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
