//! Which safekeeper shall push a timeline here, and why: the pure half of the connection manager.
//!
//! Purpose: [`Chooser::step`] takes what happened and says what to do; the driver in `manager/` owns sockets and the
//! broker. Owner of the state: the timeline's driver owns its chooser. No clock, no I/O, no randomness in here: time
//! is an argument, measured from any fixed origin.
//!
//! Invariants:
//! 1. at most one choice stands at a time, and its `choice_seq` is higher than that of every choice before it;
//! 2. a stream event that belongs to an earlier choice changes nothing;
//! 3. hold and hysteresis are asked only while a stream runs: without one, the first valid candidate is chosen at once;
//! 4. a candidate is valid while the broker shows (or showed last) its node's lease key and knows its commit
//!    position; the age of what it published does not matter.

mod candidate;
mod penalty;
mod reason;
mod rules;

pub(crate) use candidate::{Candidate, View};
pub(crate) use reason::{Ended, Reason};

use std::time::Duration;

use pgformat::Lsn;
use proto::id::NodeId;

use penalty::Penalties;

/// Limits of the chooser. Defaults are those of the design; tests and `--config` shorten them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    /// A published choice that was not dialled within this is penalised.
    pub(crate) dial_timeout: Duration,
    /// The broker must take a choice within this.
    pub(crate) publish_timeout: Duration,
    /// A stream without any message for this long is as good as lost.
    pub(crate) silence_limit: Duration,
    /// Newer WAL known elsewhere and none arriving for this long: switch.
    pub(crate) wal_timeout: Duration,
    /// Commit advantage, in bytes, that makes another safekeeper better at once.
    pub(crate) lag_bytes_max: u64,
    /// The same while the present stream brings no WAL.
    pub(crate) lag_bytes_max_stalled: u64,
    /// A stream brings no WAL when none came for this long.
    pub(crate) stalled_after: Duration,
    /// A running stream is not left for a better one before this.
    pub(crate) hold: Duration,
    /// Our availability zone.
    pub(crate) zone: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            dial_timeout: Duration::from_secs(1),
            publish_timeout: Duration::from_secs(2),
            silence_limit: Duration::from_secs(10),
            wal_timeout: Duration::from_secs(10),
            lag_bytes_max: 1 << 30,
            lag_bytes_max_stalled: 64 << 20,
            stalled_after: Duration::from_secs(1),
            hold: Duration::from_secs(5),
            zone: None,
        }
    }
}

/// Which of the two sides dials.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// The safekeeper dials us.
    Push,
    /// We dial the safekeeper: nobody could be asked to push.
    Pull,
}

impl Mode {
    fn other(self) -> Mode {
        match self {
            Mode::Push => Mode::Pull,
            Mode::Pull => Mode::Push,
        }
    }

    /// Text for status and broker.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Mode::Push => "push",
            Mode::Pull => "pull",
        }
    }
}

/// A decision: who pushes from now on, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Choice {
    /// Counts the choices of this timeline, from 1.
    pub(crate) seq: u64,
    /// Who shall send.
    pub(crate) safekeeper: NodeId,
    /// Which of the two sides dials.
    pub(crate) mode: Mode,
    /// Why this safekeeper, and why now.
    pub(crate) reason: Reason,
}

/// What happened since the last step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Input {
    /// Time passed, and nothing else happened.
    Tick,
    /// What the broker shows, or that it is away.
    View(View),
    /// The broker took a choice: from now on it can be dialled.
    Published {
        /// Of the choice.
        seq: u64,
    },
    /// The broker did not take a choice.
    PublishFailed {
        /// Of the choice.
        seq: u64,
    },
    /// The safekeeper has dialled and waits for the stream before it to let go.
    Dialled {
        /// Of the choice.
        seq: u64,
    },
    /// The stream of a choice has begun.
    Connected {
        /// Of the choice.
        seq: u64,
    },
    /// How far the running stream is.
    Progress(Progress),
    /// The stream of a choice has ended, or could not be opened.
    StreamEnded {
        /// Of the choice.
        seq: u64,
        /// How the stream ended.
        how: Ended,
    },
    /// An operator asks for this safekeeper.
    Operator(NodeId),
}

/// How far the running stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Progress {
    /// Of the choice.
    pub(crate) seq: u64,
    /// When its last message came.
    pub(crate) last_message_at: Duration,
    /// When WAL came last.
    pub(crate) last_wal_at: Duration,
    /// The sender's commit position.
    pub(crate) commit_lsn: Option<Lsn>,
    /// End of the last record ingested.
    pub(crate) last_record_lsn: Lsn,
    /// Whether this stream brought a whole record.
    pub(crate) has_records: bool,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Publish this choice (mode push); it replaces the one before.
    Publish(Choice),
    /// Withdraw the published choice, if any, and dial this safekeeper (mode pull).
    Dial(Choice),
    /// Close the stream of this choice.
    Close {
        /// Of the choice.
        seq: u64,
    },
}

/// A choice that stands: published, or being dialled.
#[derive(Clone, Copy, Debug)]
struct Standing {
    choice: Choice,
    /// Connected by then, or it failed. None: connected, or failed already with nobody better.
    deadline: Option<Duration>,
}

/// The stream of the present choice.
#[derive(Clone, Copy, Debug)]
struct Running {
    choice: Choice,
    since: Duration,
    last_message_at: Duration,
    last_wal_at: Duration,
    commit_lsn: Option<Lsn>,
    last_record_lsn: Option<Lsn>,
    /// WAL that others have and this sender does not: since when.
    newer_elsewhere: Option<(Lsn, Duration)>,
}

/// The chooser of one timeline.
#[derive(Debug)]
pub(crate) struct Chooser {
    settings: Settings,
    /// Spreads timelines over safekeepers when all else is equal.
    hash_seed: u64,
    view: View,
    penalties: Penalties,
    seq: u64,
    standing: Option<Standing>,
    running: Option<Running>,
    /// Why there is no stream, for the reason of the next choice.
    lost: Option<Reason>,
    /// The broker refused a choice: not asked again before this.
    broker_suspect_until: Duration,
}

impl Chooser {
    /// Nothing chosen yet. `seq` is the number of the last choice that was ever made; `hash_seed` names (pageserver,
    /// timeline).
    pub(crate) fn new(settings: Settings, hash_seed: u64, seq: u64) -> Chooser {
        Chooser {
            settings,
            hash_seed,
            view: View::default(),
            penalties: Penalties::default(),
            seq,
            standing: None,
            running: None,
            lost: None,
            broker_suspect_until: Duration::ZERO,
        }
    }

    /// Takes what happened at `now`, appends what to do.
    pub(crate) fn step(&mut self, now: Duration, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Tick => {}
            Input::View(view) => {
                self.penalties.retain(|id| view.candidates.contains_key(&id));
                self.view = view;
            }
            Input::Published { seq } => self.on_published(now, seq),
            Input::PublishFailed { seq } => self.on_publish_failed(now, seq),
            Input::Dialled { seq } => self.on_dialled(now, seq),
            Input::Connected { seq } => self.on_connected(now, seq),
            Input::Progress(p) => self.on_progress(p),
            Input::StreamEnded { seq, how } => self.on_ended(now, seq, how),
            Input::Operator(id) => {
                if self.view.candidates.contains_key(&id) {
                    self.choose(now, id, Reason::Operator, effects);
                }
                return;
            }
        }
        self.expire(now);
        self.decide(now, effects);
    }

    /// When, after `now`, something becomes due by time alone that a tick each second would notice late.
    pub(crate) fn next_wakeup(&self, now: Duration) -> Option<Duration> {
        let deadline = self.standing.and_then(|s| s.deadline);
        let retry = if self.running.is_none() && deadline.is_none() { self.penalties.next_expiry(now) } else { None };
        deadline.into_iter().chain(retry).min()
    }

    /// The choice that stands, if any.
    #[cfg(test)]
    pub(crate) fn choice(&self) -> Option<Choice> {
        self.standing.map(|s| s.choice)
    }

    /// Whether the standing choice waits for its stream.
    pub(crate) fn is_waiting(&self) -> bool {
        self.standing.is_some_and(|s| s.deadline.is_some())
    }

    fn on_published(&mut self, now: Duration, seq: u64) {
        if let Some(s) = self.standing.as_mut().filter(|s| s.choice.seq == seq && s.deadline.is_some()) {
            s.deadline = Some(now + self.settings.dial_timeout);
        }
    }

    fn on_publish_failed(&mut self, now: Duration, seq: u64) {
        if self.standing.is_some_and(|s| s.choice.seq == seq) {
            self.standing = None;
            self.broker_suspect_until = now + self.settings.dial_timeout;
        }
    }

    /// It did its part in time: what is left is our own disk's.
    fn on_dialled(&mut self, now: Duration, seq: u64) {
        if let Some(s) = self.standing.as_mut().filter(|s| s.choice.seq == seq && s.deadline.is_some()) {
            s.deadline = Some(now + self.settings.silence_limit);
        }
    }

    fn on_connected(&mut self, now: Duration, seq: u64) {
        let Some(standing) = self.standing.as_mut().filter(|s| s.choice.seq == seq) else { return };
        standing.deadline = None;
        self.lost = None;
        self.running = Some(Running {
            choice: standing.choice,
            since: now,
            last_message_at: now,
            last_wal_at: now,
            commit_lsn: None,
            last_record_lsn: None,
            newer_elsewhere: None,
        });
    }

    fn on_progress(&mut self, p: Progress) {
        let Some(r) = self.running.as_mut().filter(|r| r.choice.seq == p.seq) else { return };
        r.last_message_at = r.last_message_at.max(p.last_message_at);
        r.last_wal_at = r.last_wal_at.max(p.last_wal_at);
        r.commit_lsn = r.commit_lsn.max(p.commit_lsn);
        r.last_record_lsn = r.last_record_lsn.max(Some(p.last_record_lsn));
        if p.has_records {
            let (id, mode) = (r.choice.safekeeper, r.choice.mode);
            self.penalties.forgive(id, mode);
        }
    }

    fn on_ended(&mut self, now: Duration, seq: u64, how: Ended) {
        let was_running = self.running.filter(|r| r.choice.seq == seq);
        let was_dialling = self.standing.filter(|s| s.choice.seq == seq && s.deadline.is_some());
        let Some(choice) = was_running.map(|r| r.choice).or(was_dialling.map(|s| s.choice)) else { return };
        if was_running.is_some() {
            self.running = None;
        }
        if how == Ended::Replaced {
            // Its successor reports itself at once; an equal seq is the same safekeeper dialling anew.
            if let Some(s) = self.standing.as_mut().filter(|s| s.deadline.is_none()) {
                s.deadline = Some(now + self.settings.dial_timeout);
            }
            return;
        }
        if let Some(s) = self.standing.as_mut().filter(|s| s.choice.seq == seq) {
            s.deadline = None;
            self.lost = Some(how.reason());
        }
        self.penalties.add(now, choice.safekeeper, choice.mode, false);
        if was_running.is_some() {
            // It may be dead: then the other way leads nowhere either, so somebody else is tried first.
            self.penalties.add(now, choice.safekeeper, choice.mode.other(), false);
        }
    }

    fn expire(&mut self, now: Duration) {
        let Some(s) = self.standing.as_mut().filter(|s| s.deadline.is_some_and(|d| d <= now)) else { return };
        s.deadline = None;
        let choice = s.choice;
        self.penalties.add(now, choice.safekeeper, choice.mode, true);
        self.lost = Some(Reason::NotDialled);
    }

    fn choose(&mut self, now: Duration, safekeeper: NodeId, reason: Reason, effects: &mut Vec<Effect>) {
        let mode = if self.broker_usable(now) { Mode::Push } else { Mode::Pull };
        self.stand(now, safekeeper, mode, reason, effects);
    }

    fn stand(&mut self, now: Duration, safekeeper: NodeId, mode: Mode, reason: Reason, effects: &mut Vec<Effect>) {
        self.seq += 1;
        let choice = Choice { seq: self.seq, safekeeper, mode, reason };
        assert!(self.standing.is_none_or(|s| s.choice.seq < choice.seq), "invariant 1: choice_seq rises");
        let limit = match mode {
            // The broker's answer restarts the clock: see on_published.
            Mode::Push => self.settings.publish_timeout + self.settings.dial_timeout,
            Mode::Pull => self.settings.silence_limit,
        };
        self.standing = Some(Standing { choice, deadline: Some(now + limit) });
        effects.push(match mode {
            Mode::Push => Effect::Publish(choice),
            Mode::Pull => Effect::Dial(choice),
        });
    }

    fn broker_usable(&self, now: Duration) -> bool {
        self.view.broker && now >= self.broker_suspect_until
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk;
