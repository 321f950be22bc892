//! The session code against PostgreSQL: our client against its server, its client against our server.
//!
//! Skipped with a message where PostgreSQL 15 is not installed. As root, the server runs as user postgres.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libpq::{Auth, ClientConnection, ColumnType, ConnectOptions, CopyEvent, CopyReader, ServerConnection};
use node::pg_now;
use pgformat::Lsn;
use proto::pg::SqlError;
use proto::replication::{ReceiverMessage, SenderMessage, StatusUpdate};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

fn bin(name: &str) -> Option<PathBuf> {
    let path = Path::new("/usr/lib/postgresql/15/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not here", path.display());
    None
}

/// A throw-away cluster on a unix socket; stopped when dropped.
struct Cluster {
    dir: tempfile::TempDir,
    bin: PathBuf,
}

impl Cluster {
    fn start() -> Option<Cluster> {
        let bin = bin("initdb")?.parent()?.to_owned();
        let dir = tempfile::tempdir().expect("a directory");
        harness::give_to_postgres(dir.path()).expect("the server's directory");
        let cluster = Cluster { dir, bin };
        let options = ["-A", "trust", "-U", "postgres", "--no-sync", "--wal-segsize=1"];
        run(cluster.command("initdb").args(options).arg("-D").arg(cluster.data()));
        let hba = "local all scram_user scram-sha-256\nlocal all md5_user md5\nlocal all clear_user password\n\
                   local all all trust\nlocal replication all trust\n";
        std::fs::write(cluster.data().join("pg_hba.conf"), hba).expect("the cluster's directory");
        let settings = format!("-c listen_addresses='' -c fsync=off -k {}", cluster.dir.path().display());
        run(cluster.ctl(&["start", "-w", "-l"]).arg(cluster.dir.path().join("log")).args(["-o", &settings]));
        Some(cluster)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        harness::as_postgres(&self.bin.join(program)).expect("a user to run it as")
    }

    fn ctl(&self, args: &[&str]) -> Command {
        let mut command = self.command("pg_ctl");
        command.arg("-D").arg(self.data()).args(args);
        command
    }

    fn options(&self, user: &str) -> ConnectOptions {
        ConnectOptions {
            host: self.dir.path().to_str().expect("UTF-8").to_owned(),
            port: 5432,
            user: user.into(),
            database: Some("postgres".into()),
            application_name: "proto test".into(),
            ..ConnectOptions::default()
        }
    }

    async fn dial(&self) -> ClientConnection {
        ClientConnection::dial(&self.options("postgres")).await.expect("it listens")
    }

    async fn dial_replication(&self) -> ClientConnection {
        let mut options = self.options("postgres");
        options.parameters = vec![("replication".into(), "true".into())];
        ClientConnection::dial(&options).await.expect("it listens")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(e) = harness::run(&mut self.ctl(&["stop", "-m", "immediate"])) {
            println!("the cluster was not stopped: {e:#}");
        }
    }
}

fn run(command: &mut Command) {
    if let Err(e) = harness::run(command) {
        panic!("{e:#}");
    }
}

fn cell(results: &[libpq::QueryResult], column: usize) -> &str {
    results[0].rows[0][column].as_deref().expect("a value")
}

#[tokio::test]
async fn queries_against_postgresql() {
    let Some(cluster) = Cluster::start() else { return };
    let mut c = cluster.dial().await;
    assert!(c.parameter("server_version").expect("it tells").starts_with("15."));
    let sql = "SET client_min_messages = notice; DO $$ BEGIN RAISE NOTICE 'hello'; END $$; \
               SET application_name TO changed; SELECT 1 AS a, NULL AS b; SELECT 'x' AS c WHERE false";
    let results = c.simple_query(sql).await.expect("valid statements");
    assert_eq!(
        results.iter().map(|r| r.tag.as_str()).collect::<Vec<_>>(),
        ["SET", "DO", "SET", "SELECT 1", "SELECT 0"]
    );
    assert_eq!(results[3].rows, [vec![Some("1".to_owned()), None]]);
    assert_eq!(results[4].columns, ["c"]);
    assert_eq!(c.parameter("application_name"), Some("changed"));
    let error = c.simple_query("SELECT 1; SELECT nonsense").await.expect_err("no such column");
    assert_eq!(error.server_error().expect("from the server").code, "42703");
    assert_eq!(cell(&c.simple_query("SELECT 2").await.expect("usable again"), 0), "2");
    let error = c.simple_query("SELECT pg_terminate_backend(pg_backend_pid())").await.expect_err("ended");
    assert_eq!(error.server_error().expect("from the server").code, "57P01");
}

#[tokio::test]
async fn authentication_against_postgresql() {
    let Some(cluster) = Cluster::start() else { return };
    let mut c = cluster.dial().await;
    let sql = "SET password_encryption='md5'; CREATE USER md5_user PASSWORD 'geheim'; \
               SET password_encryption='scram-sha-256'; CREATE USER scram_user PASSWORD 'geheim'; \
               CREATE USER clear_user PASSWORD 'geheim'";
    c.simple_query(sql).await.expect("valid statements");
    for user in ["md5_user", "scram_user", "clear_user"] {
        let mut options = cluster.options(user);
        options.password = Some("geheim".into());
        let mut c = ClientConnection::dial(&options).await.unwrap_or_else(|e| panic!("{user}: {e}"));
        assert_eq!(cell(&c.simple_query("SELECT current_user").await.expect("an answer"), 0), user);
        options.password = Some("falsch".into());
        let error = ClientConnection::dial(&options).await.err().expect("refused");
        assert_eq!(error.server_error().expect("from the server").code, "28P01", "{user}");
    }
}

/// Reads WAL until `end`; every message continues the one before it.
async fn read_wal(reader: &mut CopyReader, start: Lsn, end: Lsn) {
    let mut at = start;
    while at < end {
        match timeout(LIMIT, reader.next()).await.expect("WAL comes").expect("a frame") {
            CopyEvent::Data(data) => match SenderMessage::decode(data).expect("a known message") {
                SenderMessage::XLogData { start, wal, wal_end, .. } => {
                    assert_eq!(start, at);
                    at = at.add(wal.len() as u64);
                    assert!(wal_end >= Some(at));
                }
                SenderMessage::Keepalive { .. } => {}
            },
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn replication_from_postgresql() {
    let Some(cluster) = Cluster::start() else { return };
    let mut sql = cluster.dial().await;
    sql.simple_query("CREATE TABLE t AS SELECT generate_series(1, 100000) AS n").await.expect("a table");
    let mut c = cluster.dial_replication().await;
    let identity = c.simple_query("IDENTIFY_SYSTEM").await.expect("an answer");
    assert_eq!(identity[0].columns, ["systemid", "timeline", "xlogpos", "dbname"]);
    let end: Lsn = cell(&identity, 2).parse().expect("an LSN");
    let size = c.simple_query("SHOW wal_segment_size").await.expect("an answer");
    assert_eq!(cell(&size, 0), "1MB");

    let start = Lsn::new(end.get() - (end.get() % (1 << 20)) - (3 << 20));
    let (mut reader, mut writer) = c.copy_both(&format!("START_REPLICATION PHYSICAL {start}")).await.expect("WAL");
    read_wal(&mut reader, start, end).await;
    let status =
        StatusUpdate { write: Some(end), flush: Some(end), apply: Some(end), ts: pg_now(), reply_requested: true };
    writer.queue(&ReceiverMessage::StatusUpdate(status).encode(), Bytes::new());
    writer.flush().await.expect("it reads");
    loop {
        let event = timeout(LIMIT, reader.next()).await.expect("an answer").expect("a frame");
        let CopyEvent::Data(data) = event else { panic!("{event:?}") };
        if matches!(SenderMessage::decode(data), Ok(SenderMessage::Keepalive { .. })) {
            break;
        }
    }
    // After the end of the first stream, the same connection starts another.
    let (c, results) = ClientConnection::after_copy(reader, writer).await.expect("back to commands");
    assert!(!results.is_empty());
    // PostgreSQL notices a position ahead of its WAL only inside the stream, but a missing slot before it.
    let (mut reader, _writer) = c.copy_both("START_REPLICATION FF/0").await.expect("a stream");
    let event = timeout(LIMIT, reader.next()).await.expect("at once").expect("a frame");
    assert!(
        matches!(&event, CopyEvent::Error(e) if e.message.contains("ahead of the WAL flush position")),
        "{event:?}"
    );
    let c = cluster.dial_replication().await;
    let refused = c.copy_both("START_REPLICATION SLOT missing 0/0").await.err().expect("no such slot");
    assert_eq!(refused.server_error().expect("from the server").code, "42704");
    let mut c = cluster.dial_replication().await;
    c.simple_query("IDENTIFY_SYSTEM").await.expect("an answer");
    let (mut reader, mut writer) = c.copy_both(&format!("START_REPLICATION {end}")).await.expect("WAL");

    // A fast shutdown waits until everything is reported, then ends the stream.
    let mut stop = cluster.ctl(&["stop", "-m", "fast", "-w", "-s"]).spawn().expect("it runs");
    let mut at = end;
    loop {
        match timeout(LIMIT, reader.next()).await.expect("it ends").expect("a frame") {
            CopyEvent::Data(data) => {
                if let SenderMessage::XLogData { start, wal, .. } = SenderMessage::decode(data).expect("known") {
                    at = start.add(wal.len() as u64);
                }
                let (ts, at) = (pg_now(), Some(at));
                let status = StatusUpdate { write: at, flush: at, apply: at, ts, reply_requested: false };
                writer.queue(&ReceiverMessage::StatusUpdate(status).encode(), Bytes::new());
                writer.flush().await.expect("it reads");
            }
            CopyEvent::Done => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(at > end, "the shutdown checkpoint was streamed");
    let status = harness::wait(&mut stop, "pg_ctl stop", harness::PATIENCE).expect("it ends");
    assert!(status.success(), "pg_ctl stop: {status}");
}

#[tokio::test]
async fn psql_against_our_server() {
    let Some(psql) = bin("psql") else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let server = tokio::spawn(async move {
        let auth = Auth::Password("secret".into());
        let (socket, _) = listener.accept().await.expect("a connection");
        let status = |_: &_| vec![("server_version".to_owned(), "15.4".to_owned())];
        let mut c = ServerConnection::accept(socket, &auth, LIMIT, status).await.expect("a session");
        assert_eq!(c.startup().option("tenant_id"), Some("abc"));
        while let Some(query) = c.next_query().await.expect("a query") {
            match query.as_str() {
                "SHOW VERSION;" => {
                    let rows = [vec![Some("walfabric".to_owned())], vec![None]];
                    c.send_rows(&[("version", ColumnType::Text)], &rows, "SHOW").await.expect("it reads");
                }
                other => {
                    let error = SqlError::syntax(format!("{other} is unknown")).with_hint("Ask something else.");
                    c.send_error(&error).await.expect("it reads");
                }
            }
        }
    });
    let conninfo = format!("host=127.0.0.1 port={port} user=u password=secret dbname=x options='-c tenant_id=abc'");
    let script = "SHOW VERSION;\nBOGUS;\nSHOW VERSION;\n";
    let mut child = tokio::process::Command::new(psql)
        .args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose", "-P", "null=(null)", "-d", &conninfo, "-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("psql runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    tokio::io::AsyncWriteExt::write_all(&mut stdin, script.as_bytes()).await.expect("psql reads");
    drop(stdin);
    let output = timeout(LIMIT, child.wait_with_output()).await.expect("psql ends").expect("psql ran");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(out, "walfabric\n(null)\nwalfabric\n(null)\n", "{err}");
    assert!(err.contains("ERROR:  42601: BOGUS; is unknown") && err.contains("Ask something else."), "{err}");
    server.await.expect("no panic");
}

#[tokio::test]
async fn pgbench_prepares_statements_on_our_server() {
    let Some(pgbench) = bin("pgbench") else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    // Answers every SELECT, prepared or simple.
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut c = ServerConnection::accept(socket, &Auth::Trust, LIMIT, |_| Vec::new()).await.expect("a session");
            tokio::spawn(async move {
                while let Ok(Some(_)) = c.next_query().await {
                    let rows = [vec![Some("1".to_owned())]];
                    c.send_rows(&[("n", ColumnType::Int4)], &rows, "SELECT 1").await.expect("it reads");
                }
            });
        }
    });
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("script.sql");
    std::fs::write(&script, BytesMut::from("SELECT 1;\n")).expect("a file");
    for mode in ["simple", "extended", "prepared"] {
        let output = tokio::process::Command::new(&pgbench)
            .args(["-n", "-h", "127.0.0.1", "-p", &port.to_string(), "-U", "u", "-M", mode, "-t", "20", "-f"])
            .arg(&script)
            .arg("x")
            .output();
        let output = timeout(LIMIT, output).await.expect("pgbench ends").expect("pgbench ran");
        let out = String::from_utf8_lossy(&output.stdout);
        let processed = "number of transactions actually processed: 20/20";
        assert!(out.contains(processed), "{mode}: {out} {}", String::from_utf8_lossy(&output.stderr));
    }
}
