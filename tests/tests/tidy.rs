//! Repository lint, run as a test: sizes, purity of the cores, module docs, leftovers.
//!
//! Each rule is a function from a file's text to findings, and each is shown to fail on a planted violation below.
//! The size limits are a ratchet: they go down when the code allows it, never up.

use std::path::{Path, PathBuf};

/// Lines of a file's product part (before its test module); design aim is 200.
const FILE_LINES_MAX: usize = 800;
/// Lines of one function; design aim is 35.
const FUNCTION_LINES_MAX: usize = 120;
/// Characters of one line of Rust.
const LINE_CHARS_MAX: usize = 120;
/// Characters of one line of prose in Markdown, where a space allows to break it.
const PROSE_CHARS_MAX: usize = 100;
/// Functions above 70 lines in the whole repository, in per mille of all functions.
const LONG_FUNCTIONS_PER_MILLE_MAX: usize = 20;

/// Folders whose code is a function of its input: no runtime, files, sockets, clocks, randomness, logs or metrics.
const PURE: [&str; 15] = [
    "pgformat/src",
    "safekeeper/src/core",
    "walproposer-shim/src/core",
    "pageserver/src/choose",
    "pageserver/src/ingest/map",
    "proto/src/consensus",
    "proto/src/command",
    "proto/src/broker/embedded/log/format.rs",
    "proto/src/broker/embedded/store",
    "proto/src/codec.rs",
    "proto/src/feedback.rs",
    "proto/src/replication.rs",
    "proto/src/pagestream",
    "pageserver/src/store/compact/plan.rs",
    "pageserver/src/store/compact/retain.rs",
];

/// What pure code does not name.
const IMPURE: [&str; 14] = [
    "tokio",
    "std::fs",
    "std::net",
    "std::thread",
    "Mutex",
    "SystemTime",
    "Instant::now",
    "fastrand",
    "rustix",
    "tracing",
    "prometheus",
    "async fn",
    ".await",
    "std::env",
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Lines before the test module: what ships.
    fn product(&self) -> Vec<&str> {
        let test_only =
            self.path.contains("/tests/") || self.path.ends_with("/tests.rs") || self.path.starts_with("fuzz/");
        if test_only {
            return Vec::new();
        }
        self.text.lines().take_while(|l| l.trim() != "#[cfg(test)]" || !l.starts_with('#')).collect()
    }
}

fn sources() -> Vec<Source> {
    let found = files_named(".rs");
    assert!(found.len() > 50, "only {} sources found", found.len());
    found
}

fn files_named(ending: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace");
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).expect("a folder of the repository can be listed");
        for path in entries.map(|e| e.expect("a directory entry").path()) {
            visit(root, path, ending, &mut folders, &mut found);
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn visit(root: &Path, path: PathBuf, ending: &str, folders: &mut Vec<PathBuf>, found: &mut Vec<Source>) {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    if path.is_dir() {
        if !name.starts_with('.') && name != "target" {
            folders.push(path);
        }
    } else if name.ends_with(ending) {
        let relative = path.strip_prefix(root).expect("below the root").display().to_string();
        let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
        found.push(Source { path: relative, text });
    }
}

fn file_size(s: &Source) -> Vec<String> {
    let lines = s.product().len();
    if lines > FILE_LINES_MAX { vec![format!("{}: {lines} product lines, split it", s.path)] } else { vec![] }
}

/// (first line, length) of every function, by its indentation: rustfmt puts the closing brace below the `fn`.
fn functions(s: &Source) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = s.product();
    let is_fn = |l: &str| {
        let t = l.trim_start();
        ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn ", "pub(super) async fn "]
            .iter()
            .any(|p| t.starts_with(p))
            || t.starts_with("pub(crate) async fn ")
            || t.starts_with("const fn ")
            || t.starts_with("pub const fn ")
    };
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate().filter(|(_, l)| is_fn(l)) {
        let indent = line.len() - line.trim_start().len();
        let close = format!("{}}}", " ".repeat(indent));
        let end = lines.iter().skip(i).position(|l| *l == close);
        found.push((i + 1, end.map_or(1, |e| e + 1)));
    }
    found
}

fn function_size(s: &Source) -> Vec<String> {
    let long = functions(s).into_iter().filter(|(_, len)| *len > FUNCTION_LINES_MAX);
    long.map(|(at, len)| format!("{}:{at}: a function of {len} lines", s.path)).collect()
}

fn line_length(s: &Source) -> Vec<String> {
    let long = s.text.lines().enumerate().filter(|(_, l)| l.chars().count() > LINE_CHARS_MAX);
    long.map(|(i, _)| format!("{}:{}: longer than {LINE_CHARS_MAX} characters", s.path, i + 1)).collect()
}

fn purity(s: &Source) -> Vec<String> {
    if !PURE.iter().any(|p| s.path.starts_with(p)) {
        return vec![];
    }
    let code = s.product().into_iter().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"));
    let bad = code.flat_map(|(i, l)| {
        let text = l.split("//").next().unwrap_or(l);
        IMPURE.iter().filter(move |w| text.contains(**w)).map(move |w| (i + 1, *w))
    });
    bad.map(|(i, w)| format!("{}:{i}: `{w}` in pure code", s.path)).collect()
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
    let product = s.product().len();
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

/// Lines of prose that are too long; tables and code blocks are as long as they must be.
fn long_prose(s: &Source) -> Vec<String> {
    let mut fenced = false;
    let mut findings = Vec::new();
    for (i, line) in s.text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        let prose = !fenced && !line.starts_with("    ") && !line.trim_start().starts_with('|');
        let text = line.trim_start();
        let mut outside_code = text.match_indices(' ').filter(|(at, _)| text[..*at].matches('`').count() % 2 == 0);
        if prose && line.chars().count() > PROSE_CHARS_MAX && outside_code.next().is_some() {
            findings.push(format!("{}:{}: prose of more than {PROSE_CHARS_MAX} characters", s.path, i + 1));
        }
    }
    findings
}

/// Goal: prose can be read side by side with code. Method: the rule over every Markdown file, and over planted lines.
#[test]
fn prose_keeps_to_its_width() {
    let found = files_named(".md");
    assert!(found.len() > 20, "only {} Markdown files found", found.len());
    let findings: Vec<String> = found.iter().flat_map(long_prose).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
    let of = |text: String| long_prose(&Source { path: "a.md".to_owned(), text }).len();
    let long = "word ".repeat(21);
    assert_eq!((of(long.clone()), of(format!("- {long}"))), (1, 1));
    let allowed = [format!("| {long} |"), format!("    {long}"), format!("```\n{long}\n```"), format!("`{long}`")];
    assert_eq!(allowed.map(of), [0; 4]);
}

/// Goal: long functions stay rare. Method: share of functions above 70 lines.
#[test]
fn long_functions_are_rare() {
    let lengths: Vec<usize> = sources().iter().flat_map(functions).map(|(_, len)| len).collect();
    let long = lengths.iter().filter(|l| **l > 70).count();
    assert!(
        long * 1000 <= lengths.len() * LONG_FUNCTIONS_PER_MILLE_MAX,
        "{long} of {} functions are above 70 lines",
        lengths.len()
    );
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
        ("purity", file("safekeeper/src/core/b.rs", "//! Docs.\nuse tokio::sync::mpsc;\n".to_owned())),
        ("purity", file("pageserver/src/choose/b.rs", "//! Docs.\nlet t = Instant::now();\n".to_owned())),
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (readme, gate, make) = (read("README.md"), read(".ci/run"), read("Makefile"));
    for command in ["make demo", "make test"] {
        assert!(readme.contains(command), "README.md does not show `{command}`");
    }
    assert!(gate.contains("make test"), ".ci/run does not run `make test`");
    for target in ["setup", "demo", "test", "lint", "guard", "sim", "chaos", "bench"] {
        assert!(make.lines().any(|l| l.starts_with(&format!("{target}:"))), "Makefile has no target {target}");
    }
}
