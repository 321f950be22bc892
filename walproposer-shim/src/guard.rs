//! Whether synchronous commits really wait for the quorum, checked over SQL every few seconds, and the pin slot's
//! upkeep.
//!
//! Owner of the SQL connection. [`judge`] is pure. The guard refuses nothing: it says what is wrong, and who opens the
//! gates to clients decides. What must never be attached at all is refused before the proof.

use std::sync::Arc;
use std::time::Duration;

use pgformat::{Lsn, SegSize};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};
use tokio_util::sync::CancellationToken;

use crate::proof::plan::COMPARE_BYTES;
use crate::shared::{Identity, Verdict};
use crate::{Context, names, sync_names};

/// Between two checks.
const PERIOD: Duration = Duration::from_secs(3);

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
     (SELECT system_identifier FROM pg_control_system())";

const SENDERS: &str = "SELECT pid, coalesce(application_name, ''), coalesce(state, ''), coalesce(sync_state, '') \
     FROM pg_stat_replication";

/// What one check found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    in_recovery: bool,
    fsync: String,
    full_page_writes: String,
    wal_level: String,
    sync_names: String,
    synchronous_commit: String,
    system_id: String,
    seg_size: Option<SegSize>,
    senders: Vec<Sender>,
    slots: Vec<Slot>,
}

/// A row of pg_stat_replication.
#[derive(Clone, Debug, Default)]
struct Sender {
    pid: i32,
    name: String,
    state: String,
    sync_state: String,
}

/// A row of pg_replication_slots.
#[derive(Clone, Debug, Default)]
struct Slot {
    name: String,
    wal_status: String,
    restart_lsn: Option<Lsn>,
}

/// What the findings are judged by.
pub(crate) struct Expected<'a> {
    /// application_name of the stream.
    pub(crate) name: &'a str,
    /// Streaming slot.
    pub(crate) slot: &'a str,
    /// Pin slot.
    pub(crate) pin_slot: &'a str,
    /// Whether fsync=off is put up with.
    pub(crate) allow_fsync_off: bool,
    /// The primary of the present session, if there is one.
    pub(crate) identity: Option<Identity>,
}

/// Why synchronous commits do not, or may not, wait for the quorum and nobody else.
pub(crate) fn judge(found: &Findings, expected: &Expected<'_>) -> Vec<String> {
    let mut reasons = settings_reasons(found, expected);
    reasons.extend(sync_names::problem(&found.sync_names, expected.name));
    reasons.extend(sender_reasons(found, expected));
    for slot in [expected.slot, expected.pin_slot] {
        match found.slots.iter().find(|s| s.name == slot) {
            None => {
                reasons.push(format!("replication slot {slot} is missing: WAL that the quorum lacks may be removed"))
            }
            Some(s) if s.wal_status == "lost" || s.wal_status == "unreserved" => {
                reasons.push(format!("replication slot {slot} is {}: set max_slot_wal_keep_size = -1", s.wal_status));
            }
            Some(_) => {}
        }
    }
    reasons
}

fn settings_reasons(found: &Findings, expected: &Expected<'_>) -> Vec<String> {
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
    if matches!(found.synchronous_commit.as_str(), "off" | "local") {
        let value = &found.synchronous_commit;
        reasons.push(format!("synchronous_commit is {value} by default: commits do not wait for the quorum"));
    }
    if let Some(identity) = expected.identity
        && found.system_id != identity.system_id.to_string()
    {
        let (sql, stream) = (&found.system_id, identity.system_id);
        reasons.push(format!("SQL reaches system {sql}, the stream comes from system {stream}"));
    }
    reasons
}

fn sender_reasons(found: &Findings, expected: &Expected<'_>) -> Vec<String> {
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
        reasons.push(format!("walsender {} uses our application_name {}: stop it", other.pid, expected.name));
    }
    reasons
}

/// Where the pin slot should stand: far enough below `commit` for the next attach proof, a whole segment if larger.
pub(crate) fn pin_target(commit: Lsn, seg: SegSize) -> Option<Lsn> {
    let below = COMPARE_BYTES.max(seg.bytes());
    commit.get().checked_sub(below).map(Lsn::new).map(|l| l.segment_start(seg)).filter(|l| *l != Lsn::new(0))
}

/// Checks until cancelled.
pub(crate) async fn run(ctx: Arc<Context>, cancel: CancellationToken) {
    let mut connection: Option<Connection> = None;
    let (mut seen, mut prompt) = (None, PROMPT_CHECKS);
    loop {
        let checked = timeout(LIMIT, check(&ctx, &mut connection)).await;
        let reasons = match checked {
            Ok(Ok(reasons)) => reasons,
            Ok(Err(e)) => {
                connection = None;
                vec![format!("the primary cannot be checked over SQL: {}", full(&e))]
            }
            Err(_) => {
                connection = None;
                vec![format!("the primary did not answer a check within {LIMIT:?}")]
            }
        };
        note(&ctx, reasons);
        let identity = ctx.shared.snapshot().identity;
        // A session that has just begun is looked at soon, so that `protected` does not lag a period behind.
        if identity != seen {
            (seen, prompt) = (identity, PROMPT_CHECKS);
        }
        let soon = prompt > 0 && !ctx.shared.readiness().ready;
        prompt = prompt.saturating_sub(1);
        let pause = if soon { PROMPT } else { PERIOD };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn full(e: &tokio_postgres::Error) -> String {
    e.as_db_error().map_or_else(|| e.to_string(), |e| e.message().to_owned())
}

fn note(ctx: &Context, reasons: Vec<String>) {
    let protected = reasons.is_empty();
    if ctx.shared.set_verdict(Verdict { reasons: reasons.clone() }) {
        if protected {
            tracing::info!("the settings protect synchronous commits");
        } else {
            tracing::warn!(?reasons, "synchronous commits are not protected");
        }
    }
}

/// The SQL connection; its other half ends with it.
struct Connection {
    client: Client,
}

async fn connect(ctx: &Context) -> Result<Connection, tokio_postgres::Error> {
    let (client, connection) = ctx.config.sql.connect(NoTls).await?;
    // Ends by itself when the client is dropped.
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "the guard's connection ended");
        }
    });
    Ok(Connection { client })
}

async fn check(ctx: &Context, held: &mut Option<Connection>) -> Result<Vec<String>, tokio_postgres::Error> {
    if held.as_ref().is_none_or(|c| c.client.is_closed()) {
        *held = Some(connect(ctx).await?);
    }
    let Some(connection) = held else { return Ok(Vec::new()) };
    let config = &ctx.config;
    let mut found = look(&connection.client, &config.slot, &config.pin_slot).await?;
    let state = ctx.shared.snapshot();
    let name = names::standby_name(config.ttid.timeline_id);
    let expected = Expected {
        name: &name,
        slot: &config.slot,
        pin_slot: &config.pin_slot,
        allow_fsync_off: config.allow_fsync_off,
        identity: state.identity,
    };
    let same = state.identity.is_some_and(|i| i.system_id.to_string() == found.system_id);
    if let (true, Some(commit), Some(seg)) = (same, state.commit.filter(|_| !found.in_recovery), found.seg_size)
        && move_pin(&connection.client, &config.pin_slot, &found.slots, commit, seg).await?
    {
        found = look(&connection.client, &config.slot, &config.pin_slot).await?;
    }
    Ok(judge(&found, &expected))
}

async fn look(client: &Client, slot: &str, pin: &str) -> Result<Findings, tokio_postgres::Error> {
    let slots = format!(
        "SELECT slot_name, coalesce(wal_status, ''), coalesce(restart_lsn::text, '') FROM pg_replication_slots \
         WHERE slot_name IN ('{slot}', '{pin}')"
    );
    let settings = rows(client, SETTINGS).await?;
    let senders = rows(client, SENDERS).await?;
    let slots = rows(client, &slots).await?;
    let mut found = Findings::default();
    if let Some(row) = settings.first() {
        found.in_recovery = text(row, 0) == "t";
        found.fsync = text(row, 1);
        found.full_page_writes = text(row, 2);
        found.wal_level = text(row, 3);
        found.sync_names = text(row, 4);
        found.seg_size = text(row, 5).parse().ok().and_then(SegSize::new);
        found.synchronous_commit = text(row, 6);
        found.system_id = text(row, 7);
    }
    let sender = |row: &SimpleQueryRow| Sender {
        pid: text(row, 0).parse().unwrap_or_default(),
        name: text(row, 1),
        state: text(row, 2),
        sync_state: text(row, 3),
    };
    let slot = |row: &SimpleQueryRow| Slot {
        name: text(row, 0),
        wal_status: text(row, 1),
        restart_lsn: text(row, 2).parse().ok(),
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

/// Creates the pin slot when it is missing, and moves it up behind the commit position. True when something was done.
async fn move_pin(
    client: &Client,
    name: &str,
    slots: &[Slot],
    commit: Lsn,
    seg: SegSize,
) -> Result<bool, tokio_postgres::Error> {
    let Some(slot) = slots.iter().find(|s| s.name == name) else {
        tracing::warn!(slot = name, "the pin slot is missing and is created anew");
        client.simple_query(&format!("SELECT pg_create_physical_replication_slot('{name}', true)")).await?;
        return Ok(true);
    };
    let target = pin_target(commit, seg).filter(|target| slot.restart_lsn.is_some_and(|at| at < *target));
    let Some(target) = target else { return Ok(false) };
    client.simple_query(&format!("SELECT pg_replication_slot_advance('{name}', '{target}')")).await?;
    tracing::debug!(slot = name, %target, "the pin slot was moved");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgformat::Tli;
    use proto::id::SystemId;

    const NAME: &str = "walfabric_0011223344556677";

    fn slot(name: &str) -> Slot {
        Slot { name: name.to_owned(), wal_status: "reserved".to_owned(), restart_lsn: None }
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
            seg_size: Some(SegSize::DEFAULT),
            senders: vec![
                Sender { pid: 42, name: own(NAME), state: own("streaming"), sync_state: own("sync") },
                Sender { pid: 50, name: own("pg_basebackup"), state: own("backup"), sync_state: own("async") },
            ],
            slots: vec![slot("own"), slot("own_pin")],
        }
    }

    fn reasons(change: impl FnOnce(&mut Findings)) -> Vec<String> {
        let mut found = sound();
        change(&mut found);
        let identity = Some(Identity { system_id: SystemId(7), tli: Tli(1), pid: 42 });
        judge(&found, &Expected { name: NAME, slot: "own", pin_slot: "own_pin", allow_fsync_off: false, identity })
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
    }

    #[test]
    fn the_pin_stays_16_mib_or_a_segment_below_the_commit_position() {
        let mib = |n: u64| Lsn::new(n << 20);
        assert_eq!(pin_target(mib(100), SegSize::DEFAULT), Some(mib(80)));
        let large = SegSize::new(64 << 20).expect("a power of two");
        assert_eq!(pin_target(mib(200), large), Some(mib(128)));
        let small = SegSize::new(1 << 20).expect("a power of two");
        assert_eq!(pin_target(mib(100), small), Some(mib(84)));
        assert_eq!(pin_target(mib(10), SegSize::DEFAULT), None);
    }
}
