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
use crate::core::{DiskOp, Input};

/// Runs the first group of `ops` and takes it off the queue; completions in order. An empty queue is no group.
///
/// # Errors
/// [`StorageError::NoSpace`]: nothing happened, the queue is as it was; repeat later. Any other: the timeline must be
/// opened anew, the queue is worthless.
pub fn run_group(storage: &mut TimelineStorage, ops: &mut VecDeque<DiskOp>) -> Result<Vec<Input>, StorageError> {
    match ops.front() {
        None => Ok(Vec::new()),
        Some(DiskOp::Write { .. } | DiskOp::Flush(_)) => run_writes(storage, ops),
        Some(DiskOp::Truncate { write, to }) => {
            let (write, to) = (*write, *to);
            let end = storage.truncate(to)?;
            ops.pop_front();
            Ok(vec![Input::Truncated { write, end }])
        }
        Some(DiskOp::Persist { write, state }) => {
            storage.persist(state)?;
            let write = *write;
            ops.pop_front();
            Ok(vec![Input::Done(write)])
        }
    }
}

fn run_writes(storage: &mut TimelineStorage, ops: &mut VecDeque<DiskOp>) -> Result<Vec<Input>, StorageError> {
    let mut slices: Vec<Bytes> = Vec::new();
    let mut start: Option<Lsn> = None;
    let mut end: Option<Lsn> = None;
    let mut flushed = Vec::new();
    let mut taken = 0;
    for op in ops.iter() {
        match op {
            // A jump over switch fill starts the next group.
            DiskOp::Write { begin, .. } if end.is_some_and(|e| e != *begin) => break,
            DiskOp::Write { begin, wal } => {
                start = start.or(Some(*begin));
                end = begin.checked_add(wal.len() as u64);
                slices.push(wal.clone());
            }
            DiskOp::Flush(write) => flushed.push(Input::Done(*write)),
            DiskOp::Truncate { .. } | DiskOp::Persist { .. } => break,
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
