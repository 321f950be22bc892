//! A deterministic simulator of the quorum: real acceptors, real proposers, real WAL storage and control slots, on a
//! network, disks (`disk::FakeDisk`) and clocks that fail. A seed determines its run exactly. See `docs/simulation.md`.
//!
//! | module | what |
//! |---|---|
//! | [`bug`] | bugs that can be planted |
//! | `net` | connections |
//! | `node` | a safekeeper |
//! | `shim`, `drive` | a shim, and its part of the world |
//! | `feed` | WAL on its way through a shim |
//! | `wal` | servers that write WAL |
//! | `amnesia` | members that forget, and the statements of members |
//! | `faults` | kinds of faults |
//! | `life` | nodes come back, the world heals and is compared |
//! | `schedule` | event queue, and the decisions of a seed |
//! | `world` | everything together |

mod amnesia;
pub mod bug;
mod drive;
mod event;
mod faults;
mod feed;
mod life;
mod net;
mod node;
mod schedule;
mod shim;
mod wal;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use bug::Bug;
pub use world::Report;

use crate::check::Violation;

/// Runs one seed, with a bug planted or without. A panic of a core (an invariant asserted there) is a violation too.
/// `trace` prints every event.
pub fn run(seed: u64, bug: Option<Bug>, trace: bool) -> Report {
    let mut world = world::World::new(seed, bug, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match outcome {
        Ok(result) => result.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(Violation { invariant: "assertion", what: text.unwrap_or_else(|| "a panic".to_owned()) })
        }
    };
    world.report(violation)
}
