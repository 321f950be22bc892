//! Timelines at run time: the registry, one driver task per timeline, and the handle that sessions use.
//!
//! | module | what |
//! |---|---|
//! | [`handle`] | what sessions, HTTP and the announcer see of a timeline |
//! | [`registry`] | all timelines of this safekeeper; creation |

pub mod handle;
pub mod registry;

pub use handle::{
    ConnectRefused, PortEvent, PortReceiver, PortSender, Positions, ProposerPort, ReadMode, TimelineHandle, WalChunk,
    WalReadError, WalReader,
};
pub use registry::{CreateError, Creation, RegistryError, Timelines, TimelinesConfig};
