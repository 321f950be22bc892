//! Parts of a process that must not die.
//!
//! A server consists of named parts: tasks that run until the process stops. Users rely on every part. So when a part
//! ends by itself or panics, the process ends with an error that names the part. A supervisor starts it again, and a
//! process that does half of its work never passes for healthy.
//!
//! A task that serves one timeline is not a part of the server: [`caught`] and [`blocking`] report its panic to the
//! owner of the timeline. That owner stops the timeline and says why, while other timelines go on.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// A part that was not started yet.
pub struct Part {
    name: &'static str,
    work: BoxFuture<'static, ()>,
}

impl Part {
    /// `work` runs until the process stops; `name` is for the error when it does not.
    pub fn new(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Part {
        Part { name, work: work.boxed() }
    }

    /// `work` that ends at `cancel`, wherever it is then.
    pub fn until(
        name: &'static str,
        cancel: CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Part {
        Part::new(name, async move {
            cancel.run_until_cancelled(work).await;
        })
    }

    /// Its name, as the error has it.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// The parts of a running process.
pub struct RunningParts {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    cancel: CancellationToken,
}

/// A part ended before the process was told to stop.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the {part} {how}")]
pub struct PartDied {
    /// The name of the part.
    pub part: &'static str,
    /// `ended by itself`, or `panicked: ...`.
    pub how: String,
}

impl RunningParts {
    /// Starts all of them; each is to end when `cancel` is cancelled.
    pub fn start(parts: Vec<Part>, cancel: CancellationToken) -> RunningParts {
        let mut tasks = JoinSet::new();
        let names = parts.into_iter().map(|part| (tasks.spawn(part.work).id(), part.name)).collect();
        RunningParts { tasks, names, cancel }
    }

    /// Waits until every part has ended. The first one that ends unasked cancels the token, so that the others follow.
    ///
    /// # Errors
    /// The first part that ended unasked, or panicked while it stopped. Each one is logged.
    pub async fn ended(mut self) -> Result<(), PartDied> {
        let mut died = Ok(());
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let (id, how) = match ended {
                Ok((_, ())) if self.cancel.is_cancelled() => continue,
                Ok((id, ())) => (id, "ended by itself".to_owned()),
                Err(e) => (e.id(), format!("panicked: {}", panic_of(e))),
            };
            let one = PartDied { part: self.names.get(&id).copied().unwrap_or("part"), how };
            tracing::error!("{one}: the process ends");
            if died.is_ok() {
                died = Err(one);
            }
            self.cancel.cancel();
        }
        died
    }
}

/// Runs `work`; a panic in it becomes an error with its text.
///
/// # Errors
/// What the panic said.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| panic_text(&*panic))
}

/// Runs `work` on a thread that may block, and waits for it. Its panic goes on here.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The runtime is shutting down, and so is the task that waits here.
        Err(_) => std::future::pending().await,
    }
}

/// What a task's panic said.
pub fn panic_of(e: JoinError) -> String {
    match e.try_into_panic() {
        Ok(panic) => panic_text(&*panic),
        Err(e) => e.to_string(),
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lasting(cancel: &CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        cancel.clone().cancelled_owned()
    }

    #[tokio::test]
    async fn parts_end_in_order_when_asked() {
        let cancel = CancellationToken::new();
        let list = vec![Part::new("ear", lasting(&cancel)), Part::new("mouth", lasting(&cancel))];
        assert_eq!(list[1].name(), "mouth");
        let parts = RunningParts::start(list, cancel.clone());
        cancel.cancel();
        assert_eq!(parts.ended().await, Ok(()));
    }

    #[tokio::test]
    async fn one_that_ends_by_itself_takes_the_others_along_and_is_named() {
        let cancel = CancellationToken::new();
        let list = vec![Part::new("ear", lasting(&cancel)), Part::new("mouth", std::future::ready(()))];
        let died = RunningParts::start(list, cancel.clone()).ended().await.expect_err("the mouth died");
        assert_eq!(died.to_string(), "the mouth ended by itself");
        assert!(cancel.is_cancelled());
    }

    #[tokio::test]
    async fn one_that_panics_takes_the_others_along_and_is_named() {
        let cancel = CancellationToken::new();
        let list = vec![Part::new("ear", async { panic!("{} legs", 3) }), Part::new("mouth", lasting(&cancel))];
        let died = RunningParts::start(list, cancel.clone()).ended().await.expect_err("the ear died");
        assert_eq!(died.to_string(), "the ear panicked: 3 legs");
    }

    #[tokio::test]
    async fn a_panic_while_stopping_is_an_error_too() {
        let cancel = CancellationToken::new();
        let stop = lasting(&cancel);
        let list = vec![Part::new("ear", async {
            stop.await;
            panic!("too late")
        })];
        let parts = RunningParts::start(list, cancel.clone());
        cancel.cancel();
        assert_eq!(parts.ended().await.map_err(|d| d.how), Err("panicked: too late".to_owned()));
    }

    #[tokio::test]
    async fn panics_of_futures_and_of_blocking_work_are_caught_with_their_text() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        assert_eq!(caught(blocking(|| 8)).await, Ok(8));
        let lost: Result<(), _> = caught(blocking(|| panic!("page {}", 9))).await;
        assert_eq!(lost, Err("page 9".to_owned()));
    }
}
