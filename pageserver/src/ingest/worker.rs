//! Blocking work of an ingest: one job at a time per resource, which travels to the blocking thread and comes back.

use std::sync::Arc;
use std::time::Instant;

use pgformat::Lsn;
use tokio::task::JoinHandle;

use super::Boundary;
use super::control::{Control, ControlFile};
use super::spool::{Dirty, Piece, Spool, SpoolError};
use crate::metrics::Metrics;

/// So much goes into the page cache in a few microseconds. At the end of a segment that was not prepared in time it may
/// take a sync of the new one, once in a while.
const ON_THE_SPOT_BYTES: usize = 32 << 10;

/// A kind of blocking work.
pub(super) trait Task: Send + 'static {
    /// What it works on.
    type Resource: Send + 'static;
    /// What comes of it.
    type Output: Send + 'static;
    /// Whether it takes less time than waking another thread for it.
    fn is_short(&self) -> bool {
        false
    }
    /// Does it. An error ends the timeline's ingest.
    fn run(self, on: &mut Self::Resource, metrics: &Metrics) -> Result<Self::Output, String>;
}

type Done<T> = (<T as Task>::Resource, Result<<T as Task>::Output, String>);

enum State<T: Task> {
    Idle(T::Resource),
    Busy(JoinHandle<Done<T>>),
    /// Done on the spot; nobody asked for the outcome yet.
    Done(Done<T>),
    /// The work panicked: its resource is lost.
    Lost,
}

impl<T: Task> State<T> {
    fn take_done(&mut self) -> Option<Done<T>> {
        match std::mem::replace(self, State::Lost) {
            State::Done(done) => Some(done),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// A resource and the work under way on it.
pub(super) struct Job<T: Task>(State<T>);

impl<T: Task> Job<T> {
    pub(super) fn new(resource: T::Resource) -> Job<T> {
        Job(State::Idle(resource))
    }

    /// Whether no work is under way.
    pub(super) fn is_idle(&self) -> bool {
        !matches!(self.0, State::Busy(_) | State::Done(_))
    }

    /// The resource, while no work is under way.
    pub(super) fn idle(&self) -> Option<&T::Resource> {
        match &self.0 {
            State::Idle(resource) => Some(resource),
            _ => None,
        }
    }

    /// The resource for a short change that does not block, while no work is under way.
    pub(super) fn idle_mut(&mut self) -> Option<&mut T::Resource> {
        match &mut self.0 {
            State::Idle(resource) => Some(resource),
            _ => None,
        }
    }

    /// Starts work, and does it when it is short; the caller has checked [`Job::is_idle`].
    pub(super) fn start(&mut self, task: T, metrics: &Arc<Metrics>) {
        match std::mem::replace(&mut self.0, State::Lost) {
            State::Idle(mut resource) if task.is_short() => {
                let output = task.run(&mut resource, metrics);
                self.0 = State::Done((resource, output));
            }
            State::Idle(mut resource) => {
                let metrics = metrics.clone();
                self.0 = State::Busy(tokio::task::spawn_blocking(move || {
                    let output = task.run(&mut resource, &metrics);
                    (resource, output)
                }));
            }
            other => self.0 = other,
        }
    }

    /// Waits for the work under way; for ever when there is none. Cancel safe.
    pub(super) async fn done(&mut self) -> Result<T::Output, String> {
        if let Some((resource, output)) = self.0.take_done() {
            self.0 = State::Idle(resource);
            return output;
        }
        let State::Busy(handle) = &mut self.0 else { return std::future::pending().await };
        match handle.await {
            Ok((resource, output)) => {
                self.0 = State::Idle(resource);
                output
            }
            Err(e) => {
                self.0 = State::Lost;
                Err(format!("a disk job ended abnormally: {e}"))
            }
        }
    }
}

/// Work on the spool: none of it waits for the disk to be synced.
pub(super) enum Write {
    /// Write; then every record below `end` is in the files.
    Append { pieces: Vec<Piece>, end: Boundary },
    /// Zero what is left of an unfinished record.
    Zero { from: Lsn, to: Lsn },
}

/// What came of it.
pub(super) enum Written {
    /// The pieces are in the files, so many bytes.
    Appended {
        end: Boundary,
        bytes: u64,
    },
    Zeroed,
    /// Nothing was written.
    Full {
        pieces: Vec<Piece>,
        why: String,
    },
}

impl Task for Write {
    type Resource = Spool;
    type Output = Written;

    fn is_short(&self) -> bool {
        let Write::Append { pieces, .. } = self else { return false };
        pieces.iter().map(|p| p.wal.len()).sum::<usize>() <= ON_THE_SPOT_BYTES
    }

    fn run(self, spool: &mut Spool, _: &Metrics) -> Result<Written, String> {
        match self {
            Write::Zero { from, to } => spool.zero(from, to).map(|()| Written::Zeroed).map_err(|e| e.to_string()),
            Write::Append { pieces, end } => match spool.write(&pieces) {
                Ok(()) => Ok(Written::Appended { end, bytes: pieces.iter().map(|p| p.wal.len() as u64).sum() }),
                Err(e @ SpoolError::NoSpace { .. }) => Ok(Written::Full { pieces, why: e.to_string() }),
                Err(e) => Err(e.to_string()),
            },
        }
    }
}

/// Syncs files beside the writes; then every record below `end` is durable.
pub(super) struct Sync {
    pub(super) files: Dirty,
    pub(super) end: Boundary,
}

impl Task for Sync {
    type Resource = ();
    type Output = Boundary;

    fn run(self, (): &mut (), metrics: &Metrics) -> Result<Boundary, String> {
        let began = Instant::now();
        let files = self.files.sync().map_err(|e| e.to_string())?;
        metrics.synced(files, began.elapsed());
        Ok(self.end)
    }
}

/// Saves the control file.
pub(super) struct Save(pub(super) Control);

impl Task for Save {
    type Resource = ControlFile;
    type Output = Control;

    fn run(self, file: &mut ControlFile, _: &Metrics) -> Result<Control, String> {
        file.save(&self.0).map(|()| self.0).map_err(|e| e.to_string())
    }
}
