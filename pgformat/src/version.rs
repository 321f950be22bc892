//! Supported PostgreSQL majors and where their WAL differs, in one table.

use std::fmt;

/// A supported PostgreSQL major version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct PgMajor(u8);

impl PgMajor {
    /// Every supported major, ascending.
    pub const ALL: [PgMajor; 5] = [PgMajor(14), PgMajor(15), PgMajor(16), PgMajor(17), PgMajor(18)];

    /// The major `n`, when it is supported.
    pub fn new(n: u32) -> Option<PgMajor> {
        PgMajor::ALL.into_iter().find(|m| u32::from(m.0) == n)
    }

    /// From `PG_VERSION_NUM` (150004) as the push protocol and `server_version_num` carry it.
    pub fn from_version_num(num: u32) -> Option<PgMajor> {
        PgMajor::new(num / 10_000)
    }

    /// The major as a number.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// `XLOG_PAGE_MAGIC`, the first two bytes of every WAL page.
    ///
    /// Source: `src/include/access/xlog_internal.h` of each major.
    pub const fn xlog_page_magic(self) -> u16 {
        match self.0 {
            14 => 0xD10D,
            15 => 0xD110,
            16 => 0xD113,
            17 => 0xD116,
            _ => 0xD118,
        }
    }

    /// The major whose WAL pages start with `magic`.
    pub fn from_page_magic(magic: u16) -> Option<PgMajor> {
        PgMajor::ALL.into_iter().find(|m| m.xlog_page_magic() == magic)
    }
}

impl fmt::Display for PgMajor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
