//! Base backups out of pages: a data directory as of an LSN, file by file.
//!
//! A backup is planned first: every directory and file with its length, from metadata alone. Then its files are read in
//! ranges, each range independent of the others, so that they can be read ahead and one after the other be sent.
//!
//! | module | what | pure? |
//! |---|---|---|
//! | [`plan`] | which directories and files there are | as the versions are |
//! | [`content`] | a range of a file | as the versions are |
//! | [`settings`] | configuration files, which are not in WAL | yes |
//! | [`point`] | the LSN, and what a server needs to start there | no |
//! | [`target`] | an LSN, a time or a transaction, as the client says it | no |
//! | [`send`] | the plan as archives in messages, read ahead | no |
//! | [`serve`] | IDENTIFY_SYSTEM and BASE_BACKUP on a session | no |

pub(crate) mod content;
pub(crate) mod plan;
pub(crate) mod point;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod settings;
pub(crate) mod target;
#[cfg(test)]
mod tests;
