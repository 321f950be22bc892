//! What a primary says about itself, on replication connections too.

use anyhow::{Context, Result, bail};
use libpq::{ClientConnection, ConnectOptions, Environment};
use proto::api::PgHistoryEntry;
use proto::id::SystemId;
use proto::{Lsn, SegSize, Tli};

/// What the primary says about itself.
pub(super) struct Primary {
    pub(super) system_id: SystemId,
    pub(super) version_num: u32,
    pub(super) seg_size: SegSize,
    pub(super) history: Vec<PgHistoryEntry>,
}

/// The primary's own timeline history, oldest first.
pub(super) async fn pg_history(conninfo: &str, tli: Tli) -> Result<Vec<PgHistoryEntry>> {
    let mut history = Vec::new();
    let mut from = Lsn::new(0);
    if tli.0 > 1 {
        let mut connection = ClientConnection::dial(&replication_options(conninfo)?).await?;
        let results = connection.simple_query(&format!("TIMELINE_HISTORY {tli}")).await?;
        let content = results.first().and_then(|r| r.rows.first()).and_then(|row| row.get(1).cloned().flatten());
        let content = content.with_context(|| format!("the primary did not give the history of tli {tli}"))?;
        for line in content.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let mut fields = line.split_whitespace();
            let (Some(t), Some(switch)) = (fields.next(), fields.next()) else {
                bail!("malformed history line {line:?}")
            };
            history.push(PgHistoryEntry { tli: Tli(t.parse()?), start_lsn: from });
            from = switch.parse()?;
        }
    }
    history.push(PgHistoryEntry { tli, start_lsn: from });
    Ok(history)
}

pub(super) fn replication_options(conninfo: &str) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::from_conninfo(conninfo, &Environment::none())?;
    options.parameters.push(("replication".to_owned(), "true".to_owned()));
    options.application_name = "walfabric_bootstrap".to_owned();
    options.database = None;
    Ok(options)
}
