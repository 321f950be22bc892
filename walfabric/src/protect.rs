//! `walfabric timeline protect` and `unprotect`: whether commits of a primary wait for the quorum.
//!
//! Both say only what they saw: the setting in force, and the shim's row in pg_stat_replication. Neither writes WAL, so
//! `unprotect` works while every commit hangs. What `protect --replace` replaces is kept in the server's own
//! configuration, where `unprotect` finds it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use node::exit;
use proto::api::ShimStatus;
use proto::id::TimelineId;
use tokio_postgres::{Client, SimpleQueryMessage};
use walproposer_shim::{names, sync_names};

use crate::http::Http;
use crate::sql;

/// Between two looks.
const STEP: Duration = Duration::from_millis(20);
/// A reload of the configuration takes effect within this time.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);
/// Where the replaced value is kept: a parameter that PostgreSQL does not know and therefore leaves alone.
const REPLACED: &str = "walfabric.replaced_standby_names";

/// What `walfabric timeline protect` takes.
#[derive(Args)]
pub struct ProtectOptions {
    /// libpq connection string of the primary: a superuser, or a role that may ALTER SYSTEM this setting and reload
    #[arg(long, required_unless_present = "print")]
    primary: Option<String>,
    /// Timeline, 32 hex digits
    #[arg(long)]
    timeline_id: TimelineId,
    /// HTTP address of the shim, host:port, for its own reasons when it does not stream
    #[arg(long, value_name = "HOST:PORT")]
    shim: Option<String>,
    /// Replace a setting that names others; `unprotect` restores it
    #[arg(long)]
    replace: bool,
    /// Only print the line for postgresql.conf
    #[arg(long)]
    print: bool,
    /// How long to wait for the shim, seconds
    #[arg(long, default_value_t = 60)]
    wait_s: u64,
}

impl ProtectOptions {
    /// Makes commits wait for the quorum, or prints the line that does; gives the exit code.
    ///
    /// # Errors
    /// See [`protect`].
    pub async fn run(self) -> Result<u8> {
        let line = line(self.timeline_id);
        let Some(primary) = self.primary.filter(|_| !self.print) else {
            println!("{line}");
            return Ok(exit::OK);
        };
        let (primary, patience) = (sql::primary(&primary)?.to_conninfo(), Duration::from_secs(self.wait_s));
        let args =
            ProtectArgs { primary, timeline: self.timeline_id, shim: self.shim, replace: self.replace, patience };
        let done = protect(&args).await?;
        if let Some(replaced) = done.replaced {
            println!("replaced synchronous_standby_names = '{replaced}'");
        }
        println!("commits of {} wait for the quorum: synchronous_standby_names = '{}'", self.timeline_id, done.setting);
        Ok(exit::OK)
    }
}

/// What `walfabric timeline unprotect` takes.
#[derive(Args)]
pub struct UnprotectOptions {
    /// libpq connection string of the primary: a superuser, or a role that may ALTER SYSTEM this setting and reload
    #[arg(long)]
    primary: String,
    /// Timeline, 32 hex digits
    #[arg(long)]
    timeline_id: TimelineId,
}

impl UnprotectOptions {
    /// Makes commits wait no longer; gives the exit code.
    ///
    /// # Errors
    /// See [`unprotect`].
    pub async fn run(self) -> Result<u8> {
        let now = unprotect(&sql::primary(&self.primary)?.to_conninfo(), self.timeline_id).await?;
        println!("commits wait for {} no longer: synchronous_standby_names is '{now}'", self.timeline_id);
        Ok(exit::OK)
    }
}

/// What `timeline protect` was asked for.
#[derive(Clone, Debug)]
pub struct ProtectArgs {
    /// libpq connection string of the primary.
    pub primary: String,
    /// Which timeline's shim commits shall wait for.
    pub timeline: TimelineId,
    /// HTTP address of the shim, for its own reasons when it does not stream.
    pub shim: Option<String>,
    /// Whether a setting that names others may be replaced.
    pub replace: bool,
    /// How long to wait for the shim.
    pub patience: Duration,
}

/// What `timeline protect` did, as far as it was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Protected {
    /// The value in force before, when it was another one.
    pub replaced: Option<String>,
    /// The value in force now.
    pub setting: String,
}

/// The line for postgresql.conf.
pub fn line(timeline: TimelineId) -> String {
    format!("synchronous_standby_names = '{}'", names::synchronous_standby_names(timeline))
}

/// Makes commits wait for the quorum, and returns when they do: the setting is in force and PostgreSQL shows the shim
/// as its synchronous standby.
///
/// # Errors
/// When the role may not do it, another standby is named, the shim does not stream, or the setting does not take
/// effect. The setting is then what it was before.
pub async fn protect(args: &ProtectArgs) -> Result<Protected> {
    let client = sql::connect(&args.primary).await?;
    let name = names::standby_name(args.timeline);
    let before = setting(&client).await?;
    let there = sync_names::problem(&before, &name).is_none();
    if !there {
        let print =
            format!("or put it there yourself: 'walfabric timeline protect --print --timeline-id {}'", args.timeline);
        may_alter(&client, &print).await?;
        let foreign = !before.trim().is_empty();
        ensure!(
            args.replace || !foreign,
            "synchronous_standby_names is '{before}', which names others than {name}. Commits can wait for one of them \
             only: repeat with --replace to replace it ('walfabric timeline unprotect' restores it)"
        );
    }
    wait_for_row(&client, args, &name, "streaming", |row| row.state == "streaming").await?;
    if !there {
        set(&client, args.timeline, &before).await?;
    }
    let sync = wait_for_row(&client, args, &name, "the synchronous standby", |row| row.sync_state == "sync").await;
    if let Err(e) = sync {
        if !there {
            restore(&client, &name, Some(&before)).await.context("the setting could not be put back")?;
            return Err(e.context(format!("synchronous_standby_names was put back to '{before}'")));
        }
        return Err(e);
    }
    let setting = setting(&client).await?;
    Ok(Protected { replaced: (!there && !before.trim().is_empty()).then_some(before), setting })
}

/// Makes commits wait for the quorum no longer, and puts back what `protect --replace` replaced. Returns the value in
/// force.
///
/// # Errors
/// When the role may not do it, or the setting does not take effect.
pub async fn unprotect(primary: &str, timeline: TimelineId) -> Result<String> {
    let client = sql::connect(primary).await?;
    let name = names::standby_name(timeline);
    let before = setting(&client).await?;
    ensure!(
        sync_names::problem(&before, &name).is_none(),
        "synchronous_standby_names is '{before}': it does not wait for {name} alone, so there is nothing to undo"
    );
    may_alter(&client, "or remove it there yourself").await?;
    let query = format!("SELECT coalesce(current_setting('{REPLACED}', true), '')");
    let kept = sql::text(&client, &query).await?;
    restore(&client, &name, Some(kept.as_str()).filter(|k| !k.is_empty())).await?;
    let now = setting(&client).await?;
    ensure!(
        sync_names::problem(&now, &name).is_some(),
        "synchronous_standby_names is still '{now}': it stands in postgresql.conf or on the command line, where ALTER \
         SYSTEM does not reach. Remove it there, and reload"
    );
    Ok(now)
}

async fn setting(client: &Client) -> Result<String> {
    sql::text(client, "SHOW synchronous_standby_names").await
}

/// Whether this role can change the setting here at all, before anything is changed; `otherwise` ends the advice.
async fn may_alter(client: &Client, otherwise: &str) -> Result<()> {
    let source = "SELECT source FROM pg_settings WHERE name = 'synchronous_standby_names'";
    ensure!(
        sql::text(client, source).await? != "command line",
        "synchronous_standby_names is given on the server's command line, where ALTER SYSTEM has no effect: change it \
         there, {otherwise}"
    );
    let (alter, reload, role) = rights(client).await?;
    ensure!(
        alter && reload,
        "role {role} may not change synchronous_standby_names: connect as a superuser, or let one GRANT ALTER SYSTEM \
         ON PARAMETER synchronous_standby_names TO {role} (PostgreSQL 15 and later) and GRANT EXECUTE ON FUNCTION \
         pg_reload_conf() TO {role}, {otherwise}"
    );
    Ok(())
}

/// The role that can protect this primary: the one that is connected when it may change the setting, else a superuser.
///
/// # Errors
/// When the primary does not say, or no superuser can log in.
pub(crate) async fn role_for(client: &Client) -> Result<String> {
    let (alter, reload, role) = rights(client).await?;
    if alter && reload {
        return Ok(role);
    }
    // The oldest is the one that initdb made.
    let superuser = "SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1";
    sql::text(client, superuser).await
}

/// Whether this role may alter the setting, whether it may reload the configuration, and its name.
async fn rights(client: &Client) -> Result<(bool, bool, String)> {
    let version: u32 = sql::text(client, "SHOW server_version_num").await?.parse()?;
    let alter = if version >= 150_000 {
        "rolsuper OR has_parameter_privilege('synchronous_standby_names', 'ALTER SYSTEM')"
    } else {
        "rolsuper"
    };
    let query = format!(
        "SELECT ({alter})::text || ' ' || has_function_privilege('pg_reload_conf()', 'EXECUTE')::text || ' ' \
         || rolname FROM pg_roles WHERE rolname = current_user"
    );
    let answer = sql::text(client, &query).await?;
    let mut words = answer.splitn(3, ' ');
    let (alter, reload) = (words.next() == Some("true"), words.next() == Some("true"));
    Ok((alter, reload, words.next().unwrap_or_default().to_owned()))
}

/// Sets the value, keeps the one before, and waits until it is in force.
async fn set(client: &Client, timeline: TimelineId, before: &str) -> Result<()> {
    if !before.trim().is_empty() {
        let kept = quoted(before);
        // The session must know the parameter before ALTER SYSTEM takes it (PostgreSQL 14 and 15).
        let keep = format!("SET {REPLACED} = {kept}");
        client.batch_execute(&keep).await.context("the old value cannot be kept")?;
        let keep = format!("ALTER SYSTEM SET {REPLACED} = {kept}");
        client.batch_execute(&keep).await.context("the old value cannot be kept in the server's configuration")?;
    }
    let wanted = names::synchronous_standby_names(timeline);
    let alter = format!("ALTER SYSTEM SET synchronous_standby_names = {}", quoted(&wanted));
    let print = format!("'walfabric timeline protect --print --timeline-id {timeline}' gives the line to set");
    client.batch_execute(&alter).await.map_err(said).with_context(|| format!("ALTER SYSTEM is refused; {print}"))?;
    if !in_force(client, |now| now == wanted).await? {
        restore(client, &names::standby_name(timeline), Some(before))
            .await
            .context("the setting could not be put back")?;
        bail!("ALTER SYSTEM does not take effect and was undone: is the setting given elsewhere? {print}");
    }
    Ok(())
}

/// Takes our value back and puts `kept` in its place, or what postgresql.conf says when nothing was kept.
async fn restore(client: &Client, name: &str, kept: Option<&str>) -> Result<()> {
    client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.map_err(said)?;
    let Some(kept) = kept else {
        // Whether something of ours stands elsewhere is for the caller to see.
        let _ = in_force(client, |now| sync_names::problem(now, name).is_some()).await?;
        return Ok(());
    };
    // What stood in postgresql.conf is in force again by the reset; what stood in postgresql.auto.conf is not.
    if !in_force(client, |now| sync_names::problem(now, name).is_some()).await? || setting(client).await? != kept {
        let alter = format!("ALTER SYSTEM SET synchronous_standby_names = {}", quoted(kept));
        client.batch_execute(&alter).await.map_err(said)?;
        ensure!(in_force(client, |now| now == kept).await?, "the server does not take '{kept}' back: see its log");
    }
    // Nothing was kept of an empty value, and a role that could not keep one has nothing to remove.
    let _ = client.batch_execute(&format!("SET {REPLACED} = ''")).await;
    let _ = client.batch_execute(&format!("ALTER SYSTEM RESET {REPLACED}")).await;
    client.batch_execute("SELECT pg_reload_conf()").await.map_err(said)
}

/// Reloads, and waits until the setting is as `wanted`; false when it is not within the limit.
async fn in_force(client: &Client, wanted: impl Fn(&str) -> bool) -> Result<bool> {
    client.batch_execute("SELECT pg_reload_conf()").await.map_err(said)?;
    let deadline = Instant::now() + RELOAD_LIMIT;
    while !wanted(&setting(client).await?) {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(STEP).await;
    }
    Ok(true)
}

/// The shim's row in pg_stat_replication.
struct Row {
    state: String,
    sync_state: String,
}

async fn row(client: &Client, name: &str) -> Result<Option<Row>> {
    let query = format!(
        "SELECT coalesce(state, ''), coalesce(sync_state, '') FROM pg_stat_replication \
         WHERE application_name = '{name}'"
    );
    let messages = client.simple_query(&query).await.context("cannot read pg_stat_replication")?;
    Ok(messages.into_iter().find_map(|m| match m {
        SimpleQueryMessage::Row(r) => {
            let text = |i: usize| r.get(i).unwrap_or_default().to_owned();
            Some(Row { state: text(0), sync_state: text(1) })
        }
        _ => None,
    }))
}

async fn wait_for_row(
    client: &Client,
    args: &ProtectArgs,
    name: &str,
    what: &str,
    good: impl Fn(&Row) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + args.patience;
    loop {
        let row = row(client, name).await?;
        match &row {
            Some(row) if good(row) => return Ok(()),
            Some(row) if row.state.is_empty() => {
                let role = sql::text(client, "SELECT current_user").await?;
                bail!("the shim streams, but role {role} may not see how: GRANT pg_monitor TO {role}");
            }
            _ => {}
        }
        if Instant::now() >= deadline {
            let sql = row.map_or_else(
                || format!("pg_stat_replication has no row for {name}"),
                |r| format!("pg_stat_replication shows {name} as {} and {}", r.state, r.sync_state),
            );
            bail!("the shim is not {what} after {:?}: {sql}. {}", args.patience, shim_says(args).await);
        }
        tokio::time::sleep(STEP).await;
    }
}

/// The shim's own reasons, as far as it can be asked.
async fn shim_says(args: &ProtectArgs) -> String {
    let Some(address) = &args.shim else {
        return "Give --shim HOST:PORT (its --listen-http) for its own reason, or see its log".to_owned();
    };
    let asked = async { Http::new(Duration::from_secs(2))?.get::<ShimStatus>(address, "/v1/status").await };
    match asked.await {
        Ok(status) => format!("The shim is {}: {}", status.state, status.reasons.join("; ")),
        Err(e) => format!("The shim does not answer: {e:#}"),
    }
}

/// PostgreSQL's own words instead of "db error".
fn said(e: tokio_postgres::Error) -> anyhow::Error {
    match e.as_db_error().map(ToString::to_string) {
        Some(text) => anyhow::anyhow!(text),
        None => e.into(),
    }
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
