//! What a timeline keeps on disk: control file and WAL segments (`docs/formats.md`).
//!
//! Synchronous and without tokio: the drivers run it off the async threads, the simulator runs it as it is.
//!
//! | module | what |
//! |---|---|
//! | [`error`] | failures, by what is to be done about them |
//! | [`control`] | control file: two alternating checksummed slots |
//! | [`segment`] | segment files: names, creation, index |
//! | [`wal`] | writing, syncing and cutting the log |
//! | [`scan`] | the end of the log and its last record |
//! | [`read_back`] | whether WAL held here is as it was written |
//! | [`shared_dir`] | syncs of a directory that several threads change |
//! | [`timeline`] | one timeline's directory |
//! | [`ops`] | the acceptor's effects, grouped and run |

pub mod control;
pub mod error;
pub mod ops;
pub mod read_back;
pub mod scan;
pub mod segment;
pub mod shared_dir;
pub mod timeline;
pub mod wal;

pub use error::StorageError;
pub use ops::run_group;
pub use timeline::TimelineStorage;

#[cfg(test)]
pub(crate) mod tests;
