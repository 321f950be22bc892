//! What BASE_BACKUP sends: the messages of its copy stream, and the archives inside of them.
//!
//! | module | content |
//! |---|---|
//! | [`tar`] | archives, as PostgreSQL writes and reads them |
//! | [`command`] | the command's own options |
//!
//! Source: PostgreSQL 15-18, `bbsink_copystream_*` in `src/backend/backup/basebackup_copy.c`, and "Streaming
//! Replication Protocol" in the documentation. PostgreSQL 14 sends bare archives, one copy for each.

pub mod command;
pub mod tar;

use bytes::{Buf, Bytes};

pub use command::{BackupForm, BaseBackup, ManifestChecksum};

/// One CopyData message of a backup (15 and later).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BackupMessage {
    /// `n`: an archive begins.
    Archive {
        /// `base.tar`, or `<oid>.tar` for a tablespace.
        name: String,
        /// The tablespace's directory on the server; empty for the data directory.
        path: String,
    },
    /// `m`: the manifest begins.
    Manifest,
    /// `d`: bytes of what began last.
    Data(Bytes),
    /// `p`: bytes sent so far.
    Progress(u64),
}

/// A message that no server sends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a message of the backup is malformed: {0}")]
pub struct BackupMessageError(String);

impl BackupMessage {
    /// Reads one payload.
    ///
    /// # Errors
    /// When it is empty, cut off, or of an unknown kind.
    pub fn decode(mut payload: Bytes) -> Result<BackupMessage, BackupMessageError> {
        let cut = |what: &str| BackupMessageError(format!("{what} is cut off"));
        if payload.is_empty() {
            return Err(BackupMessageError("it is empty".to_owned()));
        }
        match payload.get_u8() {
            b'n' => {
                let mut words = payload.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
                match (words.next(), words.next(), words.next()) {
                    (Some(name), Some(path), Some(_)) => Ok(BackupMessage::Archive { name, path }),
                    _ => Err(cut("the head of an archive")),
                }
            }
            b'm' => Ok(BackupMessage::Manifest),
            b'd' => Ok(BackupMessage::Data(payload)),
            b'p' => payload.try_get_u64().map(BackupMessage::Progress).map_err(|_| cut("a progress report")),
            other => Err(BackupMessageError(format!("kind {:?}", char::from(other)))),
        }
    }

    /// The payload's head; the body of [`BackupMessage::Data`] follows it.
    pub fn head(&self) -> Vec<u8> {
        match self {
            BackupMessage::Archive { name, path } => [b"n", name.as_bytes(), &[0], path.as_bytes(), &[0]].concat(),
            BackupMessage::Manifest => vec![b'm'],
            BackupMessage::Data(_) => vec![b'd'],
            BackupMessage::Progress(bytes) => [&b"p"[..], &bytes.to_be_bytes()].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_they_were_written() {
        let archive = BackupMessage::Archive { name: "1700.tar".to_owned(), path: "/somewhere".to_owned() };
        for message in [archive, BackupMessage::Manifest, BackupMessage::Progress(1 << 40)] {
            assert_eq!(BackupMessage::decode(message.head().into()), Ok(message));
        }
        let data = BackupMessage::Data(Bytes::from_static(b"tar"));
        assert_eq!(BackupMessage::decode(Bytes::from_static(b"dtar")), Ok(data.clone()));
        assert_eq!(data.head(), b"d");
        for bad in [&b""[..], b"x", b"nbase.tar", b"nbase.tar\0", b"p\0\0"] {
            assert!(BackupMessage::decode(Bytes::from_static(bad)).is_err(), "{bad:?}");
        }
    }
}
