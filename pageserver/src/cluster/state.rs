//! The control state of a timeline: what PostgreSQL keeps in its control file and in shared memory, at every LSN.
//!
//! Two keys of [`KeyKind::Control`] hold it. The *state* (number 0) is written whenever anything in it changes. The
//! *counters* (number 1) are what single transactions move; they are few bytes and newer than the state, or as old. The
//! next transaction's number is in neither for every record: the list of transactions ([`super::xacts`]) has it.
//! [`ClusterState::load`] puts the three together.
//!
//! Rules are those of redo, with one exception: a shutdown checkpoint's counters are taken exactly, all of them.
//!
//! Source: PostgreSQL 14-18, `xlog_redo` in `xlog.c`, `ActivateCommitTs` and `DeactivateCommitTs` in `commit_ts.c`,
//! `multixact_redo` in `multixact.c`.

use pgformat::checkpoint::CheckPoint;
use pgformat::control::ControlFile;
use pgformat::effect::Parameters;
use pgformat::read::Take;
use pgformat::slru::{advance_past, circular_precedes, xid_precedes};
use pgformat::{Lsn, Tli};

use super::error::{LookError, STATE_FORMAT, StateError};
use super::key::{Key, KeyKind};
use super::look::Look;
use super::xacts::next_xid_at;

/// How much of the control file is stored: all that is not fill, in the longest of its layouts.
const FILE_LEN: usize = 296;
/// Length of the stored counters.
const COUNTERS_LEN: usize = 25;
/// Stored for "no page".
const NO_PAGE: u32 = u32::MAX;

/// Where the state is.
pub(crate) const STATE_KEY: Key = Key::numbered(KeyKind::Control, 0, 0);
/// Where the counters are.
pub(crate) const COUNTERS_KEY: Key = Key::numbered(KeyKind::Control, 0, 1);

/// What PostgreSQL would know at a position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ClusterState {
    /// The control file: settings, and the last checkpoint with its position. Its state and times are those of the
    /// cluster that was imported.
    pub(crate) file: ControlFile,
    /// Whether the last checkpoint was one at shutdown.
    pub(crate) shutdown: bool,
    /// The counters now; the redo position and time in it are the last checkpoint's.
    pub(crate) live: CheckPoint,
    /// A page of multixact offsets that was made before its own record came, which must not erase it.
    pub(crate) early_offsets_page: Option<u32>,
}

impl ClusterState {
    /// The state of a cluster that has this control file: exact if it was shut down, else at its last checkpoint.
    pub(crate) fn of_file(file: ControlFile, shutdown: bool) -> ClusterState {
        let live = file.checkpoint_copy;
        ClusterState { file, shutdown, live, early_offsets_page: None }
    }

    /// The state at `lsn`: from the state and counters that `at` shows there, and from the list of transactions in
    /// `tip`, the newest state.
    ///
    /// # Errors
    /// When the store cannot be read, or has no state there.
    pub(crate) fn load(at: &dyn Look, tip: &dyn Look, lsn: Lsn) -> Result<ClusterState, LookError> {
        let stored = at.blob(STATE_KEY)?.ok_or(StateError::Missing)?;
        let (since, mut state) = ClusterState::decode(&stored)?;
        if let Some(counters) = at.blob(COUNTERS_KEY)? {
            state.set_counters(since, &counters)?;
        }
        if let Some(next) = next_xid_at(tip, since, lsn)? {
            state.live.next_xid = next;
        }
        Ok(state)
    }

    /// Whether hint bits are logged.
    pub(crate) const fn logs_hints(&self) -> bool {
        self.file.logs_hints()
    }

    /// The next transaction, without its epoch.
    pub(crate) const fn next_xid_low(&self) -> u32 {
        (self.live.next_xid & 0xFFFF_FFFF) as u32
    }

    /// A transaction exists; whether that is news.
    pub(crate) fn saw_xid(&mut self, xid: u32) -> bool {
        let next = advance_past(self.live.next_xid, xid);
        std::mem::replace(&mut self.live.next_xid, next) != next
    }

    /// A checkpoint whose record begins at `record`. Returns whether it began a timeline of PostgreSQL's.
    pub(crate) fn checkpoint(&mut self, record: Lsn, shutdown: bool, body: &CheckPoint) -> bool {
        let live = &mut self.live;
        let switched = body.tli != live.tli;
        if shutdown {
            *live = *body;
        } else {
            live.next_xid = live.next_xid.max(body.next_xid);
            // The oid in it is from the checkpoint's beginning; records of their own are newer.
            advance(&mut live.next_multi, body.next_multi, circular_precedes);
            advance(&mut live.next_multi_offset, body.next_multi_offset, circular_precedes);
            if circular_precedes(live.oldest_multi, body.oldest_multi) {
                (live.oldest_multi, live.oldest_multi_db) = (body.oldest_multi, body.oldest_multi_db);
            }
            if xid_precedes(live.oldest_xid, body.oldest_xid) {
                (live.oldest_xid, live.oldest_xid_db) = (body.oldest_xid, body.oldest_xid_db);
            }
            live.oldest_active_xid = body.oldest_active_xid;
            (live.redo, live.time, live.wal_level) = (body.redo, body.time, body.wal_level);
            (live.tli, live.prev_tli) = (body.tli, body.prev_tli);
        }
        self.file.checkpoint = record;
        self.file.checkpoint_copy = *body;
        self.shutdown = shutdown;
        switched
    }

    /// New settings. Returns what becomes of commit timestamps.
    pub(crate) fn parameters(&mut self, new: Parameters) -> CommitTs {
        let had = std::mem::replace(&mut self.file.parameters, new).track_commit_timestamp;
        if self.file.version.has_checkpoint_redo() {
            self.live.wal_level = new.wal_level;
        }
        match (had, new.track_commit_timestamp) {
            (_, true) if self.live.oldest_commit_ts_xid == 0 => {
                self.live.oldest_commit_ts_xid = self.next_xid_low();
                self.live.newest_commit_ts_xid = self.next_xid_low();
                CommitTs::Started
            }
            (false, true) => CommitTs::Started,
            (true, false) => {
                (self.live.oldest_commit_ts_xid, self.live.newest_commit_ts_xid) = (0, 0);
                CommitTs::Stopped
            }
            _ => CommitTs::AsBefore,
        }
    }

    /// A transaction got a commit timestamp: the last of it and its subtransactions.
    pub(crate) fn stamped(&mut self, newest: u32) {
        advance(&mut self.live.newest_commit_ts_xid, newest, xid_precedes);
    }

    /// Commit timestamps before `oldest` are gone.
    pub(crate) fn commit_ts_truncated(&mut self, oldest: u32) {
        if self.live.oldest_commit_ts_xid != 0 {
            advance(&mut self.live.oldest_commit_ts_xid, oldest, xid_precedes);
        }
    }

    /// The state of transactions before `oldest` is gone. Redo leaves this limit to the next checkpoint; the server
    /// that wrote the record raised it at once.
    pub(crate) fn clog_truncated(&mut self, oldest: u32, db: u32) {
        if xid_precedes(self.live.oldest_xid, oldest) {
            (self.live.oldest_xid, self.live.oldest_xid_db) = (oldest, db);
        }
    }

    /// A multixact exists.
    pub(crate) fn multixact(&mut self, next: u32, next_offset: u32) {
        advance(&mut self.live.next_multi, next, circular_precedes);
        advance(&mut self.live.next_multi_offset, next_offset, circular_precedes);
    }

    /// Multixacts before `oldest` are gone.
    pub(crate) fn multixacts_truncated(&mut self, oldest: u32, db: u32) {
        (self.live.oldest_multi, self.live.oldest_multi_db) = (oldest, db);
    }

    /// A server took over at the end of recovery. Returns whether that began a timeline of PostgreSQL's.
    pub(crate) fn end_of_recovery(&mut self, tli: Tli, prev: Tli, wal_level: Option<i32>) -> bool {
        let switched = std::mem::replace(&mut self.live.tli, tli) != tli;
        self.live.prev_tli = prev;
        self.live.wal_level = wal_level.unwrap_or(self.live.wal_level);
        switched
    }

    /// The stored form of the state: `format u8 = 1 | its LSN u64 | shutdown u8 | early page u32, 2^32-1 for none |
    /// counters as a checkpoint (88) | control file without its fill (296)`.
    pub(crate) fn encode(&self, lsn: Lsn) -> Vec<u8> {
        let mut out = Vec::with_capacity(14 + 88 + FILE_LEN);
        out.push(STATE_FORMAT);
        out.extend(lsn.get().to_le_bytes());
        out.push(u8::from(self.shutdown));
        out.extend(self.early_offsets_page.unwrap_or(NO_PAGE).to_le_bytes());
        out.extend(self.live.to_bytes(self.file.version));
        out.extend(&self.file.to_bytes()[..FILE_LEN]);
        out
    }

    /// Reads [`ClusterState::encode`]'s form, with the LSN of which it is.
    ///
    /// # Errors
    /// When it is damaged or from another version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Lsn, ClusterState), StateError> {
        let mut take = Take::new(bytes);
        let lsn = head(&mut take)?;
        let shutdown = take.bool()?;
        let early = take.u32()?;
        let live = take.array()?;
        let file = ControlFile::parse(take.rest())?;
        let live = CheckPoint::parse(&live, file.version);
        Ok((lsn, ClusterState { file, shutdown, live, early_offsets_page: (early != NO_PAGE).then_some(early) }))
    }

    /// The stored form of the counters: `format u8 = 1 | their LSN u64 | next multixact u32 | its members' offset u32 |
    /// newest commit timestamp's transaction u32 | early page u32`.
    pub(crate) fn encode_counters(&self, lsn: Lsn) -> [u8; COUNTERS_LEN] {
        let mut out = [STATE_FORMAT; COUNTERS_LEN];
        out[1..9].copy_from_slice(&lsn.get().to_le_bytes());
        let early = self.early_offsets_page.unwrap_or(NO_PAGE);
        let fields = [self.live.next_multi, self.live.next_multi_offset, self.live.newest_commit_ts_xid, early];
        for (at, field) in (9..).step_by(4).zip(fields) {
            out[at..at + 4].copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    /// Replaces the counters of a state of `lsn` by stored ones, unless these are older.
    ///
    /// # Errors
    /// When they are damaged or from another version.
    pub(crate) fn set_counters(&mut self, lsn: Lsn, bytes: &[u8]) -> Result<(), StateError> {
        let mut take = Take::new(bytes);
        if head(&mut take)? < lsn {
            return Ok(());
        }
        (self.live.next_multi, self.live.next_multi_offset) = (take.u32()?, take.u32()?);
        self.live.newest_commit_ts_xid = take.u32()?;
        let early = take.u32()?;
        self.early_offsets_page = (early != NO_PAGE).then_some(early);
        Ok(())
    }
}

/// What becomes of commit timestamps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CommitTs {
    /// They are kept, or not kept, as before.
    AsBefore,
    /// They are kept from here on: the next transaction's page must be there.
    Started,
    /// They are not kept any more: all pages go.
    Stopped,
}

/// Format and LSN of a stored form.
fn head(take: &mut Take<'_>) -> Result<Lsn, StateError> {
    match take.u8()? {
        STATE_FORMAT => Ok(Lsn::new(take.u64()?)),
        other => Err(StateError::Format(other)),
    }
}

fn advance(mine: &mut u32, other: u32, precedes: impl Fn(u32, u32) -> bool) {
    if precedes(*mine, other) {
        *mine = other;
    }
}
