//! PostgreSQL's frontend/backend protocol 3.0 as bytes: frames, the first packet, errors with SQLSTATE.
//!
//! The crate `libpq` has the sessions that speak it on sockets.

mod error;
pub mod frame;
pub mod startup;

pub use error::{SqlError, sqlstate};
pub use startup::StartupParams;
