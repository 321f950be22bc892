//! The form that attach records had before they were JSON: the file `control`, which is read once and rewritten.
//!
//! Two slots of fixed size were written in turn, each with a sequence number and a checksum; the newer good one counts.
//! Layout: `docs/formats.md`. The new record is durable before the old file goes. WAL that the version before that one
//! kept in `wal/` goes with it: it had reported nothing as stored elsewhere, so that the safekeepers have it all.

use std::io;
use std::path::Path;

use bytes::Bytes;
use disk::{Disk, OpenMode};
use pgformat::{Lsn, SegSize, Tli};
use proto::api::{AttachRequest, PgHistoryEntry};
use proto::codec::{DecodeError, Reader};
use proto::id::{NodeId, SystemId, TenantId, TenantTimelineId, TimelineId};

use super::record::{self, AttachRecord, RecordError, RecordProblem, SCHEMA};

/// Name of the file in the timeline's directory.
const FILE_NAME: &str = "control";
const MAGIC: &[u8; 8] = b"WFPSCTL\0";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 28;
const SLOT_LEN: usize = 32 << 10;
/// Positions of a still earlier version, which are in the manifest now.
const RESERVED_LEN: usize = 16;

/// Where the version before this form kept WAL.
const SPOOL_DIR: &str = "wal";

/// Rewrites the record of a timeline's directory, if it is of this form.
///
/// # Errors
/// A file that is damaged or of another version, and those of the file system.
pub(super) fn rewrite(disk: &dyn Disk, dir: &Path) -> Result<(), RecordError> {
    let path = dir.join(FILE_NAME);
    let error = |e: io::Error| RecordError { path: path.clone(), problem: e.into() };
    if !disk.exists(&path).map_err(error)? {
        return Ok(());
    }
    // After a crash between the new file and the end of the old one the new one counts.
    if !disk.exists(&dir.join(record::FILE_NAME)).map_err(error)? {
        let record = read(disk, &path).map_err(|problem| RecordError { path: path.clone(), problem })?;
        forget_spool(disk, dir, record.ttid());
        record.write(disk, dir)?;
        tracing::info!(timeline = %record.ttid(), "its attach record is {} from now on", record::FILE_NAME);
    }
    disk.remove(&path).and_then(|()| disk.fsync_dir(dir)).map_err(error)
}

/// Removes WAL that the version before this form kept.
fn forget_spool(disk: &dyn Disk, dir: &Path, ttid: TenantTimelineId) {
    let spool = dir.join(SPOOL_DIR);
    if !disk.exists(&spool).unwrap_or(false) {
        return;
    }
    tracing::warn!(
        timeline = %ttid,
        "{} holds WAL that an earlier version received; this one keeps pages instead and receives the WAL again from \
         the safekeepers: the directory is removed. To serve pages, import the cluster (walfabric timeline import)",
        spool.display()
    );
    if let Err(e) = disk.remove_dir_all(&spool) {
        tracing::warn!(timeline = %ttid, "{} cannot be removed: {e}", spool.display());
    }
}

/// What the newer good slot of the file holds.
fn read(disk: &dyn Disk, path: &Path) -> Result<AttachRecord, RecordProblem> {
    let all = read_slots(disk, path)?;
    let slots = [all.slice(..SLOT_LEN.min(all.len())), all.slice(SLOT_LEN.min(all.len())..)];
    let mut best: Option<(u64, AttachRecord)> = None;
    let mut problems = Vec::new();
    for slot in slots {
        match read_slot(slot) {
            Ok((seq, record)) if best.as_ref().is_none_or(|b| b.0 < seq) => best = Some((seq, record)),
            Ok(_) => {}
            Err(SlotProblem::Version(found)) => return Err(RecordProblem::Version { found, known: VERSION }),
            Err(SlotProblem::Bad(problem)) => problems.push(problem),
        }
    }
    best.map(|(_, record)| record).ok_or_else(|| RecordProblem::Damaged(problems.join("; ")))
}

/// Both slots, as far as the file has them.
fn read_slots(disk: &dyn Disk, path: &Path) -> io::Result<Bytes> {
    let mut all = vec![0; 2 * SLOT_LEN];
    let found = disk.open(path, OpenMode::Read)?.read_at(0, &mut all)?;
    all.truncate(found);
    Ok(all.into())
}

/// What the payload of a slot holds.
fn decode(payload: Bytes) -> Result<AttachRecord, DecodeError> {
    let mut r = Reader::new("pageserver control slot", payload);
    let (tenant_id, timeline_id) = (TenantId::new(r.array("tenant")?), TimelineId::new(r.array("timeline")?));
    let pageserver_id = NodeId(r.u64_le("pageserver")?);
    let pg_version_num = r.u32_le("pg_version_num")?;
    let system_id = SystemId(r.u64_le("system_id")?);
    let wal_seg_size = r.u32_le("wal_seg_size")?;
    let wal_seg_size = SegSize::new(wal_seg_size).ok_or_else(|| r.error("wal_seg_size is not possible"))?;
    let start_lsn = Lsn::new(r.u64_le("start_lsn")?);
    r.take(RESERVED_LEN, "reserved bytes")?;
    let choice_seq = r.u64_le("choice_seq")?;
    let count = r.u32_le("history count")?;
    let count = r.bounded_count(count, 12, "history count")?;
    let mut pg_history = Vec::with_capacity(count);
    for _ in 0..count {
        pg_history.push(PgHistoryEntry { tli: Tli(r.u32_le("tli")?), start_lsn: Lsn::new(r.u64_le("tli start")?) });
    }
    r.finish()?;
    let attach = AttachRequest { start_lsn, pg_version_num, system_id, wal_seg_size, pg_history };
    Ok(AttachRecord { schema: SCHEMA, tenant_id, timeline_id, pageserver_id, choice_seq, attach })
}

/// Why a slot does not count.
enum SlotProblem {
    /// Another version of this program wrote it: that version.
    Version(u32),
    /// It is damaged, or was never written.
    Bad(String),
}

/// A slot's sequence number, and what it holds.
fn read_slot(slot: Bytes) -> Result<(u64, AttachRecord), SlotProblem> {
    let bad = |e: DecodeError| SlotProblem::Bad(e.to_string());
    let mut r = Reader::new("pageserver control slot", slot.clone());
    if r.array::<8>("magic").map_err(bad)? != *MAGIC {
        return Err(SlotProblem::Bad("no magic number".into()));
    }
    let version = r.u32_le("version").map_err(bad)?;
    let len = r.u32_le("payload length").map_err(bad)? as usize;
    let seq = r.u64_le("sequence").map_err(bad)?;
    let crc = r.u32_le("checksum").map_err(bad)?;
    let payload = r.take(len, "payload").map_err(bad)?;
    if crc32c::crc32c_append(crc32c::crc32c(&slot[..HEADER_LEN - 4]), &payload) != crc {
        return Err(SlotProblem::Bad("wrong checksum".into()));
    }
    // After the checksum: a flipped bit is damage, not another version.
    if version != VERSION {
        return Err(SlotProblem::Version(version));
    }
    decode(payload).map(|record| (seq, record)).map_err(bad)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use disk::FsDisk;

    use super::super::record::tests::{names, sample};
    use super::*;

    /// A slot that an earlier version wrote: sequence 42, choice 3.
    const GOLDEN: &[u8] = include_bytes!("../../testdata/control-v1.bin");

    /// A file of the old form: the golden slot, and a newer one with this number of the last choice.
    fn file(choice_seq: u64) -> Vec<u8> {
        let mut newer = GOLDEN.to_vec();
        newer[16..24].copy_from_slice(&43_u64.to_le_bytes());
        newer[HEADER_LEN + 80..HEADER_LEN + 88].copy_from_slice(&choice_seq.to_le_bytes());
        seal(&mut newer);
        let mut all = vec![0; 2 * SLOT_LEN];
        all[..GOLDEN.len()].copy_from_slice(GOLDEN);
        all[SLOT_LEN..SLOT_LEN + newer.len()].copy_from_slice(&newer);
        all
    }

    fn seal(slot: &mut [u8]) {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&slot[..HEADER_LEN - 4]), &slot[HEADER_LEN..]);
        slot[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    }

    fn read_bytes(bytes: &[u8]) -> Result<AttachRecord, RecordProblem> {
        let tmp = tempfile::tempdir().expect("temp dir");
        let path = tmp.path().join(FILE_NAME);
        fs::write(&path, bytes).expect("written");
        read(&FsDisk, &path)
    }

    /// Goal: a torn write takes nothing but itself. Method: every byte of the newer slot is flipped in turn.
    #[test]
    fn the_newer_good_slot_counts() {
        let good = file(7);
        assert_eq!(read_bytes(&good).expect("a record").choice_seq, 7);
        for at in (0..GOLDEN.len()).step_by(3) {
            let mut torn = good.clone();
            torn[SLOT_LEN + at] ^= 0x40;
            assert_eq!(read_bytes(&torn).expect("the other slot").choice_seq, 3, "byte {at}");
        }
        assert!(matches!(read_bytes(&vec![0; 2 * SLOT_LEN]), Err(RecordProblem::Damaged(_))));
        assert!(matches!(read_bytes(&good[..100]), Err(RecordProblem::Damaged(_))));
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let mut slot = GOLDEN.to_vec();
        slot[8] = 9;
        seal(&mut slot);
        assert!(matches!(read_bytes(&slot), Err(RecordProblem::Version { found: 9, .. })));
    }

    /// The record after an opening.
    fn rewritten(dir: &Path) -> AttachRecord {
        rewrite(&FsDisk, dir).expect("rewritten");
        AttachRecord::read(&FsDisk, dir).expect("read")
    }

    /// Goal: a directory of an earlier version opens, once from the old form, then from the new one. Method: a file
    /// with two slots, and a spool; after a crash before the old file went, that is still there.
    #[test]
    fn the_old_form_is_read_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let old = dir.path().join(FILE_NAME);
        fs::write(&old, file(5)).expect("written");
        fs::create_dir(dir.path().join(SPOOL_DIR)).expect("made");
        fs::write(dir.path().join(SPOOL_DIR).join("000000010000000000000001"), b"WAL").expect("written");
        assert_eq!(rewritten(dir.path()), sample());
        assert_eq!(names(dir.path()), [record::FILE_NAME]);
        fs::write(&old, file(9)).expect("written");
        assert_eq!(rewritten(dir.path()), sample(), "the new form counts");
        assert_eq!(names(dir.path()), [record::FILE_NAME]);
    }
}
