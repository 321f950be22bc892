//! The table: each figure as it is today, its goal, and its limit until the goal is met.

use super::circles::{Circle, between_folders, circles, counted};
use super::graph::{File, House};
use super::limits::{
    BROKEN_LINKS_MAX, EXAMPLES_MIN, FILE_LINES_MAX, FUNCTION_LINES_MAX, IMPURITIES_MAX, IN_CIRCLES_PERCENT_MAX,
    LARGEST_CIRCLE_MAX, LONG_PROSE_MAX, LONG_ROWS_MAX, MEETING_NAMES_MAX, SHARED_NAMES_MAX, SHORT_DOCS_MAX,
    TEST_RATIO_MIN,
};
use super::names::{Shared, shared, type_names};
use super::source::Source;
use super::{docs, links, prose, purity, sizes};

/// Lines that no product file shall exceed.
pub(crate) const FILE_LINES_GOAL: usize = 520;
/// Lines that no function shall exceed.
pub(crate) const FUNCTION_LINES_GOAL: usize = 70;

/// What a figure shall come to, and how far it is held today.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// The figure shall come down to `goal`; above `limit` it fails.
    Down {
        /// Where it shall come.
        goal: f64,
        /// What it must not exceed.
        limit: f64,
        /// The constant that says so.
        constant: &'static str,
    },
    /// The figure shall go up to `goal`; below `limit` it fails.
    Up {
        /// Where it shall come.
        goal: f64,
        /// What it must not fall below.
        limit: f64,
        /// The constant that says so.
        constant: &'static str,
    },
    /// Printed for comparison, without a goal of its own.
    None,
}

/// A row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What is measured.
    pub(crate) what: &'static str,
    /// Today's value, to be held against goal and limit.
    pub(crate) value: f64,
    /// Today's value in words.
    pub(crate) today: String,
    /// What it shall come to.
    pub(crate) goal: Goal,
}

impl Figure {
    /// Whether the goal is met; one without a goal meets it.
    pub(crate) fn is_met(&self) -> bool {
        match self.goal {
            Goal::Down { goal, .. } => self.value <= goal,
            Goal::Up { goal, .. } => self.value >= goal,
            Goal::None => true,
        }
    }

    /// What is wrong: worse than the limit, or so much better that the limit holds nothing.
    pub(crate) fn finding(&self) -> Option<String> {
        let (what, value) = (self.what, self.value);
        match self.goal {
            Goal::Down { limit, constant, .. } if value > limit => {
                Some(format!("{what}: {}, and {constant} allows {limit}", self.today))
            }
            Goal::Up { limit, constant, .. } if value < limit => {
                Some(format!("{what}: {}, and {constant} asks for {limit}", self.today))
            }
            Goal::Down { goal, limit, constant } if limit > goal && (self.is_met() || value * 2.0 < limit) => {
                Some(format!("{what}: {} by now: lower {constant}, which is {limit}, in limits.rs", self.today))
            }
            Goal::Up { goal, limit, constant } if limit < goal && self.is_met() => {
                Some(format!("{what}: {} by now: raise {constant}, which is {limit}, in limits.rs", self.today))
            }
            _ => None,
        }
    }
}

fn down(what: &'static str, value: usize, goal: usize, constant: (&'static str, usize)) -> Figure {
    let goal = Goal::Down { goal: goal as f64, limit: constant.1 as f64, constant: constant.0 };
    Figure { what, value: value as f64, today: value.to_string(), goal }
}

fn plain(what: &'static str, value: usize) -> Figure {
    Figure { what, value: value as f64, today: value.to_string(), goal: Goal::None }
}

/// What was measured, with what the lists are made of.
#[derive(Debug)]
pub(crate) struct Measured {
    /// The product code.
    pub(crate) house: House,
    /// Circles of imports, the largest first.
    pub(crate) circles: Vec<Circle>,
    /// Names that several types bear.
    pub(crate) names: Vec<Shared>,
    /// What pure code takes and writes that is not pure.
    pub(crate) impurities: Vec<String>,
    /// Lines of test and of product.
    pub(crate) lines: (usize, usize),
    /// Places of prose that is too wide, as `path:line`.
    pub(crate) long_prose: Vec<String>,
    /// Places of table rows that are too wide.
    pub(crate) long_rows: Vec<String>,
    /// Paths and links of Markdown that lead nowhere, as `path:line: what`.
    pub(crate) broken_links: Vec<String>,
    /// Short doc comments: the crate's folder, and `path:line: text`.
    pub(crate) short_docs: Vec<(String, String)>,
    /// Library crates, each with the number of its examples that run.
    pub(crate) examples: Vec<(String, usize)>,
}

impl Measured {
    /// Measures product code, all Rust and all Markdown of the repository; `files` are the paths of all that it has.
    pub(crate) fn of(house: House, rust: &[Source], markdown: &[Source], files: &[String]) -> Measured {
        let places = |rule: fn(&str) -> Vec<usize>| {
            let of = |s: &Source| rule(&s.text).into_iter().map(|at| format!("{}:{at}", s.path)).collect::<Vec<_>>();
            markdown.iter().flat_map(of).collect::<Vec<_>>()
        };
        Measured {
            circles: circles(&house),
            names: shared(&house),
            impurities: impurities(&house, rust),
            lines: sizes::test_and_product(&house, rust),
            long_prose: places(prose::long_prose),
            long_rows: places(prose::long_rows),
            broken_links: links::broken(markdown, files),
            short_docs: short_docs(&house),
            examples: examples(&house),
            house,
        }
    }

    /// The whole table, in the order in which it is printed.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::from(self.structure());
        figures.extend(self.names_and_docs());
        let (functions, files) = (sizes::functions(&self.house), sizes::files(&self.house));
        figures.extend([
            down(
                "longest function, lines",
                functions.max,
                FUNCTION_LINES_GOAL,
                ("FUNCTION_LINES_MAX", FUNCTION_LINES_MAX),
            ),
            plain("nine of ten functions, lines", functions.p90),
            down("longest product file, lines", files.max, FILE_LINES_GOAL, ("FILE_LINES_MAX", FILE_LINES_MAX)),
            plain("median of product files, lines", files.median),
        ]);
        figures
    }

    fn structure(&self) -> [Figure; 5] {
        let sizes = || counted(&self.circles).map(|c| c.files.len());
        let (inside, largest, files) = (sizes().sum(), sizes().max().unwrap_or_default(), self.house.files.len());
        let share = |what, part: usize, goal| {
            let percent = part as f64 * 100.0 / files.max(1) as f64;
            Figure { what, value: percent, today: format!("{percent:.1} % ({part} of {files})"), goal }
        };
        let percent = Goal::Down { goal: 5.0, limit: IN_CIRCLES_PERCENT_MAX, constant: "IN_CIRCLES_PERCENT_MAX" };
        let outside = self.impurities.len();
        let (test, product) = self.lines;
        let ratio = test as f64 / product.max(1) as f64;
        [
            share("modules in import circles, those of redo apart", inside, percent),
            down("largest circle, modules", largest, 3, ("LARGEST_CIRCLE_MAX", LARGEST_CIRCLE_MAX)),
            share("the same without parents' use of their children", between_folders(&self.house), Goal::None),
            down("names in pure code that lead outside", outside, 0, ("IMPURITIES_MAX", IMPURITIES_MAX)),
            Figure {
                what: "test : product lines",
                value: ratio,
                today: format!("{ratio:.2} ({test} : {product})"),
                goal: Goal::Up { goal: 1.0, limit: TEST_RATIO_MIN, constant: "TEST_RATIO_MIN" },
            },
        ]
    }

    fn names_and_docs(&self) -> [Figure; 7] {
        let comments: usize = self.house.files.iter().map(|f| docs::comments(&f.parsed)).sum();
        let short = self.short_docs.len();
        let meeting = self.names.iter().filter(|n| !n.meetings.is_empty()).count();
        let (all, with) = (self.examples.len(), self.examples.iter().filter(|(_, n)| *n > 0).count());
        let of = |figure: Figure, all: usize| Figure { today: format!("{} of {all}", figure.today), ..figure };
        let names =
            down("type names used more than once", self.names.len(), 25, ("SHARED_NAMES_MAX", SHARED_NAMES_MAX));
        let short = down("doc comments of two words or fewer", short, 0, ("SHORT_DOCS_MAX", SHORT_DOCS_MAX));
        let (prose, rows, links) = (self.long_prose.len(), self.long_rows.len(), self.broken_links.len());
        [
            of(names, type_names(&self.house)),
            down("names under which two types meet in a file", meeting, 0, ("MEETING_NAMES_MAX", MEETING_NAMES_MAX)),
            of(short, comments),
            Figure {
                what: "library crates with an example that runs",
                value: with as f64,
                today: format!("{with} of {all}"),
                goal: Goal::Up { goal: all as f64, limit: EXAMPLES_MIN as f64, constant: "EXAMPLES_MIN" },
            },
            down("lines of prose over 100 characters", prose, 0, ("LONG_PROSE_MAX", LONG_PROSE_MAX)),
            down("rows of tables over 300 characters", rows, 0, ("LONG_ROWS_MAX", LONG_ROWS_MAX)),
            down("paths and links of Markdown to nowhere", links, 0, ("BROKEN_LINKS_MAX", BROKEN_LINKS_MAX)),
        ]
    }
}

fn impurities(house: &House, rust: &[Source]) -> Vec<String> {
    let words = rust.iter().flat_map(|s| purity::impure_words(s, &purity::PURE));
    let taken = purity::impurities(house, &purity::PURE).into_iter();
    taken.chain(words).chain(purity::stale(house, &purity::PURE)).collect()
}

fn short_docs(house: &House) -> Vec<(String, String)> {
    let of = |f: &File| {
        let folder = house.members[f.member].folder.clone();
        let short = docs::short(&f.parsed).into_iter();
        short.map(|(line, text)| (folder.clone(), format!("{}:{line}: {text}", f.path))).collect::<Vec<_>>()
    };
    house.files.iter().flat_map(of).collect()
}

fn examples(house: &House) -> Vec<(String, usize)> {
    let members = house.members.iter().enumerate();
    let of = members.filter_map(|(at, member)| {
        let files: Vec<&File> = house.files.iter().filter(|f| f.member == at).collect();
        let is_library = files.iter().any(|f| f.path == format!("{}/src/lib.rs", member.folder));
        let examples = files.iter().map(|f| docs::examples(&f.parsed).len()).sum();
        is_library.then(|| (member.folder.clone(), examples))
    });
    of.collect()
}
