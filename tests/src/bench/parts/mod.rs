//! The parts of the table, one file each: `run(&mut Run)` measures and hands figures over.

pub mod catchup;
pub mod commit;
pub mod cost;
pub mod idle;
pub mod memory;
pub mod proposers;
pub mod stall;
pub mod trickle;
pub mod unsynced;
pub mod kills;
pub mod push;
pub mod sim;
