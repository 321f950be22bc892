//! Messages inside CopyData of a pagestream, big-endian: a page client's requests and the replies.
//!
//! Replies come in the order of requests, so a reply is decoded together with its request. Version 3 repeats the
//! request in the reply, and the decoder checks it; version 2 has neither request ids nor that echo.

#[cfg(test)]
mod tests;

use bytes::{BufMut, Bytes, BytesMut};
use pgformat::Lsn;
use pgformat::page::PAGE_SIZE;
use pgformat::rel::{BlockNumber, BlockTag, Fork, RelFileLocator, RelFork};
use pgformat::slru::{SEGMENT_PAGES, Slru};

use crate::codec::{DecodeError, Reader};

/// Version of the messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagestreamVersion {
    /// Without request ids and without an echo.
    V2,
    /// With both: what Neon's `pagestream_v3` has.
    V3,
}

/// What a client asks, at which position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Number that comes back with the reply; the client's business. Zero in version 2.
    pub id: u64,
    /// The state wanted: [`Lsn::MAX`] means the latest.
    pub lsn: Lsn,
    /// The client's promise that what it asks for did not change in (this, `lsn`].
    pub not_modified_since: Lsn,
    /// What is asked for.
    pub ask: Ask,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Whether a fork exists.
    Exists(RelFork),
    /// How many blocks a fork has.
    Nblocks(RelFork),
    /// One page, 8192 bytes.
    Page(BlockTag),
    /// Bytes of all relations of a database.
    DbSize {
        /// Oid of the database.
        db: u32,
    },
    /// All pages of an SLRU segment.
    SlruSegment {
        /// The SLRU that has the segment.
        slru: Slru,
        /// Number of the segment.
        segno: u32,
    },
}

/// What the client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The answer to [`Ask::Exists`].
    Exists(bool),
    /// The answer to [`Ask::Nblocks`]: blocks.
    Nblocks(BlockNumber),
    /// To [`Ask::Page`]: 8192 bytes.
    Page(Bytes),
    /// To any: why there is no other reply.
    Error(String),
    /// To [`Ask::DbSize`], in bytes.
    DbSize(i64),
    /// To [`Ask::SlruSegment`]: whole pages, at most 32.
    SlruSegment(Bytes),
}

/// Longest text of an error that is accepted.
const ERROR_MAX: usize = 64 << 10;

mod tag {
    pub(super) const EXISTS: u8 = 0;
    pub(super) const NBLOCKS: u8 = 1;
    pub(super) const PAGE: u8 = 2;
    pub(super) const DB_SIZE: u8 = 3;
    pub(super) const SLRU_SEGMENT: u8 = 4;
    pub(super) const EXISTS_REPLY: u8 = 100;
    pub(super) const NBLOCKS_REPLY: u8 = 101;
    pub(super) const PAGE_REPLY: u8 = 102;
    pub(super) const ERROR: u8 = 103;
    pub(super) const DB_SIZE_REPLY: u8 = 104;
    pub(super) const SLRU_SEGMENT_REPLY: u8 = 105;
}

impl Request {
    /// Reads one request.
    ///
    /// # Errors
    /// When the bytes are not exactly one request.
    pub fn decode(version: PagestreamVersion, bytes: Bytes) -> Result<Request, DecodeError> {
        let mut r = Reader::new("page request", bytes);
        let tag = r.u8("tag")?;
        if tag > tag::SLRU_SEGMENT {
            return Err(r.error(format!("unknown tag {tag}")));
        }
        let (id, lsn, not_modified_since) = read_head(version, &mut r)?;
        let ask = read_ask(tag, &mut r)?;
        r.finish()?;
        Ok(Request { id, lsn, not_modified_since, ask })
    }

    /// The whole message.
    pub fn encode(&self, version: PagestreamVersion) -> Bytes {
        let mut out = BytesMut::with_capacity(42);
        out.put_u8(match self.ask {
            Ask::Exists(_) => tag::EXISTS,
            Ask::Nblocks(_) => tag::NBLOCKS,
            Ask::Page(_) => tag::PAGE,
            Ask::DbSize { .. } => tag::DB_SIZE,
            Ask::SlruSegment { .. } => tag::SLRU_SEGMENT,
        });
        self.put_head(version, &mut out);
        self.put_ask(&mut out);
        out.freeze()
    }

    fn put_head(&self, version: PagestreamVersion, out: &mut BytesMut) {
        if version == PagestreamVersion::V3 {
            out.put_u64(self.id);
        }
        out.put_u64(self.lsn.get());
        out.put_u64(self.not_modified_since.get());
    }

    fn put_ask(&self, out: &mut BytesMut) {
        match self.ask {
            Ask::Exists(fork) | Ask::Nblocks(fork) => put_fork(fork, out),
            Ask::Page(block) => {
                put_fork(block.fork, out);
                out.put_u32(block.blk);
            }
            Ask::DbSize { db } => out.put_u32(db),
            Ask::SlruSegment { slru, segno } => {
                out.put_u8(slru as u8);
                out.put_u32(segno);
            }
        }
    }
}

impl Reply {
    /// Reads the reply to `request`; pages are slices of `bytes`.
    ///
    /// # Errors
    /// When the bytes are not exactly one reply, or one to another request.
    pub fn decode(version: PagestreamVersion, bytes: Bytes, request: &Request) -> Result<Reply, DecodeError> {
        let mut r = Reader::new("page reply", bytes);
        let tag = r.u8("tag")?;
        if tag != tag::ERROR && tag != request.ask.reply_tag() {
            return Err(r.error(format!("tag {tag} answers no request of this kind")));
        }
        if version == PagestreamVersion::V3 {
            let mut echo = BytesMut::with_capacity(42);
            request.put_head(version, &mut echo);
            if tag != tag::ERROR {
                request.put_ask(&mut echo);
            }
            if r.take(echo.len(), "echo of the request")? != echo {
                return Err(r.error("the echo is that of another request"));
            }
        }
        let reply = match tag {
            tag::EXISTS_REPLY => Reply::Exists(r.u8("exists")? != 0),
            tag::NBLOCKS_REPLY => Reply::Nblocks(r.u32("number of blocks")?),
            tag::PAGE_REPLY => Reply::Page(r.take(PAGE_SIZE, "page")?),
            tag::ERROR => Reply::Error(r.cstr(ERROR_MAX, "error text")?),
            tag::DB_SIZE_REPLY => Reply::DbSize(r.i64("bytes of the database")?),
            _ => {
                let count = r.u32("number of pages")?;
                if count > SEGMENT_PAGES {
                    return Err(r.error(format!("a segment of {count} pages, it has {SEGMENT_PAGES} at most")));
                }
                let count = r.bounded_count(count, PAGE_SIZE, "number of pages")?;
                Reply::SlruSegment(r.take(count * PAGE_SIZE, "pages")?)
            }
        };
        r.finish()?;
        Ok(reply)
    }

    /// The message in two parts: what is written anew, and the pages, which are not copied.
    ///
    /// # Panics
    /// When this is a page or a segment that is not made of whole pages.
    pub fn encode(&self, version: PagestreamVersion, request: &Request) -> (Bytes, Bytes) {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(self.tag());
        if version == PagestreamVersion::V3 {
            request.put_head(version, &mut out);
            if self.tag() != tag::ERROR {
                request.put_ask(&mut out);
            }
        }
        let mut pages = Bytes::new();
        match self {
            Reply::Exists(exists) => out.put_u8(u8::from(*exists)),
            Reply::Nblocks(blocks) => out.put_u32(*blocks),
            Reply::Page(page) => {
                assert_eq!(page.len(), PAGE_SIZE, "a page has a fixed size");
                pages = page.clone();
            }
            Reply::Error(text) => {
                let text: String = text.chars().filter(|c| *c != '\0').take(ERROR_MAX / 4).collect();
                out.put_slice(text.as_bytes());
                out.put_u8(0);
            }
            Reply::DbSize(bytes) => out.put_i64(*bytes),
            Reply::SlruSegment(segment) => {
                assert!(segment.len().is_multiple_of(PAGE_SIZE), "a segment is made of whole pages");
                out.put_u32(u32::try_from(segment.len() / PAGE_SIZE).expect("a segment has 32 pages at most"));
                pages = segment.clone();
            }
        }
        (out.freeze(), pages)
    }

    fn tag(&self) -> u8 {
        match self {
            Reply::Exists(_) => tag::EXISTS_REPLY,
            Reply::Nblocks(_) => tag::NBLOCKS_REPLY,
            Reply::Page(_) => tag::PAGE_REPLY,
            Reply::Error(_) => tag::ERROR,
            Reply::DbSize(_) => tag::DB_SIZE_REPLY,
            Reply::SlruSegment(_) => tag::SLRU_SEGMENT_REPLY,
        }
    }
}

impl Ask {
    fn reply_tag(&self) -> u8 {
        match self {
            Ask::Exists(_) => tag::EXISTS_REPLY,
            Ask::Nblocks(_) => tag::NBLOCKS_REPLY,
            Ask::Page(_) => tag::PAGE_REPLY,
            Ask::DbSize { .. } => tag::DB_SIZE_REPLY,
            Ask::SlruSegment { .. } => tag::SLRU_SEGMENT_REPLY,
        }
    }
}

fn read_head(version: PagestreamVersion, r: &mut Reader) -> Result<(u64, Lsn, Lsn), DecodeError> {
    let id = if version == PagestreamVersion::V3 { r.u64("request id")? } else { 0 };
    Ok((id, Lsn::new(r.u64("request LSN")?), Lsn::new(r.u64("not modified since")?)))
}

fn read_ask(tag: u8, r: &mut Reader) -> Result<Ask, DecodeError> {
    Ok(match tag {
        tag::EXISTS => Ask::Exists(read_fork(r)?),
        tag::NBLOCKS => Ask::Nblocks(read_fork(r)?),
        tag::PAGE => Ask::Page(BlockTag { fork: read_fork(r)?, blk: r.u32("block")? }),
        tag::DB_SIZE => Ask::DbSize { db: r.u32("database")? },
        _ => {
            let kind = r.u8("kind of SLRU")?;
            let slru = Slru::new(kind).ok_or_else(|| r.error(format!("unknown kind of SLRU {kind}")))?;
            Ask::SlruSegment { slru, segno: r.u32("segment")? }
        }
    })
}

fn read_fork(r: &mut Reader) -> Result<RelFork, DecodeError> {
    let rel = RelFileLocator { spc: r.u32("tablespace")?, db: r.u32("database")?, rel: r.u32("relation")? };
    let fork = r.u8("fork")?;
    let fork = Fork::new(fork).ok_or_else(|| r.error(format!("unknown fork {fork}")))?;
    Ok(RelFork { rel, fork })
}

fn put_fork(fork: RelFork, out: &mut BytesMut) {
    out.put_u32(fork.rel.spc);
    out.put_u32(fork.rel.db);
    out.put_u32(fork.rel.rel);
    out.put_u8(fork.fork as u8);
}
