//! Stock `pg_receivewal` streams from a safekeeper, and its files are the log. Skipped where it is not installed.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use pgformat::{Lsn, Tli};
use tokio::process::Command;

use crate::common::{Log, Node, Proposer, soon, ttid, until};

fn pg_receivewal() -> Option<PathBuf> {
    let of_major = |major: u32| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin/pg_receivewal"));
    let found = (15..=18).map(of_major).find(|p| p.exists());
    if found.is_none() {
        eprintln!("skipped: no pg_receivewal is installed");
    }
    found
}

fn command(program: &Path, node: &Node, dir: &Path) -> Command {
    let (t, l) = (ttid(1).tenant_id, ttid(1).timeline_id);
    let conninfo = format!(
        "host={} port={} user=test options='-c tenant_id={t} -c timeline_id={l}'",
        node.pg.ip(),
        node.pg.port()
    );
    let mut command = Command::new(program);
    command.arg("-D").arg(dir).arg("-d").arg(conninfo).arg("--no-loop").arg("--no-password");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Goal: files equal the log, from the first segment's first byte on, over several segments, with a partial one at the
/// end.
#[tokio::test]
async fn its_files_are_the_log() {
    let Some(program) = pg_receivewal() else { return };
    let (node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&node, ttid(1), 1, &log).await;
    let first = log.grow(5_000);
    p.push(&log, log.start, None).await;
    p.commit(first, first).await;
    // It starts with the segment of the commit position, so the rest comes while it runs.
    let dir = node.dir.path().join("received");
    std::fs::create_dir(&dir).expect("a directory");
    let end = log.grow(3_500_000);
    let mut receive = command(&program, &node, &dir);
    // It stops behind this position, not at it.
    receive.arg("--endpos").arg(Lsn::new(end.get() - 8).to_string());
    let receive = receive.spawn().expect("it starts");
    until("it streams", async || {
        let mut c = node.dial_with(vec![], "psql").await;
        (!c.simple_query("SHOW LAG").await.expect("rows")[0].rows.is_empty()).then_some(())
    })
    .await;
    p.push(&log, first, None).await;
    p.commit(end, end).await;
    let done = soon("pg_receivewal", receive.wait_with_output()).await.expect("it ran");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    let seg = log.cfg.seg_size;
    let want = log.whole_segments();
    let mut checked = 0;
    for (i, part) in want.chunks(usize::try_from(seg.bytes()).expect("small")).enumerate() {
        let name = seg.file_name(Tli(1), log.start.segment_no(seg) + i as u64);
        let whole = dir.join(&name);
        let file = if whole.exists() { whole } else { dir.join(format!("{name}.partial")) };
        let got = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(got[..part.len()] == *part, "{} differs from the log", file.display());
        assert!(got[part.len()..].iter().all(|b| *b == 0), "{} has more than the log", file.display());
        checked += 1;
    }
    assert_eq!(checked, 4, "segments");
}

/// Goal: a slot is refused in words, before anything streams.
#[tokio::test]
async fn a_slot_is_refused() {
    let Some(program) = pg_receivewal() else { return };
    let (node, log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let dir = node.dir.path().join("received");
    std::fs::create_dir(&dir).expect("a directory");
    let mut receive = command(&program, &node, &dir);
    receive.arg("--slot").arg("s");
    let done = soon("pg_receivewal", receive.output()).await.expect("it ran");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && said.contains("slots are not kept"), "{said}");
}
