//! One simulated safekeeper: the real acceptor, the real storage and the real grouping of effects, on a [`FakeDisk`].
//!
//! Owns both, and the replies that wait for the disk. It is a driver in miniature: effects become disk operations and
//! messages, completions become inputs.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use disk::{Disk, FakeDisk, Lie};
use pgformat::Lsn;
use proto::admission::{Answer, Statement};
use proto::consensus::AcceptorMessage;
use proto::id::NodeId;
use safekeeper::core::{Acceptor, AcceptorConfig, AskId, ConnId, ControlState, Effect, Input, Refusal, WriteId};
use safekeeper::storage::shared_dir::SharedDir;
use safekeeper::storage::timeline::FoundTimeline;
use safekeeper::storage::{Op, StorageError, TimelineStorage, run_group};

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

/// What a process holds in memory.
pub(crate) struct Live {
    pub(crate) storage: TimelineStorage,
    pub(crate) acceptor: Acceptor,
    pub(crate) ops: VecDeque<Op>,
    waiting: Vec<(ConnId, AcceptorMessage, WriteId)>,
    answers: Vec<(AskId, Box<Answer>, WriteId)>,
    /// The last flush that a planted bug told to be done.
    pretended: Option<WriteId>,
    pub(crate) io_due: bool,
    pub(crate) flush_due: bool,
    pub(crate) tick_due: Option<u64>,
}

/// What a step wants from the world.
#[derive(Debug)]
pub(crate) enum Out {
    Send(ConnId, AcceptorMessage),
    Close(ConnId, Refusal),
    Answer(AskId, Box<Answer>),
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
            storage,
            acceptor,
            ops: VecDeque::new(),
            waiting: Vec::new(),
            answers: Vec::new(),
            pretended: None,
            io_due: false,
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

    /// Steps the acceptor; disk effects are queued, what can leave is returned.
    pub(crate) fn step(&mut self, now_ms: u64, input: Input) -> Vec<Out> {
        let Some(live) = &mut self.live else { return Vec::new() };
        let now_ms = now_ms + self.clock_ahead_ms;
        let mut out = Vec::new();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            live.acceptor.step(now_ms, input, &mut effects);
            for effect in effects {
                live.route(effect, self.bug, &mut out, &mut inputs);
            }
        }
        out
    }

    /// What the acceptor says about itself, when it is durable.
    pub(crate) fn statement(&mut self) -> (Option<Statement>, Vec<Out>) {
        let Some(live) = &mut self.live else { return (None, Vec::new()) };
        let (mut effects, mut out, mut inputs) = (Vec::new(), Vec::new(), VecDeque::new());
        let statement = live.acceptor.statement(&mut effects);
        effects.into_iter().for_each(|effect| live.route(effect, self.bug, &mut out, &mut inputs));
        (statement, out)
    }

    /// Runs the next group of disk operations.
    pub(crate) fn run_io(&mut self, now_ms: u64) -> Result<Vec<Out>, StorageError> {
        let Some(live) = &mut self.live else { return Ok(Vec::new()) };
        if let (Some(Bug::CutTooLow), Some(Op::Truncate { to, .. })) = (self.bug, live.ops.front_mut()) {
            *to = live.acceptor.positions().timeline_start_lsn.unwrap_or(*to);
        }
        let completions = run_group(&mut live.storage, &mut live.ops)?;
        let mut out = Vec::new();
        for input in completions {
            let done = match &input {
                Input::Done(write) | Input::Truncated { write, .. } => *write,
                _ => continue,
            };
            out.extend(self.step(now_ms, input));
            let Some(live) = &mut self.live else { break };
            for (conn, message, after) in std::mem::take(&mut live.waiting) {
                if after <= done {
                    out.push(Out::Send(conn, message));
                } else {
                    live.waiting.push((conn, message, after));
                }
            }
            for (ask, answer, after) in std::mem::take(&mut live.answers) {
                if after <= done {
                    out.push(Out::Answer(ask, answer));
                } else {
                    live.answers.push((ask, answer, after));
                }
            }
        }
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
    fn route(&mut self, effect: Effect, bug: Option<Bug>, out: &mut Vec<Out>, inputs: &mut VecDeque<Input>) {
        match effect {
            Effect::Reply { conn, message, after } => {
                let early = bug == Some(Bug::VoteBeforePersist) && matches!(message, AcceptorMessage::VoteResponse(_));
                let unflushed = self.ops.iter().any(|o| matches!(o, Op::Flush(_)));
                let early = early
                    || (bug == Some(Bug::AckBeforeHistory)
                        && !unflushed
                        && matches!(message, AcceptorMessage::Append(_)));
                match after.filter(|a| !early && Some(*a) > self.pretended) {
                    Some(after) => self.waiting.push((conn, message, after)),
                    None => out.push(Out::Send(conn, message)),
                }
            }
            Effect::Close { conn, refusal } => {
                self.waiting.retain(|(c, ..)| *c != conn);
                out.push(Out::Close(conn, refusal));
            }
            Effect::Answer { ask, answer, after: Some(after) } => self.answers.push((ask, answer, after)),
            Effect::Answer { ask, answer, after: None } => out.push(Out::Answer(ask, answer)),
            Effect::Doubted { refusal, .. } => {
                assert!(bug.is_some(), "what an honest member says is refused: {refusal}")
            }
            Effect::Flush(write)
                if bug == Some(Bug::AckBeforeSync) && self.ops.iter().all(|o| matches!(o, Op::Write { .. })) =>
            {
                self.pretended = Some(write);
                inputs.push_back(Input::Done(write));
            }
            effect => self.ops.extend(Op::from_effect(effect)),
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
pub(crate) fn shown(op: &Op) -> String {
    match op {
        Op::Write { begin, wal } => format!("write {begin}+{}", wal.len()),
        Op::Flush(write) => format!("flush {}", write.0),
        Op::Truncate { write, to } => format!("truncate {} to {to}", write.0),
        Op::Persist { write, state } => {
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
