//! Effects of the log's own records.
//!
//! Source: PostgreSQL 14-18, `xlog_redo` in `xlog.c`, `src/include/access/xlog_internal.h`,
//! `src/include/catalog/pg_control.h`.

use super::kind::{Effect, EffectError, Parameters, unknown};
use crate::checkpoint::CheckPoint;
use crate::read::{Short, Take};
use crate::redo::rmid;
use crate::wal::record::{
    XLOG_CHECKPOINT_ONLINE, XLOG_CHECKPOINT_SHUTDOWN, XLOG_NOOP, XLOG_OVERWRITE_CONTRECORD, XLOG_SWITCH,
};
use crate::{Lsn, PgMajor, Tli};

const NEXTOID: u8 = 0x30;
const BACKUP_END: u8 = 0x50;
const PARAMETER_CHANGE: u8 = 0x60;
const RESTORE_POINT: u8 = 0x70;
const FPW_CHANGE: u8 = 0x80;
const END_OF_RECOVERY: u8 = 0x90;
const FPI_FOR_HINT: u8 = 0xA0;
const FPI: u8 = 0xB0;
const CHECKPOINT_REDO: u8 = 0xE0;
/// Length of a restore point's name with the zeros behind it (`MAXFNAMELEN`).
const RESTORE_POINT_NAME_LEN: usize = 64;

impl Parameters {
    fn parse(take: &mut Take<'_>) -> Result<Parameters, Short> {
        Ok(Parameters {
            max_connections: take.i32()?,
            max_worker_processes: take.i32()?,
            max_wal_senders: take.i32()?,
            max_prepared_xacts: take.i32()?,
            max_locks_per_xact: take.i32()?,
            wal_level: take.i32()?,
            wal_log_hints: take.bool()?,
            track_commit_timestamp: take.bool()?,
        })
    }
}

pub(super) fn of<'a>(info: u8, mut take: Take<'a>, version: PgMajor) -> Result<Effect<'a>, EffectError> {
    Ok(match info {
        XLOG_CHECKPOINT_SHUTDOWN | XLOG_CHECKPOINT_ONLINE => {
            let body = CheckPoint::parse(&take.array()?, version);
            Effect::Checkpoint { shutdown: info == XLOG_CHECKPOINT_SHUTDOWN, body }
        }
        XLOG_NOOP | FPI_FOR_HINT | FPI => Effect::None,
        NEXTOID => Effect::NextOid(take.u32()?),
        XLOG_SWITCH => Effect::Switch,
        BACKUP_END => Effect::BackupEnd(Lsn::new(take.u64()?)),
        PARAMETER_CHANGE => Effect::Parameters(Parameters::parse(&mut take)?),
        RESTORE_POINT => {
            let time = take.i64()?;
            let padded = take.bytes(RESTORE_POINT_NAME_LEN)?;
            let len = padded.iter().position(|b| *b == 0).unwrap_or(padded.len());
            Effect::RestorePoint { time, name: &padded[..len] }
        }
        FPW_CHANGE => Effect::FullPageWrites(take.bool()?),
        END_OF_RECOVERY => Effect::EndOfRecovery {
            time: take.i64()?,
            tli: Tli(take.u32()?),
            prev_tli: Tli(take.u32()?),
            wal_level: if version.has_checkpoint_redo() { Some(take.i32()?) } else { None },
        },
        XLOG_OVERWRITE_CONTRECORD => Effect::OverwriteContrecord { lost: Lsn::new(take.u64()?), time: take.i64()? },
        CHECKPOINT_REDO if version.has_checkpoint_redo() => Effect::CheckpointRedo { wal_level: take.i32()? },
        info => return Err(unknown(rmid::XLOG, info)),
    })
}
