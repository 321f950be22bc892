//! Range, put and delete.

use etcd_client::proto::{
    PbDeleteRequest, PbDeleteResponse, PbKeyValue, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse,
};

use super::super::limits::{entry_bytes, length_of};
use super::space::check_answer;
use super::{Draft, KeyRange, KeyStore, Millis, RequestRefusal, StoreOp};

// etcd's numbers for sort orders and targets.
const DESCEND: i32 = 2;
const BY_VERSION: i32 = 1;
const BY_CREATE: i32 = 2;
const BY_MOD: i32 = 3;
const BY_VALUE: i32 = 4;

/// Entries that a range shows, whether there are more, and how many there are in all.
pub(super) struct Selected<'a> {
    pub(super) kvs: Vec<&'a PbKeyValue>,
    more: bool,
    count: i64,
}

impl KeyStore {
    pub(crate) fn range(&self, request: &PbRangeRequest) -> Result<PbRangeResponse, RequestRefusal> {
        self.check_range(request)?;
        check_answer(self.range_bytes(request))?;
        let mut response = self.find(request);
        response.header = Some(self.header());
        Ok(response)
    }

    pub(crate) fn put(&mut self, request: &PbPutRequest, now: Millis) -> Result<PbPutResponse, RequestRefusal> {
        self.check_put(request)?;
        self.check_key_bytes(length_of(&request.key))?;
        check_answer(self.put_bytes(request))?;
        self.claim(entry_bytes(&request.key, &request.value))?;
        let mut draft = self.draft();
        let mut response = self.do_put(request, &mut draft, now);
        self.commit(draft);
        response.header = Some(self.header());
        Ok(response)
    }

    pub(crate) fn delete_range(
        &mut self,
        request: &PbDeleteRequest,
        now: Millis,
    ) -> Result<PbDeleteResponse, RequestRefusal> {
        check_key(&request.key)?;
        check_answer(self.delete_bytes(request))?;
        let mut draft = self.draft();
        let mut response = self.do_delete(request, &mut draft, now);
        self.commit(draft);
        response.header = Some(self.header());
        Ok(response)
    }

    /// Only the current revision can be read: older ones are reported as compacted.
    pub(super) fn check_range(&self, request: &PbRangeRequest) -> Result<(), RequestRefusal> {
        check_key(&request.key)?;
        if request.revision > self.revision {
            return Err(RequestRefusal::FutureRevision);
        }
        if request.revision > 0 && request.revision < self.revision {
            return Err(RequestRefusal::Compacted);
        }
        Ok(())
    }

    pub(super) fn check_put(&self, request: &PbPutRequest) -> Result<(), RequestRefusal> {
        check_put_form(request)?;
        if (request.ignore_value || request.ignore_lease) && !self.keys.contains_key(&request.key) {
            return Err(RequestRefusal::KeyNotFound);
        }
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(RequestRefusal::LeaseNotFound);
        }
        Ok(())
    }

    /// What a range shows.
    pub(super) fn select(&self, request: &PbRangeRequest) -> Selected<'_> {
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut kvs: Vec<&PbKeyValue> = self.matching(&range).collect();
        let count = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
        if request.count_only {
            return Selected { kvs: Vec::new(), more: false, count };
        }
        kvs.retain(|kv| passes(request, kv));
        sort(&mut kvs, request.sort_target, request.sort_order);
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        Selected { kvs, more, count }
    }

    pub(super) fn find(&self, request: &PbRangeRequest) -> PbRangeResponse {
        let Selected { kvs: found, more, count } = self.select(request);
        let shown = |kv: &PbKeyValue| match request.keys_only {
            true => PbKeyValue { value: Vec::new(), ..kv.clone() },
            false => kv.clone(),
        };
        PbRangeResponse { header: None, kvs: found.into_iter().map(shown).collect(), more, count }
    }

    pub(super) fn do_put(&mut self, request: &PbPutRequest, draft: &mut Draft, now: Millis) -> PbPutResponse {
        let prev = self.keys.get(&request.key);
        let value = match prev {
            Some(prev) if request.ignore_value => prev.value.clone(),
            _ => request.value.clone(),
        };
        let lease = match prev {
            Some(prev) if request.ignore_lease => prev.lease,
            _ => request.lease,
        };
        let prev_kv = prev.filter(|_| request.prev_kv).cloned();
        self.apply(StoreOp::Put { lease, key: request.key.clone(), value }, draft, now);
        PbPutResponse { header: None, prev_kv }
    }

    pub(super) fn do_delete(&mut self, request: &PbDeleteRequest, draft: &mut Draft, now: Millis) -> PbDeleteResponse {
        let range = KeyRange::new(&request.key, &request.range_end);
        let prev_kvs = if request.prev_kv { self.matching(&range).cloned().collect() } else { Vec::new() };
        let keys: Vec<Vec<u8>> = self.matching(&range).map(|kv| kv.key.clone()).collect();
        let deleted = i64::try_from(keys.len()).unwrap_or(i64::MAX);
        for key in keys {
            self.apply(StoreOp::Delete { key }, draft, now);
        }
        PbDeleteResponse { header: None, deleted, prev_kvs }
    }

    pub(super) fn matching(&self, range: &KeyRange) -> impl Iterator<Item = &PbKeyValue> {
        range.bounds().into_iter().flat_map(|bounds| self.keys.range::<[u8], _>(bounds).map(|(_, kv)| kv))
    }
}

pub(super) fn check_key(key: &[u8]) -> Result<(), RequestRefusal> {
    if key.is_empty() { Err(RequestRefusal::EmptyKey) } else { Ok(()) }
}

/// What is wrong with a put whatever the store holds.
pub(super) fn check_put_form(request: &PbPutRequest) -> Result<(), RequestRefusal> {
    check_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(RequestRefusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(RequestRefusal::LeaseProvided);
    }
    Ok(())
}

fn passes(request: &PbRangeRequest, kv: &PbKeyValue) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

fn sort(found: &mut [&PbKeyValue], target: i32, order: i32) {
    match target {
        BY_VERSION => found.sort_by_key(|kv| kv.version),
        BY_CREATE => found.sort_by_key(|kv| kv.create_revision),
        BY_MOD => found.sort_by_key(|kv| kv.mod_revision),
        BY_VALUE => found.sort_by(|a, b| a.value.cmp(&b.value)),
        _ => {}
    }
    if order == DESCEND {
        found.reverse();
    }
}
