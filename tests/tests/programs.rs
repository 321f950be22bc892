//! Every program that a test or a script calls is in Debian's base system or is installed by `scripts/setup.sh`, and no
//! test waits for a program without a deadline.
//!
//! The lists come from the sources themselves, so a new call is found; each rule is shown to fail on a planted one.
//! `make fresh` checks the list of the base system.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Programs that a Debian has whatever was installed: those of its essential packages and of Debian's own tools.
const BASE: &str = "apt-config apt-get awk basename bash cat chmod chown chroot cp cut date dirname dpkg env find \
                    getent grep head id ln ls mkdir mktemp mount mv od printf rm sed seq sh sleep sort stat sudo \
                    tail tar tee touch tr umount uname useradd wc xargs";
/// What the user brings: the one thing that setup asks for instead of installing it.
const RUST: &str = "cargo rustc rustup";
/// Words at a command's place that are the shell's own.
const SHELL: &str = "alias break case cd command continue declare do done echo elif else esac eval exec exit export \
                     fi for function if in kill local popd pushd read return set shift shopt source test then time \
                     trap true false type ulimit umask unset until wait while";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace")
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Files below `folder` with this ending; build output and foreign trees aside.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                files(&path, ending, found);
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(root(), ".rs", &mut found);
    assert!(found.len() > 100, "{} sources found", found.len());
    found.into_iter().map(|path| (path.clone(), text(&path))).collect()
}

/// Programs named in the table of `scripts/setup.sh`.
fn installed(table: &str) -> BTreeSet<String> {
    let words = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let named = words.filter_map(|w| match w[..] {
        [_, _, "program" | "server", name] => Some(name.to_owned()),
        _ => None,
    });
    named.collect()
}

fn known() -> BTreeSet<String> {
    let script = text(&root().join("scripts/setup.sh"));
    let (_, rest) = script.split_once("<<'TABLE'\n").expect("setup.sh has its table");
    let (table, _) = rest.split_once("\nTABLE\n").expect("the table ends");
    let mut known = installed(table);
    known.extend([BASE, RUST].iter().flat_map(|list| list.split_whitespace()).map(str::to_owned));
    known
}

/// Programs that Rust code starts by a literal name.
fn called_by_rust(source: &str) -> Vec<String> {
    let after = source.split("Command::new(\"").skip(1);
    after.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}

/// Programs that a shell script calls by name: the first word of each command. Words made of variables or with a path
/// are not names.
fn called_by_shell(script: &str) -> BTreeSet<String> {
    let code = code_of(script);
    let own: BTreeSet<&str> = code.lines().filter_map(|l| l.trim().split_once("()").map(|(name, _)| name)).collect();
    let mut called = BTreeSet::new();
    for line in code.lines() {
        // Arithmetic calls nothing.
        let mut rest = line.replace("$((", "@");
        for separator in ["&&", "||", "$(", "<(", ";", "|", "(", ")"] {
            rest = rest.replace(separator, "\n");
        }
        for command in rest.lines() {
            let mut words = command.split_whitespace().skip_while(|w| is_prefix(w));
            let Some(word) = words.next() else { continue };
            let named = word.starts_with(|c: char| c.is_ascii_alphabetic())
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if named && !own.contains(word) && !SHELL.split_whitespace().any(|s| s == word) {
                called.insert(word.to_owned());
            }
        }
    }
    called
}

/// What may stand before a command's name: an assignment, a word of the shell that a command follows.
fn is_prefix(word: &str) -> bool {
    let assigns = word
        .split_once('=')
        .is_some_and(|(name, _)| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    assigns
        || ["if", "then", "else", "elif", "do", "while", "until", "!", "{", "exec", "time", "command"].contains(&word)
}

/// A script without comments, texts in quotes, here-documents, patterns of `case`, and continued lines joined.
fn code_of(script: &str) -> String {
    let mut code = String::new();
    let mut document: Option<&str> = None;
    for line in script.lines() {
        if let Some(end) = document {
            if line == end {
                document = None;
            }
            continue;
        }
        document = line.split_once("<<'").and_then(|(_, rest)| rest.split('\'').next());
        let line = match line.trim_start() {
            l if l.starts_with('#') => "",
            _ => line.split(" # ").next().unwrap_or_default(),
        };
        let joined = line.strip_suffix('\\');
        code.push_str(joined.unwrap_or(line));
        code.push(if joined.is_some() { ' ' } else { '\n' });
    }
    without_patterns(&without_quotes(&code))
}

/// A word in quotes becomes `@`, which is no name; the commands that a text substitutes stay.
fn without_quotes(code: &str) -> String {
    let mut out = String::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
                out.push('@');
            }
            '\'' => {
                out.push('@');
                chars.by_ref().find(|c| *c == '\'');
            }
            '"' => {
                out.push('@');
                let mut depth = 0usize;
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '$' if chars.peek() == Some(&'(') => {
                            depth += 1;
                            chars.next();
                            out.push_str("$(");
                        }
                        ')' if depth > 0 => {
                            depth -= 1;
                            out.push(')');
                        }
                        '"' if depth == 0 => break,
                        c if depth > 0 => out.push(if c == '"' { '@' } else { c }),
                        _ => {}
                    }
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Lines of a `case`: only what follows `pattern)` is a command. Items of a list in brackets are none either.
fn without_patterns(code: &str) -> String {
    let mut out = String::new();
    let mut list = false;
    for line in code.lines() {
        let trimmed = line.trim_start();
        let pattern = trimmed.split_once(") ").or_else(|| trimmed.strip_suffix(')').map(|p| (p, "")));
        let command = match pattern {
            Some((p, rest)) if !p.contains('(') && !p.contains('$') && !list => rest,
            _ => trimmed,
        };
        let opens = command.contains("=(") || command.starts_with("for ") || command.starts_with("case ");
        // A list of words, or the words of `for` and `case`: what follows `;` or `in` on the same line is looked at.
        let seen = if list || opens { command.split_once("; do").map_or("", |(_, body)| body) } else { command };
        list = (list || command.contains("=(")) && !command.contains(')');
        out.push_str(seen);
        out.push('\n');
    }
    out
}

#[test]
fn every_program_that_rust_calls_is_there() {
    let known = known();
    let mut seen = 0;
    for (path, source) in sources() {
        if path.ends_with("programs.rs") {
            continue;
        }
        for program in called_by_rust(&source) {
            seen += 1;
            let fine = known.contains(&program) || program.starts_with("/nonexistent");
            assert!(fine, "{} calls {program}: add it to scripts/setup.sh, or do without", path.display());
        }
    }
    assert!(seen > 10, "{seen} calls were found: the search itself does not work");
}

#[test]
fn every_program_that_a_script_calls_is_there() {
    let (known, mut scripts, mut seen, mut missing) = (known(), Vec::new(), BTreeSet::new(), Vec::new());
    files(&root().join("scripts"), ".sh", &mut scripts);
    scripts.push(root().join(".ci/run"));
    for path in scripts {
        for program in called_by_shell(&text(&path)) {
            if !known.contains(&program) && program != "make" {
                missing.push(format!("{}: {program}", path.display()));
            }
            seen.insert(program);
        }
    }
    assert!(missing.is_empty(), "add them to scripts/setup.sh, or do without: {missing:#?}");
    for one in ["apt-get", "npm", "python3", "patchelf", "mmdebstrap", "curl", "git", "cc"] {
        assert!(seen.contains(one), "{one} was not found in the scripts: the search itself does not work");
    }
}

#[test]
fn a_planted_program_is_found() {
    let planted = r#"fn f() { std::process::Command::new("killall").arg("x"); tokio::process::Command::new(path); }"#;
    assert_eq!(called_by_rust(planted), ["killall"]);
    assert!(!known().contains("killall") && known().contains("etcd") && known().contains("initdb"));
    for script in [
        "jq . file",
        "if ! jq -e . file; then true; fi",
        "echo \"one $(jq .x file) two\"",
        "X=1 jq .",
        "cat file | jq .",
        "cat file &&\n    jq .",
        "case $x in\n    a | b) jq . ;;\nesac",
        "for x in a b; do jq .; done",
        "x=$(jq .)",
        "sort < <(jq .)",
        "own() {\n    jq .\n}\nown",
    ] {
        assert!(called_by_shell(script).contains("jq"), "{script:?}: {:?}", called_by_shell(script));
    }
    for script in
        ["# jq", "echo 'jq'", "echo jq", "jq() {\n  true\n}\njq", "list=(jq)\n", "cat <<'END'\njq\nEND\n", "a=jq"]
    {
        assert!(!called_by_shell(script).contains("jq"), "{script:?}");
    }
}

/// Waits for programs that have no deadline. Those of an async test stand within `soon` or `timeout`, which have one.
fn endless(source: &str) -> Vec<usize> {
    let lines: Vec<&str> = source.lines().collect();
    let bounded = |at: usize| {
        let near = &lines[at.saturating_sub(1)..(at + 2).min(lines.len())];
        near.iter().any(|l| ["soon(", "timeout(", "// it has ended"].iter().any(|b| l.contains(b)))
    };
    let waits = [".output()", ".wait_with_output()", ".status().expect(\"the program"];
    let found = lines.iter().enumerate().filter(|(_, l)| waits.iter().any(|w| l.contains(w)));
    found.filter(|(at, l)| !l.trim_start().starts_with("//") && !bounded(*at)).map(|(at, _)| at + 1).collect()
}

#[test]
fn no_test_waits_for_a_program_without_a_deadline() {
    for (path, source) in sources() {
        let inside = path.strip_prefix(root()).expect("below the root");
        let is_test = inside.components().any(|c| c.as_os_str() == "tests");
        if is_test && !path.ends_with("programs.rs") {
            let found = endless(&source);
            assert!(found.is_empty(), "{} lines {found:?}: use harness::output", path.display());
        }
    }
    assert_eq!(endless("let x = command.output()?;"), [1]);
    assert_eq!(endless("let x = soon(\"it\", command.output()).await;"), [0usize; 0]);
}
