//! The timeline's two replication slots as the guard sees them, and the pin slot's upkeep.
//!
//! The streaming slot keeps WAL that the quorum lacks; the pin slot keeps what the next attach proof compares. The shim
//! is the only one that moves the pin slot, and makes it anew when PostgreSQL has given it up.

use pgformat::{Lsn, SegSize};
use tokio_postgres::{Client, Error};

use crate::attach::proof::plan::COMPARE_BYTES;

/// A row of pg_replication_slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplicationSlot {
    /// Its name: the column slot_name.
    pub(crate) name: String,
    /// wal_status: reserved, extended, unreserved, lost; empty when nothing was reserved yet.
    pub(crate) wal_status: String,
    /// invalidation_reason of 17 and later; empty when there is none or the server does not tell.
    pub(crate) invalidation: String,
    /// Oldest WAL that it keeps.
    pub(crate) restart_lsn: Option<Lsn>,
}

impl ReplicationSlot {
    /// Whether PostgreSQL has given it up: it keeps no WAL any more and never will again.
    pub(crate) fn is_lost(&self) -> bool {
        self.wal_status == "lost" || !self.invalidation.is_empty()
    }

    /// What is wrong with it, with the setting that did it; `None` when it keeps its WAL.
    pub(crate) fn problem(&self) -> Option<String> {
        let name = &self.name;
        if self.invalidation == "idle_timeout" {
            return Some(format!(
                "replication slot {name} was idle for too long: set idle_replication_slot_timeout = 0"
            ));
        }
        if self.is_lost() {
            return Some(format!(
                "replication slot {name} is lost, its WAL was removed: set max_slot_wal_keep_size = -1"
            ));
        }
        (self.wal_status == "unreserved").then(|| {
            format!("replication slot {name} loses its WAL at the next checkpoint: set max_slot_wal_keep_size = -1")
        })
    }
}

/// Where the pin slot should stand: far enough below `commit` for the next attach proof, a whole segment if larger, and
/// never above `before`, an earlier commit position: the proof compares a whole record, and the last one may be longer.
pub(crate) fn target(commit: Lsn, before: Lsn, seg: SegSize) -> Option<Lsn> {
    let below = COMPARE_BYTES.max(seg.bytes());
    let target = Lsn::new(commit.get().checked_sub(below)?).min(before);
    Some(target.segment_start(seg)).filter(|l| *l != Lsn::new(0))
}

/// What the upkeep of the pin slot did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PinUpkeep {
    /// Nothing had to be done.
    Unchanged,
    /// It was moved or made anew.
    Changed,
}

/// Makes the pin slot when it is missing, makes it anew when it is lost, and moves it up behind the commit position;
/// `before` as for [`target`].
pub(crate) async fn keep(
    client: &Client,
    name: &str,
    slots: &[ReplicationSlot],
    (commit, before): (Lsn, Lsn),
    seg: SegSize,
) -> Result<PinUpkeep, Error> {
    let held = slots.iter().find(|s| s.name == name);
    let Some(slot) = held.filter(|s| !s.is_lost()) else {
        if let Some(lost) = held {
            tracing::warn!(slot = name, wal_status = lost.wal_status, "the pin slot is lost and is made anew");
            client.simple_query(&format!("SELECT pg_drop_replication_slot('{name}')")).await?;
        } else {
            tracing::warn!(slot = name, "the pin slot is missing and is made anew");
        }
        // Reserves WAL from the last checkpoint's redo pointer on: the next attach proof compares at least that.
        client.simple_query(&format!("SELECT pg_create_physical_replication_slot('{name}', true)")).await?;
        return Ok(PinUpkeep::Changed);
    };
    let target = target(commit, before, seg).filter(|target| slot.restart_lsn.is_some_and(|at| at < *target));
    let Some(target) = target else { return Ok(PinUpkeep::Unchanged) };
    client.simple_query(&format!("SELECT pg_replication_slot_advance('{name}', '{target}')")).await?;
    tracing::debug!(slot = name, %target, "the pin slot was moved");
    Ok(PinUpkeep::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(wal_status: &str, invalidation: &str) -> ReplicationSlot {
        let name = "own".to_owned();
        ReplicationSlot {
            name,
            wal_status: wal_status.to_owned(),
            invalidation: invalidation.to_owned(),
            restart_lsn: None,
        }
    }

    #[test]
    fn a_slot_that_postgres_gave_up_names_the_setting_that_did_it() {
        let said = |s: ReplicationSlot| s.problem().unwrap_or_default();
        assert_eq!(slot("reserved", "").problem(), None);
        assert_eq!(slot("extended", "").problem(), None);
        assert!(said(slot("lost", "")).contains("max_slot_wal_keep_size"));
        assert!(said(slot("lost", "wal_removed")).contains("max_slot_wal_keep_size"));
        assert!(said(slot("lost", "idle_timeout")).contains("idle_replication_slot_timeout"));
        assert!(said(slot("unreserved", "")).contains("next checkpoint"));
        assert!(slot("lost", "").is_lost() && slot("", "idle_timeout").is_lost());
        assert!(!slot("unreserved", "").is_lost(), "such a slot may still recover");
    }

    #[test]
    fn the_pin_stays_16_mib_or_a_segment_or_a_record_below_the_commit_position() {
        let mib = |n: u64| Lsn::new(n << 20);
        let near = |commit, seg| target(commit, commit, seg);
        assert_eq!(near(mib(100), SegSize::DEFAULT), Some(mib(80)));
        let large = SegSize::new(64 << 20).expect("a power of two");
        assert_eq!(near(mib(200), large), Some(mib(128)));
        let small = SegSize::new(1 << 20).expect("a power of two");
        assert_eq!(near(mib(100), small), Some(mib(84)));
        assert_eq!(near(mib(10), SegSize::DEFAULT), None);
        assert_eq!(target(mib(500), mib(40), SegSize::DEFAULT), Some(mib(32)), "a record of 460 MiB");
    }
}
