//! PostgreSQL's frontend/backend protocol 3.0 as bytes: frames, the first packet, errors with SQLSTATE.
//!
//! Sessions on sockets that speak it are the crate `libpq`'s.

mod error;
pub mod frame;
pub mod startup;

pub use error::{SqlError, sqlstate};
pub use startup::StartupParams;
