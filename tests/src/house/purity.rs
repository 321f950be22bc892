//! Purity by the graph of imports: pure code takes names only from the standard library's pure part, from a few
//! packages, and from files that are pure themselves, whatever the path of the import.
//!
//! A search for words covers only what needs no import: `.await`, locks and prints.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::graph::{Found, House};
use super::source::Source;

/// Folders and files whose code is a function of its input: no runtime, files, sockets, clocks, randomness, logs or
/// metrics.
pub(crate) const PURE: [&str; 13] = [
    "pgformat/src",
    "proto/src",
    "safekeeper/src/core",
    "walproposer-shim/src/core",
    "walproposer-shim/src/session/course",
    "walproposer-shim/src/session/ring.rs",
    "pageserver/src/choose",
    "pageserver/src/cluster",
    "pageserver/src/ingest/map",
    "libs/brokerd/src/log/format.rs",
    "libs/brokerd/src/store",
    "pageserver/src/store/compact/plan.rs",
    "pageserver/src/store/compact/retain.rs",
];

/// Packages, or parts of them, that only compute.
const PURE_PACKAGES: [&str; 13] = [
    "alloc",
    "bytes",
    "core",
    "crc32c",
    "etcd_client::proto",
    "lz4",
    "rustc_hash",
    "serde",
    "serde_json",
    "smallvec",
    "std",
    "thiserror",
    "zstd",
];

/// Parts of the standard library that reach outside, wait or draw.
const IMPURE_STD: [&str; 16] = [
    "std::env",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net",
    "std::os",
    "std::process",
    "std::sync::Barrier",
    "std::sync::Condvar",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::mpsc",
    "std::thread",
    "std::time::Instant::now",
    "std::time::SystemTime",
];

/// What pure code does not write.
const IMPURE_WORDS: [&str; 7] = [".await", "async fn", "Mutex", "RwLock", ".elapsed()", "println!(", "eprint!("];

/// The language's own types, which paths may start with.
const PRIMITIVE: [&str; 18] = [
    "bool", "char", "f32", "f64", "i128", "i16", "i32", "i64", "i8", "isize", "slice", "str", "u128", "u16", "u32",
    "u64", "u8", "usize",
];

/// Whether a file is one of those that must be pure: `a/b` stands for `a/b.rs` and all below `a/b/`.
pub(crate) fn is_pure(path: &str, pure: &[&str]) -> bool {
    pure.iter().any(|p| path.strip_prefix(p).is_some_and(|rest| matches!(rest, "" | ".rs") || rest.starts_with('/')))
}

/// Words in a pure file that pure code does not write.
pub(crate) fn impure_words(s: &Source, pure: &[&str]) -> Vec<String> {
    if !is_pure(&s.path, pure) || s.path.ends_with("/tests.rs") || s.path.contains("/tests/") {
        return vec![];
    }
    let product = s.text.lines().take_while(|l| *l != "#[cfg(test)]");
    let code = product.enumerate().map(|(i, l)| (i + 1, l.split("//").next().unwrap_or(l)));
    let bad = code.flat_map(|(at, l)| IMPURE_WORDS.iter().filter(|w| l.contains(**w)).map(move |w| (at, *w)));
    bad.map(|(at, word)| format!("{}:{at}: `{word}` in pure code", s.path)).collect()
}

/// What each file takes that is not pure, and from which files it takes anything.
struct Takes {
    /// (line, what): names of other packages that are not pure.
    outside: Vec<(usize, String)>,
    /// Other files of the workspace, each with the first line that takes something from it, and a name.
    inside: BTreeMap<usize, (usize, String)>,
}

/// What pure files take that is not pure, with the way on which it comes; once for each file that it is taken from.
pub(crate) fn impurities(house: &House, pure: &[&str]) -> Vec<String> {
    let takes = takes(house);
    let is_pure = |file: usize| is_pure(&house.files[file].path, pure);
    let mut findings = Vec::new();
    for file in (0..house.files.len()).filter(|f| is_pure(*f)) {
        let path = &house.files[file].path;
        findings.extend(takes[file].outside.iter().map(|(line, what)| format!("{path}:{line}: takes {what}")));
        for (from, (line, name)) in takes[file].inside.iter().filter(|(from, _)| !is_pure(**from)) {
            if let Some(way) = way_outside(house, &takes, *from, &is_pure) {
                findings.push(format!("{path}:{line}: takes {name} from {way}"));
            }
        }
    }
    findings
}

/// Entries of the list that name no file any more.
pub(crate) fn stale(house: &House, pure: &[&str]) -> Vec<String> {
    let is_used = |entry: &&str| house.files.iter().any(|f| is_pure(&f.path, &[entry]));
    pure.iter().filter(|e| !is_used(e)).map(|e| format!("{e}: listed as pure, and no product file is there")).collect()
}

fn takes(house: &House) -> Vec<Takes> {
    let mut all: Vec<Takes> =
        house.files.iter().map(|_| Takes { outside: Vec::new(), inside: BTreeMap::new() }).collect();
    for taken in house.taken() {
        let of = &mut all[taken.file];
        match taken.found {
            Found::Item(module, name) if house.file_of(module) != taken.file => {
                of.inside.entry(house.file_of(module)).or_insert((taken.line, name));
            }
            Found::Foreign(path) => {
                let path = path.join("::");
                if is_impure(&path) {
                    of.outside.push((taken.line, path));
                }
            }
            _ => {}
        }
    }
    all
}

/// Whether this path of another package leads to something that does more than compute.
fn is_impure(path: &str) -> bool {
    let package = path.split("::").next().unwrap_or_default();
    // A capital is a type of the prelude or a generic parameter, whose bounds name where it comes from.
    if PRIMITIVE.contains(&package) || package.starts_with(|c: char| c.is_ascii_uppercase()) {
        return false;
    }
    let is_below =
        |above: &&str| path.strip_prefix(*above).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    !PURE_PACKAGES.iter().any(is_below) || IMPURE_STD.iter().any(is_below)
}

/// The shortest way from a file to a name that is not pure: `file, which takes ... from file, which takes tokio::...`.
fn way_outside(house: &House, takes: &[Takes], start: usize, is_pure: &dyn Fn(usize) -> bool) -> Option<String> {
    let path = |file: usize| house.files[file].path.as_str();
    let mut seen = HashSet::from([start]);
    let mut next = VecDeque::from([(start, path(start).to_owned())]);
    while let Some((file, way)) = next.pop_front() {
        if let Some((line, what)) = takes[file].outside.first() {
            return Some(format!("{way}, whose line {line} takes {what}"));
        }
        for (from, (line, name)) in &takes[file].inside {
            if !is_pure(*from) && seen.insert(*from) {
                next.push_back((*from, format!("{way}, whose line {line} takes {name} from {}", path(*from))));
            }
        }
    }
    None
}
