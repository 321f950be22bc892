//! Which record a byte of the quorum's log belongs to: for whoever has to look at a divergence.

use pgformat::wal::page::{PageHeader, header_len};
use pgformat::wal::{StreamConfig, WalDecoder, next_record_start};
use pgformat::{Lsn, WAL_PAGE_SIZE};
use proto::id::Term;

use super::plan;
use crate::attach::survey::Survey;
use crate::config::ShimConfig;
use crate::dial::safekeeper;

/// Start of the record that holds the byte at `at` in the log of the safekeeper `donor`; with `term` also where it is
/// not committed. `None` when it began in an earlier segment, or cannot be read: a divergence is told without it.
pub(super) async fn record_at(
    config: &ShimConfig,
    survey: &Survey,
    donor: usize,
    term: Option<Term>,
    at: Lsn,
) -> Option<Lsn> {
    let stream = plan::stream_config(&survey.log).ok()?;
    let from = at.segment_start(stream.seg_size);
    let mut wal =
        safekeeper::read(config, config.safekeepers.get(donor)?, from, at.checked_add(1)?, term).await.ok()?;
    let mut search = RecordSearch::new(stream, from);
    while let Some((at, bytes)) = wal.next().await.ok()? {
        search.feed(at, &bytes);
    }
    search.found(at)
}

/// Follows the WAL from the start of a segment on.
struct RecordSearch {
    stream: StreamConfig,
    from: Lsn,
    decoder: Option<WalDecoder>,
}

impl RecordSearch {
    fn new(stream: StreamConfig, from: Lsn) -> RecordSearch {
        RecordSearch { stream, from, decoder: None }
    }

    fn feed(&mut self, at: Lsn, bytes: &[u8]) {
        if at == self.from {
            let header = PageHeader::parse(bytes).filter(|h| h.long.is_some());
            let start = header.map(|h| first_record(at, h.rem_len, &self.stream));
            self.decoder = start.map(|start| WalDecoder::new(self.stream.clone(), start, None));
        }
        let Some(decoder) = &mut self.decoder else { return };
        // The end of a record that began in an earlier segment is not looked at.
        let skipped = decoder.position().get().saturating_sub(at.get());
        if let Some(rest) = usize::try_from(skipped).ok().and_then(|skipped| bytes.get(skipped..)) {
            // What cannot be decoded leaves the last boundary that was found.
            let _ = decoder.feed(at.add(skipped), rest);
        }
    }

    fn found(&self, at: Lsn) -> Option<Lsn> {
        let boundary = self.decoder.as_ref()?.boundary();
        // A byte of the page header before a record counts to that record.
        (boundary <= at).then(|| next_record_start(boundary, self.stream.seg_size))
    }
}

/// Where the first record of the segment at `from` starts, whose first page says that `rem_len` bytes belong to an
/// earlier one.
fn first_record(from: Lsn, rem_len: u32, stream: &StreamConfig) -> Lsn {
    let (mut page, mut left) = (from, u64::from(rem_len));
    loop {
        let data = header_len(page, stream.seg_size);
        let room = WAL_PAGE_SIZE - data;
        if left <= room {
            return page.add(data).add(left).align8();
        }
        left -= room;
        page = page.add(WAL_PAGE_SIZE);
    }
}

#[cfg(test)]
mod tests {
    use pgformat::wal::WalBuilder;
    use pgformat::{PgMajor, SegSize, Tli};

    use super::*;

    /// Goal: the record of every byte is named, behind a record that began in the segment before, across pages, in any
    /// pieces. Method: WAL of known records; each record's bytes lead to its start.
    #[test]
    fn every_byte_leads_to_its_record() {
        let stream = StreamConfig {
            version: PgMajor::new(15).expect("supported"),
            seg_size: SegSize::DEFAULT,
            system_id: Some(7),
            tlis: vec![(Tli(1), Lsn::new(0))],
        };
        let segment = Lsn::new(0x200_0000);
        let mut builder = WalBuilder::new(stream.clone(), Lsn::new(segment.get() - 104), None);
        let (begin, mut records) = (builder.position(), Vec::new());
        for len in [20_000, 100, 9000, 64, 30_000, 64] {
            records.push((builder.noop(len).start, builder.position()));
        }
        let wal = builder.bytes();
        let skipped = usize::try_from(segment.bytes_since(begin)).expect("small");
        let wal = &wal[skipped..];
        let find = |at: Lsn| {
            let mut search = RecordSearch::new(stream.clone(), segment);
            let end = usize::try_from(at.bytes_since(segment)).expect("small") + 1;
            for (i, piece) in wal[..end].chunks(777).enumerate() {
                search.feed(segment.add(i as u64 * 777), piece);
            }
            search.found(at)
        };
        let (first, rest) = records.split_first().expect("some");
        assert_eq!(find(segment.add(300)), None, "it began at {} in the segment before", first.0);
        for (start, end) in rest {
            for at in [*start, start.add(9), Lsn::new(end.get() - 17)] {
                assert_eq!(find(at), Some(*start), "{at}");
            }
        }
    }
}
