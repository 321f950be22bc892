//! The parts of the table, one file each: `run(&mut Run)` measures and hands figures over.
