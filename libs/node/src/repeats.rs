//! Log lines for repeated events: one at the start, one a minute with a count, one at the end.
//!
//! [`Repeats`] is the pure rule, and [`RepeatLog`] writes the log. There are two kinds of end. An outage ends when the
//! caller says so ([`RepeatLog::over`]). Events that strangers cause (bad packets, refused sessions) end with a minute
//! without any.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Least time between two lines about the same thing.
const EVERY: Duration = Duration::from_secs(60);

/// Counts something that repeats, and says when a line is due. Pure: time is an argument.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repeats {
    run: Option<Repetition>,
}

#[derive(Clone, Copy, Debug)]
struct Repetition {
    since: Instant,
    said_at: Instant,
    times: u64,
    unsaid: u64,
}

/// A line that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DueLine {
    /// It happened for the first time.
    Started,
    /// It goes on: `unsaid` times since the last line, `times` in all, over `lasted`.
    GoesOn {
        /// Times since the last line.
        unsaid: u64,
        /// Times since it started.
        times: u64,
        /// Time since it started.
        lasted: Duration,
    },
    /// It ended, and this is its whole account.
    Over {
        /// Times since it started.
        times: u64,
        /// From the first time to the end.
        lasted: Duration,
    },
}

impl Repeats {
    /// It happened. What is given is to be told.
    pub fn happened(&mut self, now: Instant) -> Option<DueLine> {
        let Some(run) = &mut self.run else {
            self.run = Some(Repetition { since: now, said_at: now, times: 1, unsaid: 0 });
            return Some(DueLine::Started);
        };
        run.times += 1;
        run.unsaid += 1;
        self.look(now)
    }

    /// Nothing happened, time went by: a count that waited for its minute is due.
    fn look(&mut self, now: Instant) -> Option<DueLine> {
        let run = self.run.as_mut()?;
        if run.unsaid == 0 || now.duration_since(run.said_at) < EVERY {
            return None;
        }
        run.said_at = now;
        let unsaid = std::mem::take(&mut run.unsaid);
        Some(DueLine::GoesOn { unsaid, times: run.times, lasted: now.duration_since(run.since) })
    }

    /// It is over. Nothing is due when it had not started.
    pub fn over(&mut self, now: Instant) -> Option<DueLine> {
        let run = self.run.take()?;
        Some(DueLine::Over { times: run.times, lasted: now.duration_since(run.since) })
    }

    /// A whole minute went by: the count of that minute, or the end of it all when there was none.
    fn minute(&mut self, now: Instant) -> Option<DueLine> {
        match self.run {
            Some(run) if run.unsaid == 0 && now.duration_since(run.said_at) >= EVERY => self.over(now),
            _ => self.look(now),
        }
    }

    fn next_look(&self) -> Option<Instant> {
        self.run.map(|run| run.said_at + EVERY)
    }
}

/// Writes log lines about one thing that may repeat; cheap to clone, all clones count together.
#[derive(Clone, Debug)]
pub struct RepeatLog {
    what: Arc<str>,
    shared: Arc<Mutex<RepeatState>>,
    ends_by_silence: bool,
}

#[derive(Debug, Default)]
struct RepeatState {
    repeats: Repeats,
    /// The newest detail, for the line of the minute.
    detail: String,
    watched: bool,
}

impl RepeatLog {
    /// For an outage: it starts with the first [`RepeatLog::warn`] and ends with [`RepeatLog::over`]. `what` heads
    /// each line: "no quorum", "timeline T/L: push to pageserver 1".
    pub fn outage(what: impl Into<Arc<str>>) -> RepeatLog {
        RepeatLog { what: what.into(), shared: Arc::default(), ends_by_silence: false }
    }

    /// For single events that others cause: it ends when a minute passes without one.
    pub fn events(what: impl Into<Arc<str>>) -> RepeatLog {
        RepeatLog { ends_by_silence: true, ..RepeatLog::outage(what) }
    }

    /// It happened (again). Whether a line was written: who holds more to tell may tell it then.
    pub fn warn(&self, detail: impl Display) -> bool {
        let mut state = self.lock();
        state.detail = detail.to_string();
        let due = state.repeats.happened(Instant::now());
        let watch = self.ends_by_silence && !state.watched;
        // Outside a runtime (a test of pure code) nobody can wait for the minute.
        if watch && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            state.watched = true;
            drop(runtime.spawn(self.clone().watch()));
        }
        let detail = state.detail.clone();
        drop(state);
        self.say(due, &detail);
        due.is_some()
    }

    /// It is over; says so once, when it had started.
    pub fn over(&self) {
        let due = self.lock().repeats.over(Instant::now());
        self.say(due, "");
    }

    /// Whether it started and is not over.
    pub fn is_running(&self) -> bool {
        self.lock().repeats.run.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, RepeatState> {
        // Every change is complete before anything can panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the counts that no further event would tell; ends with the silence.
    async fn watch(self) {
        loop {
            let next = {
                let mut state = self.lock();
                let next = state.repeats.next_look();
                state.watched = next.is_some();
                next
            };
            let Some(next) = next else { return };
            tokio::time::sleep_until(next).await;
            let (due, detail) = {
                let mut state = self.lock();
                (state.repeats.minute(Instant::now()), state.detail.clone())
            };
            self.say(due, &detail);
        }
    }

    fn say(&self, due: Option<DueLine>, detail: &str) {
        let what = &self.what;
        match due {
            None => {}
            Some(DueLine::Started) => tracing::warn!("{what}: {detail}"),
            Some(DueLine::GoesOn { unsaid, times, lasted }) => {
                let lasted = lasted.as_secs();
                tracing::warn!(
                    "{what}: {detail} ({unsaid} more since the last line, {times} times in {lasted} s; told once a \
                     minute)"
                );
            }
            Some(DueLine::Over { times: 1, .. }) if self.ends_by_silence => {}
            Some(DueLine::Over { times, lasted }) => {
                tracing::info!("{what}: over, {times} times in {:.1} s", lasted.as_secs_f64());
            }
        }
    }
}

/// Log lines about events of several kinds, each counted apart.
#[derive(Clone, Debug)]
pub struct RepeatLogs {
    what: Arc<str>,
    kinds: Arc<Mutex<BTreeMap<String, RepeatLog>>>,
}

/// Kinds counted apart; what comes beyond them is counted together, so that a kind may come from outside.
const KINDS_MAX: usize = 64;

impl RepeatLogs {
    /// `what` heads each line, before the kind.
    pub fn new(what: impl Into<Arc<str>>) -> RepeatLogs {
        RepeatLogs { what: what.into(), kinds: Arc::default() }
    }

    /// An event of a kind, for instance a SQLSTATE. Whether a line was written.
    pub fn warn(&self, kind: &str, detail: impl Display) -> bool {
        let log = {
            let mut kinds = self.lock();
            let kind = if kinds.len() < KINDS_MAX || kinds.contains_key(kind) { kind } else { "other" };
            let new = || RepeatLog::events(format!("{} ({kind})", self.what));
            kinds.entry(kind.to_owned()).or_insert_with(new).clone()
        };
        log.warn(detail)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, RepeatLog>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_at_the_start_one_a_minute_with_a_count_one_at_the_end() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(repeats.over(at(0)), None, "what never started does not end");
        assert_eq!(repeats.happened(at(0)), Some(DueLine::Started));
        let lines: Vec<DueLine> = (1..=130).filter_map(|s| repeats.happened(at(s))).collect();
        let goes_on = |times, lasted| DueLine::GoesOn { unsaid: 60, times, lasted: Duration::from_secs(lasted) };
        assert_eq!(lines, [goes_on(61, 60), goes_on(121, 120)]);
        assert_eq!(repeats.over(at(131)), Some(DueLine::Over { times: 131, lasted: Duration::from_secs(131) }));
        assert_eq!(repeats.happened(at(132)), Some(DueLine::Started), "the next one is a new one");
    }

    #[test]
    fn silence_tells_the_rest_of_the_count_and_then_the_end() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        repeats.happened(at(0));
        repeats.happened(at(1));
        assert_eq!(repeats.minute(at(59)), None);
        assert_eq!(
            repeats.minute(at(60)),
            Some(DueLine::GoesOn { unsaid: 1, times: 2, lasted: Duration::from_secs(60) })
        );
        assert_eq!(repeats.minute(at(119)), None);
        assert_eq!(repeats.minute(at(120)), Some(DueLine::Over { times: 2, lasted: Duration::from_secs(120) }));
        assert_eq!(repeats.next_look(), None);
    }

    #[test]
    fn kinds_are_counted_apart_and_bounded() {
        let logs = RepeatLogs::new("a test");
        assert!(logs.warn("08P01", "one"));
        assert!(!logs.warn("08P01", "two"), "within the minute it is only counted");
        assert!(logs.warn("WF002", "three"), "another kind has a line of its own");
        for kind in 0..3 * KINDS_MAX {
            logs.warn(&kind.to_string(), "x");
        }
        assert_eq!(logs.lock().len(), KINDS_MAX + 1);
    }
}
