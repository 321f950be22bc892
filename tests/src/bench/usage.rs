//! What processes used, and how crowded the machine was, from `/proc`.

use walfabric::supervisor::descendants;

/// `sysconf(_SC_CLK_TCK)` on every Linux that PostgreSQL runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process with all that it reaped so far (fields 14 to 17 of `/proc/PID/stat`); zero when it is gone.
fn cpu_seconds_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    let ticks: f64 = fields.iter().skip(11).take(4).filter_map(|f| f.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// CPU seconds of the trees below `roots`.
pub fn cpu_seconds(roots: &[u32]) -> f64 {
    roots
        .iter()
        .map(|root| cpu_seconds_of(*root) + descendants(*root).into_iter().map(cpu_seconds_of).sum::<f64>())
        .sum()
}

/// Resident memory of one process in MiB.
pub fn rss_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

/// Microseconds for which some task waited for a CPU since boot (PSI); `None` where the kernel does not tell.
pub fn cpu_pressure_us() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/pressure/cpu").ok()?;
    let some = text.lines().find(|l| l.starts_with("some"))?;
    some.rsplit_once("total=")?.1.parse().ok()
}
