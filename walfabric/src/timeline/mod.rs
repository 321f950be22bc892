//! One-time bootstrap of a timeline, also for a PostgreSQL that we did not start: slot, members, pageservers, then
//! protection; and what can be seen and done of timelines that exist.
//!
//! | file | what |
//! |---|---|
//! | [`command`] | the command line |
//! | [`create`] | a creation from its checks to its end |
//! | `preflight` | what is checked before anything is made |
//! | `slot`, `members`, `prehistory` | the slot, the members, and the WAL in front of the log's start |
//! | `undo` | takes back what a creation made that failed |
//! | `primary` | what a primary says about itself |
//! | `records` | what the broker says about nodes and timelines |
//! | [`inventory`] | lists, shows and deletes |

pub mod command;
pub mod create;
pub mod inventory;
mod members;
mod preflight;
mod prehistory;
mod primary;
mod records;
mod slot;
mod undo;

pub use create::{CreateArgs, Created, create, random_ttid};
pub(crate) use members::BODY_TYPE;
pub(crate) use prehistory::stretch;
pub(crate) use records::{conf_of, timeline_path};
