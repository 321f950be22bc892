//! Everything that two walfabric processes must agree on.
//!
//! | module | what | pure? |
//! |---|---|---|
//! | [`admission`] | what members tell and remember of each other | yes |
//! | [`id`] | tenant, timeline, node, term, generation, epoch | yes |
//! | [`codec`] | bounded cursor over received bytes, typed errors | yes |
//! | [`command`] | grammar of the replication commands | yes |
//! | [`consensus`] | START_WAL_PUSH messages (v3 and v2), member sets, term history, the quorum function | yes |
//! | [`feedback`] | pageserver feedback key-values | yes |
//! | [`replication`] | `w k r h z i` messages of replication and push streams | yes |
//! | [`pagestream`] | page requests and replies (v3 and v2) | yes |
//! | [`api`] | JSON bodies of the HTTP interfaces | yes |
//! | [`broker`] | broker records and keys (pure), client, embedded server | no |
//! | [`net`] | libpq sessions, dialled and accepted, and the CopyBoth stream | no |
//! | [`runtime`] | logging, shutdown, HTTP serving, metrics endpoint | no |

pub mod admission;
pub mod api;
pub mod broker;
pub mod codec;
pub mod command;
pub mod consensus;
pub mod feedback;
pub mod id;
pub mod net;
pub mod pagestream;
pub mod replication;
pub mod runtime;

pub use pgformat::{Lsn, PgMajor, SegSize, Tli};
