//! Records for standbys, records of replication origins, and messages for logical decoding.
//!
//! Source: PostgreSQL 14-18, `standby_redo` in `standby.c`, `src/include/storage/standbydefs.h`, `replorigin_redo` in
//! `origin.c`, `src/include/replication/message.h`.

use super::array::Words;
use super::kind::{Effect, EffectError, RunningXacts, unknown};
use crate::Lsn;
use crate::read::Take;
use crate::redo::rmid;

pub(super) fn standby<'a>(info: u8, mut take: Take<'a>) -> Result<Effect<'a>, EffectError> {
    match info {
        // Locks and invalidations matter only to queries on a standby.
        0x00 | 0x20 => Ok(Effect::None),
        0x10 => {
            let (tops, subs) = (take.i32()?, take.i32()?);
            let overflowed = take.bool()?;
            take.skip(3)?;
            let (next_xid, oldest, latest_completed) = (take.u32()?, take.u32()?, take.u32()?);
            let what = "number of running transactions";
            let n = tops.checked_add(subs).ok_or(EffectError::Value { what, value: i64::from(tops) })?;
            let xids = Words::take(&mut take, n, what)?;
            Ok(Effect::RunningXacts(RunningXacts { overflowed, next_xid, oldest, latest_completed, xids }))
        }
        info => Err(unknown(rmid::STANDBY, info)),
    }
}

pub(super) fn origin<'a>(info: u8, mut take: Take<'a>) -> Result<Effect<'a>, EffectError> {
    match info {
        0x00 => {
            let remote_lsn = Lsn::new(take.u64()?);
            Ok(Effect::OriginSet { remote_lsn, origin: take.u16()?, force: take.bool()? })
        }
        0x10 => Ok(Effect::OriginDrop(take.u16()?)),
        info => Err(unknown(rmid::REPLORIGIN, info)),
    }
}

pub(super) fn message<'a>(info: u8, mut take: Take<'a>) -> Result<Effect<'a>, EffectError> {
    if info != 0x00 {
        return Err(unknown(rmid::LOGICALMSG, info));
    }
    let db = take.u32()?;
    let transactional = take.bool()?;
    take.skip(3)?;
    let mut len = || Ok::<usize, EffectError>(usize::try_from(take.u64()?).unwrap_or(usize::MAX));
    let (prefix_len, message_len) = (len()?, len()?);
    let prefix = take.bytes(prefix_len)?;
    let message = take.bytes(message_len)?;
    // The prefix is stored with its terminator.
    let prefix = prefix.strip_suffix(&[0]).unwrap_or(prefix);
    Ok(Effect::LogicalMessage { db, transactional, prefix, message })
}
