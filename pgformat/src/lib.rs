//! PostgreSQL's own bytes, by major version: WAL, pages, control files, and redo.
//!
//! Pure: no tokio, no files, no sockets, no clock. Everything here is a function of its input, so the simulator, the
//! servers and the tests run exactly the same code. No runtime crate may enter the manifest.
//!
//! | module | what |
//! |---|---|
//! | [`lsn`] | [`Lsn`], [`SegSize`], page and segment arithmetic |
//! | [`version`] | supported majors and where they differ, one table |
//! | [`wal`] | WAL pages and records: decoder, bodies, images, builder, end of log |
//! | [`rel`] | relations, forks, blocks |
//! | [`page`] | pages: header, line pointers, items, checksum |
//! | [`redo`] | what a record does to a page |
//! | [`effect`] | what else a record does |
//! | [`control`], [`checkpoint`] | the control file |
//! | [`relmap`], [`twophase`], [`slru`] | relation maps, prepared transactions, the page arrays beside relations |
//! | [`boot`] | what a server needs to start at an exact LSN |
//! | [`origins`] | progress of replication origins |
//! | [`datadir`] | kinds of files in a data directory |
//! | [`compare`] | compares a page that redo made with PostgreSQL's |
//! | [`read`] | fields of little-endian structs |
//!
//! # Example
//! WAL in pieces of any size gives the records that it was built of:
//!
//! ```
//! use pgformat::wal::{StreamConfig, WalBuilder, WalDecoder, WalError};
//! use pgformat::{Lsn, PgMajor, SegSize, Tli};
//!
//! // Behind the header of the first page of a segment.
//! let start = Lsn::new(0x0100_0028);
//! let tlis = vec![(Tli(1), Lsn::new(0))];
//! let version = PgMajor::new(15).expect("a supported major");
//! let config = StreamConfig { version, seg_size: SegSize::DEFAULT, system_id: None, tlis };
//! let mut builder = WalBuilder::new(config.clone(), start, None);
//! // The second one crosses the end of a page.
//! let built = [builder.noop(100), builder.noop(9000)];
//!
//! let mut decoder = WalDecoder::new(config, start, None);
//! let mut found = Vec::new();
//! for piece in builder.bytes().chunks(77) {
//!     decoder.feed_records(decoder.position(), piece, &mut |record| found.push((record.start, record.end)))?;
//! }
//! assert_eq!(found, built.map(|record| (record.start, record.end)));
//! assert_eq!(decoder.boundary(), builder.position());
//! # Ok::<(), WalError>(())
//! ```

pub mod boot;
pub mod catalog;
pub mod checkpoint;
pub mod compare;
pub mod control;
pub mod datadir;
pub mod effect;
pub mod lsn;
pub mod origins;
pub mod page;
pub mod read;
pub mod redo;
pub mod rel;
pub mod relmap;
pub mod slru;
pub mod twophase;
pub mod version;
pub mod wal;

pub use lsn::{Lsn, SegSize, Tli, WAL_PAGE_SIZE};
pub use slru::Slru;
pub use version::PgMajor;
