//! The libpq port: sessions of proposers, readers and people.
//!
//! | module | what |
//! |---|---|
//! | [`session`] | start-up, commands, errors |
//! | [`answers`] | commands that answer with rows |
//! | [`receive`] | START_WAL_PUSH: between a socket and the acceptor |
//! | [`send`] | WAL to one receiver, pulled or pushed |
//! | [`streams`] | the outgoing streams that exist, for display |
//! | [`identity`] | which timeline a session means |

mod answers;
mod identity;
mod receive;
pub(crate) mod send;
pub(crate) mod session;
pub(crate) mod streams;
