//! Benchmarks against peers: paired, interleaved blocks on one machine, ratios with their spread; CPU, syncs, bytes and
//! pressure beside wall time.
//!
//! Only the system under test gets load. Pairs run alternately forwards and backwards (ABBA), so that a slow drift of
//! the machine affects both sides; a ratio is taken inside a pair. Every part of the table is a file in `parts/` and
//! hands its figures to one [`run::Run`], which prints them, judges them against their goals and keeps the raw results.

pub mod disk;
pub mod environment;
pub mod figure;
pub mod keeper;
pub mod load;
pub mod look;
pub mod pages;
pub mod parts;
pub mod primary;
pub mod proposer;
pub mod recorded;
pub mod replay;
pub mod rounds;
pub mod run;
pub mod stats;
pub mod syncs;
pub mod system;
pub mod usage;
pub mod wal;
pub mod window;
