//! Doc comments that only repeat a name, and doc examples that run.

use super::source::{Doc, Parsed};

/// A doc comment of so many words says no more than the name below it.
const SHORT_WORDS_MAX: usize = 2;

/// How many doc comments (`///`) there are.
pub(crate) fn comments(parsed: &Parsed) -> usize {
    parsed.docs.iter().filter(|d| !d.is_inner).count()
}

/// Doc comments of two words or fewer: (line, text).
pub(crate) fn short(parsed: &Parsed) -> Vec<(usize, String)> {
    let outer = parsed.docs.iter().filter(|d| !d.is_inner);
    let few = outer.filter(|d| words(d) <= SHORT_WORDS_MAX);
    few.map(|d| (d.line, d.lines.join(" ").trim().to_owned())).collect()
}

fn words(doc: &Doc) -> usize {
    let all = doc.lines.iter().flat_map(|l| l.split_whitespace());
    all.filter(|w| w.contains(char::is_alphanumeric)).count()
}

/// The lines of examples that `cargo test --doc` runs.
pub(crate) fn examples(parsed: &Parsed) -> Vec<usize> {
    let mut found = Vec::new();
    for doc in &parsed.docs {
        let mut is_open = false;
        for (i, line) in doc.lines.iter().enumerate() {
            let Some(info) = line.trim_start().strip_prefix("```") else { continue };
            if !is_open && runs(info) {
                found.push(doc.line + i);
            }
            is_open = !is_open;
        }
    }
    found
}

/// Whether a fence with these words behind it is compiled and run.
fn runs(info: &str) -> bool {
    let mut words = info.split([',', ' ']).map(str::trim).filter(|w| !w.is_empty());
    words.all(|w| matches!(w, "rust" | "should_panic") || w.starts_with("edition"))
}
