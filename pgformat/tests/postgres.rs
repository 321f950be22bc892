//! The decoder against a real PostgreSQL and its own `pg_waldump`.
//!
//! Goal: the decoder finds every record that PostgreSQL sees, at the same place, through crashes, lost continuations,
//! switches and a change of tli. Method: make such a log, decode its segments in uneven pieces, compare with the dump
//! line by line.

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use harness::{Bounded as _, PATIENCE};
use pgformat::wal::record::{RM_XLOG, XLOG_NOOP};
use pgformat::wal::{StreamConfig, WalBuilder, next_record_start, synthetic_prehistory};
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use support::{Cluster, PG15_BIN, decode_all, waldump};

/// Messages of every length modulo a page, so that records end at, and straddle, every place of one.
const EVERY_LENGTH: &str = "do $$ begin for i in 0..1030 loop \
    perform pg_logical_emit_message(false, 'p', repeat('x', i * 8)); end loop; end $$";

fn load(cluster: &Cluster) {
    cluster.sql("create table if not exists t(a int primary key, b text)");
    cluster
        .sql("insert into t select i, repeat(md5(i::text), 20) from generate_series(1, 4000) i on conflict do nothing");
    cluster.sql("update t set b = b || 'x' where a % 3 = 0; checkpoint");
    cluster.sql(EVERY_LENGTH);
    cluster.sql("select pg_logical_emit_message(true, 'big', repeat('z', 3500000))");
    for _ in 0..3 {
        cluster.sql("select pg_switch_wal(); insert into t select max(a) + 1, 'switched' from t");
    }
}

/// Leaves a record whose rest is lost, as a crash does when the last segment never reached the disk.
fn lose_a_continuation(cluster: &mut Cluster) {
    let before = cluster.lsn("select pg_current_wal_insert_lsn()");
    let after = cluster.lsn("select pg_logical_emit_message(false, 'big', repeat('y', 2500000))");
    assert!(before.segment_no(cluster.seg) + 1 < after.segment_no(cluster.seg));
    cluster.kill();
    for (segno, path) in cluster.segments() {
        if segno >= after.segment_no(cluster.seg) {
            fs::remove_file(path).expect("removable");
        }
    }
    cluster.start();
}

/// Leaves a record whose rest was in memory only.
fn lose_unwritten_pages(cluster: &mut Cluster) {
    cluster.sql("select pg_logical_emit_message(false, 'big', repeat('w', 300000))");
    cluster.kill();
    cluster.start();
}

fn crash_under_load(cluster: &mut Cluster) {
    let endless = "do $$ begin loop \
                   insert into t select max(a) + 1, repeat('c', (random() * 9000)::int) from t; commit; \
                   end loop; end $$";
    let rows = || "select count(*) from t";
    let before: u64 = cluster.sql(rows()).parse().expect("a number");
    let mut writer = cluster.psql(endless).stderr(Stdio::null()).spawn().expect("psql runs");
    while cluster.sql(rows()).parse::<u64>().expect("a number") < before + 50 {}
    cluster.kill();
    harness::wait(&mut writer, "psql without its server", harness::PATIENCE).expect("it ends");
    cluster.start();
}

/// Recovers without a primary to follow, which ends on a new tli; the position where it began.
fn change_tli(cluster: &mut Cluster) -> Lsn {
    cluster.sql("alter system set restore_command = '/bin/false'");
    cluster.kill();
    let signal = cluster.data().join("recovery.signal");
    fs::write(&signal, "").expect("writable");
    let owner = fs::metadata(cluster.data()).expect("readable");
    use std::os::unix::fs::MetadataExt;
    std::os::unix::fs::chown(&signal, Some(owner.uid()), Some(owner.gid())).expect("chown");
    cluster.start();
    let history = fs::read_to_string(cluster.wal_dir().join("00000002.history")).expect("a history file");
    let line = history.lines().rfind(|l| l.starts_with('1')).expect("an entry");
    line.split('\t').nth(1).and_then(|t| t.parse().ok()).expect("an LSN")
}

#[test]
fn every_record_of_a_stormy_life_is_found() {
    let mut cluster = Cluster::create(Path::new(PG15_BIN), 1);
    load(&cluster);
    lose_a_continuation(&mut cluster);
    crash_under_load(&mut cluster);
    lose_unwritten_pages(&mut cluster);
    crash_under_load(&mut cluster);
    let switch_point = change_tli(&mut cluster);
    load(&cluster);
    let tlis = vec![(Tli(1), Lsn::new(0)), (Tli(2), switch_point)];
    let cfg = cluster.config(tlis);
    cluster.stop();

    let (decoder, found, ends, stopped) = decode_all(&cluster, cfg.clone(), 1);
    let mut expected = cluster.dump(Tli(1), cluster.start, Some(switch_point));
    expected.extend(cluster.dump(Tli(2), next_record_start(switch_point, cluster.seg), None));
    assert!(expected.len() > 10_000, "{} records", expected.len());
    for (f, e) in found.iter().zip(&expected) {
        assert_eq!(f, e);
    }
    assert_eq!(found.len(), expected.len(), "{stopped:?}");
    assert!(stopped.is_none_or(|e| e.is_end_of_log()), "{stopped:?}");
    for (end, next) in ends.iter().zip(&expected[1..]) {
        // Only the record after a lost one does not begin where the last one ended.
        let lost = next.len == 42 && next.rmgr == "XLOG" && next_record_start(*end, cluster.seg) != next.start;
        assert!(lost || next_record_start(*end, cluster.seg) == next.start, "{end} {next:?}");
    }
    let lost = ends.iter().zip(&expected[1..]).filter(|(e, n)| next_record_start(**e, cluster.seg) != n.start).count();
    assert!(lost >= 2, "{lost} records were lost");
    // After a clean stop the last record is the shutdown checkpoint.
    let last = decoder.last_record_start().expect("records");
    assert_eq!(cluster.control("Latest checkpoint location"), last.to_string());
    assert_eq!(decoder.boundary(), *ends.last().expect("records"));

    // The same bytes, split differently, or as if the tli had never changed.
    let (again, found_again, _, _) = decode_all(&cluster, cfg.clone(), 99);
    assert!(found_again == found && again.boundary() == decoder.boundary());
    let unchanged = StreamConfig { tlis: vec![(Tli(1), Lsn::new(0))], ..cfg };
    let (stuck, _, _, error) = decode_all(&cluster, unchanged, 1);
    assert!(matches!(error, Some(pgformat::wal::WalError::PageTli { found: Tli(2), .. })), "{error:?}");
    assert!(stuck.boundary() < decoder.boundary());
}

#[test]
fn waldump_reads_what_the_builder_writes() {
    let seg = SegSize::new(1 << 20).expect("a valid size");
    let version = PgMajor::new(15).expect("supported");
    let start = Lsn::new((9 << 20) + 3 * 8192 + 24 + 800);
    let cfg = StreamConfig { version, seg_size: seg, system_id: Some(77), tlis: vec![(Tli(2), Lsn::new(0))] };
    let prehistory = synthetic_prehistory(&cfg, start).expect("a boundary");
    let mut b = WalBuilder::new(cfg, start, Some(Lsn::new(8 << 20)));
    let mut built =
        vec![b.record(RM_XLOG, XLOG_NOOP, 5, b"payload"), b.noop(24), b.noop_until_page_end(), b.noop(20_000)];
    b.abort_record_at_page(30_000, 2);
    built.push(b.overwrite_contrecord());
    built.push(b.noop_until_segment_end());
    built.push(b.noop(500));
    built.push(b.switch());
    built.push(b.noop(90));

    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut bytes = prehistory;
    bytes.extend_from_slice(b.bytes());
    bytes.resize(bytes.len().next_multiple_of(1 << 20), 0);
    for (i, segment) in bytes.chunks(1 << 20).enumerate() {
        fs::write(dir.path().join(seg.file_name(Tli(2), 9 + i as u64)), segment).expect("writable");
    }
    let starts: Vec<_> =
        waldump(Path::new(PG15_BIN), dir.path(), Tli(2), start, None).iter().map(|d| d.start).collect();
    assert_eq!(starts, built.iter().map(|b| b.start).collect::<Vec<_>>());
    // Without a start position, the tool itself finds the first record after the synthetic page headers.
    let file = dir.path().join(seg.file_name(Tli(2), 9));
    let out = std::process::Command::new(Path::new(PG15_BIN).join("pg_waldump"))
        .arg(file)
        .output_within(PATIENCE)
        .expect("runs");
    let first = support::parse_dump(&String::from_utf8_lossy(&out.stdout)).first().map(|d| d.start);
    assert_eq!(first, Some(start), "{}", String::from_utf8_lossy(&out.stderr));
}
