//! Result of decoding a record: an [`Effect`], or the reason why there is none.

use super::array::{CountError, Members, Rels, Words};
use crate::checkpoint::CheckPoint;
use crate::read::Short;
use crate::rel::{BlockNumber, RelFileLocator, RelFork};
use crate::slru::Slru;
use crate::twophase::{TwoPhase, TwoPhaseError};
use crate::{Lsn, Tli};

/// A database's directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DatabaseDir {
    /// Oid of the tablespace that it lies in.
    pub spc: u32,
    /// Oid of the database, the directory's name.
    pub db: u32,
}

/// What a record does beside its block references.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect<'a> {
    /// Nothing: the record is done with its blocks.
    None,
    /// A checkpoint's counters.
    Checkpoint {
        /// Nothing ran and nothing was lost: its counters are exact.
        shutdown: bool,
        /// The counters, as the control file keeps them too.
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
        /// `wal_level` when it was written: 0 minimal, 1 replica, 2 logical.
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
        /// That state's beginning, read: who prepared what.
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
        /// The relation; the flags below say which of its forks.
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
        /// The new database's directory.
        to: DatabaseDir,
        /// The directory of its template.
        from: DatabaseDir,
    },
    /// An empty database directory was made; pages follow in records of their own.
    DatabaseCreate(DatabaseDir),
    /// A database's directories were removed.
    DatabaseDrop {
        /// Oid of the database that is gone.
        db: u32,
        /// In these tablespaces.
        spcs: Words<'a>,
    },
    /// A tablespace was created.
    TablespaceCreate {
        /// Oid of the tablespace, the name of its link below `pg_tblspc`.
        spc: u32,
        /// The directory that the link leads to.
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
        /// The SLRU that grew.
        slru: Slru,
        /// The page's number in its SLRU, from 0.
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
        /// The number that the rows carry as their xmax.
        multi: u32,
        /// Where its members begin.
        offset: u32,
        /// Its transactions, each with what it does to the row.
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
        /// Number of the origin (`roident`), from 1.
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
        /// Number of the resource manager ([`crate::redo::rmid`]).
        rmid: u8,
        /// The opcode: `xl_info` without the flags of the log itself.
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
        /// The field, as errors call it.
        what: &'static str,
        /// The field's number as it was read.
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

impl From<CountError> for EffectError {
    fn from(error: CountError) -> EffectError {
        match error {
            CountError::Short => EffectError::Short,
            CountError::Negative { what, value } => EffectError::Value { what, value: i64::from(value) },
        }
    }
}

/// How a transaction ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XactEnd<'a> {
    /// The transaction: for a prepared one not the record's own.
    pub xid: u32,
    /// Whether it had been prepared.
    pub prepared: bool,
    /// When, in microseconds since 2000.
    pub time: i64,
    /// Its subtransactions, which share its fate.
    pub subxids: Words<'a>,
    /// Relations whose files are removed.
    pub dropped: Rels<'a>,
    /// The replication origin in the record, 0 for none. It may be set without [`XactEnd::progress`].
    pub origin: u16,
    /// What that origin has got to.
    pub progress: Option<OriginProgress>,
}

impl XactEnd<'_> {
    /// What `pg_xact_commit_timestamp` shows: when it committed where it was first done.
    pub fn commit_timestamp(&self) -> i64 {
        self.progress.map_or(self.time, |p| p.time)
    }
}

/// A replication origin's progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OriginProgress {
    /// Applied up to here, in the origin's positions.
    pub remote_lsn: Lsn,
    /// When it committed there, in microseconds since 2000.
    pub time: i64,
}

/// Subtransactions and their top transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Assignment<'a> {
    /// The top transaction.
    pub top: u32,
    /// Its subtransactions, of any depth.
    pub subxids: Words<'a>,
}

/// The transactions that ran at a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunningXacts<'a> {
    /// Whether the list of subtransactions is incomplete.
    pub overflowed: bool,
    /// The next transaction to be.
    pub next_xid: u32,
    /// The oldest that ran.
    pub oldest: u32,
    /// The newest that had ended.
    pub latest_completed: u32,
    /// Top transactions, then subtransactions.
    pub xids: Words<'a>,
}

/// Settings that the control file holds, because a standby must know them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parameters {
    /// `max_connections`: how many clients may be connected.
    pub max_connections: i32,
    /// `max_worker_processes`: how many background workers may run.
    pub max_worker_processes: i32,
    /// `max_wal_senders`: how many processes may send WAL.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`: how many may wait for COMMIT PREPARED; 0 allows none.
    pub max_prepared_xacts: i32,
    /// `max_locks_per_transaction`: sizes the shared table of locks.
    pub max_locks_per_xact: i32,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    /// `wal_log_hints`: whether a page is logged whole before its hint bits change.
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`: whether commits write their time into an SLRU.
    pub track_commit_timestamp: bool,
}

pub(super) const fn unknown(rmid: u8, info: u8) -> EffectError {
    EffectError::Unknown { rmid, info }
}
