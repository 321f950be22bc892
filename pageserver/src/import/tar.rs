//! Reads the tar archives of a base backup from a stream: ustar headers as PostgreSQL writes them.
//!
//! A [`TarReader`] is fed pieces of any length and tells entries and their content in order. It owns at most one
//! header's bytes. Everything that PostgreSQL does not write (pax records, sparse files) is refused.
//!
//! Source: PostgreSQL 15, `tarCreateHeader` in `src/port/tar.c`; POSIX ustar.

use bytes::{Buf, Bytes};

/// Size of a header, and what content is padded to.
const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EntryKind {
    /// A regular file.
    File,
    /// A directory, without content.
    Directory,
    /// A symbolic link.
    Link,
}

/// What a header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TarEntry {
    /// Path relative to the archive's root.
    pub(super) path: String,
    /// What it is.
    pub(super) kind: EntryKind,
    /// Bytes of content.
    pub(super) len: u64,
}

/// What a reader tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum TarEvent {
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
pub(crate) struct TarError(String);

/// State of a stream.
#[derive(Debug, Default)]
pub(super) struct TarReader {
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
    pub(super) fn feed(&mut self, mut piece: Bytes, tell: &mut dyn FnMut(TarEvent)) -> Result<(), TarError> {
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
                self.padding = usize::try_from((BLOCK as u64 - entry.len % BLOCK as u64) % BLOCK as u64).unwrap_or(0);
                self.content = Some(entry.len);
                tell(TarEvent::Entry(entry));
            }
        }
    }

    /// Whether the stream may end here.
    pub(super) fn is_complete(&self) -> bool {
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
    let sum: u64 =
        header.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) }).sum();
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
    Ok(TarEntry { path: path.trim_start_matches("./").to_owned(), kind, len })
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
    fn a_flipped_bit_of_a_header_is_noticed() {
        let mut tar = archive();
        tar[BLOCK + 3] ^= 1;
        assert!(read(&tar, 4096).expect_err("damaged").to_string().contains("checksum"));
        let mut tar = archive();
        tar[BLOCK..2 * BLOCK].copy_from_slice(&header("x", 1, b'x'));
        assert!(read(&tar, 4096).expect_err("unknown").to_string().contains("unknown type"));
    }
}
