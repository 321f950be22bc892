//! One client of the etcd v3 API, for real etcd and for the embedded broker alike.

use super::Keys;

/// A revision of the broker's store.
pub type Revision = i64;

/// A key with its value and the revision that wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, JSON.
    pub value: Vec<u8>,
    /// Revision of the last put of this key: the token of a choice.
    pub mod_revision: Revision,
}

/// What went wrong with the broker; all of it may pass, callers retry with back-off.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It did not answer in time, or the connection failed.
    #[error("broker {endpoint} is not reachable: {detail}")]
    Unreachable {
        /// Endpoint URL.
        endpoint: String,
        /// What the client said.
        detail: String,
    },
    /// It answered with an error.
    #[error("broker refused {operation}: {detail}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// What it said.
        detail: String,
    },
    /// The endpoint text is no URL.
    #[error("{0:?} is not a broker URL: expected http://host:port[,host:port...]")]
    BadUrl(String),
}

/// Handle of the broker; cheap to clone. Connects lazily, so it can be built while the broker is away.
#[derive(Clone)]
pub struct Broker {
    keys: Keys,
}

impl Broker {
    /// A broker at `url` (`http://host:port[,host:port...]`), keys below `prefix`.
    ///
    /// # Errors
    /// When the URL does not parse; an unreachable broker is no error here.
    pub fn new(url: &str, prefix: &str) -> Result<Broker, BrokerError> {
        let _ = url;
        Ok(Broker { keys: Keys::new(prefix) })
    }

    /// The key layout in use.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Reads one key.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, BrokerError> {
        let _ = key;
        todo!()
    }

    /// Reads all keys below a prefix, with the store's revision at the time of reading.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn get_prefix(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), BrokerError> {
        let _ = prefix;
        todo!()
    }

    /// Puts a key without a lease.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<Revision, BrokerError> {
        let _ = (key, value);
        todo!()
    }

    /// Creates a key that must not exist; `Err(entry)` inside gives the one that does.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<Result<Revision, Entry>, BrokerError> {
        let _ = (key, value);
        todo!()
    }

    /// Deletes a key; whether it was there.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn delete(&self, key: &str) -> Result<bool, BrokerError> {
        let _ = key;
        todo!()
    }
}
