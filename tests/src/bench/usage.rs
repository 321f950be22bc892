//! Resource use of processes, and crowding of the machine, from `/proc`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `sysconf(_SC_CLK_TCK)` on every Linux that PostgreSQL runs on.
pub(super) const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process with all that it reaped so far (fields 14 to 17 of `/proc/PID/stat`); zero when it is gone.
fn cpu_seconds_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    let ticks: f64 = fields.iter().skip(11).take(4).filter_map(|f| f.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// `roots` and everything below them, by one pass over `/proc`, so that looking takes little of a block.
fn trees(roots: &[u32]) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = pids.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let (mut found, mut next) = (roots.to_vec(), 0);
    while let Some(of) = found.get(next).copied() {
        let below: Vec<u32> = parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid).collect();
        found.extend(below.into_iter().filter(|pid| !roots.contains(pid)));
        next += 1;
    }
    found
}

/// Field 4 of `/proc/PID/stat`; the command name before it is in parentheses and may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// CPU seconds of the trees below `roots`.
pub fn cpu_seconds(roots: &[u32]) -> f64 {
    trees(roots).into_iter().map(cpu_seconds_of).sum()
}

/// CPU seconds of this process with all that it reaped, and of its descendants outside of the trees below `roots`.
pub(super) fn cpu_seconds_of_others(roots: &[u32]) -> f64 {
    let known = trees(roots);
    let ours = trees(&[std::process::id()]);
    ours.into_iter().filter(|pid| !known.contains(pid)).map(cpu_seconds_of).sum()
}

/// CPU seconds of this process alone (fields 14 and 15 of `/proc/self/stat`).
pub fn cpu_seconds_of_this() -> f64 {
    own_ticks(11) / TICKS_PER_SECOND
}

/// CPU seconds of the children that this process has reaped (fields 16 and 17).
pub fn cpu_seconds_of_reaped() -> f64 {
    own_ticks(13) / TICKS_PER_SECOND
}

/// CPU seconds of all threads of this process so far, ended ones included, to the nanosecond.
pub fn cpu_seconds_of_process() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU seconds of the calling thread, to the nanosecond.
///
/// # Errors
/// When the kernel does not tell (no schedstat).
pub fn cpu_seconds_of_thread() -> std::io::Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    // Its first number: nanoseconds on a CPU.
    let ns = text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    ns.map(|ns| ns as f64 / 1e9).ok_or_else(|| std::io::Error::other("/proc/thread-self/schedstat is empty"))
}

/// User and system time, which stand so many fields behind the name.
fn own_ticks(skip: usize) -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    fields.iter().skip(skip).take(2).filter_map(|f| f.parse::<f64>().ok()).sum()
}

/// Bytes that the trees below `roots` caused to be sent to the disk (`write_bytes` of `/proc/PID/io`); what already
/// ended processes wrote is not in it. Kernels with large folios charge the whole folio for a write of one page (tens
/// of times too much for a WAL): for what a disk really got, see [`disk_written_bytes`].
pub fn written_bytes(roots: &[u32]) -> u64 {
    let of = |pid: u32| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("write_bytes: "));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or_default()
    };
    trees(roots).into_iter().map(of).sum()
}

/// Bytes that the disk below `dir` got since boot, from anyone; `None` for a file system without a block device.
pub fn disk_written_bytes(dir: &Path) -> Option<u64> {
    let device = std::fs::metadata(dir).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    // Field 7: sectors of 512 bytes, whatever the disk's own are.
    Some(text.split_whitespace().nth(6)?.parse::<u64>().ok()? * 512)
}

/// Resident memory of one process in MiB; zero when it is gone.
pub fn rss_mib(pid: u32) -> f64 {
    status_mib(pid, "VmRSS:")
}

/// The most memory that one process ever had resident, in MiB; zero when it is gone.
pub fn peak_rss_mib(pid: u32) -> f64 {
    status_mib(pid, "VmHWM:")
}

fn status_mib(pid: u32, key: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(key));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

/// Microseconds for which some task waited for a CPU since boot (PSI); `None` where the kernel does not tell.
pub fn cpu_pressure_us() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/pressure/cpu").ok()?;
    let some = text.lines().find(|l| l.starts_with("some"))?;
    some.rsplit_once("total=")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_holds_its_roots_once_and_their_children() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat starts");
        let me = std::process::id();
        let found = trees(&[me, child.id()]);
        assert_eq!(found.iter().filter(|pid| **pid == child.id()).count(), 1, "{found:?}");
        assert!(trees(&[me]).contains(&child.id()));
        child.kill().expect("cat dies");
        child.wait().expect("cat is reaped");
        assert!(!trees(&[me]).contains(&child.id()));
    }
}
