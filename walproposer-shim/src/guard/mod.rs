//! Whether synchronous commits really wait for the quorum, checked over SQL every few seconds, and the pin slot's
//! upkeep.
//!
//! Owner of the SQL connection. [`judge`] is pure. The guard refuses nothing: it says what is wrong, and whoever lets
//! clients in decides. A primary that must never be attached is refused earlier, before the proof.

mod pin;
pub mod sync_names;

use std::sync::Arc;
use std::time::Duration;

use libpq::ClientConnection;
use pgformat::{Lsn, SegSize};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};
use tokio_util::sync::CancellationToken;

use crate::config::ShimConfig;
use crate::context::ShimContext;
use crate::dial::upstream::PrimaryIdentity;
use crate::names;
use crate::status::{CHECK_PERIOD, GuardVerdict};
use pin::{PinUpkeep, ReplicationSlot};

/// After a session has begun, checks come this soon until they find nothing wrong: `up` and `demo` wait for it.
const PROMPT: Duration = Duration::from_millis(200);

/// For how many checks.
const PROMPT_CHECKS: u32 = 50;

/// Limit for one check.
const LIMIT: Duration = Duration::from_secs(5);

const SETTINGS: &str = "SELECT pg_is_in_recovery(), current_setting('fsync'), current_setting('full_page_writes'), \
     current_setting('wal_level'), current_setting('synchronous_standby_names'), \
     (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'), \
     (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'), \
     (SELECT system_identifier FROM pg_control_system()), \
     (SELECT source FROM pg_settings WHERE name = 'synchronous_commit'), \
     pg_snapshot_xmax(pg_current_snapshot())";

const SENDERS: &str = "SELECT pid, coalesce(application_name, ''), coalesce(state, ''), coalesce(sync_state, '') \
     FROM pg_stat_replication";

/// Who has a synchronous_commit of their own: database, role (empty: all), value. Our own role writes nothing.
const OVERRIDES: &str = "SELECT coalesce(d.datname, ''), coalesce(r.rolname, ''), substr(c, 20) \
     FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c \
     LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole \
     WHERE c LIKE 'synchronous\\_commit=%' AND r.rolname IS DISTINCT FROM session_user ORDER BY 1, 2";

/// Settings that may take a slot's WAL away, as far as the server has them.
const LIMITS: &str = "SELECT name, setting FROM pg_settings \
     WHERE name IN ('max_slot_wal_keep_size', 'idle_replication_slot_timeout', 'wal_sender_shutdown_timeout')";

/// What one check found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    in_recovery: bool,
    fsync: String,
    full_page_writes: String,
    wal_level: String,
    sync_names: String,
    /// The server's default; empty when it cannot be seen.
    synchronous_commit: String,
    overrides: Vec<Override>,
    limits: Vec<(String, String)>,
    system_id: String,
    /// Its next transaction id, epoch included.
    next_xid: Option<u64>,
    seg_size: Option<SegSize>,
    senders: Vec<Sender>,
    slots: Vec<ReplicationSlot>,
}

/// A row of pg_stat_replication.
#[derive(Clone, Debug, Default)]
struct Sender {
    pid: i32,
    name: String,
    state: String,
    sync_state: String,
}

/// A synchronous_commit that ALTER DATABASE or ALTER ROLE has set.
#[derive(Clone, Debug, Default)]
struct Override {
    /// Empty: every database.
    database: String,
    /// Empty: every role.
    role: String,
    value: String,
}

impl Override {
    /// Who commits without the quorum, and what undoes it; `None` when such commits wait for it.
    fn problem(&self) -> Option<String> {
        if !matches!(self.value.as_str(), "off" | "local") {
            return None;
        }
        let (who, alter) = match (self.database.as_str(), self.role.as_str()) {
            ("", "") => ("every role".to_owned(), "ROLE ALL".to_owned()),
            (db, "") => (format!("database {db}"), format!("DATABASE \"{db}\"")),
            ("", role) => (format!("role {role}"), format!("ROLE \"{role}\"")),
            (db, role) => (format!("role {role} in database {db}"), format!("ROLE \"{role}\" IN DATABASE \"{db}\"")),
        };
        let value = &self.value;
        Some(format!(
            "{who} has synchronous_commit = {value} and commits without the quorum: \
             ALTER {alter} RESET synchronous_commit"
        ))
    }
}

/// What the findings are judged by.
pub(crate) struct ExpectedSettings<'a> {
    /// application_name of the stream.
    pub(crate) name: &'a str,
    /// Name of the streaming slot.
    pub(crate) slot: &'a str,
    /// Name of the pin slot.
    pub(crate) pin_slot: &'a str,
    /// Whether fsync=off is put up with.
    pub(crate) allow_fsync_off: bool,
    /// Whether roles and databases may commit without the quorum.
    pub(crate) allow_async_commits: bool,
    /// The primary of the present session, if there is one.
    pub(crate) identity: Option<PrimaryIdentity>,
}

/// Why synchronous commits do not, or may not, wait for the quorum and nobody else.
pub(crate) fn judge(found: &Findings, expected: &ExpectedSettings<'_>) -> Vec<String> {
    let mut reasons = settings_reasons(found, expected);
    reasons.extend(sync_names::problem(&found.sync_names, expected.name));
    reasons.extend(sender_reasons(found, expected));
    for slot in [expected.slot, expected.pin_slot] {
        match found.slots.iter().find(|s| s.name == slot) {
            None => {
                reasons.push(format!("replication slot {slot} is missing: WAL that the quorum lacks may be removed"))
            }
            Some(s) => reasons.extend(s.problem()),
        }
    }
    reasons
}

/// What protects commits today and may not tomorrow.
pub(crate) fn warnings(found: &Findings, expected: &ExpectedSettings<'_>) -> Vec<String> {
    let overrides = found.overrides.iter().filter(|_| expected.allow_async_commits).filter_map(Override::problem);
    let limits = found.limits.iter().filter_map(|(name, value)| match name.as_str() {
        "max_slot_wal_keep_size" if value != "-1" => Some(format!(
            "max_slot_wal_keep_size is {value} MB: an outage of the quorum that is longer loses the slot: set it to -1"
        )),
        "idle_replication_slot_timeout" if value != "0" => Some(format!(
            "idle_replication_slot_timeout is {value} s: slots are dropped while the shim is away: set it to 0"
        )),
        "wal_sender_shutdown_timeout" if value != "-1" => Some(format!(
            "wal_sender_shutdown_timeout is {value} ms: a fast shutdown may not wait for the quorum: set it to -1"
        )),
        _ => None,
    });
    overrides.chain(limits).collect()
}

fn settings_reasons(found: &Findings, expected: &ExpectedSettings<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    if found.in_recovery {
        reasons.push("the server is in recovery: nothing is committed there".to_owned());
    }
    if found.fsync != "on" && !expected.allow_fsync_off {
        reasons.push("fsync is off".to_owned());
    }
    if found.full_page_writes != "on" {
        reasons.push("full_page_writes is off".to_owned());
    }
    if found.wal_level == "minimal" {
        reasons.push("wal_level is minimal".to_owned());
    }
    match found.synchronous_commit.as_str() {
        "" => reasons.push(
            "the default of synchronous_commit cannot be seen, because the shim's role or database has one of its own: \
             RESET it there"
                .to_owned(),
        ),
        value @ ("off" | "local") => {
            reasons.push(format!("synchronous_commit is {value} by default: commits do not wait for the quorum"));
        }
        _ => {}
    }
    if !expected.allow_async_commits {
        reasons.extend(found.overrides.iter().filter_map(Override::problem));
    }
    if let Some(identity) = expected.identity
        && found.system_id != identity.system_id.to_string()
    {
        let (sql, stream) = (&found.system_id, identity.system_id);
        reasons.push(format!("SQL reaches system {sql}, the stream comes from system {stream}"));
    }
    reasons
}

fn sender_reasons(found: &Findings, expected: &ExpectedSettings<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    let Some(identity) = expected.identity else { return reasons };
    match found.senders.iter().find(|s| s.pid == identity.pid) {
        None => reasons.push(format!("pg_stat_replication has no row for our walsender {}", identity.pid)),
        Some(own) if own.state.is_empty() => reasons.push(
            "pg_stat_replication hides our row: the shim's role needs pg_monitor (GRANT pg_monitor TO ...)".to_owned(),
        ),
        Some(own) if own.state != "streaming" || own.sync_state != "sync" => {
            reasons.push(format!("our walsender is {} and {}, not streaming and sync", own.state, own.sync_state));
        }
        Some(_) => {}
    }
    let others = found.senders.iter().filter(|s| s.pid != identity.pid && s.name.eq_ignore_ascii_case(expected.name));
    for other in others {
        reasons.push(format!(
            "walsender {} uses our application_name {} too: it may be the shim at work, and this one needless; stop \
             the one that is not wanted",
            other.pid, expected.name
        ));
    }
    reasons
}

/// Checks until cancelled.
pub(crate) async fn run(ctx: Arc<ShimContext>, cancel: CancellationToken) {
    let mut connection: Option<Client> = None;
    let (mut seen, mut prompt) = (None, PROMPT_CHECKS);
    loop {
        let checked = timeout(LIMIT, check(&ctx, &mut connection)).await;
        let verdict = match checked {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(e)) => {
                connection = None;
                let options = &ctx.config.replication;
                let why = crate::sql::explain(&e, options);
                GuardVerdict::because(format!("the primary at {} cannot be checked over SQL: {why}", options.target()))
            }
            Err(_) => {
                connection = None;
                GuardVerdict::because(format!("the primary did not answer a check within {LIMIT:?}"))
            }
        };
        note(&ctx, verdict);
        let identity = ctx.board.snapshot().identity;
        // A session that has just begun is looked at soon, so that `protected` does not lag a period behind.
        if identity != seen {
            (seen, prompt) = (identity, PROMPT_CHECKS);
        }
        let soon = prompt > 0 && !ctx.board.readiness().ready;
        prompt = prompt.saturating_sub(1);
        let pause = if soon { PROMPT } else { CHECK_PERIOD };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn full(e: &tokio_postgres::Error) -> String {
    e.as_db_error().map_or_else(|| e.to_string(), |e| e.message().to_owned())
}

fn note(ctx: &ShimContext, verdict: GuardVerdict) {
    let GuardVerdict { reasons, warnings } = verdict.clone();
    if ctx.board.set_verdict(verdict) {
        if reasons.is_empty() {
            tracing::info!(?warnings, "the settings protect synchronous commits");
        } else {
            tracing::warn!(?reasons, ?warnings, "synchronous commits are not protected");
        }
    }
}

/// The connection's other half ends with the client.
async fn connect(ctx: &ShimContext) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = ctx.config.sql.connect(NoTls).await?;
    // Ends by itself when the client is dropped.
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "the guard's connection ended");
        }
    });
    Ok(client)
}

async fn check(ctx: &ShimContext, held: &mut Option<Client>) -> Result<GuardVerdict, tokio_postgres::Error> {
    if held.as_ref().is_none_or(Client::is_closed) {
        *held = Some(connect(ctx).await?);
    }
    let Some(client) = held else { return Ok(GuardVerdict::default()) };
    let config = &ctx.config;
    let mut found = look(client, config).await?;
    let state = ctx.board.snapshot();
    let name = names::standby_name(config.ttid.timeline_id);
    let expected = ExpectedSettings {
        name: &name,
        slot: &config.slot,
        pin_slot: &config.pin_slot,
        allow_fsync_off: config.allow_fsync_off,
        allow_async_commits: config.allow_async_commits,
        identity: state.identity,
    };
    let same = state.identity.is_some_and(|i| i.system_id.to_string() == found.system_id);
    ctx.board.set_next_xid(found.next_xid.filter(|_| same));
    let mut upkeep = None;
    let before = state.commit_before.unwrap_or(Lsn::new(0));
    let committed = state.commit.filter(|_| !found.in_recovery).map(|commit| (commit, before));
    if let (true, Some(committed), Some(seg)) = (same, committed, found.seg_size) {
        // What fails here is one more reason; it does not hide the others.
        match pin::keep(client, &config.pin_slot, &found.slots, committed, seg).await {
            Ok(PinUpkeep::Unchanged) => {}
            Ok(PinUpkeep::Changed) => found = look(client, config).await?,
            Err(e) if client.is_closed() => return Err(e),
            Err(e) => upkeep = Some(format!("replication slot {} cannot be kept: {}", config.pin_slot, full(&e))),
        }
    }
    let mut reasons = judge(&found, &expected);
    reasons.extend(upkeep);
    Ok(GuardVerdict { reasons, warnings: warnings(&found, &expected) })
}

/// Where PostgreSQL says that a session's value comes from, when it hides the server's default.
const HIDING: [&str; 5] = ["database", "user", "database user", "client", "session"];

/// The server's default of synchronous_commit, which ALTER ROLE or ALTER DATABASE hides from the guard's own session.
/// A physical walsender belongs to no database, so they do not apply to it. `None` when it is not let in.
///
/// Source: PostgreSQL 15, `InitPostgres` in `postinit.c`: it returns before `process_settings`.
async fn server_default(config: &ShimConfig) -> Option<String> {
    let mut options = config.replication.clone();
    options.parameters = vec![("replication".to_owned(), "true".to_owned())];
    options.database = None;
    let mut connection = ClientConnection::dial(&options).await.ok()?;
    let results = connection.simple_query("SHOW synchronous_commit").await.ok()?;
    results.first()?.rows.first()?.first()?.clone()
}

async fn look(client: &Client, config: &ShimConfig) -> Result<Findings, tokio_postgres::Error> {
    let slots = format!(
        "SELECT slot_name, coalesce(wal_status, ''), coalesce(to_jsonb(s) ->> 'invalidation_reason', ''), \
         coalesce(restart_lsn::text, '') FROM pg_replication_slots s WHERE slot_name IN ('{}', '{}')",
        config.slot, config.pin_slot
    );
    let settings = rows(client, SETTINGS).await?;
    let senders = rows(client, SENDERS).await?;
    let overrides = rows(client, OVERRIDES).await?;
    let limits = rows(client, LIMITS).await?;
    let slots = rows(client, &slots).await?;
    let mut found = Findings::default();
    if let Some(row) = settings.first() {
        found.in_recovery = text(row, 0) == "t";
        found.fsync = text(row, 1);
        found.full_page_writes = text(row, 2);
        found.wal_level = text(row, 3);
        found.sync_names = text(row, 4);
        found.seg_size = text(row, 5).parse().ok().and_then(SegSize::new);
        let hidden = HIDING.contains(&text(row, 8).as_str());
        found.synchronous_commit = if hidden { server_default(config).await.unwrap_or_default() } else { text(row, 6) };
        found.system_id = text(row, 7);
        found.next_xid = text(row, 9).parse().ok();
    }
    let over = |row: &SimpleQueryRow| Override { database: text(row, 0), role: text(row, 1), value: text(row, 2) };
    found.overrides = overrides.iter().map(over).collect();
    found.limits = limits.iter().map(|row| (text(row, 0), text(row, 1))).collect();
    let sender = |row: &SimpleQueryRow| Sender {
        pid: text(row, 0).parse().unwrap_or_default(),
        name: text(row, 1),
        state: text(row, 2),
        sync_state: text(row, 3),
    };
    let slot = |row: &SimpleQueryRow| ReplicationSlot {
        name: text(row, 0),
        wal_status: text(row, 1),
        invalidation: text(row, 2),
        restart_lsn: text(row, 3).parse().ok(),
    };
    found.senders = senders.iter().map(sender).collect();
    found.slots = slots.iter().map(slot).collect();
    Ok(found)
}

async fn rows(client: &Client, query: &str) -> Result<Vec<SimpleQueryRow>, tokio_postgres::Error> {
    let messages = client.simple_query(query).await?;
    Ok(messages
        .into_iter()
        .filter_map(|m| if let SimpleQueryMessage::Row(row) = m { Some(row) } else { None })
        .collect())
}

fn text(row: &SimpleQueryRow, i: usize) -> String {
    row.get(i).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgformat::Tli;
    use proto::id::SystemId;

    const NAME: &str = "walfabric_0011223344556677";

    fn slot(name: &str) -> ReplicationSlot {
        ReplicationSlot { name: name.to_owned(), wal_status: "reserved".to_owned(), ..ReplicationSlot::default() }
    }

    fn sound() -> Findings {
        let own = |s: &str| s.to_owned();
        Findings {
            in_recovery: false,
            fsync: own("on"),
            full_page_writes: own("on"),
            wal_level: own("replica"),
            sync_names: format!("FIRST 1 ({NAME})"),
            synchronous_commit: own("on"),
            system_id: own("7"),
            next_xid: Some(800),
            seg_size: Some(SegSize::DEFAULT),
            senders: vec![
                Sender { pid: 42, name: own(NAME), state: own("streaming"), sync_state: own("sync") },
                Sender { pid: 50, name: own("pg_basebackup"), state: own("backup"), sync_state: own("async") },
            ],
            slots: vec![slot("own"), slot("own_pin")],
            overrides: Vec::new(),
            limits: vec![("max_slot_wal_keep_size".to_owned(), "-1".to_owned())],
        }
    }

    fn expected(allow_async_commits: bool) -> ExpectedSettings<'static> {
        let identity = Some(PrimaryIdentity { system_id: SystemId(7), tli: Tli(1), pid: 42 });
        let (slot, pin_slot) = ("own", "own_pin");
        ExpectedSettings { name: NAME, slot, pin_slot, allow_fsync_off: false, allow_async_commits, identity }
    }

    fn reasons(change: impl FnOnce(&mut Findings)) -> Vec<String> {
        let mut found = sound();
        change(&mut found);
        judge(&found, &expected(false))
    }

    fn over(database: &str, role: &str, value: &str) -> Override {
        Override { database: database.to_owned(), role: role.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn a_sound_primary_has_no_reasons() {
        assert_eq!(reasons(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn everything_that_breaks_the_promise_is_a_reason_of_its_own() {
        let check = |word: &str, change: fn(&mut Findings)| {
            let found = reasons(change);
            assert!(found.len() == 1 && found[0].contains(word), "{word}: {found:?}");
        };
        check("in recovery", |f| f.in_recovery = true);
        check("fsync", |f| f.fsync = "off".to_owned());
        check("full_page_writes", |f| f.full_page_writes = "off".to_owned());
        check("wal_level", |f| f.wal_level = "minimal".to_owned());
        check("synchronous_standby_names", |f| f.sync_names = String::new());
        check("others", |f| f.sync_names = format!("ANY 1 ({NAME}, x)"));
        check("synchronous_commit", |f| f.synchronous_commit = "local".to_owned());
        check("system 8", |f| f.system_id = "8".to_owned());
        check("no row", |f| drop(f.senders.remove(0)));
        check("pg_monitor", |f| f.senders[0].state = String::new());
        check("catchup", |f| f.senders[0].state = "catchup".to_owned());
        check("potential", |f| f.senders[0].sync_state = "potential".to_owned());
        check("50 uses our", |f| f.senders[1].name = NAME.to_uppercase());
        check("missing", |f| drop(f.slots.pop()));
        check("lost", |f| f.slots[0].wal_status = "lost".to_owned());
        check("cannot be seen", |f| f.synchronous_commit.clear());
        check("database app has", |f| f.overrides = vec![over("app", "", "off")]);
        check("role ann has", |f| f.overrides = vec![over("", "ann", "local")]);
        check("role ann in database app has", |f| f.overrides = vec![over("app", "ann", "off")]);
        check("every role has", |f| f.overrides = vec![over("", "", "off")]);
    }

    #[test]
    fn whoever_may_commit_without_the_quorum_is_a_warning_once_that_is_allowed() {
        let mut found = sound();
        found.overrides = vec![over("app", "", "off"), over("", "ann", "remote_apply")];
        assert!(warnings(&found, &expected(false)).is_empty(), "it is a reason then");
        assert_eq!(judge(&found, &expected(true)), Vec::<String>::new());
        let said = warnings(&found, &expected(true));
        assert!(said.len() == 1 && said[0].contains("database app"), "{said:?}");
    }

    #[test]
    fn settings_that_may_take_the_slots_away_are_warned_about() {
        let mut found = sound();
        assert!(warnings(&found, &expected(false)).is_empty());
        for (name, value) in [
            ("max_slot_wal_keep_size", "100"),
            ("idle_replication_slot_timeout", "5"),
            ("wal_sender_shutdown_timeout", "1000"),
        ] {
            found.limits = vec![(name.to_owned(), value.to_owned())];
            let said = warnings(&found, &expected(false));
            assert!(said.len() == 1 && said[0].contains(name), "{said:?}");
            assert!(judge(&found, &expected(false)).is_empty(), "not a reason yet");
        }
    }
}
