//! One session: from an attached primary to the loss of the primary, the quorum or the term.
//!
//! | file | what |
//! |---|---|
//! | `driver` | the owner of the proposer core: inputs to it, effects from it |
//! | `streaming` | the stream from PostgreSQL: WAL in, reports out |
//! | `peers` | the tasks of all safekeepers, and whose fault a failure is |
//! | `downstream` | one of those tasks |
//! | `ring`, `report`, `standbys` | WAL in memory; what PostgreSQL is told, about standbys too |

mod downstream;
mod driver;
mod peers;
mod report;
mod ring;
mod standbys;
mod streaming;

pub(crate) use driver::{AttachedPrimary, run};
