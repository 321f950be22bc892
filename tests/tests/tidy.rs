//! Repository lint, run as a test: sizes, purity of the cores, module docs, leftovers.
//!
//! Each rule is a function from a file's text to findings, and each is shown to fail on a planted violation below.
//! Sizes and the figures of `make house` are a ratchet (`src/house/limits.rs`): they go down when the code allows it,
//! never up. It compiles with plain `rustc`, so that it can be asked in a second.

use std::path::Path;

use house::figures::{Figure, Measured};
use house::limits::{FILE_LINES_MAX, FUNCTION_LINES_MAX};
use house::purity::{PURE, impure_words, stale};
use house::source::{Parsed, Source};
use house::workspace::{self, files};

#[path = "../src/house/mod.rs"]
mod house;

/// Characters of one line of Rust.
const LINE_CHARS_MAX: usize = 120;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace")
}

fn sources() -> Vec<Source> {
    let found = files(root(), ".rs");
    assert!(found.len() > 50, "only {} sources found", found.len());
    found
}

fn is_test_only(s: &Source) -> bool {
    s.path.contains("/tests/") || s.path.ends_with("/tests.rs") || s.path.starts_with("fuzz/")
}

/// Lines before the test module: what ships.
fn product(s: &Source) -> Vec<&str> {
    if is_test_only(s) {
        return Vec::new();
    }
    s.text.lines().take_while(|l| l.trim() != "#[cfg(test)]" || !l.starts_with('#')).collect()
}

fn file_size(s: &Source) -> Vec<String> {
    let lines = if is_test_only(s) { 0 } else { Parsed::of(&s.text).product_lines() };
    if lines > FILE_LINES_MAX { vec![format!("{}: {lines} product lines, split it", s.path)] } else { vec![] }
}

fn function_size(s: &Source) -> Vec<String> {
    let functions = if is_test_only(s) { Vec::new() } else { Parsed::of(&s.text).functions };
    let long = functions.into_iter().filter(|f| f.lines > FUNCTION_LINES_MAX);
    long.map(|f| format!("{}:{}: `{}` has {} lines", s.path, f.line, f.name, f.lines)).collect()
}

fn line_length(s: &Source) -> Vec<String> {
    let long = s.text.lines().enumerate().filter(|(_, l)| l.chars().count() > LINE_CHARS_MAX);
    long.map(|(i, _)| format!("{}:{}: longer than {LINE_CHARS_MAX} characters", s.path, i + 1)).collect()
}

fn purity(s: &Source) -> Vec<String> {
    impure_words(s, &PURE)
}

fn module_docs(s: &Source) -> Vec<String> {
    let first = s.text.lines().find(|l| !l.trim().is_empty() && !l.starts_with("#!"));
    if first.is_some_and(|l| l.starts_with("//!")) {
        vec![]
    } else {
        vec![format!("{}: does not start with //! docs", s.path)]
    }
}

fn leftovers(s: &Source) -> Vec<String> {
    // Spelt in two halves, or this very file would trip over itself.
    let words = [("todo", "!("), ("unimplemented", "!("), ("dbg", "!("), ("#[ign", "ore"), ("FIX", "ME"), ("XX", "X:")];
    let lines = s.text.lines().enumerate();
    let regenerates = |l: &str| l.contains("= \"writes testdata");
    let bad = lines.filter(|(_, l)| !regenerates(l)).flat_map(|(i, l)| {
        words.iter().filter(move |(a, b)| l.contains(&format!("{a}{b}"))).map(move |(a, b)| (i + 1, format!("{a}{b}")))
    });
    bad.map(|(i, w)| format!("{}:{i}: leftover `{w}`", s.path)).collect()
}

/// Tests wait for conditions with a deadline: the one place that may pause between two looks is `tests/src/wait.rs`.
fn sleeps(s: &Source) -> Vec<String> {
    let product = product(s).len();
    let is_test_crate = s.path.starts_with("tests/") && s.path != "tests/src/wait.rs";
    let lines = s.text.lines().enumerate().skip(if is_test_crate { 0 } else { product });
    let word = ["::sl", "eep("].concat();
    let bad = lines.filter(|(_, l)| l.contains(&word) && !l.contains("// between two looks"));
    bad.map(|(i, _)| format!("{}:{}: a sleep in a test", s.path, i + 1)).collect()
}

type Rule = fn(&Source) -> Vec<String>;

const RULES: [(&str, Rule); 7] = [
    ("file size", file_size),
    ("function size", function_size),
    ("line length", line_length),
    ("purity", purity),
    ("module docs", module_docs),
    ("leftovers", leftovers),
    ("sleeps", sleeps),
];

/// Goal: the repository keeps its house rules. Method: every rule over every Rust file.
#[test]
fn the_repository_is_tidy() {
    let sources = sources();
    let mut findings: Vec<String> = Vec::new();
    for (name, rule) in RULES {
        findings.extend(sources.iter().flat_map(rule).map(|f| format!("[{name}] {f}")));
    }
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// Goal: no figure of the house gets worse, and one that got better is held. Method: the table of `make house`, each
/// figure against its limit.
#[test]
fn the_house_keeps_its_figures() {
    let markdown = files(root(), ".md");
    assert!(markdown.len() > 20, "only {} Markdown files found", markdown.len());
    let measured = Measured::of(workspace::house(root()), &sources(), &markdown, &workspace::paths(root()));
    assert!(measured.house.files.len() > 300, "only {} product files found", measured.house.files.len());
    let mut findings: Vec<String> = measured.figures().iter().filter_map(Figure::finding).collect();
    findings.extend(measured.long_prose.iter().map(|place| format!("{place}: prose of more than 100 characters")));
    findings.extend(measured.broken_links.iter().cloned());
    findings.extend(stale(&measured.house, &PURE));
    let help = "`make house LIST=circles` (or purity, names, docs, rows, links, sizes) lists the places";
    assert!(findings.is_empty(), "{} findings; {help}:\n{}", findings.len(), findings.join("\n"));
}

/// Goal: no rule is blind. Method: one planted violation per rule.
#[test]
fn every_rule_trips_on_a_planted_violation() {
    let file = |path: &str, text: String| Source { path: path.to_owned(), text };
    let good = file("safekeeper/src/core/good.rs", "//! Docs.\n\nfn f() {\n}\n".to_owned());
    for (name, rule) in RULES {
        assert_eq!(rule(&good), Vec::<String>::new(), "{name} trips on good code");
    }
    let long_fn = format!("//! Docs.\nfn f() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES_MAX));
    let planted = [
        ("file size", file("a/src/b.rs", "//! x\n".repeat(FILE_LINES_MAX + 1))),
        ("function size", file("a/src/b.rs", long_fn)),
        ("line length", file("a/src/b.rs", format!("//! {}\n", "x".repeat(LINE_CHARS_MAX)))),
        ("purity", file("safekeeper/src/core/b.rs", "//! Docs.\nuse std::sync::Mutex;\n".to_owned())),
        ("purity", file("pageserver/src/choose/b.rs", "//! Docs.\nwork().await;\n".to_owned())),
        ("module docs", file("a/src/b.rs", "fn f() {}\n".to_owned())),
        ("leftovers", file("a/src/b.rs", ["//! Docs.\nfn f() { to", "do!() }\n"].concat())),
        ("sleeps", file("tests/tests/b.rs", ["//! Docs.\nfn f() { thread::sl", "eep(d); }\n"].concat())),
    ];
    for (name, source) in planted {
        let (_, rule) = RULES.iter().find(|(n, _)| *n == name).expect("a rule of that name");
        assert!(!rule(&source).is_empty(), "{name} is blind to {:?}", source.text.lines().last());
    }
}

/// Goal: the two README commands are there and the gate runs the README's own test command.
#[test]
fn readme_and_gate_agree() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (readme, gate, make) = (read("README.md"), read(".ci/run"), read("Makefile"));
    for command in ["make demo", "make test"] {
        assert!(readme.contains(command), "README.md does not show `{command}`");
    }
    assert!(gate.contains("make test"), ".ci/run does not run `make test`");
    for target in ["setup", "demo", "test", "lint", "guard", "sim", "chaos", "bench", "house"] {
        assert!(make.lines().any(|l| l.starts_with(&format!("{target}:"))), "Makefile has no target {target}");
    }
}
