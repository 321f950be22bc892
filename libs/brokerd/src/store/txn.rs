//! Transactions: compare, then one of two lists of operations, all in one revision.

use std::collections::BTreeSet;

use etcd_client::proto::{
    PbCompare, PbKeyValue, PbResponseOp, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp,
    PbTxnResponse,
};

use super::super::limits::{TXN_OPS_MAX, TXN_OPS_TOTAL_MAX};
use super::kv::{check_key, check_put_form};
use super::space::{Expected, txn_cost};
use super::{Draft, KeyRange, KeyStore, Millis, RequestRefusal, StoreOp};

// etcd's numbers for comparison results and targets.
const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const LESS: i32 = 2;
const VALUE: i32 = 3;

/// What a list of operations writes, for the rule that a key is written once per transaction.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Vec<u8>>,
    deletes: Vec<KeyRange>,
}

impl KeyStore {
    pub(crate) fn txn(&mut self, request: &PbTxnRequest, now: Millis) -> Result<PbTxnResponse, RequestRefusal> {
        check_form(request, &mut 0)?;
        check_writes(request)?;
        let mut path = Vec::new();
        self.choose(request, &mut path, &mut Expected::default())?;
        self.claim(txn_cost(request))?;
        let mut draft = self.draft();
        let mut response = self.do_txn(request, &mut path.into_iter(), &mut draft, now);
        self.commit(draft);
        response.header = Some(self.header());
        Ok(response)
    }

    pub(crate) fn compact(&mut self, revision: i64, now: Millis) -> Result<(), RequestRefusal> {
        if revision > self.revision {
            return Err(RequestRefusal::FutureRevision);
        }
        if revision <= self.compacted {
            return Err(RequestRefusal::Compacted);
        }
        let mut draft = self.draft();
        self.apply(StoreOp::Compact { revision }, &mut draft, now);
        self.commit(draft);
        Ok(())
    }

    /// Compares, on the state before the transaction, which list runs, in inner transactions too, and checks that what
    /// runs can be done. Lists that do not run are not looked at. The path holds the outcomes in the order of the
    /// transactions.
    fn choose<'a>(
        &self,
        request: &'a PbTxnRequest,
        path: &mut Vec<bool>,
        expected: &mut Expected<'a>,
    ) -> Result<(), RequestRefusal> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in chosen(request, succeeded) {
            expected.add(self, op)?;
            match op {
                PbTxnOpRequest::RequestRange(range) => self.check_range(range)?,
                PbTxnOpRequest::RequestPut(put) => self.check_put(put)?,
                PbTxnOpRequest::RequestDeleteRange(_) => {}
                PbTxnOpRequest::RequestTxn(txn) => self.choose(txn, path, expected)?,
            }
        }
        Ok(())
    }

    fn do_txn(
        &mut self,
        request: &PbTxnRequest,
        path: &mut dyn Iterator<Item = bool>,
        draft: &mut Draft,
        now: Millis,
    ) -> PbTxnResponse {
        let succeeded = path.next().expect("every transaction that runs was looked at");
        let responses = chosen(request, succeeded).map(|op| self.do_op(op, path, draft, now)).collect();
        PbTxnResponse { header: None, succeeded, responses }
    }

    fn do_op(
        &mut self,
        op: &PbTxnOpRequest,
        path: &mut dyn Iterator<Item = bool>,
        draft: &mut Draft,
        now: Millis,
    ) -> PbResponseOp {
        let header = |store: &KeyStore, draft: &Draft| {
            let revision = if draft.events.is_empty() { store.revision } else { draft.revision };
            Some(store.identity.header(revision))
        };
        let response = match op {
            PbTxnOpRequest::RequestRange(range) => {
                let mut found = self.find(range);
                found.header = header(self, draft);
                PbTxnOpResponse::ResponseRange(found)
            }
            PbTxnOpRequest::RequestPut(put) => {
                let mut done = self.do_put(put, draft, now);
                done.header = header(self, draft);
                PbTxnOpResponse::ResponsePut(done)
            }
            PbTxnOpRequest::RequestDeleteRange(delete) => {
                let mut done = self.do_delete(delete, draft, now);
                done.header = header(self, draft);
                PbTxnOpResponse::ResponseDeleteRange(done)
            }
            PbTxnOpRequest::RequestTxn(txn) => {
                let mut done = self.do_txn(txn, path, draft, now);
                done.header = header(self, draft);
                PbTxnOpResponse::ResponseTxn(done)
            }
        };
        PbResponseOp { response: Some(response) }
    }

    /// Whether a comparison holds: for a range, for every key in it; a missing key counts as all zero, but has no
    /// value.
    fn holds(&self, compare: &PbCompare) -> bool {
        let range = KeyRange::new(&compare.key, &compare.range_end);
        let mut found = self.matching(&range).peekable();
        if found.peek().is_some() {
            return found.all(|kv| compare_one(compare, kv));
        }
        compare.target != VALUE && compare_one(compare, &PbKeyValue::default())
    }
}

/// The operations of the list that runs.
fn chosen(request: &PbTxnRequest, succeeded: bool) -> impl Iterator<Item = &PbTxnOpRequest> {
    let ops = if succeeded { &request.success } else { &request.failure };
    ops.iter().filter_map(|op| op.request.as_ref())
}

/// What is wrong with a transaction whatever the store holds, other than keys that are written twice.
/// `total` counts the operations and comparisons of the outer ones too.
fn check_form(request: &PbTxnRequest, total: &mut usize) -> Result<(), RequestRefusal> {
    let sizes = [request.compare.len(), request.success.len(), request.failure.len()];
    *total += sizes.into_iter().sum::<usize>();
    if sizes.into_iter().max().unwrap_or(0) > TXN_OPS_MAX || *total > TXN_OPS_TOTAL_MAX {
        return Err(RequestRefusal::TooManyOps);
    }
    request.compare.iter().try_for_each(|compare| check_key(&compare.key))?;
    for op in request.success.iter().chain(&request.failure) {
        match op.request.as_ref().ok_or(RequestRefusal::MalformedOp)? {
            PbTxnOpRequest::RequestRange(range) => check_key(&range.key)?,
            PbTxnOpRequest::RequestPut(put) => check_put_form(put)?,
            PbTxnOpRequest::RequestDeleteRange(delete) => check_key(&delete.key)?,
            PbTxnOpRequest::RequestTxn(txn) => check_form(txn, total)?,
        }
    }
    Ok(())
}

/// What a transaction may write; refused when a list writes a key twice. Stricter than etcd in one thing: two inner
/// transactions of one list may not write the same key either, so that a key really changes once per revision.
fn check_writes(request: &PbTxnRequest) -> Result<Writes, RequestRefusal> {
    let mut writes = writes_of(&request.success)?;
    let failure = writes_of(&request.failure)?;
    // Only one of the two lists runs, so they may write the same keys.
    writes.puts.extend(failure.puts);
    writes.deletes.extend(failure.deletes);
    Ok(writes)
}

fn writes_of(ops: &[PbTxnRequestOp]) -> Result<Writes, RequestRefusal> {
    let mut all = Writes::default();
    for op in ops.iter().filter_map(|op| op.request.as_ref()) {
        let mut writes = Writes::default();
        match op {
            PbTxnOpRequest::RequestRange(_) => {}
            PbTxnOpRequest::RequestPut(put) => drop(writes.puts.insert(put.key.clone())),
            PbTxnOpRequest::RequestDeleteRange(delete) => {
                writes.deletes.push(KeyRange::new(&delete.key, &delete.range_end));
            }
            PbTxnOpRequest::RequestTxn(txn) => writes = check_writes(txn)?,
        }
        all.add(writes)?;
    }
    Ok(all)
}

impl Writes {
    fn add(&mut self, other: Writes) -> Result<(), RequestRefusal> {
        let twice =
            other.puts.iter().any(|key| self.puts.contains(key) || self.deletes.iter().any(|d| d.contains(key)))
                || self.puts.iter().any(|key| other.deletes.iter().any(|d| d.contains(key)));
        if twice {
            return Err(RequestRefusal::DuplicateKey);
        }
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
        Ok(())
    }
}

fn compare_one(compare: &PbCompare, kv: &PbKeyValue) -> bool {
    let ordering = match &compare.target_union {
        Some(PbTargetUnion::Version(version)) => kv.version.cmp(version),
        Some(PbTargetUnion::CreateRevision(revision)) => kv.create_revision.cmp(revision),
        Some(PbTargetUnion::ModRevision(revision)) => kv.mod_revision.cmp(revision),
        Some(PbTargetUnion::Lease(lease)) => kv.lease.cmp(lease),
        Some(PbTargetUnion::Value(value)) => kv.value.cmp(value),
        // A target without a number means its zero.
        None => match compare.target {
            0 => kv.version.cmp(&0),
            1 => kv.create_revision.cmp(&0),
            2 => kv.mod_revision.cmp(&0),
            VALUE => kv.value.as_slice().cmp(&[]),
            _ => kv.lease.cmp(&0),
        },
    };
    match compare.result {
        EQUAL => ordering.is_eq(),
        GREATER => ordering.is_gt(),
        LESS => ordering.is_lt(),
        _ => ordering.is_ne(),
    }
}
