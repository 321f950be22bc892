//! PostgreSQL's page: header, line pointers, items.
//!
//! Every access is checked: a bad offset from a damaged page or record is a [`PageError`], never a panic.
//! The primitives in [`items`] produce exactly the bytes that PostgreSQL's produce, layout included.
//!
//! Source: PostgreSQL 15, `src/include/storage/bufpage.h`, `itemid.h`, `src/backend/storage/page/bufpage.c`.

pub mod checksum;
pub mod items;

use crate::Lsn;

/// Size of a page in bytes (`BLCKSZ` as every distribution builds it).
pub const PAGE_SIZE: usize = 8192;
/// Length of the page header (`SizeOfPageHeaderData`).
pub const PAGE_HEADER_LEN: usize = 24;
/// `pd_flags`: there are unused line pointers.
pub const PD_HAS_FREE_LINES: u16 = 1;
/// `pd_flags`: not enough free space for a new tuple was found.
pub const PD_PAGE_FULL: u16 = 2;
/// `pd_flags`: all tuples are visible to everyone.
pub const PD_ALL_VISIBLE: u16 = 4;
/// Length of a line pointer.
pub const LINE_POINTER_LEN: usize = 4;
/// `pd_pagesize_version` of an initialised page: 8192 with layout version 4.
const SIZE_AND_VERSION: u16 = 8192 | 4;

/// Rounds up to a multiple of eight (`MAXALIGN`).
pub const fn maxalign(n: usize) -> usize {
    (n + 7) & !7
}

/// What a page does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Bytes outside of the page were asked for.
    #[error("bytes {at}..{end} reach beyond a page's {PAGE_SIZE} bytes")]
    OutOfPage {
        /// Position of the first byte that was asked for.
        at: usize,
        /// Behind the last.
        end: usize,
    },
    /// The header's positions contradict each other.
    #[error("corrupted page pointers: lower {lower}, upper {upper}, special {special}")]
    Pointers {
        /// `pd_lower`: the end of the line pointers.
        lower: usize,
        /// `pd_upper`: the start of the newest item.
        upper: usize,
        /// `pd_special`: the start of the special space.
        special: usize,
    },
    /// There is no line pointer with that number, or it cannot be used so.
    #[error("line pointer {off} of {max}: {why}")]
    Item {
        /// Its number, from 1.
        off: u16,
        /// How many there are.
        max: u16,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An item does not fit.
    #[error("no space for an item of {len} bytes: lower {lower}, upper {upper}")]
    NoSpace {
        /// Length of the item, before it is aligned.
        len: usize,
        /// `pd_lower`: where free space begins.
        lower: usize,
        /// `pd_upper`: where free space ends.
        upper: usize,
    },
}

/// A page of 8192 bytes with PostgreSQL's header (`PageHeaderData` in `bufpage.h`).
#[derive(Clone, PartialEq, Eq)]
pub struct Page(pub [u8; PAGE_SIZE]);

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Page(lsn {}, lower {}, upper {}, special {})",
            self.lsn(),
            self.lower(),
            self.upper(),
            self.special()
        )
    }
}

impl Default for Page {
    fn default() -> Page {
        Page([0; PAGE_SIZE])
    }
}

impl Page {
    /// A page of zeros, on the heap.
    pub fn zeroed() -> Box<Page> {
        Box::default()
    }

    /// A copy of 8192 bytes; `None` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Box<Page>> {
        let mut page = Page::zeroed();
        (bytes.len() == PAGE_SIZE).then(|| page.0.copy_from_slice(bytes))?;
        Some(page)
    }

    /// Whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    /// Whether the page was never initialised (`PageIsNew`).
    pub fn is_new(&self) -> bool {
        self.upper() == 0
    }

    /// `pd_lsn`: the end of the last record that changed the page.
    pub fn lsn(&self) -> Lsn {
        Lsn::new(u64::from(self.word(0)) << 32 | u64::from(self.word(4)))
    }

    /// Sets `pd_lsn`; redo gives it the end of the record.
    pub fn set_lsn(&mut self, lsn: Lsn) {
        let (high, low) = ((lsn.get() >> 32) as u32, (lsn.get() & 0xFFFF_FFFF) as u32);
        self.0[0..4].copy_from_slice(&high.to_le_bytes());
        self.0[4..8].copy_from_slice(&low.to_le_bytes());
    }

    /// `pd_flags`: has free line pointers (1), is full (2), all visible (4).
    pub fn flags(&self) -> u16 {
        self.half(10)
    }

    /// Clears, then sets bits of `pd_flags`.
    pub fn change_flags(&mut self, clear: u16, set: u16) {
        let flags = self.flags() & !clear | set;
        self.0[10..12].copy_from_slice(&flags.to_le_bytes());
    }

    /// `pd_lower`: end of the line pointers.
    pub fn lower(&self) -> usize {
        usize::from(self.half(12))
    }

    /// Sets `pd_lower`; at most [`PAGE_SIZE`].
    pub fn set_lower(&mut self, lower: usize) {
        self.put_half(12, lower);
    }

    /// `pd_upper`: start of the items.
    pub fn upper(&self) -> usize {
        usize::from(self.half(14))
    }

    /// Sets `pd_upper`; at most [`PAGE_SIZE`].
    pub fn set_upper(&mut self, upper: usize) {
        self.put_half(14, upper);
    }

    /// `pd_special`: start of the access method's own space.
    pub fn special(&self) -> usize {
        usize::from(self.half(16))
    }

    /// `pd_prune_xid`: the oldest transaction that left something to prune, 0 for none; a hint.
    pub fn prune_xid(&self) -> u32 {
        self.word(20)
    }

    /// Sets `pd_prune_xid`, the hint when to prune.
    pub fn set_prune_xid(&mut self, xid: u32) {
        self.0[20..24].copy_from_slice(&xid.to_le_bytes());
    }

    /// Makes this an empty page with `special_len` bytes of special space (`PageInit`).
    pub fn init(&mut self, special_len: usize) {
        let special = PAGE_SIZE - maxalign(special_len.min(PAGE_SIZE - PAGE_HEADER_LEN));
        self.0.fill(0);
        self.set_lower(PAGE_HEADER_LEN);
        self.set_upper(special);
        self.put_half(16, special);
        self.0[18..20].copy_from_slice(&SIZE_AND_VERSION.to_le_bytes());
    }

    /// The `len` bytes at `at`.
    ///
    /// # Errors
    /// [`PageError::OutOfPage`].
    pub fn bytes(&self, at: usize, len: usize) -> Result<&[u8], PageError> {
        let end = at.saturating_add(len);
        self.0.get(at..end).ok_or(PageError::OutOfPage { at, end })
    }

    /// As [`Page::bytes`], to write to.
    ///
    /// # Errors
    /// [`PageError::OutOfPage`].
    pub fn bytes_mut(&mut self, at: usize, len: usize) -> Result<&mut [u8], PageError> {
        let end = at.saturating_add(len);
        self.0.get_mut(at..end).ok_or(PageError::OutOfPage { at, end })
    }

    /// Copies `bytes` to `at`.
    ///
    /// # Errors
    /// [`PageError::OutOfPage`].
    pub fn put(&mut self, at: usize, bytes: &[u8]) -> Result<(), PageError> {
        self.bytes_mut(at, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// The little-endian u16 at `at`.
    ///
    /// # Errors
    /// [`PageError::OutOfPage`].
    pub fn u16_at(&self, at: usize) -> Result<u16, PageError> {
        let b = self.bytes(at, 2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }

    /// The little-endian u32 at `at`.
    ///
    /// # Errors
    /// [`PageError::OutOfPage`].
    pub fn u32_at(&self, at: usize) -> Result<u32, PageError> {
        let b = self.bytes(at, 4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Writes a little-endian u16.
    ///
    /// # Errors
    /// [`PageError::OutOfPage`].
    pub fn put_u16(&mut self, at: usize, value: u16) -> Result<(), PageError> {
        self.put(at, &value.to_le_bytes())
    }

    /// Writes a little-endian u32.
    ///
    /// # Errors
    /// [`PageError::OutOfPage`].
    pub fn put_u32(&mut self, at: usize, value: u32) -> Result<(), PageError> {
        self.put(at, &value.to_le_bytes())
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn put_half(&mut self, at: usize, value: usize) {
        let value = u16::try_from(value).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
