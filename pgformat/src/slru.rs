//! SLRUs: the page, and the place on it, that hold the state of a transaction or multixact; names of their files.
//!
//! SLRU pages have no header. Their numbers wrap around, so "older" is a circular comparison.
//!
//! Source: PostgreSQL 14-18, `clog.c`, `commit_ts.c`, `multixact.c` and `slru.c` in `src/backend/access/transam`.

use std::fmt;

use crate::page::PAGE_SIZE;

/// Pages in a file (`SLRU_PAGES_PER_SEGMENT`).
pub const SEGMENT_PAGES: u32 = 32;
/// Transactions on a page of the commit log: two bits each.
pub const CLOG_XACTS_PER_PAGE: u32 = PAGE_SIZE as u32 * 4;
/// Transactions on a page of commit timestamps.
pub const COMMIT_TS_PER_PAGE: u32 = (PAGE_SIZE / COMMIT_TS_LEN) as u32;
/// Multixacts on a page of offsets.
pub const OFFSETS_PER_PAGE: u32 = PAGE_SIZE as u32 / 4;
/// Members on a page: groups of four, their status bytes before their transactions.
pub const MEMBERS_PER_PAGE: u32 = (PAGE_SIZE / MEMBER_GROUP_LEN) as u32 * MEMBERS_PER_GROUP;

/// Length of a commit timestamp: microseconds since 2000, replication origin.
pub const COMMIT_TS_LEN: usize = 10;
const MEMBERS_PER_GROUP: u32 = 4;
const MEMBER_GROUP_LEN: usize = 20;
/// The first xid that a transaction can get (`FirstNormalTransactionId`).
pub const FIRST_NORMAL_XID: u32 = 3;
/// The first number of a multixact (`FirstMultiXactId`); 0 is none.
pub const FIRST_MULTI: u32 = 1;

/// One of the arrays that WAL describes. The numbers are those of page requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Slru {
    /// Status of transactions.
    Xact = 0,
    /// Members of multixacts.
    MultixactMembers = 1,
    /// Where a multixact's members start.
    MultixactOffsets = 2,
    /// Times of commits; empty unless `track_commit_timestamp` is on.
    CommitTs = 3,
}

/// What became of a transaction (`XidStatus`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum XidStatus {
    /// It runs, or was lost in a crash.
    InProgress = 0,
    /// It committed: what it wrote counts.
    Committed = 1,
    /// It aborted: what it wrote does not count.
    Aborted = 2,
    /// A subtransaction whose top transaction is about to commit; never the final state.
    SubCommitted = 3,
}

impl Slru {
    /// All of them.
    pub const ALL: [Slru; 4] = [Slru::Xact, Slru::MultixactMembers, Slru::MultixactOffsets, Slru::CommitTs];

    /// From its number.
    pub const fn new(number: u8) -> Option<Slru> {
        match number {
            0 => Some(Slru::Xact),
            1 => Some(Slru::MultixactMembers),
            2 => Some(Slru::MultixactOffsets),
            3 => Some(Slru::CommitTs),
            _ => None,
        }
    }

    /// Its directory below the data directory.
    pub const fn directory(self) -> &'static str {
        match self {
            Slru::Xact => "pg_xact",
            Slru::MultixactMembers => "pg_multixact/members",
            Slru::MultixactOffsets => "pg_multixact/offsets",
            Slru::CommitTs => "pg_commit_ts",
        }
    }

    /// The path of segment `segno` below the data directory.
    pub fn path(self, segno: u32) -> String {
        format!("{}/{segno:04X}", self.directory())
    }

    /// The inverse of [`Slru::path`]; `None` for any other path.
    pub fn parse_path(path: &str) -> Option<(Slru, u32)> {
        let (directory, name) = path.rsplit_once('/')?;
        let slru = Slru::ALL.into_iter().find(|s| s.directory() == directory)?;
        let segno = parse_segment_name(name)?;
        (slru.path(segno) == path).then_some((slru, segno))
    }

    /// How many numbers a page holds.
    pub const fn per_page(self) -> u32 {
        match self {
            Slru::Xact => CLOG_XACTS_PER_PAGE,
            Slru::MultixactMembers => MEMBERS_PER_PAGE,
            Slru::MultixactOffsets => OFFSETS_PER_PAGE,
            Slru::CommitTs => COMMIT_TS_PER_PAGE,
        }
    }

    /// The page of transaction, multixact or member `number`.
    pub const fn page_of(self, number: u32) -> u32 {
        number / self.per_page()
    }

    /// The highest page there is; behind it the space begins anew.
    pub const fn last_page(self) -> u32 {
        self.page_of(u32::MAX)
    }

    /// Whether page `a` is older than `b`, all of it (`PagePrecedes`).
    pub fn page_precedes(self, a: u32, b: u32) -> bool {
        let per_page = self.per_page();
        // Comparing transactions skips special numbers, so these are excluded here.
        let lead = match self {
            Slru::Xact | Slru::CommitTs => FIRST_NORMAL_XID + 1,
            Slru::MultixactOffsets => FIRST_MULTI + 1,
            Slru::MultixactMembers => 0,
        };
        let first = |page: u32| page.wrapping_mul(per_page).wrapping_add(lead);
        let precedes = |x: u32, y: u32| match self {
            Slru::Xact | Slru::CommitTs => xid_precedes(x, y),
            _ => circular_precedes(x, y),
        };
        precedes(first(a), first(b)) && precedes(first(a), first(b).wrapping_add(per_page - 1))
    }

    /// Whether a segment can be removed when everything before page `cutoff` can (`SlruMayDeleteSegment`).
    pub fn segment_precedes(self, segment: u32, cutoff: u32) -> bool {
        let first = segment * SEGMENT_PAGES;
        self.page_precedes(first, cutoff) && self.page_precedes(first + SEGMENT_PAGES - 1, cutoff)
    }
}

impl fmt::Display for Slru {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.directory())
    }
}

/// Number of the segment with this name; `None` when it is not such a name.
pub fn parse_segment_name(name: &str) -> Option<u32> {
    let plausible = (4..=6).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    u32::from_str_radix(name, 16).ok().filter(|_| plausible)
}

/// Whether `a` is before `b` on a circle of 2^32 numbers (`MultiXactIdPrecedes`, `MultiXactOffsetPrecedes`).
pub const fn circular_precedes(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether transaction `a` is before `b` (`TransactionIdPrecedes`): special ones come before all others.
pub const fn xid_precedes(a: u32, b: u32) -> bool {
    if a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID { a < b } else { circular_precedes(a, b) }
}

/// The multixact behind `multi` (`NextMultiXactId`).
pub const fn next_multi(multi: u32) -> u32 {
    let next = multi.wrapping_add(1);
    if next < FIRST_MULTI { FIRST_MULTI } else { next }
}

/// The multixact before `multi` (`PreviousMultiXactId`).
pub const fn previous_multi(multi: u32) -> u32 {
    if multi <= FIRST_MULTI { u32::MAX } else { multi - 1 }
}

/// The 64-bit number of a transaction that is not newer than `next`, the next one (`FullTransactionIdFromAllowableAt`).
pub const fn full_xid(xid: u32, next: u64) -> u64 {
    let epoch = next >> 32;
    let in_epoch_before = xid >= FIRST_NORMAL_XID && xid as u64 > next & 0xFFFF_FFFF;
    let epoch = if in_epoch_before { epoch.wrapping_sub(1) & 0xFFFF_FFFF } else { epoch };
    epoch << 32 | xid as u64
}

/// `next` moved behind transaction `xid`, which may be in the next epoch (`AdvanceNextFullTransactionIdPastXid`).
pub const fn advance_past(next: u64, xid: u32) -> u64 {
    let low = (next & 0xFFFF_FFFF) as u32;
    if xid < FIRST_NORMAL_XID || xid_precedes(xid, low) {
        return next;
    }
    let behind = xid.wrapping_add(1);
    let behind = if behind < FIRST_NORMAL_XID { FIRST_NORMAL_XID } else { behind };
    let epoch = (next >> 32) + if behind < low { 1 } else { 0 };
    epoch << 32 | behind as u64
}

/// Where the two bits of entry `index` of a page of the commit log are: byte and shift.
pub const fn clog_bits(index: u32) -> (usize, u32) {
    (index as usize / 4 % PAGE_SIZE, index % 4 * 2)
}

/// Where member `index` of a page is: its status byte and its transaction.
pub const fn member_bytes(index: u32) -> (usize, usize) {
    let group = (index % MEMBERS_PER_PAGE / MEMBERS_PER_GROUP) as usize * MEMBER_GROUP_LEN;
    let in_group = (index % MEMBERS_PER_GROUP) as usize;
    (group + in_group, group + 4 + in_group * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_what_they_do_in_postgresql() {
        let per_page: Vec<u32> = Slru::ALL.into_iter().map(Slru::per_page).collect();
        assert_eq!(per_page, [32768, 1636, 2048, 819]);
        assert_eq!(Slru::MultixactMembers.last_page(), 2_625_285);
        assert_eq!(clog_bits(32767), (8191, 6));
        assert_eq!(member_bytes(0), (0, 4));
        assert_eq!(member_bytes(1635), (408 * 20 + 3, 408 * 20 + 16));
        assert_eq!(Slru::MultixactMembers.last_page() / SEGMENT_PAGES, 0x14078);
        assert_eq!(parse_segment_name("14078"), Some(0x14078));
        for no in ["3", "003g", "00ff", "", "0000001", "+001"] {
            assert_eq!(parse_segment_name(no), None, "{no}");
        }
    }

    #[test]
    fn older_is_circular() {
        let last = Slru::Xact.last_page();
        assert_eq!(last, 131_071);
        assert!(Slru::Xact.page_precedes(0, 1) && !Slru::Xact.page_precedes(1, 0) && !Slru::Xact.page_precedes(1, 1));
        assert!(Slru::Xact.page_precedes(last, 0), "behind the last page the first one follows");
        assert!(Slru::Xact.page_precedes(0, last / 2));
        assert!(!Slru::Xact.page_precedes(0, last / 2 + 1), "exactly half of the space is no order");
        // A segment is removed when its last page is.
        assert!(!Slru::Xact.segment_precedes(0, 31) && Slru::Xact.segment_precedes(0, 32));
        assert!(xid_precedes(2, 3) && xid_precedes(u32::MAX, 3) && !xid_precedes(3, u32::MAX));
        assert_eq!((next_multi(u32::MAX), next_multi(5)), (1, 6));
        assert_eq!((previous_multi(1), previous_multi(6)), (u32::MAX, 5));
    }

    #[test]
    fn the_next_transaction_knows_its_epoch() {
        assert_eq!(advance_past(100, 99), 100);
        assert_eq!(advance_past(100, 100), 101);
        assert_eq!(advance_past(0xFFFF_FFF0, 0xFFFF_FFFF), 1 << 32 | 3);
        assert_eq!(advance_past(0xFFFF_FFF0, 7), 1 << 32 | 8);
        assert_eq!(advance_past(1 << 32 | 8, 0xFFFF_FFFF), 1 << 32 | 8, "one of the epoch before");
        assert_eq!(advance_past(100, 0), 100);
        assert_eq!(full_xid(7, 1 << 32 | 8), 1 << 32 | 7);
        assert_eq!(full_xid(0xFFFF_FFFF, 1 << 32 | 8), 0xFFFF_FFFF);
    }

    #[test]
    fn a_path_reads_as_it_prints() {
        for (slru, segno, path) in [
            (Slru::Xact, 0, "pg_xact/0000"),
            (Slru::MultixactMembers, 0x14078, "pg_multixact/members/14078"),
            (Slru::MultixactOffsets, 0xFFFF, "pg_multixact/offsets/FFFF"),
            (Slru::CommitTs, 10, "pg_commit_ts/000A"),
        ] {
            assert_eq!(slru.path(segno), path);
            assert_eq!(Slru::parse_path(path), Some((slru, segno)));
            assert_eq!(Slru::new(slru as u8), Some(slru));
        }
        for bad in ["pg_xact", "pg_xact/0", "pg_xact/00000", "pg_xact/000a", "pg_subtrans/0000", "pg_xact/../0000"] {
            assert_eq!(Slru::parse_path(bad), None, "{bad}");
        }
        assert_eq!(Slru::new(4), None);
    }
}
