//! What a record does beside its block references: transactions, files, databases, SLRUs, counters, settings.
//!
//! [`of`] decodes; nothing is applied here. An unknown opcode or flag is an error, because skipping it could lose
//! state. Records that only change the pages they name are [`Effect::None`]; so are those that matter only to logical
//! decoding or to hot standby.
//!
//! | module | resource managers |
//! |---|---|
//! | `kind` | what decoding yields: [`Effect`] and the structs in it |
//! | `array` | counted arrays in records |
//! | `xact` | transactions |
//! | `xlog` | checkpoints, counters, settings |
//! | `files` | relations' files, databases, tablespaces, relation maps |
//! | `slru` | clog, commit timestamps, multixacts |
//! | `standby` | running transactions, replication origins |
//!
//! Source: PostgreSQL 14-18, the `*_redo` and `*_desc` functions of the resource managers.

mod array;
mod files;
mod kind;
mod slru;
mod standby;
#[cfg(test)]
mod tests;
mod xact;
mod xlog;

use crate::PgMajor;
use crate::read::Take;
use crate::redo::rmid;
use crate::wal::RecordHeader;
use crate::wal::body::RecordBody;
use crate::wal::record::RMGR_INFO_MASK;

pub use array::{CountError, Members, MultiXactMember, Rels, Words};
pub use kind::{Assignment, DatabaseDir, Effect, EffectError, OriginProgress, Parameters, RunningXacts, XactEnd};

/// What `header`'s record does beside its block references.
///
/// # Errors
/// When the type is not known, or its data do not fit it. A type that only changes the pages it names is not looked at
/// here: redo knows it, or does not.
pub fn of<'a>(header: &RecordHeader, body: &RecordBody<'a>, version: PgMajor) -> Result<Effect<'a>, EffectError> {
    let info = header.info & RMGR_INFO_MASK;
    let take = Take::new(body.main);
    match header.rmid {
        rmid::XLOG => xlog::of(info, take, version),
        rmid::XACT => xact::of(header, body, version),
        rmid::SMGR => files::storage(info, take),
        rmid::DBASE => files::database(info, take, version),
        rmid::TBLSPC => files::tablespace(info, take),
        rmid::RELMAP => files::relation_map(info, take),
        rmid::CLOG => slru::clog(info, take, version),
        rmid::COMMIT_TS => slru::commit_ts(info, take, version),
        rmid::MULTIXACT => slru::multixact(info, take, version),
        rmid::STANDBY => standby::standby(info, take),
        rmid::REPLORIGIN => standby::origin(info, take),
        rmid::LOGICALMSG => standby::message(info, take),
        _ if !body.blocks.is_empty() => Ok(Effect::None),
        rmid if only_for_others(rmid, info) => Ok(Effect::None),
        rmid => Err(EffectError::Unknown { rmid, info }),
    }
}

/// Whether a record of this type changes nothing at all, neither a block nor state: messages for logical decoding, and
/// what hot standby needs. Told by the header alone, because such a record can be as long as any, and need not be kept.
pub fn is_idle(header: &RecordHeader) -> bool {
    let info = header.info & RMGR_INFO_MASK;
    match header.rmid {
        rmid::LOGICALMSG => info == 0x00,
        // XLOG_STANDBY_LOCK, XLOG_INVALIDATIONS.
        rmid::STANDBY => matches!(info, 0x00 | 0x20),
        rmid::XACT => info & xact::OPCODE == xact::INVALIDATIONS,
        // XLOG_HEAP_TRUNCATE.
        rmid::HEAP => info & 0x70 == 0x30,
        _ => false,
    }
}

/// Records of access methods that name no block: for logical decoding, for hot standby, or to get a new LSN.
fn only_for_others(rmid: u8, info: u8) -> bool {
    match rmid {
        // XLOG_HEAP_TRUNCATE.
        rmid::HEAP => info & 0x70 == 0x30,
        // XLOG_HEAP2_REWRITE, XLOG_HEAP2_NEW_CID.
        rmid::HEAP2 => matches!(info & 0x70, 0x00 | 0x70),
        // XLOG_BTREE_REUSE_PAGE.
        rmid::BTREE => info == 0xD0,
        // XLOG_GIST_PAGE_REUSE, XLOG_GIST_ASSIGN_LSN.
        rmid::GIST => matches!(info, 0x20 | 0x70),
        _ => false,
    }
}
