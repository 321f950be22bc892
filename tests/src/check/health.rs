//! Compares the health that servers report with the experience of a client. Pure.
//!
//! A source lies when it reports good for longer than the patience while commits hang, or bad for longer than that
//! while everything works. Only sources that speak about commits can lie in the first way: a safekeeper is healthy even
//! when two others are not.
//!
//! The judge ignores time that the observer did not see: when the machine delays it between two polls, the pause counts
//! as [`GAP_MAX`], however long it was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What was seen at one time.
#[derive(Clone, Debug)]
pub struct Look {
    /// Since the beginning.
    pub at: Duration,
    /// A client's commit came back lately.
    pub commits: bool,
    /// Nothing is wrong: every process runs, undisturbed.
    pub whole: bool,
    /// What each source said.
    pub says: Vec<Says>,
}

/// What a source said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Says {
    /// Which.
    pub source: String,
    /// Whether it speaks about commits.
    pub about_commits: bool,
    /// Its word; a source that does not answer says bad.
    pub good: bool,
}

/// The most that the time between two looks counts: a look, with its limits, and the pause before it take less on a
/// machine that has time for them.
pub const GAP_MAX: Duration = Duration::from_millis(1500);

/// The lies in `looks`, which ascend in time: one line each.
pub fn lies(looks: &[Look], patience: Duration) -> Vec<String> {
    // From when on, and for how long as far as it was seen.
    let mut since: BTreeMap<(&str, &str), (Duration, Duration)> = BTreeMap::new();
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    let mut last = None;
    for look in looks {
        let gap = last.replace(look.at).map_or(Duration::ZERO, |last| look.at.saturating_sub(last)).min(GAP_MAX);
        for says in &look.says {
            let works = look.commits && look.whole;
            let lies = [
                ("said good while commits hung", !look.commits && says.good && says.about_commits),
                ("said bad while everything worked", works && !says.good),
            ];
            for (what, lied) in lies {
                let key = (says.source.as_str(), what);
                if !lied {
                    since.remove(&key);
                    told.remove(&key);
                    continue;
                }
                let stretch = since.entry(key).and_modify(|(_, took)| *took += gap);
                let (began, took) = *stretch.or_insert((look.at, Duration::ZERO));
                if took > patience && told.insert(key) {
                    let (at, ms) = (began.as_secs(), took.as_millis());
                    found.push(format!("{} {what} for more than {ms} ms, from second {at} on", says.source));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn says(source: &str, about_commits: bool, good: bool) -> Says {
        Says { source: source.to_owned(), about_commits, good }
    }

    /// Looks each second: (seconds, commits, whole, the shim says, a safekeeper says).
    fn looks(script: &[(u64, bool, bool, bool, bool)]) -> Vec<Look> {
        let mut all = Vec::new();
        for (seconds, commits, whole, shim, safekeeper) in script {
            for _ in 0..*seconds {
                let says = vec![says("shim", true, *shim), says("safekeeper", false, *safekeeper)];
                let at = Duration::from_secs(all.len() as u64);
                all.push(Look { at, commits: *commits, whole: *whole, says });
            }
        }
        all
    }

    #[test]
    fn the_honest_are_believed() {
        let honest = [(20, true, true, true, true), (4, false, false, true, true), (20, false, false, false, true)];
        let healed = [(4, true, true, false, true), (20, true, true, true, true)];
        assert_eq!(lies(&looks(&[&honest[..], &healed].concat()), PATIENCE), Vec::<String>::new());
    }

    #[test]
    fn a_planted_lie_is_found_in_both_directions() {
        let found = lies(&looks(&[(9, true, true, true, true), (12, false, false, true, true)]), PATIENCE);
        assert_eq!(found, ["shim said good while commits hung for more than 6000 ms, from second 9 on"]);
        let found = lies(&looks(&[(12, true, true, true, false)]), PATIENCE);
        assert_eq!(found, ["safekeeper said bad while everything worked for more than 6000 ms, from second 0 on"]);
        let found = lies(&looks(&[(12, true, false, true, false)]), PATIENCE);
        assert_eq!(found, Vec::<String>::new(), "not everything worked");
    }

    #[test]
    fn what_the_observer_missed_is_not_judged() {
        let mut all = looks(&[(9, true, true, true, true), (12, false, false, true, true)]);
        // The machine stood still for 100 s in the midst of it, and again 3 looks later.
        all.iter_mut().skip(10).for_each(|l| l.at += Duration::from_secs(100));
        all.iter_mut().skip(13).for_each(|l| l.at += Duration::from_secs(100));
        assert_eq!(lies(&all[..14], PATIENCE), Vec::<String>::new());
        let found = lies(&all, PATIENCE);
        assert_eq!(found, ["shim said good while commits hung for more than 6000 ms, from second 9 on"]);
    }

    #[test]
    fn the_patience_begins_anew_with_every_stretch() {
        let flapping = [(5, false, false, true, true), (1, false, false, false, true)];
        assert_eq!(lies(&looks(&[flapping, flapping, flapping].concat()), PATIENCE), Vec::<String>::new());
    }
}
