//! Pauses between attempts: 0.1 s, half as long again each time, at most 15 s, spread so that many pushers never dial
//! at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(15);

/// The pause after the next failure.
#[derive(Debug)]
pub(crate) struct DialBackoff {
    next: Duration,
}

impl DialBackoff {
    /// Starts with the shortest pause.
    pub(crate) fn new() -> DialBackoff {
        DialBackoff { next: FIRST }
    }

    /// Progress was made: the next failure is a new one.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// How long to wait now; `spread` in `0.0..1.0` picks from the upper half of the pause.
    pub(crate) fn pause(&mut self, spread: f64) -> Duration {
        let now = self.next;
        self.next = now.mul_f64(1.5).min(MAX);
        now.mul_f64(0.5 + spread.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_cap_and_starts_over() {
        let mut b = DialBackoff::new();
        assert_eq!(b.pause(1.0), FIRST);
        assert_eq!(b.pause(1.0), Duration::from_millis(150));
        for _ in 0..20 {
            b.pause(0.3);
        }
        assert_eq!(b.pause(1.0), MAX);
        assert_eq!(b.pause(0.0), MAX / 2, "the lower end of the spread");
        b.reset();
        assert_eq!(b.pause(1.0), FIRST);
    }
}
