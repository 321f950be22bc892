//! The body of a record: block references with their images and data, and the main data.
//!
//! Zero-copy: everything borrows from the record. The layout is that of PostgreSQL 14-18, which differ only in the bits
//! of `bimg_info`.
//!
//! Source: PostgreSQL 15, `src/include/access/xlogrecord.h`, `DecodeXLogRecord` in `xlogreader.c`.

use smallvec::SmallVec;

use super::image::{Image, ImageCompression};
use super::record::RECORD_HEADER_LEN;
use crate::PgMajor;
use crate::page::PAGE_SIZE;
use crate::read::{Short, Take};
use crate::rel::{BlockTag, Fork, RelFileLocator, RelFork};

/// The highest id of a block reference (`XLR_MAX_BLOCK_ID`).
pub const BLOCK_ID_MAX: u8 = 32;
const ID_TOPLEVEL_XID: u8 = 252;
const ID_ORIGIN: u8 = 253;
const ID_DATA_LONG: u8 = 254;
const ID_DATA_SHORT: u8 = 255;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_REL: u8 = 0x80;

/// One block reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef<'a> {
    /// Its id in the record, 0..=32.
    pub id: u8,
    /// The block that it names.
    pub tag: BlockTag,
    /// Whether redo makes the page from nothing.
    pub will_init: bool,
    /// The page's image.
    pub image: Option<Image<'a>>,
    /// The resource manager's data for this block.
    pub data: &'a [u8],
}

impl<'a> BlockRef<'a> {
    /// The image that redo restores the page from.
    pub fn applied_image(&self) -> Option<Image<'a>> {
        self.image.filter(|image| image.apply)
    }
}

/// A record taken apart.
#[derive(Clone, Debug, Default)]
pub struct RecordBody<'a> {
    /// Its block references, ids ascending.
    pub blocks: SmallVec<[BlockRef<'a>; 4]>,
    /// Main data: what belongs to no block.
    pub main: &'a [u8],
    /// Number of the replication origin that it came from.
    pub origin: Option<u16>,
    /// Top-level transaction, in the first record of a subtransaction under `wal_level = logical`.
    pub top_xid: Option<u32>,
}

impl<'a> RecordBody<'a> {
    /// Block reference `id`.
    pub fn block(&self, id: u8) -> Option<&BlockRef<'a>> {
        self.blocks.iter().find(|b| b.id == id)
    }
}

/// A record's body that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It ends too early.
    #[error("the record's headers announce more than it has")]
    Short,
    /// It is longer than its headers say.
    #[error("the record has {0} bytes more than its headers announce")]
    Long(usize),
    /// An unknown header.
    #[error("unknown header id {0} in a record")]
    Id(u8),
    /// Block references out of order.
    #[error("block reference {0} is out of order")]
    Order(u8),
    /// An unknown fork.
    #[error("block reference {id} is in unknown fork {fork}")]
    Fork {
        /// Of this reference.
        id: u8,
        /// The fork's number, above the last known one.
        fork: u8,
    },
    /// `SAME_REL` in the first reference, or relation file number 0.
    #[error("block reference {0} names no relation")]
    NoRelation(u8),
    /// Flags of an image that contradict each other.
    #[error("block reference {id} has an impossible image: info {info:#04x}, length {len}")]
    Image {
        /// Of this reference.
        id: u8,
        /// `bimg_info`: whether there is a hole, whether redo applies it, how it is compressed.
        info: u8,
        /// `bimg_len`: bytes of the image in the record.
        len: u16,
    },
}

impl From<Short> for BodyError {
    fn from(_: Short) -> BodyError {
        BodyError::Short
    }
}

/// A block's header, before it is known where its bytes lie.
struct Announced {
    image_len: usize,
    data_len: usize,
}

/// Takes a whole record (its fixed header included) apart.
///
/// # Errors
/// When the body contradicts itself: a checksum protects it, so this means a format that we do not know.
pub fn parse(record: &[u8], version: PgMajor) -> Result<RecordBody<'_>, BodyError> {
    let mut body = RecordBody::default();
    parse_into(record, version, &mut body)?;
    Ok(body)
}

/// [`parse`] into an empty body, which is large to move. After an error it is half filled.
///
/// # Errors
/// As [`parse`].
pub fn parse_into<'a>(record: &'a [u8], version: PgMajor, body: &mut RecordBody<'a>) -> Result<(), BodyError> {
    let mut take = Take::new(record.get(RECORD_HEADER_LEN..).ok_or(BodyError::Short)?);
    let mut announced: SmallVec<[Announced; 4]> = SmallVec::new();
    let mut announced_len = 0_usize;
    let mut main_len = 0_usize;
    while take.left() > announced_len {
        match take.u8()? {
            id @ 0..=BLOCK_ID_MAX => {
                if body.blocks.last().is_some_and(|before| before.id >= id) {
                    return Err(BodyError::Order(id));
                }
                let before = body.blocks.last().map(|b| b.tag.fork.rel);
                let (block, lengths) = block_header(&mut take, id, before, version)?;
                announced_len += lengths.image_len + lengths.data_len;
                body.blocks.push(block);
                announced.push(lengths);
            }
            ID_TOPLEVEL_XID => body.top_xid = Some(take.u32()?),
            ID_ORIGIN => body.origin = Some(take.u16()?),
            id @ (ID_DATA_LONG | ID_DATA_SHORT) => {
                main_len = if id == ID_DATA_LONG { take.u32()? as usize } else { usize::from(take.u8()?) };
                // Always the last header.
                break;
            }
            id => return Err(BodyError::Id(id)),
        }
    }
    for (block, lengths) in body.blocks.iter_mut().zip(&announced) {
        let image = take.bytes(lengths.image_len)?;
        if let Some(stored) = &mut block.image {
            stored.bytes = image;
        }
        block.data = take.bytes(lengths.data_len)?;
    }
    body.main = take.bytes(main_len)?;
    match take.left() {
        0 => Ok(()),
        left => Err(BodyError::Long(left)),
    }
}

fn block_header<'a>(
    take: &mut Take<'a>,
    id: u8,
    before: Option<RelFileLocator>,
    version: PgMajor,
) -> Result<(BlockRef<'a>, Announced), BodyError> {
    let flags = take.u8()?;
    let data_len = usize::from(take.u16()?);
    if (flags & HAS_DATA != 0) != (data_len > 0) {
        return Err(BodyError::Order(id));
    }
    let (image, image_len) = if flags & HAS_IMAGE != 0 {
        let (image, len) = image_header(take, id, version)?;
        (Some(image), len)
    } else {
        (None, 0)
    };
    let rel = if flags & SAME_REL != 0 {
        before.ok_or(BodyError::NoRelation(id))?
    } else {
        RelFileLocator { spc: take.u32()?, db: take.u32()?, rel: take.u32()? }
    };
    if rel.rel == 0 {
        return Err(BodyError::NoRelation(id));
    }
    let fork = flags & FORK_MASK;
    let fork = Fork::new(fork).ok_or(BodyError::Fork { id, fork })?;
    let tag = BlockTag { fork: RelFork { rel, fork }, blk: take.u32()? };
    let block = BlockRef { id, tag, will_init: flags & WILL_INIT != 0, image, data: &[] };
    Ok((block, Announced { image_len, data_len }))
}

/// The image's header; its bytes come later.
fn image_header<'a>(take: &mut Take<'a>, id: u8, version: PgMajor) -> Result<(Image<'a>, usize), BodyError> {
    let (len, hole_offset, info) = (take.u16()?, take.u16()?, take.u8()?);
    let wrong = BodyError::Image { id, info, len };
    let has_hole = info & 0x01 != 0;
    // 15 renumbered the bits when it added compression methods.
    let (apply, compression) = if version.get() == 14 {
        (info & 0x04 != 0, if info & 0x02 != 0 { ImageCompression::Pglz } else { ImageCompression::None })
    } else {
        let compression = match info & 0x1C {
            0x00 => ImageCompression::None,
            0x04 => ImageCompression::Pglz,
            0x08 => ImageCompression::Lz4,
            0x10 => ImageCompression::Zstd,
            _ => return Err(wrong),
        };
        (info & 0x02 != 0, compression)
    };
    let hole_len = match (has_hole, compression) {
        (false, _) => 0,
        (true, ImageCompression::None) => {
            let Some(hole) = PAGE_SIZE.checked_sub(usize::from(len)) else { return Err(wrong) };
            u16::try_from(hole).unwrap_or(u16::MAX)
        }
        (true, _) => take.u16()?,
    };
    let fits = usize::from(hole_offset) + usize::from(hole_len) <= PAGE_SIZE;
    let whole = compression != ImageCompression::None || usize::from(len) + usize::from(hole_len) == PAGE_SIZE;
    if !fits || !whole || has_hole != (hole_len > 0) {
        return Err(wrong);
    }
    Ok((Image { bytes: &[], hole_offset, hole_len, compression, apply }, usize::from(len)))
}
