//! Proves that WAL is the same everywhere, byte by byte: safekeepers' files and PostgreSQL's own. What pageservers
//! make of it is proved page by page (`walfabric page verify`).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use pgformat::wal::{StreamConfig, WalDecoder};
use proto::{Lsn, PgMajor, SegSize};

/// WAL is compared in pieces of this size.
const PIECE: u64 = 4 << 20;

/// `XLOG_XACT_COMMIT` under `XLOG_XACT_OPMASK` of resource manager `RM_XACT_ID` (PostgreSQL 15, `access/xact.h`).
const RM_XACT_ID: u8 = 1;
const XLOG_XACT_OPMASK: u8 = 0x70;
const XLOG_XACT_COMMIT: u8 = 0x00;

/// Reads `[from, to)` out of a directory of plain segment files, whatever tli their names carry.
///
/// # Errors
/// When a segment is missing or shorter than asked for.
pub fn read_segments(dir: &Path, seg: SegSize, from: Lsn, to: Lsn) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(usize::try_from(to.bytes_since(from))?);
    let mut at = from;
    while at < to {
        let end = at.segment_start(seg).add(seg.bytes()).min(to);
        let path = find_segment(dir, seg, at.segment_no(seg))?;
        let mut piece = vec![0; usize::try_from(end.bytes_since(at))?];
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        file.read_exact_at(&mut piece, at.segment_offset(seg))
            .with_context(|| format!("{} is short", path.display()))?;
        out.extend_from_slice(&piece);
        at = end;
    }
    Ok(out)
}

fn find_segment(dir: &Path, seg: SegSize, segno: u64) -> Result<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut found: Vec<_> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some((seg.parse_file_name(&name)?, name)))
        .filter(|((_, n), _)| *n == segno)
        .collect();
    // The newest tli's file holds the older one's bytes up to the switch.
    found.sort();
    let (_, name) = found.pop().with_context(|| format!("segment {segno:#x} is not in {}", dir.display()))?;
    Ok(dir.join(name))
}

/// The first position at which two copies differ.
///
/// ```
/// use proto::Lsn;
/// use walfabric::proof::first_difference;
///
/// let begin = Lsn::new(0x300_0000);
/// assert_eq!(first_difference(begin, b"same bytes", b"same bytes"), None);
/// assert_eq!(first_difference(begin, b"same bytes", b"same bites"), Some(Lsn::new(0x300_0006)));
/// ```
pub fn first_difference(from: Lsn, a: &[u8], b: &[u8]) -> Option<Lsn> {
    let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    (common < a.len().max(b.len())).then(|| from.add(common as u64))
}

/// A directory of segment files.
#[derive(Clone, Debug)]
pub struct WalCopy {
    /// Whose copy it is, for messages.
    pub name: String,
    /// The directory that holds the segments.
    pub path: std::path::PathBuf,
}

/// What the proof compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Bytes compared per copy.
    pub bytes: u64,
    /// Transaction ids of all commit records in the range.
    pub committed: BTreeSet<u32>,
}

/// Compares every copy with the first, byte by byte, over `[start, end)`, and decodes it (CRC and prev link of every
/// record).
///
/// # Errors
/// Names the copy and the first position that differs, or the record that does not decode.
pub fn compare(copies: &[WalCopy], major: PgMajor, seg: SegSize, start: Lsn, end: Lsn) -> Result<Proof> {
    let config = StreamConfig { version: major, seg_size: seg, system_id: None, tlis: Vec::new() };
    // Headers are enough, and a record can have 1 GiB.
    let mut decoder = WalDecoder::new(config, start, None).leaving_out(|_| true);
    let mut committed = BTreeSet::new();
    let mut decode = |at: Lsn, bytes: &Bytes| {
        let fed = decoder.feed_records(at, bytes, &mut |record| {
            if record.header.rmid == RM_XACT_ID && record.header.info & XLOG_XACT_OPMASK == XLOG_XACT_COMMIT {
                committed.insert(record.header.xid);
            }
        });
        fed.context("the WAL does not decode")
    };
    for_each_piece(copies, seg, start, end, &mut decode)?;
    Ok(Proof { bytes: end.bytes_since(start), committed })
}

/// Compares every copy with the first, byte by byte, over `[start, end)`.
///
/// # Errors
/// Names the copy and the first position that differs.
pub fn same_bytes(copies: &[WalCopy], seg: SegSize, start: Lsn, end: Lsn) -> Result<()> {
    for_each_piece(copies, seg, start, end, &mut |_, _| Ok(()))
}

fn for_each_piece(
    copies: &[WalCopy],
    seg: SegSize,
    start: Lsn,
    end: Lsn,
    agreed: &mut impl FnMut(Lsn, &Bytes) -> Result<()>,
) -> Result<()> {
    let mut at = start;
    while at < end {
        let to = at.add(PIECE).min(end);
        let mut reference: Option<(&String, Bytes)> = None;
        for copy in copies {
            let WalCopy { name, path } = copy;
            let bytes = Bytes::from(read_segments(path, seg, at, to).with_context(|| name.clone())?);
            match &reference {
                None => reference = Some((name, bytes)),
                Some((first, expected)) => {
                    if let Some(lsn) = first_difference(at, expected, &bytes) {
                        bail!("{name} differs from {first} at {lsn}");
                    }
                }
            }
        }
        let (_, bytes) = reference.context("nothing to compare")?;
        agreed(at, &bytes)?;
        at = to;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_difference_is_found_where_it_is() {
        let from = Lsn::new(0x100_0000);
        let a = vec![7u8; 1000];
        let mut b = a.clone();
        assert_eq!(first_difference(from, &a, &b), None);
        b[321] = 8;
        assert_eq!(first_difference(from, &a, &b), Some(from.add(321)));
        assert_eq!(first_difference(from, &a, &a[..999]), Some(from.add(999)), "a short copy differs too");
    }

    #[test]
    fn a_missing_segment_is_an_error() {
        let dir = std::env::temp_dir();
        let seg = SegSize::new(1 << 20).expect("1 MiB");
        assert!(read_segments(&dir, seg, Lsn::new(1 << 40), Lsn::new((1 << 40) + 8)).is_err());
    }
}
