//! PostgreSQL as the judge of redo: recorded logs are replayed by [`pgformat::redo`] and compared, byte by byte, with
//! what PostgreSQL itself says each page is.
//!
//! | module | what |
//! |---|---|
//! | [`types`] | every type of record that PostgreSQL can write, and why some are never seen |
//! | [`log`] | reads the segments of a stopped cluster |
//! | [`pages`], [`effects`] | the state of all pages, and what records do to relations as a whole |
//! | [`mask`], [`allowed`] | of `pgformat::compare`: what PostgreSQL does not compare, what its replay changes |
//! | [`replay`] | judge (a): images of `wal_consistency_checking` |
//! | [`files`] | judge (b): the primary's files after a clean shutdown |
//! | [`plant`] | bugs to show that the judges notice |
//! | [`cluster`], [`record`], [`regress`] | PostgreSQL servers, and the workloads that are recorded on them |
//! | [`golden`] | examples of every kind of change, for tests without a server |
//! | [`whole`] | everything, on every server |
//! | [`report`] | counts and their table |

pub mod cluster;
pub mod effects;
pub mod files;
pub mod golden;
pub mod log;
pub mod pages;
pub mod plant;
pub mod record;
pub mod regress;
pub mod replay;
pub mod report;
pub mod types;
pub mod whole;

pub use pgformat::compare::{allowed, mask};
