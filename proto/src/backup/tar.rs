//! The tar archives of a base backup: ustar headers as PostgreSQL writes and reads them.
//!
//! A [`TarReader`] is fed pieces of any length and tells entries and their content in order. It owns at most one
//! header's bytes. Everything that PostgreSQL does not write (pax records, sparse files) is refused.
//! [`TarEntry::header`] writes.
//!
//! Source: PostgreSQL 15, `tarCreateHeader` in `src/port/tar.c`; POSIX ustar.

use bytes::{Buf, Bytes};

/// Size of a header, and what content is padded to.
pub const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory, without content.
    Directory,
    /// A symbolic link.
    Link,
}

/// Permission bits of what a server writes: its owner reads and writes, nobody else.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Longest path, and longest target of a link (`MAXPGPATH` is longer; ustar has this room).
const PATH_MAX: usize = 100;
/// Where the fields that are checked lie.
const SUM_AT: std::ops::Range<usize> = 148..156;

/// What a header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TarEntry {
    /// Path relative to the archive's root.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of content.
    pub len: u64,
    /// Where a link leads; empty for anything else.
    pub target: String,
}

impl TarEntry {
    /// A regular file.
    pub fn file(path: impl Into<String>, len: u64) -> TarEntry {
        TarEntry { path: path.into(), kind: EntryKind::File, len, target: String::new() }
    }

    /// The entry of a directory, whose parent comes before it.
    pub fn directory(path: impl Into<String>) -> TarEntry {
        TarEntry { path: path.into(), kind: EntryKind::Directory, len: 0, target: String::new() }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<String>, target: impl Into<String>) -> TarEntry {
        TarEntry { path: path.into(), kind: EntryKind::Link, len: 0, target: target.into() }
    }

    /// The header, 512 bytes. The content follows, padded by [`padding`]. `time` is in seconds since 1970.
    ///
    /// # Errors
    /// When a path is longer than a header has room for.
    pub fn header(&self, time: u64) -> Result<[u8; BLOCK], TarError> {
        for name in [&self.path, &self.target] {
            if name.len() >= PATH_MAX {
                return Err(TarError(format!("{name:?} is too long for an archive: {PATH_MAX} bytes at most")));
            }
        }
        let mut h = [0; BLOCK];
        let mut text = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
        // PostgreSQL ends the name of a directory with a slash.
        let is_directory = self.kind == EntryKind::Directory;
        text(0, if is_directory { format!("{}/", self.path) } else { self.path.clone() }.as_bytes());
        text(100, format!("{:07o}", if is_directory { DIRECTORY_MODE } else { FILE_MODE }).as_bytes());
        text(108, b"0000000");
        text(116, b"0000000");
        text(124, &number(self.len));
        text(136, &number(time));
        text(
            156,
            &[match self.kind {
                EntryKind::File => b'0',
                EntryKind::Link => b'2',
                EntryKind::Directory => b'5',
            }],
        );
        text(157, self.target.as_bytes());
        text(257, b"ustar\x0000");
        text(265, b"postgres");
        text(297, b"postgres");
        text(329, b"0000000");
        text(337, b"0000000");
        h[SUM_AT].fill(b' ');
        let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
        h[SUM_AT].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Ok(h)
    }
}

/// A number of twelve bytes: octal digits, or beyond eleven of them base 256 marked by the first bit.
fn number(n: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if n < 1 << 33 {
        field[..11].copy_from_slice(format!("{n:011o}").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&n.to_be_bytes());
    }
    field
}

/// Zeros behind content of `len` bytes, less than a block.
pub const fn padding(len: u64) -> usize {
    ((BLOCK as u64 - len % BLOCK as u64) % BLOCK as u64) as usize
}

/// What ends an archive of 15 and later: two blocks of zeros.
pub const ARCHIVE_END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// What a reader tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TarEvent {
    /// An entry begins; its content follows.
    Entry(TarEntry),
    /// A piece of the content.
    Content(Bytes),
    /// The entry is complete.
    End,
}

/// A stream that is no such archive.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the backup's archive is malformed: {0}")]
pub struct TarError(String);

/// State of a stream.
#[derive(Debug, Default)]
pub struct TarReader {
    header: Vec<u8>,
    /// Content bytes of the entry that are still to come; none between entries.
    content: Option<u64>,
    padding: usize,
}

impl TarReader {
    /// Takes a piece and tells what is in it.
    ///
    /// # Errors
    /// See [`TarError`].
    pub fn feed(&mut self, mut piece: Bytes, tell: &mut dyn FnMut(TarEvent)) -> Result<(), TarError> {
        loop {
            if let Some(left) = self.content {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                if n > 0 {
                    tell(TarEvent::Content(piece.split_to(n)));
                }
                let left = left - n as u64;
                self.content = Some(left);
                if left > 0 {
                    return Ok(());
                }
                self.content = None;
                tell(TarEvent::End);
            }
            let n = self.padding.min(piece.len());
            piece.advance(n);
            self.padding -= n;
            let n = (BLOCK - self.header.len()).min(piece.len());
            self.header.extend_from_slice(&piece.split_to(n));
            if self.header.len() < BLOCK {
                return Ok(());
            }
            let header = std::mem::take(&mut self.header);
            // Two blocks of zeros end an archive.
            if header.iter().any(|b| *b != 0) {
                let entry = parse(&header)?;
                self.padding = padding(entry.len);
                self.content = Some(entry.len);
                tell(TarEvent::Entry(entry));
            }
        }
    }

    /// Whether the stream may end here.
    pub fn is_complete(&self) -> bool {
        self.content.is_none() && self.header.is_empty() && self.padding == 0
    }
}

fn parse(header: &[u8]) -> Result<TarEntry, TarError> {
    let text = |from: usize, len: usize| -> Result<&str, TarError> {
        let field = &header[from..from + len];
        let end = field.iter().position(|b| *b == 0).unwrap_or(len);
        std::str::from_utf8(&field[..end]).map_err(|_| TarError("a name is not UTF-8".into()))
    };
    let number = |from: usize, len: usize| -> Result<u64, TarError> {
        // Beyond eleven octal digits PostgreSQL writes base 256, marked by the first bit.
        let field = &header[from..from + len];
        if field[0] & 0x80 != 0 {
            return Ok(field[1..].iter().fold(0, |n, b| n << 8 | u64::from(*b)));
        }
        let digits = text(from, len)?.trim();
        u64::from_str_radix(digits, 8).map_err(|_| TarError(format!("{digits:?} is no octal number")))
    };
    let name = text(0, 100)?;
    let sum: u64 = header.iter().enumerate().map(|(i, b)| if SUM_AT.contains(&i) { 32 } else { u64::from(*b) }).sum();
    if number(148, 8)? != sum {
        return Err(TarError(format!("the checksum of the header of {name:?} is wrong")));
    }
    let kind = match header[156] {
        b'0' | 0 => EntryKind::File,
        b'5' => EntryKind::Directory,
        b'2' => EntryKind::Link,
        other => return Err(TarError(format!("{name:?} is of the unknown type {:?}", char::from(other)))),
    };
    let prefix = if &header[257..262] == b"ustar" { text(345, 155)? } else { "" };
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
    let len = if kind == EntryKind::File { number(124, 12)? } else { 0 };
    let target = if kind == EntryKind::Link { text(157, 100)?.to_owned() } else { String::new() };
    Ok(TarEntry { path: path.trim_start_matches("./").to_owned(), kind, len, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, len: usize, kind: u8) -> Vec<u8> {
        let mut h = vec![0; BLOCK];
        h[..name.len()].copy_from_slice(name.as_bytes());
        h[124..135].copy_from_slice(format!("{len:011o}").as_bytes());
        h[148..156].fill(b' ');
        h[156] = kind;
        h[257..262].copy_from_slice(b"ustar");
        let sum: u64 = h.iter().map(|b| u64::from(*b)).sum();
        h[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        h[154] = 0;
        h
    }

    fn archive() -> Vec<u8> {
        let mut tar = header("base/", 0, b'5');
        for (name, content) in [("backup_label", &b"START"[..]), ("base/5/16384", &[7; 8192]), ("empty", &[])] {
            tar.extend(header(name, content.len(), b'0'));
            tar.extend_from_slice(content);
            tar.resize(tar.len().next_multiple_of(BLOCK), 0);
        }
        tar.resize(tar.len() + 2 * BLOCK, 0);
        tar
    }

    type Files = Vec<(String, Vec<u8>)>;

    fn read(tar: &[u8], piece: usize) -> Result<(Files, bool), TarError> {
        let (mut reader, mut found) = (TarReader::default(), Vec::<(String, Vec<u8>)>::new());
        for piece in tar.chunks(piece) {
            reader.feed(Bytes::copy_from_slice(piece), &mut |event| match event {
                TarEvent::Entry(entry) => found.push((entry.path, Vec::new())),
                TarEvent::Content(bytes) => found.last_mut().expect("an entry").1.extend_from_slice(&bytes),
                TarEvent::End => {}
            })?;
        }
        Ok((found, reader.is_complete()))
    }

    #[test]
    fn an_archive_reads_the_same_however_it_is_cut() {
        let whole = read(&archive(), usize::MAX >> 1).expect("an archive");
        let names: Vec<_> = whole.0.iter().map(|(name, content)| (name.as_str(), content.len())).collect();
        assert_eq!(names, [("base/", 0), ("backup_label", 5), ("base/5/16384", 8192), ("empty", 0)]);
        assert!(whole.1);
        for piece in [1, 7, 511, 512, 513, 4096] {
            assert_eq!(read(&archive(), piece).expect("an archive"), whole, "in pieces of {piece}");
        }
        assert!(!read(&archive()[..2000], 512).expect("so far").1, "cut off");
    }

    #[test]
    fn what_is_written_reads_back() {
        let entries = [
            TarEntry::file("base/5/16384", 8192),
            TarEntry::file("large", 1 << 34),
            TarEntry::directory("pg_wal"),
            TarEntry::link("pg_tblspc/1700", "/some/where"),
        ];
        for entry in entries {
            let read = parse(&entry.header(77).expect("it fits")).expect("a header");
            let path = read.path.trim_end_matches('/').to_owned();
            assert_eq!(TarEntry { path, ..read }, entry);
        }
        assert!(TarEntry::file("x".repeat(100), 0).header(0).is_err());
        assert_eq!([0, 1, 511, 512, 513].map(padding), [0, 511, 1, 0, 511]);
    }

    #[test]
    fn a_flipped_bit_of_a_header_is_noticed() {
        let mut tar = archive();
        tar[BLOCK + 3] ^= 1;
        assert!(read(&tar, 4096).expect_err("damaged").to_string().contains("checksum"));
        let mut tar = archive();
        tar[BLOCK..2 * BLOCK].copy_from_slice(&header("x", 1, b'x'));
        assert!(read(&tar, 4096).expect_err("unknown").to_string().contains("unknown type"));
    }
}
