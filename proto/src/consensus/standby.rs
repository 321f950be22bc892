//! Hot-standby feedback: combining that of several standbys, and the values that a primary accepts.

use super::HotStandbyFeedback;

/// 32-bit transaction ids below it name no transaction of a user; 0 is none.
///
/// Source: PostgreSQL 15, `FirstNormalTransactionId` in `access/transam.h`.
const FIRST_NORMAL_XID: u32 = 3;

/// A primary takes ids of this many transactions back; older ones cannot be told from newer ones.
///
/// Source: PostgreSQL 15, `TransactionIdInRecentPast` in `walsender.c`.
const RECENT: u64 = 1 << 31;

impl HotStandbyFeedback {
    /// What one standby said. PostgreSQL sends the epoch along with an xid that is none: both halves are none then.
    pub fn of_standby(ts: i64, xmin: u64, catalog_xmin: u64) -> HotStandbyFeedback {
        let named = HotStandbyFeedback { ts, xmin: normal(xmin), catalog_xmin: normal(catalog_xmin) };
        if named.is_none() { HotStandbyFeedback::default() } else { named }
    }

    /// Whether nothing has to be kept.
    pub fn is_none(&self) -> bool {
        (self.xmin, self.catalog_xmin) == (0, 0)
    }

    /// Both as one: the older of each, with the newer time.
    #[must_use]
    pub fn with(self, other: HotStandbyFeedback) -> HotStandbyFeedback {
        let older = |a: u64, b: u64| if a == 0 || b == 0 { a.max(b) } else { a.min(b) };
        HotStandbyFeedback {
            ts: self.ts.max(other.ts),
            xmin: older(self.xmin, other.xmin),
            catalog_xmin: older(self.catalog_xmin, other.catalog_xmin),
        }
    }

    /// What a primary takes whose next transaction id is `next` or a little later (full ids).
    ///
    /// A primary ignores the whole message for one id out of range, and goes on keeping what it was told before: one
    /// wrong standby would hold its vacuum for ever. An id that does not exist yet is therefore `next`, which keeps no
    /// row for anybody; one that is too old is dropped.
    #[must_use]
    pub fn recent_at(self, next: u64) -> HotStandbyFeedback {
        let recent = |xid: u64| if xid.saturating_add(RECENT) > next { xid.min(next) } else { 0 };
        HotStandbyFeedback::of_standby(self.ts, recent(self.xmin), recent(self.catalog_xmin))
    }
}

fn normal(full: u64) -> u64 {
    // The low half is PostgreSQL's 32-bit id, the high half its epoch.
    if full & u64::from(u32::MAX) >= u64::from(FIRST_NORMAL_XID) { full } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(xmin: u64, catalog_xmin: u64) -> HotStandbyFeedback {
        HotStandbyFeedback::of_standby(1, xmin, catalog_xmin)
    }

    fn xids(f: HotStandbyFeedback) -> (u64, u64) {
        (f.xmin, f.catalog_xmin)
    }

    #[test]
    fn an_id_of_no_transaction_is_none_whatever_its_epoch() {
        for none in [0, 2, 7 << 32, (7 << 32) | 2] {
            assert_eq!(of(none, none), HotStandbyFeedback::default(), "{none:x}");
            assert_eq!(xids(of(none, 9)), (0, 9));
        }
        assert_eq!(xids(of((7 << 32) | 3, 0)), ((7 << 32) | 3, 0));
    }

    #[test]
    fn the_oldest_counts_and_none_counts_for_nothing() {
        let all = of(100, 0).with(of(90, 200)).with(HotStandbyFeedback::default());
        assert_eq!(xids(all), (90, 200));
        assert!(HotStandbyFeedback::default().with(of(0, 0)).is_none());
        // Across a wrap-around of the 32-bit ids the epoch decides.
        let (before, after) = (0xffff_fff0_u64, (1 << 32) | 5);
        assert_eq!(of(after, 0).with(of(before, 0)).xmin, before);
    }

    #[test]
    fn a_primary_is_told_only_what_it_takes() {
        let next = (3 << 32) | 1000;
        assert_eq!(xids(of(next - 7, next).recent_at(next)), (next - 7, next));
        assert_eq!(xids(of(next - RECENT + 1, 0).recent_at(next)), (next - RECENT + 1, 0));
        assert!(of(next - RECENT, 5).recent_at(next).is_none(), "too old");
        for future in [next + 1, u64::MAX] {
            assert_eq!(xids(of(future, 0).recent_at(next)), (next, 0), "keeps no row for anybody");
        }
        assert_eq!(xids(of(900, 0).recent_at(1000)), (900, 0), "a young cluster");
    }
}
