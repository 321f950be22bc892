//! PostgreSQL's own bytes, by major version: log positions, WAL pages and records.
//!
//! Pure: no tokio, no files, no sockets, no clock. Everything here is a function of its input, so the simulator, the
//! servers and the tests run the very same code. The manifest keeps it so (no runtime crate may be added).
//!
//! | module | what |
//! |---|---|
//! | [`lsn`] | [`Lsn`], [`SegSize`], page and segment arithmetic |
//! | [`version`] | supported majors and where they differ, one table |
//! | [`wal`] | WAL pages and records: decoder, bodies, images, builder, end of log |
//! | [`rel`] | relations, forks, blocks |
//! | [`slru`] | the page arrays beside relations |
//! | [`page`] | pages: header, line pointers, items, checksum |
//! | [`redo`] | what a record does to a page |
//! | [`read`] | fields of little-endian structs |

pub mod lsn;
pub mod page;
pub mod read;
pub mod redo;
pub mod rel;
pub mod slru;
pub mod version;
pub mod wal;

pub use lsn::{Lsn, SegSize, Tli, WAL_PAGE_SIZE};
pub use slru::Slru;
pub use version::PgMajor;
