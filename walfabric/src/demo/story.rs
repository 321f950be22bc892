//! How the demo tells what happens.

use std::time::{Duration, Instant};

/// Prints what happens with the time since the beginning.
pub(super) struct Story {
    began: Instant,
}

impl Story {
    /// It begins now.
    pub(super) fn begin() -> Story {
        Story { began: Instant::now() }
    }

    /// Time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn chapter(&self, title: &str) {
        println!("\n[{:6.1} s] == {title}", self.began.elapsed().as_secs_f64());
    }

    pub(super) fn line(&self, text: &str) {
        println!("[{:6.1} s]    {text}", self.began.elapsed().as_secs_f64());
    }
}
