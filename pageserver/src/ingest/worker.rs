//! Blocking work of an ingest: one job at a time per resource, which travels to the blocking thread and comes back.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;

use super::engine::is_final;
use crate::metrics::Metrics;
use crate::store::Store;

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

/// Writes frozen layers.
pub(super) struct Flush {
    /// The number of the last choice, remembered with them.
    pub(super) choice_seq: u64,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Flushed {
    /// Nothing waits any more.
    Done,
    /// Storage is full or away.
    Later(String),
    /// Nothing is written any more until a restart.
    Never(String),
}

impl Task for Flush {
    type Resource = Arc<Store>;
    type Output = Flushed;

    fn run(self, store: &mut Arc<Store>, metrics: &Metrics) -> Result<Flushed, String> {
        let began = Instant::now();
        let mut files = 0;
        loop {
            match store.flush_one() {
                Ok(true) => files += 1,
                Ok(false) => break,
                Err(e) if is_final(&e) => return Ok(Flushed::Never(e.to_string())),
                Err(e) => return Ok(Flushed::Later(e.to_string())),
            }
        }
        if self.choice_seq > store.choice_seq()
            && let Err(e) = store.set_choice_seq(self.choice_seq)
        {
            return Ok(Flushed::Later(e.to_string()));
        }
        if files > 0 {
            metrics.synced(files, began.elapsed());
        }
        Ok(Flushed::Done)
    }
}
