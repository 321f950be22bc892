//! The simulator in the gate: some seeds without a violation, a seed replays exactly, and every planted bug is caught.

use tests::sim::{Bug, run};

/// Seeds that the plain run takes; `make sim` runs more.
const SEEDS: u64 = 150;
/// Seeds within which a planted bug must be caught.
const BUG_SEEDS: u64 = 400;

#[test]
fn no_invariant_is_violated() {
    let mut faults = 0;
    for seed in 0..SEEDS {
        let report = run(seed, None, false);
        assert_eq!(report.violation, None, "seed {seed}; replay: make sim SEEDS=1 FROM={seed}");
        assert!(report.committed > 0, "seed {seed} committed nothing");
        faults += report.faults.values().sum::<u64>();
    }
    assert!(faults > SEEDS, "faults strike: {faults}");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 17, 99] {
        let (a, b) = (run(seed, None, false), run(seed, None, false));
        assert_eq!((a.digest, a.events, &a.faults), (b.digest, b.events, &b.faults), "seed {seed}");
    }
    assert_ne!(run(3, None, false).digest, run(4, None, false).digest, "the digest tells runs apart");
}

/// Each checker is shown to work by a bug that only it, or it too, catches.
#[test]
fn every_planted_bug_is_caught() {
    // A core's own assertion is a catch too; its message needs no backtrace.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let caught = (0..BUG_SEEDS).find_map(|seed| {
            let violation = run(seed, Some(*bug), false).violation?;
            let expected = bug.caught_by().is_none_or(|by| by == violation.invariant);
            expected.then_some((seed, violation))
        });
        match caught {
            Some((seed, violation)) => println!("{:<20} seed {seed:>3}: {violation:.100}", bug.name()),
            None => missed.push(bug.name()),
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not caught within {BUG_SEEDS} seeds: {missed:?}");
}
