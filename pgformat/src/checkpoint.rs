//! A checkpoint's counters, as its record and the control file store them.
//!
//! Source: PostgreSQL 14-18, `CheckPoint` in `src/include/catalog/pg_control.h`.

use crate::read::{Short, Take};
use crate::{Lsn, PgMajor, Tli};

/// Length of a checkpoint's body.
pub const CHECKPOINT_LEN: usize = 88;

/// A checkpoint (`CheckPoint`). Numbers of transactions and multixacts wrap, but for `next_xid`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckPoint {
    /// Where recovery from it begins.
    pub redo: Lsn,
    /// PostgreSQL's timeline on which the checkpoint was made (`ThisTimeLineID`).
    pub tli: Tli,
    /// The timeline before, if this one begins here; else the same.
    pub prev_tli: Tli,
    /// Whether pages are logged whole.
    pub full_page_writes: bool,
    /// `wal_level`; 0 before 17, which did not have it here.
    pub wal_level: i32,
    /// The next transaction, its epoch in the high half.
    pub next_xid: u64,
    /// The next oid.
    pub next_oid: u32,
    /// The next multixact.
    pub next_multi: u32,
    /// Where its members go.
    pub next_multi_offset: u32,
    /// The oldest transaction that any table may name.
    pub oldest_xid: u32,
    /// The database that holds it back.
    pub oldest_xid_db: u32,
    /// The oldest multixact that any table may name.
    pub oldest_multi: u32,
    /// The database that holds it back.
    pub oldest_multi_db: u32,
    /// When, in seconds since 1970.
    pub time: i64,
    /// The oldest transaction with a commit timestamp, 0 for none.
    pub oldest_commit_ts_xid: u32,
    /// The newest one, 0 for none.
    pub newest_commit_ts_xid: u32,
    /// The oldest transaction that ran; 0 at shutdown, when none did.
    pub oldest_active_xid: u32,
}

impl CheckPoint {
    /// Reads a body.
    pub fn parse(bytes: &[u8; CHECKPOINT_LEN], version: PgMajor) -> CheckPoint {
        CheckPoint::take(Take::new(bytes), version).expect("the array has every field")
    }

    fn take(mut take: Take<'_>, version: PgMajor) -> Result<CheckPoint, Short> {
        let (redo, tli, prev_tli) = (Lsn::new(take.u64()?), Tli(take.u32()?), Tli(take.u32()?));
        let full_page_writes = take.bool()?;
        take.skip(3)?;
        // Padding before 17.
        let wal_level = take.i32()?;
        let wal_level = if version.has_checkpoint_redo() { wal_level } else { 0 };
        let next_xid = take.u64()?;
        let (next_oid, next_multi, next_multi_offset) = (take.u32()?, take.u32()?, take.u32()?);
        let (oldest_xid, oldest_xid_db) = (take.u32()?, take.u32()?);
        let (oldest_multi, oldest_multi_db) = (take.u32()?, take.u32()?);
        take.skip(4)?;
        Ok(CheckPoint {
            redo,
            tli,
            prev_tli,
            full_page_writes,
            wal_level,
            next_xid,
            next_oid,
            next_multi,
            next_multi_offset,
            oldest_xid,
            oldest_xid_db,
            oldest_multi,
            oldest_multi_db,
            time: take.i64()?,
            oldest_commit_ts_xid: take.u32()?,
            newest_commit_ts_xid: take.u32()?,
            oldest_active_xid: take.u32()?,
        })
    }

    /// The body's bytes, padding zero.
    pub fn to_bytes(&self, version: PgMajor) -> [u8; CHECKPOINT_LEN] {
        let mut b = [0; CHECKPOINT_LEN];
        let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.redo.get().to_le_bytes());
        put(8, &self.tli.0.to_le_bytes());
        put(12, &self.prev_tli.0.to_le_bytes());
        put(16, &[u8::from(self.full_page_writes)]);
        if version.has_checkpoint_redo() {
            put(20, &self.wal_level.to_le_bytes());
        }
        put(24, &self.next_xid.to_le_bytes());
        put(32, &self.next_oid.to_le_bytes());
        put(36, &self.next_multi.to_le_bytes());
        put(40, &self.next_multi_offset.to_le_bytes());
        put(44, &self.oldest_xid.to_le_bytes());
        put(48, &self.oldest_xid_db.to_le_bytes());
        put(52, &self.oldest_multi.to_le_bytes());
        put(56, &self.oldest_multi_db.to_le_bytes());
        put(64, &self.time.to_le_bytes());
        put(72, &self.oldest_commit_ts_xid.to_le_bytes());
        put(76, &self.newest_commit_ts_xid.to_le_bytes());
        put(80, &self.oldest_active_xid.to_le_bytes());
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_as_it_was_written() {
        let body: [u8; CHECKPOINT_LEN] = std::array::from_fn(|i| i as u8 + 1);
        for version in PgMajor::ALL {
            let read = CheckPoint::parse(&body, version);
            assert_eq!(read.redo, Lsn::new(0x0807_0605_0403_0201));
            assert_eq!(read.oldest_active_xid, 0x5453_5251);
            let written = read.to_bytes(version);
            assert_eq!(CheckPoint::parse(&written, version), read);
            // Everything but padding and the rest of a bool survives the round trip.
            let differ: Vec<usize> = (0..CHECKPOINT_LEN).filter(|i| written[*i] != body[*i]).collect();
            let padding = [16, 17, 18, 19, 20, 21, 22, 23, 60, 61, 62, 63, 84, 85, 86, 87];
            assert!(differ.iter().all(|i| padding.contains(i)), "{differ:?}");
            assert_eq!(differ.contains(&20), !version.has_checkpoint_redo());
        }
    }
}
