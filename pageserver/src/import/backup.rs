//! A base backup over the replication protocol, as a stream of files.
//!
//! PostgreSQL 14 sends one copy per tablespace, 15 and later one copy with typed messages; both come out the same here.
//!
//! Source: PostgreSQL 14, `perform_base_backup` in `src/backend/replication/basebackup.c`; PostgreSQL 15,
//! `basebackup_copy.c`; "Streaming Replication Protocol" in the documentation.

use bytes::Bytes;
use libpq::{ClientConnection, ConnectOptions, Environment, NetError, QueryEvent, QueryResult};
use pgformat::{Lsn, PgMajor};
use proto::backup::tar::{EntryKind, TarError, TarEvent, TarReader};
use proto::backup::{BackupMessage, BackupMessageError};

/// Why a backup ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// The connection, or the server's refusal.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The cluster does not let us in, or is not there.
    #[error("the pageserver cannot connect to the cluster at {target}: {source}")]
    Dial {
        /// Where, and as whom.
        target: String,
        /// What went wrong.
        source: NetError,
    },
    /// The connection string.
    #[error("{0}")]
    Conninfo(String),
    /// An archive in it is malformed.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A message around it is.
    #[error(transparent)]
    Message(#[from] BackupMessageError),
    /// The server said something that a base backup does not have.
    #[error("the server's base backup is not understood: {0}")]
    Unexpected(String),
}

/// The settings of a connection string that came with a request: files and environment here are not the sender's.
pub(super) fn options(conninfo: &str) -> Result<ConnectOptions, BackupError> {
    let read = ConnectOptions::from_conninfo(conninfo, &Environment::none());
    read.map_err(|e| BackupError::Conninfo(e.to_string()))
}

/// Dials the cluster; the error says where, and as whom.
pub(super) async fn dial(options: &ConnectOptions) -> Result<ClientConnection, BackupError> {
    let dialled = ClientConnection::dial(options).await;
    dialled.map_err(|source| BackupError::Dial { target: options.target(), source })
}

fn unexpected(what: impl Into<String>) -> BackupError {
    BackupError::Unexpected(what.into())
}

/// A tablespace of the backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tablespace {
    /// Its oid; none for the data directory itself.
    pub(super) oid: Option<u32>,
    /// Its directory on the server.
    pub(super) path: String,
}

/// What the backup tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum BackupEvent {
    /// A file begins, in the tablespace given, or in the data directory.
    File {
        /// Oid of its tablespace; none for the data directory.
        spc: Option<u32>,
        /// Path below its directory.
        path: String,
        /// Bytes of content.
        len: u64,
    },
    /// A piece of the file.
    Content(Bytes),
    /// The file is complete.
    End,
}

/// A running backup.
pub(super) struct Backup {
    connection: ClientConnection,
    pub(super) version: PgMajor,
    /// Copied pages are versions of this position: the redo position of the backup's checkpoint.
    pub(super) start: Lsn,
    /// In the order in which they come (14).
    pub(super) tablespaces: Vec<Tablespace>,
    /// Bytes that the server says it will send; 0 when it does not say.
    pub(super) bytes_total: u64,
    archive: Archive,
}

/// Where the copy stands.
struct Archive {
    reader: TarReader,
    spc: Option<u32>,
    /// Copies begun (14).
    copies: usize,
    /// 15: whether what comes now is an archive, and not the manifest.
    is_archive: bool,
}

impl Backup {
    /// Asks for a backup of the running cluster at `conninfo`; returns when its checkpoint is done.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub(super) async fn begin(conninfo: &str) -> Result<Backup, BackupError> {
        let mut options = options(conninfo)?;
        options.parameters.push(("replication".to_owned(), "true".to_owned()));
        options.application_name = "walfabric_import".to_owned();
        options.database = None;
        let mut connection = dial(&options).await?;
        let said = connection.parameter("server_version").unwrap_or_default();
        let major = said.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok());
        let version = major
            .and_then(PgMajor::new)
            .ok_or_else(|| unexpected(format!("server version {said:?} is not supported: 14 to 18 are")))?;
        let command = if version.get() == 14 {
            "BASE_BACKUP LABEL 'walfabric import' PROGRESS FAST NOWAIT TABLESPACE_MAP MANIFEST 'no'"
        } else {
            "BASE_BACKUP (LABEL 'walfabric import', PROGRESS true, CHECKPOINT 'fast', WAIT false, \
             TABLESPACE_MAP true, MANIFEST 'no')"
        };
        connection.start_query(command).await?;
        let start = position(&result(&mut connection).await?)?;
        let list = result(&mut connection).await?;
        let mut bytes_total = 0;
        let mut tablespaces = Vec::new();
        for row in &list.rows {
            let cell = |n: usize| row.get(n).cloned().flatten();
            let oid = cell(0).map(|oid| oid.parse().map_err(|_| unexpected(format!("tablespace {oid:?}"))));
            tablespaces.push(Tablespace { oid: oid.transpose()?, path: cell(1).unwrap_or_default() });
            // In KiB.
            bytes_total += cell(2).and_then(|size| size.parse::<u64>().ok()).unwrap_or(0) << 10;
        }
        let archive = Archive { reader: TarReader::default(), spc: None, copies: 0, is_archive: true };
        Ok(Backup { connection, version, start, tablespaces, bytes_total, archive })
    }

    /// The next pieces, in order, through `tell`; `Some(end)` when the backup is complete: what was copied, with the
    /// WAL from the start on, is consistent from there.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub(super) async fn next(
        &mut self,
        tell: &mut (dyn FnMut(BackupEvent) + Send),
    ) -> Result<Option<Lsn>, BackupError> {
        let Some(event) = self.connection.next_event().await? else {
            return Err(unexpected("it ended without a position"));
        };
        match event {
            QueryEvent::CopyOut => {
                self.archive.begin();
                if self.version.get() == 14 {
                    let spc = self.tablespaces.get(self.archive.copies - 1);
                    self.archive.spc = spc.ok_or_else(|| unexpected("more archives than tablespaces"))?.oid;
                }
            }
            QueryEvent::Data(data) if self.version.get() == 14 => self.archive.content(data, tell)?,
            QueryEvent::Data(data) => self.archive.message(data, tell)?,
            QueryEvent::CopyDone => self.archive.finish()?,
            QueryEvent::Result(result) if result.rows.is_empty() => {}
            QueryEvent::Result(result) => {
                let end = position(&result)?;
                while self.connection.next_event().await?.is_some() {}
                return Ok(Some(end));
            }
        }
        Ok(None)
    }
}

impl Archive {
    fn begin(&mut self) {
        self.copies += 1;
        self.reader = TarReader::default();
    }

    fn finish(&mut self) -> Result<(), BackupError> {
        if self.reader.is_complete() { Ok(()) } else { Err(unexpected("an archive is cut off")) }
    }

    /// A message of 15 and later: its kind, then its payload.
    fn message(&mut self, data: Bytes, tell: &mut (dyn FnMut(BackupEvent) + Send)) -> Result<(), BackupError> {
        match BackupMessage::decode(data)? {
            BackupMessage::Archive { name, .. } => {
                self.finish()?;
                self.reader = TarReader::default();
                self.is_archive = true;
                self.spc = match name.strip_suffix(".tar") {
                    Some("base") => None,
                    Some(oid) => Some(oid.parse().map_err(|_| unexpected(format!("archive {name:?}")))?),
                    None => return Err(unexpected(format!("archive {name:?}"))),
                };
            }
            BackupMessage::Manifest => self.is_archive = false,
            BackupMessage::Data(data) if self.is_archive => self.content(data, tell)?,
            BackupMessage::Data(_) | BackupMessage::Progress(_) => {}
        }
        Ok(())
    }

    fn content(&mut self, data: Bytes, tell: &mut (dyn FnMut(BackupEvent) + Send)) -> Result<(), BackupError> {
        let spc = self.spc;
        self.reader.feed(data, &mut |event| match event {
            TarEvent::Entry(entry) if entry.kind == EntryKind::File => {
                tell(BackupEvent::File { spc, path: entry.path, len: entry.len });
            }
            // Directories and links count as empty files whose name no file has.
            TarEvent::Entry(entry) => tell(BackupEvent::File { spc, path: format!("{}/", entry.path), len: 0 }),
            TarEvent::Content(bytes) => tell(BackupEvent::Content(bytes)),
            TarEvent::End => tell(BackupEvent::End),
        })?;
        Ok(())
    }
}

/// One result with rows.
async fn result(connection: &mut ClientConnection) -> Result<QueryResult, BackupError> {
    match connection.next_event().await? {
        Some(QueryEvent::Result(result)) if !result.rows.is_empty() => Ok(result),
        other => Err(unexpected(format!("{other:?} instead of rows"))),
    }
}

/// The position in a result of (LSN, tli).
fn position(result: &QueryResult) -> Result<Lsn, BackupError> {
    let text = result.rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default();
    text.parse().map_err(|_| unexpected(format!("position {text:?}")))
}
