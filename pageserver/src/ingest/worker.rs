//! Blocking work of an ingest: one job at a time per resource, which travels to the blocking thread and comes back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use node::parts::{panic_of, panic_text};
use tokio::task::JoinHandle;

use crate::metrics::Metrics;
use crate::store::{Store, WriteError};

/// A kind of blocking work.
pub(super) trait BlockingTask: Send + 'static {
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

type Done<T> = (<T as BlockingTask>::Resource, Result<<T as BlockingTask>::Output, String>);

enum JobState<T: BlockingTask> {
    Idle(T::Resource),
    Busy(JoinHandle<Done<T>>),
    /// Done on the spot; nobody asked for the outcome yet.
    Done(Done<T>),
    /// The work panicked, and nobody asked for the outcome yet.
    Panicked(String),
    /// The work panicked: its resource is lost.
    Lost,
}

impl<T: BlockingTask> JobState<T> {
    /// What was done on the spot; after a panic the resource is lost.
    fn take_done(&mut self) -> Option<Result<T::Output, String>> {
        let (next, done) = match std::mem::replace(self, JobState::Lost) {
            JobState::Done((resource, output)) => (JobState::Idle(resource), Some(output)),
            JobState::Panicked(panic) => (JobState::Lost, Some(Err(panicked(&panic)))),
            other => (other, None),
        };
        *self = next;
        done
    }
}

/// A resource and the work under way on it.
pub(super) struct BlockingJob<T: BlockingTask>(JobState<T>);

impl<T: BlockingTask> BlockingJob<T> {
    pub(super) fn new(resource: T::Resource) -> BlockingJob<T> {
        BlockingJob(JobState::Idle(resource))
    }

    /// Whether no work is under way.
    pub(super) fn is_idle(&self) -> bool {
        !matches!(self.0, JobState::Busy(_) | JobState::Done(_) | JobState::Panicked(_))
    }

    /// The resource for a short change that does not block, while no work is under way.
    pub(super) fn idle_mut(&mut self) -> Option<&mut T::Resource> {
        match &mut self.0 {
            JobState::Idle(resource) => Some(resource),
            _ => None,
        }
    }

    /// Starts work, and does it when it is short; the caller has checked [`BlockingJob::is_idle`].
    pub(super) fn start(&mut self, task: T, metrics: &Arc<Metrics>) {
        match std::mem::replace(&mut self.0, JobState::Lost) {
            JobState::Idle(mut resource) if task.is_short() => {
                let ran = catch_unwind(AssertUnwindSafe(|| task.run(&mut resource, metrics)));
                self.0 = match ran {
                    Ok(output) => JobState::Done((resource, output)),
                    Err(panic) => JobState::Panicked(panic_text(&*panic)),
                };
            }
            JobState::Idle(mut resource) => {
                let metrics = metrics.clone();
                self.0 = JobState::Busy(tokio::task::spawn_blocking(move || {
                    let output = task.run(&mut resource, &metrics);
                    (resource, output)
                }));
            }
            other => self.0 = other,
        }
    }

    /// Waits for the work under way; for ever when there is none. Cancel safe.
    pub(super) async fn done(&mut self) -> Result<T::Output, String> {
        if let Some(output) = self.0.take_done() {
            return output;
        }
        let JobState::Busy(handle) = &mut self.0 else { return std::future::pending().await };
        match handle.await {
            Ok((resource, output)) => {
                self.0 = JobState::Idle(resource);
                output
            }
            Err(e) => {
                self.0 = JobState::Lost;
                Err(panicked(&panic_of(e)))
            }
        }
    }
}

fn panicked(panic: &str) -> String {
    format!("its ingest panicked: {panic}")
}

/// Whether repeating does not help.
pub(super) fn is_final(e: &WriteError) -> bool {
    use blobs::BlobErrorKind;
    matches!(e.kind(), BlobErrorKind::Terminal | BlobErrorKind::NotFound)
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

impl BlockingTask for Flush {
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Dies {
        is_short: bool,
    }

    impl BlockingTask for Dies {
        type Resource = ();
        type Output = ();

        fn is_short(&self) -> bool {
            self.is_short
        }

        fn run(self, (): &mut (), _: &Metrics) -> Result<(), String> {
            panic!("planted")
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_outcome_wherever_the_work_is_done() {
        for is_short in [false, true] {
            let mut job = BlockingJob::new(());
            job.start(Dies { is_short }, &Arc::new(Metrics::new()));
            assert!(!job.is_idle());
            assert_eq!(job.done().await, Err("its ingest panicked: planted".to_owned()));
        }
    }
}
