//! libpq sessions, protocol 3.0: shared parts for dialled and accepted sockets, and the CopyBoth stream, which splits
//! into independently owned halves. WAL payloads travel as [`bytes::Bytes`]. `proto::pg` has the bytes of the protocol.
//!
//! | part | content | pure? |
//! |---|---|---|
//! | `conninfo` | connection strings, and the files that complete them | no |
//! | `auth` | client side of clear text, MD5, SCRAM | yes |
//! | `link` | the two halves of a socket with their buffers | no |
//! | `client`, `server` | sessions in command mode | no |
//! | `copy` | sessions in copy mode | no |

mod auth;
mod client;
mod conninfo;
mod copy;
mod error;
mod link;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use client::{ClientConnection, QueryEvent, QueryResult};
pub use conninfo::{ConnectOptions, ConninfoError, Environment, PASSWORD_IN_ARGV, holds_password};
pub use copy::{CopyEvent, CopyReader, CopyWriter};
pub use error::NetError;
pub use server::{Auth, ColumnType, ServerConnection};
pub use socket::tune;
