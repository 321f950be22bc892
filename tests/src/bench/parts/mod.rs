//! The parts of the table, one file each: `run(&mut Run)` measures and reports figures.

pub mod catchup;
pub mod commit;
pub mod cost;
pub mod getpage;
pub mod idle;
pub mod ingest;
pub mod kills;
pub mod memory;
pub mod proposers;
pub mod push;
pub mod redo;
pub mod sim;
pub mod stall;
pub mod trickle;
pub mod unsynced;
