//! From records to versions: what each record does to pages, relations, SLRUs and the control state.
//!
//! A [`Mapper`] belongs to the single writer of a timeline. It fills batches, and remembers what it wrote, so that its
//! reads are right before the batch is in the store; what it never touched it asks of [`Look`]. Pure: no files, no
//! clock, no threads.
//!
//! Invariants: records come in order, each once, without gaps; a version's LSN is the end of its record; all versions
//! of a record are in one batch, but for those of a copied database ([`MapProgress::More`]).
//!
//! A record that redo does not know harms the blocks that it names: they fail when they are read, until an image or a
//! new beginning heals them. One that names none, or whose other effects are not known, stops the timeline
//! ([`MapError::Stop`]).
//!
//! | module | what |
//! |---|---|
//! | [`out`] | where the versions go |
//! | [`blocks`], [`rels`] | blocks, sizes of forks |
//! | [`databases`] | databases, their copies, tablespaces |
//! | [`slrus`], [`xacts`] | SLRU pages, ends of transactions |

mod blocks;
mod databases;
mod out;
mod rels;
mod slrus;
#[cfg(test)]
mod tests;
mod xacts;

use pgformat::effect::{self, Effect, EffectError};
use pgformat::redo::{Context, rmid};
use pgformat::rel::{Fork, RelFork};
use pgformat::relmap::{RelMapError, parse_relmap};
use pgformat::slru::{Slru, next_multi};
use pgformat::wal::body::{self, BodyError, RecordBody};
use pgformat::wal::record::rmgr_name;
use pgformat::wal::{Record, RecordRef};
use pgformat::{Lsn, PgMajor, Tli};

use self::blocks::BlockSource;
use self::databases::{DatabaseCopy, KnownDatabases};
use self::out::RecordOut;
use self::rels::ForkExtents;
use self::slrus::SegmentExtents;
use self::xacts::KnownOrigins;
use crate::cluster::database::LOGGED;
use crate::cluster::error::LookError;
use crate::cluster::key::{Key, KeyKind};
use crate::cluster::look::Look;
use crate::cluster::records::{RecordChunkWriter, RecordSpan};
use crate::cluster::state::{COUNTERS_KEY, ClusterState, CommitTs, STATE_KEY};
use crate::cluster::value::VALUE_BYTES_MAX;
use crate::cluster::xacts::XactChunkWriter;
use crate::store::batch::{BATCH_BYTES_MAX, Batch};

/// Why a record cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    /// It is not understood. Ingest stops before it, until a program that does goes on.
    #[error("the record at {record} ({}) is not understood: {why}", name(*.rmid, *.info))]
    Stop {
        /// Where it begins.
        record: Lsn,
        /// Its resource manager.
        rmid: u8,
        /// Its info byte, with the opcode.
        info: u8,
        /// What is not understood.
        why: StopReason,
    },
    /// The store could not say what was there before.
    #[error(transparent)]
    Look(#[from] LookError),
    /// What a record does takes more memory than there may be.
    #[error(
        "the record at {0} makes more than {batch} MiB of versions, or one of more than {value} MiB: memory and layers \
         are not made for more",
        batch = BATCH_BYTES_MAX >> 20,
        value = VALUE_BYTES_MAX >> 20
    )]
    TooMuch(Lsn),
}

/// What is not understood of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StopReason {
    /// Its body does not parse.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// What it does beside its blocks.
    #[error(transparent)]
    Effect(#[from] EffectError),
    /// The relation map in it.
    #[error(transparent)]
    RelMap(#[from] RelMapError),
    /// `wal_level` is minimal: not everything is in the log.
    #[error("wal_level is minimal from here on, so that changes are missing in the log")]
    Minimal,
}

fn name(rmid: u8, info: u8) -> String {
    let rmgr = rmgr_name(rmid).map_or_else(|| format!("resource manager {rmid}"), str::to_owned);
    format!("{rmgr} {:#04x}", info & 0xF0)
}

/// Whether a record is taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum MapProgress {
    /// It is; the next one may come.
    Done,
    /// It makes more than fits one batch. The batch must go into the store, without the record's end becoming visible
    /// or durable, and [`Mapper::resume`] be called with an empty one.
    More,
}

/// Maps the records of one timeline.
#[derive(Debug)]
pub(crate) struct Mapper {
    version: PgMajor,
    control: ClusterState,
    /// The state changed in this record.
    state_changed: bool,
    /// Only its counters did.
    counters_changed: bool,
    rels: ForkExtents,
    slrus: SegmentExtents,
    databases: KnownDatabases,
    origins: KnownOrigins,
    starts: RecordChunkWriter,
    ends: XactChunkWriter,
    /// A copy that is not finished, and its record.
    copy: Option<(DatabaseCopy, Record)>,
}

impl Mapper {
    /// After record `last`, with the state there.
    pub(crate) fn new(control: ClusterState, last: RecordSpan) -> Mapper {
        let next_xid = control.live.next_xid;
        Mapper {
            version: control.file.version,
            control,
            state_changed: false,
            counters_changed: false,
            rels: ForkExtents::default(),
            slrus: SegmentExtents::default(),
            databases: KnownDatabases::default(),
            origins: KnownOrigins::default(),
            starts: RecordChunkWriter::new(last),
            ends: XactChunkWriter::new(last.end, next_xid),
            copy: None,
        }
    }

    /// The control state behind the last record.
    #[cfg(test)]
    pub(crate) const fn control(&self) -> &ClusterState {
        &self.control
    }

    /// The last record that was taken in.
    pub(crate) const fn last(&self) -> RecordSpan {
        self.starts.last()
    }

    /// Takes in a record, which begins behind the last one.
    ///
    /// # Errors
    /// [`MapError::Stop`] leaves the batch and the mapper as they were before this record. After the others the batch
    /// may hold a part of it: both must be thrown away.
    pub(crate) fn record(
        &mut self,
        record: &RecordRef<'_>,
        batch: &mut Batch,
        look: &dyn Look,
    ) -> Result<MapProgress, MapError> {
        let (header, start) = (&record.header, self.starts.last().end);
        let stop = |why: StopReason| {
            let info = header.info;
            MapError::Stop { record: record.start, rmid: header.rmid, info, why }
        };
        let mut body = RecordBody::default();
        let effect = if record.is_left_out() {
            Effect::None
        } else {
            body::parse_into(record.data, self.version, &mut body).map_err(|e| stop(e.into()))?;
            effect::of(header, &body, self.version).map_err(|e| stop(e.into()))?
        };
        check(&effect, self.version).map_err(stop)?;
        if let Effect::DatabaseCopy { to, from } = effect {
            // Everything before must be in the store, because that is what is copied.
            self.finish(batch, look);
            self.copy = Some((DatabaseCopy::new(from, to), record.to_record()));
            return Ok(MapProgress::More);
        }
        let out = &mut RecordOut { lsn: record.end, batch, look };
        self.saw_xid(header.xid, record.end);
        if !body.blocks.is_empty() {
            self.blocks(record, &body, out)?;
        }
        if effect != Effect::None {
            self.effect(&effect, (start, record.start), out)?;
        }
        if out.batch.is_overfull() {
            return Err(MapError::TooMuch(record.start));
        }
        self.done(record, out);
        Ok(MapProgress::Done)
    }

    /// Goes on with the record that answered [`MapProgress::More`], into an empty batch.
    ///
    /// # Errors
    /// As [`Mapper::record`].
    pub(crate) fn resume(&mut self, batch: &mut Batch, look: &dyn Look) -> Result<MapProgress, MapError> {
        let Some((mut copy, record)) = self.copy.take() else { return Ok(MapProgress::Done) };
        let out = &mut RecordOut { lsn: record.end, batch, look };
        if self.copy_piece(&mut copy, out)? {
            self.copy = Some((copy, record));
            return Ok(MapProgress::More);
        }
        self.saw_xid(record.header.xid, record.end);
        self.done(&record.by_ref(), out);
        Ok(MapProgress::Done)
    }

    /// Completes a batch that is about to go into the store: writes what is gathered over several records.
    pub(crate) fn finish(&mut self, batch: &mut Batch, look: &dyn Look) {
        let lsn = self.starts.last().end;
        self.finish_chunks(lsn, &mut RecordOut { lsn, batch, look });
    }

    /// Writes the chunks that are being filled; the next ones begin behind boundary `end`.
    fn finish_chunks(&mut self, end: Lsn, out: &mut RecordOut<'_>) {
        for (key, chunk) in self.starts.finish().into_iter().chain(self.ends.finish(end)) {
            out.blob(key, &chunk);
        }
    }

    /// The last batch is in the store, with all that [`Mapper::finish`] wrote: what is known by heart need not grow
    /// with the number of relations that ever were.
    pub(crate) fn stored(&mut self) {
        self.rels.stored();
    }

    /// After everything else of a record.
    fn done(&mut self, record: &RecordRef<'_>, out: &mut RecordOut<'_>) {
        if std::mem::take(&mut self.state_changed) {
            out.blob(STATE_KEY, &self.control.encode(out.lsn));
        } else if self.counters_changed {
            out.blob(COUNTERS_KEY, &self.control.encode_counters(out.lsn));
        }
        self.counters_changed = false;
        if self.starts.push(record.start, record.end) {
            self.finish_chunks(record.end, out);
        }
    }

    /// A transaction exists, because the record that ends at `end` names it.
    fn saw_xid(&mut self, xid: u32, end: Lsn) {
        self.saw_xids(std::iter::once(xid), end);
    }

    /// Transactions exist, because the record that ends at `end` names them.
    fn saw_xids(&mut self, xids: impl Iterator<Item = u32>, end: Lsn) {
        let mut rose = false;
        for xid in xids {
            rose |= self.control.saw_xid(xid);
        }
        if rose {
            self.ends.rose(end, self.control.live.next_xid);
        }
    }

    fn blocks(
        &mut self,
        record: &RecordRef<'_>,
        body: &RecordBody<'_>,
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        let ctx = Context { version: self.version, end: record.end };
        let source = BlockSource { header: &record.header, body, hint_lsn: self.control.logs_hints(), ctx };
        for block in &body.blocks {
            if blocks::block(&source, block, &mut self.rels, out)? {
                self.has_dir(block.tag.fork.rel, out)?;
            }
        }
        if matches!(record.header.rmid, rmid::HEAP | rmid::HEAP2) {
            blocks::implied(&source, &mut self.rels, out)?;
        }
        Ok(())
    }

    /// What a record does beside its blocks; it begins at the second position, the boundary before is the first.
    fn effect(&mut self, effect: &Effect<'_>, at: (Lsn, Lsn), out: &mut RecordOut<'_>) -> Result<(), LookError> {
        match effect {
            Effect::Commit(end) => self.ended(end, true, at.0, out)?,
            Effect::Abort(end) => self.ended(end, false, at.0, out)?,
            Effect::Prepare { state, header, origin } => self.prepared(state, header, *origin, at, out)?,
            Effect::Assignment(assigned) => self.saw_xids(assigned.subxids.iter(), out.lsn),
            Effect::RelCreate(fork) => self.created(*fork, out)?,
            Effect::RelTruncate { rel, blocks, main, vm, fsm: _ } => {
                self.created(RelFork { rel: *rel, fork: Fork::Main }, out)?;
                if *main {
                    self.rels.truncate(*rel, *blocks, out)?;
                }
                if *vm {
                    self.rels.truncate_map(*rel, *blocks, out)?;
                }
            }
            Effect::DatabaseCreate(dir) => self.create_database(*dir, LOGGED, out),
            Effect::DatabaseDrop { db, spcs } => self.drop_databases(*db, spcs.iter(), out)?,
            Effect::TablespaceCreate { spc, path } => {
                out.blob(Key { spc: *spc, ..Key::first(KeyKind::Tablespace) }, path);
            }
            Effect::TablespaceDrop(spc) => self.drop_tablespace(*spc, out)?,
            Effect::RelMap { dir, map } => out.blob(Key::of_database(KeyKind::RelMap, dir.spc, dir.db), map),
            Effect::OriginSet { origin, remote_lsn, force } => self.origins.set(*origin, *remote_lsn, *force, out)?,
            Effect::OriginDrop(origin) => self.origins.drop(*origin, out),
            Effect::RestorePoint { time, name } => {
                out.blob(Key::at(KeyKind::RestorePoint, out.lsn.get()), &[&time.to_le_bytes(), *name].concat());
            }
            Effect::SlruZero { .. }
            | Effect::ClogTruncate { .. }
            | Effect::CommitTsTruncate { .. }
            | Effect::MultixactCreate { .. }
            | Effect::MultixactTruncate { .. } => self.slru_effect(effect, out)?,
            _ => self.control_effect(effect, at, out)?,
        }
        Ok(())
    }

    fn created(&mut self, fork: RelFork, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        if fork.fork != Fork::Fsm && self.rels.create(fork, out)? {
            self.has_dir(fork.rel, out)?;
        }
        Ok(())
    }

    /// Records of SLRUs.
    fn slru_effect(&mut self, effect: &Effect<'_>, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        match effect {
            Effect::SlruZero { slru: Slru::MultixactOffsets, page }
                if self.control.early_offsets_page == Some(*page) =>
            {
                self.control.early_offsets_page = None;
                self.counters_changed = true;
            }
            Effect::SlruZero { slru, page } => self.slrus.zero(*slru, *page, out)?,
            Effect::ClogTruncate { page, oldest_xid, oldest_xid_db } => {
                self.control.clog_truncated(*oldest_xid, *oldest_xid_db);
                self.state_changed = true;
                self.slrus.truncate(Slru::Xact, *page, out)?;
            }
            Effect::CommitTsTruncate { page, oldest_xid } => {
                self.control.commit_ts_truncated(*oldest_xid);
                self.state_changed = true;
                self.slrus.truncate(Slru::CommitTs, *page, out)?;
            }
            Effect::MultixactCreate { multi, offset, members } => {
                let n = members.len() as u32;
                let early = self.slrus.set_offsets(*multi, *offset, n, out)?;
                self.control.early_offsets_page = early.or(self.control.early_offsets_page);
                self.slrus.set_members(*offset, members.iter(), out)?;
                self.control.multixact(next_multi(*multi), offset.wrapping_add(n));
                self.saw_xids(members.iter().map(|m| m.xid), out.lsn);
                self.counters_changed = true;
            }
            Effect::MultixactTruncate { oldest_db, start: _, end, members_start, members_end } => {
                self.control.multixacts_truncated(*end, *oldest_db);
                self.state_changed = true;
                self.slrus.truncate_multixacts(*end, *members_start..*members_end, out)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Records that change the control state alone.
    fn control_effect(
        &mut self,
        effect: &Effect<'_>,
        at: (Lsn, Lsn),
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        self.state_changed = true;
        let before = self.control.live.next_xid;
        match effect {
            Effect::Checkpoint { shutdown, body } => {
                if self.control.checkpoint(at.1, *shutdown, body) {
                    self.switched(at.0, body.tli, body.prev_tli, out);
                }
            }
            Effect::NextOid(oid) => self.control.live.next_oid = *oid,
            Effect::FullPageWrites(on) => self.control.live.full_page_writes = *on,
            Effect::Parameters(new) => match self.control.parameters(*new) {
                CommitTs::AsBefore => {}
                CommitTs::Started => {
                    let page = Slru::CommitTs.page_of(self.control.next_xid_low());
                    self.slrus.ensure(Slru::CommitTs, page, out)?;
                }
                CommitTs::Stopped => self.slrus.clear(Slru::CommitTs, out)?,
            },
            Effect::EndOfRecovery { tli, prev_tli, wal_level, time: _ } => {
                if self.control.end_of_recovery(*tli, *prev_tli, *wal_level) {
                    self.switched(at.0, *tli, *prev_tli, out);
                }
            }
            Effect::RunningXacts(running) => {
                self.saw_xid(running.next_xid.wrapping_sub(1), out.lsn);
                self.control.live.oldest_active_xid = running.oldest;
                return Ok(());
            }
            _ => self.state_changed = false,
        }
        if self.control.live.next_xid != before {
            self.ends.rose(out.lsn, self.control.live.next_xid);
        }
        Ok(())
    }

    /// PostgreSQL's timeline `tli` began at boundary `since`.
    fn switched(&mut self, since: Lsn, tli: Tli, prev: Tli, out: &mut RecordOut<'_>) {
        let value = [&since.get().to_le_bytes()[..], &prev.0.to_le_bytes()].concat();
        out.blob(Key::numbered(KeyKind::TliHistory, 0, tli.0), &value);
    }
}

/// What of an effect is checked before anything of its record is taken in.
fn check(effect: &Effect<'_>, version: PgMajor) -> Result<(), StopReason> {
    match effect {
        Effect::RelMap { map, .. } => parse_relmap(map, version).map(drop)?,
        Effect::Parameters(new) if new.wal_level == 0 => return Err(StopReason::Minimal),
        Effect::Checkpoint { body, .. } if version.has_checkpoint_redo() && body.wal_level == 0 => {
            return Err(StopReason::Minimal);
        }
        _ => {}
    }
    Ok(())
}
