//! What processes write on the broker: [`keys`] name it, [`records`] say it.
//!
//! The client is the crate `broker`'s, the embedded server the crate `brokerd`'s.

pub mod keys;
pub mod records;

pub use keys::Keys;
