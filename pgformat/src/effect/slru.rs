//! Effects of records of the commit log, commit timestamps and multixacts.
//!
//! Source: PostgreSQL 14-18, `clog_redo` in `clog.c`, `commit_ts_redo` in `commit_ts.c`, `multixact_redo` in
//! `multixact.c`.

use super::array::Members;
use super::kind::{Effect, EffectError, unknown};
use crate::PgMajor;
use crate::read::Take;
use crate::redo::rmid;
use crate::slru::Slru;

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
            let members = Members::take(&mut take, n)?;
            if !members.have_short_statuses() {
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
