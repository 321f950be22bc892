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
//! | `copy` | sessions in copy mode | no |
//!
//! # Example
//! A server answers every query with one row, and a client asks it:
//!
//! ```
//! use std::time::Duration;
//!
//! use libpq::{Auth, ClientConnection, ColumnType, ConnectOptions, ServerConnection};
//! use tokio::net::TcpListener;
//!
//! # type Done = Result<(), Box<dyn std::error::Error>>;
//! # let run = async {
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let options = ConnectOptions::to_address(&listener.local_addr()?.to_string(), "reader")?;
//! let serve = async {
//!     let (socket, _) = listener.accept().await?;
//!     let limit = Duration::from_secs(10);
//!     let mut session = ServerConnection::accept(socket, &Auth::Trust, limit, |_| Vec::new()).await?;
//!     while session.next_query().await?.is_some() {
//!         let row = vec![Some("42".to_owned())];
//!         session.send_rows(&[("answer", ColumnType::Int4)], &[row], "SELECT 1").await?;
//!     }
//!     Done::Ok(())
//! };
//! let ask = async {
//!     let mut client = ClientConnection::dial(&options).await?;
//!     let results = client.simple_query("SELECT 42").await?;
//!     assert_eq!((results[0].columns.len(), results[0].rows[0][0].as_deref()), (1, Some("42")));
//!     client.close().await?;
//!     Done::Ok(())
//! };
//! tokio::try_join!(serve, ask)?;
//! # Done::Ok(())
//! # };
//! # tokio::runtime::Runtime::new()?.block_on(run)?;
//! # Done::Ok(())
//! ```

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
pub use server::{AnswerInParts, Auth, ColumnType, ServerConnection};
pub use socket::tune;
