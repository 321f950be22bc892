//! An interval on this machine: its length, the crowding of the CPUs, and the share of other processes.

use std::time::Instant;

use super::usage;

/// CPU pressure above which a measurement may be noisy: the share of a block during which some task waited for a CPU.
pub const PRESSURE_MAX: f64 = 0.60;
/// Foreign share of the machine's CPU time above which pressure counts as noise. A load that keeps both CPUs busy makes
/// pressure by itself: that is not noise, it is the measurement. The kernel's own threads, which write back and deliver
/// for the load, count as foreign: about 5 % at 16 clients with nobody else on the machine.
pub const FOREIGN_MAX: f64 = 0.10;

/// How crowded the machine was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Crowd {
    /// Share of the time during which some task waited for a CPU (PSI).
    pub pressure: f64,
    /// Share of the machine's CPU time that went to others: stolen by the host, or used by processes that are neither
    /// this one, nor its children, nor the systems under test.
    pub foreign: f64,
}

impl Crowd {
    /// Whether a figure measured in it must not be claimed as a win.
    pub fn is_noisy(self) -> bool {
        self.pressure > PRESSURE_MAX && self.foreign > FOREIGN_MAX
    }
}

/// A stretch of time that has begun.
#[derive(Debug)]
pub struct Window {
    began: Instant,
    pressure_us: Option<u64>,
    machine: Option<Machine>,
    /// CPU seconds of the processes under test, and of this one with its other children, at the beginning.
    used: (f64, f64),
    pids: Vec<u32>,
}

/// What a stretch of time was like.
#[derive(Clone, Copy, Debug)]
pub struct Elapsed {
    /// Wall time, seconds.
    pub seconds: f64,
    /// CPU seconds of the processes named at the beginning, with their descendants.
    pub cpu_seconds: f64,
    /// How crowded the machine was.
    pub crowd: Crowd,
}

/// CPU seconds of the whole machine since boot.
#[derive(Clone, Copy, Debug)]
struct Machine {
    busy: f64,
    all: f64,
}

impl Window {
    /// Begins one; `pids` are the roots of the processes under test (this process and its children count as ours, but
    /// not as theirs).
    pub fn open(pids: &[u32]) -> Window {
        Window {
            began: Instant::now(),
            pressure_us: usage::cpu_pressure_us(),
            machine: machine(),
            used: (usage::cpu_seconds(pids), usage::cpu_seconds_of_others(pids)),
            pids: pids.to_vec(),
        }
    }

    /// Ends it.
    pub fn close(self) -> Elapsed {
        let seconds = self.began.elapsed().as_secs_f64();
        let waited = usage::cpu_pressure_us().zip(self.pressure_us).map_or(0, |(after, before)| after - before);
        let under_test = usage::cpu_seconds(&self.pids) - self.used.0;
        let own = under_test + usage::cpu_seconds_of_others(&self.pids) - self.used.1;
        let foreign = machine().zip(self.machine).map_or(0.0, |(after, before)| {
            let all = (after.all - before.all).max(f64::EPSILON);
            ((after.busy - before.busy - own) / all).max(0.0)
        });
        let crowd = Crowd { pressure: waited as f64 / (seconds * 1e6), foreign };
        Elapsed { seconds, cpu_seconds: under_test, crowd }
    }
}

/// First line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, in ticks.
fn machine() -> Option<Machine> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> =
        text.lines().next()?.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
    let all: f64 = ticks.iter().sum();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    Some(Machine { busy: (all - idle) / usage::TICKS_PER_SECOND, all: all / usage::TICKS_PER_SECOND })
}
