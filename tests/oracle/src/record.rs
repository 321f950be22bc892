//! Recordings: workloads that write every type of record, on clusters whose log has check images.
//!
//! A recording is a directory with `base` (the data directory before the first record), `data` (after a clean
//! shutdown) and, in `data/pg_wal`, the whole log between them.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use crate::cluster::{Cluster, Programs};
use crate::regress::Suite;

/// What is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Workload {
    /// SQL for every resource manager that changes pages.
    Extra,
    /// What SQL alone does not produce: lost records, promotion, truncated SLRUs, hints, compression.
    Special,
    /// `wal_level = minimal`, segments of 1 MiB.
    Minimal,
    /// PostgreSQL's own regression tests.
    Regress,
}

impl Workload {
    /// Its name on the command line and of its directory.
    pub const fn name(self) -> &'static str {
        match self {
            Workload::Extra => "extra",
            Workload::Special => "special",
            Workload::Minimal => "minimal",
            Workload::Regress => "regress",
        }
    }
}

/// Scripts of [`Workload::Extra`], in a database of their own.
const SCRIPTS: [(&str, &str); 10] = [
    ("log", include_str!("../workloads/log.sql")),
    ("heap", include_str!("../workloads/heap.sql")),
    ("multixact", include_str!("../workloads/multixact.sql")),
    ("btree", include_str!("../workloads/btree.sql")),
    ("hash", include_str!("../workloads/hash.sql")),
    ("gin", include_str!("../workloads/gin.sql")),
    ("gist", include_str!("../workloads/gist.sql")),
    ("spgist", include_str!("../workloads/spgist.sql")),
    ("brin", include_str!("../workloads/brin.sql")),
    ("generic", include_str!("../workloads/generic.sql")),
];

/// Settings of every recording. The log is kept whole; nothing changes the cluster behind the workload's back.
const SETTINGS: &str = "shared_buffers = 256MB
max_wal_size = 8GB
checkpoint_timeout = 30min
wal_keep_size = 100GB
max_prepared_transactions = 20
max_replication_slots = 10
track_commit_timestamp = on
wal_consistency_checking = 'all'
autovacuum = off
jit = off
";

/// Makes a recording of size `n` (1 is small) in `dir`, which must not exist.
///
/// # Errors
/// When the server or a script fails.
pub fn record(programs: Programs, workload: Workload, dir: &Path, n: u32) -> Result<()> {
    match workload {
        Workload::Extra => extra(programs, dir, n),
        Workload::Special => special(programs, dir, n),
        Workload::Minimal => minimal(programs, dir, n),
        Workload::Regress => regress(programs, dir),
    }
}

fn extra(programs: Programs, dir: &Path, n: u32) -> Result<()> {
    let mut cluster = Cluster::create(programs, dir, &[])?;
    cluster.keep_base()?;
    // lz4 where the server knows it; pglz takes more time than what it saves is worth.
    let compression = if cluster.has_lz4()? { "lz4" } else { "off" };
    cluster.configure(&format!("{SETTINGS}wal_level = logical\nwal_compression = {compression}"))?;
    cluster.start()?;
    for tablespace in ["space", "kept"] {
        std::fs::create_dir(dir.join(tablespace))?;
        cluster.own(&dir.join(tablespace))?;
    }
    cluster.script("postgres", "databases", include_str!("../workloads/databases.sql"), n)?;
    cluster.query("postgres", "create database extra")?;
    for (name, text) in SCRIPTS {
        cluster.script("extra", name, text, n)?;
    }
    cluster.stop("fast")
}

/// The first transaction of a second segment of the commit log.
const FIRST_XID: &str = "1048576";
/// The first multixact of a third segment of the offsets, and the oldest that is still there.
const FIRST_MULTIXACTS: &str = "131072,1";

fn special(programs: Programs, dir: &Path, n: u32) -> Result<()> {
    let mut cluster = Cluster::create(programs, dir, &["-k"])?;
    // Most packages have no pg_resetwal: then all the transactions between are really used up.
    let jumps = cluster.has("pg_resetwal");
    if jumps {
        cluster.reset_log(&["-x", FIRST_XID, "-m", FIRST_MULTIXACTS])?;
    }
    cluster.keep_base()?;
    cluster.configure(&format!("{SETTINGS}wal_level = replica"))?;
    cluster.start()?;
    cluster.script("postgres", "hints", include_str!("../workloads/hints.sql"), n)?;
    cluster.script("postgres", "compression", include_str!("../workloads/compression.sql"), n)?;
    cluster.script("postgres", "multixact", include_str!("../workloads/multixact.sql"), n)?;
    cluster.script(
        "postgres",
        "freeze",
        include_str!("../workloads/freeze.sql"),
        if jumps { 60_000 } else { 1_100_000 },
    )?;
    freeze_everything(&cluster)?;
    lose_a_record(&mut cluster)?;
    promote(&mut cluster)?;
    cluster.stop("fast")
}

/// Advances every horizon to now, so that the SLRUs are truncated.
fn freeze_everything(cluster: &Cluster) -> Result<()> {
    let allow = |yes: bool| {
        cluster.query("postgres", &format!("update pg_database set datallowconn = {yes} where datname = 'template0'"))
    };
    allow(true)?;
    for _ in 0..2 {
        for database in ["template0", "template1", "postgres"] {
            cluster.query(database, "vacuum (freeze)")?;
        }
    }
    allow(false)?;
    cluster.query("postgres", "checkpoint").map(drop)
}

/// Crashes in the middle of a record whose rest is lost, so that the restarted server overwrites it.
fn lose_a_record(cluster: &mut Cluster) -> Result<()> {
    cluster.query("postgres", "checkpoint")?;
    cluster.query("postgres", "select pg_switch_wal()")?;
    // Part of the transaction, so that its commit writes all of it.
    cluster.query("postgres", "select pg_logical_emit_message(true, 'big', repeat('z', 20000000))")?;
    let last = cluster.query("postgres", "select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    cluster.stop("immediate")?;
    let mut lost = 0;
    for entry in std::fs::read_dir(cluster.data().join("pg_wal"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() == last.len() && name >= last {
            std::fs::remove_file(entry.path())?;
            lost += 1;
        }
    }
    ensure!(lost > 0, "{last} is not there");
    cluster.start()?;
    cluster.query("postgres", "insert into hinted values (-1, 'after the crash')").map(drop)
}

/// Makes the cluster a standby that has nothing to replay, and promotes it: the log goes on with the next tli.
fn promote(cluster: &mut Cluster) -> Result<()> {
    cluster.stop("fast")?;
    let signal = cluster.data().join("standby.signal");
    std::fs::write(&signal, "").context("standby.signal")?;
    cluster.own(&signal)?;
    cluster.start()?;
    cluster.promote()?;
    cluster.query("postgres", "create table promoted as select i from generate_series(1, 1000) i")?;
    cluster.query("postgres", "update hinted set b = 'promoted' where a % 100 = 0").map(drop)
}

fn minimal(programs: Programs, dir: &Path, n: u32) -> Result<()> {
    let mut cluster = Cluster::create(programs, dir, &["--wal-segsize=1"])?;
    cluster.keep_base()?;
    // What one transaction creates and fills is logged as images at its end, however large it is.
    cluster.configure(&format!("{SETTINGS}wal_level = minimal\nmax_wal_senders = 0\nwal_skip_threshold = 1GB"))?;
    cluster.start()?;
    cluster.script("postgres", "minimal", include_str!("../workloads/minimal.sql"), n)?;
    cluster.stop("fast")
}

fn regress(programs: Programs, dir: &Path) -> Result<()> {
    let mut cluster = Cluster::create(programs, dir, &[])?;
    let suite = Suite::find(cluster.major()?)?;
    cluster.keep_base()?;
    // Ten gigabytes without compression.
    let compression = if cluster.has_lz4()? { "lz4" } else { "on" };
    cluster.configure(&format!("{SETTINGS}wal_compression = {compression}\nrestart_after_crash = off"))?;
    cluster.start()?;
    let left_out = suite.run(&cluster);
    let log = std::fs::read(dir.join("log"))?;
    let log = String::from_utf8_lossy(&log);
    let mut lines = log.lines().skip_while(|line| !line.contains("was terminated by signal"));
    // What the process was doing stands in the line behind.
    if let Some(crash) = lines.next() {
        bail!("the server crashed: {crash} {}", lines.next().unwrap_or_default());
    }
    let left_out = left_out?;
    if !left_out.is_empty() {
        println!("tests left out, because they need a regress.so for this server or crash it: {}", left_out.join(" "));
    }
    cluster.stop("fast")
}
