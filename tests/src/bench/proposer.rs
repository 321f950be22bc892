//! A scripted proposer: the whole protocol, without the shim's work.
//!
//! It speaks START_WAL_PUSH to one safekeeper, which alone is the quorum: whatever it acknowledges is committed. WAL is
//! sliced from prepared bytes and sent in gather writes; there is no task per message. So the figures are those of the
//! safekeeper; its CPU time is separate in any case, being that of its process.

use anyhow::{Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use libpq::{CopyEvent, CopyReader, CopyWriter};
use pgformat::Lsn;
use proto::consensus::{
    AcceptorMessage, AppendRequest, MAX_SEND_SIZE, ProposerElected, ProposerMessage, ProtoVersion, TermLsn, VoteRequest,
};
use proto::id::{Generation, TenantTimelineId, Term};

use super::keeper::{Keeper, NODE};
use super::wal::{Origin, Records};

const PUSH: &str = "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false', primary_epoch '1')";
/// Bytes handed to the socket's queue at most, as the shim has it.
const WINDOW: usize = 1 << 20;

/// An elected proposer.
pub struct Proposer {
    reader: CopyReader,
    writer: CopyWriter,
    term: Term,
    /// End of what was queued.
    sent: Lsn,
    /// Acknowledged, and so committed.
    flushed: Lsn,
    /// Commit position that was told last.
    told: Lsn,
    head: BytesMut,
}

impl Proposer {
    /// Connects, greets, is voted for and elected at the end of the log that is there.
    ///
    /// # Errors
    /// When the safekeeper refuses.
    pub async fn elected(keeper: &Keeper, ttid: TenantTimelineId, origin: &Origin) -> Result<Proposer> {
        let (reader, writer) = keeper.dial(ttid).await?.copy_both(PUSH).await?;
        let nowhere = Lsn::new(0);
        let (sent, flushed, told) = (nowhere, nowhere, nowhere);
        let mut this = Proposer { reader, writer, term: Term::ZERO, sent, flushed, told, head: BytesMut::new() };
        this.send(&ProposerMessage::Greeting(origin.greeting(ttid, NODE)?)).await?;
        let AcceptorMessage::Greeting(greeting) = this.message().await? else { bail!("no greeting came") };
        let (generation, term) = (Generation::FIRST, Term(greeting.term.0 + 1));
        this.send(&ProposerMessage::VoteRequest(VoteRequest { generation, term })).await?;
        let AcceptorMessage::VoteResponse(vote) = this.message().await? else { bail!("no vote came") };
        let Some(end) = vote.flush_lsn.filter(|_| vote.vote_given) else { bail!("no vote for term {term}") };
        let history = vote.history.with(TermLsn { term, lsn: end })?;
        let elected = ProposerElected { generation, term, start_streaming_at: end, history };
        this.send(&ProposerMessage::Elected(elected)).await?;
        (this.term, this.sent, this.flushed) = (term, end, end);
        Ok(this)
    }

    /// End of what was acknowledged.
    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// Queues WAL that continues what was queued before; it carries the commit position.
    pub fn queue(&mut self, wal: Bytes) {
        let end = self.sent.add(wal.len() as u64);
        let append = ProposerMessage::Append(AppendRequest {
            generation: Generation::FIRST,
            term: self.term,
            begin_lsn: self.sent,
            end_lsn: end,
            commit_lsn: Some(self.flushed),
            truncate_lsn: Some(self.flushed),
            wal: Bytes::new(),
        });
        self.head.clear();
        append.encode_head(ProtoVersion::V3, &mut self.head);
        self.writer.queue(&self.head, wal);
        (self.sent, self.told) = (end, self.flushed);
    }

    /// Queues the commit position by itself when it has moved, as the shim does when it has no WAL to send.
    pub fn queue_commit(&mut self) {
        if self.told < self.flushed {
            self.queue(Bytes::new());
        }
    }

    /// Hands everything queued to the socket.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn flush(&mut self) -> Result<()> {
        Ok(self.writer.flush().await?)
    }

    /// Waits until `lsn` is acknowledged.
    ///
    /// # Errors
    /// When the safekeeper ended the stream.
    pub async fn acknowledged(&mut self, lsn: Lsn) -> Result<()> {
        while self.flushed < lsn {
            self.answers().await?;
        }
        Ok(())
    }

    /// Waits for answers, and takes all that have come.
    ///
    /// # Errors
    /// When the safekeeper ended the stream.
    pub async fn answers(&mut self) -> Result<()> {
        let first = self.reader.next().await?;
        self.take(first)?;
        while let Some(event) = self.reader.try_next()? {
            self.take(event)?;
        }
        Ok(())
    }

    /// Pushes `wal`, as much as the socket takes, in the largest messages there are, until the safekeeper has
    /// acknowledged all of it, which must end at a record boundary.
    ///
    /// # Errors
    /// When the safekeeper ended the stream.
    pub async fn push(&mut self, wal: &Bytes) -> Result<()> {
        let end = self.sent.add(wal.len() as u64);
        let mut rest = wal.clone();
        while self.flushed < end {
            while !rest.is_empty() && self.writer.queued_bytes() + MAX_SEND_SIZE <= WINDOW {
                let next = rest.split_to(rest.len().min(MAX_SEND_SIZE));
                self.queue(next);
            }
            let queued = self.writer.queued_bytes() > 0;
            tokio::select! {
                event = self.reader.next() => {
                    self.take(event?)?;
                    while let Some(event) = self.reader.try_next()? {
                        self.take(event)?;
                    }
                }
                done = self.writer.flush(), if queued => done?,
            }
        }
        ensure!(self.flushed == end, "acknowledged up to {}, sent up to {end}", self.flushed);
        Ok(())
    }

    /// Commits records one by one, `in_flight` at a time, from number `first` on until `enough` says so of the number
    /// of commits; gives that number.
    ///
    /// # Errors
    /// When the safekeeper ended the stream, or there are no more records.
    pub async fn commit_many(
        &mut self,
        records: &Records,
        first: usize,
        in_flight: usize,
        mut enough: impl FnMut(usize) -> bool,
    ) -> Result<usize> {
        let (mut sent, mut done) = (first, first);
        loop {
            while records.end_of(done + 1)? <= self.flushed {
                done += 1;
            }
            let last = enough(done - first);
            if last && done == sent {
                return Ok(done - first);
            }
            while !last && sent - done < in_flight {
                self.queue(records.record(sent)?);
                sent += 1;
            }
            self.flush().await?;
            self.answers().await?;
        }
    }

    fn take(&mut self, event: CopyEvent) -> Result<()> {
        let AcceptorMessage::Append(answer) = decode(event)? else { bail!("an acknowledgement should come") };
        ensure!(answer.term == self.term, "deposed by term {}", answer.term);
        self.flushed = self.flushed.max(answer.flush_lsn.unwrap_or(self.flushed));
        Ok(())
    }

    async fn send(&mut self, message: &ProposerMessage) -> Result<()> {
        self.writer.queue(&[], message.encode(ProtoVersion::V3));
        self.flush().await
    }

    async fn message(&mut self) -> Result<AcceptorMessage> {
        decode(self.reader.next().await?)
    }
}

fn decode(event: CopyEvent) -> Result<AcceptorMessage> {
    match event {
        CopyEvent::Data(bytes) => Ok(AcceptorMessage::decode(ProtoVersion::V3, bytes)?),
        CopyEvent::Error(e) => bail!("the safekeeper ended the stream: {e}"),
        other => bail!("the safekeeper ended the stream: {other:?}"),
    }
}
