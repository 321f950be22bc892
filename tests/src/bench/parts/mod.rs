//! The parts of the table, one file each: `run(&mut Run)` measures and hands figures over.

pub mod commit;
pub mod memory;
pub mod stall;
pub mod unsynced;
pub mod catchup;
pub mod cost;
pub mod idle;
pub mod proposers;
pub mod trickle;
