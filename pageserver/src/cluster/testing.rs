//! A cluster that tests share.

use pgformat::checkpoint::CheckPoint;
use pgformat::control::{ControlFile, DbState};
use pgformat::effect::Parameters;
use pgformat::{Lsn, PgMajor, SegSize, Tli};

/// A control file of a cluster whose last checkpoint, at shutdown, is at `checkpoint`.
pub(crate) fn control_file(version: PgMajor, checkpoint: Lsn) -> ControlFile {
    ControlFile {
        version,
        system_id: 7,
        state: DbState::Shutdown,
        time: 0,
        checkpoint,
        checkpoint_copy: CheckPoint {
            redo: checkpoint,
            tli: Tli(1),
            prev_tli: Tli(1),
            full_page_writes: true,
            wal_level: if version.has_checkpoint_redo() { 1 } else { 0 },
            next_xid: 700,
            next_oid: 16384,
            next_multi: 1,
            next_multi_offset: 0,
            oldest_xid: 3,
            oldest_xid_db: 1,
            oldest_multi: 1,
            oldest_multi_db: 1,
            time: 0,
            oldest_commit_ts_xid: 0,
            newest_commit_ts_xid: 0,
            oldest_active_xid: 0,
        },
        unlogged_lsn: Lsn::new(1000),
        min_recovery_point: Lsn::new(0),
        min_recovery_point_tli: Tli(0),
        backup_start: Lsn::new(0),
        backup_end: Lsn::new(0),
        backup_end_required: false,
        parameters: Parameters { wal_level: 1, ..Parameters::default() },
        seg_size: SegSize::new(1 << 24).expect("a power of two"),
        float8_by_val: true,
        data_checksum_version: 0,
        char_signed: true,
        mock_nonce: [0; 32],
    }
}
