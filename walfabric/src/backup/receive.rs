//! The stream of a backup: BASE_BACKUP on the pageserver's libpq port, as a series of entries.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use libpq::{ClientConnection, ConnectOptions, QueryEvent, QueryResult};
use pgformat::{Lsn, Tli};
use proto::backup::BackupMessage;
use proto::backup::tar::{TarEntry, TarEvent, TarReader};
use tokio::sync::mpsc::Sender;

use super::BackupRequest;
use super::when::When;
use crate::usage::UsageError;

/// What the stream tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DirectoryEvent {
    /// A tablespace's entries follow, of this oid, which was in this directory.
    Tablespace(u32, String),
    /// The data directory's entries follow.
    Base,
    /// An entry begins.
    Entry(TarEntry),
    /// Content of it.
    Content(Bytes),
    /// The entry is whole.
    End,
}

/// A backup that has begun.
pub struct BackupStream {
    connection: ClientConnection,
    /// The end of the last record that counts.
    pub lsn: Lsn,
    /// The tli that the server goes on with.
    pub tli: Tli,
}

impl BackupStream {
    /// Asks the pageserver for the backup.
    ///
    /// # Errors
    /// When it does not answer, or refuses: its words say why.
    pub async fn begin(request: &BackupRequest) -> Result<BackupStream> {
        let mut options = ConnectOptions::to_address(&request.pageserver, "walfabric")?;
        options.application_name = "walfabric_backup".to_owned();
        options.parameters.push(("replication".to_owned(), "true".to_owned()));
        options.options.push(("tenant_id".to_owned(), request.ttid.tenant_id.to_string()));
        options.options.push(("timeline_id".to_owned(), request.ttid.timeline_id.to_string()));
        options.options.extend(request.at.as_ref().map(When::option));
        let mut connection = ClientConnection::dial(&options).await?;
        let boot = if request.same_tli { "continue" } else { "fork" };
        connection.start_query(&format!("BASE_BACKUP (LABEL 'walfabric backup', BOOT '{boot}')")).await?;
        let (lsn, tli) = position(&result(&mut connection).await?)?;
        let listed = result(&mut connection).await?;
        let former: Vec<&str> = listed.rows.iter().filter_map(|row| row.get(1)?.as_deref()).collect();
        for (from, _) in &request.tablespaces {
            if !former.iter().any(|path| Path::new(path) == from) {
                let problem = format!("no tablespace lies in {}; there are: {}", from.display(), former.join(", "));
                return Err(UsageError(problem).into());
            }
        }
        Ok(BackupStream { connection, lsn, tli })
    }

    /// Tells everything to `events`; gives the position at which the server's own WAL begins. Ends early without an
    /// error when nobody listens any more.
    ///
    /// # Errors
    /// When the pageserver breaks off, or says what is not understood.
    pub async fn copy(&mut self, events: &Sender<DirectoryEvent>) -> Result<Lsn> {
        let mut reader = TarReader::default();
        let mut told = Vec::new();
        loop {
            match self.connection.next_event().await?.context("the backup ended without a position")? {
                QueryEvent::CopyOut => {}
                QueryEvent::Data(payload) => match BackupMessage::decode(payload)? {
                    BackupMessage::Archive { name, path } => {
                        whole(&reader)?;
                        reader = TarReader::default();
                        told.push(archive(&name, path)?);
                    }
                    BackupMessage::Data(bytes) => reader.feed(bytes, &mut |event| {
                        told.push(match event {
                            TarEvent::Entry(entry) => DirectoryEvent::Entry(entry),
                            TarEvent::Content(bytes) => DirectoryEvent::Content(bytes),
                            TarEvent::End => DirectoryEvent::End,
                        });
                    })?,
                    BackupMessage::Manifest | BackupMessage::Progress(_) => {}
                },
                QueryEvent::CopyDone => whole(&reader)?,
                QueryEvent::Result(result) => {
                    let (end, _) = position(&result)?;
                    while self.connection.next_event().await?.is_some() {}
                    return Ok(end);
                }
            }
            for event in told.drain(..) {
                if events.send(event).await.is_err() {
                    bail!("the directory takes nothing any more");
                }
            }
        }
    }
}

fn whole(reader: &TarReader) -> Result<()> {
    if reader.is_complete() { Ok(()) } else { bail!("an archive of the backup is cut off") }
}

fn archive(name: &str, path: String) -> Result<DirectoryEvent> {
    let oid = name.strip_suffix(".tar").with_context(|| format!("the backup has an archive {name:?}"))?;
    if oid == "base" {
        return Ok(DirectoryEvent::Base);
    }
    let oid = oid.parse().with_context(|| format!("the backup has an archive {name:?}"))?;
    Ok(DirectoryEvent::Tablespace(oid, path))
}

async fn result(connection: &mut ClientConnection) -> Result<QueryResult> {
    match connection.next_event().await? {
        Some(QueryEvent::Result(result)) if !result.rows.is_empty() => Ok(result),
        other => bail!("the backup begins with {other:?} instead of rows"),
    }
}

/// The position in a row of (LSN, tli).
fn position(result: &QueryResult) -> Result<(Lsn, Tli)> {
    let row = result.rows.first().map_or(&[][..], Vec::as_slice);
    match row {
        [Some(lsn), Some(tli)] => Ok((lsn.parse()?, Tli(tli.parse().context("a tli")?))),
        _ => bail!("the backup has no position, but {row:?}"),
    }
}
