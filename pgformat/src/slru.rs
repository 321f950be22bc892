//! The page arrays beside relations: which there are, and how their files are named.
//!
//! Source: PostgreSQL 15, `src/include/access/slru.h`, `src/backend/access/transam/slru.c` (`SlruFileName`),
//! `clog.c`, `multixact.c`, `commit_ts.c`. 17 and 18 count these pages with 64 bits and keep the names.

use std::fmt;

/// Pages of one segment file (`SLRU_PAGES_PER_SEGMENT`).
pub const SEGMENT_PAGES: u32 = 32;

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
        let is_name =
            (4..=6).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        let segno = u32::from_str_radix(name, 16).ok().filter(|_| is_name)?;
        (slru.path(segno) == path).then_some((slru, segno))
    }
}

impl fmt::Display for Slru {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.directory())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
