//! How long a stopped timeline waits before it tries its disk again.

use std::time::Duration;

/// First delay before another attempt.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest delay after a failure: opening anew reads the log's end.
pub(super) const FAILED_MAX: Duration = Duration::from_secs(5);
/// Longest delay while the disk is full: a look is one write that fails, and commits wait for the space.
pub(super) const FULL_MAX: Duration = Duration::from_millis(500);

/// The delay before the next attempt, while stopped.
#[derive(Debug)]
pub(super) struct DiskBackoff(Duration);

impl DiskBackoff {
    pub(super) const fn new() -> DiskBackoff {
        DiskBackoff(BACKOFF_MIN)
    }

    /// The next delay, `longest` at most; the one after it is twice as long.
    pub(super) fn next(&mut self, longest: Duration) -> Duration {
        let delay = self.0.min(longest);
        self.0 = (delay * 2).min(longest);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_looked_at_twice_a_second_however_long_it_lasts() {
        let mut backoff = DiskBackoff::new();
        let delays: Vec<u128> = (0..1000).map(|_| backoff.next(FULL_MAX).as_millis()).collect();
        assert_eq!((&delays[..3], delays[999]), (&[200, 400, 500][..], 500));
        for _ in 0..10 {
            backoff.next(FAILED_MAX);
        }
        assert_eq!(backoff.next(FAILED_MAX), FAILED_MAX, "a failure is not tried that often");
        assert_eq!(backoff.next(FULL_MAX), FULL_MAX, "space is short after a failure");
    }
}
