//! The client of the broker, which keeps hints, choices, leases and membership: etcd, or the small server of `brokerd`.
//!
//! No running stream waits for the broker, and log safety never depends on it. [`proto::broker`] has its keys and
//! records.
//!
//! [`client`] speaks etcd v3. [`session`] keeps one lease per node and everything that the node publishes under it.
//! [`watch`] follows a prefix across compactions and broker restarts. [`one_process`] checks whether a node's id is
//! taken.
//! taken.
//!
//! # Example
//! Two processes create one key: one of them has it, and the other one learns of it. `brokerd` serves here:
//!
//! ```
//! use broker::Broker;
//! use proto::id::NodeId;
//! use tokio_util::sync::CancellationToken;
//!
//! # let run = async {
//! let (dir, listen) = (tempfile::tempdir()?, "127.0.0.1:0".parse()?);
//! let (tell, address) = tokio::sync::oneshot::channel();
//! let stop = CancellationToken::new();
//! let ready = |address| tell.send(address).expect("somebody waits");
//! let server = tokio::spawn(brokerd::serve(dir.path().to_owned(), listen, ready, stop.clone()));
//!
//! let broker = Broker::new(&format!("http://{}", address.await?), "/walfabric")?;
//! let key = broker.keys().safekeeper(NodeId(1));
//! assert_eq!(key, "/walfabric/sk/1");
//! let revision = broker.create(&key, b"first".to_vec()).await?.expect("the key is new");
//! let held = broker.create(&key, b"second".to_vec()).await?.expect_err("the key is taken");
//! assert_eq!((held.value, held.mod_revision), (b"first".to_vec(), revision));
//!
//! stop.cancel();
//! server.await??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # };
//! # tokio::runtime::Runtime::new()?.block_on(run)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod client;
mod connection;
mod error;
mod one_id;
pub mod session;
pub mod watch;

pub use client::{Broker, KeyEntry, REQUEST_TIMEOUT};
pub use error::{BrokerError, LeaseId, Revision};
pub use one_id::{TwoProcesses, one_process};
pub use session::Session;
pub use watch::{Watch, WatchEvent};
