//! Custom resource managers (PostgreSQL 15 and later), with a real extension: an import refuses them; afterwards a
//! record makes the blocks that it names unreadable, and a record that names none stops the timeline.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::Bounded as _;
use libpq::{ClientConnection, ConnectOptions};
use pgformat::rel::{BlockTag, RelFork};
use proto::Lsn;
use proto::api::{AttachRequest, ImportRequest, PageserverTimelineStatus, PgHistoryEntry};
use proto::id::{SystemId, TenantTimelineId};
use tests::extension::Extension;
use tests::fabric::TestFabric;
use tests::process::Postgres;
use tests::wait;
use walfabric::fabric::Fabric;
use walfabric::http::Http;
use walfabric::{page, sql};

const PATIENCE: Duration = Duration::from_secs(60);
/// As the extension calls it, and its number.
const NAME: &str = "walfabric_test_rmgr";
const NUMBER: &str = "resource manager 128";

/// Goal: a cluster with a custom resource manager is refused by name, before anything is made of it. Method: the
/// command line, and the pageserver's HTTP port; then the slot, the broker and every node are looked at, and without
/// the extension the same ids are free.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_a_custom_resource_manager_is_not_imported() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("walfabric-rmgr-").tempdir()?;
    let mut pg = Postgres::start(dir.path(), "pg").await?;
    let Some(extension) = Extension::compile(&pg.data_dir, dir.path())? else { return Ok(()) };
    let fabric = TestFabric::up(&["--no-postgres"])?;
    let described = fabric.read()?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute(&extension.preload()).await?;
    drop(client);
    pg.stop()?;
    pg.restart().await?;

    let ids = ("11112222333344445555666677778888", "9999aaaabbbbccccddddeeeeffff0001");
    let primary = pg.conninfo();
    let run = |verb: &str| timeline(&fabric, &described, &primary, verb, ids);
    let refused = run("import")?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(NAME) && said.contains("shared_preload_libraries"), "{said}");

    let client = sql::connect(&pg.conninfo()).await?;
    let refused = import_over_http(&described, &pg, &client, ids).await?;
    assert!(refused.contains("409") && refused.contains(NAME), "{refused}");

    assert_eq!(sql::text(&client, "SELECT count(*) FROM pg_replication_slots").await?, "0", "a slot is left");
    let http = Http::new(PATIENCE)?;
    for node in described.safekeepers.iter().chain(&described.pageservers) {
        let list: serde_json::Value = http.get(&node.http, "/v1/tenant/timeline").await?;
        assert_eq!(list, serde_json::json!([]), "a timeline is left on {}", node.data_dir.display());
    }
    let tenants = described.pageservers[0].data_dir.join("tenants");
    assert!(!tenants.join(ids.0).exists(), "files are left in {}", tenants.display());

    client.batch_execute("ALTER SYSTEM RESET shared_preload_libraries").await?;
    drop(client);
    pg.stop()?;
    pg.restart().await?;
    let created = run("create")?;
    let said = String::from_utf8_lossy(&created.stdout).into_owned();
    ensure!(created.status.success(), "{said}{}", String::from_utf8_lossy(&created.stderr));
    assert!(said.contains("created"), "something of the timeline was there: {said}");
    Ok(())
}

fn timeline(fabric: &TestFabric, described: &Fabric, primary: &str, verb: &str, ids: (&str, &str)) -> Result<Output> {
    let mut command = Command::new(fabric.binary());
    command.args(["timeline", verb, "--primary", primary, "--broker", &described.broker.endpoint]);
    command.args(["--broker-prefix", &described.broker.prefix, "--tenant-id", ids.0, "--timeline-id", ids.1]);
    command.output_within(PATIENCE)
}

/// What the pageserver says to an import that nobody checked before.
async fn import_over_http(
    described: &Fabric,
    pg: &Postgres,
    client: &tokio_postgres::Client,
    ids: (&str, &str),
) -> Result<String> {
    let version_num = sql::text(client, "SHOW server_version_num").await?.parse()?;
    let system = sql::text(client, "SELECT system_identifier FROM pg_control_system()").await?;
    let attach = AttachRequest {
        start_lsn: sql::text(client, "SELECT redo_lsn FROM pg_control_checkpoint()").await?.parse()?,
        pg_version_num: version_num,
        system_id: SystemId(system.parse::<i64>()?.cast_unsigned()),
        wal_seg_size: proto::SegSize::DEFAULT,
        pg_history: vec![PgHistoryEntry { tli: proto::Tli(1), start_lsn: Lsn::new(0) }],
    };
    let body = serde_json::to_vec(&ImportRequest { attach, from: pg.conninfo() })?;
    let path = format!("/v1/tenant/{}/timeline/{}/import", ids.0, ids.1);
    let sent = Http::new(PATIENCE)?.post(&described.pageservers[0].http, &path, body, "application/json").await;
    Ok(format!("{:#}", sent.err().context("the pageserver takes the cluster")?))
}

/// A fabric whose PostgreSQL loads the extension, and a table of several blocks.
struct Loaded {
    fabric: TestFabric,
    described: Fabric,
    client: tokio_postgres::Client,
    server: page::PageserverPorts,
    table: RelFork,
    /// Holds the library.
    _dir: tempfile::TempDir,
}

impl Loaded {
    /// None where there are no custom resource managers.
    async fn new() -> Result<Option<Loaded>> {
        let fabric = TestFabric::up(&[])?;
        let described = fabric.read()?;
        let pg = described.postgres.clone().context("postgres")?;
        let dir = tempfile::Builder::new().prefix("walfabric-rmgr-").tempdir()?;
        walfabric::postgres::check_reachable(dir.path(), walfabric::postgres::run_as()?)?;
        let Some(extension) = Extension::compile(&pg.data_dir, dir.path())? else { return Ok(None) };
        sql::connect(&pg.conninfo()).await?.batch_execute(&extension.preload()).await?;
        fabric.ok(&["stop", "postgres"])?;
        fabric.ok(&["start", "postgres"])?;
        let client = sql::connect(&pg.conninfo()).await?;
        client.batch_execute(&extension.functions()).await?;
        client
            .batch_execute(
                "CREATE TABLE t (a int, b text) WITH (fillfactor = 50);
                 INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 200) i",
            )
            .await?;
        let path = sql::text(&client, "SELECT pg_relation_filepath('t')").await?;
        let table = path.replace("base/", "1663/").parse()?;
        let node = &described.pageservers[0];
        let server = page::PageserverPorts { pg: node.pg.clone(), http: node.http.clone() };
        Ok(Some(Loaded { fabric, described, client, server, table, _dir: dir }))
    }

    fn ttid(&self) -> TenantTimelineId {
        TenantTimelineId::new(self.described.tenant_id, self.described.timeline_id)
    }

    async fn lsn(&self, query: &str) -> Result<Lsn> {
        Ok(sql::text(&self.client, query).await?.parse()?)
    }

    async fn end(&self) -> Result<Lsn> {
        self.lsn("SELECT pg_current_wal_insert_lsn()").await
    }

    /// A block of the table, or what the pageserver says instead.
    async fn block(&self, blk: u32, lsn: Lsn, wait: Duration) -> Result<bytes::Bytes, String> {
        let tag = BlockTag { fork: self.table, blk };
        page::get(&self.server, self.ttid(), tag, Some(lsn), wait).await.map_err(|e| format!("{e:#}"))
    }

    async fn status(&self) -> Result<PageserverTimelineStatus> {
        let path = format!("/v1/tenant/{}/timeline/{}", self.described.tenant_id, self.described.timeline_id);
        Http::new(PATIENCE)?.get(&self.server.http, &path).await
    }
}

/// Goal: a record of a resource manager that nobody knows makes the block that it names unreadable, that block only,
/// until an image comes. Method: the extension logs a change of block 0; an update after a checkpoint logs its image;
/// then every page is what PostgreSQL's files say.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_record_harms_the_block_that_it_names_until_an_image() -> Result<()> {
    let Some(loaded) = Loaded::new().await? else { return Ok(()) };
    let before = loaded.end().await?;
    let harmed = loaded.lsn("SELECT log_with_block('t', 0)").await?;
    let refusal = loaded.block(0, harmed, PATIENCE).await.err().context("a page is guessed")?;
    assert!(refusal.contains("WF017") && refusal.contains(&harmed.to_string()), "{refusal}");
    assert!(refusal.contains("record type 128/0x00 is not known"), "{refusal}");
    loaded.block(0, before, PATIENCE).await.map_err(anyhow::Error::msg).context("before the record")?;
    loaded.block(1, harmed, PATIENCE).await.map_err(anyhow::Error::msg).context("another block")?;
    assert_eq!(loaded.status().await?.stopped, None);
    Http::new(PATIENCE)?.get_ok(&loaded.server.http, "/readyz").await?;

    loaded.client.batch_execute("CHECKPOINT").await?;
    let later = loaded.end().await?;
    assert!(loaded.block(0, later, PATIENCE).await.is_err_and(|e| e.contains("WF017")), "nothing healed it");
    loaded.client.batch_execute("UPDATE t SET a = a + 1000 WHERE a = 1").await?;
    let healed = loaded.end().await?;
    loaded.block(0, healed, PATIENCE).await.map_err(anyhow::Error::msg).context("after an image")?;
    assert!(loaded.block(0, harmed, PATIENCE).await.is_err_and(|e| e.contains("WF017")), "the past is as it was");

    let pg = loaded.described.postgres.clone().context("postgres")?;
    loaded.fabric.ok(&["stop", "postgres"])?;
    let local = page::verify::read_local(&pg.data_dir).await?;
    let mut remote = page::remote::Remote::open(loaded.server.clone(), loaded.ttid(), local.lsn, PATIENCE).await?;
    let report = page::verify::verify(&local, &mut remote).await?;
    assert!(report.equal, "{}", report.render());
    Ok(())
}

/// Goal: a record that names no block may have changed anything, so ingest stops in front of it and says so; commits
/// and reads of what came before go on, also after the pageserver was killed. Method: the extension logs one.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_record_without_blocks_stops_the_timeline() -> Result<()> {
    let Some(loaded) = Loaded::new().await? else { return Ok(()) };
    let before = loaded.end().await?;
    let stopping = loaded.lsn("SELECT log_without_block()").await?;
    loaded.client.batch_execute("INSERT INTO t VALUES (0, 'after')").await.context("commits do not wait for it")?;
    for round in ["at once", "after kill -9"] {
        let status = wait::until("the timeline stopping", PATIENCE, async || {
            loaded.status().await.ok().filter(|s| s.stopped.is_some())
        })
        .await;
        let reason = status.stopped.clone().unwrap_or_default();
        let last = status.last_record_lsn.context("it has a position")?;
        assert!(before <= last && last < stopping, "{round}: {last} is not in front of the record, {stopping}");
        // The record begins where the last one ends; nothing but a page's header may lie between.
        assert!(reason.contains(&format!("the record at {last} ({NUMBER} 0x10)")), "{round}: {reason}");

        let node = &loaded.described.pageservers[0];
        let ready = Http::new(PATIENCE)?.get_bytes(&node.http, "/readyz?verbose").await;
        let ready = format!("{:#}", ready.err().context("the pageserver calls itself ready")?);
        assert!(ready.contains("503") && ready.contains(&reason), "{round}: {ready}");
        let mut session = ClientConnection::dial(&ConnectOptions::to_address(&node.pg, "walfabric")?).await?;
        let shown = format!("{:?}", session.simple_query("SHOW TIMELINES").await?);
        assert!(shown.contains(&reason), "{round}: {shown}");

        loaded.block(0, last, PATIENCE).await.map_err(anyhow::Error::msg).context("reads up to there go on")?;
        let refusal = loaded.block(0, stopping, Duration::from_millis(1)).await.err().context("a page beyond")?;
        assert!(refusal.contains(NUMBER), "{round}: {refusal}");
        loaded.client.batch_execute("INSERT INTO t VALUES (0, 'again')").await.context("commits go on")?;
        if round == "at once" {
            loaded.fabric.ok(&["kill", "pageserver-1"])?;
            loaded.fabric.ok(&["start", "pageserver-1"])?;
        }
    }
    Ok(())
}
