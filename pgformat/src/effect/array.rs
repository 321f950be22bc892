//! Arrays with a count in records and in states of prepared transactions: unaligned, so they are read in place.

use crate::read::{Short, Take};
use crate::rel::RelFileLocator;

/// Length of a member of a multixact (`MultiXactMember`), the padding behind its status included.
const MEMBER_LEN: usize = 8;

/// A counted array that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CountError {
    /// There are fewer bytes than so many items need.
    #[error("the data end before the last item")]
    Short,
    /// PostgreSQL's counts are signed; this one is below 0.
    #[error("the {what} is {value}")]
    Negative {
        /// What is counted, as errors call it.
        what: &'static str,
        /// The count as it was read.
        value: i32,
    },
}

impl From<Short> for CountError {
    fn from(_: Short) -> CountError {
        CountError::Short
    }
}

/// Numbers of four bytes each, as a record has them: unaligned.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The next `n` of `take`.
    pub(crate) fn take(take: &mut Take<'a>, n: i32, what: &'static str) -> Result<Words<'a>, CountError> {
        Ok(Words(counted(take, n, 4, what)?))
    }

    /// How many numbers there are, four bytes each.
    pub const fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers, in the order of the record.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + Clone + 'a {
        self.0.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

impl std::fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Relations, as a record has them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Rels<'a>(&'a [u8]);

impl<'a> Rels<'a> {
    /// The next `n` of `take`.
    pub(crate) fn take(take: &mut Take<'a>, n: i32) -> Result<Rels<'a>, CountError> {
        Ok(Rels(counted(take, n, 12, "number of relations")?))
    }

    /// The relations' files, in the order of the record.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RelFileLocator> + Clone + 'a {
        let word = |b: &[u8], at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        self.0.chunks_exact(12).map(move |b| RelFileLocator { spc: word(b, 0), db: word(b, 4), rel: word(b, 8) })
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Rels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// `n` items of `len` bytes each; `what` says in errors what is counted.
pub(crate) fn counted<'a>(take: &mut Take<'a>, n: i32, len: usize, what: &'static str) -> Result<&'a [u8], CountError> {
    let count = usize::try_from(n).map_err(|_| CountError::Negative { what, value: n })?;
    Ok(take.bytes(count.checked_mul(len).ok_or(CountError::Short)?)?)
}

/// A member of a multixact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MultiXactMember {
    /// The transaction that locks the row or changes it.
    pub xid: u32,
    /// What it does to the row (`MultiXactStatus`); stored in one byte.
    pub status: u8,
}

/// Members of a multixact, as a record has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Members<'a>(&'a [u8]);

impl<'a> Members<'a> {
    /// The next `n` of `take`.
    pub(super) fn take(take: &mut Take<'a>, n: i32) -> Result<Members<'a>, CountError> {
        Ok(Members(counted(take, n, MEMBER_LEN, "number of members")?))
    }

    /// Whether every status fits into one byte, as all that PostgreSQL has do: the bytes behind it are zeros.
    pub(super) fn have_short_statuses(&self) -> bool {
        self.0.chunks_exact(MEMBER_LEN).all(|b| b[5..8] == [0; 3])
    }

    /// How many members there are, eight bytes each.
    pub const fn len(&self) -> usize {
        self.0.len() / MEMBER_LEN
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members, in the order of the record.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MultiXactMember> + Clone + 'a {
        let members = self.0.chunks_exact(MEMBER_LEN);
        members.map(|b| MultiXactMember { xid: u32::from_le_bytes([b[0], b[1], b[2], b[3]]), status: b[4] })
    }
}
