//! The documentation holds together: links and their anchors lead somewhere, files that it names are there, and every
//! decision says when it was made and whether it stands. Compiles with plain `rustc`, as the lint does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Endings of files that the documentation names as `folder/file.ending`.
const ENDINGS: [&str; 6] = [".rs", ".md", ".sh", ".toml", ".sql", ".json"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace")
}

/// Every file of the repository, by path from its root.
fn files() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).expect("a folder of the repository");
        for path in entries.map(|e| e.expect("a directory entry").path()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if !path.is_dir() {
                found.insert(path.strip_prefix(root()).expect("below the root").to_owned());
            } else if name != ".git" && name != "target" {
                folders.push(path);
            }
        }
    }
    found
}

/// Those of them that are pages, with their text.
fn pages(files: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, String> {
    let page = |path: &&PathBuf| path.extension().is_some_and(|e| e == "md");
    let text = |path: &PathBuf| std::fs::read_to_string(root().join(path)).expect("pages are UTF-8");
    files.iter().filter(page).map(|path| (path.clone(), text(path))).collect()
}

/// A page's lines that are neither in a code block nor indented as one.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence && !line.starts_with("    ")
    })
}

/// Targets of `[text](target)`.
fn links(text: &str) -> Vec<&str> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target)))
        .collect()
}

/// What a heading or an `<a id>` is called in a link, as GitHub makes it.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = |line: &str| line.starts_with('#').then(|| slug(line.trim_start_matches('#').trim()));
    let named = |line: &str| Some(line.split_once("<a id=\"")?.1.split_once('"')?.0.to_owned());
    prose(text).flat_map(|line| heading(line).into_iter().chain(named(line))).collect()
}

fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// `folder` and `target` joined, without `.` and `..`.
fn joined(folder: &Path, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in folder.join(target).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

/// Links of a page that lead nowhere. `exists` says of a path from the root whether there is such a file or folder.
fn broken(page: &Path, text: &str, all: &BTreeMap<PathBuf, String>, exists: &dyn Fn(&Path) -> bool) -> Vec<String> {
    let folder = page.parent().unwrap_or(Path::new(""));
    let inside = links(text).into_iter().filter(|target| !target.contains("://"));
    let leads = |target: &str| {
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let place = if file.is_empty() { page.to_owned() } else { joined(folder, file) };
        let anchored = anchor.is_empty() || all.get(&place).is_some_and(|text| anchors(text).contains(anchor));
        exists(&place) && anchored
    };
    inside.filter(|target| !leads(target)).map(|target| format!("{}: {target}", page.display())).collect()
}

/// Files that a page names in its prose and that are not there: the last folders of their path are enough.
fn missing_files(page: &Path, text: &str, files: &BTreeSet<PathBuf>) -> Vec<String> {
    let plain = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-'));
    let is_file = |word: &&str| ENDINGS.iter().any(|e| word.ends_with(e)) && word.contains('/') && plain(word);
    let words = prose(text).flat_map(|line| line.split('`').skip(1).step_by(2));
    // `/etc/x.toml` and `D/fabric.json` are on a reader's machine.
    let named = words.filter(is_file).filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase() || c == '.'));
    let folder = page.parent().unwrap_or(Path::new(""));
    let there = |word: &str| files.iter().any(|file| file.ends_with(word)) || files.contains(&joined(folder, word));
    named.filter(|word| !there(word)).map(|word| format!("{}: `{word}`", page.display())).collect()
}

/// What a decision's head lacks.
fn head_of_decision(name: &str, text: &str) -> Vec<String> {
    let number: Option<u32> = name.get(..4).and_then(|digits| digits.parse().ok());
    let title = number.is_some_and(|n| text.starts_with(&format!("# ADR {n}: ")));
    let mut lines = text.lines().skip(1);
    let head = (lines.next(), lines.next(), lines.next());
    let date = |line: &str| line.strip_prefix("- Date: ").is_some_and(|d| d.len() == 10 && d.matches('-').count() == 2);
    let fine = match head {
        (Some(""), Some(second), Some(third)) => date(second) && third.starts_with("- Status: "),
        _ => false,
    };
    if title && fine { vec![] } else { vec![format!("{name}: expected '# ADR N: ...', '- Date: ', '- Status: '")] }
}

fn in_repository(path: &Path) -> bool {
    root().join(path).exists()
}

/// Goal: a reader who follows a link arrives. Method: every relative link of every page, with its anchor.
#[test]
fn links_lead_somewhere() {
    let all = pages(&files());
    assert!(all.len() > 30, "only {} pages found", all.len());
    let findings: Vec<_> = all.iter().flat_map(|(page, text)| broken(page, text, &all, &in_repository)).collect();
    assert_eq!(findings, Vec::<String>::new());
}

/// Goal: a file that a page names is where it says. Method: code words that look like paths of sources.
#[test]
fn named_files_are_there() {
    let files = files();
    let all = pages(&files);
    let findings: Vec<_> = all.iter().flat_map(|(page, text)| missing_files(page, text, &files)).collect();
    assert_eq!(findings, Vec::<String>::new());
}

/// Goal: every decision has a date and a status, and is listed. Method: the files of docs/adr and their index.
#[test]
fn decisions_are_dated_and_listed() {
    let all = pages(&files());
    let index = &all[Path::new("docs/adr/README.md")];
    let mut findings = Vec::new();
    let decisions = all.iter().filter(|(page, _)| page.starts_with("docs/adr") && !page.ends_with("README.md"));
    for (page, text) in decisions {
        let name = page.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        findings.extend(head_of_decision(name, text));
        if !index.contains(&format!("]({name})")) {
            findings.push(format!("{name}: not in docs/adr/README.md"));
        }
    }
    let listed: BTreeSet<_> = links(index).into_iter().collect();
    assert!(listed.len() > 15, "the index lists {listed:?}");
    assert_eq!(findings, Vec::<String>::new());
}

/// Goal: none of these checks is blind. Method: a page with one planted fault of each kind.
#[test]
fn planted_faults_are_found() {
    let good = "# A page\n\nSee [it](b.md#two-words-it), [here](#a-page), [x](https://x.org/y), `src/a.rs`.\n";
    let other = "## Two words: `it`\n\n<a id=\"place\"></a>\n";
    let all = BTreeMap::from([("d/a.md".into(), good.to_owned()), ("d/b.md".into(), other.to_owned())]);
    let there = BTreeSet::from(["d/a.md", "d/b.md", "x/src/a.rs"].map(PathBuf::from));
    let exists = |path: &Path| there.contains(path);
    let page = Path::new("d/a.md");
    assert_eq!(broken(page, good, &all, &exists), Vec::<String>::new());
    assert_eq!(missing_files(page, good, &there), Vec::<String>::new());
    for bad in ["[x](c.md)", "[x](b.md#none)", "[x](#none)", "[x](../d/e.md)"] {
        assert_eq!(broken(page, bad, &all, &exists).len(), 1, "{bad}");
    }
    for fine in ["[x](b.md#place)", "[x](../d/b.md)", "```\n[x](c.md)\n```", "    [x](c.md)"] {
        assert_eq!(broken(page, fine, &all, &exists), Vec::<String>::new(), "{fine}");
    }
    assert_eq!(missing_files(page, "in `src/gone.rs`, `/etc/a.toml`, `D/a.json`", &there), ["d/a.md: `src/gone.rs`"]);

    let head = "# ADR 7: a thing\n\n- Date: 2026-11-28\n- Status: accepted\n";
    assert_eq!(head_of_decision("0007-a.md", head), Vec::<String>::new());
    for bad in ["# ADR 8: a", "# 7. a", "# ADR 7: a\n\n- Date: today\n- Status: x", "# ADR 7: a\n\nText."] {
        assert_eq!(head_of_decision("0007-a.md", bad).len(), 1, "{bad}");
    }
}
