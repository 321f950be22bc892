//! The two brokers that the suite runs against: the embedded one and Debian's etcd, each a process on a free port.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use broker::{Broker, Session};
use brokerd::{BrokerLimits, QUOTA_BYTES, serve_within};
use etcd_client::Client;
use tempfile::TempDir;
use tests::process::{Process, free_port};
use tests::wait;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything here; generous, since the gate's machine is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Set for the process that is the embedded broker: its directory and address.
const DIR_VARIABLE: &str = "CONFORMANCE_BROKER_DIR";
const LISTEN_VARIABLE: &str = "CONFORMANCE_BROKER_LISTEN";
const QUOTA_VARIABLE: &str = "CONFORMANCE_BROKER_QUOTA";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Embedded,
    Etcd,
}

/// A broker process; killed when dropped.
pub(crate) struct Server {
    kind: Kind,
    dir: TempDir,
    port: u16,
    peer_port: u16,
    quota_bytes: u64,
    process: Option<Process>,
}

impl Server {
    pub(crate) async fn start(kind: Kind) -> Server {
        Server::with_quota(kind, QUOTA_BYTES).await
    }

    /// With another quota than both brokers have by themselves.
    pub(crate) async fn with_quota(kind: Kind, quota_bytes: u64) -> Server {
        let dir = tempfile::tempdir().expect("temp dir");
        let (port, peer_port) = (free_port(), free_port());
        let mut server = Server { kind, dir, port, peer_port, quota_bytes, process: None };
        server.restart().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn broker(&self) -> Broker {
        Broker::new(&self.url(), "/conformance").expect("a good URL")
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.expect("a client dials lazily")
    }

    /// A session with a short lease, and its end.
    pub(crate) fn session(&self, ttl_s: i64) -> Session {
        Session::start(self.broker(), ttl_s, CancellationToken::new())
    }

    /// Starts it on the same directory and port, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        let command = match self.kind {
            Kind::Embedded => self.embedded(),
            Kind::Etcd => self.etcd(),
        };
        let log = self.dir.path().join("log");
        self.process = Some(Process::spawn(command, &log).expect("the broker starts"));
        let mut client = self.client().await;
        let answered = wait::until("the broker's first answer", PATIENCE, async || {
            let running = self.process.as_mut().is_some_and(Process::running);
            if !running {
                return Some(false);
            }
            let request = tokio::time::timeout(Duration::from_secs(1), client.get("health", None));
            request.await.is_ok_and(|answer| answer.is_ok()).then_some(true)
        });
        assert!(answered.await, "the broker ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    /// Removes everything that it stored.
    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(self.data()).expect("the data directory goes");
    }

    /// Copies what it stored; for a broker that does not run.
    pub(crate) fn backup(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("temp dir");
        copy_dir(&self.data(), copy.path());
        copy
    }

    /// Puts a copy back.
    pub(crate) fn restore(&self, copy: &TempDir) {
        self.wipe();
        copy_dir(copy.path(), &self.data());
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// This test program again, told to be a broker: kill -9 needs a process of its own.
    fn embedded(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("the test program has a path"));
        command.args(["--exact", "embedded_broker_process", "--nocapture"]);
        command.env(DIR_VARIABLE, self.data()).env(LISTEN_VARIABLE, format!("127.0.0.1:{}", self.port));
        command.env(QUOTA_VARIABLE, self.quota_bytes.to_string());
        command
    }

    fn etcd(&self) -> Command {
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.data());
        command.args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--quota-backend-bytes", &self.quota_bytes.to_string()]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        command
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directory");
    for entry in std::fs::read_dir(from).expect("directory") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("file");
        }
    }
}

/// Body of the embedded broker's process; does nothing in an ordinary test run.
pub(crate) async fn be_the_embedded_broker() {
    let (Ok(dir), Ok(listen)) = (std::env::var(DIR_VARIABLE), std::env::var(LISTEN_VARIABLE)) else { return };
    let listen = listen.parse().expect("an address");
    let quota = std::env::var(QUOTA_VARIABLE).expect("the quota");
    let limits = BrokerLimits { quota_bytes: quota.parse().expect("a number"), ..BrokerLimits::default() };
    let served = serve_within(limits, dir.into(), listen, |_| {}, CancellationToken::new()).await;
    panic!("the embedded broker ended: {served:?}");
}
