//! The operator's side of walfabric: local fabrics of real processes, status, bootstrap, demo.
//!
//! | module | what |
//! |---|---|
//! | [`fabric`] | `fabric.json` and `plan.json` |
//! | [`supervisor`] | parent and subreaper of all processes of a fabric |
//! | [`root`] | what root does before it becomes the fabric's user |
//! | [`up`], [`verbs`] | bring up, start, stop, kill, take down |
//! | [`timeline`], [`protect`] | one-time bootstrap of a timeline; whether commits wait for its quorum |
//! | [`status`] | every node, asked at call time |
//! | [`env`] | addresses and ids for a shell |
//! | [`broker`] | the embedded broker as a process |
//! | [`demo`] | the main job, with kills, and the proof afterwards |
//! | [`page`] | one page of a pageserver; whether all of them are those of a stopped cluster |
//! | [`backup`] | a cluster as of an LSN, in a new directory |
//! | [`look`] | a server for one look at a past moment |
//! | [`ddl`] | a client that changes the schema, for the demo and for chaos |
//! | [`wal`] | a timeline's WAL as segment files |
//! | [`usage`] | mistakes in what was asked for |
//! | [`ports`] | free ports for all of them |
//! | [`ledger`], [`proof`], [`verify`] | what was acknowledged, and whether every copy of the WAL is the same |

pub mod backup;
pub mod broker;
pub mod ddl;
pub mod demo;
pub mod env;
pub mod fabric;
pub mod http;
pub mod import;
pub mod ledger;
pub mod look;
pub mod page;
pub mod ports;
pub mod postgres;
pub mod proof;
pub mod protect;
pub mod readmit;
pub mod ready;
pub mod root;
pub mod sql;
pub mod status;
pub mod supervisor;
pub mod timeline;
pub mod up;
pub mod usage;
pub mod verbs;
pub mod verify;
pub mod wal;
