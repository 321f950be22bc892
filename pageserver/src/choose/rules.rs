//! The rules, in order; the first that fires wins. Evaluated after every input and at every tick.

use std::time::Duration;

use super::{Candidate, Chooser, Effect, Mode, Reason, Running};

impl Chooser {
    pub(super) fn decide(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.is_waiting() {
            return;
        }
        match self.running {
            None => self.without_stream(now, self.lost.unwrap_or(Reason::NoExistingConnection), effects),
            Some(r) if self.is_orphan(&r) => self.without_stream(now, Reason::NotDialled, effects),
            Some(r) => self.with_stream(now, r, effects),
        }
    }

    /// Rule 1, and every way to it: nothing delays the choice but penalties.
    fn without_stream(&mut self, now: Duration, reason: Reason, effects: &mut Vec<Effect>) {
        if self.broker_usable(now) {
            if let Some((id, _)) = self.best(now, Mode::Push, None) {
                self.stand(now, id, Mode::Push, reason, effects);
                return;
            }
            if !self.nobody_dials(now) {
                return;
            }
        }
        if self.running.is_some() {
            return;
        }
        if let Some((id, _)) = self.best(now, Mode::Pull, None) {
            self.stand(now, id, Mode::Pull, reason, effects);
        }
    }

    /// Rules 2 to 7.
    fn with_stream(&mut self, now: Duration, r: Running, effects: &mut Vec<Effect>) {
        if now.saturating_sub(r.last_message_at) > self.settings.silence_limit {
            return self.leave_silent(now, r, effects);
        }
        if now.saturating_sub(r.since) < self.settings.hold {
            return;
        }
        if r.choice.mode == Mode::Pull
            && self.broker_usable(now)
            && let Some((id, _)) = self.best(now, Mode::Push, None)
        {
            self.stand(now, id, Mode::Push, Reason::PushPossible, effects);
            return;
        }
        let mode = if self.broker_usable(now) { Mode::Push } else { Mode::Pull };
        if mode != r.choice.mode {
            // A running push stream goes on while the broker is away: nothing better could be told to anyone.
            return;
        }
        let Some((id, candidate)) = self.best(now, mode, Some(r.choice.safekeeper)) else { return };
        let candidate = candidate.clone();
        if let Some(reason) = self.better(now, &r, &candidate) {
            self.stand(now, id, mode, reason, effects);
        }
    }

    /// Rule 2: the stream is as good as lost, but it is closed only when somebody else can be asked.
    fn leave_silent(&mut self, now: Duration, r: Running, effects: &mut Vec<Effect>) {
        let mode = if self.broker_usable(now) { Mode::Push } else { Mode::Pull };
        let Some((id, _)) = self.best(now, mode, Some(r.choice.safekeeper)) else { return };
        self.penalties.add(now, r.choice.safekeeper, r.choice.mode, false);
        self.running = None;
        effects.push(Effect::Close { seq: r.choice.seq });
        self.stand(now, id, mode, Reason::NoKeepalives, effects);
    }

    /// Rules 4 to 6: whether `candidate` is so much better that a running stream is left for it.
    fn better(&mut self, now: Duration, r: &Running, candidate: &Candidate) -> Option<Reason> {
        let theirs = candidate.commit_lsn?;
        if let Some(ours) = r.commit_lsn
            && theirs >= ours
        {
            let stalled = now.saturating_sub(r.last_wal_at) > self.settings.stalled_after;
            let limit = if stalled { self.settings.lag_bytes_max_stalled } else { self.settings.lag_bytes_max };
            if theirs.bytes_since(ours) >= limit {
                return Some(Reason::LaggingWal);
            }
            let zone = self.settings.zone.as_deref();
            if zone.is_some() && candidate.zone.as_deref() == zone && self.zone_of(r) != zone {
                return Some(Reason::SwitchAvailabilityZone);
            }
        }
        self.no_wal_timeout(now, r, theirs).then_some(Reason::NoWalTimeout)
    }

    /// Rule 6: newer WAL is known elsewhere, or known to the sender, and none has come for too long.
    fn no_wal_timeout(&mut self, now: Duration, r: &Running, theirs: pgformat::Lsn) -> bool {
        let Some(have) = r.last_record_lsn else { return false };
        let known = r.commit_lsn.unwrap_or(have);
        let newer = match r.newer_elsewhere.filter(|(lsn, _)| *lsn > known) {
            Some(seen) => Some(seen),
            None if theirs > known => Some((theirs, now)),
            None => None,
        };
        if let Some(running) = &mut self.running {
            running.newer_elsewhere = newer;
        }
        let since = if have < known { Some(r.last_wal_at) } else { newer.map(|(_, at)| at.max(r.last_wal_at)) };
        theirs > known && since.is_some_and(|s| now.saturating_sub(s) > self.settings.wal_timeout)
    }

    /// A push stream whose choice was replaced by one that nobody dialled: its key is gone, so it will end.
    fn is_orphan(&self, r: &Running) -> bool {
        r.choice.mode == Mode::Push && self.standing.is_none_or(|s| s.choice.seq != r.choice.seq)
    }

    fn zone_of(&self, r: &Running) -> Option<&str> {
        self.view.candidates.get(&r.choice.safekeeper).and_then(|c| c.zone.as_deref())
    }
}
