//! What is checked before a timeline is made: everything that can be known without changing anything.
//!
//! An error here leaves nothing behind, on the primary, on the nodes or on the broker.

use anyhow::{Context, Result, bail, ensure};
use libpq::{ClientConnection, ConnectOptions, Environment, NetError};
use proto::Lsn;
use proto::api::ImportCheckRequest;
use proto::broker::records::{NodeRecord, TimelineConfRecord};
use proto::id::{SystemId, TenantTimelineId};
use proto::{SegSize, Tli};
use tokio_postgres::Client;
use walproposer_shim::names;

use super::primary::{Primary, pg_history, replication_options};
use super::records::conf_records;
use crate::http::Http;
use crate::sql;

/// Settings that a primary must not have, and what to do about them.
const UNFIT: [(&str, &str, &str); 3] = [
    ("wal_level", "minimal", "set it to replica and restart PostgreSQL"),
    ("fsync", "off", "turn it on and restart PostgreSQL"),
    ("full_page_writes", "off", "turn it on"),
];

/// What the primary says about itself, on an SQL and on a replication connection.
///
/// # Errors
/// When it is not fit, or does not admit us.
pub(super) async fn inspect(client: &Client, conninfo: &str) -> Result<Primary> {
    let one = |query: &'static str| sql::text(client, query);
    ensure!(
        one("SELECT pg_is_in_recovery()").await? == "f",
        "the server is a standby: give --primary the connection string of the primary"
    );
    let version_num: u32 = one("SHOW server_version_num").await?.parse()?;
    ensure!(
        proto::PgMajor::from_version_num(version_num).is_some(),
        "PostgreSQL {version_num} is not supported: 14 to 18 are"
    );
    for (name, unfit, advice) in UNFIT {
        let value = sql::text(client, &format!("SHOW {name}")).await?;
        ensure!(value != unfit, "{name} is {unfit} on the primary: {advice}");
    }
    let seg_bytes: u32 = one("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'").await?.parse()?;
    let seg_size = SegSize::new(seg_bytes).with_context(|| format!("wal_segment_size {seg_bytes} is not valid"))?;
    check_role(client).await?;
    // The tli comes from the replication connection: pg_control has the last checkpoint's, which lags a promotion.
    let (system_id, tli) = check_replication(client, conninfo).await?;
    Ok(Primary { system_id, version_num, seg_size, history: pg_history(conninfo, tli).await? })
}

/// The role may create slots and stream, and the guard of the shim may see what it must.
async fn check_role(client: &Client) -> Result<()> {
    let query = "SELECT rolname || ' ' || (rolsuper OR rolreplication)::text || ' ' || \
                 pg_has_role(current_user, 'pg_monitor', 'USAGE')::text FROM pg_roles WHERE rolname = current_user";
    let answer = sql::text(client, query).await?;
    let mut words = answer.rsplitn(3, ' ');
    let (monitor, replication) = (words.next() == Some("true"), words.next() == Some("true"));
    let role = words.next().unwrap_or_default();
    ensure!(replication, "role {role} may not replicate: ALTER ROLE {role} REPLICATION");
    ensure!(monitor, "role {role} may not see whether commits are protected: GRANT pg_monitor TO {role}");
    Ok(())
}

/// The primary admits replication connections from here: without a database, as stock tools and the pageserver make
/// them, and with one, as the shim makes them.
async fn check_replication(client: &Client, conninfo: &str) -> Result<(SystemId, Tli)> {
    let options = replication_options(conninfo)?;
    let mut connection = match ClientConnection::dial(&options).await {
        Ok(connection) => connection,
        Err(e) => return Err(not_admitted(client, &options, "replication", e).await),
    };
    let results = connection.simple_query("IDENTIFY_SYSTEM").await?;
    let row = results.first().and_then(|r| r.rows.first()).context("IDENTIFY_SYSTEM gave no row")?;
    let text = |i: usize| row.get(i).and_then(Option::as_deref).unwrap_or_default();
    let (system_id, tli) = (SystemId(text(0).parse()?), Tli(text(1).parse()?));
    let mut with_database = ConnectOptions::from_conninfo(conninfo, &Environment::none())?;
    let database = with_database.database.get_or_insert_with(|| "postgres".to_owned()).clone();
    with_database.parameters.push(("replication".to_owned(), "database".to_owned()));
    match ClientConnection::dial(&with_database).await {
        Ok(_) => Ok((system_id, tli)),
        Err(e) => Err(not_admitted(client, &with_database, &database, e).await),
    }
}

/// PostgreSQL's own words, and the line of pg_hba.conf that is missing when that is what they say.
async fn not_admitted(client: &Client, options: &ConnectOptions, database: &str, e: NetError) -> anyhow::Error {
    // invalid_authorization_specification: what a missing line of pg_hba.conf gives.
    let no_line = e.server_error().is_some_and(|e| e.code == "28000");
    let error = anyhow::Error::from(e)
        .context(format!("walfabric cannot open a replication connection to the primary at {}", options.target()));
    if !no_line {
        return error;
    }
    let address = "SELECT coalesce(host(inet_client_addr()) || \
                   CASE family(inet_client_addr()) WHEN 4 THEN '/32' ELSE '/128' END, '')";
    let address = sql::text(client, address).await.unwrap_or_default();
    let user = &options.user;
    let line = if address.is_empty() {
        format!("local {database} {user} scram-sha-256")
    } else {
        format!("host {database} {user} {address} scram-sha-256")
    };
    error.context(format!("add this line to pg_hba.conf of the primary, reload it, and repeat: {line}"))
}

/// There is room for the slots and walsenders that the timeline needs; `importing` pageservers need one each.
pub(super) async fn check_room(client: &Client, ttid: TenantTimelineId, importing: usize) -> Result<()> {
    let slot = names::slot_name(ttid.timeline_id);
    let pin = names::pin_slot_name(&slot);
    let query = format!(
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name NOT IN ('{slot}', '{pin}')) || ' ' || \
         current_setting('max_replication_slots') || ' ' || (SELECT count(*) FROM pg_stat_replication \
         WHERE application_name <> '{slot}') || ' ' || current_setting('max_wal_senders')"
    );
    let answer = sql::text(client, &query).await?;
    let numbers: Vec<usize> = answer.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let &[slots, slots_max, senders, senders_max] = numbers.as_slice() else { bail!("unexpected answer {answer:?}") };
    ensure!(
        slots + 2 <= slots_max,
        "max_replication_slots is {slots_max}, {slots} are taken by others, and a timeline needs 2: raise it and \
         restart PostgreSQL, or remove slots that nobody needs"
    );
    let wanted = 1 + importing;
    ensure!(
        senders + wanted <= senders_max,
        "max_wal_senders is {senders_max}, {senders} are at work, and {wanted} more are needed (one for the shim, \
         one for each pageserver that imports): raise it and restart PostgreSQL"
    );
    Ok(())
}

/// Every node answers.
pub(super) async fn check_alive(http: &Http, kind: &str, nodes: &[NodeRecord]) -> Result<()> {
    for node in nodes {
        http.get_ok(&node.http, "/v1/status")
            .await
            .with_context(|| format!("{kind} {} must answer when a timeline is created", node.id))?;
    }
    Ok(())
}

/// The pageservers can copy the cluster: it admits a replication connection from each of them.
pub(super) async fn check_import(
    http: &Http,
    conninfo: &str,
    system_id: SystemId,
    pageservers: &[NodeRecord],
) -> Result<()> {
    let request = ImportCheckRequest { from: conninfo.to_owned(), system_id };
    let body = serde_json::to_vec(&request)?;
    for node in pageservers {
        let sent = http.post(&node.http, "/v1/import/check", body.clone(), "application/json").await;
        sent.with_context(|| format!("pageserver {} cannot copy the cluster", node.id))?;
    }
    Ok(())
}

/// No other timeline has the names of this one inside PostgreSQL: they carry 16 of the 32 digits of its id.
pub(super) async fn check_names(broker: &broker::Broker, ttid: TenantTimelineId) -> Result<()> {
    let slot = names::slot_name(ttid.timeline_id);
    let same_name = |other: &(TenantTimelineId, TimelineConfRecord)| {
        other.0 != ttid && names::slot_name(other.0.timeline_id) == slot
    };
    match conf_records(broker).await?.into_iter().find(same_name) {
        Some((other, _)) => bail!("timeline {other} has the replication slot {slot} already: use another timeline id"),
        None => Ok(()),
    }
}

/// A primary that was promoted since its last checkpoint makes one: the log starts at its redo pointer, which must
/// belong to the present tli.
pub(super) async fn check_promotion(client: &Client, primary: &Primary) -> Result<()> {
    let Some(switch) = primary.history.last().filter(|_| primary.history.len() > 1).map(|e| e.start_lsn) else {
        return Ok(());
    };
    let redo = async || -> Result<Lsn> {
        Ok(sql::text(client, "SELECT redo_lsn FROM pg_control_checkpoint()").await?.parse()?)
    };
    if redo().await? >= switch {
        return Ok(());
    }
    client.batch_execute("CHECKPOINT").await.with_context(|| {
        format!(
            "the primary was promoted at {switch} and has not made a checkpoint since, and this role may not: run \
             CHECKPOINT as a superuser, then repeat"
        )
    })?;
    let now = redo().await?;
    ensure!(now >= switch, "the last checkpoint still begins at {now}, before the promotion at {switch}: repeat");
    Ok(())
}
