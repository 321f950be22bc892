//! Stock `etcdctl` against both brokers, and both brokers against each other.

use std::process::{Command, Output, Stdio};

use etcd_client::{Client, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp};
use harness::Bounded as _;
use tests::wait;

use crate::server::{Kind, PATIENCE, Server};

fn etcdctl(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    // Without "http://": etcdctl 3.4 would send that as the name of the host when it asks for the status.
    let url = server.url();
    let endpoint = url.trim_start_matches("http://");
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoint]).args(arguments);
    command
}

fn run(server: &Server, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } =
        etcdctl(server, arguments).output_within(PATIENCE).expect("etcdctl is installed");
    assert!(status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

pub(crate) async fn etcdctl_works(kind: Kind) {
    let server = Server::start(kind).await;
    let dir = tempfile::tempdir().expect("temp dir");
    assert_eq!(run(&server, &["put", "/w/sk/1", "one"]), "OK\n");
    assert_eq!(run(&server, &["get", "--prefix", "/w/"]), "/w/sk/1\none\n");
    let told = dir.path().join("watch");
    let mut watching = etcdctl(&server, &["watch", "--prefix", "/w/", "--rev", "2"])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&told).expect("file"))
        .spawn()
        .expect("etcdctl is installed");
    let broker = server.broker();
    broker.put("/w/sk/2", b"two".to_vec()).await.expect("put");
    broker.delete("/w/sk/1").await.expect("delete");
    let expected = "PUT\n/w/sk/1\none\nPUT\n/w/sk/2\ntwo\nDELETE\n/w/sk/1\n\n";
    wait::until("etcdctl's report", PATIENCE, async || {
        (std::fs::read_to_string(&told).expect("file") == expected).then_some(())
    })
    .await;
    watching.kill().expect("etcdctl is stopped");
    watching.wait().expect("etcdctl is stopped");
    let lease = run(&server, &["lease", "grant", "100"]);
    let id = lease.split_whitespace().nth(1).expect("lease ID granted with ...").to_owned();
    run(&server, &["put", "/w/leased", "x", "--lease", &id]);
    assert!(run(&server, &["lease", "timetolive", &id, "--keys"]).contains("/w/leased"));
    run(&server, &["lease", "keep-alive", "--once", &id]);
    run(&server, &["lease", "revoke", &id]);
    assert_eq!(run(&server, &["get", "/w/leased"]), "");
    assert_eq!(run(&server, &["del", "--prefix", "/w/"]), "1\n");
    assert!(run(&server, &["endpoint", "status"]).contains("true"), "it leads");
    run(&server, &["endpoint", "health"]);
    assert!(run(&server, &["member", "list"]).contains("started"));
    run(&server, &["compaction", "3"]);
}

/// Goal: the embedded broker gives the answers that etcd gives. Method: the same random requests to both, answers
/// compared as a whole, apart from who gave them.
pub(crate) async fn both_brokers_give_the_same_answers() {
    let (embedded, etcd) = (Server::start(Kind::Embedded).await, Server::start(Kind::Etcd).await);
    let (mut ours, mut theirs) = (embedded.client().await, etcd.client().await);
    for lease in 1..=2 {
        let options = || Some(etcd_client::LeaseGrantOptions::new().with_id(lease));
        ours.lease_grant(600, options()).await.expect("grant");
        theirs.lease_grant(600, options()).await.expect("grant");
    }
    // One seed: the gate asks the same questions every time.
    let seed = 7;
    let mut random = fastrand::Rng::with_seed(seed);
    for step in 0..400 {
        let request = Request::random(&mut random);
        let (a, b) = (request.ask(&mut ours).await, request.ask(&mut theirs).await);
        assert_eq!(a, b, "seed {seed}, step {step}: {request:?}");
    }
}

#[derive(Debug)]
enum Request {
    Get(String, GetOptions),
    Put(String, String, PutOptions),
    Delete(String, DeleteOptions),
    Txn(Txn),
    Revoke(i64),
    Compact(i64),
}

fn key(random: &mut fastrand::Rng) -> String {
    ["a", "a/", "a/1", "a/2", "b", "b/1", "c"][random.usize(..7)].to_owned()
}

fn get_options(random: &mut fastrand::Rng) -> GetOptions {
    use etcd_client::{SortOrder, SortTarget};
    let mut options = GetOptions::new();
    options = match random.u8(..5) {
        0 | 1 => options.with_prefix(),
        2 => options.with_from_key(),
        3 => options.with_range("b"),
        _ => options,
    };
    if random.bool() {
        let order = if random.bool() { SortOrder::Ascend } else { SortOrder::Descend };
        // By key there are no ties. Two puts of one transaction share their mod revision, and etcd's sort is not
        // stable.
        options = options.with_sort(SortTarget::Key, order);
    }
    if random.u8(..4) == 0 {
        options = options.with_limit(random.i64(1..3));
    }
    match random.u8(..8) {
        0 => options.with_keys_only(),
        1 => options.with_count_only(),
        2 => options.with_min_mod_revision(random.i64(1..40)),
        3 => options.with_max_create_revision(random.i64(1..40)),
        _ => options,
    }
}

fn put_options(random: &mut fastrand::Rng) -> PutOptions {
    let options = if random.bool() { PutOptions::new().with_prev_key() } else { PutOptions::new() };
    match random.u8(..8) {
        0 | 1 => options.with_lease(random.i64(1..4)),
        2 => options.with_ignore_lease(),
        3 => options.with_ignore_value(),
        _ => options,
    }
}

fn delete_options(random: &mut fastrand::Rng) -> DeleteOptions {
    let options = if random.bool() { DeleteOptions::new().with_prev_key() } else { DeleteOptions::new() };
    match random.u8(..4) {
        0 => options.with_prefix(),
        1 => options.with_range("b"),
        _ => options,
    }
}

fn compare(random: &mut fastrand::Rng) -> Compare {
    let ops = [CompareOp::Equal, CompareOp::Greater, CompareOp::Less, CompareOp::NotEqual];
    let (key, op, number) = (key(random), ops[random.usize(..4)], random.i64(0..5));
    let compare = match random.u8(..5) {
        0 => Compare::version(key, op, number),
        1 => Compare::create_revision(key, op, number * 10),
        2 => Compare::mod_revision(key, op, number * 10),
        3 => Compare::lease(key, op, number),
        _ => Compare::value(key, op, number.to_string()),
    };
    if random.u8(..4) == 0 { compare.with_prefix() } else { compare }
}

fn txn(random: &mut fastrand::Rng, depth: u8) -> Txn {
    let compares: Vec<_> = (0..random.usize(..3)).map(|_| compare(random)).collect();
    // One inner transaction per list: two that write the same key are refused by the embedded broker only.
    let mut ops =
        || -> Vec<TxnOp> { (0..random.usize(..4)).map(|n| op(random, if n == 0 { depth } else { 1 })).collect() };
    let (success, failure) = (ops(), ops());
    Txn::new().when(compares).and_then(success).or_else(failure)
}

fn op(random: &mut fastrand::Rng, depth: u8) -> TxnOp {
    match random.u8(..if depth == 0 { 7 } else { 6 }) {
        0 | 1 => TxnOp::get(key(random), Some(get_options(random))),
        2..=4 => TxnOp::put(key(random), random.u8(..5).to_string(), Some(put_options(random))),
        5 => TxnOp::delete(key(random), Some(delete_options(random))),
        _ => TxnOp::txn(txn(random, depth + 1)),
    }
}

impl Request {
    fn random(random: &mut fastrand::Rng) -> Request {
        match random.u8(..20) {
            0..=3 => Request::Get(key(random), get_options(random)),
            4..=9 => Request::Put(key(random), random.u8(..5).to_string(), put_options(random)),
            10..=12 => Request::Delete(key(random), delete_options(random)),
            13 if random.u8(..10) == 0 => Request::Revoke(random.i64(1..4)),
            14 if random.u8(..5) == 0 => Request::Compact(random.i64(1..100)),
            _ => Request::Txn(txn(random, 0)),
        }
    }

    /// The answer as text, without headers, and the store's revision after it.
    async fn ask(&self, client: &mut Client) -> (String, i64) {
        let answer = match self {
            Request::Get(key, options) => show(client.get(key.as_str(), Some(options.clone())).await),
            Request::Put(key, value, options) => {
                show(client.put(key.as_str(), value.as_str(), Some(options.clone())).await)
            }
            Request::Delete(key, options) => show(client.delete(key.as_str(), Some(options.clone())).await),
            Request::Txn(txn) => show(client.txn(txn.clone()).await),
            Request::Revoke(lease) => show(client.lease_revoke(*lease).await),
            Request::Compact(revision) => show(client.compact(*revision, None).await),
        };
        // Who answered differs, and etcd leaves the revision out of inner headers.
        let of_header = |part: &&str| {
            ["cluster_id", "member_id", "raft_term"].iter().any(|name| part.contains(name))
                || part.starts_with("revision")
        };
        let clean: Vec<&str> = answer.split(", ").filter(|part| !of_header(part)).collect();
        let read = client.get("health", None).await.expect("get");
        (clean.join(" "), read.header().expect("header").revision())
    }
}

fn show<T: std::fmt::Debug>(answer: Result<T, etcd_client::Error>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(etcd_client::Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
        Err(other) => panic!("no answer: {other}"),
    }
}
