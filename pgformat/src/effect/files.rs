//! Effects of records on relations' files, databases, tablespaces and relation maps.
//!
//! Source: PostgreSQL 14-18, `smgr_redo` in `storage.c`, `dbase_redo` in `dbcommands.c`, `tblspc_redo` in
//! `tablespace.c`, `relmap_redo` in `relmapper.c`, and the headers of their records.

use super::array::{Words, counted};
use super::kind::{DatabaseDir, Effect, EffectError, unknown};
use crate::PgMajor;
use crate::read::{Short, Take};
use crate::redo::rmid;
use crate::rel::{Fork, RelFileLocator, RelFork};

const TRUNCATE_MAIN: i32 = 1;
const TRUNCATE_VM: i32 = 2;
const TRUNCATE_FSM: i32 = 4;

fn locator(take: &mut Take<'_>) -> Result<RelFileLocator, EffectError> {
    let rel = RelFileLocator { spc: take.u32()?, db: take.u32()?, rel: take.u32()? };
    if rel.rel == 0 { Err(EffectError::Value { what: "relation file number", value: 0 }) } else { Ok(rel) }
}

pub(super) fn storage<'a>(info: u8, mut take: Take<'a>) -> Result<Effect<'a>, EffectError> {
    match info {
        0x10 => {
            let rel = locator(&mut take)?;
            let number = take.i32()?;
            let fork = u8::try_from(number).ok().and_then(Fork::new);
            let fork = fork.ok_or(EffectError::Value { what: "fork", value: i64::from(number) })?;
            Ok(Effect::RelCreate(RelFork { rel, fork }))
        }
        0x20 => {
            let blocks = take.u32()?;
            let rel = locator(&mut take)?;
            let flags = take.i32()?;
            let unknown = flags & !(TRUNCATE_MAIN | TRUNCATE_VM | TRUNCATE_FSM);
            if unknown != 0 {
                return Err(EffectError::Value { what: "truncation flags", value: i64::from(flags) });
            }
            let has = |flag: i32| flags & flag != 0;
            let (main, vm, fsm) = (has(TRUNCATE_MAIN), has(TRUNCATE_VM), has(TRUNCATE_FSM));
            Ok(Effect::RelTruncate { rel, blocks, main, vm, fsm })
        }
        info => Err(unknown(rmid::SMGR, info)),
    }
}

/// A database before its tablespace, the order in these records.
fn directory(take: &mut Take<'_>) -> Result<DatabaseDir, Short> {
    let db = take.u32()?;
    Ok(DatabaseDir { spc: take.u32()?, db })
}

pub(super) fn database<'a>(info: u8, mut take: Take<'a>, version: PgMajor) -> Result<Effect<'a>, EffectError> {
    match (info, version.has_wal_logged_create_database()) {
        (0x00, _) => Ok(Effect::DatabaseCopy { to: directory(&mut take)?, from: directory(&mut take)? }),
        (0x10, true) => Ok(Effect::DatabaseCreate(directory(&mut take)?)),
        (0x10, false) | (0x20, true) => {
            let db = take.u32()?;
            let n = take.i32()?;
            Ok(Effect::DatabaseDrop { db, spcs: Words::take(&mut take, n, "number of tablespaces")? })
        }
        (info, _) => Err(unknown(rmid::DBASE, info)),
    }
}

pub(super) fn tablespace<'a>(info: u8, mut take: Take<'a>) -> Result<Effect<'a>, EffectError> {
    match info {
        0x00 => {
            let spc = take.u32()?;
            let rest = take.rest();
            let len = rest.iter().position(|b| *b == 0).ok_or(EffectError::Short)?;
            Ok(Effect::TablespaceCreate { spc, path: &rest[..len] })
        }
        0x10 => Ok(Effect::TablespaceDrop(take.u32()?)),
        info => Err(unknown(rmid::TBLSPC, info)),
    }
}

pub(super) fn relation_map<'a>(info: u8, mut take: Take<'a>) -> Result<Effect<'a>, EffectError> {
    match info {
        0x00 => {
            let dir = directory(&mut take)?;
            let len = take.i32()?;
            Ok(Effect::RelMap { dir, map: counted(&mut take, len, 1, "length of a relation map")? })
        }
        info => Err(unknown(rmid::RELMAP, info)),
    }
}
