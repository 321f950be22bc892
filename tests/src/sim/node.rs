//! One simulated safekeeper: the real acceptor, the real storage, and the real driver's rules of order, on a
//! [`FakeDisk`].
//!
//! Owns all of them. It does the driver's actions, turns completions into inputs, and reads as a reader would: from
//! memory and files, up to the published positions.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use disk::{Disk, FakeDisk, Lie};
use pgformat::Lsn;
use proto::admission::{AdmissionAnswer, Statement};
use proto::consensus::AcceptorMessage;
use proto::id::NodeId;
use safekeeper::core::{
    Acceptor, AcceptorConfig, AskId, ConnId, ControlState, DiskOp, Effect, Input, Positions, Refusal, WriteId,
};
use safekeeper::storage::shared_dir::SharedDir;
use safekeeper::storage::timeline::FoundTimeline;
use safekeeper::storage::{StorageError, TimelineStorage, run_group};
use safekeeper::timeline::gathering::{DriverAction, GatherLimits, Gathering};
use safekeeper::timeline::ring::WalRing;

use super::bug::Bug;
use super::wal::seg_size;

/// A safekeeper, up or down.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) disk: FakeDisk,
    shared: Arc<dyn Disk>,
    pub(crate) live: Option<Live>,
    /// Raised whenever it goes down: what was meant for an earlier life is dropped.
    pub(crate) life: u64,
    /// How far its clock is ahead, milliseconds.
    pub(crate) clock_ahead_ms: u64,
    bug: Option<Bug>,
}

/// Few commands and bytes at a time: batches end, and connections wait for the disk, within a short run.
const LIMITS: GatherLimits = GatherLimits { batch_commands: 4, batch_bytes: 16 << 10, gathered_bytes: 32 << 10 };
/// Bytes of WAL kept in memory.
const RING_BYTES: usize = 256 << 10;

/// What a process holds in memory.
pub(crate) struct Live {
    pub(crate) storage: TimelineStorage,
    pub(crate) acceptor: Acceptor,
    /// What was said to it and not taken yet.
    pub(crate) inbox: VecDeque<Input>,
    gathering: Gathering<()>,
    /// What the disk works on.
    pub(crate) work: VecDeque<DiskOp>,
    /// The disk was full; it gets its turn again with the next look.
    full: bool,
    ring: WalRing,
    /// What readers rely on.
    published: Positions,
    /// Changes of memory that a planted bug holds back.
    late: Vec<DriverAction>,
    /// The last flush that a planted bug told to be done.
    pretended: Option<WriteId>,
    pub(crate) io_due: bool,
    pub(crate) wake_due: bool,
    pub(crate) flush_due: bool,
    pub(crate) tick_due: Option<u64>,
}

/// What a step wants from the world.
#[derive(Debug)]
pub(crate) enum Out {
    Send(ConnId, AcceptorMessage),
    Close(ConnId, Refusal),
    Answer(AskId, Box<AdmissionAnswer>),
    /// What a reader would have got.
    Misread(String),
}

/// Why a node does not come up.
#[derive(Debug)]
pub(crate) enum OpenFailure {
    /// The disk said no, or the node went down meanwhile: try again.
    Disk,
    /// What is on disk cannot be served.
    Damaged(String),
}

impl Node {
    pub(crate) fn new(id: u64, seed: u64, bug: Option<Bug>) -> Node {
        let disk = FakeDisk::new(seed);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let node = Node { id, disk, shared, live: None, life: 0, clock_ahead_ms: 0, bug };
        node.disk.set_lies(node.lies(false));
        node
    }

    /// What the disk says and does not do, as a planted bug wants it.
    fn lies(&self, opening: bool) -> &'static [Lie] {
        match self.bug {
            Some(Bug::NoDirSync) => &[Lie::NoDirSync],
            Some(Bug::NoTruncateAtOpen) if opening => &[Lie::NoZeroing, Lie::NoRemoval],
            Some(Bug::NoSyncAtOpen) if opening => &[Lie::NoFdatasync, Lie::NoFsync, Lie::NoSyncAll],
            _ => &[],
        }
    }

    pub(crate) fn dir() -> PathBuf {
        PathBuf::from("/data/timeline")
    }

    /// The explicit creation that every member gets.
    pub(crate) fn create(&self, state: &ControlState, prehistory: &[u8]) -> Result<(), StorageError> {
        let staging = PathBuf::from("/staging/timeline");
        let up = |path: &str| self.shared.create_dir_all(&PathBuf::from(path));
        up("/data").and_then(|()| up("/staging")).expect("a fresh disk works");
        self.shared.fsync_dir(&PathBuf::from("/")).expect("a fresh disk works");
        let target = (&SharedDir::new(PathBuf::from("/data")), &*Self::dir());
        let staging = (&SharedDir::new(PathBuf::from("/staging")), &*staging);
        TimelineStorage::create(&self.shared, staging, target, state, Bytes::copy_from_slice(prehistory))
    }

    /// Comes up with what the disk holds; returns the state and the end of the log found.
    pub(crate) fn open(&mut self, sync_first: bool) -> Result<(ControlState, Option<Lsn>), OpenFailure> {
        self.disk.set_lies(self.lies(true));
        let sync_all = || self.shared.sync_all(&Self::dir()).map_err(|_| OpenFailure::Disk);
        // As a starting safekeeper does for all its timelines, or as a running one does for one of them.
        let opened = if sync_first {
            sync_all().and_then(|()| self.open_storage(TimelineStorage::open_at_start)).and_then(|opened| {
                sync_all()?;
                Ok(opened)
            })
        } else {
            self.open_storage(TimelineStorage::open)
        };
        self.disk.set_lies(self.lies(false));
        opened.map(|(live, state, end)| {
            self.live = Some(live);
            (state, end)
        })
    }

    fn open_storage(
        &self,
        open: impl FnOnce(&Arc<dyn Disk>, &Path) -> Result<FoundTimeline, StorageError>,
    ) -> Result<(Live, ControlState, Option<Lsn>), OpenFailure> {
        let down = |e: StorageError| match e {
            // A name that is gone, or damaged bytes: no retry helps.
            e if e.is_corruption() => OpenFailure::Damaged(e.to_string()),
            StorageError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                OpenFailure::Damaged(e.to_string())
            }
            _ => OpenFailure::Disk,
        };
        let (storage, mut state, end) = open(&self.shared, &Self::dir()).map_err(down)?;
        if self.bug == Some(Bug::WrongHistory) {
            misplace_last_term(&mut state);
        }
        let config = AcceptorConfig { commit_persist_ms: 200, ..AcceptorConfig::new(NodeId(self.id)) };
        let acceptor = Acceptor::open(config, state.clone(), end).map_err(|e| OpenFailure::Damaged(e.to_string()))?;
        let live = Live {
            published: acceptor.positions(),
            storage,
            acceptor,
            inbox: VecDeque::new(),
            gathering: Gathering::new(LIMITS),
            work: VecDeque::new(),
            full: false,
            ring: WalRing::new(RING_BYTES),
            late: Vec::new(),
            pretended: None,
            io_due: false,
            wake_due: false,
            flush_due: false,
            tick_due: None,
        };
        Ok((live, state, end.map(|e| e.flush_lsn)))
    }

    pub(crate) fn go_down(&mut self, power: bool) {
        self.live = None;
        self.life += 1;
        if power { self.disk.power_loss() } else { self.disk.process_kill() }
    }

    /// Steps the acceptor and does what can be done; what leaves is returned.
    pub(crate) fn step(&mut self, now_ms: u64, input: Input) -> Vec<Out> {
        self.feed(now_ms, input);
        self.settle()
    }

    fn feed(&mut self, now_ms: u64, input: Input) {
        let Some(live) = &mut self.live else { return };
        let now_ms = now_ms + self.clock_ahead_ms;
        if let Input::Disconnected { conn } = &input {
            live.gathering.disconnected(*conn);
        }
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            live.acceptor.step(now_ms, input, &mut effects);
            effects.into_iter().for_each(|effect| live.absorb(effect, self.bug, &mut inputs));
        }
    }

    /// Takes a batch of what was said to it.
    pub(crate) fn take_inbox(&mut self, now_ms: u64) -> Vec<Out> {
        let mut taken = 0;
        while let Some(live) = &mut self.live {
            let goes_on = match taken {
                0 => live.gathering.takes_commands(&live.acceptor),
                _ => live.gathering.batch_goes_on(&live.acceptor, taken),
            };
            let Some(input) = live.inbox.pop_front_if(|_| goes_on) else { break };
            live.gathering.hold(());
            self.feed(now_ms, input);
            taken += 1;
        }
        self.settle()
    }

    /// What the acceptor says about itself, when it is durable.
    pub(crate) fn statement(&mut self) -> (Option<Statement>, Vec<Out>) {
        let Some(live) = &mut self.live else { return (None, Vec::new()) };
        let (mut effects, mut inputs) = (Vec::new(), VecDeque::new());
        let statement = live.acceptor.statement(&mut effects);
        effects.into_iter().for_each(|effect| live.absorb(effect, self.bug, &mut inputs));
        (statement, self.settle())
    }

    /// The end of a batch: positions are published, and a free disk gets work.
    fn settle(&mut self) -> Vec<Out> {
        let Some(live) = &mut self.live else { return Vec::new() };
        live.gathering.settle(live.work.is_empty() && !live.full, false);
        self.act()
    }

    /// Does the driver's actions in their order.
    fn act(&mut self) -> Vec<Out> {
        let mut out = Vec::new();
        let Some(live) = &mut self.live else { return out };
        let mut actions: Vec<DriverAction> = std::iter::from_fn(|| live.gathering.next_action()).collect();
        if self.bug == Some(Bug::CutBeforePositions) {
            // Stable: only what is published goes behind the disk's work.
            actions.sort_by_key(|action| matches!(action, DriverAction::Publish));
        }
        for action in actions {
            let misread = match action {
                DriverAction::Publish => self.publish(),
                action => self.live.as_mut().and_then(|live| live.act(action, self.bug, &mut out)),
            };
            out.extend(misread.map(Out::Misread));
        }
        out
    }

    /// Readers rely on the positions from now on, and one that keeps up reads what they add.
    fn publish(&mut self) -> Option<String> {
        let live = self.live.as_mut()?;
        let before = live.published.flush_lsn;
        live.published = live.acceptor.positions();
        let flush = live.published.flush_lsn.filter(|flush| Some(*flush) > before)?;
        let misread = before.and_then(|before| self.misread(before, flush));
        let live = self.live.as_mut()?;
        std::mem::take(&mut live.late).into_iter().for_each(|late| live.remember(late));
        misread
    }

    /// What a reader gets from memory of `[from, to)` and does not find in the files.
    fn misread(&self, from: Lsn, to: Lsn) -> Option<String> {
        let in_memory = self.live.as_ref()?.ring.read(from, to)?.concat();
        let in_files = self.read(from, from.add(in_memory.len() as u64))?;
        let id = self.id;
        (in_memory != in_files).then(|| format!("node {id}: memory and files differ between {from} and {to}"))
    }

    /// Runs the next group of disk operations.
    pub(crate) fn run_io(&mut self, now_ms: u64) -> Result<Vec<Out>, StorageError> {
        let mut out = Vec::new();
        if self.live.as_mut().is_some_and(|live| std::mem::take(&mut live.full)) {
            out.extend(self.settle());
        }
        let Some(live) = &mut self.live else { return Ok(out) };
        if let (Some(Bug::CutTooLow), Some(DiskOp::Truncate { to, .. })) = (self.bug, live.work.front_mut()) {
            *to = live.acceptor.positions().timeline_start_lsn.unwrap_or(*to);
        }
        let outcome = run_group(&mut live.storage, &mut live.work);
        live.gathering.turn_done(std::mem::take(&mut live.work), outcome.is_ok());
        live.full = outcome.is_err();
        for input in outcome? {
            let done = match &input {
                Input::Done(write) | Input::Truncated { write, .. } => *write,
                _ => continue,
            };
            self.feed(now_ms, input);
            let Some(live) = &mut self.live else { break };
            live.gathering.completed(done);
        }
        out.extend(self.settle());
        Ok(out)
    }

    /// The log's bytes of `[from, to)` as a reader gets them.
    pub(crate) fn read(&self, from: Lsn, to: Lsn) -> Option<Vec<u8>> {
        let segments = self.live.as_ref()?.storage.wal().segments();
        let mut out = Vec::new();
        let mut at = from;
        while at < to {
            let file = segments.open_for_reading(at).ok()??;
            let offset = at.segment_offset(seg_size());
            let n = (seg_size().bytes() - offset).min(to.get() - at.get());
            let mut buf = vec![0; usize::try_from(n).ok()?];
            if file.read_at(offset, &mut buf).ok()? != buf.len() {
                return None;
            }
            out.extend_from_slice(&buf);
            at = at.add(n);
        }
        Some(out)
    }

    /// Whether the medium holds `bytes` at `from`.
    pub(crate) fn medium_holds(&self, from: Lsn, bytes: &[u8]) -> bool {
        let (mut at, mut rest) = (from, bytes);
        while !rest.is_empty() {
            let offset = at.segment_offset(seg_size());
            let n = usize::try_from(seg_size().bytes() - offset).map_or(rest.len(), |n| n.min(rest.len()));
            if self.disk.medium(&Self::segment_path(at), offset, n).as_deref() != Some(&rest[..n]) {
                return false;
            }
            at = at.add(n as u64);
            rest = &rest[n..];
        }
        true
    }

    pub(crate) fn segment_path(at: Lsn) -> PathBuf {
        Self::dir().join(seg_size().file_name(pgformat::Tli(1), at.segment_no(seg_size())))
    }
}

impl Live {
    /// Whether what was said to it is taken now.
    pub(crate) fn takes_commands(&self) -> bool {
        !self.inbox.is_empty() && self.gathering.takes_commands(&self.acceptor)
    }

    /// Disk operations that are not done.
    pub(crate) fn ops(&self) -> impl Iterator<Item = &DiskOp> {
        self.work.iter().chain(self.gathering.ops())
    }

    /// The driver takes an effect, after what a planted bug does to it.
    fn absorb(&mut self, mut effect: Effect, bug: Option<Bug>, inputs: &mut VecDeque<Input>) {
        match &mut effect {
            Effect::Reply { message, after, .. } => {
                let early = bug == Some(Bug::VoteBeforePersist) && matches!(message, AcceptorMessage::VoteResponse(_));
                let unflushed = self.ops().any(|o| matches!(o, DiskOp::Flush(_)));
                let early = early
                    || (bug == Some(Bug::AckBeforeHistory)
                        && !unflushed
                        && matches!(message, AcceptorMessage::Append(_)));
                *after = after.filter(|a| !early && Some(*a) > self.pretended);
            }
            Effect::Doubted { refusal, .. } => {
                assert!(bug.is_some(), "what an honest member says is refused: {refusal}")
            }
            Effect::Disk(DiskOp::Flush(write))
                if bug == Some(Bug::AckBeforeSync) && self.ops().all(|o| matches!(o, DiskOp::Write { .. })) =>
            {
                self.pretended = Some(*write);
                inputs.push_back(Input::Done(*write));
                return;
            }
            _ => {}
        }
        self.gathering.absorb(effect);
    }

    /// Does one action; `Some` when a reader would have been misled.
    fn act(&mut self, action: DriverAction, bug: Option<Bug>, out: &mut Vec<Out>) -> Option<String> {
        match action {
            DriverAction::Remember { .. } | DriverAction::Forget { .. } if bug == Some(Bug::MemoryAfterPositions) => {
                self.late.push(action);
            }
            DriverAction::Remember { .. } | DriverAction::Forget { .. } => self.remember(action),
            DriverAction::Reply { conn, message } => out.push(Out::Send(conn, message)),
            DriverAction::Close { conn, refusal } => out.push(Out::Close(conn, refusal)),
            DriverAction::Answer { ask, answer } => out.push(Out::Answer(ask, answer)),
            DriverAction::Doubted { .. } | DriverAction::Publish => {}
            DriverAction::Work { ops, .. } => {
                self.work = ops;
                let relied_on = self.published.flush_lsn;
                let cut = self.work.iter().find_map(|op| match op {
                    DiskOp::Truncate { to, .. } if Some(*to) < relied_on => Some(*to),
                    _ => None,
                });
                return cut.map(|to| format!("the log is cut at {to} while readers read up to {relied_on:?}"));
            }
        }
        None
    }

    fn remember(&mut self, change: DriverAction) {
        match change {
            DriverAction::Remember { begin, wal } => self.ring.push(begin, wal),
            DriverAction::Forget { to } => self.ring.cut(to),
            _ => {}
        }
    }
}

fn misplace_last_term(state: &mut ControlState) {
    let mut entries = state.history.entries().to_vec();
    if let [.., before, last] = &mut entries[..]
        && before.lsn < last.lsn
    {
        last.lsn = before.lsn;
    }
    if let Ok(history) = entries.try_into() {
        state.history = history;
    }
}

/// An operation on one line, without the WAL it carries.
pub(crate) fn shown(op: &DiskOp) -> String {
    match op {
        DiskOp::Write { begin, wal } => format!("write {begin}+{}", wal.len()),
        DiskOp::Flush(write) => format!("flush {}", write.0),
        DiskOp::Truncate { write, to } => format!("truncate {} to {to}", write.0),
        DiskOp::Persist { write, state } => {
            format!(
                "persist {} term {} commit {:?} history {:?}",
                write.0,
                state.term,
                state.commit_lsn,
                state.history.last()
            )
        }
    }
}
