//! Retry penalties: a safekeeper that failed is left alone for a while, longer each time, until it delivers a record
//! again.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::id::NodeId;

use super::Mode;

/// First penalty. Long enough for another safekeeper to be chosen first, short enough for a lone one to be retried
/// soon.
const FIRST: Duration = Duration::from_millis(100);
/// First penalty for not dialling: outlasts asking all others, so that "none left" is reached and pull begins.
const FIRST_UNDIALLED: Duration = Duration::from_secs(5);
/// No penalty lasts longer than this.
const LONGEST: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug)]
struct Penalty {
    until: Duration,
    delay: Duration,
    undialled: bool,
}

/// Penalties by safekeeper and mode: one that does not dial may well be dialled.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    push: BTreeMap<NodeId, Penalty>,
    pull: BTreeMap<NodeId, Penalty>,
}

impl Penalties {
    /// A failure: the penalty grows by half each time.
    pub(super) fn add(&mut self, now: Duration, id: NodeId, mode: Mode, undialled: bool) {
        let map = self.of_mut(mode);
        let first = if undialled { FIRST_UNDIALLED } else { FIRST };
        let delay = map.get(&id).map_or(first, |p| (p.delay * 3 / 2).clamp(first, LONGEST));
        map.insert(id, Penalty { until: now + delay, delay, undialled });
    }

    /// It delivered a record.
    pub(super) fn forgive(&mut self, id: NodeId, mode: Mode) {
        self.of_mut(mode).remove(&id);
    }

    /// Forgets whoever is gone.
    pub(super) fn retain(&mut self, is_known: impl Fn(NodeId) -> bool) {
        self.push.retain(|id, _| is_known(*id));
        self.pull.retain(|id, _| is_known(*id));
    }

    /// Whether it must not be tried now.
    pub(super) fn is_barred(&self, now: Duration, id: NodeId, mode: Mode) -> bool {
        self.of(mode).get(&id).is_some_and(|p| now < p.until)
    }

    /// Whether it must not be asked to push now because it did not dial.
    pub(super) fn is_barred_undialled(&self, now: Duration, id: NodeId) -> bool {
        self.push.get(&id).is_some_and(|p| now < p.until && p.undialled)
    }

    /// The earliest end of a penalty after `now`.
    pub(super) fn next_expiry(&self, now: Duration) -> Option<Duration> {
        self.push.values().chain(self.pull.values()).map(|p| p.until).filter(|until| *until > now).min()
    }

    fn of(&self, mode: Mode) -> &BTreeMap<NodeId, Penalty> {
        match mode {
            Mode::Push => &self.push,
            Mode::Pull => &self.pull,
        }
    }

    fn of_mut(&mut self, mode: Mode) -> &mut BTreeMap<NodeId, Penalty> {
        match mode {
            Mode::Push => &mut self.push,
            Mode::Pull => &mut self.pull,
        }
    }
}
