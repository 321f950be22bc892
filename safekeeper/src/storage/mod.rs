//! What a timeline keeps on disk: control file and WAL segments (`docs/formats.md`).
//!
//! Synchronous and without tokio: the drivers run it off the async threads, the simulator runs it as it is.
//!
//! | module | what |
//! |---|---|
//! | [`disk`] | the file operations that storage needs; the real disk |

pub mod disk;
