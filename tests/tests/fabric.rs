//! Whole fabrics of real processes, driven as by a user.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::Bounded as _;
use serde_json::Value;
use tests::fabric::{TestFabric, binary};
use tests::process::{Postgres, Process, free_port};
use tests::wait;
use walfabric::sql;

const PATIENCE: Duration = Duration::from_secs(60);

fn status(fabric: &TestFabric) -> Result<Value> {
    let output = fabric.run(&["status", "--json"])?;
    ensure!(output.status.code() == Some(0), "status exits with {:?}", output.status);
    ensure!(output.stderr.is_empty(), "status writes to stderr: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}

/// Goal: the verbs keep their promises (exit codes, fabric.json true before they return, ports kept) and commits
/// survive them. Method: one fabric through up, kill, start, stop, down and up again, with a commit in between each.
#[tokio::test(flavor = "multi_thread")]
async fn verbs_keep_their_promises() -> Result<()> {
    let fabric = TestFabric::up(&[])?;
    let before = fabric.read()?;
    let pg = before.postgres.clone().context("postgres")?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute("CREATE TABLE t (n int)").await?;

    status_has_every_field(&status(&fabric)?);
    let names = client
        .query_one(
            "SELECT application_name, state, sync_state, write_lsn IS NOT NULL AND flush_lsn IS NOT NULL \
        AND replay_lsn IS NOT NULL FROM pg_stat_replication",
            &[],
        )
        .await?;
    assert_eq!(
        (names.get::<_, &str>(1), names.get::<_, &str>(2), names.get::<_, bool>(3)),
        ("streaming", "sync", true)
    );

    for _ in 0..2 {
        fabric.ok(&["kill", "safekeeper-2"])?;
        assert_eq!(fabric.read()?.safekeepers[1].pid, None, "fabric.json names a dead process");
    }
    assert_eq!(*at(&status(&fabric)?, "/timelines/0/safekeepers/1/alive"), Value::Bool(false));
    client.batch_execute("INSERT INTO t VALUES (1)").await.context("two of three are a quorum")?;
    assert_eq!(fabric.run(&["status", "--check"])?.status.code(), Some(3), "a dead safekeeper is degraded");
    assert_eq!(fabric.run(&["kill", "safekeeper-9"])?.status.code(), Some(2), "an unknown name is a usage error");
    for _ in 0..2 {
        fabric.ok(&["start", "safekeeper-2"])?;
    }

    fabric.ok(&["stop", "pageserver-1"])?;
    let silent = status(&fabric)?;
    assert_eq!(*at(&silent, "/timelines/0/pageservers/0/id"), Value::from(1), "a dead pageserver is listed");
    client.batch_execute("INSERT INTO t VALUES (2)").await.context("no commit waits for a pageserver")?;
    fabric.ok(&["start", "pageserver-1"])?;
    drop(client);

    fabric.ok(&["down"])?;
    fabric.ok(&["down"])?;
    assert_eq!(fabric.read()?.pids(), vec![], "nothing runs after down");
    let output =
        Command::new(fabric.binary()).args(["up", "--detach", "--dir"]).arg(fabric.path()).output_within(PATIENCE)?;
    ensure!(output.status.success(), "up does not resume: {}", String::from_utf8_lossy(&output.stderr));
    let after = fabric.read()?;
    assert_eq!(after.postgres.context("postgres")?.port, pg.port, "ports survive");
    let client = sql::connect(&pg.conninfo()).await?;
    assert_eq!(sql::text(&client, "SELECT sum(n) FROM t").await?, "3", "rows survive");
    Ok(())
}

fn status_has_every_field(status: &Value) {
    assert_eq!(*at(status, "/schema"), Value::from(1));
    let timeline = at(status, "/timelines/0");
    let expect = [
        (
            "/safekeepers/0",
            vec!["id", "alive", "term", "last_log_term", "flush_lsn", "commit_lsn", "remote_consistent_lsn"],
        ),
        (
            "/pageservers/0",
            vec![
                "id",
                "safekeeper_id",
                "reason",
                "choice_seq",
                "chosen_at",
                "last_record_lsn",
                "disk_consistent_lsn",
                "remote_consistent_lsn",
                "lag_bytes",
            ],
        ),
        ("/shim", vec!["alive", "state", "term", "reported_lsn", "protected", "reasons"]),
        ("", vec!["tenant_id", "timeline_id"]),
    ];
    for (pointer, fields) in expect {
        let object = at(timeline, pointer).as_object().expect("an object");
        for field in fields {
            assert!(object.contains_key(field), "{pointer} has no {field}");
        }
    }
    assert_eq!(at(timeline, "/safekeepers").as_array().map(Vec::len), Some(3));
    assert_eq!(*at(timeline, "/shim/protected"), Value::Bool(true));
    assert!(at(timeline, "/pageservers/0/safekeeper_id").is_u64() && at(timeline, "/pageservers/0/reason").is_string());
    assert_eq!(*at(timeline, "/safekeepers/0/remote_consistent_lsn"), Value::from("0/0"), "nothing is offloaded yet");
}

/// Goal: a PostgreSQL that we did not start gets a timeline in the documented steps, against a real etcd, and stock
/// tools work. Method: etcd, `up --no-postgres --broker URL`, `timeline create` twice, the shim by hand, `timeline
/// protect`, then pg_receivewal from a safekeeper (its files equal the primary's), psql's SHOW, etcdctl, and etcd
/// starting empty while commits go on.
#[tokio::test(flavor = "multi_thread")]
async fn an_own_postgres_on_a_real_etcd() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("walfabric-own-").tempdir()?;
    let mut etcd = Etcd::start(dir.path(), 0).await?;
    let fabric = TestFabric::up(&["--no-postgres", "--broker", &etcd.url])?;
    let mut pg = Postgres::start(dir.path(), "pg").await?;
    let (tenant, timeline) = ("11112222333344445555666677778888", "9999aaaabbbbccccddddeeeeffff0000");
    let create = ["timeline", "create", "--primary", &pg.conninfo(), "--broker", &etcd.url];
    let create = |extra: &[&str]| Command::new(fabric.binary()).args(create).args(extra).output_within(PATIENCE);
    let ids = ["--tenant-id", tenant, "--timeline-id", timeline];
    for word in ["created", "unchanged"] {
        let output = create(&ids)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && text.contains(word),
            "{word}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let differing = create(&["--tenant-id", tenant, "--timeline-id", timeline, "--safekeepers", "1,2"])?;
    assert_eq!(differing.status.code(), Some(1), "differing members are a conflict");

    let described = fabric.read()?;
    let safekeepers: Vec<&str> = described.safekeepers.iter().map(|s| s.pg.as_str()).collect();
    let shim_http = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(binary()?);
    command.args(["walproposer-shim", "--primary", &pg.conninfo(), "--safekeepers", &safekeepers.join(",")]);
    command.args(ids).args(["--broker", &etcd.url, "--listen-http", &shim_http, "--apply-source", "pageserver"]);
    let _shim = Process::spawn(command, &dir.path().join("shim.log"))?;
    let protect = Command::new(fabric.binary())
        .args(["timeline", "protect", "--primary", &pg.conninfo(), "--timeline-id", timeline])
        .output_within(PATIENCE)?;
    ensure!(protect.status.success(), "{}", String::from_utf8_lossy(&protect.stderr));

    let client = sql::connect(&pg.conninfo()).await?;
    client
        .batch_execute("SET synchronous_commit = remote_apply; CREATE TABLE t AS SELECT generate_series(1, 20000) AS n")
        .await?;
    receivewal_equals_the_primary(&pg, &described.safekeepers[0].pg, tenant, timeline, dir.path()).await?;
    stock_tools_work(&pg, &described, &etcd, tenant, timeline)?;

    // The broker comes back empty: streams go on, nodes publish anew.
    etcd.process.kill();
    client.batch_execute("INSERT INTO t VALUES (1)").await.context("a commit waits for the broker")?;
    let port = etcd.port;
    let etcd = Etcd::start(&dir.path().join("anew"), port).await?;
    wait::until("publishing anew", PATIENCE, async || {
        let keys = etcd.get_prefix().ok()?;
        (keys.contains("/push/") && (1..=3).all(|n| keys.contains(&format!("/walfabric/sk/{n}\n")))).then_some(())
    })
    .await;
    client.batch_execute("INSERT INTO t VALUES (2)").await?;
    pg.kill();
    Ok(())
}

async fn receivewal_equals_the_primary(
    pg: &Postgres,
    address: &str,
    tenant: &str,
    timeline: &str,
    dir: &std::path::Path,
) -> Result<()> {
    let client = sql::connect(&pg.conninfo()).await?;
    let first = sql::text(&client, "SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
    let received = dir.join("received");
    std::fs::create_dir(&received)?;
    if let Some((uid, gid)) = walfabric::postgres::run_as()? {
        std::os::unix::fs::chown(&received, Some(uid), Some(gid))?;
    }
    let (host, port) = address.rsplit_once(':').context("host:port")?;
    let options = format!("options='-c tenant_id={tenant} -c timeline_id={timeline}'");
    let conninfo = format!("host={host} port={port} user=x dbname=replication {options}");
    let mut command = pg.program("pg_receivewal")?;
    command.arg("-D").arg(&received).args(["-d", &conninfo, "--no-loop"]);
    let log = dir.join("receivewal.log");
    let mut receiver = Process::spawn(command, &log)?;
    let mut appears = async |what: &str, file: std::path::PathBuf| {
        wait::until(what, PATIENCE, async || {
            assert!(receiver.running(), "pg_receivewal ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
            file.is_file().then_some(())
        })
        .await;
    };
    // It starts with the segment that the safekeeper's log ends in.
    appears("pg_receivewal starting", received.join(format!("{first}.partial"))).await;
    client.batch_execute("SELECT pg_switch_wal()").await?;
    client.batch_execute("CREATE TABLE after_switch (n int)").await?;
    appears("pg_receivewal finishing a segment", received.join(&first)).await;
    receiver.kill();
    let (ours, theirs) =
        (std::fs::read(received.join(&first))?, std::fs::read(pg.data_dir.join("pg_wal").join(&first))?);
    ensure!(ours == theirs, "segment {first} differs from the primary's");
    Ok(())
}

fn stock_tools_work(
    pg: &Postgres,
    described: &walfabric::fabric::Fabric,
    etcd: &Etcd,
    tenant: &str,
    timeline: &str,
) -> Result<()> {
    for (address, show) in [(&described.safekeepers[0].pg, "TIMELINES"), (&described.pageservers[0].pg, "CHOICES")] {
        let (host, port) = address.rsplit_once(':').context("host:port")?;
        let conninfo = format!(
            "host={host} port={port} user=x dbname=x options='-c tenant_id={tenant} -c timeline_id={timeline}'"
        );
        let output =
            pg.program("psql")?.args([&conninfo, "-X", "-A", "-c", &format!("SHOW {show}")]).output_within(PATIENCE)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && text.contains(timeline),
            "SHOW {show}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let unknown = pg
            .program("psql")?
            .args([&conninfo, "-X", "-v", "VERBOSITY=verbose", "-c", "FROBNICATE"])
            .output_within(PATIENCE)?;
        let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
        ensure!(!unknown.status.success() && error.contains("ERROR:  "), "an unknown command: {error}");
    }
    let keys = etcd.get_prefix()?;
    ensure!(keys.contains(&format!("/{tenant}/{timeline}/ps/1.0")), "the choice is not on the broker: {keys}");
    ensure!(keys.contains("\"reason\""), "the reason is not on the broker");
    Ok(())
}

/// A real etcd on a free port, data in a directory.
struct Etcd {
    process: Process,
    url: String,
    port: u16,
}

impl Etcd {
    async fn start(dir: &std::path::Path, port: u16) -> Result<Etcd> {
        std::fs::create_dir_all(dir)?;
        let port = if port == 0 { free_port() } else { port };
        let (url, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.join("etcd")).args([
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
        ]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        let etcd = Etcd { process: Process::spawn(command, &dir.join("etcd.log"))?, url, port };
        wait::until("etcd answering", PATIENCE, async || etcd.get_prefix().ok()).await;
        Ok(etcd)
    }

    fn get_prefix(&self) -> Result<String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url, "get", "--prefix", "/walfabric"])
            .output_within(PATIENCE)?;
        ensure!(output.status.success(), "etcdctl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
