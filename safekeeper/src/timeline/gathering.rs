//! What a timeline's driver gathers between two turns of the disk, and the order in which it is done.
//!
//! Owner of the disk effects that wait, of the budgets that they hold, and of answers until they may leave. Pure: the
//! driver does the actions on tokio, the simulator on its queue of events. Every rule about order is kept here:
//!
//! - memory, then positions: readers take WAL from memory up to the positions, so memory changes before them;
//! - positions, then a truncation: readers read files up to the positions, so these fall before the log is cut;
//! - a sync, then the answers that wait for it, for one connection in order;
//! - what a turn of the disk left undone, then what was gathered meanwhile.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use pgformat::Lsn;
use proto::admission::AdmissionAnswer;
use proto::consensus::AcceptorMessage;

use crate::core::{Acceptor, AskId, ConnId, DiskOp, Effect, Refusal, WriteId};

/// How much is gathered at a time.
#[derive(Clone, Copy, Debug)]
pub struct GatherLimits {
    /// Commands taken before the disk gets its turn, at most.
    pub batch_commands: usize,
    /// WAL gathered before the disk gets its turn, at most, in bytes: larger groups gain nothing, and this bounds how
    /// long a flush is held.
    pub batch_bytes: usize,
    /// WAL gathered while the disk works, at most, in bytes.
    pub gathered_bytes: usize,
}

impl GatherLimits {
    /// What servers use. Twice a batch is half of a connection's queue, so that with a slow disk one half is received
    /// while the other is written.
    pub const SERVER: GatherLimits =
        GatherLimits { batch_commands: 256, batch_bytes: 1 << 20, gathered_bytes: 2 << 20 };
}

/// One thing that a driver does. Actions are done in the order in which they come.
#[derive(Debug)]
pub enum DriverAction {
    /// Put WAL into memory, for readers that keep up.
    Remember {
        /// Position of the first byte.
        begin: Lsn,
        /// The bytes, as they came.
        wal: Bytes,
    },
    /// Drop from memory everything from `to` on.
    Forget {
        /// Where the log is cut.
        to: Lsn,
    },
    /// Readers may rely on the acceptor's positions as they are now.
    Publish,
    /// The disk does these effects next, in order.
    Work {
        /// Disk effects, oldest first.
        ops: VecDeque<DiskOp>,
        /// And gives back what only an active timeline needs.
        rest: bool,
    },
    /// Send a message to a proposer.
    Reply {
        /// Number of its connection.
        conn: ConnId,
        /// What the acceptor says; feedback may be added.
        message: AcceptorMessage,
    },
    /// Tell a proposer why, and end its connection.
    Close {
        /// Number of its connection.
        conn: ConnId,
        /// Why, for the error message.
        refusal: Refusal,
    },
    /// Answer another member's question.
    Answer {
        /// The question that it answers.
        ask: AskId,
        /// What this member remembers and promises.
        answer: Box<AdmissionAnswer>,
    },
    /// What another member said is refused, and changed nothing.
    Doubted {
        /// The question, when it was one.
        ask: Option<AskId>,
        /// What is wrong with it.
        refusal: Refusal,
    },
}

/// What is gathered. `P` is a piece of a connection's budget: it is held until its WAL is durable.
#[derive(Debug)]
pub struct Gathering<P> {
    limits: GatherLimits,
    ops: VecDeque<DiskOp>,
    /// Bytes of WAL in `ops`.
    bytes: usize,
    /// Budgets of what is gathered.
    gathered: Vec<P>,
    /// Budgets of what the disk works on.
    working: Vec<P>,
    /// Everything up to this is durable.
    done: Option<WriteId>,
    replies: BTreeMap<ConnId, VecDeque<(WriteId, AcceptorMessage)>>,
    answers: Vec<(WriteId, AskId, Box<AdmissionAnswer>)>,
    actions: VecDeque<DriverAction>,
}

impl<P> Gathering<P> {
    /// Nothing is gathered yet.
    pub fn new(limits: GatherLimits) -> Gathering<P> {
        Gathering {
            limits,
            ops: VecDeque::new(),
            bytes: 0,
            gathered: Vec::new(),
            working: Vec::new(),
            done: None,
            replies: BTreeMap::new(),
            answers: Vec::new(),
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<DriverAction> {
        self.actions.pop_front()
    }

    /// Whether nothing waits for the disk.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Disk effects that wait, oldest first.
    pub fn ops(&self) -> &VecDeque<DiskOp> {
        &self.ops
    }

    /// Whether a command may be taken now: not while the log is being cut, nor while enough is gathered.
    pub fn takes_commands(&self, acceptor: &Acceptor) -> bool {
        !acceptor.busy() && self.bytes < self.limits.gathered_bytes
    }

    /// Whether a batch that has taken so many commands takes another one before the disk gets its turn.
    pub fn batch_goes_on(&self, acceptor: &Acceptor, taken: usize) -> bool {
        taken < self.limits.batch_commands && !acceptor.busy() && self.bytes < self.limits.batch_bytes
    }

    /// Holds a piece of a budget for the command that is taken now.
    pub fn hold(&mut self, piece: P) {
        self.gathered.push(piece);
    }

    /// Takes one effect of the acceptor.
    pub fn absorb(&mut self, effect: Effect) {
        match effect {
            Effect::Reply { conn, message, after } => self.reply(conn, message, after),
            Effect::Answer { ask, answer, after } => match after.filter(|after| Some(*after) > self.done) {
                Some(after) => self.answers.push((after, ask, answer)),
                None => self.actions.push_back(DriverAction::Answer { ask, answer }),
            },
            Effect::Doubted { ask, refusal } => self.actions.push_back(DriverAction::Doubted { ask, refusal }),
            Effect::Close { conn, refusal } => {
                self.replies.remove(&conn);
                self.actions.push_back(DriverAction::Close { conn, refusal });
            }
            Effect::Disk(op) => self.disk_op(op),
        }
    }

    fn disk_op(&mut self, op: DiskOp) {
        match &op {
            DiskOp::Write { begin, wal } => {
                self.bytes += wal.len();
                self.actions.push_back(DriverAction::Remember { begin: *begin, wal: wal.clone() });
            }
            DiskOp::Truncate { to, .. } => self.actions.push_back(DriverAction::Forget { to: *to }),
            DiskOp::Flush(_) | DiskOp::Persist { .. } => {}
        }
        self.ops.push_back(op);
    }

    fn reply(&mut self, conn: ConnId, message: AcceptorMessage, after: Option<WriteId>) {
        match after.filter(|after| Some(*after) > self.done) {
            Some(after) => self.replies.entry(conn).or_default().push_back((after, message)),
            None => self.actions.push_back(DriverAction::Reply { conn, message }),
        }
    }

    /// A connection ended: nobody waits for its answers.
    pub fn disconnected(&mut self, conn: ConnId) {
        self.replies.remove(&conn);
    }

    /// Whether [`Input::FlushNow`](crate::core::Input::FlushNow) is due when the disk is free: the queue ran empty or
    /// enough was gathered, so whatever no flush covers yet is covered now.
    pub fn flush_due(&self, acceptor: &Acceptor) -> bool {
        acceptor.dirty() && !acceptor.busy()
    }

    /// A batch is over: the positions are published, and a free disk gets what was gathered, or only the word to
    /// `rest`.
    pub fn settle(&mut self, disk_is_free: bool, rest: bool) {
        self.actions.push_back(DriverAction::Publish);
        if disk_is_free && (rest || !self.ops.is_empty()) {
            self.working.append(&mut self.gathered);
            self.bytes = 0;
            self.actions.push_back(DriverAction::Work { ops: std::mem::take(&mut self.ops), rest });
        }
    }

    /// A turn of the disk ended and left these effects undone; `well`: nothing failed.
    pub fn turn_done(&mut self, mut left: VecDeque<DiskOp>, well: bool) {
        if well && left.iter().all(|op| op.wal_len() == 0) {
            self.working.clear();
        }
        left.append(&mut self.ops);
        self.ops = left;
        self.bytes = self.ops.iter().map(DiskOp::wal_len).sum();
    }

    /// Everything up to `write` is durable, and the acceptor knows it.
    pub fn completed(&mut self, write: WriteId) {
        self.done = self.done.max(Some(write));
        for (conn, waiting) in &mut self.replies {
            while let Some((_, message)) = waiting.pop_front_if(|(after, _)| *after <= write) {
                self.actions.push_back(DriverAction::Reply { conn: *conn, message });
            }
        }
        for (_, ask, answer) in self.answers.extract_if(.., |(after, ..)| *after <= write) {
            self.actions.push_back(DriverAction::Answer { ask, answer });
        }
    }

    /// A write or sync failed: nothing that waits is done, nobody who waits is answered.
    pub fn abandon(&mut self) {
        self.ops.clear();
        self.bytes = 0;
        self.gathered.clear();
        self.working.clear();
        self.replies.clear();
        self.answers.clear();
    }

    /// A new acceptor counts its writes from the beginning.
    pub fn restart(&mut self) {
        self.done = None;
    }
}
