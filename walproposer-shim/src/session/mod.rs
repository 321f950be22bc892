//! One session: from an attached primary to the loss of the primary, the quorum or the term.
//!
//! | file | what |
//! |---|---|
//! | [`course`] | what is done and in which order, with the proposer core; pure |
//! | `driver` | does it on tokio |
//! | `streaming` | the stream from PostgreSQL: WAL in, reports out |
//! | `peers` | the tasks of all safekeepers, and whose fault a failure is |
//! | `downstream` | one of those tasks |
//! | [`ring`] | WAL in memory; pure |
//! | `report`, `standbys` | what PostgreSQL is told and when, about standbys too |

pub mod course;
mod downstream;
mod driver;
mod peers;
mod report;
pub mod ring;
mod standbys;
mod streaming;

pub(crate) use driver::{AttachedPrimary, run};
