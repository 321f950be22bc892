//! Where the pageserver's side of a comparison comes from: a pageserver, or in tests a model of one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use anyhow::Result;
use bytes::Bytes;
use pgformat::rel::{BlockNumber, BlockTag, RelFork};
use pgformat::slru::Slru;
use proto::api::ControlDifference;

/// Where our side comes from, all of it at one LSN.
pub trait PagesAtLsn {
    /// Every fork with its blocks, and the databases whose visibility maps were logged without their bits.
    fn relations(&mut self) -> impl Future<Output = Result<(BTreeMap<RelFork, BlockNumber>, BTreeSet<u32>)>>;
    /// Pages, or why there is none.
    fn pages(&mut self, tags: &[BlockTag]) -> impl Future<Output = Result<Vec<Result<Bytes, String>>>>;
    /// An SLRU's segments.
    fn segments(&mut self, slru: Slru) -> impl Future<Output = Result<Vec<u32>>>;
    /// All pages of a segment.
    fn segment(&mut self, slru: Slru, segno: u32) -> impl Future<Output = Result<Bytes>>;
    /// Relation maps, prepared transactions, the progress of replication origins: paths below the data directory.
    fn files(&mut self) -> impl Future<Output = Result<Vec<String>>>;
    /// What is in one of them.
    fn file(&mut self, path: &str) -> impl Future<Output = Result<Bytes>>;
    /// What differs from this control file.
    fn control(&mut self, file: &[u8]) -> impl Future<Output = Result<Vec<ControlDifference>>>;
}
