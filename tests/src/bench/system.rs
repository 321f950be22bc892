//! The systems under comparison: the alternatives, and us.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Bounded as _, LONG};
use walfabric::sql;

use crate::fabric::TestFabric;
use crate::process::{Postgres, Process};
use crate::wait;

/// PostgreSQL without a standby.
pub const PLAIN: &str = "no standby";
/// Three receivers, two of which must have a commit.
pub const ANY_TWO: &str = "ANY 2 of 3 pg_receivewal";
/// One synchronous streaming standby.
pub const STANDBY: &str = "one streaming standby";
/// Ours.
pub const WALFABRIC: &str = "walfabric";

/// Settings that every cluster gets, so that no checkpoint falls into one system's block only.
pub const SETTINGS: [&str; 3] = ["checkpoint_timeout = '1h'", "max_wal_size = '16GB'", "autovacuum = off"];

/// A running system.
pub struct System {
    /// For tables.
    pub name: &'static str,
    /// Superuser connection string of its primary.
    pub conninfo: String,
    /// Directory of the client programs.
    pub bin_dir: std::path::PathBuf,
    kind: Kind,
}

enum Kind {
    /// PostgreSQL alone, or with helpers.
    Own {
        primary: Postgres,
        helpers: Vec<Process>,
        _standby: Option<Postgres>,
    },
    Fabric(TestFabric),
}

impl System {
    /// PostgreSQL with fsync and no standby.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn plain(dir: &Path) -> Result<System> {
        let primary = Postgres::start(dir, "plain").await?;
        System::own(PLAIN, primary, Vec::new(), None).await
    }

    /// Three `pg_receivewal --synchronous`, two of which must have a commit.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn any_two(dir: &Path) -> Result<System> {
        let primary = Postgres::start(dir, "any2").await?;
        let client = sql::connect(&primary.conninfo()).await?;
        let mut receivers = Vec::new();
        for n in 1..=3 {
            client.execute(&format!("SELECT pg_create_physical_replication_slot('rx{n}', true)"), &[]).await?;
            let target = dir.join(format!("rx{n}"));
            open_for_postgres(&target)?;
            let mut command = primary.program("pg_receivewal")?;
            let conninfo = format!("host=127.0.0.1 port={} user=postgres application_name=rx{n}", primary.port);
            command.args(["--synchronous", "-S", &format!("rx{n}"), "-d", &conninfo, "-D"]).arg(&target);
            receivers.push(Process::spawn(command, &dir.join(format!("rx{n}.log")))?);
        }
        synchronous(&client, "ANY 2 (rx1, rx2, rx3)", 3).await?;
        System::own(ANY_TWO, primary, receivers, None).await
    }

    /// One streaming standby.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn standby(dir: &Path) -> Result<System> {
        let primary = Postgres::start(dir, "primary").await?;
        let target = dir.join("standby");
        open_for_postgres(&target)?;
        let conninfo = format!("host=127.0.0.1 port={} user=postgres application_name=standby1", primary.port);
        let mut backup = primary.program("pg_basebackup")?;
        backup.args(["-d", &conninfo, "-R", "-X", "stream", "-c", "fast", "-D"]).arg(&target);
        let output = backup.output_within(LONG)?;
        ensure!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        let mut standby = Postgres::adopt(target)?;
        standby.restart().await?;
        let client = sql::connect(&primary.conninfo()).await?;
        synchronous(&client, "FIRST 1 (standby1)", 1).await?;
        System::own(STANDBY, primary, Vec::new(), Some(standby)).await
    }

    /// A fabric with three safekeepers and one pageserver.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn walfabric() -> Result<System> {
        let fabric = TestFabric::up(&[])?;
        let pg = fabric.read()?.postgres.context("no PostgreSQL")?;
        configure(&pg.conninfo()).await?;
        Ok(System { name: WALFABRIC, conninfo: pg.conninfo(), bin_dir: pg.bin_dir, kind: Kind::Fabric(fabric) })
    }

    async fn own(
        name: &'static str,
        primary: Postgres,
        helpers: Vec<Process>,
        standby: Option<Postgres>,
    ) -> Result<System> {
        configure(&primary.conninfo()).await?;
        let (conninfo, bin_dir) = (primary.conninfo(), primary.bin_dir.clone());
        Ok(System { name, conninfo, bin_dir, kind: Kind::Own { primary, helpers, _standby: standby } })
    }

    /// Process ids whose trees make up the system.
    ///
    /// # Errors
    /// When fabric.json cannot be read.
    pub fn pids(&self) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Own { primary, helpers, _standby } => {
                let servers = [Some(primary), _standby.as_ref()].into_iter().flatten().filter_map(Postgres::pid);
                Ok(servers.chain(helpers.iter().map(Process::id)).collect())
            }
            Kind::Fabric(fabric) => Ok(fabric.read()?.pids().into_iter().map(|(_, pid)| pid).collect()),
        }
    }

    /// What its primary is configured with beside the defaults, as `name=value`.
    ///
    /// # Errors
    /// When the primary does not answer.
    pub async fn settings(&self) -> Result<Vec<String>> {
        let client = sql::connect(&self.conninfo).await?;
        let query =
            "SELECT name || '=' || setting FROM pg_settings WHERE source LIKE '%file%' OR source = 'command line'";
        Ok(client.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// The fabric behind it, if it is one.
    pub fn fabric(&self) -> Option<&TestFabric> {
        match &self.kind {
            Kind::Fabric(fabric) => Some(fabric),
            Kind::Own { .. } => None,
        }
    }
}

async fn configure(conninfo: &str) -> Result<()> {
    let client = sql::connect(conninfo).await?;
    for setting in SETTINGS {
        client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await?;
    }
    client.batch_execute("SELECT pg_reload_conf()").await?;
    Ok(())
}

/// Waits for `count` streaming receivers, then makes commits wait for them.
async fn synchronous(client: &tokio_postgres::Client, names: &str, count: usize) -> Result<()> {
    let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    wait::until("receivers streaming", Duration::from_secs(30), async || {
        let streaming: usize = sql::text(client, query).await.ok()?.parse().ok()?;
        (streaming >= count).then_some(())
    })
    .await;
    client.batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    Ok(())
}

fn open_for_postgres(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    if let Some((uid, gid)) = walfabric::postgres::run_as()? {
        std::os::unix::fs::chown(dir, Some(uid), Some(gid))?;
    }
    Ok(())
}
