//! `timeline protect` and `unprotect` on a real primary: refusals, observations, and the settings that they restore.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::fabric::TestFabric;
use walfabric::protect::{self, ProtectArgs};
use walfabric::sql;

/// Goal: a setting that names others is replaced only when told to, and comes back; nothing is said that was not seen;
/// a role without the rights is told which ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_setting_is_replaced_only_when_told_and_comes_back() -> Result<()> {
    let fabric = TestFabric::up(&[])?;
    let described = fabric.read()?;
    let conninfo = described.postgres.as_ref().context("postgres")?.conninfo();
    let timeline = described.timeline_id;
    let client = sql::connect(&conninfo).await?;
    // Now: while others are named its commit would wait for them.
    client.batch_execute("CREATE ROLE ann LOGIN").await?;
    let setting = async || sql::text(&client, "SHOW synchronous_standby_names").await;
    let ours = walproposer_shim::names::synchronous_standby_names(timeline);
    assert_eq!(setting().await?, ours);
    let args = |replace: bool, patience: u64| ProtectArgs {
        primary: conninfo.clone(),
        timeline,
        shim: described.shim.as_ref().map(|s| s.http.clone()),
        replace,
        patience: Duration::from_secs(patience),
    };
    let again = protect::protect(&args(false, 30)).await?;
    assert_eq!((again.replaced, again.setting), (None, ours.clone()), "what is there is seen");

    assert_eq!(protect::unprotect(&conninfo, timeline).await?, "");
    assert_eq!(setting().await?, "");
    let foreign = "ANY 1 (b, \"a'c\")";
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (b, \"a''c\")'").await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    let seen = async || (setting().await.ok()? == foreign).then_some(());
    tests::wait::until("the foreign setting is in force", Duration::from_secs(10), seen).await;
    let refused = format!("{:#}", protect::protect(&args(false, 30)).await.expect_err("refused"));
    assert!(refused.contains(foreign) && refused.contains("--replace"), "{refused}");
    assert_eq!(setting().await?, foreign, "nothing was changed");
    let done = protect::protect(&args(true, 30)).await?;
    assert_eq!((done.replaced.as_deref(), done.setting.as_str()), (Some(foreign), ours.as_str()));
    assert_eq!(protect::unprotect(&conninfo, timeline).await?, foreign);
    assert_eq!(setting().await?, foreign);
    let nothing = format!("{:#}", protect::unprotect(&conninfo, timeline).await.expect_err("nothing to undo"));
    assert!(nothing.contains(foreign), "{nothing}");

    let lesser = ProtectArgs { primary: conninfo.replace("user=postgres", "user=ann"), ..args(true, 30) };
    let refused = format!("{:#}", protect::protect(&lesser).await.expect_err("refused"));
    assert!(refused.contains("role ann may not") && refused.contains("--print"), "{refused}");
    assert_eq!(setting().await?, foreign);

    // Without a shim nothing is set, and the shim's own words are passed on.
    fabric.ok(&["stop", "shim"])?;
    let refused = format!("{:#}", protect::protect(&args(true, 1)).await.expect_err("nobody streams"));
    assert!(refused.contains("has no row") && refused.contains("does not answer"), "{refused}");
    assert_eq!(setting().await?, foreign);
    fabric.ok(&["start", "shim"])?;
    protect::protect(&args(true, 30)).await?;
    Ok(())
}
