//! Pages of clog, multixact and commit timestamps: changes that transaction records imply.
//!
//! These changes are ours ([`rmid::OUR_SLRU`]). PostgreSQL's record states what happened to transactions; the content
//! of the pages follows from that. One change is for one page, with entries numbered within the page. SLRU pages have
//! no header, so there is no LSN to set.
//!
//! Source: PostgreSQL 14-18, `TransactionIdSetStatusBit` in `clog.c`, `TransactionIdSetCommitTs` in `commit_ts.c`,
//! `RecordNewMultiXact` in `multixact.c`.

use smallvec::smallvec;

use super::{Change, RedoError, Ref, rmid};
use crate::page::{PAGE_SIZE, Page};
use crate::read::Take;
use crate::rel::Fork;
use crate::slru::{COMMIT_TS_LEN, Slru, XidStatus, clog_bits, member_bytes};

/// `{status u8, entry u16 ...}`.
const CLOG_SET: u8 = 0x00;
/// `{time i64, origin u16, entry u16 ...}`.
const COMMIT_TS_SET: u8 = 0x10;
/// `{entry u16, offset u32} ...`.
const OFFSETS_SET: u8 = 0x20;
/// `{entry u16, xid u32, status u8} ...`.
const MEMBERS_SET: u8 = 0x30;

/// One of our changes to an SLRU page, before it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlruChange {
    info: u8,
    page: u32,
    main: Vec<u8>,
}

/// The entry of `number` on its page; every page has fewer than 2^16.
fn entry(slru: Slru, number: u32) -> [u8; 2] {
    ((number % slru.per_page()) as u16).to_le_bytes()
}

impl SlruChange {
    /// Transactions of one page of the commit log get `status`.
    pub fn clog(page: u32, status: XidStatus, xids: impl Iterator<Item = u32>) -> SlruChange {
        let mut main = vec![status as u8];
        xids.for_each(|xid| main.extend(entry(Slru::Xact, xid)));
        SlruChange { info: CLOG_SET, page, main }
    }

    /// Transactions of one page of commit timestamps committed at `time` (microseconds since 2000), from `origin`.
    pub fn commit_ts(page: u32, time: i64, origin: u16, xids: impl Iterator<Item = u32>) -> SlruChange {
        let mut main = time.to_le_bytes().to_vec();
        main.extend(origin.to_le_bytes());
        xids.for_each(|xid| main.extend(entry(Slru::CommitTs, xid)));
        SlruChange { info: COMMIT_TS_SET, page, main }
    }

    /// Members of multixacts of one page begin at these offsets: (multixact, offset).
    pub fn offsets(page: u32, offsets: impl Iterator<Item = (u32, u32)>) -> SlruChange {
        let mut main = Vec::with_capacity(12);
        for (multi, offset) in offsets {
            main.extend(entry(Slru::MultixactOffsets, multi));
            main.extend(offset.to_le_bytes());
        }
        SlruChange { info: OFFSETS_SET, page, main }
    }

    /// Members of multixacts of one page: (offset, transaction, status).
    pub fn members(page: u32, members: impl Iterator<Item = (u32, u32, u8)>) -> SlruChange {
        let mut main = Vec::with_capacity(14);
        for (offset, xid, status) in members {
            main.extend(entry(Slru::MultixactMembers, offset));
            main.extend(xid.to_le_bytes());
            main.push(status);
        }
        SlruChange { info: MEMBERS_SET, page, main }
    }

    /// As redo takes it.
    pub fn change(&self) -> Change<'_> {
        Change {
            rmid: rmid::OUR_SLRU,
            info: self.info,
            xid: 0,
            block: 0,
            fork: Fork::Main,
            blk: self.page,
            init: false,
            hint_lsn: false,
            refs: smallvec![Ref { id: 0, fork: Fork::Main, blk: self.page }],
            data: &[],
            main: &self.main,
        }
    }
}

/// Applies one of our own changes.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut take = Take::new(change.main);
    match change.info {
        CLOG_SET => {
            let status = take.u8()?;
            while take.left() > 0 {
                let (byte, shift) = clog_bits(take.u16()?.into());
                page.0[byte] = page.0[byte] & !(3 << shift) | (status & 3) << shift;
            }
        }
        COMMIT_TS_SET => {
            let stamp: [u8; COMMIT_TS_LEN] = take.array()?;
            while take.left() > 0 {
                page.put(usize::from(take.u16()?) * COMMIT_TS_LEN, &stamp)?;
            }
        }
        // Overwrites whatever was there. PostgreSQL finds zero or the same number: the previous multixact has set it,
        // or the records of two backends come in reverse order.
        OFFSETS_SET => {
            while take.left() > 0 {
                let at = usize::from(take.u16()?) * 4;
                page.put(at, &take.array::<4>()?)?;
            }
        }
        MEMBERS_SET => {
            while take.left() > 0 {
                let (status_at, xid_at) = member_bytes(take.u16()?.into());
                page.put(xid_at, &take.array::<4>()?)?;
                page.put(status_at, &take.array::<1>()?)?;
            }
        }
        _ => return Err(change.unknown()),
    }
    Ok(())
}

const _: () = assert!(PAGE_SIZE * 4 <= 1 << 16, "an entry's number fits two bytes");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redo::{Context, redo};
    use crate::{Lsn, PgMajor};

    fn apply(page: &mut Page, change: &SlruChange) {
        let mut stored = Vec::new();
        change.change().encode(&mut stored);
        let read = Change::decode(&stored, Fork::Main, change.page).expect("it was just encoded");
        assert_eq!(read, change.change());
        redo(page, &read, &Context { version: PgMajor::ALL[0], end: Lsn::new(77) }).expect("redone");
    }

    #[test]
    fn a_status_changes_two_bits() {
        let mut page = Page::default();
        apply(&mut page, &SlruChange::clog(1, XidStatus::Committed, [32768, 32769, 65535].into_iter()));
        assert_eq!((page.0[0], page.0[8191]), (0b0101, 0b0100_0000));
        apply(&mut page, &SlruChange::clog(1, XidStatus::Aborted, [32769].into_iter()));
        assert_eq!(page.0[0], 0b1001);
        assert!(page.0[1..8191].iter().all(|b| *b == 0), "nothing else, no LSN either");
    }

    #[test]
    fn a_timestamp_is_ten_bytes() {
        let mut page = Page::default();
        apply(&mut page, &SlruChange::commit_ts(1, -2, 0x0304, [819, 1637].into_iter()));
        let stamp = [0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 4, 3];
        assert_eq!(page.0[..10], stamp);
        assert_eq!(page.0[8180..8190], stamp);
        assert!(page.0[10..8180].iter().all(|b| *b == 0));
    }

    #[test]
    fn offsets_and_members_go_to_their_places() {
        let mut page = Page::default();
        apply(&mut page, &SlruChange::offsets(0, [(1, 1), (2, 0x0102_0304)].into_iter()));
        assert_eq!(page.0[..12], [0, 0, 0, 0, 1, 0, 0, 0, 4, 3, 2, 1]);
        let mut page = Page::default();
        apply(&mut page, &SlruChange::members(0, [(1, 700, 5), (1635, 701, 1)].into_iter()));
        assert_eq!(page.0[..12], [0, 5, 0, 0, 0, 0, 0, 0, 0xBC, 2, 0, 0]);
        assert_eq!((page.0[8163], page.u32_at(8176)), (1, Ok(701)));
    }

    #[test]
    fn a_cut_off_change_is_refused() {
        let whole = SlruChange::members(0, [(1, 700, 5)].into_iter());
        let cut = SlruChange { main: whole.main[..5].to_vec(), ..whole };
        assert_eq!(super::redo(&mut Page::default(), &cut.change()), Err(RedoError::Short));
        let beyond = SlruChange { info: COMMIT_TS_SET, page: 0, main: vec![0xFF; 12] };
        assert!(matches!(super::redo(&mut Page::default(), &beyond.change()), Err(RedoError::Page(_))));
    }
}
