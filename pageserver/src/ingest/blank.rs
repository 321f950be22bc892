//! The beginning of a timeline without an import: what WAL says from the start on is all that is known.

use pgformat::checkpoint::CheckPoint;
use pgformat::control::{ControlFile, DbState};
use pgformat::effect::Parameters;
use pgformat::{Lsn, PgMajor, Tli};
use proto::api::AttachRequest;

use crate::cluster::state::ClusterState;

/// The state of a cluster of which nothing is known but what its timeline was attached with.
pub(super) fn state(attach: &AttachRequest, version: PgMajor) -> ClusterState {
    let start = attach.start_lsn;
    let tli = attach.pg_history.last().map_or(Tli(1), |e| e.tli);
    let checkpoint_copy = CheckPoint {
        redo: start,
        tli,
        prev_tli: tli,
        full_page_writes: true,
        wal_level: 1,
        next_xid: 3,
        next_oid: 0,
        next_multi: 1,
        next_multi_offset: 0,
        oldest_xid: 3,
        oldest_xid_db: 0,
        oldest_multi: 1,
        oldest_multi_db: 0,
        time: 0,
        oldest_commit_ts_xid: 0,
        newest_commit_ts_xid: 0,
        oldest_active_xid: 0,
    };
    let file = ControlFile {
        version,
        system_id: attach.system_id.0,
        state: DbState::Production,
        time: 0,
        checkpoint: start,
        checkpoint_copy,
        unlogged_lsn: Lsn::new(0),
        min_recovery_point: Lsn::new(0),
        min_recovery_point_tli: Tli(0),
        backup_start: Lsn::new(0),
        backup_end: Lsn::new(0),
        backup_end_required: false,
        parameters: Parameters {
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_xacts: 0,
            max_locks_per_xact: 64,
            wal_level: 1,
            wal_log_hints: false,
            track_commit_timestamp: false,
        },
        seg_size: attach.wal_seg_size,
        float8_by_val: true,
        data_checksum_version: 0,
        char_signed: true,
        mock_nonce: [0; 32],
    };
    ClusterState::of_file(file, false)
}
