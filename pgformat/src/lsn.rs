//! Log positions and the arithmetic of WAL pages and segments.
//!
//! A position is never a bare `u64`: [`Lsn`] keeps its number private and has no `Default`. An unknown position is
//! `None`. Zero means unknown on the wire only, where [`Lsn::from_wire`] and [`Lsn::to_wire`] translate it.
//!
//! Source: PostgreSQL 15, `src/include/access/xlogdefs.h`, `xlog_internal.h`.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// Size of a WAL page in bytes (`XLOG_BLCKSZ` as every distribution builds it).
pub const WAL_PAGE_SIZE: u64 = 8192;

/// A byte position in the WAL (`XLogRecPtr`). Text form `X/X`, hexadecimal, as PostgreSQL prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The largest position that exists.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Positions from outside lie below this: 4 EiB of WAL, which no server writes. So a length, a segment or a page
    /// can be added to any position that was taken.
    pub const LIMIT: Lsn = Lsn(1 << 62);

    /// Position of byte `pos` counted from the beginning of the log.
    pub const fn new(pos: u64) -> Lsn {
        Lsn(pos)
    }

    /// The byte position as a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// A position as messages carry it: zero means "unknown".
    pub const fn from_wire(pos: u64) -> Option<Lsn> {
        if pos == 0 { None } else { Some(Lsn(pos)) }
    }

    /// The number that messages carry for a position that may be unknown.
    pub const fn to_wire(lsn: Option<Lsn>) -> u64 {
        match lsn {
            Some(l) => l.0,
            None => 0,
        }
    }

    /// This position `bytes` further on, or `None` on overflow.
    pub const fn checked_add(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_add(bytes) {
            Some(v) => Some(Lsn(v)),
            None => None,
        }
    }

    /// This position `bytes` further on.
    ///
    /// # Panics
    /// When the log would be longer than 2^64 bytes: lengths from the wire go through [`Lsn::checked_add`].
    pub const fn add(self, bytes: u64) -> Lsn {
        match self.0.checked_add(bytes) {
            Some(v) => Lsn(v),
            None => panic!("LSN overflow"),
        }
    }

    /// Bytes from `earlier` to here, or `None` when `earlier` is later than this.
    pub const fn checked_sub(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// Bytes from `earlier` to here, zero when `earlier` is later.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The next multiple of eight at or after this position (`MAXALIGN`).
    pub const fn align8(self) -> Lsn {
        Lsn((self.0 + 7) & !7)
    }

    /// Whether this lies below [`Lsn::LIMIT`].
    pub const fn is_plausible(self) -> bool {
        self.0 < Lsn::LIMIT.0
    }

    /// Whether this is a multiple of eight.
    pub const fn is_aligned8(self) -> bool {
        self.0.is_multiple_of(8)
    }

    /// Offset inside the WAL page, `0..8192`.
    pub const fn page_offset(self) -> u64 {
        self.0 % WAL_PAGE_SIZE
    }

    /// Start of the page that holds this position.
    pub const fn page_start(self) -> Lsn {
        Lsn(self.0 - self.page_offset())
    }

    /// Number of the segment that holds the byte at this position.
    pub const fn segment_no(self, seg: SegSize) -> u64 {
        self.0 / seg.bytes()
    }

    /// Offset inside the segment.
    pub const fn segment_offset(self, seg: SegSize) -> u64 {
        self.0 % seg.bytes()
    }

    /// Start of the segment that holds this position.
    pub const fn segment_start(self, seg: SegSize) -> Lsn {
        Lsn(self.0 - self.segment_offset(seg))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a log position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an LSN: expected two hexadecimal numbers of at most 8 digits, as in 0/16B3748")]
pub struct ParseLsnError {
    text: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(s: &str) -> Result<Lsn, ParseLsnError> {
        let half = |t: &str| -> Result<u64, ParseIntError> {
            // `from_str_radix` accepts a sign, PostgreSQL does not.
            if t.len() > 8 || t.starts_with('+') {
                return u64::from_str_radix("", 16);
            }
            u64::from_str_radix(t, 16)
        };
        let parsed = s.split_once('/').and_then(|(hi, lo)| Some((half(hi).ok()?, half(lo).ok()?)));
        match parsed {
            Some((hi, lo)) => Ok(Lsn(hi << 32 | lo)),
            None => Err(ParseLsnError { text: s.chars().take(40).collect() }),
        }
    }
}

/// A valid `wal_segment_size`: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SegSize(u32);

impl SegSize {
    /// PostgreSQL's default, 16 MiB.
    pub const DEFAULT: SegSize = SegSize(16 << 20);

    /// Checks `bytes` (`IsValidWalSegSize`).
    pub const fn new(bytes: u32) -> Option<SegSize> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 { Some(SegSize(bytes)) } else { None }
    }

    /// Size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// Size in bytes as the wire carries it.
    pub const fn to_u32(self) -> u32 {
        self.0
    }

    /// Start of segment number `segno`.
    pub const fn start_of(self, segno: u64) -> Lsn {
        Lsn(segno * self.bytes())
    }

    /// PostgreSQL's file name of segment `segno` on `tli` (`XLogFileName`): 24 hexadecimal digits.
    pub fn file_name(self, tli: Tli, segno: u64) -> String {
        let per_id = 0x1_0000_0000 / self.bytes();
        format!("{:08X}{:08X}{:08X}", tli.0, segno / per_id, segno % per_id)
    }

    /// The inverse of [`SegSize::file_name`]; `None` for any other name, and for that of a segment whose end is no
    /// position.
    pub fn parse_file_name(self, name: &str) -> Option<(Tli, u64)> {
        if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
            return None;
        }
        let part = |r: std::ops::Range<usize>| u64::from_str_radix(name.get(r)?, 16).ok();
        let (tli, id, seg) = (part(0..8)?, part(8..16)?, part(16..24)?);
        let per_id = 0x1_0000_0000 / self.bytes();
        let segno = id * per_id + seg;
        (seg < per_id && (segno + 1).checked_mul(self.bytes()).is_some()).then_some((Tli(tli as u32), segno))
    }
}

/// PostgreSQL's own timeline number, written "tli" everywhere: a *timeline* is ours (see the glossary).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Tli(pub u32);

impl fmt::Display for Tli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(feature = "serde")]
mod serde_text {
    use super::{Lsn, SegSize, Tli};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    impl Serialize for Lsn {
        fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.collect_str(self)
        }
    }
    impl<'de> Deserialize<'de> for Lsn {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Lsn, D::Error> {
            let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
            text.parse().map_err(D::Error::custom)
        }
    }
    impl Serialize for SegSize {
        fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.serialize_u32(self.to_u32())
        }
    }
    impl<'de> Deserialize<'de> for SegSize {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<SegSize, D::Error> {
            let bytes = u32::deserialize(d)?;
            SegSize::new(bytes).ok_or_else(|| {
                D::Error::custom(format!("wal_segment_size {bytes} is not a power of two from 1 MiB to 1 GiB"))
            })
        }
    }
    impl Serialize for Tli {
        fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.serialize_u32(self.0)
        }
    }
    impl<'de> Deserialize<'de> for Tli {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Tli, D::Error> {
            u32::deserialize(d).map(Tli)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_from_outside_leave_room_to_add() {
        assert!(Lsn::new((1 << 62) - 8).is_plausible());
        assert!(!Lsn::LIMIT.is_plausible() && !Lsn::MAX.is_plausible());
        assert_eq!(Lsn::LIMIT.to_string(), "40000000/0");
    }

    #[test]
    fn text_form_round_trips_and_refuses_what_postgres_refuses() {
        let lsn: Lsn = "16/B374D848".parse().expect("a valid LSN");
        assert_eq!(lsn.get(), 0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        for bad in ["", "/", "1", "1/", "/1", "1/2/3", "G/0", "0/123456789", "+1/0", "0/-1", " 0/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn segment_names_follow_postgres_for_every_size() {
        let seg = SegSize::DEFAULT;
        for mib in [1u32, 16, 64, 1024] {
            let seg = SegSize::new(mib << 20).expect("a power of two");
            for segno in [0, 1, 3, 255, 256, 4097, 1 << 20] {
                let name = seg.file_name(Tli(7), segno);
                assert_eq!(seg.parse_file_name(&name), Some((Tli(7), segno)), "{name}");
            }
        }
        assert_eq!(seg.file_name(Tli(1), 1), "000000010000000000000001");
        assert_eq!(seg.file_name(Tli(1), 256), "000000010000000100000000");
        assert_eq!(seg.parse_file_name("00000001000000000000000100"), None);
        assert_eq!(
            seg.parse_file_name("000000010000000000000100"),
            None,
            "segment 0x100 of an id does not exist at 16 MiB"
        );
        let last = SegSize::DEFAULT;
        assert_eq!(last.parse_file_name("00000001FFFFFFFF000000FF"), None, "it ends beyond the last position");
        assert_eq!(last.parse_file_name("00000001FFFFFFFF000000FE"), Some((Tli(1), (1 << 40) - 2)));
        assert!(SegSize::new(3 << 20).is_none() && SegSize::new(1 << 19).is_none());
    }

    #[test]
    fn zero_is_unknown_on_the_wire_only() {
        assert_eq!(Lsn::from_wire(0), None);
        assert_eq!(Lsn::to_wire(None), 0);
        assert_eq!(Lsn::to_wire(Lsn::from_wire(9)), 9);
    }
}
