//! State of prepared transactions: the body of a PREPARE record, and the file made from it.
//!
//! Source: PostgreSQL 14-18, `TwoPhaseFileHeader` (`xl_xact_prepare`), `EndPrepare`, `ReadTwoPhaseFile` and
//! `TwoPhaseFilePath` in `src/backend/access/transam/twophase.c`.

use crate::effect::{CountError, Rels, Words};
use crate::page::maxalign;
use crate::read::{Short, Take};
use crate::{Lsn, PgMajor};

/// Folder of the files in a data directory.
pub const TWO_PHASE_DIR: &str = "pg_twophase";
const MAGIC: u32 = 0x57F9_4534;

/// The part of a state that tells who prepared what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TwoPhase<'a> {
    /// The transaction that was prepared.
    pub xid: u32,
    /// Oid of the database that it was prepared in.
    pub db: u32,
    /// When, in microseconds since 2000.
    pub prepared_at: i64,
    /// Who prepared it.
    pub owner: u32,
    /// The name that `PREPARE TRANSACTION` gave it, without the zero behind it.
    pub gid: &'a [u8],
    /// Its subtransactions, which share its fate.
    pub subxids: Words<'a>,
    /// Relations to remove if it commits.
    pub commit_dropped: Rels<'a>,
    /// Relations to remove if it aborts.
    pub abort_dropped: Rels<'a>,
    /// Progress of the replication origin that it came from, 0 for none.
    pub origin_lsn: Lsn,
    /// When it was prepared there, in microseconds since 2000.
    pub origin_time: i64,
}

/// A state that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TwoPhaseError {
    /// It ends too early, or a count is impossible.
    #[error("a prepared transaction's state is cut off")]
    Short,
    /// Not a state.
    #[error("a prepared transaction's state begins with {0:#x}")]
    Magic(u32),
    /// Another length than its header says. The file has a checksum behind it.
    #[error("a prepared transaction's state of {found} bytes says that its file has {expected}")]
    Length {
        /// Length of the state in bytes.
        found: usize,
        /// As the header has it.
        expected: u32,
    },
    /// The bytes do not fit their CRC-32C: the file is damaged.
    #[error("the checksum of a prepared transaction's file is {found:08X}, expected {expected:08X}")]
    Crc {
        /// In the file.
        found: u32,
        /// Of its content.
        expected: u32,
    },
}

impl From<Short> for TwoPhaseError {
    fn from(_: Short) -> TwoPhaseError {
        TwoPhaseError::Short
    }
}

impl From<CountError> for TwoPhaseError {
    fn from(_: CountError) -> TwoPhaseError {
        TwoPhaseError::Short
    }
}

/// Takes `len` bytes and the padding behind them.
fn aligned<'a>(take: &mut Take<'a>, len: usize) -> Result<&'a [u8], Short> {
    let bytes = take.bytes(len)?;
    take.skip(maxalign(len) - len)?;
    Ok(bytes)
}

impl<'a> TwoPhase<'a> {
    /// Reads the head of a state, which has no checksum behind it (see [`check_file`]).
    ///
    /// # Errors
    /// When it is not one, or contradicts itself.
    pub fn parse(state: &'a [u8], version: PgMajor) -> Result<TwoPhase<'a>, TwoPhaseError> {
        let mut take = Take::new(state);
        let magic = take.u32()?;
        if magic != MAGIC {
            return Err(TwoPhaseError::Magic(magic));
        }
        let total_len = take.u32()?;
        if total_len as usize != state.len() + 4 {
            return Err(TwoPhaseError::Length { found: state.len(), expected: total_len });
        }
        let (xid, db, prepared_at, owner) = (take.u32()?, take.u32()?, take.i64()?, take.u32()?);
        let (subxids, commit_rels, abort_rels) = (take.i32()?, take.i32()?, take.i32()?);
        if version.dropped_stat_len().is_some() {
            // Statistics to drop, at commit and at abort.
            take.skip(8)?;
        }
        // Invalidations, and whether the relation cache's file is removed: these concern only running servers.
        take.skip(4 + 1 + 1)?;
        let gid_len = usize::from(take.u16()?);
        let (origin_lsn, origin_time) = (Lsn::new(take.u64()?), take.i64()?);
        let gid = aligned(&mut take, gid_len)?;
        let gid = gid.strip_suffix(&[0]).unwrap_or(gid);
        let subxids = Words::take(&mut padded(&mut take, subxids, 4)?, subxids, "subtransactions")?;
        let commit_dropped = Rels::take(&mut padded(&mut take, commit_rels, 12)?, commit_rels)?;
        let abort_dropped = Rels::take(&mut padded(&mut take, abort_rels, 12)?, abort_rels)?;
        Ok(TwoPhase {
            xid,
            db,
            prepared_at,
            owner,
            gid,
            subxids,
            commit_dropped,
            abort_dropped,
            origin_lsn,
            origin_time,
        })
    }
}

/// The next `n` items of `len` bytes, the padding behind them left out.
fn padded<'a>(take: &mut Take<'a>, n: i32, len: usize) -> Result<Take<'a>, TwoPhaseError> {
    let n = usize::try_from(n).map_err(|_| TwoPhaseError::Short)?;
    let bytes = n.checked_mul(len).filter(|bytes| *bytes <= take.left()).ok_or(TwoPhaseError::Short)?;
    Ok(Take::new(aligned(take, bytes)?))
}

/// The file of a state: the state and its checksum.
pub fn file_of_state(state: &[u8]) -> Vec<u8> {
    [state, &crc32c::crc32c(state).to_le_bytes()].concat()
}

/// The state in a file.
///
/// # Errors
/// When its checksum does not fit.
pub fn check_file(file: &[u8]) -> Result<&[u8], TwoPhaseError> {
    let (state, crc) = file.split_last_chunk::<4>().ok_or(TwoPhaseError::Short)?;
    let (found, expected) = (u32::from_le_bytes(*crc), crc32c::crc32c(state));
    if found == expected { Ok(state) } else { Err(TwoPhaseError::Crc { found, expected }) }
}

/// Name of the file of a transaction, which carries the epoch since 17.
pub fn file_name(full_xid: u64, version: PgMajor) -> String {
    if version.wide_two_phase_names() { format!("{full_xid:016X}") } else { format!("{:08X}", full_xid & 0xFFFF_FFFF) }
}

#[cfg(test)]
pub(crate) fn sample(version: PgMajor, xid: u32, subxids: &[u32]) -> Vec<u8> {
    let counts: &[i32] = if version.get() == 14 { &[0] } else { &[0, 0, 0] };
    let mut state = MAGIC.to_le_bytes().to_vec();
    state.extend([0; 4]);
    state.extend(xid.to_le_bytes());
    state.extend(5_u32.to_le_bytes());
    state.extend(99_i64.to_le_bytes());
    state.extend(10_u32.to_le_bytes());
    state.extend((subxids.len() as i32).to_le_bytes());
    state.extend(1_i32.to_le_bytes());
    state.extend(0_i32.to_le_bytes());
    counts.iter().for_each(|n| state.extend(n.to_le_bytes()));
    state.extend([0, 0]);
    state.extend(4_u16.to_le_bytes());
    state.extend(0x77_u64.to_le_bytes());
    state.extend(88_i64.to_le_bytes());
    let mut part = |bytes: &[u8]| {
        state.extend_from_slice(bytes);
        state.resize(maxalign(state.len()), 0);
    };
    part(b"gid\0");
    part(&subxids.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    part(&[1663_u32, 5, 16384].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    // The sentinel of the locks and alike.
    part(&[0; 8]);
    let total = state.len() as u32 + 4;
    state[4..8].copy_from_slice(&total.to_le_bytes());
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_each_major_is_read() {
        for version in PgMajor::ALL {
            let state = sample(version, 700, &[701, 702, 703]);
            let head = TwoPhase::parse(&state, version).expect("a state");
            assert_eq!((head.xid, head.db, head.prepared_at, head.owner), (700, 5, 99, 10));
            assert_eq!((head.gid, head.origin_lsn, head.origin_time), (&b"gid"[..], Lsn::new(0x77), 88));
            assert_eq!(head.subxids.iter().collect::<Vec<_>>(), [701, 702, 703]);
            assert_eq!(head.commit_dropped.iter().map(|r| r.rel).collect::<Vec<_>>(), [16384]);
            assert!(head.abort_dropped.is_empty());
            for cut in 0..state.len() {
                assert!(TwoPhase::parse(&state[..cut], version).is_err());
            }
        }
    }

    #[test]
    fn a_file_has_a_checksum_and_a_name() {
        let state = sample(PgMajor::ALL[0], 700, &[]);
        let mut file = file_of_state(&state);
        assert_eq!(check_file(&file), Ok(&state[..]));
        file[9] ^= 1;
        assert!(matches!(check_file(&file), Err(TwoPhaseError::Crc { .. })));
        let names: Vec<String> = PgMajor::ALL.into_iter().map(|v| file_name(0x1_0000_02BC, v)).collect();
        assert_eq!(names[0], "000002BC");
        assert_eq!(names[4], "00000001000002BC");
    }
}
