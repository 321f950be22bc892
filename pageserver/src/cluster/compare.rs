//! The control state against the control file of a cluster that was shut down.
//!
//! Pure: the caller brings both sides.
//!
//! Source: PostgreSQL 14-18, `CreateCheckPoint` in `xlog.c`.

use pgformat::checkpoint::CheckPoint;
use pgformat::control::ControlFile;

use super::state::ClusterState;

/// A field that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StateDifference {
    /// Name of the field, in words.
    pub(crate) what: String,
    /// As ingest has it.
    pub(crate) ours: String,
    /// As the cluster has it.
    pub(crate) theirs: String,
}

/// The fields of two checkpoints that differ, but for what a checkpoint alone knows: its redo position and time.
pub(crate) fn counters(ours: &CheckPoint, theirs: &CheckPoint) -> Vec<StateDifference> {
    let mut found = Vec::new();
    let mut field = |what: &str, ours: u64, theirs: u64| {
        if ours != theirs {
            found.push(StateDifference { what: what.into(), ours: ours.to_string(), theirs: theirs.to_string() });
        }
    };
    field("timeline", ours.tli.0.into(), theirs.tli.0.into());
    field("full_page_writes", ours.full_page_writes.into(), theirs.full_page_writes.into());
    field("wal_level", ours.wal_level as u64, theirs.wal_level as u64);
    field("next transaction", ours.next_xid, theirs.next_xid);
    field("next oid", ours.next_oid.into(), theirs.next_oid.into());
    field("next multixact", ours.next_multi.into(), theirs.next_multi.into());
    field("next multixact offset", ours.next_multi_offset.into(), theirs.next_multi_offset.into());
    field("oldest transaction", ours.oldest_xid.into(), theirs.oldest_xid.into());
    field("its database", ours.oldest_xid_db.into(), theirs.oldest_xid_db.into());
    field("oldest multixact", ours.oldest_multi.into(), theirs.oldest_multi.into());
    field("its database", ours.oldest_multi_db.into(), theirs.oldest_multi_db.into());
    field("oldest commit timestamp", ours.oldest_commit_ts_xid.into(), theirs.oldest_commit_ts_xid.into());
    field("newest commit timestamp", ours.newest_commit_ts_xid.into(), theirs.newest_commit_ts_xid.into());
    found
}

/// What differs between the state and the control file of the cluster, shut down at the state's position.
pub(crate) fn control(state: &ClusterState, file: &ControlFile) -> Vec<StateDifference> {
    let mut found = counters(&state.live, &file.checkpoint_copy);
    let mut field = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            found.push(StateDifference { what: what.into(), ours, theirs });
        }
    };
    let ours = &state.file;
    field("last checkpoint", ours.checkpoint.to_string(), file.checkpoint.to_string());
    field("its body", format!("{:?}", ours.checkpoint_copy), format!("{:?}", file.checkpoint_copy));
    field("settings", format!("{:?}", ours.parameters), format!("{:?}", file.parameters));
    field("system identifier", ours.system_id.to_string(), file.system_id.to_string());
    field("version", ours.version.to_string(), file.version.to_string());
    field("checksums", ours.data_checksum_version.to_string(), file.data_checksum_version.to_string());
    found
}

#[cfg(test)]
mod tests {
    use pgformat::{Lsn, PgMajor, Tli};

    use super::super::testing::control_file;
    use super::*;

    fn named(found: &[StateDifference]) -> Vec<&str> {
        found.iter().map(|d| d.what.as_str()).collect()
    }

    #[test]
    fn each_field_of_the_control_file_counts() {
        let file = control_file(PgMajor::ALL[4], Lsn::new(0x0100_0028));
        let state = ClusterState::of_file(file.clone(), true);
        assert_eq!(control(&state, &file), []);
        let plant = |change: &dyn Fn(&mut CheckPoint)| {
            let mut live = file.checkpoint_copy;
            change(&mut live);
            named(&counters(&live, &file.checkpoint_copy)).join(" ")
        };
        type Plant<'a> = (&'a dyn Fn(&mut CheckPoint), &'a str);
        let planted: [Plant<'_>; 12] = [
            (&|c| c.next_xid += 1, "next transaction"),
            (&|c| c.next_xid += 1 << 32, "next transaction"),
            (&|c| c.next_oid += 1, "next oid"),
            (&|c| c.next_multi += 1, "next multixact"),
            (&|c| c.next_multi_offset += 1, "next multixact offset"),
            (&|c| c.oldest_xid += 1, "oldest transaction"),
            (&|c| c.oldest_multi_db += 1, "its database"),
            (&|c| c.oldest_commit_ts_xid += 1, "oldest commit timestamp"),
            (&|c| c.newest_commit_ts_xid += 1, "newest commit timestamp"),
            (&|c| c.tli = Tli(2), "timeline"),
            (&|c| c.full_page_writes = false, "full_page_writes"),
            (&|c| c.redo = Lsn::new(5), ""),
        ];
        for (change, what) in planted {
            assert_eq!(plant(change), what);
        }
        let mut other = file.clone();
        (other.checkpoint, other.parameters.max_connections) = (Lsn::new(8), 9);
        assert_eq!(named(&control(&state, &other)), ["last checkpoint", "settings"]);
    }
}
