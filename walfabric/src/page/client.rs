//! Pages of a timeline at one LSN, many at a time, over a pagestream.

use anyhow::{Result, bail};
use bytes::Bytes;
use libpq::{ClientConnection, ConnectOptions, CopyEvent, CopyReader, CopyWriter};
use pgformat::Lsn;
use pgformat::rel::BlockTag;
use proto::id::TenantTimelineId;
use proto::pagestream::{Ask, PagestreamVersion, Reply, Request};

/// Requests under way: enough to keep the pageserver at work while replies travel, and far fewer than the sockets'
/// buffers hold, so that neither side waits for the other to read.
const WINDOW: usize = 64;

/// A pagestream session: the pageserver's libpq protocol for pages.
pub struct PageClient {
    reader: CopyReader,
    writer: CopyWriter,
    lsn: Lsn,
}

impl PageClient {
    /// Dials the libpq port `address`; pages are read exactly at `lsn`.
    ///
    /// # Errors
    /// When nobody answers, or the timeline has no pages there.
    pub async fn open(address: &str, ttid: TenantTimelineId, lsn: Lsn) -> Result<PageClient> {
        let session = ClientConnection::dial(&ConnectOptions::to_address(address, "walfabric")?).await?;
        let command = format!("pagestream_v3 {} {}", ttid.tenant_id, ttid.timeline_id);
        let (reader, writer) = session.copy_both(&command).await?;
        Ok(PageClient { reader, writer, lsn })
    }

    /// The pages, in the order of `tags`, each without its checksum; a text instead of one that cannot be had.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn pages(&mut self, tags: &[BlockTag]) -> Result<Vec<Result<Bytes, String>>> {
        let request = |n: usize| {
            let ask = Ask::Page(tags[n]);
            Request { id: n as u64, lsn: self.lsn, not_modified_since: self.lsn, ask }
        };
        let mut pages = Vec::with_capacity(tags.len());
        let mut asked = 0;
        while pages.len() < tags.len() {
            // Filled up when it is half empty, so that the pageserver finds several requests at once.
            if asked < tags.len() && asked - pages.len() <= WINDOW / 2 {
                let until = tags.len().min(pages.len() + WINDOW);
                (asked..until).for_each(|n| self.writer.queue(&[], request(n).encode(PagestreamVersion::V3)));
                asked = until;
                self.writer.flush().await?;
            }
            let bytes = match self.reader.next().await? {
                CopyEvent::Data(bytes) => bytes,
                CopyEvent::Error(e) => bail!("{}: {e}", self.reader.peer()),
                _ => bail!("{} ended the stream", self.reader.peer()),
            };
            pages.push(match Reply::decode(PagestreamVersion::V3, bytes, &request(pages.len()))? {
                Reply::Page(page) => Ok(page),
                Reply::Error(text) => Err(text),
                other => bail!("a page was asked for, the answer is {other:?}"),
            });
        }
        Ok(pages)
    }
}
