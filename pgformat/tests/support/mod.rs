//! A temporary PostgreSQL cluster, its segments as one stream, and the output of `pg_waldump`.
//!
//! Owns the server process and its directory; dropping the [`Cluster`] removes both. Any major with `initdb` and
//! `postgres` works; the client programs are those of the installed PostgreSQL 15.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{PATIENCE, signal, wait};
use pgformat::wal::{StreamConfig, WalDecoder, WalError, record};
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use rustix::process::{Pid, Signal, kill_process};

/// Where Debian puts PostgreSQL 15; `make setup` installs it.
pub(crate) const PG15_BIN: &str = "/usr/lib/postgresql/15/bin";
/// Long enough for a loaded machine, short enough to fail a hanging test.
const DEADLINE: Duration = Duration::from_secs(60);

/// One record as a log dump shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dumped {
    pub(crate) start: Lsn,
    pub(crate) prev: Lsn,
    pub(crate) len: u32,
    pub(crate) xid: u32,
    pub(crate) rmgr: String,
}

impl Dumped {
    pub(crate) fn of(r: &pgformat::wal::RecordRef<'_>) -> Dumped {
        let rmgr = record::rmgr_name(r.header.rmid).map_or_else(|| format!("custom{}", r.header.rmid), str::to_owned);
        Dumped { start: r.start, prev: r.header.prev, len: r.header.total_len, xid: r.header.xid, rmgr }
    }
}

/// A server and its data directory.
pub(crate) struct Cluster {
    pub(crate) bin: PathBuf,
    dir: tempfile::TempDir,
    server: Option<Child>,
    /// Redo pointer of the first start: the log begins here, as a timeline's would.
    pub(crate) start: Lsn,
    pub(crate) seg: SegSize,
    pub(crate) version: PgMajor,
}

impl Cluster {
    /// A new, running cluster with segments of `seg_mib` MiB.
    pub(crate) fn create(bin: &Path, seg_mib: u32) -> Cluster {
        assert!(bin.join("postgres").exists(), "{} is missing: run `make setup`", bin.join("postgres").display());
        let dir = tempfile::Builder::new().prefix("wal").tempdir().expect("a temporary directory");
        harness::give_to_postgres(dir.path()).expect("the server's directory");
        let version = output(Command::new(bin.join("postgres")).arg("--version"));
        let major = version.split_whitespace().nth(2).and_then(|v| v.split('.').next()?.parse().ok());
        let mut cluster = Cluster {
            bin: bin.to_owned(),
            dir,
            server: None,
            start: Lsn::new(0),
            seg: SegSize::new(seg_mib << 20).expect("a valid size"),
            version: major.and_then(PgMajor::new).expect("a supported major"),
        };
        let data = cluster.data();
        output(
            cluster.command("initdb").args(["-N", "-A", "trust", "-U", "postgres", "--locale=C", "-E", "UTF8"]).args([
                "--wal-segsize".into(),
                seg_mib.to_string(),
                "-D".into(),
                data.display().to_string(),
            ]),
        );
        let settings = format!(
            "listen_addresses=''\nunix_socket_directories='{}'\nfsync=off\nwal_level=logical\nwal_keep_size=2GB\n\
             wal_buffers=64kB\nmax_wal_size=1GB\nautovacuum=off\nwal_writer_delay=10s\nshared_buffers=32MB\n",
            cluster.dir.path().display()
        );
        let conf = data.join("postgresql.conf");
        let with = fs::read_to_string(&conf).expect("readable") + &settings;
        fs::write(conf, with).expect("writable");
        cluster.start();
        cluster.start = cluster.lsn("select redo_lsn from pg_control_checkpoint()");
        cluster
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.data().join("pg_wal")
    }

    fn command(&self, program: &str) -> Command {
        let mut c = harness::as_postgres(&self.bin.join(program)).expect("a user to run it as");
        c.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
        c
    }

    /// Starts the server and waits until it answers. After a kill the orphans of the old one may have to go first.
    pub(crate) fn start(&mut self) {
        let until = Instant::now() + DEADLINE;
        loop {
            let log = fs::File::options().append(true).create(true).open(self.dir.path().join("log")).expect("a log");
            let mut command = self.command("postgres");
            command.arg("-D").arg(self.data()).stdout(Stdio::null()).stderr(log);
            let mut child = command.spawn().expect("postgres starts");
            loop {
                if child.try_wait().expect("our child").is_some() {
                    break;
                }
                if self.try_sql("select 1 where not pg_is_in_recovery()").is_ok_and(|out| out == "1") {
                    self.server = Some(child);
                    return;
                }
                assert!(Instant::now() < until, "PostgreSQL does not answer: {}", self.log());
                std::thread::sleep(Duration::from_millis(20)); // between two looks
            }
            assert!(Instant::now() < until, "PostgreSQL does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(50)); // between two looks
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// kill -9 of the postmaster and of its children: a busy backend alone would go on writing for long.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let children = children_of(server.id());
            server.kill().expect("our child");
            wait(&mut server, "the killed postmaster", PATIENCE).expect("it ends");
            for pid in children.into_iter().filter_map(Pid::from_raw) {
                match kill_process(pid, Signal::KILL) {
                    // A process that has exited by itself in the meantime is fine, too.
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(e) => panic!("cannot kill a backend: {e}"),
                }
            }
        }
    }

    /// A clean shutdown (SIGINT, "fast").
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal(&server, Signal::INT).expect("our child");
            wait(&mut server, "PostgreSQL's fast shutdown", PATIENCE).unwrap_or_else(|e| panic!("{e}: {}", self.log()));
        }
    }

    pub(crate) fn try_sql(&self, sql: &str) -> Result<String, String> {
        let out = harness::output(&mut self.psql(sql), PATIENCE).unwrap_or_else(|e| panic!("{e:#}"));
        let text = |b: &[u8]| String::from_utf8_lossy(b).trim().to_owned();
        if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    pub(crate) fn psql(&self, sql: &str) -> Command {
        let mut c = Command::new(Path::new(PG15_BIN).join("psql"));
        c.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"]);
        c.arg(self.dir.path()).args(["-c", sql]).stdin(Stdio::null());
        c
    }

    pub(crate) fn lsn(&self, sql: &str) -> Lsn {
        self.sql(sql).parse().expect("an LSN")
    }

    /// A control file value, by the installed major's own program.
    pub(crate) fn control(&self, name: &str) -> String {
        let text = output(self.command("pg_controldata").arg("-D").arg(self.data()));
        let line = text.lines().find_map(|l| l.strip_prefix(name)).expect("a control file value");
        line.trim_start_matches(':').trim().to_owned()
    }

    pub(crate) fn config(&self, tlis: Vec<(Tli, Lsn)>) -> StreamConfig {
        let system_id = self.sql("select system_identifier from pg_control_system()").parse().ok();
        StreamConfig { version: self.version, seg_size: self.seg, system_id, tlis }
    }

    /// The newest file of every segment, ascending and without gaps.
    pub(crate) fn segments(&self) -> Vec<(u64, PathBuf)> {
        let mut found = std::collections::BTreeMap::new();
        for entry in fs::read_dir(self.wal_dir()).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_name().and_then(|n| n.to_str()).expect("text").to_owned();
            if let Some((tli, segno)) = self.seg.parse_file_name(&name) {
                let newest = found.entry(segno).or_insert((tli, path.clone()));
                if newest.0 < tli {
                    *newest = (tli, path);
                }
            }
        }
        let first = *found.keys().next().expect("a segment");
        found
            .into_iter()
            .enumerate()
            .take_while(|(i, (n, _))| *n == first + *i as u64)
            .map(|(_, (n, p))| (n, p.1))
            .collect()
    }

    /// `pg_waldump`'s view of `[start, end)` on `tli`; without `end` up to where it stops by itself.
    pub(crate) fn dump(&self, tli: Tli, start: Lsn, end: Option<Lsn>) -> Vec<Dumped> {
        waldump(&self.bin, &self.wal_dir(), tli, start, end)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("server log:\n{}", self.log());
        }
    }
}

fn children_of(pid: u32) -> Vec<i32> {
    let stat = |e: fs::DirEntry| -> Option<i32> {
        let text = fs::read_to_string(e.path().join("stat")).ok()?;
        // pid (name) state ppid: the name may contain anything, even parentheses.
        let parent: u32 = text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (parent == pid).then(|| e.file_name().to_string_lossy().parse().ok())?
    };
    fs::read_dir("/proc").expect("proc is mounted").filter_map(|e| stat(e.ok()?)).collect()
}

/// Runs a command that must succeed; its output.
pub(crate) fn output(command: &mut Command) -> String {
    harness::run(command).unwrap_or_else(|e| panic!("{e:#}"))
}

/// Runs `pg_waldump` and parses its lines. That it ends with an error at the end of the log is no failure.
pub(crate) fn waldump(bin: &Path, dir: &Path, tli: Tli, start: Lsn, end: Option<Lsn>) -> Vec<Dumped> {
    let mut command = Command::new(bin.join("pg_waldump"));
    command.arg("-p").arg(dir).args(["-t", &tli.0.to_string(), "-s", &start.to_string()]);
    if let Some(end) = end {
        command.args(["-e", &end.to_string()]);
    }
    let out = harness::output(&mut command, PATIENCE).unwrap_or_else(|e| panic!("{e:#}"));
    parse_dump(&String::from_utf8_lossy(&out.stdout))
}

/// The lines of a dump.
pub(crate) fn parse_dump(text: &str) -> Vec<Dumped> {
    let field = |line: &str, from: &str| -> String {
        let rest = line.split_once(from).unwrap_or_else(|| panic!("no {from:?} in {line:?}")).1.trim_start();
        rest.split([' ', ',', '/']).next().expect("a word").to_owned()
    };
    let lsn = |line: &str, from: &str| -> Lsn {
        let rest = line.split_once(from).expect("an LSN").1;
        rest.split(',').next().and_then(|t| t.trim().parse().ok()).expect("an LSN")
    };
    let lines = text.lines().filter(|l| l.starts_with("rmgr:"));
    lines
        .map(|l| Dumped {
            rmgr: field(l, "rmgr:"),
            len: l.split_once("len (rec/tot):").and_then(|(_, r)| r.split_once('/')).map_or(0, |(_, tot)| {
                tot.trim_start().split(',').next().and_then(|t| t.parse().ok()).expect("a length")
            }),
            xid: field(l, "tx:").parse().expect("a number"),
            start: lsn(l, "lsn: "),
            prev: lsn(l, "prev "),
        })
        .collect()
}

/// Feeds the cluster's segments to a decoder in uneven pieces until its bytes or its patience end.
pub(crate) fn decode_all(
    cluster: &Cluster,
    cfg: StreamConfig,
    seed: u64,
) -> (WalDecoder, Vec<Dumped>, Vec<Lsn>, Option<WalError>) {
    let mut decoder = WalDecoder::new(cfg, cluster.start, None);
    let (mut records, mut ends, mut rng) = (Vec::new(), Vec::new(), seed);
    for (segno, path) in &cluster.segments() {
        let mut bytes = Bytes::from(fs::read(path).expect("readable"));
        let before = cluster.start.bytes_since(cluster.seg.start_of(*segno));
        let _ = bytes.split_to(bytes.len().min(before as usize));
        while !bytes.is_empty() {
            // A linear congruential step is random enough for cutting.
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let size = if rng >> 63 == 0 { (rng >> 40) % 64 + 1 } else { (rng >> 40) % 131_072 + 1 };
            let piece = bytes.split_to(bytes.len().min(size as usize));
            let at = decoder.position();
            let fed = decoder.feed_records(at, &piece, &mut |r| {
                records.push(Dumped::of(&r));
                ends.push(r.end);
            });
            if let Err(e) = fed {
                return (decoder, records, ends, Some(e));
            }
        }
    }
    (decoder, records, ends, None)
}
