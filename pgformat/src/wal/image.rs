//! Full-page images: their place in a record, and how to restore the page.
//!
//! Source: PostgreSQL 15, `src/include/access/xlogrecord.h`, `RestoreBlockImage` in `xlogreader.c`,
//! `src/common/pg_lzcompress.c`.

use crate::page::{PAGE_SIZE, Page};

/// How an image is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ImageCompression {
    /// Not at all.
    None = 0,
    /// PostgreSQL's own `pglz` (`pg_lzcompress.c`).
    Pglz = 1,
    /// One raw lz4 block.
    Lz4 = 2,
    /// One zstd frame.
    Zstd = 3,
}

impl ImageCompression {
    /// From its number.
    pub const fn new(number: u8) -> Option<ImageCompression> {
        match number {
            0 => Some(ImageCompression::None),
            1 => Some(ImageCompression::Pglz),
            2 => Some(ImageCompression::Lz4),
            3 => Some(ImageCompression::Zstd),
            _ => None,
        }
    }
}

/// An image as a record carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Image<'a> {
    /// What is stored: the page without its hole, maybe compressed.
    pub bytes: &'a [u8],
    /// Where the hole is.
    pub hole_offset: u16,
    /// Length of the hole, which reads as zeros; 0 without one.
    pub hole_len: u16,
    /// How `bytes` are compressed.
    pub compression: ImageCompression,
    /// Whether redo restores the page from it. Otherwise it is there to check redo with
    /// (`wal_consistency_checking`).
    pub apply: bool,
}

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The hole does not fit into a page.
    #[error("an image's hole of {len} bytes at {offset} does not fit into a page")]
    Hole {
        /// Where it begins.
        offset: u16,
        /// How long it is.
        len: u16,
    },
    /// The bytes are no page.
    #[error(
        "an image of {len} bytes ({compression:?}) does not expand to the {expected} bytes of a page without its hole"
    )]
    Length {
        /// Length as stored.
        len: usize,
        /// How it is compressed.
        compression: ImageCompression,
        /// What should come out.
        expected: usize,
    },
}

impl Image<'_> {
    /// Rebuilds the page. `pd_lsn` is what was in shared buffers when the image was taken.
    ///
    /// # Errors
    /// When the image is damaged; `page` then holds anything.
    pub fn restore(&self, page: &mut Page) -> Result<(), ImageError> {
        let (offset, hole) = (usize::from(self.hole_offset), usize::from(self.hole_len));
        if offset + hole > PAGE_SIZE {
            return Err(ImageError::Hole { offset: self.hole_offset, len: self.hole_len });
        }
        let expected = PAGE_SIZE - hole;
        let wrong = ImageError::Length { len: self.bytes.len(), compression: self.compression, expected };
        // Everything is decompressed to the page's start; the part after the hole then moves to its place.
        let flat = &mut page.0[..expected];
        let got = match self.compression {
            ImageCompression::None => {
                let fits = self.bytes.len() == expected;
                fits.then(|| flat.copy_from_slice(self.bytes)).map(|()| expected)
            }
            ImageCompression::Pglz => pglz_decompress(self.bytes, flat),
            ImageCompression::Lz4 => lz4_decompress(self.bytes, flat),
            ImageCompression::Zstd => zstd::bulk::decompress_to_buffer(self.bytes, flat).ok(),
        };
        if got != Some(expected) {
            return Err(wrong);
        }
        if hole > 0 {
            page.0.copy_within(offset..expected, offset + hole);
            page.0[offset..offset + hole].fill(0);
        }
        Ok(())
    }
}

/// Expands `source` into `out`; how many bytes that were.
fn lz4_decompress(source: &[u8], out: &mut [u8]) -> Option<usize> {
    lz4::block::decompress_to_buffer(source, Some(out.len() as i32), out).ok()
}

/// Expands `source` to fill `out` exactly; how many bytes that were, or `None` when it does not.
fn pglz_decompress(source: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut at, mut done) = (0, 0);
    let mut next = || {
        let byte = source.get(at).copied();
        at += 1;
        byte
    };
    'all: while let Some(control) = next() {
        for bit in 0..8 {
            if done == out.len() {
                break 'all;
            }
            if control >> bit & 1 == 0 {
                // The last control byte may announce more items than follow.
                let Some(literal) = next() else { break 'all };
                out[done] = literal;
                done += 1;
                continue;
            }
            let Some(first) = next() else { break 'all };
            let second = next()?;
            let mut len = usize::from(first & 15) + 3;
            let back = usize::from(first & 0xF0) << 4 | usize::from(second);
            if len == 18 {
                len += usize::from(next()?);
            }
            let from = done.checked_sub(back).filter(|_| back > 0)?;
            let len = len.min(out.len() - done);
            for i in 0..len {
                out[done + i] = out[from + i];
            }
            done += len;
        }
    }
    (at >= source.len() && done == out.len()).then_some(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(bytes: &[u8], compression: ImageCompression, hole: (u16, u16)) -> Image<'_> {
        Image { bytes, hole_offset: hole.0, hole_len: hole.1, compression, apply: true }
    }

    #[test]
    fn the_hole_reads_as_zeros() {
        let stored: Vec<u8> = (0..8192 - 100).map(|i| (i % 251 + 1) as u8).collect();
        let mut page = Page([9; PAGE_SIZE]);
        image(&stored, ImageCompression::None, (40, 100)).restore(&mut page).expect("an image");
        assert_eq!(page.0[..40], stored[..40]);
        assert!(page.0[40..140].iter().all(|b| *b == 0));
        assert_eq!(page.0[140..], stored[40..]);
    }

    #[test]
    fn lz4_and_zstd_expand() {
        let plain: Vec<u8> = (0..8000).map(|i| (i / 100) as u8).collect();
        let lz4 = lz4::block::compress(&plain, None, false).expect("fits");
        let zstd = zstd::bulk::compress(&plain, 1).expect("compressed");
        for (bytes, compression) in [(lz4, ImageCompression::Lz4), (zstd, ImageCompression::Zstd)] {
            let mut page = Page([9; PAGE_SIZE]);
            image(&bytes, compression, (8000, 192)).restore(&mut page).expect("an image");
            assert_eq!(page.0[..8000], plain);
            assert!(image(&bytes, compression, (8000, 191)).restore(&mut page).is_err());
            assert!(image(&bytes[1..], compression, (8000, 192)).restore(&mut page).is_err());
        }
    }

    #[test]
    fn pglz_copies_what_overlaps() {
        // One literal, then a match of 3 + 15 + 237 bytes one byte back, and so on to the end of the page.
        let mut source = vec![0b1111_1110, b'a'];
        let mut left = PAGE_SIZE - 1;
        let mut in_group = 1;
        while left > 0 {
            if in_group == 8 {
                source.push(0xFF);
                in_group = 0;
            }
            let len = left.clamp(3, 255);
            if len >= 18 {
                source.extend([15, 1, (len - 18) as u8])
            } else {
                source.extend([(len - 3) as u8, 1])
            }
            left -= len.min(left);
            in_group += 1;
        }
        let mut page = Page::default();
        image(&source, ImageCompression::Pglz, (0, 0)).restore(&mut page).expect("an image");
        assert!(page.0.iter().all(|b| *b == b'a'));
        let mut damaged = source.clone();
        damaged[3] = 9;
        assert!(
            image(&damaged, ImageCompression::Pglz, (0, 0)).restore(&mut page).is_err(),
            "a match before the beginning"
        );
        assert!(image(&source[..20], ImageCompression::Pglz, (0, 0)).restore(&mut page).is_err());
    }
}
