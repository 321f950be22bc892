//! Watches a running fabric over HTTP, on connections that are kept alive.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::Lsn;
use proto::api::{AttachRequest, PageserverTimelineStatus, SafekeeperTimelineStatus, ShimStatus, shown};
use walfabric::fabric::{Fabric, NodeEntry};
use walfabric::http::Http;

/// Pause between two looks: what happens is seen within this and one request.
const STEP: Duration = Duration::from_millis(1);

/// Eyes on the first pageserver of a fabric, on its shim and on its safekeepers.
pub struct Look {
    http: Http,
    timeline: String,
    pageserver: NodeEntry,
    shim: String,
    safekeepers: Vec<NodeEntry>,
}

impl Look {
    /// For `fabric`, whose addresses stay the same over restarts.
    ///
    /// # Errors
    /// When it has no pageserver or no shim.
    pub fn at(fabric: &Fabric) -> Result<Look> {
        Ok(Look {
            http: Http::new(Duration::from_secs(5))?,
            timeline: format!("/v1/tenant/{}/timeline/{}", fabric.tenant_id, fabric.timeline_id),
            pageserver: fabric.pageservers.first().context("the fabric has no pageserver")?.clone(),
            shim: fabric.shim.as_ref().context("the fabric has no shim")?.http.clone(),
            safekeepers: fabric.safekeepers.clone(),
        })
    }

    /// The pageserver's entry in fabric.json, with the pid that it had then.
    pub fn pageserver_entry(&self) -> &NodeEntry {
        &self.pageserver
    }

    /// What the pageserver says of the timeline.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn pageserver(&self) -> Result<PageserverTimelineStatus> {
        self.http.get(&self.pageserver.http, &self.timeline).await
    }

    /// What the shim says.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn shim(&self) -> Result<ShimStatus> {
        self.http.get(&self.shim, "/v1/status").await
    }

    /// What safekeeper `id` says of the timeline.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn safekeeper(&self, id: u64) -> Result<SafekeeperTimelineStatus> {
        let node = self.safekeepers.iter().find(|n| n.id == id).context("no such safekeeper")?;
        self.http.get(&node.http, &self.timeline).await
    }

    /// Attaches the timeline to a pageserver that knows nothing of it, with what a safekeeper knows; gives its start.
    ///
    /// # Errors
    /// When one of them refuses.
    pub async fn attach(&self) -> Result<Lsn> {
        let id = self.safekeepers.first().context("no safekeepers")?.id;
        let known = self.safekeeper(id).await?;
        let attach = AttachRequest {
            start_lsn: known.timeline_start_lsn.context("a timeline without a start")?,
            pg_version_num: known.pg_version_num,
            system_id: known.system_id,
            wal_seg_size: known.wal_seg_size,
            pg_history: known.pg_history,
        };
        let path = format!("{}/attach", self.timeline);
        let created =
            self.http.post(&self.pageserver.http, &path, serde_json::to_vec(&attach)?, "application/json").await?;
        ensure!(created, "the pageserver knew the timeline: its directory was not empty");
        Ok(attach.start_lsn)
    }

    /// Has the pageserver write everything that it took in; gives up to where it is durable then.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn flush(&self) -> Result<Lsn> {
        let path = format!("{}/flush", self.timeline);
        let status: PageserverTimelineStatus =
            self.http.post_for(&self.pageserver.http, &path, Vec::new(), "application/json").await?;
        Ok(shown(status.disk_consistent_lsn))
    }

    /// Waits until every safekeeper holds the committed WAL below `end`.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub async fn held_by_safekeepers(&self, end: Lsn, patience: Duration) -> Result<()> {
        for node in &self.safekeepers {
            poll("a safekeeper catching up", patience, async || {
                let status = self.safekeeper(node.id).await.ok()?;
                (status.commit_lsn >= Some(end) && status.flush_lsn >= Some(end)).then_some(())
            })
            .await?;
        }
        Ok(())
    }
}

/// Looks every millisecond; gives what was seen and when.
///
/// # Errors
/// When nothing was seen within `patience`.
pub async fn poll<T>(what: &str, patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Result<(T, Instant)> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(seen) = look().await {
            return Ok((seen, Instant::now()));
        }
        ensure!(Instant::now() < deadline, "{what} did not happen within {patience:?}");
        tokio::time::sleep(STEP).await; // between two looks
    }
}
