//! The LSN of a backup, and what a server needs to start there.

use std::time::{SystemTime, UNIX_EPOCH};

use pgformat::boot::{BootFiles, BootPoint, boot_files};
use pgformat::{Lsn, Tli};
use proto::backup::BackupForm;
use proto::pg::{SqlError, sqlstate};

use crate::cluster::records::RecordSpan;
use crate::cluster::state::ClusterState;
use crate::read::{PageReader, ReadError, ReadView};

/// Where a backup stands, and the state of its cluster there.
pub(crate) struct BackupPoint {
    /// The last record that counts.
    pub(crate) last: RecordSpan,
    /// What the control file would hold.
    pub(crate) state: ClusterState,
    /// Control file, WAL and history.
    pub(crate) boot: BootFiles,
    /// The tli that the server goes on with.
    pub(crate) tli: Tli,
}

/// Finds the last record at or below `lsn`, which the reader has resolved, and makes what a server needs to start
/// behind it. `known` are the tlis of the log at its beginning.
///
/// # Errors
/// SQLSTATE WF015 when no record is known there, and what the store says.
pub(crate) async fn find(
    reader: &PageReader,
    lsn: Lsn,
    form: BackupForm,
    known: &[(Tli, Lsn)],
) -> Result<BackupPoint, SqlError> {
    let sql = |e: ReadError| e.to_sql();
    let state = reader.control(lsn).await.map_err(sql)?;
    let last = reader.last_record(lsn, state.file.seg_size).await.map_err(sql)?;
    let last = last.ok_or_else(|| {
        let problem = format!("no record is known that ends at or below {lsn}");
        SqlError::new(sqlstate::LSN_TOO_OLD, problem).with_hint(reader.readable().to_string())
    })?;
    // Rounding down may have left what is readable.
    if reader.readable().from.is_none_or(|from| last.end < from) {
        let problem = format!("the last record at or below {lsn} ends at {}, below what is readable", last.end);
        return Err(SqlError::new(sqlstate::LSN_TOO_OLD, problem).with_hint(reader.readable().to_string()));
    }
    let state = if last.end == lsn { state } else { reader.control(last.end).await.map_err(sql)? };
    let switches = reader.read(last.end, |view: ReadView<'_>| view.tli_switches()).await.map_err(sql)?;
    let tlis = tlis_at(&state, known, &switches, last.end);
    let current = state.live.tli;
    let tli = match form {
        BackupForm::BootContinue | BackupForm::Recover => current,
        BackupForm::BootFork => Tli(tlis.iter().map(|(tli, _)| tli.0).max().unwrap_or(current.0).saturating_add(1)),
    };
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0));
    let reason = format!("walfabric: started from pages at {}", last.end);
    let point = BootPoint { lsn: last.end, last_record: last.start, tlis, tli, reason, time };
    let boot = boot_files(&state.file, &state.live, &point);
    let boot = boot.map_err(|e| SqlError::new(sqlstate::DATA_CORRUPTED, format!("no server can start there: {e}")))?;
    Ok(BackupPoint { last, state, boot, tli })
}

/// Tlis of the log up to `lsn`, ascending: those that the log began with, and the switches in it. The last one is the
/// current one.
fn tlis_at(state: &ClusterState, known: &[(Tli, Lsn)], switches: &[(Tli, Lsn, Tli)], lsn: Lsn) -> Vec<(Tli, Lsn)> {
    let mut tlis: Vec<(Tli, Lsn)> = known.to_vec();
    tlis.extend(switches.iter().map(|(tli, since, _)| (*tli, *since)));
    tlis.retain(|(tli, since)| *since <= lsn && *tli <= state.live.tli);
    tlis.sort_by_key(|(tli, since)| (*since, *tli));
    tlis.dedup_by_key(|(tli, _)| *tli);
    if tlis.last().is_none_or(|(tli, _)| *tli != state.live.tli) {
        tlis.push((state.live.tli, tlis.last().map_or(Lsn::new(0), |(_, since)| *since)));
    }
    tlis
}

#[cfg(test)]
mod tests {
    use pgformat::PgMajor;

    use super::*;
    use crate::cluster::testing::control_file;

    fn state(tli: u32) -> ClusterState {
        let mut file = control_file(PgMajor::ALL[1], Lsn::new(8));
        file.checkpoint_copy.tli = Tli(tli);
        ClusterState::of_file(file, false)
    }

    /// Goal: the history file of the new server names every tli once, with where it began. Method: logs that began on
    /// tli 1 or later, with and without switches, looked at before, between and behind them.
    #[test]
    fn tlis_are_those_that_had_begun_by_then() {
        let lsn = Lsn::new;
        let switches = [(Tli(4), lsn(400), Tli(3)), (Tli(5), lsn(500), Tli(4))];
        let known = [(Tli(1), lsn(0)), (Tli(3), lsn(300))];
        let at = |tli, l| tlis_at(&state(tli), &known, &switches, lsn(l));
        assert_eq!(at(3, 350), known);
        assert_eq!(at(4, 450), [known[0], known[1], (Tli(4), lsn(400))]);
        assert_eq!(at(5, 600).last(), Some(&(Tli(5), lsn(500))));
        // The switch lies exactly there, and the record that tells of it behind.
        assert_eq!(at(3, 400), known);
        // A log of which nothing is known but its tli.
        assert_eq!(tlis_at(&state(7), &[], &[], lsn(100)), [(Tli(7), lsn(0))]);
    }
}
