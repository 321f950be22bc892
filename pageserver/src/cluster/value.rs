//! What is stored under a key at an LSN.

use pgformat::Lsn;
use pgformat::page::{PAGE_SIZE, Page};
use pgformat::wal::image::{Image, ImageCompression, ImageError};

/// Bytes of the largest value: a block of a layer file has room for one.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 29;

/// What a value is; one byte on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub(crate) enum ValueKind {
    /// A whole page ([`encode_image`]).
    Image = 1,
    /// A change that makes the page from nothing (`pgformat::redo::Change`).
    Init = 2,
    /// A change to the version before.
    Change = 3,
    /// A whole piece of metadata.
    Blob = 4,
    /// The key is gone.
    Tombstone = 5,
}

impl ValueKind {
    /// From its byte.
    pub(crate) const fn new(number: u8) -> Option<ValueKind> {
        match number {
            1 => Some(ValueKind::Image),
            2 => Some(ValueKind::Init),
            3 => Some(ValueKind::Change),
            4 => Some(ValueKind::Blob),
            5 => Some(ValueKind::Tombstone),
            _ => None,
        }
    }

    /// Whether nothing older is needed to know the key's state.
    pub(crate) const fn is_base(self) -> bool {
        !matches!(self, ValueKind::Change)
    }
}

/// An image's flag: the page is as it shall be. Without it `pd_lsn` is the version's LSN, if the page is not new.
const KEEP_LSN: u8 = 0x80;

/// Appends the stored form of an image: `compression | 0x80 keep its LSN (u8), hole offset u16, hole length u16,
/// bytes`, little-endian. The empty value is a page of zeros.
///
/// An image that is not compressed is, if that makes it smaller: it then takes less memory, and is copied for less, on
/// its whole way to a layer file.
pub(crate) fn encode_image(image: &Image<'_>, keep_lsn: bool, out: &mut Vec<u8>) {
    let keep = if keep_lsn { KEEP_LSN } else { 0 };
    let start = out.len();
    out.push(image.compression as u8 | keep);
    out.extend_from_slice(&image.hole_offset.to_le_bytes());
    out.extend_from_slice(&image.hole_len.to_le_bytes());
    if image.compression == ImageCompression::None {
        let at = out.len();
        // A buffer that is too small for the result is an error: then it would not be smaller.
        out.resize(at + image.bytes.len(), 0);
        match lz4::block::compress_to_buffer(image.bytes, None, false, &mut out[at..]) {
            Ok(len) if len < image.bytes.len() => {
                out.truncate(at + len);
                out[start] = ImageCompression::Lz4 as u8 | keep;
                return;
            }
            _ => out.truncate(at),
        }
    }
    out.extend_from_slice(image.bytes);
}

/// Appends a page as it is, without its hole; nothing for a page of zeros.
pub(crate) fn encode_page(page: &Page, out: &mut Vec<u8>) {
    if page.is_zero() {
        return;
    }
    let (lower, upper) = (page.lower(), page.upper());
    let empty = page.check_pointers().is_ok() && page.0[lower..upper].iter().all(|b| *b == 0);
    let (hole_offset, hole_len) = if empty { (lower as u16, (upper - lower) as u16) } else { (0, 0) };
    out.push(ImageCompression::None as u8 | KEEP_LSN);
    out.extend_from_slice(&hole_offset.to_le_bytes());
    out.extend_from_slice(&hole_len.to_le_bytes());
    let hole = usize::from(hole_offset)..usize::from(hole_offset) + usize::from(hole_len);
    out.extend_from_slice(&page.0[..hole.start]);
    out.extend_from_slice(&page.0[hole.end..]);
}

/// Rebuilds the page of an [`ValueKind::Image`] of version `lsn`.
///
/// # Errors
/// When the value is damaged.
pub(crate) fn decode_image(value: &[u8], lsn: Lsn, page: &mut Page) -> Result<(), ImageError> {
    let Some((head, bytes)) = value.split_first_chunk::<5>() else {
        page.0.fill(0);
        let short = ImageError::Length { len: value.len(), compression: ImageCompression::None, expected: PAGE_SIZE };
        return if value.is_empty() { Ok(()) } else { Err(short) };
    };
    let (hole_offset, hole_len) = (u16::from_le_bytes([head[1], head[2]]), u16::from_le_bytes([head[3], head[4]]));
    let compression =
        ImageCompression::new(head[0] & !KEEP_LSN).ok_or(ImageError::Hole { offset: hole_offset, len: hole_len })?;
    Image { bytes, hole_offset, hole_len, compression, apply: true }.restore(page)?;
    if head[0] & KEEP_LSN == 0 && !page.is_new() {
        page.set_lsn(lsn);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_it_was_written() {
        let mut pages = vec![Page::default()];
        let mut page = Page::default();
        page.init(16);
        page.add_item(b"an item").expect("space");
        page.set_lsn(Lsn::new(77));
        pages.push(page.clone());
        page.0[5000] = 1;
        pages.push(page);
        pages.push(Page([0xAB; PAGE_SIZE]));
        for page in pages {
            let mut value = Vec::new();
            encode_page(&page, &mut value);
            let mut read = Page([1; PAGE_SIZE]);
            decode_image(&value, Lsn::new(5), &mut read).expect("an image");
            assert!(read == page);
            assert!(value.len() < 4 || decode_image(&value[..3], Lsn::new(5), &mut read).is_err());
        }
    }
}
