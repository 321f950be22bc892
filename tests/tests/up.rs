//! Failed starts and unclean stops of a fabric: nothing is left behind, and every problem is reported.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Bounded as _, PATIENCE};
use rustix::process::Signal;
use tests::fabric::binary;
use tests::process::{Process, free_port};
use tests::wait;
use walfabric::fabric::{Fabric, FabricDir};
use walfabric::{sql, supervisor};

/// A fabric that may or may not come up; taken down when dropped.
struct Tried {
    dir: tempfile::TempDir,
}

impl Tried {
    fn new() -> Result<Tried> {
        let dir = tempfile::Builder::new().prefix("walfabric-up-").tempdir()?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Tried { dir })
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("f")
    }

    fn command(&self, verb: &str, rest: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.arg(verb).arg("--dir").arg(self.root()).args(rest);
        Ok(command)
    }

    fn run(&self, verb: &str, rest: &[&str]) -> Result<(Option<i32>, String)> {
        let Output { status, stdout, stderr } = self.command(verb, rest)?.output_within(PATIENCE)?;
        Ok((status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()))
    }

    /// Processes that name this directory.
    fn processes(&self) -> Result<Vec<String>> {
        let mark = self.root().display().to_string();
        let pids = std::fs::read_dir("/proc")?.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        Ok(pids.filter_map(supervisor::command_line).filter(|c| c.contains(&mark)).collect())
    }

    /// Nothing runs, and nothing but the logs is there.
    fn is_undone(&self) -> Result<()> {
        assert_eq!(self.processes()?, Vec::<String>::new());
        if self.root().exists() {
            let left: Vec<_> = std::fs::read_dir(self.root())?.map(|e| Ok(e?.file_name())).collect::<Result<_>>()?;
            assert_eq!(left, ["log"]);
        }
        Ok(())
    }

    /// A folder of PostgreSQL's programs that are scripts: `{real}` is where the real ones are, `{dir}` is ours.
    fn programs(&self, initdb: &str, postgres: &str) -> Result<String> {
        let (folder, real) = (self.dir.path().join("bin"), walfabric::postgres::find_bin_dir(None)?);
        std::fs::create_dir_all(&folder)?;
        for (name, script) in [("initdb", initdb), ("postgres", postgres)] {
            let text = format!(
                "#!/bin/sh\n{}\n",
                script
                    .replace("{real}", &real.display().to_string())
                    .replace("{dir}", &self.dir.path().display().to_string())
            );
            std::fs::write(folder.join(name), text)?;
            std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(folder.display().to_string())
    }
}

impl Drop for Tried {
    fn drop(&mut self) {
        let _ = self.run("down", &["--wait-s", "1"]);
    }
}

/// Goal: a broker that is not there, a missing PostgreSQL, and a directory of something else make nothing, start
/// nothing and write nothing.
#[test]
fn what_cannot_come_up_leaves_nothing() -> Result<()> {
    let tried = Tried::new()?;
    let dead = format!("http://127.0.0.1:{}", free_port());
    for _ in 0..2 {
        let (code, text) = tried.run("up", &["--detach", "--broker", &dead])?;
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains(&format!("broker {dead} does not answer")) && text.contains("is stopped again"),
            "{text}"
        );
        tried.is_undone()?;
    }
    let (code, text) = tried.run("up", &["--detach", "--pg-bin", "/nonexistent"])?;
    assert!(code == Some(1) && text.contains("--pg-bin /nonexistent"), "{text}");
    tried.is_undone()?;

    std::fs::write(tried.root().join("letter.txt"), "dear")?;
    let (code, text) = tried.run("up", &["--detach", "--no-postgres"])?;
    assert!(code == Some(2) && text.contains("letter.txt") && text.contains("is not empty"), "{code:?} {text}");
    assert!(!tried.root().join("fabric.json").exists());
    Ok(())
}

/// Goal: what `up` had started when it failed or was interrupted is stopped, and the same command, repeated, goes on.
/// Method: an initdb that fails, a PostgreSQL that never answers, SIGINT meanwhile, then the real ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_bring_up_is_undone_and_repeated() -> Result<()> {
    let tried = Tried::new()?;
    let real = ("exec {real}/initdb \"$@\"", "exec {real}/postgres \"$@\"");
    let bin = tried.programs("echo no space >&2; exit 1", real.1)?;
    let shape = ["--wal-segsize", "1", "--data-checksums", "--locale", "C", "--initdb-option=--encoding=LATIN1"];
    let up: Vec<&str> = ["--detach", "--safekeepers", "3", "--pg-bin", &bin].into_iter().chain(shape).collect();
    let (code, text) = tried.run("up", &up)?;
    assert!(code == Some(1) && text.contains("no space") && text.contains("is stopped again"), "{code:?} {text}");
    assert!(text.contains("safekeeper-3"), "it had started something: {text}");
    tried.is_undone()?;

    tried.programs(real.0, "exec sleep 600")?;
    let log = tried.dir.path().join("up.log");
    let mut interrupted = Process::spawn(tried.command("up", &up)?, &log)?;
    let sleeps = || FabricDir::new(&tried.root()).ok()?.read_fabric().ok()?.postgres?.pid;
    wait::until_blocking("PostgreSQL's start", Duration::from_secs(60), sleeps);
    interrupted.signal(Signal::INT);
    assert_eq!(interrupted.wait("the interrupted up", PATIENCE), Some(1));
    let text = std::fs::read_to_string(&log)?;
    assert!(text.contains("interrupted") && text.contains("the same command goes on"), "{text}");
    assert_eq!(tried.processes()?, Vec::<String>::new());

    tried.programs(real.0, real.1)?;
    let (code, text) = tried.run("up", &up)?;
    ensure!(code == Some(0), "the same command again: {text}");
    everything_is_private(&tried.root())?;
    for (name, pid) in FabricDir::new(&tried.root())?.read_fabric()?.pids() {
        assert_ne!(std::fs::metadata(format!("/proc/{pid}"))?.uid(), 0, "{name} runs as root");
    }
    the_cluster_is_as_asked(&tried).await?;
    a_shell_finds_the_fabric(&tried)?;
    wrong_ports_are_named(&tried)?;
    an_unclean_stop_is_told(&tried).await
}

/// Goal: nobody but the owner reads or enters anything of a running fabric: data, logs, sockets, descriptions. Nothing
/// is root's, and root runs none of it.
fn everything_is_private(root: &Path) -> Result<()> {
    let mut open = vec![root.to_owned()];
    let (mut looked_at, mut public) = (0, Vec::new());
    while let Some(path) = open.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue }; // gone meanwhile
        if meta.permissions().mode() & 0o077 != 0 {
            public.push(format!("{:o} {}", meta.permissions().mode(), path.display()));
        }
        if meta.uid() == 0 {
            public.push(format!("root's: {}", path.display()));
        }
        looked_at += 1;
        if meta.is_dir() {
            open.extend(std::fs::read_dir(&path)?.filter_map(|entry| Some(entry.ok()?.path())));
        }
    }
    assert_eq!(public, Vec::<String>::new());
    assert!(looked_at > 500, "the fabric has more than {looked_at} files");
    Ok(())
}

/// Goal: root does nothing that a fabric's user has written into it. Method: an initdb that tells who runs it, storage
/// and data in directories of root's, links to them; every verb, as root, before and after.
#[test]
fn root_does_nothing_for_the_fabrics_user() -> Result<()> {
    let Some((uid, gid)) = walfabric::postgres::run_as()? else {
        println!("skipped: needs root");
        return Ok(());
    };
    let tried = Tried::new()?;
    let bin = tried.programs("cat /proc/self/status >> {dir}/who; exit 1", "exit 1")?;
    let (code, text) = tried.run("up", &["--detach", "--no-postgres"])?;
    ensure!(code == Some(0), "{text}");
    assert_eq!(tried.run("down", &[])?.0, Some(0));
    let dir = FabricDir::new(&tried.root())?;
    assert_eq!(std::fs::metadata(dir.root())?.uid(), uid);

    let (closed, who) = (tried.dir.path().join("closed"), tried.dir.path().join("who"));
    for folder in ["unit.d", "unit.new", "pageserver-1"] {
        std::fs::create_dir_all(closed.join(folder))?;
        std::fs::write(closed.join(folder).join("file"), "root's")?;
    }
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700))?;
    std::fs::write(&who, "")?;
    std::os::unix::fs::chown(&who, Some(uid), Some(gid))?;
    let before = looks(&closed)?;
    let mut fabric = dir.read_fabric()?;
    let port = free_port();
    fabric.postgres = Some(serde_json::from_value(serde_json::json!({
        "host": "127.0.0.1", "port": port, "user": "postgres", "dbname": "postgres", "bin_dir": bin,
        "data_dir": dir.data("postgres"), "pid": std::process::id(),
    }))?);
    fabric.shim = Some(serde_json::from_value(serde_json::json!({ "http": format!("127.0.0.1:{}", free_port()) }))?);
    let try_all = |fabric: &Fabric| -> Result<()> {
        dir.write_fabric(fabric)?;
        std::os::unix::fs::chown(dir.fabric_json(), Some(uid), Some(gid))?;
        for (verb, rest) in [("up", "--detach"), ("kill", "postgres"), ("stop", "postgres"), ("down", "--wait-s=1")] {
            let (code, text) = tried.run(verb, &[rest])?;
            assert!(verb != "up" || code == Some(1), "{text}");
            assert_eq!(looks(&closed)?, before, "{verb}: {text}");
        }
        Ok(())
    };
    try_all(&fabric)?;
    let said = std::fs::read_to_string(&who)?;
    let ran: Vec<_> = said.lines().filter(|line| line.starts_with("Uid:")).collect();
    assert!(!ran.is_empty(), "initdb ran");
    assert!(ran.iter().all(|line| !line.split_whitespace().any(|id| id == "0")), "{ran:?}");
    fabric.postgres.iter_mut().for_each(|pg| pg.data_dir = closed.join("unit.x"));
    fabric.remote_storage = Some(format!("file://{}", closed.join("pageserver-1/x").display()));
    try_all(&fabric)?;
    fabric.remote_storage = Some(format!("file://{}", closed.display()));
    try_all(&fabric)?;
    std::fs::remove_dir_all(dir.root().join("log"))?;
    std::os::unix::fs::symlink(&closed, dir.root().join("log"))?;
    fabric.remote_storage = None;
    try_all(&fabric)
}

/// Path, owner and mode of everything below a directory.
fn looks(dir: &Path) -> Result<Vec<(PathBuf, u32, u32)>> {
    let mut open = vec![dir.to_owned()];
    let mut seen = Vec::new();
    while let Some(path) = open.pop() {
        let meta = std::fs::symlink_metadata(&path)?;
        seen.push((path.clone(), meta.uid(), meta.mode()));
        if meta.is_dir() {
            open.extend(std::fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?);
        }
    }
    seen.sort();
    Ok(seen)
}

/// Goal: options reach initdb, and a cluster with other than the usual segments is equal to its pages.
async fn the_cluster_is_as_asked(tried: &Tried) -> Result<()> {
    let fabric = FabricDir::new(&tried.root())?.read_fabric()?;
    let pg = fabric.postgres.context("postgres")?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute("CREATE TABLE big AS SELECT generate_series(1, 40000) AS n").await?;
    let asked = "SELECT concat_ws(' ', current_setting('wal_segment_size'), current_setting('data_checksums'), \
                 current_setting('lc_collate'), current_setting('server_encoding'))";
    assert_eq!(sql::text(&client, asked).await?, "1MB on C LATIN1");
    drop(client);
    let (code, text) = tried.run("up", &["--detach", "--wal-segsize", "16"])?;
    assert!(code == Some(2) && text.contains("--wal-segsize=1 "), "a made cluster is not made anew: {text}");

    let (code, text) = tried.run("stop", &["postgres"])?;
    assert_eq!((code, text.as_str()), (Some(0), ""));
    let (tenant, timeline) = (fabric.tenant_id.to_string(), fabric.timeline_id.to_string());
    let mut verify = Command::new(binary()?);
    verify.args(["page", "verify", "--pageserver", &fabric.pageservers[0].pg, "--tenant", &tenant]);
    let verify = verify.args(["--timeline", &timeline, "--data-dir"]).arg(&pg.data_dir).output_within(PATIENCE)?;
    assert_eq!(verify.status.code(), Some(0), "{}", String::from_utf8_lossy(&verify.stdout));
    assert_eq!(tried.run("start", &["postgres"])?.0, Some(0));
    let probe = sql::connect(&pg.conninfo()).await?;
    tokio::time::timeout(PATIENCE, probe.batch_execute("CREATE TABLE protected_again ()")).await??;
    Ok(())
}

/// Goal: the README's first commands work as they are pasted. Method: a shell that has `walfabric env`
/// and nothing else to go by.
fn a_shell_finds_the_fabric(tried: &Tried) -> Result<()> {
    let program = binary()?;
    let bin = walfabric::postgres::find_bin_dir(None)?;
    let script = format!(
        "eval \"$({0} env --dir {1})\"\n\
         {2}/psql -AtXc \"SELECT 'rows ' || count(*) FROM big\"\n\
         {0} page get --pageserver \"$WALFABRIC_PAGESERVER\" --tenant \"$WALFABRIC_TENANT\" \\\n\
             --timeline \"$WALFABRIC_TIMELINE\" --rel 1664/0/1262 --block 0 | wc -c\n\
         {0} status --broker \"$WALFABRIC_BROKER\" | grep -c '^  safekeeper'\n",
        program.display(),
        tried.root().display(),
        bin.display(),
    );
    let output = Command::new("sh").args(["-ec", &script]).env("PGHOST", "/nowhere").output_within(PATIENCE)?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["rows", "40000", "8192", "3"], "{text}");
    Ok(())
}

/// Goal: `page` given the port of another server says which one that is.
fn wrong_ports_are_named(tried: &Tried) -> Result<()> {
    let fabric = FabricDir::new(&tried.root())?.read_fabric()?;
    let (keeper, pg) = (&fabric.safekeepers[1], fabric.postgres.context("postgres")?);
    let ports = [
        (keeper.pg.clone(), "is safekeeper 2; give a pageserver"),
        (keeper.http.clone(), "is safekeeper 2; give a pageserver"),
        (format!("{}:{}", pg.host, pg.port), "is a PostgreSQL ("),
        (fabric.shim.context("shim")?.http, "is a walproposer-shim; give a pageserver"),
    ];
    let (tenant, timeline) = (fabric.tenant_id.to_string(), fabric.timeline_id.to_string());
    for (address, words) in ports {
        let mut command = Command::new(binary()?);
        command.args(["page", "get", "--rel", "1664/0/1262", "--block", "0", "--pageserver", &address]);
        let output = command.args(["--tenant", &tenant, "--timeline", &timeline]).output_within(PATIENCE)?;
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(words), "{address}: {text}");
    }
    Ok(())
}

/// Goal: PostgreSQL that cannot end in order, because commits wait for a quorum that is not there, is stopped all the
/// same, and that is said.
async fn an_unclean_stop_is_told(tried: &Tried) -> Result<()> {
    let pg = FabricDir::new(&tried.root())?.read_fabric()?.postgres.context("postgres")?;
    for name in ["safekeeper-1", "safekeeper-2"] {
        assert_eq!(tried.run("kill", &[name])?.0, Some(0));
    }
    let client = sql::connect(&pg.conninfo()).await?;
    let insert = tokio::spawn(async move { client.batch_execute("CREATE TABLE t (n int)").await });
    let watcher = sql::connect(&pg.conninfo()).await?;
    let waiting = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait::until("a commit that waits", PATIENCE, async || {
        (sql::text(&watcher, waiting).await.ok()? == "1").then_some(())
    })
    .await;
    drop(watcher);
    let (code, text) = tried.run("stop", &["postgres", "--wait-s", "1"])?;
    assert_eq!(code, Some(1), "{text}");
    for words in ["did not shut down cleanly", "within 1 s", "crash recovery", "page verify", "the shim said"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let (code, text) = tried.run("stop", &["postgres"])?;
    assert_eq!((code, text.as_str()), (Some(0), ""), "as asked already");
    assert!(tokio::time::timeout(Duration::from_secs(10), insert).await??.is_err(), "the commit was not acknowledged");
    let (code, text) = tried.run("down", &[])?;
    assert_eq!((code, text.as_str()), (Some(0), ""));
    a_taken_port_is_told(tried)
}

/// Goal: a server of another fabric that has got a port of this one is not taken for this one's.
fn a_taken_port_is_told(tried: &Tried) -> Result<()> {
    let node = FabricDir::new(&tried.root())?.read_fabric()?.safekeepers[0].clone();
    let mut stranger = Command::new(binary()?);
    stranger.args(["safekeeper", "--id", "1", "--broker", "http://127.0.0.1:1", "--listen-pg", "127.0.0.1:0"]);
    stranger.args(["--listen-http", &node.http, "--data-dir"]).arg(tried.dir.path().join("stranger"));
    let log = tried.dir.path().join("stranger.log");
    let _stranger = Process::spawn(stranger, &log)?;
    let listens = || std::fs::read_to_string(&log).ok()?.contains(&node.http).then_some(());
    wait::until_blocking("the stranger's start", Duration::from_secs(30), listens);
    let (code, text) = tried.run("up", &["--detach"])?;
    assert!(code == Some(1) && text.contains("safekeeper-1") && text.contains("Address already in use"), "{text}");
    assert!(text.contains("is stopped again"), "{text}");
    assert_eq!(tried.processes()?, Vec::<String>::new());
    Ok(())
}
