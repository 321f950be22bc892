//! Effects of transaction records.
//!
//! Source: PostgreSQL 14-18, `src/include/access/xact.h`, `ParseCommitRecord` and `ParseAbortRecord` in `xactdesc.c`,
//! `xact_redo` in `xact.c`.

use super::array::{Rels, Words, counted};
use super::kind::{Assignment, Effect, EffectError, OriginProgress, XactEnd, unknown};
use crate::read::Take;
use crate::redo::rmid;
use crate::twophase::TwoPhase;
use crate::wal::RecordHeader;
use crate::wal::body::RecordBody;
use crate::{Lsn, PgMajor};

pub(super) const OPCODE: u8 = 0x70;
const HAS_INFO: u8 = 0x80;

const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const ASSIGNMENT: u8 = 0x50;
pub(super) const INVALIDATIONS: u8 = 0x60;

const HAS_DBINFO: u32 = 1 << 0;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELS: u32 = 1 << 2;
const HAS_INVALS: u32 = 1 << 3;
const HAS_TWOPHASE: u32 = 1 << 4;
const HAS_ORIGIN: u32 = 1 << 5;
const HAS_AE_LOCKS: u32 = 1 << 6;
const HAS_GID: u32 = 1 << 7;
const HAS_DROPPED_STATS: u32 = 1 << 8;
/// Wishes to standbys and to the server that recovers: feedback, relation cache file, synchronous commit.
const COMPLETION: u32 = 7 << 29;
/// Length of a shared invalidation message.
const INVAL_LEN: usize = 16;

pub(super) fn of<'a>(
    header: &RecordHeader,
    body: &RecordBody<'a>,
    version: PgMajor,
) -> Result<Effect<'a>, EffectError> {
    let mut take = Take::new(body.main);
    match header.info & OPCODE {
        op @ (COMMIT | COMMIT_PREPARED | ABORT | ABORT_PREPARED) => {
            let commit = matches!(op, COMMIT | COMMIT_PREPARED);
            let prepared = matches!(op, COMMIT_PREPARED | ABORT_PREPARED);
            let end = end(header, body, XactKind { commit, prepared }, version)?;
            Ok(if commit { Effect::Commit(end) } else { Effect::Abort(end) })
        }
        PREPARE => {
            let header = TwoPhase::parse(body.main, version)?;
            Ok(Effect::Prepare { state: body.main, header, origin: body.origin })
        }
        ASSIGNMENT => {
            let top = take.u32()?;
            let n = take.i32()?;
            Ok(Effect::Assignment(Assignment { top, subxids: Words::take(&mut take, n, "number of subtransactions")? }))
        }
        INVALIDATIONS => Ok(Effect::None),
        _ => Err(unknown(rmid::XACT, header.info & 0xF0)),
    }
}

struct XactKind {
    commit: bool,
    prepared: bool,
}

/// The chunks are in a fixed order, which is not that of their bits.
fn end<'a>(
    header: &RecordHeader,
    body: &RecordBody<'a>,
    kind: XactKind,
    version: PgMajor,
) -> Result<XactEnd<'a>, EffectError> {
    let mut take = Take::new(body.main);
    let time = take.i64()?;
    let flags = if header.info & HAS_INFO != 0 { take.u32()? } else { 0 };
    let mut known = HAS_DBINFO | HAS_SUBXACTS | HAS_RELS | HAS_TWOPHASE | HAS_ORIGIN | HAS_AE_LOCKS | HAS_GID;
    known |= COMPLETION;
    known |= if kind.commit { HAS_INVALS } else { 0 };
    known |= if version.dropped_stat_len().is_some() { HAS_DROPPED_STATS } else { 0 };
    if flags & !known != 0 {
        return Err(EffectError::Flags(flags & !known));
    }
    let has = |bit: u32| flags & bit != 0;
    let mut end = XactEnd {
        xid: header.xid,
        prepared: kind.prepared,
        time,
        subxids: Words::default(),
        dropped: Rels::default(),
        origin: body.origin.unwrap_or(0),
        progress: None,
    };
    if has(HAS_DBINFO) {
        take.skip(8)?;
    }
    if has(HAS_SUBXACTS) {
        let n = take.i32()?;
        end.subxids = Words::take(&mut take, n, "number of subtransactions")?;
    }
    if has(HAS_RELS) {
        let n = take.i32()?;
        end.dropped = Rels::take(&mut take, n)?;
    }
    if has(HAS_DROPPED_STATS) {
        let n = take.i32()?;
        counted(&mut take, n, version.dropped_stat_len().unwrap_or(0), "number of dropped statistics")?;
    }
    if has(HAS_INVALS) {
        let n = take.i32()?;
        counted(&mut take, n, INVAL_LEN, "number of invalidations")?;
    }
    if has(HAS_TWOPHASE) {
        end.xid = take.u32()?;
        if has(HAS_GID) {
            while take.u8()? != 0 {}
        }
    }
    if kind.prepared != has(HAS_TWOPHASE) {
        return Err(EffectError::Flags(flags & HAS_TWOPHASE));
    }
    if has(HAS_ORIGIN) {
        end.progress = Some(OriginProgress { remote_lsn: Lsn::new(take.u64()?), time: take.i64()? });
    }
    match take.left() {
        0 => Ok(end),
        left => Err(EffectError::Long(left)),
    }
}
