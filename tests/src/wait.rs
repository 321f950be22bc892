//! Waits for a condition with a deadline: the only place in the tests that pauses.

use std::time::{Duration, Instant};

/// Pause between two looks.
const STEP: Duration = Duration::from_millis(2);

/// Looks until there is something to see.
///
/// # Panics
/// After `patience`, naming what did not happen.
pub async fn until<T>(what: &str, patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {patience:?}");
        tokio::time::sleep(STEP).await;
    }
}

/// As [`until`], without a runtime.
///
/// # Panics
/// After `patience`, naming what did not happen.
pub fn until_blocking<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {patience:?}");
        std::thread::sleep(STEP);
    }
}

/// Lets time pass while something else is measured. Never for waiting: what has to happen is looked for with [`until`].
pub fn elapse(time: Duration) {
    std::thread::sleep(time);
}

/// Lets time pass that is itself what is measured, or the rhythm of a load: never a wait for something to happen.
pub async fn pass(length: Duration) {
    tokio::time::sleep(length).await;
}
