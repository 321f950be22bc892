//! The attach record: that a timeline is attached here, by which pageserver, and with what.
//!
//! A JSON file in the timeline's directory, written at the attach and replaced as a whole, so that it is there or not.
//! Positions and the number of the last choice are in storage, with the pages.

use std::io;
use std::path::{Path, PathBuf};

use disk::{Disk, write_durably};
use proto::api::AttachRequest;
use proto::id::{NodeId, TenantId, TenantTimelineId, TimelineId};
use serde::{Deserialize, Serialize};

/// Name of the file in the timeline's directory.
pub(super) const FILE_NAME: &str = "attach.json";
/// Schema of the file.
pub(super) const SCHEMA: u32 = 1;

/// What the file holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct AttachRecord {
    /// Form of the file, [`SCHEMA`].
    pub(super) schema: u32,
    /// Tenant of the timeline.
    pub(super) tenant_id: TenantId,
    /// The timeline's own id.
    pub(super) timeline_id: TimelineId,
    /// The pageserver that attached it.
    pub(super) pageserver_id: NodeId,
    /// What it was attached with.
    pub(super) attach: AttachRequest,
    /// Number of the last choice that an earlier version made and saved here; the manifest has newer ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) choice_seq: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// An attach record that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("attach record {path} {problem}", path = .path.display())]
pub(super) struct RecordError {
    pub(super) path: PathBuf,
    pub(super) problem: RecordProblem,
}

impl RecordError {
    /// Whether trying again may help: the disk does not give what is there.
    pub(super) fn may_pass(&self) -> bool {
        use io::ErrorKind::{NotFound, PermissionDenied};
        matches!(&self.problem, RecordProblem::Io(e) if !matches!(e.kind(), NotFound | PermissionDenied))
    }
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordProblem {
    /// The operating system refused.
    #[error("cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// Its bytes are no record.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// Another version of this program wrote it.
    #[error("has version {found}, this program knows {known}")]
    Version {
        /// The version in the file.
        found: u32,
        /// The newest one that can be read.
        known: u32,
    },
}

impl AttachRecord {
    /// A record for a new attach.
    pub(super) const fn new(ttid: TenantTimelineId, pageserver_id: NodeId, attach: AttachRequest) -> AttachRecord {
        let (tenant_id, timeline_id) = (ttid.tenant_id, ttid.timeline_id);
        AttachRecord { schema: SCHEMA, tenant_id, timeline_id, pageserver_id, attach, choice_seq: 0 }
    }

    /// Which timeline it is of.
    pub(super) const fn ttid(&self) -> TenantTimelineId {
        TenantTimelineId::new(self.tenant_id, self.timeline_id)
    }

    /// Writes it into the timeline's directory; returns when it is durable.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), RecordError> {
        let path = dir.join(FILE_NAME);
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        json.and_then(|json| write_durably(disk, &path, &json)).map_err(|e| RecordError { path, problem: e.into() })
    }

    /// The record in a timeline's directory.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another version, and those of the file system.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<AttachRecord, RecordError> {
        let path = dir.join(FILE_NAME);
        let parsed = disk::read(disk, &path).map_err(RecordProblem::from).and_then(|bytes| parse(&bytes));
        parsed.map_err(|problem| RecordError { path, problem })
    }
}

fn parse(bytes: &[u8]) -> Result<AttachRecord, RecordProblem> {
    #[derive(Deserialize)]
    struct OfSchema {
        schema: u32,
    }
    let damaged = |e: serde_json::Error| RecordProblem::Damaged(e.to_string());
    // First the schema alone: the fields of another one may be others.
    let OfSchema { schema } = serde_json::from_slice(bytes).map_err(damaged)?;
    if schema != SCHEMA {
        return Err(RecordProblem::Version { found: schema, known: SCHEMA });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use disk::FsDisk;
    use pgformat::{Lsn, SegSize, Tli};
    use proto::api::PgHistoryEntry;
    use proto::id::SystemId;

    use super::*;

    /// What the golden slot of the old form holds.
    pub(in super::super) fn sample() -> AttachRecord {
        let ttid = TenantTimelineId::new(TenantId::new([0x11; 16]), TimelineId::new([0x22; 16]));
        let attach = AttachRequest {
            start_lsn: Lsn::new(0x0100_0028),
            pg_version_num: 150_004,
            system_id: SystemId(0x1234_5678_9ABC_DEF0),
            wal_seg_size: SegSize::DEFAULT,
            pg_history: vec![
                PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) },
                PgHistoryEntry { tli: Tli(2), start_lsn: Lsn::new(0x0100_0000) },
            ],
        };
        AttachRecord { choice_seq: 5, ..AttachRecord::new(ttid, NodeId(7), attach) }
    }

    pub(in super::super) fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("listed");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        for record in [sample(), AttachRecord { choice_seq: 0, ..sample() }] {
            record.write(&FsDisk, dir.path()).expect("written");
            assert_eq!(AttachRecord::read(&FsDisk, dir.path()).expect("read"), record);
        }
        assert_eq!(names(dir.path()), [FILE_NAME]);
        // The form, as docs/formats.md has it: what is written today must be read for ever.
        let golden = r#"{"schema":1,"tenant_id":"11111111111111111111111111111111",
            "timeline_id":"22222222222222222222222222222222","pageserver_id":7,
            "attach":{"start_lsn":"0/1000028","pg_version_num":150004,"system_id":1311768467463790320,
            "wal_seg_size":16777216,"pg_history":[{"tli":1,"start_lsn":"0/0"},{"tli":2,"start_lsn":"0/1000000"}]},
            "choice_seq":5}"#;
        assert_eq!(parse(golden.as_bytes()).expect("a record"), sample());
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let refused = |bytes: &[u8]| {
            fs::write(dir.path().join(FILE_NAME), bytes).expect("written");
            AttachRecord::read(&FsDisk, dir.path()).expect_err("refused").to_string()
        };
        assert!(refused(b"").contains("attach.json is damaged: "));
        assert!(refused(br#"{"schema":1}"#).contains("missing field"));
        assert!(refused(br#"{"schema":2,"who":"knows"}"#).contains("has version 2, this program knows 1"));
        fs::remove_file(dir.path().join(FILE_NAME)).expect("removed");
        let missing = AttachRecord::read(&FsDisk, dir.path()).expect_err("refused").to_string();
        assert!(missing.contains("cannot be read or written"), "{missing}");
    }
}
