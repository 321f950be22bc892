//! The replication slot that keeps the WAL of a timeline on its primary from the log's start on.

use anyhow::{Context, Result, bail};
use proto::Lsn;
use proto::id::TimelineId;
use walproposer_shim::names;

use super::undo::Made;
use crate::sql;

/// Creates the slot that pins the WAL from the redo pointer of the last checkpoint on; an idle one of an earlier
/// attempt is taken over.
pub(super) async fn reserve_slot(
    client: &tokio_postgres::Client,
    timeline: TimelineId,
    made: &mut Made,
) -> Result<Lsn> {
    let slot = names::slot_name(timeline);
    let query = format!(
        "SELECT coalesce(restart_lsn::text, ''), coalesce(active_pid::text, '') FROM pg_replication_slots \
         WHERE slot_name = '{slot}'"
    );
    let rows = client.simple_query(&query).await.context("cannot read pg_replication_slots")?;
    let row = rows.iter().find_map(|m| match m {
        tokio_postgres::SimpleQueryMessage::Row(r) => {
            Some((r.get(0).unwrap_or_default().to_owned(), r.get(1).unwrap_or_default().to_owned()))
        }
        _ => None,
    });
    let restart = match row {
        Some((_, pid)) if !pid.is_empty() => bail!(
            "slot {slot} is in use by walsender {pid}, though no safekeeper holds timeline {timeline}: a shim of \
             another fabric is at work on this primary, for a timeline whose id begins with the same 16 digits. Use \
             another --timeline-id"
        ),
        Some((restart, _)) if !restart.is_empty() => restart,
        Some(_) => bail!(
            "slot {slot} exists and keeps no WAL. An earlier attempt with timeline {timeline} may have left it, or a \
             timeline of another fabric whose id begins with the same 16 digits may need it. Use another \
             --timeline-id; or, if you know that nobody needs it, drop it and repeat"
        ),
        None => {
            let create = format!("SELECT lsn FROM pg_create_physical_replication_slot('{slot}', true)");
            let lsn = sql::text(client, &create).await.context("cannot create the replication slot")?;
            made.slot = Some(slot);
            lsn
        }
    };
    Ok(restart.parse()?)
}
