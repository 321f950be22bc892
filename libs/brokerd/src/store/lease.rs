//! Leases: grant, keep-alive, revocation, expiry. Only grant and end are logged; after a restart every lease has its
//! full time.

use etcd_client::proto::{PbLeaseGrantResponse, PbLeaseStatus, PbLeaseTimeToLiveResponse};

use super::super::limits::{ENTRY_BYTES, LEASES_MAX, length_of};
use super::space::check_answer;
use super::{KeyStore, Lease, Millis, RequestRefusal, StoreOp};

/// Shortest time to live: below it a busy machine would end leases of living nodes.
const TTL_S_MIN: i64 = 1;

/// Leases that end at a time when there are too many: finding the oldest takes a look at each.
const LEASES_DROPPED: usize = 1024;

/// Longest time to live, as etcd has it.
const TTL_S_MAX: i64 = 9_000_000_000;

impl KeyStore {
    /// Grants a lease; `lease` was asked for or drawn by the server.
    pub(crate) fn grant(
        &mut self,
        lease: i64,
        ttl_s: i64,
        now: Millis,
    ) -> Result<PbLeaseGrantResponse, RequestRefusal> {
        if ttl_s > TTL_S_MAX {
            return Err(RequestRefusal::TtlTooLarge);
        }
        if lease == 0 || self.leases.contains_key(&lease) {
            return Err(RequestRefusal::LeaseExists);
        }
        self.claim(ENTRY_BYTES)?;
        if self.leases.len() >= LEASES_MAX {
            self.make_room(now);
        }
        if self.leases.len() >= LEASES_MAX {
            return Err(RequestRefusal::TooManyLeases);
        }
        let ttl_s = ttl_s.max(TTL_S_MIN);
        let mut draft = self.draft();
        self.apply(StoreOp::Grant { lease, ttl_s }, &mut draft, now);
        self.commit(draft);
        Ok(PbLeaseGrantResponse { header: Some(self.header()), id: lease, ttl: ttl_s, error: String::new() })
    }

    /// Ends leases without keys, those first that were granted or kept alive longest ago. A node puts its keys under a
    /// lease at once, so it always gets one, whatever strangers ask for.
    fn make_room(&mut self, now: Millis) {
        let idle = self.leases.iter().filter(|(_, lease)| lease.keys.is_empty());
        let mut idle: Vec<(Millis, i64)> = idle.map(|(id, lease)| (lease.heard_at(), *id)).collect();
        idle.sort_unstable();
        for (_, lease) in idle.into_iter().take(LEASES_DROPPED) {
            self.revoke(lease, now).expect("it is there");
        }
    }

    /// What is wrong when there are more leases than nodes can need.
    pub(crate) fn crowd(&self) -> Option<String> {
        let count = self.leases.len();
        (count > LEASES_MAX / 2).then(|| {
            format!(
                "walfabric: {count} leases, of at most {LEASES_MAX}: more end the oldest that have no keys; somebody \
                 takes leases and does not give them back (etcdctl lease list)"
            )
        })
    }

    /// Whether a lease has this number.
    pub(crate) fn has_lease(&self, lease: i64) -> bool {
        self.leases.contains_key(&lease)
    }

    /// Ends a lease and deletes its keys, in one revision.
    pub(crate) fn revoke(&mut self, lease: i64, now: Millis) -> Result<(), RequestRefusal> {
        let keys = self.leases.get(&lease).ok_or(RequestRefusal::LeaseNotFound)?.keys.clone();
        let mut draft = self.draft();
        for key in keys {
            self.apply(StoreOp::Delete { key }, &mut draft, now);
        }
        self.apply(StoreOp::Revoke { lease }, &mut draft, now);
        self.commit(draft);
        Ok(())
    }

    /// Gives a lease its full time again; its time to live, or nothing when it does not exist.
    pub(crate) fn keep_alive(&mut self, lease: i64, now: Millis) -> Option<i64> {
        let ttl_s = self.leases.get(&lease)?.ttl_s;
        self.set_end(lease, now);
        Some(ttl_s)
    }

    pub(crate) fn time_to_live(
        &self,
        lease: i64,
        with_keys: bool,
        now: Millis,
    ) -> Result<PbLeaseTimeToLiveResponse, RequestRefusal> {
        let header = Some(self.header());
        let Some(found) = self.leases.get(&lease) else {
            return Ok(PbLeaseTimeToLiveResponse { header, id: lease, ttl: -1, granted_ttl: 0, keys: Vec::new() });
        };
        if with_keys {
            check_answer(found.keys.iter().map(|key| length_of(key)).sum())?;
        }
        let keys = if with_keys { found.keys.iter().cloned().collect() } else { Vec::new() };
        let left_s = i64::try_from(found.ends_at.saturating_sub(now) / 1000).unwrap_or(i64::MAX);
        Ok(PbLeaseTimeToLiveResponse { header, id: lease, ttl: left_s, granted_ttl: found.ttl_s, keys })
    }

    pub(crate) fn lease_count(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn lease_statuses(&self) -> Vec<PbLeaseStatus> {
        self.leases.keys().map(|id| PbLeaseStatus { id: *id }).collect()
    }

    /// When the next lease ends.
    pub(crate) fn next_end(&self) -> Option<Millis> {
        self.ends.first().map(|(ends_at, _)| *ends_at)
    }

    /// Ends every lease whose time is over.
    pub(crate) fn expire(&mut self, now: Millis) -> usize {
        let mut count = 0;
        while let Some((ends_at, lease)) = self.ends.first().copied() {
            if ends_at > now {
                break;
            }
            self.revoke(lease, now).expect("a lease with an end exists");
            count += 1;
        }
        count
    }

    /// Gives every lease its full time again: the server itself was away, so nobody could keep them alive.
    pub(crate) fn renew_all(&mut self, now: Millis) {
        let leases: Vec<i64> = self.leases.keys().copied().collect();
        leases.into_iter().for_each(|lease| self.set_end(lease, now));
    }

    pub(super) fn add_lease(&mut self, lease: i64, ttl_s: i64, now: Millis) {
        let ends_at = end_of(ttl_s, now);
        self.usage.add_lease();
        self.leases.insert(lease, Lease { ttl_s, ends_at, keys: std::collections::BTreeSet::new() });
        self.ends.insert((ends_at, lease));
    }

    pub(super) fn remove_lease(&mut self, lease: i64) {
        if let Some(removed) = self.leases.remove(&lease) {
            assert!(removed.keys.is_empty(), "keys of a lease are deleted before it goes");
            self.ends.remove(&(removed.ends_at, lease));
            self.usage.remove_lease();
        }
    }

    /// Takes `key` out of the lease that it had.
    pub(super) fn detach(&mut self, lease: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.remove(key);
        }
    }

    fn set_end(&mut self, lease: i64, now: Millis) {
        if let Some(found) = self.leases.get_mut(&lease) {
            self.ends.remove(&(found.ends_at, lease));
            found.ends_at = end_of(found.ttl_s, now);
            self.ends.insert((found.ends_at, lease));
        }
    }
}

impl Lease {
    /// When it was granted or kept alive last.
    fn heard_at(&self) -> Millis {
        self.ends_at.saturating_sub(end_of(self.ttl_s, 0))
    }
}

fn end_of(ttl_s: i64, now: Millis) -> Millis {
    now.saturating_add(u64::try_from(ttl_s).unwrap_or(0).saturating_mul(1000))
}
