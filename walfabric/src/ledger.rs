//! A workload that knows what was acknowledged: clients insert numbered rows and remember those whose commit came back.
//!
//! What a client did not hear about is *unknown*, neither lost nor promised. An acknowledged row that is missing later
//! is a lost commit, and so is one whose transaction is not in the WAL.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::sql;

/// An acknowledged commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acked {
    /// Number of the client that committed it.
    pub client: i32,
    /// Row number of that client.
    pub seq: i64,
    /// Transaction id, epoch dropped.
    pub xid: u32,
}

#[derive(Default)]
struct LedgerSeen {
    acked: Vec<Acked>,
    unknown: u64,
    last_ack: Option<Instant>,
    longest_stall: Duration,
}

/// A running ledger workload.
pub struct Ledger {
    conninfo: String,
    seen: Arc<Mutex<LedgerSeen>>,
    clients: JoinSet<()>,
    stop: CancellationToken,
}

/// How long a client waits for one commit before it gives the connection up as hung.
const COMMIT_PATIENCE: Duration = Duration::from_secs(60);

impl Ledger {
    /// Creates the table and starts `clients` clients, each with one commit in flight.
    ///
    /// # Errors
    /// When the table cannot be created.
    pub async fn start(conninfo: &str, clients: i32) -> Result<Ledger> {
        Ledger::start_numbered(conninfo, 0, clients).await
    }

    /// As [`Ledger::start`], with client numbers from `first` on: rows of an earlier ledger are not in the way.
    ///
    /// # Errors
    /// When the table cannot be created.
    pub async fn start_numbered(conninfo: &str, first: i32, clients: i32) -> Result<Ledger> {
        let client = sql::connect(conninfo).await?;
        client
            .batch_execute("CREATE TABLE IF NOT EXISTS ledger (client int, seq bigint, PRIMARY KEY (client, seq))")
            .await
            .context("cannot create the ledger table")?;
        let (seen, stop) = (Arc::new(Mutex::new(LedgerSeen::default())), CancellationToken::new());
        let mut set = JoinSet::new();
        for number in first..first + clients {
            set.spawn(run_client(conninfo.to_owned(), number, Arc::clone(&seen), stop.clone()));
        }
        Ok(Ledger { conninfo: conninfo.to_owned(), seen, clients: set, stop })
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, LedgerSeen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits acknowledged so far.
    pub fn count(&self) -> usize {
        self.seen().acked.len()
    }

    /// Commits whose outcome no client heard.
    pub fn unknown(&self) -> u64 {
        self.seen().unknown
    }

    /// The longest time without any acknowledgement since the last call.
    pub fn take_longest_stall(&self) -> Duration {
        let mut seen = self.seen();
        seen.last_ack = Some(Instant::now());
        std::mem::take(&mut seen.longest_stall)
    }

    /// Waits until `more` further commits were acknowledged.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub async fn wait_progress(&self, more: usize, patience: Duration) -> Result<Duration> {
        let (from, began) = (self.count(), Instant::now());
        while self.count() < from + more {
            ensure!(
                began.elapsed() < patience,
                "commits stand still: {} of {more} in {patience:?}",
                self.count() - from
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(began.elapsed())
    }

    /// Stops the clients and gives what was acknowledged.
    pub async fn finish(mut self) -> Vec<Acked> {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
        std::mem::take(&mut self.seen().acked)
    }

    /// Connection string of the primary.
    pub fn conninfo(&self) -> &str {
        &self.conninfo
    }
}

async fn run_client(conninfo: String, client: i32, seen: Arc<Mutex<LedgerSeen>>, stop: CancellationToken) {
    let mut seq = 0i64;
    while !stop.is_cancelled() {
        let Ok(connection) = sql::connect(&conninfo).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let insert =
            "INSERT INTO ledger VALUES ($1, $2) RETURNING (pg_current_xact_id()::text::numeric % 4294967296)::bigint";
        let Ok(insert) = connection.prepare(insert).await else { continue };
        while !stop.is_cancelled() {
            seq += 1;
            let outcome = tokio::time::timeout(COMMIT_PATIENCE, connection.query_one(&insert, &[&client, &seq])).await;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(Ok(row)) => {
                    let xid = u32::try_from(row.get::<_, i64>(0)).unwrap_or_default();
                    seen.acked.push(Acked { client, seq, xid });
                    let now = Instant::now();
                    let stall = seen.last_ack.map_or(Duration::ZERO, |last| now - last);
                    seen.longest_stall = seen.longest_stall.max(stall);
                    seen.last_ack = Some(now);
                }
                Ok(Err(_)) | Err(_) => {
                    seen.unknown += 1;
                    break;
                }
            }
        }
    }
}

/// Acknowledged rows that the table does not hold.
///
/// # Errors
/// When the table cannot be read.
pub async fn missing_rows(conninfo: &str, acked: &[Acked]) -> Result<Vec<Acked>> {
    let client = sql::connect(conninfo).await?;
    let rows = client.query("SELECT client, seq FROM ledger", &[]).await.context("cannot read the ledger")?;
    let held: BTreeSet<(i32, i64)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    Ok(acked.iter().copied().filter(|a| !held.contains(&(a.client, a.seq))).collect())
}

/// Acknowledged transactions without a commit record among `committed`.
pub fn missing_commits(acked: &[Acked], committed: &BTreeSet<u32>) -> Vec<Acked> {
    acked.iter().copied().filter(|a| !committed.contains(&a.xid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_commit_is_named() {
        let acked = [Acked { client: 0, seq: 1, xid: 700 }, Acked { client: 1, seq: 1, xid: 701 }];
        assert_eq!(missing_commits(&acked, &BTreeSet::from([700, 701, 702])), []);
        assert_eq!(missing_commits(&acked, &BTreeSet::from([700])), [acked[1]]);
    }
}
