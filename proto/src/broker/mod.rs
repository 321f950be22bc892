//! Everything that processes write on the broker: [`keys`] and [`records`].
//!
//! The client is in the crate `broker`, the embedded server in the crate `brokerd`.

pub mod keys;
pub mod records;

pub use keys::Keys;
