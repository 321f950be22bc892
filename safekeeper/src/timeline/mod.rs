//! Timelines at run time: the registry, one driver task per timeline, and the handle that sessions use.
//!
//! | module | what |
//! |---|---|
//! | [`handle`] | what sessions, HTTP and the announcer see of a timeline |
//! | [`port`] | a proposer's connection to a driver |
//! | [`reader`] | reading WAL in order, from memory or files |
//! | [`registry`] | all timelines of this safekeeper |
//! | `create` | checks of a creation request |
//! | `turns` | creations of one timeline, one after the other |
//! | `tenants` | which tenants' directories are durable |
//! | `load` | opening many timelines at a time |
//! | `check_wal` | WAL that a receiver refused, read back |
//! | `doubt` | what is known of damaged WAL |
//! | `hearsay` | how often another member is asked for its own statement |
//! | `commands` | what the driver is asked, and what it says to a proposer |
//! | [`positions`] | where a timeline stands |
//! | `driver` | the task that owns acceptor and storage |
//! | [`gathering`] | what waits for the disk, and the order of everything; pure |
//! | `conns` | the connections of proposers, and feedback to them |
//! | `worker` | groups of disk effects on blocking threads |
//! | `shared` | what driver and handles share |
//! | `standbys` | what hot standbys that read here need kept |
//! | [`ring`] | the newest WAL in memory; pure |
//! | `metrics` | counters of storage |

mod check_wal;
mod commands;
mod conns;
mod create;
mod doubt;
mod driver;
pub mod gathering;
pub mod handle;
mod hearsay;
mod load;
mod metrics;
pub mod port;
pub mod positions;
pub mod reader;
pub mod registry;
pub mod ring;
mod rings;
mod shared;
mod standbys;
mod tenants;
mod turns;
mod worker;

pub use commands::PortEvent;
pub use create::CreateError;
pub use handle::{ConnectRefused, TimelineHandle};
pub(crate) use hearsay::Unheard;
pub use port::{PortClosed, PortReceiver, PortSender, ProposerPort};
pub use positions::{Stopped, TimelinePositions};
pub use reader::{ReadMode, TimelineWalReader, WalChunk, WalReadError};
pub use registry::{Creation, DeleteError, RegistryError, Timelines, TimelinesConfig};
pub(crate) use standbys::StandbyReader;

#[cfg(test)]
mod tests;
