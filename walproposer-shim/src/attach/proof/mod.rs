//! The attach proof: this primary's WAL extends the quorum's log.
//!
//! It runs before votes are asked for, on `[from, C)`, and again on the rest up to the chosen end before the election
//! is announced: the primary's bytes against a donor safekeeper's, and the prev link of the first record behind the
//! end. All reads of the primary happen on the connection that streams afterwards. A refusal is final; anything else
//! is tried again.
//!
//! [`plan`] is the pure part.

pub(crate) mod plan;
mod record;

use bytes::{Buf, Bytes};
use pgformat::Lsn;
use pgformat::wal::{WalDecoder, WalError};
use proto::api::shown;
use proto::id::Term;

use crate::attach::survey::Survey;
use crate::config::ShimConfig;
use crate::dial::safekeeper;
use crate::dial::upstream::{Reading, Upstream};
use crate::dial::wal_reader::{StretchError, WalReader};
use crate::stop::{AttachRefusal, StopCause};
use plan::LogView;

/// How far behind the log's end the primary is read to see the first record's prev link: a record header and its page
/// header fit into far less.
const LOOK_AHEAD: u64 = 16 << 10;

/// A stretch that was found equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Proved {
    /// First byte compared.
    pub(crate) from: Lsn,
    /// Position after the last byte compared.
    pub(crate) to: Lsn,
}

/// The part of the proof that needs no vote: identity, then everything that is committed.
pub(crate) async fn before_vote(
    config: &ShimConfig,
    mut upstream: Upstream,
    survey: &Survey,
) -> Result<(Upstream, Proved), StopCause> {
    // The safekeepers were asked after the primary was: on a busy one another shim may have brought them further.
    upstream.refresh_end().await?;
    let log = &survey.log;
    plan::check_identity(&upstream.primary, log)?;
    let from = plan::compare_from(&upstream.primary, log)?;
    let to = log.commit.max(from);
    let upstream = compare(config, upstream, survey, (survey.donor, None), from, to).await?;
    tracing::info!(%from, %to, end = %log.end, "the primary's WAL equals the quorum's committed log");
    Ok((upstream, Proved { from, to }))
}

/// What an election chose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    /// The term won.
    pub(crate) term: Term,
    /// Index of the address that holds the log.
    pub(crate) donor: usize,
    /// End of the log.
    pub(crate) end: Lsn,
}

/// The rest of the proof, up to the end that the election chose, and the prev link behind it.
pub(crate) async fn before_elected(
    config: &ShimConfig,
    mut upstream: Upstream,
    survey: &Survey,
    proved: Proved,
    chosen: Chosen,
) -> Result<(Upstream, Proved, LinkCheck), StopCause> {
    upstream.refresh_end().await?;
    plan::check_end(upstream.primary.end, chosen.end)?;
    if chosen.end < survey.log.commit {
        let (end, commit) = (chosen.end, survey.log.commit);
        return Err(
            AttachRefusal::Corrupt(format!("an election ended at {end}, but {commit} was committed before")).into()
        );
    }
    let last_record_start = last_record_of(config, survey, chosen).await?;
    plan::check_whole_record(proved.from, chosen.end, last_record_start)?;
    let mut upstream =
        compare(config, upstream, survey, (chosen.donor, Some(chosen.term)), proved.to, chosen.end).await?;
    let mut link = LinkCheck::new(&survey.log, chosen.end, last_record_start)?;
    let ahead = upstream.primary.end.min(chosen.end.add(LOOK_AHEAD));
    for part in plan::parts(&upstream.primary.history, chosen.end, ahead) {
        let mut reading = upstream.read(part).await.map_err(|e| from_primary(e, part.from))?;
        while let Some((at, wal)) = reading.wal.next().await.map_err(|e| from_primary(e, part.from))? {
            link.feed(at, &wal).map_err(AttachRefusal::DoesNotFollow)?;
        }
        upstream = reading.finish().await?;
    }
    let proved = Proved { from: proved.from, to: chosen.end };
    let (from, to, term) = (proved.from, proved.to, chosen.term);
    tracing::info!(%from, %to, %term, "the primary's WAL extends the elected log");
    // The stream starts at the end again, so the check starts over with it.
    Ok((upstream, proved, LinkCheck::new(&survey.log, chosen.end, last_record_start)?))
}

/// Start of the last record of the elected log, as its holder tells it.
async fn last_record_of(config: &ShimConfig, survey: &Survey, chosen: Chosen) -> Result<Option<Lsn>, StopCause> {
    if chosen.end == survey.log.start {
        return Ok(None);
    }
    let Some(address) = config.safekeepers.get(chosen.donor) else {
        return Err(StopCause::Retry("the donor is not in the address list".to_owned()));
    };
    let account = safekeeper::account(config, address).await;
    let status = account.map_err(|e| StopCause::Retry(format!("the donor does not answer: {e}")))?.status;
    if status.flush_lsn != Some(chosen.end) {
        let (flush, end) = (shown(status.flush_lsn), chosen.end);
        return Err(StopCause::Retry(format!("the donor's log ended at {end} when it voted and ends at {flush} now")));
    }
    Ok(status.last_record_start_lsn)
}

/// Compares `[from, to)`; with `term` the donor serves what is not committed too.
async fn compare(
    config: &ShimConfig,
    mut upstream: Upstream,
    survey: &Survey,
    (donor, term): (usize, Option<Term>),
    from: Lsn,
    to: Lsn,
) -> Result<Upstream, StopCause> {
    if from >= to {
        return Ok(upstream);
    }
    let Some(address) = config.safekeepers.get(donor) else {
        return Err(StopCause::Retry("the donor is not in the address list".to_owned()));
    };
    let mut theirs = safekeeper::read(config, address, from, to, term).await.map_err(from_donor)?;
    let mut rest = Bytes::new();
    for part in plan::parts(&upstream.primary.history, from, to) {
        let mut reading = upstream.read(part).await.map_err(|e| from_primary(e, part.from))?;
        rest = match compare_part(&mut reading, &mut theirs, rest, to).await? {
            Compared::Equal(rest) => rest,
            Compared::Differs(at) => {
                let record = record::record_at(config, survey, donor, term, at).await;
                return Err(AttachRefusal::Diverged { at, record, from, to }.into());
            }
        };
        upstream = reading.finish().await?;
    }
    Ok(upstream)
}

/// What a comparison found.
enum Compared {
    /// Nothing; with what the donor sent beyond it.
    Equal(Bytes),
    /// The first byte that differs.
    Differs(Lsn),
}

/// Compares one part chunk by chunk; `theirs_left` is what the donor sent beyond the last comparison.
async fn compare_part(
    ours: &mut Reading,
    theirs: &mut WalReader,
    mut theirs_left: Bytes,
    to: Lsn,
) -> Result<Compared, StopCause> {
    let start = ours.wal.position();
    while let Some((mut at, mut wal)) = ours.wal.next().await.map_err(|e| from_primary(e, start))? {
        while !wal.is_empty() {
            if theirs_left.is_empty() {
                let chunk = theirs.next().await.map_err(from_donor)?;
                theirs_left = chunk.map(|(_, wal)| wal).unwrap_or_default();
                if theirs_left.is_empty() {
                    return Err(StopCause::Retry(format!("the donor's WAL ended at {at} instead of {to}")));
                }
            }
            let len = wal.len().min(theirs_left.len());
            if let Some(differs) = first_difference(&wal[..len], &theirs_left[..len]) {
                return Ok(Compared::Differs(at.add(differs as u64)));
            }
            wal.advance(len);
            theirs_left.advance(len);
            at = at.add(len as u64);
        }
    }
    Ok(Compared::Equal(theirs_left))
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b { None } else { a.iter().zip(b).position(|(x, y)| x != y) }
}

fn from_donor(e: StretchError) -> StopCause {
    StopCause::Retry(format!("the proof could not read a safekeeper's WAL: {e}"))
}

/// Also when a segment was removed meanwhile: the next attempt sees what is left, and judges that.
fn from_primary(e: StretchError, at: Lsn) -> StopCause {
    StopCause::Retry(format!("the proof could not read the primary's WAL from {at} on: {e}"))
}

/// Follows the WAL behind the log's end up to its first record boundary: that record must link back to the log's last
/// one.
#[derive(Debug)]
pub(crate) struct LinkCheck {
    decoder: Option<WalDecoder>,
    end: Lsn,
}

impl LinkCheck {
    fn new(log: &LogView, end: Lsn, last_record_start: Option<Lsn>) -> Result<LinkCheck, StopCause> {
        Ok(LinkCheck { decoder: Some(WalDecoder::new(plan::stream_config(log)?, end, last_record_start)), end })
    }

    /// The next bytes; does nothing once the first record was seen.
    pub(crate) fn feed(&mut self, at: Lsn, wal: &[u8]) -> Result<(), WalError> {
        let Some(decoder) = &mut self.decoder else { return Ok(()) };
        decoder.feed(at, wal)?;
        if decoder.boundary() > self.end {
            self.decoder = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pgformat::wal::StreamConfig;
    use pgformat::wal::build::WalBuilder;
    use pgformat::{PgMajor, SegSize, Tli};
    use proto::api::PgHistoryEntry;
    use proto::id::SystemId;

    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(first_difference(b"same", b"same"), None);
        assert_eq!(first_difference(b"sAme", b"same"), Some(1));
    }

    fn log(end: Lsn) -> LogView {
        LogView {
            system_id: SystemId(7),
            version_num: 150_000,
            seg_size: SegSize::DEFAULT,
            pg_history: vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) }],
            start: end,
            commit: end,
            end,
            last_record_start: None,
            oldest: end,
        }
    }

    /// WAL of three records from `start` on, whose first one links back to `prev`.
    fn wal(start: Lsn, prev: Lsn) -> Bytes {
        let cfg = StreamConfig {
            version: PgMajor::new(15).expect("supported"),
            seg_size: SegSize::DEFAULT,
            system_id: Some(7),
            tlis: vec![(Tli(1), Lsn::new(0))],
        };
        let mut builder = WalBuilder::new(cfg, start, Some(prev));
        for len in [100, 9000, 64] {
            builder.noop(len);
        }
        builder.take().1
    }

    #[test]
    fn the_first_record_must_link_back_to_the_last_one() {
        let start = Lsn::new(0x100_2000 - 48);
        for start in [start, start.page_start().add(8192)] {
            let (prev, other) = (start.page_start().add(64), start.page_start().add(72));
            let check = |named| -> Result<(), WalError> {
                let mut link = LinkCheck::new(&log(start), start, Some(prev)).expect("a supported version");
                let bytes = wal(start, named);
                // As it comes from a socket: in pieces of any size.
                bytes.chunks(100).enumerate().try_for_each(|(i, piece)| link.feed(start.add(i as u64 * 100), piece))
            };
            assert_eq!(check(prev), Ok(()));
            assert!(matches!(check(other), Err(WalError::PrevLink { .. })), "{:?}", check(other));
        }
    }
}
