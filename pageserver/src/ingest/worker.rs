//! Blocking work of an ingest: one job at a time per resource, which travels to the blocking thread and comes back.

use std::sync::Arc;
use std::time::Instant;

use pgformat::Lsn;
use tokio::task::JoinHandle;

use super::control::{Control, ControlFile};
use super::spool::{Piece, Spool, SpoolError};
use crate::metrics::Metrics;

/// A kind of blocking work.
pub(super) trait Task: Send + 'static {
    /// What it works on.
    type Resource: Send + 'static;
    /// What comes of it.
    type Output: Send + 'static;
    /// Does it. An error ends the timeline's ingest.
    fn run(self, on: &mut Self::Resource, metrics: &Metrics) -> Result<Self::Output, String>;
}

type Done<T> = (<T as Task>::Resource, Result<<T as Task>::Output, String>);

enum State<T: Task> {
    Idle(T::Resource),
    Busy(JoinHandle<Done<T>>),
    /// The work panicked: its resource is lost.
    Lost,
}

/// A resource and the work under way on it.
pub(super) struct Job<T: Task>(State<T>);

impl<T: Task> Job<T> {
    pub(super) fn new(resource: T::Resource) -> Job<T> {
        Job(State::Idle(resource))
    }

    /// Whether no work is under way.
    pub(super) fn is_idle(&self) -> bool {
        !matches!(self.0, State::Busy(_))
    }

    /// The resource, while no work is under way.
    pub(super) fn idle(&self) -> Option<&T::Resource> {
        match &self.0 {
            State::Idle(resource) => Some(resource),
            _ => None,
        }
    }

    /// Starts work; the caller has checked [`Job::is_idle`].
    pub(super) fn start(&mut self, task: T, metrics: &Arc<Metrics>) {
        match std::mem::replace(&mut self.0, State::Lost) {
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

/// Work on the spool.
pub(super) enum Write {
    /// Write and sync; then everything below `boundary` is durable.
    Append { pieces: Vec<Piece>, boundary: Lsn, last_record_start: Option<Lsn> },
    /// Zero what is left of an unfinished record.
    Zero { from: Lsn, to: Lsn },
}

/// What came of it.
pub(super) enum Flushed {
    Durable {
        boundary: Lsn,
        last_record_start: Option<Lsn>,
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
    type Output = Flushed;

    fn run(self, spool: &mut Spool, metrics: &Metrics) -> Result<Flushed, String> {
        match self {
            Write::Zero { from, to } => spool.zero(from, to).map(|()| Flushed::Zeroed).map_err(|e| e.to_string()),
            Write::Append { pieces, boundary, last_record_start } => {
                match spool.write(&pieces) {
                    Ok(()) => {}
                    Err(e @ SpoolError::NoSpace { .. }) => return Ok(Flushed::Full { pieces, why: e.to_string() }),
                    Err(e) => return Err(e.to_string()),
                }
                let began = Instant::now();
                let files = spool.sync().map_err(|e| e.to_string())?;
                metrics.synced(files, began.elapsed());
                Ok(Flushed::Durable { boundary, last_record_start })
            }
        }
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
