//! WAL as a member sends it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use libpq::{CopyEvent, CopyReader, CopyWriter};
use pgformat::Lsn;
use proto::id::{TenantTimelineId, Term};
use proto::replication::SenderMessage;
use tokio::time::timeout;

use super::members::{MemberAccount, dial};

/// A member that sends nothing for so long is left for the next one.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A stream of WAL without gaps.
pub(super) struct Feed {
    reader: CopyReader,
    /// Kept: when it is dropped the session ends.
    _writer: CopyWriter,
    at: Lsn,
}

impl Feed {
    /// From `start` on: of what is committed, or of the log of `term`.
    pub(super) async fn open(
        ttid: TenantTimelineId,
        member: &MemberAccount,
        start: Lsn,
        term: Option<Term>,
    ) -> Result<Feed> {
        let session = dial(&member.address, ttid).await?;
        let command = match term {
            Some(term) => format!("START_REPLICATION {start} (term='{term}')"),
            None => format!("START_REPLICATION {start}"),
        };
        let (reader, writer) = session.copy_both(&command).await?;
        Ok(Feed { reader, _writer: writer, at: start })
    }

    /// The next bytes and where they start.
    pub(super) async fn next(&mut self) -> Result<(Lsn, Bytes)> {
        let at = self.at;
        loop {
            let event = timeout(SILENCE_MAX, self.reader.next()).await;
            let event = event.map_err(|_| anyhow::anyhow!("it sends nothing for {SILENCE_MAX:?} at {at}"))??;
            let data = match event {
                CopyEvent::Data(data) => SenderMessage::decode(data).context("what it sends is not WAL")?,
                CopyEvent::Error(e) => bail!("it ended the stream at {at}: {e}"),
                other => bail!("it ended the stream at {at}: {other:?}"),
            };
            let SenderMessage::XLogData { start: from, wal, .. } = data else { continue };
            ensure!(from == at, "it sent WAL from {from} where {at} was due");
            self.at = at.add(wal.len() as u64);
            return Ok((at, wal));
        }
    }
}
