//! The demo's scene about pages: one page as it was at three moments.

use std::time::Duration;

use anyhow::{Context, Result};
use pgformat::Lsn;
use pgformat::page::Page;
use pgformat::rel::{BlockTag, RelFork};
use proto::id::TenantTimelineId;
use tokio_postgres::Client;

use super::act::Scene;
use crate::{page, sql};

/// How long a page's LSN may take to reach the pageserver.
const WAIT: Duration = Duration::from_secs(60);

impl Scene<'_> {
    /// A table's first page after an insert, an update and a delete, all of them there at once.
    pub(super) async fn show_a_page(&self) -> Result<()> {
        self.story.chapter("one page at three moments");
        let client = sql::connect(self.ledger.conninfo()).await?;
        client.batch_execute("DROP TABLE IF EXISTS demo_page; CREATE TABLE demo_page (id int, what text)").await?;
        let mut seen = Vec::new();
        for (what, statement) in [
            ("10 rows inserted", "INSERT INTO demo_page SELECT i, 'inserted' FROM generate_series(1, 10) i"),
            ("row 3 updated", "UPDATE demo_page SET what = 'updated' WHERE id = 3"),
            ("rows 5 to 10 deleted", "DELETE FROM demo_page WHERE id >= 5"),
        ] {
            client.batch_execute(statement).await?;
            let lsn: Lsn = sql::text(&client, "SELECT pg_current_wal_flush_lsn()").await?.parse()?;
            seen.push((what, lsn));
        }
        let ttid = TenantTimelineId::new(self.fabric.tenant_id, self.fabric.timeline_id);
        let tag = BlockTag { fork: main_fork(&client, "demo_page").await?, blk: 0 };
        let node = self.fabric.pageservers.first().context("the fabric has no pageserver")?;
        let server = page::PageserverPorts { pg: node.pg.clone(), http: node.http.clone() };
        for (what, lsn) in seen {
            let bytes = page::get(&server, ttid, tag, Some(lsn), WAIT).await?;
            let page = Page::from_slice(&bytes).context("not a page")?;
            let live = (1..=page.max_offset()).filter(|off| page.item(*off).is_ok_and(is_live)).count();
            self.story.line(&format!(
                "at {lsn} ({what}): {tag} has {} rows, {live} of them live, page LSN {}",
                page.max_offset(),
                page.lsn()
            ));
        }
        Ok(())
    }
}

/// A row that no transaction has deleted or replaced: its xmax is zero.
fn is_live(row: &[u8]) -> bool {
    row.get(4..8) == Some(&[0; 4])
}

async fn main_fork(client: &Client, table: &str) -> Result<RelFork> {
    let query = format!(
        "SELECT coalesce(nullif(c.reltablespace, 0), d.dattablespace) || '/' || d.oid || '/' || \
         pg_relation_filenode(c.oid) FROM pg_class c, pg_database d \
         WHERE c.oid = '{table}'::regclass AND d.datname = current_database()"
    );
    Ok(sql::text(client, &query).await?.parse()?)
}
