//! Every server answers the same questions in the same form, and says in the same form why it refuses.
//!
//! Method: the three servers in this process, without a broker or a primary; what they answer is compared, not read.

use std::net::SocketAddr;
use std::time::Duration;

use libpq::{ClientConnection, ConnectOptions};
use node::server::RunningServer;
use node::settings::from_flags;
use pageserver::PageserverSettings;
use proto::api::Readiness;
use safekeeper::SafekeeperSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use walproposer_shim::ShimSettings;

const PATIENCE: Duration = Duration::from_secs(20);

/// Connections of each kind: the fewest that can be set.
const CONNECTIONS: usize = 4;

/// The three servers, by name.
struct Servers {
    running: Vec<(&'static str, RunningServer)>,
    cancel: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Servers {
    async fn start() -> Servers {
        let (dir, cancel) = (tempfile::tempdir().expect("a directory"), CancellationToken::new());
        let common = ["--listen-http", "127.0.0.1:0", "--broker", "http://127.0.0.1:1", "--http-connections-max", "4"];
        let node = [&common[..], &["--id", "1", "--listen-pg", "127.0.0.1:0", "--pg-connections-max", "4"]].concat();
        let data = |name: &str| dir.path().join(name).display().to_string();
        let (sk, ps) = (data("sk"), data("ps"));
        let sk = from_flags::<SafekeeperSettings>(&[&node[..], &["--data-dir", &sk]].concat()).expect("valid");
        let ps = from_flags::<PageserverSettings>(&[&node[..], &["--data-dir", &ps]].concat()).expect("valid");
        let id = "00112233445566770123456789abcdef";
        let timeline = ["--tenant-id", id, "--timeline-id", id, "--safekeepers", "127.0.0.1:1"];
        let shim = [&common[..], &timeline, &["--primary", "host=127.0.0.1 port=1 user=postgres"]].concat();
        let shim = from_flags::<ShimSettings>(&shim).expect("valid");
        let running = vec![
            ("safekeeper", safekeeper::start(sk, cancel.clone()).await.expect("it starts")),
            ("pageserver", pageserver::start(ps, cancel.clone()).await.expect("it starts")),
            ("walproposer-shim", walproposer_shim::start(shim, cancel.clone()).await.expect("it starts")),
        ];
        Servers { running, cancel, _dir: dir }
    }

    /// What each of them answers; the form must be one.
    async fn in_one_form<T: PartialEq + std::fmt::Debug>(&self, path: &str, form: impl Fn(Answer) -> T) -> T {
        let mut forms = Vec::new();
        for (name, server) in &self.running {
            forms.push((name, form(ask(server.http_address(), path).await)));
        }
        let (first, one) = forms.remove(0);
        for (name, other) in forms {
            assert_eq!(one, other, "{path} of {first} and of {name}");
        }
        one
    }

    async fn stop(self) {
        self.cancel.cancel();
        for (name, server) in self.running {
            let code = tokio::time::timeout(PATIENCE, server.stopped()).await.expect("it stops");
            assert_eq!(code, 0, "{name}");
        }
    }
}

/// An answer over HTTP.
#[derive(PartialEq, Debug)]
struct Answer {
    status: u16,
    /// Sorted, without the date and the length, which are of the moment.
    headers: Vec<String>,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn keys(&self) -> Vec<String> {
        self.json().keys().cloned().collect()
    }
}

async fn ask(address: SocketAddr, path: &str) -> Answer {
    let asking = async {
        let mut socket = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("it answers");
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines().map(str::to_ascii_lowercase);
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let of_the_moment = |line: &String| ["date:", "content-length:"].iter().any(|name| line.starts_with(name));
    let mut headers: Vec<_> = lines.filter(|line| !of_the_moment(line)).collect();
    headers.sort();
    Answer { status, headers, body: body.to_owned() }
}

/// Connections that are open and say nothing.
async fn silent(address: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(TcpStream::connect(address).await.expect("it listens"));
    }
    held
}

#[tokio::test]
async fn health_and_metrics_have_one_form() {
    let servers = Servers::start().await;
    let alive = servers.in_one_form("/livez", |answer| answer).await;
    assert_eq!((alive.status, alive.body.as_str()), (200, "ok\n"));
    assert!(alive.headers.contains(&format!("{}: {}", node::PID_HEADER, std::process::id())), "{alive:?}");

    servers
        .in_one_form("/readyz", |answer| {
            let word = match answer.status {
                200 => "ok\n",
                503 => "not ready\n",
                other => panic!("{other}"),
            };
            assert_eq!(answer.body, word);
            answer.headers
        })
        .await;
    let verbose = |answer: Answer| {
        let now: Readiness = serde_json::from_str(&answer.body).expect("a readiness");
        assert_eq!(answer.status, if now.ready { 200 } else { 503 }, "{answer:?}");
        assert!(!now.reasons.is_empty(), "the broker is away at least");
        (answer.keys(), answer.headers)
    };
    assert_eq!(servers.in_one_form("/readyz?verbose", verbose).await.0, ["ready", "reasons"]);

    let metrics = |answer: Answer| {
        assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
        let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
        assert!(
            samples.clone().count() > 5 && samples.clone().all(|line| line.starts_with("walfabric_")),
            "{answer:?}"
        );
        (answer.status, answer.headers)
    };
    assert_eq!(servers.in_one_form("/metrics", metrics).await.0, 200);

    let unknown =
        |answer: Answer| (answer.status, answer.headers.clone(), answer.keys(), answer.json()["error"].clone());
    let (status, _, keys, error) = servers.in_one_form("/nope", unknown).await;
    assert_eq!((status, error.as_str()), (404, Some("/nope is not known here")));
    assert_eq!(keys, ["error", "hint"]);
    servers.stop().await;
}

#[tokio::test]
async fn who_is_refused_reads_why_in_one_form() {
    let servers = Servers::start().await;
    let mut held = Vec::new();
    for (_, server) in &servers.running {
        held.extend(silent(server.http_address()).await);
    }
    let refused = servers.in_one_form("/metrics", |answer| answer).await;
    assert!(refused.status == 503 && refused.body.contains("--http-connections-max"), "{refused:?}");
    assert_eq!(servers.in_one_form("/livez", |answer| answer.status).await, 200, "probes are answered");

    let mut texts = Vec::new();
    for (name, server) in &servers.running {
        let Some(address) = server.pg_address() else { continue };
        held.extend(silent(address).await);
        let (host, port) = (address.ip().to_string(), address.port());
        let options = ConnectOptions { host, port, timeout: PATIENCE, ..ConnectOptions::default() };
        let refused = ClientConnection::dial(&options).await.map(drop).expect_err("no place is left");
        let mut refused = refused.server_error().cloned().expect("the server says why");
        assert!(refused.hint.as_ref().is_some_and(|hint| hint.contains("--pg-connections-max")), "{refused:?}");
        refused.message = refused.message.replace(name, "server");
        texts.push(refused);
    }
    assert_eq!((texts.len(), &texts[0]), (2, &texts[1]));
    drop(held);
    servers.stop().await;
}
