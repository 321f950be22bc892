//! Effects of the acceptor run against storage, grouped: many writes and flushes become one gather write and one
//! fdatasync.
//!
//! Owner of the queue of what is still to be done. The same code runs in the drivers and in the simulator. Order is
//! the acceptor's; only neighbouring writes and flushes are merged.

use std::collections::VecDeque;

use bytes::Bytes;
use pgformat::Lsn;

use super::error::StorageError;
use super::timeline::TimelineStorage;
use crate::core::{ControlState, Effect, Input, WriteId};

/// An effect that concerns the disk.
#[derive(Clone, Debug)]
pub enum Op {
    /// Write WAL behind the end of the log.
    Write {
        /// Position of the first byte.
        begin: Lsn,
        /// The bytes, as they came.
        wal: Bytes,
    },
    /// Make everything written durable.
    Flush(WriteId),
    /// Cut the log.
    Truncate {
        /// Name of the completion.
        write: WriteId,
        /// The new end, a record boundary.
        to: Lsn,
    },
    /// Write the control file.
    Persist {
        /// Name of the completion.
        write: WriteId,
        /// The whole state, as the control file has it.
        state: Box<ControlState>,
    },
}

impl Op {
    /// The disk's part of an effect, or the effect back when it is none.
    ///
    /// # Errors
    /// The effect itself, unchanged, when it does not concern the disk.
    #[expect(clippy::result_large_err, reason = "the effect is handed back, not reported")]
    pub fn from_effect(effect: Effect) -> Result<Op, Effect> {
        match effect {
            Effect::Write { begin, wal } => Ok(Op::Write { begin, wal }),
            Effect::Flush(write) => Ok(Op::Flush(write)),
            Effect::Truncate { write, to } => Ok(Op::Truncate { write, to }),
            Effect::Persist { write, state } => Ok(Op::Persist { write, state }),
            other @ (Effect::Reply { .. } | Effect::Close { .. } | Effect::Answer { .. } | Effect::Doubted { .. }) => {
                Err(other)
            }
        }
    }

    /// Bytes of WAL that it carries.
    pub fn wal_len(&self) -> usize {
        if let Op::Write { wal, .. } = self { wal.len() } else { 0 }
    }
}

/// Runs the first group of `ops` and takes it off the queue; completions in order. An empty queue is no group.
///
/// # Errors
/// [`StorageError::NoSpace`]: nothing happened, the queue is as it was; repeat later. Any other: the timeline must be
/// opened anew, the queue is worthless.
pub fn run_group(storage: &mut TimelineStorage, ops: &mut VecDeque<Op>) -> Result<Vec<Input>, StorageError> {
    match ops.front() {
        None => Ok(Vec::new()),
        Some(Op::Write { .. } | Op::Flush(_)) => run_writes(storage, ops),
        Some(Op::Truncate { write, to }) => {
            let (write, to) = (*write, *to);
            let end = storage.truncate(to)?;
            ops.pop_front();
            Ok(vec![Input::Truncated { write, end }])
        }
        Some(Op::Persist { write, state }) => {
            storage.persist(state)?;
            let write = *write;
            ops.pop_front();
            Ok(vec![Input::Done(write)])
        }
    }
}

fn run_writes(storage: &mut TimelineStorage, ops: &mut VecDeque<Op>) -> Result<Vec<Input>, StorageError> {
    let mut slices: Vec<Bytes> = Vec::new();
    let mut start: Option<Lsn> = None;
    let mut end: Option<Lsn> = None;
    let mut flushed = Vec::new();
    let mut taken = 0;
    for op in ops.iter() {
        match op {
            // A jump over switch fill starts the next group.
            Op::Write { begin, .. } if end.is_some_and(|e| e != *begin) => break,
            Op::Write { begin, wal } => {
                start = start.or(Some(*begin));
                end = begin.checked_add(wal.len() as u64);
                slices.push(wal.clone());
            }
            Op::Flush(write) => flushed.push(Input::Done(*write)),
            Op::Truncate { .. } | Op::Persist { .. } => break,
        }
        taken += 1;
    }
    if let Some(begin) = start {
        storage.write(begin, &slices)?;
    }
    if !flushed.is_empty() {
        storage.flush()?;
    }
    ops.drain(..taken);
    Ok(flushed)
}
