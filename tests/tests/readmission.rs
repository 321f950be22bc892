//! Members that forgot, as an operator sees them: an old copy of a directory is restored, a directory is lost.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::Bounded as _;
use harness::copy_tree;
use pgformat::SegSize;
use proto::api::{Readiness, SafekeeperTimelineStatus, ShimStatus};
use tests::fabric::TestFabric;
use tests::wait::until;
use walfabric::fabric::Fabric;
use walfabric::http::Http;
use walfabric::sql;

const PATIENCE: Duration = Duration::from_secs(60);

/// A fabric with a table, and what is asked of it.
struct Rig {
    fabric: TestFabric,
    at: Fabric,
    http: Http,
    rows: u32,
}

impl Rig {
    async fn up() -> Result<Rig> {
        let fabric = TestFabric::up(&[])?;
        let at = fabric.read()?;
        let rig = Rig { fabric, at, http: Http::new(Duration::from_secs(2))?, rows: 0 };
        let client = sql::connect(&rig.conninfo()?).await?;
        client.batch_execute("CREATE TABLE t (n int)").await?;
        Ok(rig)
    }

    fn conninfo(&self) -> Result<String> {
        Ok(self.at.postgres.as_ref().context("postgres")?.conninfo())
    }

    /// Commits rows; all of them must be there at the end.
    async fn commit(&mut self) -> Result<()> {
        let client = sql::connect(&self.conninfo()?).await?;
        for _ in 0..10 {
            let insert = client.batch_execute("INSERT INTO t SELECT generate_series(1, 20)");
            tokio::time::timeout(PATIENCE, insert).await.context("a commit hangs")??;
            self.rows += 20;
        }
        ensure!(sql::text(&client, "SELECT count(*) FROM t").await? == self.rows.to_string(), "rows are missing");
        Ok(())
    }

    fn dir(&self, id: usize) -> &Path {
        &self.at.safekeepers[id - 1].data_dir
    }

    /// The file of a member's first segment.
    fn first_segment(&self, id: usize) -> Result<PathBuf> {
        let dir = self.dir(id).join(self.at.tenant_id.to_string()).join(self.at.timeline_id.to_string());
        let files = std::fs::read_dir(&dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(dir.join(files.filter(|name| name.len() == 24).min().context("a segment")?))
    }

    async fn status(&self, id: usize) -> Option<SafekeeperTimelineStatus> {
        let path = format!("/v1/tenant/{}/timeline/{}", self.at.tenant_id, self.at.timeline_id);
        self.http.get(&self.at.safekeepers[id - 1].http, &path).await.ok()
    }

    /// A copy of a member's directory, taken while it was stopped; it was started twice since, and has committed more.
    async fn old_copy(&mut self, id: usize) -> Result<PathBuf> {
        let (name, copy) = (format!("safekeeper-{id}"), self.dir(id).with_extension("old"));
        self.fabric.ok(&["stop", &name])?;
        copy_tree(self.dir(id), &copy)?;
        for _ in 0..2 {
            self.fabric.ok(&["start", &name])?;
            self.takes_part(id).await;
            self.commit().await?;
            self.fabric.ok(&["kill", &name])?;
        }
        self.fabric.ok(&["start", &name])?;
        self.takes_part(id).await;
        Ok(copy)
    }

    /// Puts the copy in the place of the directory of a member that is killed, and starts it.
    fn roll_back(&self, id: usize, copy: &Path) -> Result<()> {
        let name = format!("safekeeper-{id}");
        self.fabric.ok(&["kill", &name])?;
        std::fs::remove_dir_all(self.dir(id))?;
        std::fs::rename(copy, self.dir(id))?;
        self.fabric.ok(&["start", &name]).map(drop)
    }

    async fn takes_part(&self, id: usize) -> SafekeeperTimelineStatus {
        until(&format!("safekeeper {id} takes part"), PATIENCE, async || {
            self.status(id).await.filter(|s| s.not_admitted.is_none() && s.streaming)
        })
        .await
    }

    async fn is_barred(&self, id: usize) -> String {
        until(&format!("safekeeper {id} is barred"), PATIENCE, async || self.status(id).await?.not_admitted).await
    }

    fn readmit(&self, id: usize, more: &[&str]) -> Result<Output> {
        let (tenant, timeline) = (self.at.tenant_id.to_string(), self.at.timeline_id.to_string());
        let mut command = Command::new(self.fabric.binary());
        command.args(["timeline", "readmit", "--broker", &self.at.broker.endpoint]);
        command.args(["--broker-prefix", &self.at.broker.prefix, "--tenant-id", &tenant, "--timeline-id", &timeline]);
        command.args(["--safekeeper", &id.to_string()]).args(more).output_within(PATIENCE)
    }

    /// `status --check` must say `word`, with exit code 3.
    fn is_told(&self, word: &str) -> Result<()> {
        let output = self.fabric.run(&["status", "--check"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(3) && text.contains(word), "{word}: {}\n{text}", output.status);
        Ok(())
    }

    async fn is_well(&self) {
        until("all is well", PATIENCE, async || {
            let output = self.fabric.run(&["status", "--check"]).ok()?;
            output.status.success().then_some(())
        })
        .await;
    }
}

/// Goal: an old copy takes part in nothing, everybody says so, and it comes back by itself when both others are there,
/// by the operator's word when they are not. Method: with the third member killed its copy would be half of a quorum.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_directory_is_named_and_waits() -> Result<()> {
    let mut rig = Rig::up().await?;
    let copy = rig.old_copy(2).await?;
    rig.fabric.ok(&["kill", "safekeeper-3"])?;
    let term = rig.status(1).await.context("safekeeper 1")?.term;
    rig.roll_back(2, &copy)?;
    let why = rig.is_barred(2).await;
    assert!(why.contains("remembers of safekeeper 2") && why.contains("waits for safekeeper 3"), "{why}");
    rig.is_told("safekeeper 2 takes no part")?;
    let node = &rig.at.safekeepers[1].http;
    let health = rig.http.get::<Readiness>(node, "/readyz?verbose").await.expect_err("not ready").to_string();
    assert!(health.contains("503") && health.contains("takes no part"), "{health}");
    let metrics = String::from_utf8(rig.http.get_bytes(node, "/metrics").await?.to_vec())?;
    assert!(metrics.contains("walfabric_safekeeper_readmission_pending 1"), "{metrics}");
    let shim = rig.at.shim.as_ref().context("shim")?.http.clone();
    until("the shim names it", PATIENCE, async || {
        let status: ShimStatus = rig.http.get(&shim, "/v1/status").await.ok()?;
        let named = |w: &String| w.contains("safekeeper 2 acknowledged") && w.contains("and now");
        (status.warnings.iter().any(named) && !status.protected).then_some(())
    })
    .await;
    let asked = rig.readmit(2, &[])?;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(asked.status.code() == Some(3) && said.contains("waits for safekeeper 3"), "{said}");
    assert_eq!(rig.status(1).await.context("safekeeper 1")?.term, term, "it elects nobody");
    // Both others are there: by itself.
    rig.fabric.ok(&["start", "safekeeper-3"])?;
    rig.takes_part(2).await;
    rig.commit().await?;
    rig.is_well().await;

    // The operator decides.
    let copy = rig.old_copy(2).await?;
    rig.fabric.ok(&["kill", "safekeeper-3"])?;
    until("the first member has it all", PATIENCE, async || {
        let (one, two) = (rig.status(1).await?, rig.status(2).await?);
        (one.flush_lsn >= two.flush_lsn).then_some(())
    })
    .await;
    rig.roll_back(2, &copy)?;
    rig.is_barred(2).await;
    let asked = rig.readmit(2, &["--force"])?;
    assert!(asked.status.success(), "{asked:?}");
    rig.commit().await.context("two of three are a quorum again")?;
    rig.fabric.ok(&["start", "safekeeper-3"])?;
    rig.takes_part(3).await;
    rig.is_well().await;
    Ok(())
}

/// Goal: a member whose directory is gone gets it anew from the others, also when the primary's WAL of the timeline's
/// start is gone, and takes no part before it has all. Damage below the timeline's start is not copied: the member that
/// is asked first has some.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_directory_is_made_anew_from_the_others() -> Result<()> {
    let mut rig = Rig::up().await?;
    rig.commit().await?;
    let start = rig.status(1).await.context("safekeeper 1")?.timeline_start_lsn.context("a start")?;
    let below = usize::try_from(start.segment_offset(SegSize::DEFAULT))?;
    rig.fabric.ok(&["kill", "safekeeper-1"])?;
    let mut damaged = std::fs::read(rig.first_segment(1)?)?;
    damaged[below - 200] ^= 1;
    std::fs::write(rig.first_segment(1)?, damaged)?;
    rig.fabric.ok(&["start", "safekeeper-1"])?;
    rig.takes_part(1).await;
    rig.fabric.ok(&["kill", "safekeeper-2"])?;
    for entry in std::fs::read_dir(rig.dir(2))? {
        let path = entry?.path();
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    rig.fabric.ok(&["start", "safekeeper-2"])?;
    rig.is_told("safekeeper 2 answers, but does not have the timeline")?;
    rig.commit().await?;
    let asked = rig.readmit(2, &[])?;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(said.contains("made anew at") && [Some(0), Some(3)].contains(&asked.status.code()), "{asked:?}");
    let told = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(told.contains("safekeeper 1's first segment is damaged"), "{told}");
    let (made, good) = (std::fs::read(rig.first_segment(2)?)?, std::fs::read(rig.first_segment(3)?)?);
    assert!(made[..below] == good[..below], "the good copy");
    let filled = rig.takes_part(2).await;
    assert_eq!(filled.timeline_start_lsn, rig.status(1).await.context("safekeeper 1")?.timeline_start_lsn);
    rig.is_well().await;
    rig.fabric.ok(&["kill", "safekeeper-1"])?;
    rig.commit().await.context("it is half of a quorum")?;
    Ok(())
}
