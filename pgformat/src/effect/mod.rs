//! What a record does beside its block references: transactions, files, databases, SLRUs, counters, settings.
//!
//! [`of`] decodes; nothing is applied here. An opcode or a flag that is not known is an error, because skipping it
//! could lose state. Records that only change the pages they name are [`Effect::None`]; so are those that matter to
//! logical decoding or to hot standby alone.
//!
//! | module | resource managers |
//! |---|---|
//! | [`xact`] | transactions |
//! | [`xlog`] | checkpoints, counters, settings |
//! | [`files`] | relations' files, databases, tablespaces, relation maps |
//! | [`slru`] | clog, commit timestamps, multixacts |
//! | [`standby`] | running transactions, replication origins |
//!
//! Source: PostgreSQL 14-18, the `*_redo` and `*_desc` functions of the resource managers.

pub mod files;
pub mod slru;
pub mod standby;
#[cfg(test)]
mod tests;
pub mod xact;
pub mod xlog;

use crate::checkpoint::CheckPoint;
use crate::read::{Short, Take};
use crate::redo::rmid;
use crate::rel::{BlockNumber, RelFileLocator, RelFork};
use crate::slru::Slru;
use crate::twophase::{TwoPhase, TwoPhaseError};
use crate::wal::RecordHeader;
use crate::wal::body::Body;
use crate::wal::record::RMGR_INFO_MASK;
use crate::{Lsn, PgMajor, Tli};

pub use slru::{Member, Members};
pub use standby::RunningXacts;
pub use xact::{Assignment, OriginProgress, XactEnd};
pub use xlog::Parameters;

/// A database's directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DatabaseDir {
    /// Tablespace.
    pub spc: u32,
    /// Database.
    pub db: u32,
}

/// What a record does beside its block references.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect<'a> {
    /// Nothing.
    None,
    /// A checkpoint's counters.
    Checkpoint {
        /// Nothing ran and nothing was lost: its counters are exact.
        shutdown: bool,
        /// Them.
        body: CheckPoint,
    },
    /// Oids are handed out from here on.
    NextOid(u32),
    /// The rest of the segment is fill.
    Switch,
    /// The base backup that began at this position ended.
    BackupEnd(Lsn),
    /// The settings that a standby must know.
    Parameters(Parameters),
    /// A name for this position.
    RestorePoint {
        /// When, in microseconds since 2000.
        time: i64,
        /// The name, without the zeros behind it.
        name: &'a [u8],
    },
    /// Whether pages are logged whole after a checkpoint, from here on.
    FullPageWrites(bool),
    /// A server took over at the end of recovery.
    EndOfRecovery {
        /// When, in microseconds since 2000.
        time: i64,
        /// The new timeline.
        tli: Tli,
        /// The one before.
        prev_tli: Tli,
        /// `wal_level`, since 17.
        wal_level: Option<i32>,
    },
    /// An unfinished record was lost.
    OverwriteContrecord {
        /// Where it began.
        lost: Lsn,
        /// When, in microseconds since 2000.
        time: i64,
    },
    /// The redo point of an online checkpoint that follows (since 17).
    CheckpointRedo {
        /// `wal_level`.
        wal_level: i32,
    },
    /// A transaction committed.
    Commit(XactEnd<'a>),
    /// A transaction aborted.
    Abort(XactEnd<'a>),
    /// A transaction was prepared.
    Prepare {
        /// What its state file holds, without the checksum at its end.
        state: &'a [u8],
        /// Its header.
        header: TwoPhase<'a>,
        /// The replication origin that it came from.
        origin: Option<u16>,
    },
    /// Subtransactions got to know their top transaction.
    Assignment(Assignment<'a>),
    /// A fork's file was created.
    RelCreate(RelFork),
    /// A relation was cut off.
    RelTruncate {
        /// Which.
        rel: RelFileLocator,
        /// Its new number of blocks.
        blocks: BlockNumber,
        /// Whether its main fork was.
        main: bool,
        /// Whether its visibility map was, to what that many blocks need.
        vm: bool,
        /// Whether its free space map was, to what that many blocks need.
        fsm: bool,
    },
    /// Every file of a database was copied.
    DatabaseCopy {
        /// To here.
        to: DatabaseDir,
        /// From here.
        from: DatabaseDir,
    },
    /// An empty database directory was made; pages follow in records of their own.
    DatabaseCreate(DatabaseDir),
    /// A database's directories were removed.
    DatabaseDrop {
        /// The database.
        db: u32,
        /// In these tablespaces.
        spcs: Words<'a>,
    },
    /// A tablespace was created.
    TablespaceCreate {
        /// Its oid.
        spc: u32,
        /// Where.
        path: &'a [u8],
    },
    /// A tablespace was dropped.
    TablespaceDrop(u32),
    /// A relation map file was replaced.
    RelMap {
        /// Of this database; the shared one has database 0.
        dir: DatabaseDir,
        /// The whole file.
        map: &'a [u8],
    },
    /// A page of an SLRU was made, of zeros.
    SlruZero {
        /// Which SLRU.
        slru: Slru,
        /// Which page.
        page: u32,
    },
    /// The commit log was cut off at its beginning.
    ClogTruncate {
        /// Everything before this page can go.
        page: u32,
        /// The oldest transaction whose state is kept.
        oldest_xid: u32,
        /// The database that holds it back.
        oldest_xid_db: u32,
    },
    /// Commit timestamps were cut off at their beginning.
    CommitTsTruncate {
        /// Everything before this page can go.
        page: u32,
        /// The oldest transaction whose timestamp is kept.
        oldest_xid: u32,
    },
    /// A multixact was made.
    MultixactCreate {
        /// Its number.
        multi: u32,
        /// Where its members begin.
        offset: u32,
        /// Them.
        members: Members<'a>,
    },
    /// Multixacts were cut off at their beginning.
    MultixactTruncate {
        /// The database that holds the oldest back.
        oldest_db: u32,
        /// Multixacts from here ...
        start: u32,
        /// ... to before here, the new oldest, can go.
        end: u32,
        /// Members from here ...
        members_start: u32,
        /// ... to before here can go.
        members_end: u32,
    },
    /// What ran at this position.
    RunningXacts(RunningXacts<'a>),
    /// A replication origin's progress was set.
    OriginSet {
        /// Which.
        origin: u16,
        /// Applied up to here, in the origin's positions.
        remote_lsn: Lsn,
        /// Also if that is behind.
        force: bool,
    },
    /// A replication origin was dropped.
    OriginDrop(u16),
    /// A message for logical decoding.
    LogicalMessage {
        /// From this database.
        db: u32,
        /// Whether it counts only if its transaction commits.
        transactional: bool,
        /// Who it is for.
        prefix: &'a [u8],
        /// What it says.
        message: &'a [u8],
    },
}

/// A record whose effect is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EffectError {
    /// A resource manager or an opcode of it.
    #[error("record type {rmid}/{info:#04x} is not known")]
    Unknown {
        /// Resource manager.
        rmid: u8,
        /// Its opcode.
        info: u8,
    },
    /// The record's data end too early.
    #[error("the record's data is shorter than its type needs")]
    Short,
    /// There is more data than its type has.
    #[error("the record's data is {0} bytes longer than its type has")]
    Long(usize),
    /// Flags that are not known.
    #[error("the record has unknown flags {0:#010x}")]
    Flags(u32),
    /// A number that cannot be.
    #[error("the record's {what} is {value}")]
    Value {
        /// Of what.
        what: &'static str,
        /// The number.
        value: i64,
    },
    /// A prepared transaction's state.
    #[error(transparent)]
    TwoPhase(#[from] TwoPhaseError),
}

impl From<Short> for EffectError {
    fn from(_: Short) -> EffectError {
        EffectError::Short
    }
}

/// Numbers of four bytes each, as a record has them: unaligned.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The next `n` of `take`.
    pub(crate) fn take(take: &mut Take<'a>, n: i32, what: &'static str) -> Result<Words<'a>, EffectError> {
        Ok(Words(counted(take, n, 4, what)?))
    }

    /// How many.
    pub const fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + Clone + 'a {
        self.0.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

impl std::fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Relations, as a record has them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Rels<'a>(&'a [u8]);

impl<'a> Rels<'a> {
    /// The next `n` of `take`.
    pub(crate) fn take(take: &mut Take<'a>, n: i32) -> Result<Rels<'a>, EffectError> {
        Ok(Rels(counted(take, n, 12, "number of relations")?))
    }

    /// Them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RelFileLocator> + Clone + 'a {
        let word = |b: &[u8], at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        self.0.chunks_exact(12).map(move |b| RelFileLocator { spc: word(b, 0), db: word(b, 4), rel: word(b, 8) })
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Rels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// `n` items of `len` bytes.
fn counted<'a>(take: &mut Take<'a>, n: i32, len: usize, what: &'static str) -> Result<&'a [u8], EffectError> {
    let count = usize::try_from(n).map_err(|_| EffectError::Value { what, value: i64::from(n) })?;
    Ok(take.bytes(count.checked_mul(len).ok_or(EffectError::Short)?)?)
}

/// What `header`'s record does beside its block references.
///
/// # Errors
/// When the type is not known, or its data do not fit it. A type that only changes the pages it names is not looked at
/// here: redo knows it, or does not.
pub fn of<'a>(header: &RecordHeader, body: &Body<'a>, version: PgMajor) -> Result<Effect<'a>, EffectError> {
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

pub(crate) const fn unknown(rmid: u8, info: u8) -> EffectError {
    EffectError::Unknown { rmid, info }
}
