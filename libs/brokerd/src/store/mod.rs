//! The embedded broker's state machine: keys, leases and revision. Pure: no I/O, and time is an argument.
//!
//! Requests are checked first; after that they cannot fail. The result is a [`StoreChange`], a list of [`StoreOp`]s
//! that is logged and gives the same state when replayed. Invariants:
//! - a change raises the revision by one if it touches a key, and not at all otherwise;
//! - a key changes at most once per revision; its mod_revision is the revision of its last put;
//! - a key with a lease is in that lease's set and in no other; the lease exists;
//! - replaying all changes gives an equal store, except for the times at which leases end.

mod kv;
mod lease;
mod range;
mod space;
mod txn;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

use etcd_client::proto::{PbEvent, PbKeyValue, PbResponseHeader};

pub(super) use range::KeyRange;
use usage::Usage;

use super::limits::QUOTA_BYTES;

/// Milliseconds on the server's own monotonic clock.
pub(super) type Millis = u64;

/// Revision of an empty store, as etcd has it: the first put gets 2.
const FIRST_REVISION: i64 = 1;

const PUT: i32 = 0;
const DELETE: i32 = 1;

/// One logged step of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum StoreOp {
    Put { lease: i64, key: Vec<u8>, value: Vec<u8> },
    Delete { key: Vec<u8> },
    Grant { lease: i64, ttl_s: i64 },
    Revoke { lease: i64 },
    Compact { revision: i64 },
}

/// What one request did: logged as a whole, with the revision that the store has after it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct StoreChange {
    pub(super) revision: i64,
    pub(super) ops: Vec<StoreOp>,
    pub(super) events: Vec<PbEvent>,
}

/// Why a request was refused; etcd's words, since clients look at them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RequestRefusal {
    EmptyKey,
    DuplicateKey,
    TooManyOps,
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    TtlTooLarge,
    ValueProvided,
    LeaseProvided,
    KeyNotFound,
    MalformedOp,
    NoSpace,
    KeysTooLong,
    AnswerTooLarge,
    RequestTooLarge,
    TooManyLeases,
}

/// A logged change does not fit the store that it is replayed on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum ReplayError {
    #[error("change to revision {found} follows revision {revision}")]
    Revision { revision: i64, found: i64 },
    #[error("lease {0:x} does not exist")]
    NoSuchLease(i64),
    #[error("lease {0:x} exists twice")]
    LeaseTwice(i64),
    #[error("a key with lease {0:x} stands outside of it")]
    StrayKey(i64),
    #[error("deletion of a key that does not exist")]
    NoSuchKey,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lease {
    pub(super) ttl_s: i64,
    ends_at: Millis,
    keys: BTreeSet<Vec<u8>>,
}

/// Keys, leases and revision.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct KeyStore {
    identity: Identity,
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Vec<u8>, PbKeyValue>,
    leases: BTreeMap<i64, Lease>,
    /// Leases by the time they end at.
    ends: BTreeSet<(Millis, i64)>,
    /// What was done since [`KeyStore::take_changes`].
    changes: Vec<StoreChange>,
    usage: Usage,
    quota_bytes: u64,
    /// The alarm: no writes until it is disarmed.
    full: bool,
}

/// Who answers: goes into every header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    /// Drawn when the directory was made.
    pub(super) cluster: u64,
    /// Counts the starts; stands where etcd has its raft term.
    pub(super) boots: u64,
}

/// A change in the making.
struct Draft {
    revision: i64,
    ops: Vec<StoreOp>,
    events: Vec<PbEvent>,
}

impl KeyStore {
    pub(super) fn new(identity: Identity) -> KeyStore {
        KeyStore::with_base(identity, FIRST_REVISION, FIRST_REVISION)
    }

    /// A store as a snapshot has it, before its leases and keys are added.
    pub(super) fn with_base(identity: Identity, revision: i64, compacted: i64) -> KeyStore {
        KeyStore {
            identity,
            revision,
            compacted,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            ends: BTreeSet::new(),
            changes: Vec::new(),
            usage: Usage::default(),
            quota_bytes: QUOTA_BYTES,
            full: false,
        }
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// Revision below which a client asked to forget.
    pub(super) fn compacted(&self) -> i64 {
        self.compacted
    }

    pub(super) fn keys(&self) -> impl ExactSizeIterator<Item = &PbKeyValue> {
        self.keys.values()
    }

    pub(super) fn leases(&self) -> impl ExactSizeIterator<Item = (i64, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn set_boots(&mut self, boots: u64) {
        self.identity.boots = boots;
    }

    pub(super) fn header(&self) -> PbResponseHeader {
        self.identity.header(self.revision)
    }

    /// Changes since the last call, for the log and the watchers.
    pub(super) fn take_changes(&mut self) -> Vec<StoreChange> {
        std::mem::take(&mut self.changes)
    }

    /// Adds a lease of a snapshot.
    pub(super) fn restore_lease(&mut self, lease: i64, ttl_s: i64, now: Millis) -> Result<(), ReplayError> {
        if self.leases.contains_key(&lease) {
            return Err(ReplayError::LeaseTwice(lease));
        }
        self.add_lease(lease, ttl_s, now);
        Ok(())
    }

    /// Adds a key of a snapshot; its lease must be there.
    pub(super) fn restore_key(&mut self, kv: PbKeyValue) -> Result<(), ReplayError> {
        if kv.lease != 0 {
            let lease = self.leases.get_mut(&kv.lease).ok_or(ReplayError::StrayKey(kv.lease))?;
            lease.keys.insert(kv.key.clone());
        }
        self.usage.add_key(&kv.key, &kv.value);
        if let Some(twice) = self.keys.insert(kv.key.clone(), kv) {
            self.usage.remove_key(&twice.key, &twice.value);
        }
        Ok(())
    }

    /// Does a logged change again; gives its events.
    pub(super) fn replay(&mut self, revision: i64, ops: &[StoreOp], now: Millis) -> Result<Vec<PbEvent>, ReplayError> {
        let touches_keys = ops.iter().any(|op| matches!(op, StoreOp::Put { .. } | StoreOp::Delete { .. }));
        if revision != self.revision + i64::from(touches_keys) {
            return Err(ReplayError::Revision { revision: self.revision, found: revision });
        }
        let mut draft = self.draft();
        for op in ops {
            match op {
                StoreOp::Put { lease, .. } if *lease != 0 && !self.leases.contains_key(lease) => {
                    return Err(ReplayError::NoSuchLease(*lease));
                }
                StoreOp::Grant { lease, .. } if self.leases.contains_key(lease) => {
                    return Err(ReplayError::LeaseTwice(*lease));
                }
                StoreOp::Revoke { lease } => match self.leases.get(lease) {
                    None => return Err(ReplayError::NoSuchLease(*lease)),
                    Some(found) if !found.keys.is_empty() => return Err(ReplayError::StrayKey(*lease)),
                    Some(_) => self.apply(op.clone(), &mut draft, now),
                },
                StoreOp::Delete { key } if !self.keys.contains_key(key) => return Err(ReplayError::NoSuchKey),
                _ => self.apply(op.clone(), &mut draft, now),
            }
        }
        self.revision = revision;
        Ok(draft.events)
    }

    fn draft(&self) -> Draft {
        Draft { revision: self.revision + 1, ops: Vec::new(), events: Vec::new() }
    }

    /// Carries one op out. The caller has checked that it fits.
    fn apply(&mut self, op: StoreOp, draft: &mut Draft, now: Millis) {
        match &op {
            StoreOp::Put { lease, key, value } => self.apply_put(*lease, key, value, draft),
            StoreOp::Delete { key } => self.apply_delete(key, draft),
            StoreOp::Grant { lease, ttl_s } => self.add_lease(*lease, *ttl_s, now),
            StoreOp::Revoke { lease } => self.remove_lease(*lease),
            StoreOp::Compact { revision } => self.compacted = *revision,
        }
        draft.ops.push(op);
    }

    fn apply_put(&mut self, lease: i64, key: &[u8], value: &[u8], draft: &mut Draft) {
        let prev_kv = self.keys.get(key).cloned();
        if let Some(prev) = &prev_kv {
            self.usage.remove_key(key, &prev.value);
            self.detach(prev.lease, key);
        }
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.insert(key.to_vec());
        }
        let kv = PbKeyValue {
            key: key.to_vec(),
            create_revision: prev_kv.as_ref().map_or(draft.revision, |prev| prev.create_revision),
            mod_revision: draft.revision,
            version: prev_kv.as_ref().map_or(1, |prev| prev.version + 1),
            value: value.to_vec(),
            lease,
        };
        self.usage.add_key(key, value);
        self.keys.insert(key.to_vec(), kv.clone());
        draft.events.push(PbEvent { r#type: PUT, kv: Some(kv), prev_kv });
    }

    fn apply_delete(&mut self, key: &[u8], draft: &mut Draft) {
        let Some(prev) = self.keys.remove(key) else { return };
        self.usage.remove_key(key, &prev.value);
        self.detach(prev.lease, key);
        let kv = PbKeyValue { key: key.to_vec(), mod_revision: draft.revision, ..PbKeyValue::default() };
        draft.events.push(PbEvent { r#type: DELETE, kv: Some(kv), prev_kv: Some(prev) });
    }

    /// Makes a draft part of the history.
    fn commit(&mut self, draft: Draft) {
        if draft.ops.is_empty() {
            return;
        }
        if !draft.events.is_empty() {
            self.revision = draft.revision;
        }
        self.changes.push(StoreChange { revision: self.revision, ops: draft.ops, events: draft.events });
    }
}

impl Identity {
    pub(super) fn header(self, revision: i64) -> PbResponseHeader {
        PbResponseHeader { cluster_id: self.cluster, member_id: self.cluster, revision, raft_term: self.boots }
    }
}

impl RequestRefusal {
    /// The text that etcd's clients know.
    pub(super) fn text(self) -> &'static str {
        match self {
            RequestRefusal::EmptyKey => "etcdserver: key is not provided",
            RequestRefusal::DuplicateKey => "etcdserver: duplicate key given in txn request",
            RequestRefusal::TooManyOps => "etcdserver: too many operations in txn request",
            RequestRefusal::Compacted => "etcdserver: mvcc: required revision has been compacted",
            RequestRefusal::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
            RequestRefusal::LeaseNotFound => "etcdserver: requested lease not found",
            RequestRefusal::LeaseExists => "etcdserver: lease already exists",
            RequestRefusal::TtlTooLarge => "etcdserver: too large lease TTL",
            RequestRefusal::ValueProvided => "etcdserver: value is provided",
            RequestRefusal::LeaseProvided => "etcdserver: lease is provided",
            RequestRefusal::KeyNotFound => "etcdserver: key not found",
            RequestRefusal::MalformedOp => "etcdserver: operation or comparison without content in txn request",
            RequestRefusal::NoSpace => "etcdserver: mvcc: database space exceeded",
            RequestRefusal::KeysTooLong => "walfabric: the names of all keys together would have more than 128 MiB",
            RequestRefusal::AnswerTooLarge => {
                "walfabric: the answer would have more than 16 MiB: read it in pieces (a limit, a smaller range)"
            }
            RequestRefusal::RequestTooLarge => "etcdserver: request is too large",
            RequestRefusal::TooManyLeases => "walfabric: there are 100000 leases with keys, more are not granted",
        }
    }
}

#[cfg(test)]
mod tests;
