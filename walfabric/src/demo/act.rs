//! The demo's scenes: who pushes and why, and what happens when something is killed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::Lsn;
use proto::api::{ChoiceMode, ChoiceStatus, PageserverTimelineStatus, SafekeeperTimelineStatus, ShimStatus};

use super::story::Story;
use crate::ddl::Ddl;
use crate::fabric::{Fabric, FabricDir};
use crate::http::Http;
use crate::ledger::Ledger;
use crate::supervisor::{Client, SupervisorRequest};
use crate::{sql, up};

/// How long any one recovery may take before the demo calls it a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// DDL that is carried out before PostgreSQL is killed: the next one is under way then.
const DDL_STATEMENTS: u64 = 4;

/// Pause between two looks at a status.
const STEP: Duration = Duration::from_millis(2);

pub(super) struct Scene<'a> {
    pub(super) story: &'a Story,
    pub(super) dir: &'a FabricDir,
    pub(super) fabric: &'a Fabric,
    pub(super) ledger: &'a Ledger,
}

impl Scene<'_> {
    fn timeline_path(&self) -> String {
        format!("/v1/tenant/{}/timeline/{}", self.fabric.tenant_id, self.fabric.timeline_id)
    }

    async fn pageserver(&self) -> Result<PageserverTimelineStatus> {
        let node = self.fabric.pageservers.first().context("the fabric has no pageserver")?;
        Http::new(Duration::from_secs(2))?.get(&node.http, &self.timeline_path()).await
    }

    async fn choice(&self) -> Result<ChoiceStatus> {
        self.pageserver().await?.choice.context("the pageserver has no choice")
    }

    fn describe(choice: &ChoiceStatus) -> String {
        let ChoiceStatus { safekeeper_id, reason, choice_seq, chosen_at, mode } = choice;
        format!(
            "safekeeper {safekeeper_id} feeds pageserver 1 by {mode}: choice {choice_seq}, {reason}, at {chosen_at}"
        )
    }

    fn kill(&self, name: &str) -> Result<Instant> {
        let mut client = Client::connect(self.dir).context("the supervisor is gone")?;
        let at = Instant::now();
        let reply = client.ask(&SupervisorRequest::Kill { name: name.to_owned() })?;
        ensure!(reply.code == 0, "cannot kill {name}: {}", reply.error.unwrap_or_default());
        Ok(at)
    }

    async fn wait<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A server that is just starting does not answer yet: only the deadline ends the wait.
            if let Ok(Some(found)) = look().await {
                return Ok(found);
            }
            ensure!(Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}");
            tokio::time::sleep(STEP).await;
        }
    }

    pub(super) async fn show_choice(&self) -> Result<()> {
        self.story.chapter("who feeds the pageserver, and why");
        let choice = self
            .wait("a push stream", async || Ok(Some(self.choice().await?).filter(|c| c.mode == ChoiceMode::Push)))
            .await?;
        self.story.line(&Self::describe(&choice));
        let status = crate::status::collect(
            &crate::status::NodeSource::Dir(self.dir.root().to_path_buf()),
            crate::status::Only::default(),
        )
        .await?;
        status.render().lines().for_each(|l| self.story.line(l));
        Ok(())
    }

    pub(super) async fn kill_pusher(&self) -> Result<()> {
        let before = self.choice().await?;
        let name = format!("safekeeper-{}", before.safekeeper_id);
        self.story.chapter(&format!("kill -9 {name}, which is pushing, under load"));
        self.ledger.take_longest_stall();
        let killed = self.kill(&name)?;
        let lsn = self.flushed().await?;
        let choice = self.wait("a new choice", async || {
            Ok(Some(self.choice().await?).filter(|c| c.safekeeper_id != before.safekeeper_id))
        });
        let choice = choice.await?;
        let chosen_after = killed.elapsed();
        self.wait("the new stream", async || {
            Ok(Some(self.pageserver().await?).filter(|p| p.last_record_lsn >= Some(lsn)))
        })
        .await?;
        let caught_up_after = killed.elapsed();
        self.ledger.wait_progress(50, PATIENCE).await?;
        self.story.line(&Self::describe(&choice));
        self.story.line(&format!(
            "new choice after {} ms, WAL written after the kill is in the pageserver after {} ms",
            chosen_after.as_millis(),
            caught_up_after.as_millis()
        ));
        self.story.line(&format!(
            "longest pause between two acknowledged commits: {} ms",
            self.ledger.take_longest_stall().as_millis()
        ));

        self.story.line(&format!("restarting {name}"));
        let target = self.flushed().await?;
        up::start(self.dir, &name).await?;
        let node =
            self.fabric.safekeepers.iter().find(|s| s.id == before.safekeeper_id.0).context("no such safekeeper")?;
        let http = Http::new(Duration::from_secs(2))?;
        let path = self.timeline_path();
        self.wait("catching up", async || {
            Ok(Some(http.get::<SafekeeperTimelineStatus>(&node.http, &path).await?)
                .filter(|s| s.flush_lsn >= Some(target)))
        })
        .await?;
        self.story.line(&format!("{name} has caught up beyond {target}"));
        Ok(())
    }

    async fn flushed(&self) -> Result<Lsn> {
        let client = sql::connect(self.ledger.conninfo()).await?;
        Ok(sql::text(&client, "SELECT pg_current_wal_flush_lsn()").await?.parse()?)
    }

    async fn wait_protected(&self) -> Result<()> {
        let shim = self.fabric.shim.as_ref().context("the fabric has no shim")?;
        let http = Http::new(Duration::from_secs(2))?;
        self.wait("protection", async || {
            Ok(Some(http.get::<ShimStatus>(&shim.http, "/v1/status").await?).filter(|s| s.protected))
        })
        .await
        .map(drop)
    }

    pub(super) async fn kill_shim(&self) -> Result<()> {
        self.story.chapter("kill -9 the shim under load, start it again");
        self.ledger.take_longest_stall();
        let killed = self.kill("shim")?;
        up::start(self.dir, "shim").await?;
        self.ledger.wait_progress(50, PATIENCE).await?;
        self.story.line(&format!(
            "commits flow again after {} ms, none was acknowledged without a quorum",
            killed.elapsed().as_millis()
        ));
        self.wait_protected().await?;
        self.story.line("protected again");
        Ok(())
    }

    pub(super) async fn kill_postgres(&self) -> Result<()> {
        self.story.chapter("kill -9 PostgreSQL with all its backends under load and DDL, start it again");
        let pg = self.fabric.postgres.as_ref().context("the demo needs a PostgreSQL")?;
        let ddl = Ddl::start(&pg.conninfo());
        ddl.wait_for(DDL_STATEMENTS, PATIENCE).await?;
        let killed = self.kill("postgres")?;
        up::start(self.dir, "postgres").await?;
        let statements = ddl.finish().await;
        self.story.line(&format!("{statements} statements of DDL were carried out beside that"));
        self.story.line(&format!("PostgreSQL recovered and answers after {} ms", killed.elapsed().as_millis()));
        self.wait_protected().await?;
        self.ledger.wait_progress(50, PATIENCE).await?;
        self.story.line(&format!(
            "the shim proved it to extend the quorum's log; commits flow again after {} ms",
            killed.elapsed().as_millis()
        ));
        Ok(())
    }
}
