//! A real PostgreSQL 15 of the test's own, started as user postgres and killed when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::PATIENCE;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// PostgreSQL does not run as root: for root the program runs as user postgres.
fn as_postgres(program: &str) -> Command {
    let mut command = harness::as_postgres(Path::new(program)).expect("a user to run it as");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A data directory and, while it runs, its server.
pub(crate) struct Postgres {
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Postgres {
    /// A new cluster, not started.
    pub(crate) fn init() -> Postgres {
        let dir = tempfile::Builder::new().prefix("shim-pg-").tempdir().expect("a directory");
        harness::give_to_postgres(dir.path()).expect("the server's directory");
        let mut initdb = as_postgres(&format!("{BIN}/initdb"));
        initdb.args(["--no-sync", "-A", "trust", "-U", "postgres", "-D"]).arg(dir.path().join("data"));
        harness::run(&mut initdb).unwrap_or_else(|e| panic!("{e:#}"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let postgres = Postgres { dir, port, child: None };
        postgres.set("max_wal_senders", "10");
        postgres.set("unix_socket_directories", postgres.dir.path().to_str().expect("UTF-8"));
        postgres.set("wal_sender_timeout", "5s");
        postgres.set("min_wal_size", "32MB");
        postgres.set("max_wal_size", "64MB");
        postgres
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }

    /// Adds a setting; later ones win.
    pub(crate) fn set(&self, name: &str, value: &str) {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf"));
        writeln!(file.expect("the settings file"), "{name} = '{value}'").expect("written");
    }

    /// Starts the server and waits until it accepts connections. A server that was killed may still hold its memory
    /// for a moment.
    pub(crate) async fn start(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut command = as_postgres(&format!("{BIN}/postgres"));
            command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-h", "127.0.0.1"]);
            let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"));
            command.stderr(log.expect("a log file"));
            let mut child = command.spawn().expect("postgres starts");
            loop {
                if self.connect().await.is_some() {
                    self.child = Some(child);
                    return;
                }
                assert!(Instant::now() < deadline, "PostgreSQL did not start:\n{}", self.log());
                if child.try_wait().expect("a child").is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await; // between two looks
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// kill -9 of the postmaster; its backends notice and end.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our child");
            harness::wait(&mut child, "the killed postmaster", PATIENCE).expect("it ends");
        }
    }

    /// Stops without waiting for standbys: `immediate`.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::QUIT);
    }

    /// Fast shutdown: waits until walsenders have told everything.
    pub(crate) fn stop_fast(&mut self) {
        self.signal(Signal::INT);
    }

    fn signal(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            harness::signal(&child, signal).expect("our child");
            let what = format!("PostgreSQL after {signal:?}");
            harness::wait(&mut child, &what, PATIENCE).unwrap_or_else(|e| panic!("{e}:\n{}", self.log()));
        }
    }

    pub(crate) async fn connect(&self) -> Option<Client> {
        let (client, connection) = tokio_postgres::connect(&self.conninfo(), NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// One value of one row, as text.
    pub(crate) async fn value(&self, query: &str) -> String {
        let client = self.connect().await.expect("PostgreSQL accepts connections");
        value(&client, query).await
    }

    /// Runs statements; their commits wait for nobody.
    pub(crate) async fn execute_async(&self, statements: &str) {
        let client = self.connect().await.expect("PostgreSQL accepts connections");
        let text = format!("SET synchronous_commit = local; {statements}");
        client.batch_execute(&text).await.expect("the statements are sound");
    }

    pub(crate) async fn set_and_reload(&self, name: &str, value: &str) {
        self.set(name, value);
        self.value("SELECT pg_reload_conf()").await;
    }

    /// A copy of the data directory of a stopped server, as a backup would be.
    pub(crate) fn copy_data(&self, to: &str) -> PathBuf {
        assert!(self.child.is_none(), "a running server is not copied like this");
        let target = self.dir.path().join(to);
        copy(&self.data(), &target);
        target
    }

    /// Another server on a copy of the data directory of this stopped one.
    pub(crate) fn twin(&self) -> Postgres {
        assert!(self.child.is_none(), "a running server is not copied like this");
        let twin = Postgres::init();
        twin.restore(&self.data());
        twin.set("unix_socket_directories", twin.dir.path().to_str().expect("UTF-8"));
        twin
    }

    /// Puts a copy in the place of the data directory.
    pub(crate) fn restore(&self, copy_path: &Path) {
        std::fs::remove_dir_all(self.data()).expect("removed");
        copy(copy_path, &self.data());
    }
}

fn copy(from: &Path, to: &Path) {
    harness::copy_tree(from, to).unwrap_or_else(|e| panic!("{e:#}"));
}

/// One value of one row, as text.
pub(crate) async fn value(client: &Client, query: &str) -> String {
    let messages = client.simple_query(query).await.unwrap_or_else(|e| panic!("{query}: {e}"));
    let row = messages.into_iter().find_map(|m| if let SimpleQueryMessage::Row(row) = m { Some(row) } else { None });
    row.and_then(|row| row.get(0).map(str::to_owned)).unwrap_or_default()
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}
