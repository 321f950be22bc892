//! Ends of transactions: their states, timestamps, dropped relations, prepared states, origins' progress.
//!
//! Source: PostgreSQL 14-18, `xact_redo` in `xact.c`, `PrepareRedoAdd` and `PrepareRedoRemove` in `twophase.c`,
//! `TransactionTreeSetCommitTsData` in `commit_ts.c`, `replorigin_advance` and `replorigin_redo` in `origin.c`.

use pgformat::Lsn;
use pgformat::effect::XactEnd;
use pgformat::slru::{XidStatus, full_xid};
use pgformat::twophase::TwoPhase;
use rustc_hash::FxHashMap;

use super::Mapper;
use super::out::RecordOut;
use crate::cluster::error::LookError;
use crate::cluster::key::{Key, KeyKind};
use crate::cluster::xacts::{EndKind, XactEntry};

/// No transaction (`InvalidTransactionId`).
const NO_XID: u32 = 0;
/// "Do not send this to origins" (`DoNotReplicateId`): no origin.
const DO_NOT_REPLICATE: u16 = u16::MAX;

/// Progress of replication origins, as far as it was asked for or changed; `None` is an origin that does not exist.
#[derive(Default, Debug)]
pub(super) struct KnownOrigins {
    remote: FxHashMap<u16, Option<Lsn>>,
}

fn origin_key(origin: u16) -> Key {
    Key::numbered(KeyKind::Origin, 0, origin.into())
}

impl KnownOrigins {
    /// An origin's progress; it goes back only if forced.
    pub(super) fn set(
        &mut self,
        origin: u16,
        remote: Lsn,
        force: bool,
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        if origin == 0 || origin == DO_NOT_REPLICATE {
            return Ok(());
        }
        let key = origin_key(origin);
        let known = match self.remote.get(&origin) {
            Some(known) => *known,
            None => out.look.blob(key)?.and_then(|b| Some(Lsn::new(u64::from_le_bytes(b[..].try_into().ok()?)))),
        };
        let new = if force || known.is_none_or(|known| known < remote) { Some(remote) } else { known };
        if new != known {
            out.blob(key, &remote.get().to_le_bytes());
        }
        self.remote.insert(origin, new);
        Ok(())
    }

    /// An origin is gone.
    pub(super) fn drop(&mut self, origin: u16, out: &mut RecordOut<'_>) {
        self.remote.insert(origin, None);
        out.tombstone(origin_key(origin));
    }
}

impl Mapper {
    /// A transaction ended, with the record that begins at `start`.
    pub(super) fn ended(
        &mut self,
        end: &XactEnd<'_>,
        committed: bool,
        start: Lsn,
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        let mut xids: Vec<u32> = std::iter::once(end.xid).filter(|x| *x != NO_XID).chain(end.subxids.iter()).collect();
        self.saw_xids(xids.iter().copied(), out.lsn);
        let newest = xids.last().copied().unwrap_or(end.xid);
        xids.sort_unstable();
        let status = if committed { XidStatus::Committed } else { XidStatus::Aborted };
        if committed && self.control.file.parameters.track_commit_timestamp && end.xid != NO_XID {
            self.slrus.set_commit_ts(&xids, end.commit_timestamp(), end.origin, out)?;
            self.control.stamped(newest);
            self.counters_changed = true;
        }
        self.slrus.set_status(&xids, status, out)?;
        drop(xids);
        for rel in end.dropped.iter() {
            self.rels.drop(rel, out)?;
        }
        if end.prepared {
            out.tombstone(Key::two_phase(full_xid(end.xid, self.control.live.next_xid)));
        }
        if let Some(progress) = end.progress {
            self.origins.set(end.origin, progress.remote_lsn, false, out)?;
        }
        let kind = match (committed, end.prepared) {
            (true, false) => EndKind::Commit,
            (false, false) => EndKind::Abort,
            (true, true) => EndKind::CommitPrepared,
            (false, true) => EndKind::AbortPrepared,
        };
        let subxids = end.subxids.iter().collect();
        self.ends.push(&XactEntry { kind, start, end: out.lsn, time: end.time, xid: end.xid, subxids });
        Ok(())
    }

    /// A transaction was prepared, with the record that begins at `record`, behind boundary `start`.
    pub(super) fn prepared(
        &mut self,
        state: &[u8],
        head: &TwoPhase<'_>,
        origin: Option<u16>,
        (start, record): (Lsn, Lsn),
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        self.saw_xids(std::iter::once(head.xid).chain(head.subxids.iter()), out.lsn);
        let key = Key::two_phase(full_xid(head.xid, self.control.live.next_xid));
        out.blob(key, &[&record.get().to_le_bytes(), state].concat());
        if let Some(origin) = origin {
            self.origins.set(origin, head.origin_lsn, false, out)?;
        }
        let (kind, subxids) = (EndKind::Prepare, head.subxids.iter().collect());
        self.ends.push(&XactEntry { kind, start, end: out.lsn, time: head.prepared_at, xid: head.xid, subxids });
        Ok(())
    }
}
