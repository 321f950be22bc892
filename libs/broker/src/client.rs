//! One client of the etcd v3 API, for real etcd and for the embedded broker alike.
//!
//! Every call has a deadline ([`REQUEST_TIMEOUT`]), and its errors may be temporary: callers retry with back-off. The
//! client recovers by itself when the broker comes back. It keeps no state beyond the connection; leases and
//! publications belong to [`super::Session`].

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, KvClient, PutOptions, Txn,
    TxnOp, TxnOpResponse, TxnResponse, WatchFilterType, WatchOptions, WatchStream,
};

use super::connection::{Connections, Repeat, Seen};
use super::error::{BrokerError, LeaseId, Revision};
use proto::broker::Keys;

/// How long one request may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Largest answer taken: a snapshot of every timeline's records (some 400 bytes each) fits many times over.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A key with its value and the revision that wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyEntry {
    /// The whole key, its prefix included.
    pub key: String,
    /// The value, JSON.
    pub value: Vec<u8>,
    /// Revision of the last put of this key: the token of a choice.
    pub mod_revision: Revision,
}

/// What the broker holds of a key that was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeldValue {
    /// What was put.
    Same,
    /// There is no such key.
    Missing,
    /// Something that another put left, on this lease (0: on none).
    Other(LeaseId),
}

/// Handle of the broker; cheap to clone. Connects lazily, so it can be built while the broker is away.
#[derive(Clone)]
pub struct Broker {
    keys: Keys,
    connections: Arc<Connections>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("url", &self.url()).field("prefix", &self.keys.prefix()).finish()
    }
}

impl Broker {
    /// A broker at `url` (`http://host:port[,host:port...]`), keys below `prefix`.
    ///
    /// # Errors
    /// When the URL does not parse; an unreachable broker is no error here.
    pub fn new(url: &str, prefix: &str) -> Result<Broker, BrokerError> {
        Ok(Broker { keys: Keys::new(prefix), connections: Arc::new(Connections::parse(url)?) })
    }

    /// The key layout in use.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The URL as it was given to [`Broker::new`].
    pub fn url(&self) -> &str {
        self.connections.url()
    }

    /// Reads one key.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn get(&self, key: &str) -> Result<Option<KeyEntry>, BrokerError> {
        let read = |client: Client| async move { kv(&client).get(key, None).await };
        let mut answer = self.connections.request("get", REQUEST_TIMEOUT, Repeat::Freely, read).await?;
        Ok(answer.take_kvs().first().map(KeyEntry::of))
    }

    /// Reads all keys below a prefix, with the store's revision at the time of reading.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn get_prefix(&self, prefix: &str) -> Result<(Vec<KeyEntry>, Revision), BrokerError> {
        self.list(prefix).await.map(|(entries, seen)| (entries, seen.revision))
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<(Vec<KeyEntry>, Seen), BrokerError> {
        let read = |client: Client| async move { kv(&client).get(prefix, Some(GetOptions::new().with_prefix())).await };
        let answer = self.connections.request("list", REQUEST_TIMEOUT, Repeat::Freely, read).await?;
        Ok((answer.kvs().iter().map(KeyEntry::of).collect(), Seen::of(answer.header())))
    }

    /// Whether the broker has raised the alarm that it is full: then it takes no writes.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn is_full(&self) -> Result<bool, BrokerError> {
        let ask = |client: Client| async move {
            client.maintenance_client().alarm(AlarmAction::Get, AlarmType::Nospace, None).await
        };
        let answer = self.connections.request("alarm list", REQUEST_TIMEOUT, Repeat::Freely, ask).await?;
        Ok(!answer.alarms().is_empty())
    }

    /// Puts a key without a lease.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<Revision, BrokerError> {
        let value = &value;
        let write = |client: Client| async move { kv(&client).put(key, value.clone(), None).await };
        let answer = self.connections.request("put", REQUEST_TIMEOUT, Repeat::IfUnsent, write).await?;
        Ok(Seen::of(answer.header()).revision)
    }

    /// Creates a key that must not exist; `Err(entry)` inside gives the one that does.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<Result<Revision, KeyEntry>, BrokerError> {
        match self.compare_and_put(key, None, value).await? {
            Ok(revision) => Ok(Ok(revision)),
            Err(Some(entry)) => Ok(Err(entry)),
            Err(None) => {
                let detail = "it says that the key exists, and shows none".to_owned();
                Err(BrokerError::Refused { operation: "create", detail })
            }
        }
    }

    /// Puts a key if its last revision is `expected` (`None`: if there is no such key); `Err(entry)` inside gives what
    /// is there instead.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn compare_and_put(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Vec<u8>,
    ) -> Result<Result<Revision, Option<KeyEntry>>, BrokerError> {
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected.unwrap_or(0))])
            .and_then([TxnOp::put(key, value, None)])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.txn("compare-and-put", txn, REQUEST_TIMEOUT, Repeat::IfUnsent).await?;
        if answer.succeeded() {
            return Ok(Ok(Seen::of(answer.header()).revision));
        }
        let found = answer.op_responses().into_iter().next().and_then(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().first().map(KeyEntry::of),
            _ => None,
        });
        Ok(Err(found))
    }

    /// Deletes a key; whether it was there.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn delete(&self, key: &str) -> Result<bool, BrokerError> {
        let write = |client: Client| async move { kv(&client).delete(key, None).await };
        let answer = self.connections.request("delete", REQUEST_TIMEOUT, Repeat::IfUnsent, write).await?;
        Ok(answer.deleted() > 0)
    }

    /// Deletes every key below `prefix`, which must end in a slash; how many there were.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn delete_prefix(&self, prefix: &str) -> Result<i64, BrokerError> {
        assert!(prefix.ends_with('/'), "prefix {prefix:?} would match longer names too");
        let options = || Some(DeleteOptions::new().with_prefix());
        let write = |client: Client| async move { kv(&client).delete(prefix, options()).await };
        Ok(self.connections.request("delete", REQUEST_TIMEOUT, Repeat::IfUnsent, write).await?.deleted())
    }

    /// A lease of `ttl_s` seconds, and where the store is.
    pub(super) async fn grant(&self, ttl_s: i64) -> Result<(LeaseId, Seen), BrokerError> {
        let grant = |client: Client| async move { client.lease_client().grant(ttl_s, None).await };
        let answer = self.connections.request("lease grant", REQUEST_TIMEOUT, Repeat::Freely, grant).await?;
        Ok((LeaseId(answer.id()), Seen::of(answer.header())))
    }

    /// Gives the lease its full time again, and says where the store is; [`BrokerError::LeaseGone`] when it does not
    /// know it.
    pub(super) async fn keep_alive(&self, lease: LeaseId) -> Result<Seen, BrokerError> {
        let keep = |client: Client| async move {
            // Opening the stream keeps the lease alive, but only a message of the stream shows the header.
            let (mut keeper, mut stream) = client.lease_client().keep_alive(lease.0).await?;
            keeper.keep_alive().await?;
            stream.message().await
        };
        match self.connections.request("lease keep-alive", REQUEST_TIMEOUT, Repeat::Freely, keep).await {
            Ok(Some(answer)) if answer.ttl() > 0 => Ok(Seen::of(answer.header())),
            // The client reports an unknown lease as an error of its own; a refusal has no other reason.
            Ok(Some(_)) | Err(BrokerError::Refused { .. } | BrokerError::LeaseGone(_)) => {
                Err(BrokerError::LeaseGone(lease))
            }
            Ok(None) => Err(self.connections.unreachable("the keep-alive stream ended".to_owned())),
            Err(error) => Err(error),
        }
    }

    /// Ends the lease; the broker deletes its keys in one revision.
    pub(super) async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<(), BrokerError> {
        let revoke = |client: Client| async move { client.lease_client().revoke(lease.0).await };
        self.connections.request("lease revoke", timeout, Repeat::Freely, revoke).await.map(|_| ())
    }

    /// In one transaction: deletes `delete` and puts `put` under `lease`.
    pub(super) async fn write(
        &self,
        delete: &[String],
        put: &[(String, bytes::Bytes)],
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<Seen, BrokerError> {
        let deletes = delete.iter().map(|key| TxnOp::delete(key.as_str(), None));
        let options = || Some(PutOptions::new().with_lease(lease.0));
        let puts = put.iter().map(|(key, value)| TxnOp::put(key.as_str(), value.to_vec(), options()));
        let txn = Txn::new().and_then(deletes.chain(puts).collect::<Vec<_>>());
        match self.txn("publication", txn, timeout, Repeat::IfUnsent).await {
            Err(BrokerError::LeaseGone(_)) => Err(BrokerError::LeaseGone(lease)),
            other => other.map(|answer| Seen::of(answer.header())),
        }
    }

    /// Compares keys, values and revisions with what the broker holds: nothing when all are the same, else what is
    /// there of each key, in order.
    pub(super) async fn compare(
        &self,
        expected: &[(String, bytes::Bytes, Revision)],
    ) -> Result<Vec<HeldValue>, BrokerError> {
        let compare = |(key, value, revision): &(String, bytes::Bytes, Revision)| {
            let revision = Compare::mod_revision(key.as_str(), CompareOp::Equal, *revision);
            [revision, Compare::value(key.as_str(), CompareOp::Equal, value.to_vec())]
        };
        let gets: Vec<TxnOp> = expected.iter().map(|(key, ..)| TxnOp::get(key.as_str(), None)).collect();
        let txn = Txn::new().when(expected.iter().flat_map(compare).collect::<Vec<_>>()).or_else(gets);
        let answer = self.txn("comparison", txn, REQUEST_TIMEOUT, Repeat::Freely).await?;
        if answer.succeeded() {
            return Ok(Vec::new());
        }
        let held = |(response, (_, value, revision)): (TxnOpResponse, &(String, bytes::Bytes, Revision))| {
            let TxnOpResponse::Get(get) = response else { return HeldValue::Missing };
            match get.kvs().first() {
                None => HeldValue::Missing,
                Some(kv) if kv.value() == value && kv.mod_revision() == *revision => HeldValue::Same,
                Some(kv) => HeldValue::Other(LeaseId(kv.lease())),
            }
        };
        Ok(answer.op_responses().into_iter().zip(expected).map(held).collect())
    }

    /// A stream of the deletions below this broker's prefix, from now on.
    pub(super) async fn watch_deletions(&self) -> Result<WatchStream, BrokerError> {
        let prefix = &format!("{}/", self.keys.prefix());
        let options = || WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
        let open = |client: Client| async move { client.watch_client().watch(prefix.as_str(), Some(options())).await };
        self.connections.request("watch", REQUEST_TIMEOUT, Repeat::IfUnsent, open).await
    }

    /// A stream of what happens below `prefix` from `start` on, and the generation of its connection.
    pub(super) async fn watch(&self, prefix: &str, start: Revision) -> Result<(WatchStream, u64), BrokerError> {
        let options = || WatchOptions::new().with_prefix().with_start_revision(start).with_progress_notify();
        let open = |client: Client| async move {
            let mut watch = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            watch.watch(prefix, Some(options())).await
        };
        let stream = self.connections.request("watch", REQUEST_TIMEOUT, Repeat::IfUnsent, open).await?;
        Ok((stream, self.connections.connection().await?.generation))
    }

    /// Says that the connection of `generation` is silent or broken: the next request connects anew.
    pub(super) fn give_up(&self, generation: u64) {
        self.connections.give_up(generation);
    }

    async fn txn(
        &self,
        operation: &'static str,
        txn: Txn,
        timeout: Duration,
        repeat: Repeat,
    ) -> Result<TxnResponse, BrokerError> {
        let txn = &txn;
        let run = |client: Client| async move { kv(&client).txn(txn.clone()).await };
        self.connections.request(operation, timeout, repeat, run).await
    }
}

impl KeyEntry {
    pub(super) fn of(kv: &KeyValue) -> KeyEntry {
        KeyEntry {
            key: String::from_utf8_lossy(kv.key()).into_owned(),
            value: kv.value().to_vec(),
            mod_revision: kv.mod_revision(),
        }
    }
}

fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX)
}
