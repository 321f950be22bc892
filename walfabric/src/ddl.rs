//! A client that changes the schema without end, so that what kills PostgreSQL comes in the midst of that too.
//!
//! Each statement builds, rewrites or copies files before it commits: killed then, it leaves some behind that no
//! catalog names. For the demo and for chaos, which prove afterwards that every page is right.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::sql;

/// Rows of the table: building an index on it takes some tens of milliseconds.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS ddl AS SELECT g AS a, md5(g::text) AS t, point(g, g) AS p \
                     FROM generate_series(1, 20000) g";
/// A copy by files, which 14 makes anyway.
const COPY: &str = "CREATE DATABASE ddl_copy TEMPLATE template0 STRATEGY file_copy";
/// One round. Names are as after the round before, or after a kill anywhere in it.
const ROUND: [&str; 12] = [
    "DROP INDEX IF EXISTS ddl_t",
    "CREATE INDEX ddl_t ON ddl (t)",
    "REINDEX INDEX ddl_t",
    "VACUUM FULL ddl",
    "CLUSTER ddl USING ddl_t",
    "DROP DATABASE IF EXISTS ddl_copy",
    COPY,
    "BEGIN; CREATE TABLE ddl_gone AS TABLE ddl; CREATE INDEX ON ddl_gone USING spgist (p); ROLLBACK",
    "CREATE UNLOGGED TABLE IF NOT EXISTS ddl_unlogged (a int PRIMARY KEY, p point)",
    "REINDEX TABLE ddl_unlogged",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS ddl_p ON ddl USING gist (p)",
    "DROP INDEX IF EXISTS ddl_p",
];
/// After an error: a server that was killed is started again before long.
const PAUSE: Duration = Duration::from_millis(50);

/// The client that changes the schema.
pub struct Ddl {
    task: JoinHandle<()>,
    stop: CancellationToken,
    done: watch::Receiver<u64>,
}

impl Ddl {
    /// Begins; errors are expected and repeated.
    pub fn start(conninfo: &str) -> Ddl {
        let (stop, conninfo) = (CancellationToken::new(), conninfo.to_owned());
        let (count, done) = watch::channel(0);
        let work = async move {
            loop {
                // Its error is that of a kill.
                let _ = rounds(&conninfo, &count).await;
                tokio::time::sleep(PAUSE).await;
            }
        };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let _: Option<()> = stopped.run_until_cancelled(work).await;
        });
        Ddl { task, stop, done }
    }

    /// Waits until so many statements were carried out.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub async fn wait_for(&self, statements: u64, patience: Duration) -> Result<()> {
        let mut done = self.done.clone();
        let enough = tokio::time::timeout(patience, done.wait_for(|n| *n >= statements));
        enough.await.with_context(|| format!("{statements} statements of DDL were not carried out in time"))??;
        Ok(())
    }

    /// Ends; the number of statements that were carried out.
    pub async fn finish(self) -> u64 {
        self.stop.cancel();
        let _ = self.task.await;
        *self.done.borrow()
    }
}

/// Rounds until an error.
async fn rounds(conninfo: &str, done: &watch::Sender<u64>) -> Result<()> {
    let client = sql::connect(conninfo).await?;
    let is_14 = sql::text(&client, "SHOW server_version_num").await?.starts_with("14");
    let copy = if is_14 { COPY.trim_end_matches(" STRATEGY file_copy") } else { COPY };
    loop {
        for statement in std::iter::once(TABLE).chain(ROUND) {
            client.batch_execute(if statement == COPY { copy } else { statement }).await?;
            done.send_modify(|n| *n += 1);
        }
    }
}
