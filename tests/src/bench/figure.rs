//! One line of the table: the figure, its peer, and whether the goal is met.

use super::stats::{Spread, ratios, spread};
use super::window::{Crowd, PRESSURE_MAX};

/// One measured value with how crowded the machine was meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// In the figure's unit.
    pub value: f64,
    /// During the block.
    pub crowd: Crowd,
}

impl Sample {
    /// A value whose crowd does not matter (a count, a size).
    pub fn exact(value: f64) -> Sample {
        Sample { value, crowd: Crowd::default() }
    }
}

/// What the median has to be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Goal {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// How a figure stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The goal is met.
    Met,
    /// It is not.
    Missed,
    /// It would be met, but the machine was too crowded to claim it.
    Noisy,
    /// There is no goal: shown only.
    Shown,
}

impl Verdict {
    /// Word of the table.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::Noisy => "noisy",
            Verdict::Shown => "-",
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What, in which unit.
    pub what: String,
    /// Our values.
    pub ours: Option<Spread>,
    /// The peer's name and values, when there is one.
    pub peer: Option<(String, Spread)>,
    /// Ratios ours / peer, pair by pair.
    pub ratio: Option<Spread>,
    /// How many samples (pairs, when there is a peer).
    pub samples: usize,
    /// On the ratio when there is a peer, else on our median.
    pub goal: Option<Goal>,
    /// Worst medians over both sides.
    pub crowd: Crowd,
}

impl Figure {
    /// Our values alone.
    pub fn of(what: impl Into<String>, ours: &[Sample]) -> Figure {
        Figure {
            what: what.into(),
            ours: spread(&values(ours)),
            peer: None,
            ratio: None,
            samples: ours.len(),
            goal: None,
            crowd: crowd(ours),
        }
    }

    /// Ours against a peer's: `ours` and `theirs` are pairs, in order.
    pub fn against(what: impl Into<String>, ours: &[Sample], peer: &str, theirs: &[Sample]) -> Figure {
        let mut figure = Figure::of(what, ours);
        figure.peer = spread(&values(theirs)).map(|s| (peer.to_owned(), s));
        let pairs = ratios(&values(ours), &values(theirs));
        figure.samples = pairs.len();
        figure.ratio = spread(&pairs);
        let other = crowd(theirs);
        if other.pressure > figure.crowd.pressure {
            figure.crowd = Crowd { foreign: figure.crowd.foreign.max(other.foreign), ..other };
        }
        figure
    }

    /// With a goal for the ratio, or for our median when there is no peer.
    #[must_use]
    pub fn goal(mut self, goal: Goal) -> Figure {
        self.goal = Some(goal);
        self
    }

    /// How it stands.
    pub fn verdict(&self) -> Verdict {
        let Some(goal) = self.goal else { return Verdict::Shown };
        let judged = if self.peer.is_some() { self.ratio } else { self.ours };
        let met = judged.is_some_and(|s| match goal {
            Goal::AtMost(limit) => s.median <= limit,
            Goal::AtLeast(limit) => s.median >= limit,
        });
        match (met, self.crowd.is_noisy()) {
            (false, _) => Verdict::Missed,
            (true, true) => Verdict::Noisy,
            (true, false) => Verdict::Met,
        }
    }

    /// The line of the table.
    pub fn line(&self) -> String {
        let one = |s: Option<Spread>| s.map_or_else(|| "-".to_owned(), |s| number(s.median));
        let ranged = |s: Spread| format!("{} [{}, {}]", number(s.median), number(s.min), number(s.max));
        let (peer, theirs) = match &self.peer {
            Some((name, s)) => (name.as_str(), number(s.median)),
            None => ("", String::new()),
        };
        let judged = if self.peer.is_some() { self.ratio } else { self.ours };
        let goal = match self.goal {
            Some(Goal::AtMost(limit)) => format!("<= {limit}"),
            Some(Goal::AtLeast(limit)) => format!(">= {limit}"),
            None => String::new(),
        };
        let pressure = match self.crowd.pressure {
            0.0 => String::new(),
            p => format!("{:.0}%/{:.0}%{}", p * 100.0, self.crowd.foreign * 100.0, mark(p)),
        };
        format!(
            "| {} | {} | {peer} | {theirs} | {} | {goal} | {} | {pressure} | {} |",
            self.what,
            one(self.ours),
            judged.map_or_else(|| "-".to_owned(), ranged),
            self.verdict().name(),
            self.samples,
        )
    }
}

/// Head of the table.
pub const HEAD: &str = "| figure | ours | peer | peer's | ratio, or ours: median [min, max] | goal | verdict \
    | pressure/foreign | n |\n|---|---|---|---|---|---|---|---|---|";

fn mark(pressure: f64) -> &'static str {
    if pressure > PRESSURE_MAX { " !" } else { "" }
}

fn values(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|s| s.value).collect()
}

fn crowd(samples: &[Sample]) -> Crowd {
    let median =
        |of: fn(&Sample) -> f64| spread(&samples.iter().map(of).collect::<Vec<f64>>()).map_or(0.0, |s| s.median);
    Crowd { pressure: median(|s| s.crowd.pressure), foreign: median(|s| s.crowd.foreign) }
}

/// Three significant digits, never in exponents.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64], crowd: Crowd) -> Vec<Sample> {
        values.iter().map(|v| Sample { value: *v, crowd }).collect()
    }

    #[test]
    fn a_goal_is_met_missed_or_too_noisy_to_claim() {
        let quiet = Crowd { pressure: 0.1, foreign: 0.01 };
        let busy = Crowd { pressure: 0.9, foreign: 0.01 };
        let crowded = Crowd { pressure: 0.9, foreign: 0.5 };
        let verdict = |ours: f64, crowd| {
            let theirs = samples(&[2.0; 3], quiet);
            Figure::against("x", &samples(&[ours; 3], crowd), "peer", &theirs).goal(Goal::AtMost(0.95)).verdict()
        };
        assert_eq!(verdict(1.0, quiet), Verdict::Met);
        assert_eq!(verdict(1.0, busy), Verdict::Met, "a load that fills the machine makes pressure by itself");
        assert_eq!(verdict(1.0, crowded), Verdict::Noisy);
        assert_eq!(verdict(2.0, quiet), Verdict::Missed);
        assert_eq!(verdict(2.0, crowded), Verdict::Missed, "noise never excuses a miss");
        assert_eq!(Figure::of("x", &samples(&[1.0], quiet)).verdict(), Verdict::Shown);
        assert_eq!(Figure::of("x", &[]).goal(Goal::AtMost(1.0)).verdict(), Verdict::Missed, "no sample, no claim");
    }

    #[test]
    fn the_median_of_the_ratios_is_judged_not_the_ratio_of_the_medians() {
        let quiet = Crowd::default();
        let (ours, theirs) = (samples(&[1.0, 10.0, 3.0], quiet), samples(&[2.0, 5.0, 1.0], quiet));
        let figure = Figure::against("x", &ours, "peer", &theirs).goal(Goal::AtLeast(2.0));
        assert_eq!(figure.ratio.map(|s| s.median), Some(2.0));
        assert_eq!(figure.verdict(), Verdict::Met);
    }
}
