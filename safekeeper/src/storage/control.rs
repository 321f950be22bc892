//! The control file: [`ControlState`] in two alternating, checksummed slots of one preallocated file
//! (`docs/formats.md`).
//!
//! Owner of the file; the state's owner is the acceptor. A write goes to the slot that does not hold the last durable
//! state and ends with one fdatasync: no rename, no allocation, so that it works on a full disk. Invariants: the slot
//! of the last successful write is never touched before the next one succeeded; after opening, the state given out is
//! durable, because its slot was written and synced anew (a killed process may have left bytes in the page cache whose
//! sync had failed). [`TimelineStorage`](super::TimelineStorage) may leave that sync to one for many files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use disk::{Disk, DiskFile, OpenMode};
use pgformat::Lsn;
use proto::id::Incarnation;

use super::error::StorageError;
use crate::core::{BAR_REASON_MAX, Bar, ControlState, HISTORY_ENTRIES_MAX, PG_HISTORY_ENTRIES_MAX};

mod body;

pub use body::{HOST_LEN_MAX, MEMBERS_MAX};

/// Name of the file in a timeline's directory.
pub const CONTROL_FILE: &str = "control";
/// Size of a slot in bytes.
pub const SLOT_SIZE: usize = 256 << 10;
/// The format version that is written; older ones, from 1 on, are read.
pub const CONTROL_VERSION: u32 = 2;

const MAGIC: [u8; 8] = *b"WFSKCTL\0";
const HEADER_LEN: usize = 32;
/// The last bytes of a slot: the mark that its write was completed.
const MARK_LEN: usize = 512;
const MARK_AT: u64 = (SLOT_SIZE - MARK_LEN) as u64;
const MARK_MAGIC: [u8; 8] = *b"WFSKMRK\0";
/// Bytes of a slot that are read first: a state with short histories fits.
const FIRST_READ: usize = 4096;

// The largest body fits: fixed part, two member sets, both histories.
const _: () = assert!(
    HEADER_LEN
        + body::FIXED_LEN
        + 2 * MEMBERS_MAX * (body::MEMBER_FIXED_LEN + HOST_LEN_MAX)
        + HISTORY_ENTRIES_MAX * body::HISTORY_ENTRY_LEN
        + PG_HISTORY_ENTRIES_MAX * body::PG_HISTORY_ENTRY_LEN
        + body::STANDING_FIXED_LEN
        + BAR_REASON_MAX
        + body::MEMORIES_MAX * body::MEMORY_LEN
        + MARK_LEN
        <= SLOT_SIZE
);

/// An open control file.
#[derive(Debug)]
pub struct TimelineControlFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Slot of the last durable state.
    slot: u8,
    sequence: u64,
    durable_lsn: Option<Lsn>,
}

/// What a slot holds.
enum ControlSlot {
    Valid { sequence: u64, version: u32, raw: Bytes },
    Damaged(&'static str),
}

impl TimelineControlFile {
    /// Creates the file in `dir` and makes its content durable; its name is the caller's to sync.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`] when there is no room, and whatever the disk says.
    pub fn create(disk: &dyn Disk, dir: &Path, state: &ControlState) -> Result<TimelineControlFile, StorageError> {
        let path = dir.join(CONTROL_FILE);
        let file = disk.open(&path, OpenMode::CreateNew).map_err(|e| no_space_or(e, "creating", &path))?;
        let size = 2 * SLOT_SIZE as u64;
        file.allocate(size).map_err(|e| no_space_or(e, "allocating", &path))?;
        // Written blocks, not merely reserved ones: overwriting them later needs no room at all, not even for
        // metadata.
        let zeros = Bytes::from(vec![0; SLOT_SIZE]);
        file.write_at(0, &[zeros.clone(), zeros]).map_err(|e| no_space_or(e, "writing", &path))?;
        let slot = encode_slot(1, &body::encode(state, None).map_err(|p| misuse(&path, p))?);
        file.write_at(0, &[slot]).map_err(StorageError::io("writing", &path))?;
        file.fsync().map_err(StorageError::io("fsync of", &path))?;
        Ok(TimelineControlFile { path, file, slot: 0, sequence: 1, durable_lsn: None })
    }

    /// Opens the file in `dir`, picks the newest valid slot and makes it durable anew.
    ///
    /// # Errors
    /// As for [`TimelineControlFile::read`].
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<(TimelineControlFile, ControlState), StorageError> {
        let (control, state) = TimelineControlFile::read(disk, dir)?;
        control.write_anew()?;
        control.sync()?;
        Ok((control, state))
    }

    /// Opens the file in `dir` and picks the newest valid slot, which may not be durable: see
    /// [`TimelineControlFile::write_anew`].
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when neither slot is valid, [`StorageError::UnknownVersion`], and whatever the disk
    /// says.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<(TimelineControlFile, ControlState), StorageError> {
        let path = dir.join(CONTROL_FILE);
        let file = disk.open(&path, OpenMode::Write).map_err(StorageError::io("opening", &path))?;
        let slots = [read_slot(&*file, &path, 0)?, read_slot(&*file, &path, 1)?];
        let damaged = [0, 1]
            .map(|i| matches!(slots[usize::from(i)], ControlSlot::Damaged(_)).then_some(i))
            .into_iter()
            .flatten()
            .next();
        let (slot, sequence, raw) = newest(&path, slots)?;
        let lost = damaged.map(|other| completed(&*file, other)).filter(|written| *written > Some(sequence)).flatten();
        let body = raw.slice(HEADER_LEN..);
        let (mut state, durable_lsn) = body::decode(u32_in(&raw, 8), body)
            .map_err(|problem| StorageError::Corrupt { path: path.clone(), problem: problem.to_string() })?;
        if u32_in(&raw, 8) == 1 {
            // Written by a version that drew none.
            state.standing.incarnation = Incarnation::new(fastrand::u128(1..).to_le_bytes());
        }
        if let Some(written) = lost {
            let why = format!(
                "control file write {written} was completed and is damaged; write {sequence} may forget a vote"
            );
            tracing::error!(path = %path.display(), why, "the newer slot of a control file is damaged");
            state.standing.barred.get_or_insert(Bar { why, fence: None });
        }
        Ok((TimelineControlFile { path, file, slot, sequence, durable_lsn }, state))
    }

    /// Writes the newest valid slot once more, without a sync: what a killed process left may look clean and not be on
    /// disk.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(super) fn write_anew(&self) -> Result<(), StorageError> {
        let ControlSlot::Valid { raw, .. } = read_slot(&*self.file, &self.path, self.slot)? else {
            return Err(StorageError::Corrupt {
                path: self.path.clone(),
                problem: "a slot changed its content".into(),
            });
        };
        self.file.write_at(offset(self.slot), &[raw]).map_err(StorageError::io("writing", &self.path))
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.file.fdatasync().map_err(StorageError::io("fdatasync of", &self.path))
    }

    /// Writes `state` durably.
    ///
    /// # Errors
    /// Whatever the disk says; the state written last still stands then, and this call may be repeated: it writes
    /// anew.
    pub fn persist(&mut self, state: &ControlState) -> Result<(), StorageError> {
        self.write(state, self.durable_lsn)
    }

    /// Below this every byte of the log was once synced; `None`: not noted. See [`TimelineControlFile::note_durable`].
    pub fn durable_lsn(&self) -> Option<Lsn> {
        self.durable_lsn
    }

    /// Notes durably that every byte of the log below `to` is durable. Needed where records do not vouch for the
    /// bytes.
    ///
    /// # Errors
    /// As for [`TimelineControlFile::persist`].
    pub fn note_durable(&mut self, state: &ControlState, to: Lsn) -> Result<(), StorageError> {
        self.write(state, Some(to))?;
        self.durable_lsn = Some(to);
        Ok(())
    }

    fn write(&mut self, state: &ControlState, durable_lsn: Option<Lsn>) -> Result<(), StorageError> {
        let body = body::encode(state, durable_lsn).map_err(|p| misuse(&self.path, p))?;
        let (slot, sequence) = (1 - self.slot, self.sequence + 1);
        self.file
            .write_at(offset(slot), &[encode_slot(sequence, &body)])
            .map_err(StorageError::io("writing", &self.path))?;
        self.file.fdatasync().map_err(StorageError::io("fdatasync of", &self.path))?;
        (self.slot, self.sequence) = (slot, sequence);
        // Not synced, and no harm when it is lost: it only tells a damaged slot from one whose write never ended.
        if let Err(e) = self.file.write_at(offset(slot) + MARK_AT, &[mark(sequence)]) {
            tracing::debug!(error = %e, path = %self.path.display(), "the mark of a control file's write is missing");
        }
        Ok(())
    }
}

fn offset(slot: u8) -> u64 {
    u64::from(slot) * SLOT_SIZE as u64
}

fn misuse(path: &Path, problem: String) -> StorageError {
    StorageError::Misuse(format!("{}: {problem}", path.display()))
}

pub(super) fn no_space_or(e: std::io::Error, what: &'static str, path: &Path) -> StorageError {
    if super::error::is_full(&e) {
        StorageError::NoSpace { path: path.to_owned(), source: e }
    } else {
        StorageError::Io { what, path: path.to_owned(), source: e }
    }
}

/// Layout: magic 8, version 4, body length 4, sequence 8, CRC32C 4, zero 4, body. The CRC covers all of it with its
/// own four bytes taken as zeros. Header and CRC stay as they are in every later version.
fn encode_slot(sequence: u64, body: &[u8]) -> Bytes {
    let len = u32::try_from(body.len()).expect("a body is smaller than a slot");
    let mut out = Vec::with_capacity(HEADER_LEN + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&CONTROL_VERSION.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(body);
    let crc = crc32c::crc32c(&out);
    out[24..28].copy_from_slice(&crc.to_le_bytes());
    Bytes::from(out)
}

/// Layout: magic 8, sequence 8, CRC32C of them 4. In a sector of its own, which no write of a slot touches.
fn mark(sequence: u64) -> Bytes {
    let mut out = MARK_MAGIC.to_vec();
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    Bytes::from(out)
}

/// The last write of a slot that is known to have been completed.
fn completed(file: &dyn DiskFile, slot: u8) -> Option<u64> {
    let mut raw = [0; 20];
    file.read_at(offset(slot) + MARK_AT, &mut raw).ok()?;
    let sequence = u64::from(u32_in(&raw, 8)) | u64::from(u32_in(&raw, 12)) << 32;
    (raw[..] == *mark(sequence)).then_some(sequence)
}

fn read_slot(file: &dyn DiskFile, path: &Path, slot: u8) -> Result<ControlSlot, StorageError> {
    if file.len().map_err(StorageError::io("measuring", path))? < offset(slot) + SLOT_SIZE as u64 {
        return Ok(ControlSlot::Damaged("shorter than a slot"));
    }
    // Most of a slot is zeros: a start with thousands of timelines reads only what is used.
    let mut raw = vec![0; FIRST_READ];
    file.read_at(offset(slot), &mut raw).map_err(StorageError::io("reading", path))?;
    if raw.iter().all(|b| *b == 0) {
        return Ok(ControlSlot::Damaged("never written"));
    }
    let used = HEADER_LEN + body_len(&raw);
    if (FIRST_READ..=SLOT_SIZE).contains(&used) {
        raw.resize(used, 0);
        file.read_at(offset(slot), &mut raw).map_err(StorageError::io("reading", path))?;
    }
    Ok(check_slot(raw))
}

fn u32_in(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

/// As the header says, right or wrong.
fn body_len(raw: &[u8]) -> usize {
    u32_in(raw, 12) as usize
}

fn check_slot(mut raw: Vec<u8>) -> ControlSlot {
    let u32_at = |at: usize| u32_in(&raw, at);
    if raw[..8] != MAGIC {
        return ControlSlot::Damaged("wrong magic");
    }
    let (version, len, crc) = (u32_at(8), body_len(&raw), u32_at(24));
    let sequence = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
    if len > SLOT_SIZE - HEADER_LEN - MARK_LEN {
        return ControlSlot::Damaged("length beyond the slot");
    }
    raw.truncate(HEADER_LEN + len);
    raw[24..28].fill(0);
    if crc32c::crc32c(&raw) != crc {
        return ControlSlot::Damaged("wrong checksum");
    }
    raw[24..28].copy_from_slice(&crc.to_le_bytes());
    ControlSlot::Valid { sequence, version, raw: Bytes::from(raw) }
}

fn newest(path: &Path, slots: [ControlSlot; 2]) -> Result<(u8, u64, Bytes), StorageError> {
    let mut best: Option<(u8, u64, Bytes)> = None;
    let mut problems = Vec::new();
    for (index, slot) in (0u8..).zip(slots) {
        match slot {
            ControlSlot::Valid { version, .. } if !(1..=CONTROL_VERSION).contains(&version) => {
                return Err(StorageError::UnknownVersion {
                    path: path.to_owned(),
                    found: version,
                    known: CONTROL_VERSION,
                });
            }
            ControlSlot::Valid { sequence, raw, .. } => {
                if best.as_ref().is_none_or(|(_, s, _)| sequence > *s) {
                    best = Some((index, sequence, raw));
                }
            }
            ControlSlot::Damaged(problem) => problems.push(format!("slot {index}: {problem}")),
        }
    }
    best.ok_or_else(|| StorageError::Corrupt {
        path: path.to_owned(),
        problem: format!(
            "no valid slot ({}); restore this safekeeper's data, or remove it from the member set",
            problems.join(", ")
        ),
    })
}

#[cfg(test)]
mod tests;
