//! Records of the commit log, of commit timestamps and of multixacts.
//!
//! Source: PostgreSQL 14-18, `clog_redo` in `clog.c`, `commit_ts_redo` in `commit_ts.c`, `multixact_redo` in
//! `multixact.c`.

use super::{Effect, EffectError, counted, unknown};
use crate::PgMajor;
use crate::read::Take;
use crate::redo::rmid;
use crate::slru::Slru;

const MEMBER_LEN: usize = 8;

/// A member of a multixact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The transaction.
    pub xid: u32,
    /// What it does to the row (`MultiXactStatus`); stored in one byte.
    pub status: u8,
}

/// Members of a multixact, as a record has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Members<'a>(&'a [u8]);

impl<'a> Members<'a> {
    /// How many.
    pub const fn len(&self) -> usize {
        self.0.len() / MEMBER_LEN
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Member> + Clone + 'a {
        let members = self.0.chunks_exact(MEMBER_LEN);
        members.map(|b| Member { xid: u32::from_le_bytes([b[0], b[1], b[2], b[3]]), status: b[4] })
    }
}

/// A page number: signed, of a width that depends on the major, and far below 2^32 in every SLRU.
fn page(take: &mut Take<'_>, version: PgMajor) -> Result<u32, EffectError> {
    let page = if version.wide_slru_pages() { take.i64()? } else { i64::from(take.i32()?) };
    u32::try_from(page).map_err(|_| EffectError::Value { what: "page number", value: page })
}

pub(super) fn clog<'a>(info: u8, mut take: Take<'a>, version: PgMajor) -> Result<Effect<'a>, EffectError> {
    match info {
        0x00 => Ok(Effect::SlruZero { slru: Slru::Xact, page: page(&mut take, version)? }),
        0x10 => Ok(Effect::ClogTruncate {
            page: page(&mut take, version)?,
            oldest_xid: take.u32()?,
            oldest_xid_db: take.u32()?,
        }),
        info => Err(unknown(rmid::CLOG, info)),
    }
}

pub(super) fn commit_ts<'a>(info: u8, mut take: Take<'a>, version: PgMajor) -> Result<Effect<'a>, EffectError> {
    match info {
        0x00 => Ok(Effect::SlruZero { slru: Slru::CommitTs, page: page(&mut take, version)? }),
        0x10 => Ok(Effect::CommitTsTruncate { page: page(&mut take, version)?, oldest_xid: take.u32()? }),
        info => Err(unknown(rmid::COMMIT_TS, info)),
    }
}

pub(super) fn multixact<'a>(info: u8, mut take: Take<'a>, version: PgMajor) -> Result<Effect<'a>, EffectError> {
    match info {
        0x00 => Ok(Effect::SlruZero { slru: Slru::MultixactOffsets, page: page(&mut take, version)? }),
        0x10 => Ok(Effect::SlruZero { slru: Slru::MultixactMembers, page: page(&mut take, version)? }),
        0x20 => {
            let (multi, offset, n) = (take.u32()?, take.u32()?, take.i32()?);
            let members = Members(counted(&mut take, n, MEMBER_LEN, "number of members")?);
            let fits = members.0.chunks_exact(MEMBER_LEN).all(|b| b[5..8] == [0; 3]);
            if !fits {
                return Err(EffectError::Value { what: "member's status beyond", value: 255 });
            }
            Ok(Effect::MultixactCreate { multi, offset, members })
        }
        0x30 => Ok(Effect::MultixactTruncate {
            oldest_db: take.u32()?,
            start: take.u32()?,
            end: take.u32()?,
            members_start: take.u32()?,
            members_end: take.u32()?,
        }),
        info => Err(unknown(rmid::MULTIXACT, info)),
    }
}
