//! How long to wait before the next attempt, and what an operator is told when many fail in a row.
//!
//! Pure: the caller brings the time and the jitter. While a primary starts, it is tried again very soon. A proposer
//! that is deposed again and again waits longer each time, so that a duel ends with one winner. Many elections in a row
//! are slowed down, because each may add an entry to a history of limited length.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::stop::StopCause;

/// First pause between two attempts.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest one: a quorum that comes back is attached to within this time.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// The pause while the primary takes no connections: it is attached to this soon after it does.
const PRIMARY_AWAY: Duration = Duration::from_millis(100);
/// A session that lasted so long was a success: the next pause is the first one again.
const LASTED: Duration = Duration::from_secs(10);
/// Depositions within this time belong together.
const DUEL_WINDOW: Duration = Duration::from_secs(300);
/// So many of them are a duel.
const DUEL: usize = 3;
/// Longest pause of one who is deposed.
const DUEL_PAUSE_MAX: Duration = Duration::from_secs(15);
/// A duel, or endless elections, are told at most this often.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Elections within a time, and the pause from then on: (time, elections, pause).
const ELECTIONS: [(Duration, usize, Duration); 2] = [
    (Duration::from_secs(600), 60, Duration::from_secs(5)),
    (Duration::from_secs(3_600), 200, Duration::from_secs(20)),
];
/// The most instants that are remembered of each kind.
const REMEMBERED: usize = 256;

/// What comes before the next attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NextAttempt {
    /// Wait so long, before jitter.
    pub(crate) pause: Duration,
    /// Tell the operator.
    pub(crate) say: Option<String>,
}

/// Memory of the attempts so far.
#[derive(Debug)]
pub(crate) struct Patience {
    pause: Duration,
    deposed: VecDeque<Instant>,
    elections: VecDeque<Instant>,
    said_at: Option<Instant>,
}

impl Patience {
    pub(crate) fn new() -> Patience {
        Patience { pause: PAUSE_MIN, deposed: VecDeque::new(), elections: VecDeque::new(), said_at: None }
    }

    /// An attempt that began at `began` and won `elections` ended with `stop`.
    pub(crate) fn after(&mut self, stop: &StopCause, began: Instant, elections: u64, now: Instant) -> NextAttempt {
        if now.duration_since(began) > LASTED {
            self.pause = PAUSE_MIN;
        }
        if elections > 0 {
            remember(&mut self.elections, now);
        }
        let mut say = None;
        let mut pause = match stop {
            StopCause::PrimaryAway(_) => PRIMARY_AWAY,
            StopCause::Deposed(term) => {
                remember(&mut self.deposed, now);
                let n = within(&self.deposed, now, DUEL_WINDOW);
                if n >= DUEL {
                    say = Some(format!(
                        "deposed {n} times within {} s, last by term {term}: another proposer pushes to this timeline. \
                         What to do: stop one of the two; a shim and a replaced primary, or two shims with different \
                         slots, must not run for one timeline",
                        DUEL_WINDOW.as_secs()
                    ));
                }
                let doubled = u32::try_from(n.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
                PAUSE_MIN.saturating_mul(1 << doubled).min(DUEL_PAUSE_MAX)
            }
            _ => {
                let pause = self.pause;
                self.pause = pause.mul_f64(1.5).min(PAUSE_MAX);
                pause
            }
        };
        for (time, limit, slow) in ELECTIONS {
            let n = within(&self.elections, now, time);
            if n > limit && elections > 0 {
                pause = pause.max(slow);
                say.get_or_insert(format!(
                    "{n} elections within {} s, the last session ended because: {stop}. What to do: find out what ends \
                     the sessions; each election may add an entry to the term history, which is not endless",
                    time.as_secs()
                ));
            }
        }
        let due = self.said_at.is_none_or(|at| now.duration_since(at) >= SAY_EVERY);
        let say = say.filter(|_| due);
        if say.is_some() {
            self.said_at = Some(now);
        }
        NextAttempt { pause, say }
    }
}

fn remember(times: &mut VecDeque<Instant>, now: Instant) {
    if times.len() == REMEMBERED {
        times.pop_front();
    }
    times.push_back(now);
}

fn within(times: &VecDeque<Instant>, now: Instant, time: Duration) -> usize {
    times.iter().filter(|at| now.duration_since(**at) < time).count()
}

#[cfg(test)]
mod tests {
    use proto::id::Term;

    use super::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_primary_that_starts_is_looked_at_every_moment() {
        let (mut patience, start) = (Patience::new(), Instant::now());
        for i in 0..100 {
            let now = start + secs(i);
            let next = patience.after(&StopCause::PrimaryAway("starting up".to_owned()), now, 0, now);
            assert_eq!(next, NextAttempt { pause: PRIMARY_AWAY, say: None });
        }
        let next = patience.after(&StopCause::Retry("no quorum".to_owned()), start, 0, start);
        assert_eq!(next.pause, PAUSE_MIN, "and the next trouble begins with the first pause");
    }

    #[test]
    fn other_trouble_is_waited_out_with_growing_pauses() {
        let (mut patience, now) = (Patience::new(), Instant::now());
        let retry = StopCause::Retry("no quorum".to_owned());
        let pauses: Vec<Duration> = (0..20).map(|_| patience.after(&retry, now, 0, now).pause).collect();
        assert_eq!((pauses[0], pauses[19]), (PAUSE_MIN, PAUSE_MAX));
        let later = now + LASTED + secs(1);
        assert_eq!(patience.after(&retry, now, 1, later).pause, PAUSE_MIN, "a session that lasted");
    }

    #[test]
    fn a_duel_is_told_and_slows_down() {
        let (mut patience, start) = (Patience::new(), Instant::now());
        let mut said = Vec::new();
        let mut pauses = Vec::new();
        for i in 0..20 {
            let now = start + secs(i * 10);
            let next = patience.after(&StopCause::Deposed(Term(i)), now, 0, now);
            pauses.push(next.pause);
            said.extend(next.say);
        }
        assert_eq!((pauses[0], pauses[1], pauses[19]), (PAUSE_MIN, PAUSE_MIN * 2, DUEL_PAUSE_MAX));
        assert_eq!(said.len(), 3, "once a minute: {said:?}");
        assert!(said[0].contains("deposed 3 times") && said[0].contains("What to do"), "{said:?}");
        let calm = start + secs(1_000);
        assert_eq!(patience.after(&StopCause::Deposed(Term(99)), calm, 0, calm).pause, PAUSE_MIN, "long ago");
    }

    #[test]
    fn endless_elections_are_told_and_slowed_down() {
        let (mut patience, start) = (Patience::new(), Instant::now());
        let retry = StopCause::Retry("PostgreSQL closed the stream".to_owned());
        let mut now = start;
        let mut said = Vec::new();
        for i in 0..=60 {
            now = start + secs(i);
            let next = patience.after(&retry, now, 1, now);
            assert!(i == 60 || next.pause <= PAUSE_MAX, "{i}: {next:?}");
            said.extend(next.say);
        }
        assert!(
            said.len() == 1 && said[0].contains("61 elections") && said[0].contains("closed the stream"),
            "{said:?}"
        );
        let away = patience.after(&StopCause::PrimaryAway(String::new()), now, 0, now);
        assert_eq!(away.pause, PRIMARY_AWAY, "an attempt without an election costs nothing");
    }
}
