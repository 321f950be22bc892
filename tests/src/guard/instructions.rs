//! Instructions per operation, counted by valgrind: the same on a busy machine as on an idle one.
//!
//! A path runs with N and with 2N operations; the difference is N operations without start-up, set-up and exit.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::HotPath;
use harness::{Bounded as _, LONG};

/// Measured below this share of its limit, in per cent: the limit says little any more.
const SLACK_PERCENT: u64 = 70;
/// What a limit is set above the measurement, in per cent: room for another compiler and C library.
const MARGIN_PERCENT: u64 = 15;

/// How a measurement stands to its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// At most the limit.
    Within,
    /// So far below that the limit should be lowered.
    Slack,
    /// Above: the guard fails.
    Over,
}

/// Judges instructions per operation.
pub fn judge(measured: u64, limit: u64) -> Verdict {
    if measured > limit {
        Verdict::Over
    } else if measured * 100 < limit * SLACK_PERCENT {
        Verdict::Slack
    } else {
        Verdict::Within
    }
}

/// The limit that a measurement would get, rounded up to two digits behind the first.
pub fn proposed_limit(measured: u64) -> u64 {
    let limit = (measured * (100 + MARGIN_PERCENT)).div_ceil(100);
    let unit = 10u64.pow(limit.checked_ilog10().unwrap_or(0).saturating_sub(2));
    limit.next_multiple_of(unit)
}

/// Instructions of one operation of `path`, which the program `hotpath` runs; each is done `times` times over.
///
/// # Errors
/// When valgrind is missing, the program fails, or the counts make no sense.
pub fn per_operation(hotpath: &Path, path: &HotPath, times: usize) -> anyhow::Result<u64> {
    let once = total(hotpath, path, path.operations, times)?;
    let twice = total(hotpath, path, 2 * path.operations, times)?;
    ensure!(twice > once, "{}: twice the operations took {twice} instructions, not more than {once}", path.name);
    Ok((twice - once).div_ceil(path.operations as u64))
}

fn total(hotpath: &Path, path: &HotPath, operations: usize, times: usize) -> anyhow::Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    command.arg(hotpath).args(["--run", path.name]);
    // Both runs prepare the same: only what they do differs.
    command.args(["--prepared", &(2 * path.operations * times).to_string()]);
    command.args(["--operations", &(operations * times).to_string()]);
    let output = command.output_within(LONG).context("valgrind cannot be started (scripts/setup.sh installs it)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}: {} under valgrind:\n{said}", path.name, output.status);
    }
    counted(&said).with_context(|| format!("{}: no count in what valgrind said:\n{said}", path.name))
}

/// The figure of the line `==1== I   refs:      1,234,567`.
fn counted(said: &str) -> Option<u64> {
    let figure = said.lines().find_map(|line| line.split_once("refs:"))?.1;
    figure.trim().replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_the_limit_fails_and_far_below_is_told() {
        let verdicts = [69, 70, 100, 101].map(|measured| judge(measured, 100));
        assert_eq!(verdicts, [Verdict::Slack, Verdict::Within, Verdict::Within, Verdict::Over]);
    }

    #[test]
    fn a_proposed_limit_passes_and_a_fifth_more_does_not() {
        for measured in [100, 1_234, 999_999, 7_654_321] {
            let limit = proposed_limit(measured);
            assert_eq!(judge(measured, limit), Verdict::Within, "{measured} of {limit}");
            assert_eq!(judge(measured * 6 / 5, limit), Verdict::Over, "{measured} of {limit}");
        }
    }

    #[test]
    fn the_count_is_found() {
        assert_eq!(counted("==7== Command: x\n==7== \n==7== I   refs:      2,170,654\n"), Some(2_170_654));
        assert_eq!(counted("==7== Command: x\n"), None);
    }
}
