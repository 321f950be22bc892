//! WAL that is read from a server once: what lies in front of the log's start in its segment, and other stretches.

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use libpq::{ClientConnection, CopyEvent};
use proto::Lsn;
use proto::api::CreateTimelineRequest;
use proto::replication::SenderMessage;

use super::primary::replication_options;

/// The primary's own bytes of `[segment start, start_lsn)`.
pub(super) async fn prehistory(conninfo: &str, request: &CreateTimelineRequest) -> Result<BytesMut> {
    let from = request.start_lsn.segment_start(request.wal_seg_size);
    let want = usize::try_from(request.prehistory_len)?;
    if want == 0 {
        return Ok(BytesMut::new());
    }
    // The segment of the tli at `start_lsn` has everything: when PostgreSQL is promoted within a segment, it copies
    // what comes before into the new tli's file. The older tli's own file ends at the promotion.
    let at_start = request.pg_history.iter().rev().find(|e| e.start_lsn <= request.start_lsn);
    let tli = at_start.or(request.pg_history.first()).context("the primary has no timeline history")?.tli;
    let connection = ClientConnection::dial(&replication_options(conninfo)?).await?;
    let command = format!("START_REPLICATION PHYSICAL {from} TIMELINE {tli}");
    stretch(connection, &command, from, want, "the primary").await
}

/// The first `want` bytes from `from` on that `command` streams; `whose` is for errors.
pub(crate) async fn stretch(
    connection: ClientConnection,
    command: &str,
    from: Lsn,
    want: usize,
    whose: &str,
) -> Result<BytesMut> {
    let mut bytes = BytesMut::with_capacity(want);
    let (mut reader, mut writer) = connection.copy_both(command).await?;
    while bytes.len() < want {
        match reader.next().await? {
            CopyEvent::Data(data) => {
                if let SenderMessage::XLogData { start, wal, .. } = SenderMessage::decode(data)? {
                    let at = usize::try_from(start.bytes_since(from))?;
                    ensure!(at == bytes.len(), "{whose} skipped WAL at {start}");
                    let take = wal.len().min(want - bytes.len());
                    bytes.extend_from_slice(wal.get(..take).unwrap_or_default());
                }
            }
            CopyEvent::Error(e) => bail!("{whose} does not give its WAL from {from} on: {e}"),
            other => bail!("{whose} ended the stream at {from} + {} bytes: {other:?}", bytes.len()),
        }
    }
    writer.queue_done();
    let _ = writer.flush().await;
    Ok(bytes)
}
