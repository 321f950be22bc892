//! The control file of a timeline on this machine: that it is attached here, and with what.
//!
//! Two slots of fixed size are written in turn, each with a sequence number and a checksum, in a file whose blocks were
//! reserved at attach: a full disk or a torn write never takes the last good slot. Layout: `docs/formats.md`.
//!
//! It is written at the attach only. Positions and the number of the last choice are in storage, with the pages; an
//! earlier version kept them here.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use pgformat::{Lsn, SegSize, Tli};
use proto::api::{AttachRequest, PgHistoryEntry};
use proto::codec::{DecodeError, Reader};
use proto::id::{NodeId, SystemId, TenantId, TenantTimelineId, TimelineId};

use super::disk::{Disk, read_up_to};

/// Name in the timeline's directory.
pub(crate) const FILE_NAME: &str = "control";
const MAGIC: &[u8; 8] = b"WFPSCTL\0";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 28;
const SLOT_LEN: usize = 32 << 10;
/// Positions of an earlier version: zeros, and not read.
const RESERVED_LEN: usize = 16;
/// What fits into a slot beside the rest.
pub(crate) const HISTORY_MAX: usize = 2048;

/// What the control file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Control {
    /// The timeline.
    pub(crate) ttid: TenantTimelineId,
    /// The pageserver that attached it.
    pub(crate) pageserver: NodeId,
    /// What it was attached with.
    pub(crate) attach: AttachRequest,
    /// Number of the last choice made, as far as it was saved.
    pub(crate) choice_seq: u64,
}

/// A control file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The operating system refused.
    #[error("control file {path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// No slot is good.
    #[error("control file {path} is damaged: {problem}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Of the better slot.
        problem: String,
    },
    /// Written by another version.
    #[error("control file {path} has version {found}, this program knows {VERSION}", path = .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl Control {
    /// One slot's bytes.
    fn encode(&self, seq: u64) -> Vec<u8> {
        let mut p = Vec::with_capacity(256);
        p.put_slice(self.ttid.tenant_id.bytes());
        p.put_slice(self.ttid.timeline_id.bytes());
        p.put_u64_le(self.pageserver.0);
        p.put_u32_le(self.attach.pg_version_num);
        p.put_u64_le(self.attach.system_id.0);
        p.put_u32_le(self.attach.wal_seg_size.to_u32());
        p.put_u64_le(self.attach.start_lsn.get());
        p.put_bytes(0, RESERVED_LEN);
        p.put_u64_le(self.choice_seq);
        p.put_u32_le(u32::try_from(self.attach.pg_history.len()).expect("at most HISTORY_MAX entries"));
        for e in &self.attach.pg_history {
            p.put_u32_le(e.tli.0);
            p.put_u64_le(e.start_lsn.get());
        }
        assert!(HEADER_LEN + p.len() <= SLOT_LEN, "attach bounds the history by HISTORY_MAX");
        let mut out = Vec::with_capacity(HEADER_LEN + p.len());
        out.put_slice(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(u32::try_from(p.len()).expect("below SLOT_LEN"));
        out.put_u64_le(seq);
        out.put_u32_le(crc32c::crc32c_append(crc32c::crc32c(&out), &p));
        out.put_slice(&p);
        out
    }

    fn decode(payload: Bytes) -> Result<Control, DecodeError> {
        let mut r = Reader::new("pageserver control slot", payload);
        let ttid = TenantTimelineId::new(TenantId::new(r.array("tenant")?), TimelineId::new(r.array("timeline")?));
        let pageserver = NodeId(r.u64_le("pageserver")?);
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
        Ok(Control { ttid, pageserver, attach, choice_seq })
    }
}

/// The open file.
pub(crate) struct ControlFile {
    path: PathBuf,
    file: File,
    disk: Arc<dyn Disk>,
    seq: u64,
}

impl ControlFile {
    /// Creates `dir/control` with both slots' blocks and a first slot. Names are made durable by the caller's rename.
    pub(crate) fn create(dir: &Path, disk: Arc<dyn Disk>, first: &Control) -> Result<ControlFile, ControlError> {
        let path = dir.join(FILE_NAME);
        let file = disk.open_allocated(&path, 2 * SLOT_LEN as u64);
        let file = file.map_err(|source| ControlError::Io { path: path.clone(), source })?;
        let mut control = ControlFile { path, file, disk, seq: 0 };
        control.save(first)?;
        Ok(control)
    }

    /// Opens `dir/control` and reads the newer good slot.
    pub(crate) fn open(dir: &Path, disk: Arc<dyn Disk>) -> Result<(ControlFile, Control), ControlError> {
        let path = dir.join(FILE_NAME);
        let io_error = |source| ControlError::Io { path: path.clone(), source };
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).map_err(io_error)?;
        let all = Bytes::from(read_up_to(&file, 0, 2 * SLOT_LEN).map_err(io_error)?);
        let slots = [all.slice(..SLOT_LEN.min(all.len())), all.slice(SLOT_LEN.min(all.len())..)];
        let mut best: Option<(u64, Control)> = None;
        let mut problems = Vec::new();
        for slot in slots {
            match read_slot(slot) {
                Ok((seq, control)) if best.as_ref().is_none_or(|b| b.0 < seq) => best = Some((seq, control)),
                Ok(_) => {}
                Err(SlotProblem::Version(found)) => return Err(ControlError::Version { path, found }),
                Err(SlotProblem::Bad(problem)) => problems.push(problem),
            }
        }
        match best {
            Some((seq, control)) => Ok((ControlFile { path, file, disk, seq }, control)),
            None => Err(ControlError::Damaged { path, problem: problems.join("; ") }),
        }
    }

    /// Writes the older slot and syncs it.
    pub(crate) fn save(&mut self, control: &Control) -> Result<(), ControlError> {
        let seq = self.seq + 1;
        let bytes = control.encode(seq);
        let at = (seq % 2) * SLOT_LEN as u64;
        let done = self.disk.write_at(&self.file, at, &[&bytes]).and_then(|()| self.disk.sync_data(&self.file));
        done.map_err(|source| ControlError::Io { path: self.path.clone(), source })?;
        self.seq = seq;
        Ok(())
    }
}

enum SlotProblem {
    Version(u32),
    Bad(String),
}

fn read_slot(slot: Bytes) -> Result<(u64, Control), SlotProblem> {
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
    Control::decode(payload).map(|c| (seq, c)).map_err(bad)
}

#[cfg(test)]
mod tests;
