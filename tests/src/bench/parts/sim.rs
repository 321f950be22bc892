//! Simulated schedules per CPU second: the cost of `make sim`.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bench::figure::{Figure, Sample};
use crate::bench::run::Run;
use crate::bench::usage;
use crate::bench::window::Window;

/// Schedules per sample.
const SEEDS: u64 = 20;

/// Measures the simulator, which runs in one thread.
///
/// # Errors
/// When a schedule violates an invariant.
pub async fn run(run: &mut Run) -> Result<()> {
    let blocks: u64 = run.extent.pick(2, 10, 50);
    let mut samples = Vec::new();
    for block in 0..blocks {
        let window = Window::open(&[]);
        let (from, cpu) = (block * SEEDS, usage::cpu_seconds_of_thread()?);
        let mut events = 0;
        for seed in from..from + SEEDS {
            let report = crate::sim::run(seed, None, false);
            events += report.events;
            ensure!(
                report.violation.is_none(),
                "seed {seed}: {}",
                report.violation.map_or(String::new(), |v| v.to_string())
            );
        }
        let (cpu, elapsed) = (usage::cpu_seconds_of_thread()? - cpu, window.close());
        let value = SEEDS as f64 / cpu;
        run.raw(
            json!({"from": from, "seeds": SEEDS, "events": events, "cpu_seconds": cpu, "seconds": elapsed.seconds,
            "pressure": elapsed.crowd.pressure, "foreign": elapsed.crowd.foreign}),
        )?;
        samples.push(Sample { value, crowd: elapsed.crowd });
    }
    run.figure(Figure::of(format!("simulated schedules per CPU second, seeds 0 to {}", blocks * SEEDS - 1), &samples));
    Ok(())
}
