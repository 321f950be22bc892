//! Short stretches of WAL from real servers of every major, with the servers' own description of the records.
//!
//! `testdata/wal-MAJOR-NAME.bin` holds the bytes, `.txt` the configuration, the pieces (fill after a SWITCH record is
//! left out) and one line per record: start, end, prev, length, xid, resource manager. The record lines are the
//! server's own (`pg_walinspect`; 14 has none: there they are the decoder's, checked against positions that SQL
//! functions returned).
//!
//! To record them again: `WAL_PG_BIN=DIR cargo test -p pgformat --test golden -- --ignored`, once per major.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pgformat::wal::{StreamConfig, WalDecoder};
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use support::{Cluster, Dumped};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// A stretch of WAL and what is known about it.
struct Golden {
    cfg: StreamConfig,
    start: Lsn,
    prev: Lsn,
    pieces: Vec<(Lsn, Bytes)>,
    records: Vec<(Dumped, Lsn)>,
}

impl Golden {
    fn read(path: &Path) -> Golden {
        let text = fs::read_to_string(path).expect("readable");
        let mut bytes = Bytes::from(fs::read(path.with_extension("bin")).expect("readable"));
        let value = |key: &str| -> &str {
            let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
            line.trim()
        };
        let lsn = |t: &str| -> Lsn { t.parse().expect("an LSN") };
        let words = |key: &'static str| {
            text.lines().filter_map(move |l| l.strip_prefix(key)).map(|l| l.split_whitespace().collect::<Vec<_>>())
        };
        let pieces = words("piece ").map(|w| (lsn(w[0]), bytes.split_to(w[1].parse().expect("a length")))).collect();
        let record = |w: Vec<&str>| {
            let (len, xid) = (w[3].parse().expect("a length"), w[4].parse().expect("an xid"));
            (Dumped { start: lsn(w[0]), prev: lsn(w[2]), len, xid, rmgr: w[5].to_owned() }, lsn(w[1]))
        };
        Golden {
            cfg: StreamConfig {
                version: value("version").parse().ok().and_then(PgMajor::new).expect("a major"),
                seg_size: value("seg_size").parse().ok().and_then(SegSize::new).expect("a segment size"),
                system_id: value("system_id").parse().ok(),
                tlis: vec![(Tli(1), Lsn::new(0))],
            },
            start: lsn(value("start")),
            prev: lsn(value("prev")),
            pieces,
            records: words("record ").map(record).collect(),
        }
    }

    /// Decodes the pieces, cut every `step` bytes.
    fn decode(&self, step: usize) -> (WalDecoder, Vec<(Dumped, Lsn)>) {
        let mut decoder = WalDecoder::new(self.cfg.clone(), self.start, Some(self.prev));
        let mut found = Vec::new();
        for (at, piece) in &self.pieces {
            let mut piece = piece.clone();
            let mut at = *at;
            while !piece.is_empty() {
                let part = piece.split_to(step.min(piece.len()));
                decoder.feed_records(at, &part, &mut |r| found.push((Dumped::of(&r), r.end))).expect("valid WAL");
                at = at.add(part.len() as u64);
            }
        }
        (decoder, found)
    }
}

#[test]
fn every_major_is_read_as_its_own_server_reads_it() {
    let mut majors = std::collections::BTreeMap::new();
    for entry in fs::read_dir(testdata()).expect("testdata exists") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|e| e != "txt") {
            continue;
        }
        let golden = Golden::read(&path);
        assert!(golden.records.len() >= 5, "{}", path.display());
        for step in [1, 24, 1000, usize::MAX] {
            let (decoder, found) = golden.decode(step);
            assert_eq!(found, golden.records, "{} in steps of {step}", path.display());
            assert_eq!(decoder.boundary(), golden.records.last().expect("records").1);
        }
        *majors.entry(golden.cfg.version).or_insert(0) += 1;
    }
    assert_eq!(majors.into_iter().collect::<Vec<_>>(), PgMajor::ALL.map(|m| (m, 2)), "two stretches of every major");
}

/// Writes the stretch `[start, end)`: what the server says about it, and its bytes.
fn write_golden(cluster: &mut Cluster, name: &str, start: Lsn, end: Lsn, known: &[Lsn]) {
    let cfg = cluster.config(vec![(Tli(1), Lsn::new(0))]);
    let oracle = (cluster.version.get() >= 15).then(|| {
        cluster.sql("create extension if not exists pg_walinspect");
        cluster.sql(&format!(
            "select format('record %s %s %s %s %s %s', \
             start_lsn, end_lsn, prev_lsn, record_length, xid, resource_manager) \
             from pg_get_wal_records_info('{start}', '{end}')"
        ))
    });
    cluster.stop();
    let (mut before, mut ours, mut ends) = (None, String::new(), Vec::new());
    let (_, found, found_ends, _) = support::decode_all(cluster, cfg.clone(), 5);
    for (r, e) in found.iter().zip(found_ends) {
        if e <= start {
            before = Some(r.start);
        } else if e <= end {
            ends.push(e);
            writeln!(ours, "record {} {e} {} {} {} {}", r.start, r.prev, r.len, r.xid, r.rmgr).expect("a string");
        }
    }
    assert!(known.iter().all(|k| ends.contains(k)), "{known:?} {ends:?}");
    let version = cfg.version;
    let mut text = format!(
        "version {version}\nseg_size {}\nsystem_id {}\nstart {start}\nprev {}\n",
        cfg.seg_size.to_u32(),
        cfg.system_id.expect("known"),
        before.expect("a record before")
    );
    let mut bin = Vec::new();
    for (at, piece) in pieces(cluster, &cfg, start, end) {
        writeln!(text, "piece {at} {}", piece.len()).expect("a string");
        bin.extend_from_slice(&piece);
    }
    text += &oracle.map_or(ours, |o| o + "\n");
    let path = testdata().join(format!("wal-{version}-{name}.txt"));
    fs::create_dir_all(testdata()).expect("writable");
    fs::write(path.with_extension("bin"), bin).expect("writable");
    fs::write(path, text).expect("writable");
}

/// The bytes of `[start, end)` without the fill after SWITCH records.
fn pieces(cluster: &Cluster, cfg: &StreamConfig, start: Lsn, end: Lsn) -> Vec<(Lsn, Vec<u8>)> {
    let mut all = Vec::new();
    let first = cluster.segments()[0].0;
    cluster.segments().iter().for_each(|(_, p)| all.extend(fs::read(p).expect("readable")));
    let base = cluster.seg.start_of(first);
    let byte = |at: Lsn| usize::try_from(at.bytes_since(base)).expect("small");
    let mut decoder = WalDecoder::new(cfg.clone(), start, None);
    let mut out = vec![(start, Vec::new())];
    while decoder.position() < end {
        let at = decoder.position();
        decoder.feed(at, &all[byte(at)..=byte(at)]).expect("valid WAL");
        out.last_mut().expect("one").1.push(all[byte(at)]);
        if let Some(fill_end) = decoder.fill_end() {
            decoder.feed(fill_end, &[]).expect("nothing");
            out.push((fill_end, Vec::new()));
        }
    }
    out.retain(|(_, b)| !b.is_empty());
    out
}

#[test]
#[ignore = "writes testdata; needs the server programs of one major in WAL_PG_BIN"]
fn write_testdata() {
    let bin = PathBuf::from(std::env::var_os("WAL_PG_BIN").expect("WAL_PG_BIN is set"));
    let mut cluster = Cluster::create(&bin, 1);
    cluster.sql("create table g(a int primary key, b text); insert into g values (0, 'x'); checkpoint");
    let seg = cluster.seg;
    let next_segment = |at: Lsn| seg.start_of(at.segment_no(seg) + 1);
    let start = next_segment(cluster.lsn("select pg_switch_wal()"));
    let mut known = Vec::new();
    cluster.sql(
        "insert into g select i, repeat('r', i * 3) from generate_series(1, 20) i; update g set b = 'u' where a < 5",
    );
    for len in (0..30).map(|i| i * 8 + 3) {
        known.push(cluster.lsn(&format!("select pg_logical_emit_message(false, 'p', repeat('m', {len}))")).align8());
    }
    cluster.sql("select pg_logical_emit_message(true, 'p', repeat('n', 9000)); delete from g where a = 7");
    known.push(next_segment(cluster.lsn("select pg_switch_wal()")));
    cluster.sql("insert into g values (99, 'after the switch')");
    let end = cluster.lsn("select pg_current_wal_flush_lsn()");
    write_golden(&mut cluster, "plain", start, end, &known);

    cluster.start();
    let room = |c: &Cluster| {
        let at = c.lsn("select pg_current_wal_insert_lsn()");
        next_segment(at).bytes_since(at)
    };
    let fill = room(&cluster) - 6_000;
    let start = cluster.lsn(&format!("select pg_logical_emit_message(false, 'p', repeat('f', {fill}))")).align8();
    let lost = cluster.lsn("select pg_logical_emit_message(false, 'p', repeat('l', 300000))");
    assert_eq!(lost.segment_no(seg), start.segment_no(seg) + 1);
    cluster.kill();
    fs::remove_file(cluster.wal_dir().join(seg.file_name(Tli(1), lost.segment_no(seg)))).expect("removable");
    cluster.start();
    cluster.sql("insert into g values (100, 'after the crash')");
    let end = cluster.lsn("select pg_current_wal_flush_lsn()");
    write_golden(&mut cluster, "overwrite", start, end, &[]);
}
