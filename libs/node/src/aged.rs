//! A value with the time at which it was known: a value that is too old counts as unknown.

use std::time::{Duration, Instant};

/// What was known at a time. `protected`, `ready` and `lag` are nothing without it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aged<T> {
    value: T,
    at: Instant,
}

impl<T> Aged<T> {
    /// A value that is known as of now.
    pub fn now(value: T) -> Aged<T> {
        Aged { value, at: Instant::now() }
    }

    /// A value that was known at `at`.
    pub fn at(value: T, at: Instant) -> Aged<T> {
        Aged { value, at }
    }

    /// The value, however old.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// When it was known.
    pub fn known_at(&self) -> Instant {
        self.at
    }

    /// How old it is.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// The value, unless it is older than `limit`.
    ///
    /// # Errors
    /// The age, when it is.
    pub fn fresh(&self, limit: Duration) -> Result<&T, Duration> {
        let age = self.age();
        if age > limit { Err(age) } else { Ok(&self.value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_unknown() {
        let limit = Duration::from_secs(6);
        let before = |s| Instant::now().checked_sub(Duration::from_secs(s)).expect("up for a minute");
        assert_eq!(Aged::now(7).fresh(limit), Ok(&7));
        assert_eq!(Aged::at(7, before(5)).fresh(limit), Ok(&7));
        let old = Aged::at(7, before(8));
        assert_eq!(old.fresh(limit).map_err(|age| age.as_secs()), Err(8));
        assert_eq!((*old.value(), old.age() >= limit, old.known_at() < Instant::now()), (7, true, true));
    }
}
