//! Benchmarks against peers: paired, interleaved blocks on one machine, ratios with their spread, CPU and pressure
//! beside wall time.
//!
//! Every system has a cluster of its own, configured alike, and only the one under test gets load. Rounds go through
//! the systems forwards and backwards in turn (ABBA), so that a slow drift of the machine hits all of them; a ratio is
//! taken inside a round.

pub mod load;
pub mod stats;
pub mod system;
pub mod usage;
