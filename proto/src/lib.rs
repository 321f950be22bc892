//! Everything that two walfabric processes must agree on, as types and bytes. Pure: no sockets, files or clocks.
//!
//! | module | content |
//! |---|---|
//! | [`admission`] | statements of members, and what they remember of each other |
//! | [`id`] | tenant, timeline, node, term, generation, epoch |
//! | [`codec`] | bounded cursor over received bytes, typed errors |
//! | [`command`] | grammar of the replication commands |
//! | [`consensus`] | START_WAL_PUSH messages (v3 and v2), member sets, term history, the quorum function |
//! | [`feedback`] | pageserver feedback key-values |
//! | [`replication`] | `w k r h z i` messages of replication and push streams |
//! | [`pagestream`] | page requests and replies (v3 and v2) |
//! | [`pg`] | PostgreSQL's own protocol: frames, start-up, errors with SQLSTATE |
//! | [`api`] | JSON bodies of the HTTP interfaces |
//! | [`broker`] | keys and records on the broker |

pub mod admission;
pub mod api;
pub mod broker;
pub mod codec;
pub mod command;
pub mod consensus;
pub mod feedback;
pub mod id;
pub mod pagestream;
pub mod pg;
pub mod replication;

pub use pgformat::{Lsn, PgMajor, SegSize, Tli};
