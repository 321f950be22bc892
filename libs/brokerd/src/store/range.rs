//! The keys that a request selects: one key, a range, all from a key on, or all. The rules for `key` and `range_end`
//! are etcd's.

use std::ops::Bound;

/// A set of keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeyRange {
    start: Vec<u8>,
    end: RangeEnd,
}

/// Where a range starts and ends, for an ordered map.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum RangeEnd {
    /// Only the key itself.
    One,
    /// All before this key.
    Before(Vec<u8>),
    /// All keys from the start on.
    Open,
}

impl KeyRange {
    /// No `range_end` means one key, a single zero byte means no end; a single zero byte as `key` is the first key of
    /// all.
    pub(crate) fn new(key: &[u8], range_end: &[u8]) -> KeyRange {
        let end = match range_end {
            [] => RangeEnd::One,
            [0] => RangeEnd::Open,
            before => RangeEnd::Before(before.to_vec()),
        };
        KeyRange { start: key.to_vec(), end }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::One => key == self.start,
            RangeEnd::Before(end) => key >= self.start.as_slice() && key < end.as_slice(),
            RangeEnd::Open => key >= self.start.as_slice(),
        }
    }

    /// Bounds for an ordered map; `None` when no key can match.
    pub(super) fn bounds(&self) -> Option<Bounds<'_>> {
        let start = Bound::Included(self.start.as_slice());
        match &self.end {
            RangeEnd::One => Some((start, Bound::Included(self.start.as_slice()))),
            RangeEnd::Before(end) if *end <= self.start => None,
            RangeEnd::Before(end) => Some((start, Bound::Excluded(end.as_slice()))),
            RangeEnd::Open => Some((start, Bound::Unbounded)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_etcd_says() {
        let one = KeyRange::new(b"a", b"");
        assert!(one.contains(b"a") && !one.contains(b"ab"));
        let prefix = KeyRange::new(b"/t/1/", b"/t/10");
        assert!(prefix.contains(b"/t/1/x") && !prefix.contains(b"/t/10/x") && !prefix.contains(b"/t/1"));
        let open = KeyRange::new(b"m", b"\0");
        assert!(open.contains(b"m") && open.contains(b"z") && !open.contains(b"a"));
        let all = KeyRange::new(b"\0", b"\0");
        assert!(all.contains(b"a") && all.contains(b"\xff"));
        assert!(KeyRange::new(b"b", b"a").bounds().is_none());
    }
}
