//! Creation and deletion of timelines on a real fabric: a failure leaves nothing behind, and a deletion is complete.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use broker::Broker;
use harness::{Bounded as _, PATIENCE};
use proto::api::AttachRequest;
use proto::id::TenantTimelineId;
use tests::fabric::TestFabric;
use tokio_util::sync::CancellationToken;
use walfabric::fabric::Fabric;
use walfabric::http::Http;
use walfabric::sql;
use walfabric::timeline::{self, CreateArgs, inventory};

fn args(fabric: &Fabric, ttid: TenantTimelineId, import: bool) -> Result<CreateArgs> {
    Ok(CreateArgs {
        primary: fabric.postgres.as_ref().context("postgres")?.conninfo(),
        broker: fabric.broker.endpoint.clone(),
        broker_prefix: fabric.broker.prefix.clone(),
        ttid,
        safekeepers: vec![1, 2, 3],
        pageservers: vec![1],
        import,
        interrupted: CancellationToken::new(),
    })
}

fn deletion(fabric: &Fabric, ttid: TenantTimelineId) -> Result<inventory::DeleteArgs> {
    Ok(inventory::DeleteArgs {
        broker: fabric.broker.endpoint.clone(),
        broker_prefix: fabric.broker.prefix.clone(),
        ttid,
        primary: Some(fabric.postgres.as_ref().context("postgres")?.conninfo()),
        force: false,
    })
}

/// Everything that the fabric knows of a timeline, in words; empty: nothing.
async fn traces(fabric: &Fabric, ttid: TenantTimelineId) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let known = inventory::list(&fabric.broker.endpoint, &fabric.broker.prefix).await?;
    found.extend(known.get(&ttid).map(inventory::KnownTimeline::describe));
    let client = sql::connect(&fabric.postgres.as_ref().context("postgres")?.conninfo()).await?;
    let slot = walproposer_shim::names::slot_name(ttid.timeline_id);
    let count = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '{slot}%'");
    let slots = sql::text(&client, &count).await?;
    if slots != "0" {
        found.push(format!("{slots} slots"));
    }
    let broker = Broker::new(&fabric.broker.endpoint, &fabric.broker.prefix)?;
    let (entries, _) = broker.get_prefix(&format!("{}/", fabric.broker.prefix)).await?;
    let ids = ttid.to_string();
    found.extend(entries.into_iter().map(|e| e.key).filter(|key| key.contains(&ids)));
    for node in fabric.safekeepers.iter().chain(&fabric.pageservers) {
        let id = ttid.timeline_id.to_string();
        let mut folders = vec![node.data_dir.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.to_string_lossy().contains(&id) {
                    found.push(path.display().to_string());
                } else if path.is_dir() {
                    folders.push(path);
                }
            }
        }
    }
    Ok(found)
}

/// Runs `timeline create` as people do.
fn create_by_command(fabric: &TestFabric, primary: &str) -> Result<Output> {
    let broker = fabric.read()?.broker;
    let mut command = Command::new(fabric.binary());
    command.args(["timeline", "create", "--primary", primary, "--broker", &broker.endpoint]);
    command.args(["--broker-prefix", &broker.prefix]).output_within(PATIENCE)
}

/// Goal: the printed line for `protect` is of a role that may run it, although the timeline is a lesser role's.
#[tokio::test(flavor = "multi_thread")]
async fn the_printed_line_protects() -> Result<()> {
    let fabric = TestFabric::up(&[])?;
    let conninfo = fabric.read()?.postgres.context("postgres")?.conninfo();
    let client = sql::connect(&conninfo).await?;
    client.batch_execute("CREATE ROLE lesser LOGIN REPLICATION; GRANT pg_monitor TO lesser").await?;
    let printed = |user: &str| -> Result<String> {
        let created = create_by_command(&fabric, &conninfo.replace("user=postgres", &format!("user={user}")))?;
        let text = String::from_utf8(created.stdout)?;
        ensure!(created.status.success(), "{text}{}", String::from_utf8_lossy(&created.stderr));
        let line = text.lines().find(|line| line.contains("walfabric timeline protect"));
        Ok(line.with_context(|| format!("no line for protect: {text}"))?.to_owned())
    };
    let line = printed("lesser")?;
    assert!(line.contains("user=postgres") && line.contains("dbname="), "{line}");
    client
        .batch_execute(
            "GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names TO lesser; \
             GRANT EXECUTE ON FUNCTION pg_reload_conf() TO lesser",
        )
        .await?;
    let line = printed("lesser")?;
    assert!(line.contains("user=lesser"), "it may now: {line}");
    Ok(())
}

/// Goal: a creation that fails, before or in the middle, leaves no trace; a whole one is listed, and deleted without a
/// trace; one in use is not deleted unasked.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_or_is_deleted_leaves_nothing_behind() -> Result<()> {
    let fabric = TestFabric::up(&[])?;
    let described = fabric.read()?;
    let ttid = timeline::random_ttid();

    // Before anything is made: a member is dead.
    fabric.ok(&["kill", "safekeeper-3"])?;
    let refused = timeline::create(&args(&described, ttid, false)?).await.expect_err("a member is dead");
    assert!(format!("{refused:#}").contains("safekeeper 3"), "{refused:#}");
    assert_eq!(traces(&described, ttid).await?, Vec::<String>::new());
    let refused = create_by_command(&fabric, "host=127.0.0.1 port=1 user=nobody dbname=postgres")?;
    assert!(!refused.status.success(), "no such primary");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!said.contains("retry") && !said.contains("continues"), "nothing was made: {said}");
    fabric.ok(&["start", "safekeeper-3"])?;

    // In the middle: the pageserver has the timeline with other parameters, which only shows at the last step.
    let http = Http::new(Duration::from_secs(10))?;
    let status: proto::api::SafekeeperTimelineStatus = http
        .get(
            &described.safekeepers[0].http,
            &format!("/v1/tenant/{}/timeline/{}", described.tenant_id, described.timeline_id),
        )
        .await?;
    let other = AttachRequest {
        start_lsn: status.timeline_start_lsn.context("it has a start")?,
        pg_version_num: status.pg_version_num,
        system_id: proto::id::SystemId(7),
        wal_seg_size: status.wal_seg_size,
        pg_history: status.pg_history.clone(),
    };
    let path = format!("/v1/tenant/{}/timeline/{}", ttid.tenant_id, ttid.timeline_id);
    let pageserver = described.pageservers[0].http.clone();
    http.post(&pageserver, &format!("{path}/attach"), serde_json::to_vec(&other)?, "application/json").await?;
    let refused = timeline::create(&args(&described, ttid, false)?).await.expect_err("the pageserver refuses");
    let said = format!("{refused:#}");
    assert!(said.contains("nothing of it is left") && said.contains("other parameters"), "{said}");
    assert!(http.delete(&pageserver, &path).await?, "it was there before, and stays");
    assert_eq!(traces(&described, ttid).await?, Vec::<String>::new());

    // Whole: listed, deleted.
    let interrupted = args(&described, ttid, true)?;
    interrupted.interrupted.cancel();
    let refused = timeline::create(&interrupted).await.expect_err("somebody gave up");
    assert_eq!(refused.to_string(), "interrupted");
    let created = timeline::create(&args(&described, ttid, true)?).await?;
    assert!(created.changed);
    let again = timeline::create(&args(&described, ttid, true)?).await?;
    assert!(!again.changed && again.start_lsn == created.start_lsn, "repeating it changes nothing");
    let known = inventory::list(&described.broker.endpoint, &described.broker.prefix).await?;
    let known = known.get(&ttid).context("it is listed")?;
    ensure!(known.is_whole() && known.safekeepers.len() == 3, "{}", known.describe());
    inventory::delete(&deletion(&described, ttid)?, &mut |_| {}).await?;
    let gone = async || traces(&described, ttid).await.is_ok_and(|t| t.is_empty()).then_some(());
    tests::wait::until("every trace is gone", Duration::from_secs(30), gone).await;
    for force in [false, true] {
        let unknown = inventory::DeleteArgs { force, ..deletion(&described, ttid)? };
        let refused = inventory::delete(&unknown, &mut |_| {}).await.expect_err("known to nobody");
        assert!(format!("{refused:#}").contains("known to nobody"), "{refused:#}");
    }

    // In use: refused, and it goes on.
    let used = TenantTimelineId::new(described.tenant_id, described.timeline_id);
    let refused = inventory::delete(&deletion(&described, used)?, &mut |_| {}).await.expect_err("it is in use");
    assert!(format!("{refused:#}").contains("in use"), "{refused:#}");
    let client = sql::connect(&described.postgres.as_ref().context("postgres")?.conninfo()).await?;
    client.batch_execute("CREATE TABLE still_works (i int)").await?;
    Ok(())
}
