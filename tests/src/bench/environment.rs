//! The environment of a measurement: machine, versions, settings.

use std::path::Path;
use std::process::Command;

use harness::{Bounded as _, PATIENCE};
use serde_json::{Value, json};

use super::run::Extent;
use super::system::SETTINGS;

/// Everything that a reader needs to judge the numbers, or to measure them again: first line of the raw results.
pub fn describe(extent: Extent) -> Value {
    let postgres = walfabric::postgres::find_bin_dir(None).ok();
    json!({
        "date": said(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])),
        "extent": format!("{extent:?}").to_lowercase(),
        "commit": commit(),
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "rustc": said(Command::new("rustc").arg("-V")),
        "postgres": postgres.and_then(|dir| said(Command::new(dir.join("postgres")).arg("-V"))),
        "settings": SETTINGS,
        "kernel": line_of("/proc/sys/kernel/osrelease", ""),
        "cpu": line_of("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().ok().map(std::num::NonZero::get),
        "memory": line_of("/proc/meminfo", "MemTotal"),
        "file_system": file_system(&std::env::temp_dir()),
    })
}

/// The description, for people: one line a fact, unknown ones as "-".
pub fn head(described: &Value) -> String {
    let facts = described.as_object().into_iter().flatten();
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(s) => s.clone(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    facts.map(|(name, value)| format!("{name:<12} {}\n", text(value))).collect()
}

/// First line of what a program printed; `None` when it cannot be run or fails.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output_within(PATIENCE).ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

/// The commit of the sources; `-dirty` when they differ from it.
fn commit() -> Option<String> {
    let git = |args: &[&str]| said(Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args));
    let id = git(&["rev-parse", "--short=12", "HEAD"])?;
    let dirty = git(&["status", "--porcelain"]).is_some_and(|changed| !changed.is_empty());
    Some(if dirty { format!("{id}-dirty") } else { id })
}

/// What follows `key` and a colon on its first line in a file of `/proc`; the first line itself when `key` is empty.
fn line_of(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    let value = if key.is_empty() { line } else { line.split_once(':')?.1 };
    Some(value.trim().to_owned())
}

/// Type and options of the file system that `dir` is on.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let fields = mounts.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    let holding = fields.filter(|f| f.get(1).is_some_and(|mount| dir.starts_with(mount)));
    // A later mount on the same point hides the earlier one.
    let last = holding.max_by_key(|f| f.get(1).map_or(0, |mount| mount.len()))?;
    Some(format!("{} ({})", last.get(2)?, last.get(3)?))
}
