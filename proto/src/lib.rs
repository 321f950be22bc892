//! Everything that two walfabric processes must agree on, as types and bytes. Pure: no sockets, files or clocks.
//!
//! | module | content |
//! |---|---|
//! | [`admission`] | statements of members, and what they remember of each other |
//! | [`id`] | tenant, timeline, node, term, generation, epoch |
//! | [`backup`] | BASE_BACKUP: its options, its messages, its archives |
//! | [`codec`] | bounded cursor over received bytes, typed errors |
//! | [`command`] | grammar of the replication commands |
//! | [`consensus`] | START_WAL_PUSH messages (v3 and v2), member sets, term history, the quorum function |
//! | [`feedback`] | pageserver feedback key-values |
//! | [`replication`] | `w k r h z i` messages of replication and push streams |
//! | [`pagestream`] | page requests and replies (v3 and v2) |
//! | [`pg`] | PostgreSQL's own protocol: frames, start-up, errors with SQLSTATE |
//! | [`api`] | JSON bodies of the HTTP interfaces |
//! | [`broker`] | keys and records on the broker |
//!
//! # Example
//! WAL is committed up to where a quorum of the members has it; a reader asks for it from some position on:
//!
//! ```
//! use proto::Lsn;
//! use proto::command::Command;
//! use proto::consensus::{Member, MemberConf};
//! use proto::id::{Generation, NodeId, Term};
//!
//! let member = |id| Member { id: NodeId(id), host: format!("sk{id}"), pg_port: 5454 };
//! let set = MemberConf::new(Generation(1), (1..=3).map(member).collect(), Vec::new())?;
//! let durable = |node: NodeId| match node {
//!     NodeId(1) => Some(Lsn::new(0x300)),
//!     NodeId(2) => Some(Lsn::new(0x200)),
//!     _ => None,
//! };
//! assert_eq!(set.quorum_value(durable), Some(Lsn::new(0x200)));
//!
//! let Command::StartReplication(wanted) = Command::parse("START_REPLICATION PHYSICAL 0/200 (term='7')")? else {
//!     panic!("another command");
//! };
//! assert_eq!((wanted.start_lsn, wanted.term), (Lsn::new(0x200), Some(Term(7))));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod admission;
pub mod api;
pub mod backup;
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
