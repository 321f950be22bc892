//! Which layers to rewrite together: a function of the manifest. Pure.
//!
//! Any set of layers may be merged: reads do not depend on order or disjoint ranges. So a plan is only about cost.
//! Layers have levels: 0 from a flush, n+1 from merging level n. Where [`CompactionRules::fanout`] layers of one level
//! overlap, those are merged, so that a version is rewritten once per level and a read meets fewer than that many
//! layers per level; layers that do not overlap (an import, a log of inserts) are never merged at all. What the horizon
//! has made superfluous goes when its layers are merged anyway, or, where enough of it has gathered, on its own
//! account.

use std::collections::BTreeMap;

use pgformat::Lsn;

use crate::cluster::key::Key;
use crate::store::manifest::LayerEntry;

/// The settings, and the state of the timeline, that decide what is rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CompactionRules {
    /// So many layers that overlap are merged: [`crate::store::config::StoreConfig::fanout`].
    pub(crate) fanout: usize,
    /// Below it only leases keep versions; none: everything is kept.
    pub(crate) horizon: Option<Lsn>,
}

/// What is rewritten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CompactionJob {
    /// Names of the layers.
    pub(crate) inputs: Vec<String>,
    /// Of what comes out.
    pub(crate) level: u32,
    /// Why it is worth the work.
    pub(crate) reason: CompactionReason,
}

/// Why something is rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CompactionReason {
    /// Too many layers of one level overlap.
    Overlap,
    /// Much of it is below the horizon and not needed any more.
    Clean,
}

/// The next job, or none.
pub(crate) fn plan(layers: &[LayerEntry], rules: CompactionRules) -> Option<CompactionJob> {
    let levels = layers.iter().map(|l| l.level).max()?;
    (0..=levels).find_map(|level| overlap(layers, level, rules)).or_else(|| clean(layers, rules))
}

fn overlap(layers: &[LayerEntry], level: u32, rules: CompactionRules) -> Option<CompactionJob> {
    let of_level: Vec<&LayerEntry> = layers.iter().filter(|l| l.level == level).collect();
    let (key, depth) = deepest(&of_level)?;
    if depth < rules.fanout.max(2) {
        return None;
    }
    let inputs = oldest(of_level.into_iter().filter(|l| contains(l, key)).collect(), rules);
    Some(CompactionJob { inputs, level: level + 1, reason: CompactionReason::Overlap })
}

/// The oldest of these, as many runs as one job takes: a backlog is worked off piece by piece. Of a run, all or none:
/// the pieces of one long key are merged with something else, never among themselves.
fn oldest(mut layers: Vec<&LayerEntry>, rules: CompactionRules) -> Vec<String> {
    layers.sort_by_key(|l| (l.lsns, l.name.clone()));
    let mut runs: Vec<u64> = Vec::new();
    for layer in &layers {
        if !runs.contains(&layer.run) {
            runs.push(layer.run);
        }
    }
    runs.truncate(rules.fanout.max(2) * 2);
    layers.into_iter().filter(|l| runs.contains(&l.run)).map(|l| l.name.clone()).collect()
}

fn contains(layer: &LayerEntry, key: Key) -> bool {
    layer.keys[0].0 <= key && key <= layer.keys[1].0
}

/// A key that layers of as many runs as possible contain, and of how many.
fn deepest(layers: &[&LayerEntry]) -> Option<(Key, usize)> {
    // Where a layer starts comes before where one ends: both contain the key.
    let starts = layers.iter().map(|l| (l.keys[0].0, false, l.run));
    let mut edges: Vec<(Key, bool, u64)> = starts.chain(layers.iter().map(|l| (l.keys[1].0, true, l.run))).collect();
    edges.sort_unstable();
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    let mut best: Option<(Key, usize)> = None;
    for (key, ends, run) in edges {
        let count = open.entry(run).or_default();
        if ends {
            *count -= 1;
            if *count == 0 {
                open.remove(&run);
            }
        } else {
            *count += 1;
            if best.is_none_or(|b| open.len() > b.1) {
                best = Some((key, open.len()));
            }
        }
    }
    best
}

/// A layer below the horizon that was not cleaned since, with the others below the horizon that it overlaps; when what
/// is new among them is worth the work.
fn clean(layers: &[LayerEntry], rules: CompactionRules) -> Option<CompactionJob> {
    let horizon = rules.horizon?;
    let below: Vec<&LayerEntry> = layers.iter().filter(|l| l.lsns[1] <= horizon).collect();
    let dirty = |l: &LayerEntry| l.cleaned_to.is_none_or(|to| to < l.lsns[1]);
    below.iter().filter(|l| dirty(l)).find_map(|first| {
        let meets = |l: &LayerEntry| l.keys[0].0 <= first.keys[1].0 && first.keys[0].0 <= l.keys[1].0;
        let group: Vec<&LayerEntry> = below.iter().copied().filter(|l| meets(l)).collect();
        let bytes = |layers: &mut dyn Iterator<Item = &&LayerEntry>| layers.map(|l| l.bytes).sum::<u64>();
        let all = bytes(&mut group.iter());
        let new = bytes(&mut group.iter().filter(|l| dirty(l)));
        let superfluous = group.iter().any(|l| l.run != first.run) || first.versions > first.chains;
        // A byte that is cleaned costs the rewriting of no more than so many that are clean already.
        let worth = new.saturating_mul(rules.fanout as u64) >= all;
        if !superfluous || !worth {
            return None;
        }
        let level = group.iter().map(|l| l.level).max()?;
        Some(CompactionJob { inputs: oldest(group, rules), level, reason: CompactionReason::Clean })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::key::KeyKind;
    use crate::store::manifest::HexKey;

    fn layer(name: &str, keys: [u32; 2], lsns: [u64; 2], level: u32) -> LayerEntry {
        let key = |n| HexKey(Key::numbered(KeyKind::Block, 0, n));
        LayerEntry {
            name: name.into(),
            bytes: 100,
            keys: keys.map(key),
            lsns: lsns.map(Lsn::new),
            level,
            run: fastrand::u64(..),
            versions: 10,
            chains: 5,
            checksum: 0,
            cleaned_to: None,
            rest: serde_json::Map::new(),
        }
    }

    const RULES: CompactionRules = CompactionRules { fanout: 3, horizon: None };

    #[test]
    fn layers_that_overlap_are_merged_and_others_are_not() {
        let disjoint: Vec<LayerEntry> =
            (0..50).map(|i| layer(&format!("{i}"), [i * 10, i * 10 + 9], [1, 2], 0)).collect();
        assert_eq!(plan(&disjoint, RULES), None);
        let mut layers = disjoint;
        layers.push(layer("a", [95, 205], [3, 4], 0));
        assert_eq!(plan(&layers, RULES), None, "two deep");
        layers.push(layer("b", [150, 155], [5, 6], 0));
        let job = plan(&layers, RULES).expect("three deep at 150");
        assert_eq!((job.inputs, job.level), (vec!["15".to_owned(), "a".into(), "b".into()], 1));
        // The same three on different levels do not add up.
        layers.last_mut().expect("b").level = 1;
        assert_eq!(plan(&layers, RULES), None);
        assert_eq!(plan(&[], RULES), None);
    }

    #[test]
    fn the_pieces_of_one_run_do_not_count_as_overlapping() {
        let mut pieces: Vec<LayerEntry> = (0..9_u64).map(|i| layer(&format!("{i}"), [5, 5], [i, i], 1)).collect();
        pieces.iter_mut().for_each(|p| p.run = 7);
        assert_eq!(plan(&pieces, RULES), None);
        pieces.push(layer("a", [0, 9], [20, 21], 1));
        pieces.push(layer("b", [0, 9], [22, 23], 1));
        assert_eq!(plan(&pieces, RULES).expect("three runs").inputs.len(), 11);
    }

    #[test]
    fn a_job_is_bounded() {
        let many: Vec<LayerEntry> = (0..40_u64).map(|i| layer(&format!("{i:02}"), [0, 9], [i, i], 0)).collect();
        let job = plan(&many, RULES).expect("forty deep");
        assert_eq!(job.inputs, ["00", "01", "02", "03", "04", "05"]);
    }

    #[test]
    fn what_the_horizon_frees_is_cleaned_once() {
        let rules = |horizon| CompactionRules { horizon: Some(Lsn::new(horizon)), ..RULES };
        let mut layers = vec![layer("a", [0, 9], [1, 5], 1), layer("b", [20, 29], [3, 8], 0)];
        assert_eq!(plan(&layers, rules(4)), None, "both reach above");
        let job = plan(&layers, rules(5)).expect("a is below");
        assert_eq!((job.inputs, job.level, job.reason), (vec!["a".to_owned()], 1, CompactionReason::Clean));
        layers[0].cleaned_to = Some(Lsn::new(5));
        assert_eq!(plan(&layers, rules(7)), None);
        layers[1].versions = layers[1].chains;
        assert_eq!(plan(&layers, rules(8)), None, "nothing in b can go");
        layers[1].keys[0] = layers[0].keys[1];
        assert_eq!(plan(&layers, rules(8)).expect("they overlap").inputs, ["a", "b"]);
        layers[0].bytes = 1000;
        assert_eq!(plan(&layers, rules(8)), None, "too little for rewriting a");
    }
}
