//! The page store: every version of every key, in layers.
//!
//! A version is (key, LSN, kind, value). Versions arrive in batches, stand in an open layer in memory, and are written
//! as immutable layer files. A read at an LSN collects a key's versions from the newest base at or below it.
//!
//! Everything listed here is synchronous. What reads or writes files blocks its thread;
//! [`Snapshot::try_history_cached`] never does.
//!
//! | module | what |
//! |---|---|
//! | [`batch`] | what ingest hands over in one go |
//! | [`open`] | the layer in memory that is appended to |
//! | [`layer`] | the immutable layer file: format, writer, reader |
//! | [`history`] | a key's versions up to an LSN |
//! | [`cache`] | decoded blocks, bounded in bytes, one for the process |
//! | [`pages`] | pages that took long to build, bounded in bytes, one for the process |
//! | [`set`] | which layers a timeline has, swapped atomically |
//! | [`reader`] | a timeline as it is read: its set of layers |
//! | [`snapshot`] | reads |
//! | [`state`] | a cluster at an LSN, for whoever may block |
//! | [`merge`] | several layers as one ordered stream |
//! | [`redo`] | from a history to a page |
//! | [`storage`] | where in storage (`libs/blobs`) a timeline is |
//! | [`manifest`] | which layers there are; advanced by one writer |
//! | [`files`] | layer files: writing, opening, which may be deleted |
//! | [`catalogue`] | the manifest that counts and its files; one thread at a time changes them |
//! | [`writer`] | what is in memory, and whether more is taken in |
//! | [`timeline_store`] | the store of one timeline: its writer, catalogue and reader |
//! | [`flush`] | from memory to storage |
//! | [`compact`] | what to rewrite and what may go |
//! | [`edits`] | other changes of the manifest: choices, imports |
//! | [`retention`] | horizon and leases: which old versions are kept |
//! | [`order`] | the order of locks, and turns to ask storage |
//! | [`upkeep`] | the task that compacts and deletes |
//! | [`config`] | sizes and bounds |

pub(crate) mod batch;
pub(crate) mod cache;
mod catalogue;
pub(crate) mod compact;
pub(crate) mod config;
mod edits;
pub(crate) mod error;
pub(crate) mod files;
mod flush;
pub(crate) mod history;
pub(crate) mod layer;
pub(crate) mod manifest;
pub(crate) mod merge;
pub(crate) mod open;
mod order;
pub(crate) mod pages;
mod reader;
pub(crate) mod redo;
mod retention;
pub(crate) mod set;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod storage;
pub(crate) mod timeline_store;
pub(crate) mod upkeep;
mod writer;

pub(crate) use batch::Batch;
pub(crate) use cache::BlockCache;
pub(crate) use catalogue::WriteError;
pub(crate) use config::{StoreConfig, StoreShared};
pub(crate) use error::StoreError;
pub(crate) use history::{History, Version};
#[cfg(test)]
pub(crate) use layer::WriteOptions;
pub(crate) use layer::{Layer, LayerSummary, LayerWriter};
pub(crate) use manifest::Durable;
pub(crate) use set::LayerMap;
pub(crate) use snapshot::Snapshot;
pub(crate) use timeline_store::Store;
pub(crate) use writer::{AppendError, Intake, Position};

/// The folder of layers.
pub(crate) const LAYERS: &str = "layers";

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod workload;
