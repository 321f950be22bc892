//! Process tree from `/proc`: who descends from whom.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Parent of every process that exists now.
fn parents() -> HashMap<u32, u32> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return HashMap::new() };
    let pids = dir.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// Field 4 of `/proc/PID/stat`; the command name before it is in parentheses and may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Every living descendant of `root`, `root` not included.
pub fn descendants(root: u32) -> Vec<u32> {
    let parents = parents();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(of) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, parent)| **parent == of).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Direct children of `root`, zombies included.
pub(super) fn children(root: u32) -> Vec<u32> {
    parents().into_iter().filter(|(_, parent)| *parent == root).map(|(pid, _)| pid).collect()
}

/// Whether a process exists, as a zombie or otherwise.
pub fn exists(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Arguments of a process; none when it is gone or a zombie.
pub fn arguments(pid: u32) -> Vec<OsString> {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    raw.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect()
}

/// Arguments of a process, joined by spaces; `None` when it is gone or a zombie.
pub fn command_line(pid: u32) -> Option<String> {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&raw).replace('\0', " ");
    (!text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_below_its_parent() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat starts");
        let me = std::process::id();
        assert!(descendants(me).contains(&child.id()));
        assert!(children(me).contains(&child.id()));
        assert_eq!(arguments(me).first(), std::env::args_os().next().as_ref());
        child.kill().expect("cat dies");
        child.wait().expect("cat is reaped");
        assert!(!descendants(me).contains(&child.id()));
    }
}
