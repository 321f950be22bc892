//! PostgreSQL as the judge of redo: [`pgformat::redo`] replays recorded logs, and each page is compared byte by byte
//! with PostgreSQL's own.
//!
//! | module | what |
//! |---|---|
//! | [`types`] | every type of record that PostgreSQL can write, and why some never occur |
//! | [`log`] | reads the segments of a stopped cluster |
//! | [`pages`], [`effects`] | the state of all pages, and effects of records on whole relations |
//! | [`mask`], [`allowed`] | of `pgformat::compare`: masked bytes, and differences that replay itself makes |
//! | [`replay`] | judge (a): images of `wal_consistency_checking` |
//! | [`files`] | judge (b): the primary's files after a clean shutdown |
//! | [`plant`] | planted bugs that the judges must find |
//! | [`cluster`], [`record`], [`regress`] | PostgreSQL servers, and the workloads recorded on them |
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
