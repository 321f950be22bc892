//! `make house`: figures of the code's structure beside their goals; fails when one is worse than its limit, which is
//! the goal itself once that is met.
//!
//! `--list circles|purity|names|docs|rows|links|sizes` prints the places, one a line. It uses only the standard
//! library, so plain `rustc` builds it. The head of `src/house/mod.rs` defines each figure.

use std::path::Path;
use std::process::ExitCode;

use house::figures::{FILE_LINES_GOAL, FUNCTION_LINES_GOAL, Figure, Goal, Measured};
use house::workspace;

#[path = "../house/mod.rs"]
mod house;

/// What can be listed.
const LISTS: &str = "circles, purity, names, docs, rows, links, sizes";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let list = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--list", list] => Some(list),
        _ => {
            eprintln!("usage: house [--list LIST], in the repository's root; lists: {LISTS}");
            return ExitCode::FAILURE;
        }
    };
    let root = Path::new(".");
    let (rust, markdown) = (workspace::files(root, ".rs"), workspace::files(root, ".md"));
    let measured = Measured::of(workspace::house(root), &rust, &markdown, &workspace::paths(root));
    if measured.house.members.is_empty() {
        eprintln!("no workspace here: run it in the repository's root");
        return ExitCode::FAILURE;
    }
    match list.map(|list| listed(&measured, list)) {
        Some(Some(lines)) => {
            lines.iter().for_each(|l| println!("{l}"));
            ExitCode::SUCCESS
        }
        Some(None) => {
            eprintln!("there is no such list; there are: {LISTS}");
            ExitCode::FAILURE
        }
        None => print(&measured),
    }
}

fn print(measured: &Measured) -> ExitCode {
    println!("{:<48} {:<26} {:<8} state", "figure", "today", "goal");
    let figures = measured.figures();
    for figure in &figures {
        let goal = match figure.goal {
            Goal::Down { goal, .. } => format!("<= {goal}"),
            Goal::Up { goal, .. } => format!(">= {goal}"),
            Goal::None => "-".to_owned(),
        };
        let state = match figure.goal {
            Goal::None => "",
            _ if figure.is_met() => "met",
            _ => "open",
        };
        println!("{:<48} {:<26} {goal:<8} {state}", figure.what, figure.today);
    }
    let findings: Vec<String> = figures.iter().filter_map(Figure::finding).collect();
    findings.iter().for_each(|f| println!("{f}"));
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn listed(measured: &Measured, list: &str) -> Option<Vec<String>> {
    let lines = match list {
        "circles" => circles(measured),
        "purity" => measured.impurities.clone(),
        "names" => names(measured),
        "docs" => docs(measured),
        "rows" => measured.long_prose.iter().chain(&measured.long_rows).cloned().collect(),
        "links" => measured.broken_links.clone(),
        "sizes" => sizes(measured),
        _ => return None,
    };
    Some(lines)
}

fn circles(measured: &Measured) -> Vec<String> {
    let of = measured.circles.iter().flat_map(|circle| {
        let apart = if circle.is_apart() { ", not counted" } else { "" };
        let head = format!("{} files{apart}: {}", circle.files.len(), circle.files.join(" "));
        [head].into_iter().chain(circle.ties.iter().map(|t| format!("    {t}"))).collect::<Vec<_>>()
    });
    of.collect()
}

fn names(measured: &Measured) -> Vec<String> {
    let of = measured.names.iter().map(|n| {
        let meetings = if n.meetings.is_empty() { String::new() } else { format!(" MEET IN {}", n.meetings.join(" ")) };
        format!("{} {}: {}{meetings}", n.name, n.places.len(), n.places.join(" "))
    });
    of.collect()
}

fn docs(measured: &Measured) -> Vec<String> {
    let mut lines: Vec<String> = measured.short_docs.iter().map(|(_, line)| line.clone()).collect();
    for member in &measured.house.members {
        let of = measured.short_docs.iter().filter(|(folder, _)| *folder == member.folder).count();
        lines.push(format!("{}: {of} doc comments of two words or fewer", member.folder));
    }
    lines.extend(measured.examples.iter().map(|(folder, n)| format!("{folder}: {n} examples that run")));
    lines
}

/// Files and functions that are longer than the goal.
fn sizes(measured: &Measured) -> Vec<String> {
    let mut lines = Vec::new();
    for file in &measured.house.files {
        let product = file.parsed.product_lines();
        if product > FILE_LINES_GOAL {
            lines.push(format!("{}: {product} product lines", file.path));
        }
        let long = file.parsed.functions.iter().filter(|f| f.lines > FUNCTION_LINES_GOAL);
        lines.extend(long.map(|f| format!("{}:{}: {} has {} lines", file.path, f.line, f.name, f.lines)));
    }
    lines
}
