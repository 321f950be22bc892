//! libpq sessions, protocol 3.0: one set of parts for dialled and for accepted sockets, and the CopyBoth stream that
//! splits into independently owned halves. WAL payloads travel as [`bytes::Bytes`].
//!
//! | part | what | pure? |
//! |---|---|---|
//! | `frame` | tag, length, body; errors and rows as bytes | yes |
//! | `startup` | first packet, `options` grammar | yes |
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
pub mod frame;
mod link;
mod server;
mod socket;
pub mod startup;
#[cfg(test)]
mod tests;

pub use client::{ClientConnection, QueryEvent, QueryResult};
pub use conninfo::{ConnectOptions, ConninfoError, Environment, PASSWORD_IN_ARGV, holds_password};
pub use copy::{CopyEvent, CopyReader, CopyWriter};
pub use error::{NetError, SqlError, sqlstate};
pub use server::{Auth, ColumnType, ServerConnection};
pub(crate) use socket::tune;
pub use startup::StartupParams;
