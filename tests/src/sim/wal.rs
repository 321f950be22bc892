//! Model servers, which write the WAL that the shims stream.

use fastrand::Rng;
use pgformat::wal::record::{RM_XLOG, XLOG_NOOP};
use pgformat::wal::{StreamConfig, WalBuilder, synthetic_prehistory};
use pgformat::{Lsn, PgMajor, SegSize, Tli, WAL_PAGE_SIZE};

/// Segment size of every simulated timeline: the smallest, so that segment ends are met often.
pub(crate) fn seg_size() -> SegSize {
    SegSize::new(1 << 20).expect("a valid size")
}

/// The simulated cluster.
pub(crate) const SYSTEM_ID: u64 = 7_421_000_000_000_000_001;

pub(crate) fn stream() -> StreamConfig {
    StreamConfig {
        version: PgMajor::new(15).expect("supported"),
        seg_size: seg_size(),
        system_id: Some(SYSTEM_ID),
        tlis: vec![(Tli(1), Lsn::new(1 << 20))],
    }
}

/// Where the log starts, and the bytes of its segment before that.
pub(crate) fn beginning(kind: u8) -> (Lsn, Option<Lsn>, Vec<u8>) {
    let segment = Lsn::new(3 << 20);
    match kind {
        0 => (segment, None, Vec::new()),
        1 => {
            let start = segment.add(40);
            (start, None, synthetic_prehistory(&stream(), start).expect("a valid start"))
        }
        _ => {
            let mut builder = WalBuilder::new(stream(), segment, None);
            builder.noop(30_000);
            builder.noop(100);
            let bytes = builder.bytes().to_vec();
            (builder.position(), builder.last_record_start(), bytes)
        }
    }
}

/// A server: its WAL is durable there before anybody sees it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    builder: WalBuilder,
    start: Lsn,
    wal: Vec<u8>,
    /// Stamped into every record: two servers never write the same bytes.
    xid: u32,
    /// Decides what is written; a copy writes alike, at the same positions.
    kinds: Rng,
    /// Nearly all records have one length.
    uniform: bool,
}

impl Server {
    /// A server whose WAL holds `wal` from `start` on; the last record in it began at `prev`.
    pub(crate) fn behind(start: Lsn, wal: Vec<u8>, prev: Option<Lsn>, xid: u32, kinds: Rng, uniform: bool) -> Server {
        let end = start.add(wal.len() as u64);
        Server { builder: WalBuilder::new(stream(), end, prev), start, wal, xid, kinds, uniform }
    }

    /// A copy of this server that goes on by itself: the same positions, other bytes.
    pub(crate) fn copy(&self, xid: u32) -> Server {
        Server { xid, ..self.clone() }
    }

    /// End of the WAL that it has flushed.
    pub(crate) fn end(&self) -> Lsn {
        self.start.add(self.wal.len() as u64)
    }

    /// Its WAL of `[start, to)`.
    pub(crate) fn until(&self, to: Lsn) -> &[u8] {
        let n = usize::try_from(to.get().saturating_sub(self.start.get())).unwrap_or(usize::MAX);
        &self.wal[..n.min(self.wal.len())]
    }

    /// Its WAL of `[from, to)`.
    pub(crate) fn range(&self, from: Lsn, to: Lsn) -> &[u8] {
        &self.wal[self.until(from).len()..self.until(to).len()]
    }

    /// Writes some records, of the kinds that are hard to follow too.
    pub(crate) fn write(&mut self) {
        let mut kinds = self.kinds.fork();
        match kinds.u16(0..1_000) {
            0..5 => drop(self.builder.switch()),
            5..10 => drop(self.builder.noop_until_segment_end()),
            10..20 => self.record(kinds.usize(100_000..300_000)),
            _ => {}
        }
        let records = match (self.uniform, kinds.u8(0..4)) {
            (false, _) => kinds.u16(1..4),
            (true, 0) => 400,
            (true, _) => kinds.u16(1..60),
        };
        for _ in 0..records {
            match kinds.u16(0..1_000) {
                // Equal lengths: a leftover of another server's WAL then looks like the continuation of this one's.
                _ if self.uniform => self.record(40),
                0..20 => drop(self.builder.noop_until_page_end()),
                20..30 => self.crash_inside_a_record(&mut kinds),
                30..50 => drop(self.builder.noop(24)),
                50..150 => self.record(kinds.usize(600..20_000)),
                _ => self.record(kinds.usize(0..600)),
            }
        }
        let (_, bytes) = self.builder.take();
        self.wal.extend_from_slice(&bytes);
    }

    fn record(&mut self, len: usize) {
        let data: Vec<u8> = self.xid.to_le_bytes().into_iter().cycle().take(len).collect();
        self.builder.record(RM_XLOG, XLOG_NOOP, self.xid, &data);
    }

    /// A crash in the middle of a record, and the recovery that overwrites it.
    fn crash_inside_a_record(&mut self, kinds: &mut Rng) {
        let pages = kinds.u32(1..3);
        self.builder.abort_record_at_page((pages + 2) * WAL_PAGE_SIZE as u32, pages);
        self.builder.overwrite_contrecord();
    }
}
