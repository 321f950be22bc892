//! Where Markdown leads: every path of the repository that a page names is there, and so is every relative link with
//! its anchor.
//!
//! - A path in backticks that starts with a folder of the repository's root must be a file or a folder. Any other
//!   that ends in `.rs`, `.sh` or `.md` must be the tail of a file's path, as `core/mod.rs` is of two; so must one in
//!   `.toml`, `.sql` or `.json` that starts with a folder in small letters.
//! - In a code block only whole paths of files are looked at.
//! - An anchor is a heading as GitHub spells it, or an `id` in the page.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;

/// Endings of files that only the repository has.
const OURS: [&str; 3] = [".rs", ".sh", ".md"];
/// Endings of files that a reader's machine has too: `fabric.json`, `D/fabric.json`.
const COMMON: [&str; 3] = [".toml", ".sql", ".json"];

/// `path:line: what` for everything on these pages that leads nowhere; `files` are all paths of the repository.
pub(crate) fn broken(pages: &[Source], files: &[String]) -> Vec<String> {
    let there = There::of(files);
    let anchors: BTreeMap<&str, BTreeSet<String>> = pages.iter().map(|p| (p.path.as_str(), anchors(&p.text))).collect();
    let mut found = Vec::new();
    for page in pages {
        for (line, fenced, text) in lines(&page.text) {
            let paths = if fenced { in_block(text, &there) } else { in_prose(text, &there) };
            let links = if fenced { Vec::new() } else { targets(text) };
            let dead = links.into_iter().filter_map(|to| dead_link(&page.path, to, &there, &anchors));
            let dead = paths.into_iter().map(|p| format!("no such file or folder: {p}")).chain(dead);
            found.extend(dead.map(|what| format!("{}:{line}: {what}", page.path)));
        }
    }
    found
}

/// What the repository has.
struct There<'a> {
    files: BTreeSet<&'a str>,
    folders: BTreeSet<&'a str>,
}

impl<'a> There<'a> {
    fn of(files: &'a [String]) -> There<'a> {
        let above = |f: &'a String| f.match_indices('/').map(|(at, _)| &f[..at]);
        There { files: files.iter().map(String::as_str).collect(), folders: files.iter().flat_map(above).collect() }
    }

    fn has(&self, path: &str) -> bool {
        self.files.contains(path) || self.folders.contains(path.trim_end_matches('/')) || path.is_empty()
    }

    /// Whether the path starts with a folder of the root.
    fn is_whole(&self, path: &str) -> bool {
        path.split_once('/').is_some_and(|(first, _)| self.folders.contains(first))
    }

    fn has_tail(&self, tail: &str) -> bool {
        self.files.iter().any(|f| f.strip_suffix(tail).is_some_and(|head| head.is_empty() || head.ends_with('/')))
    }
}

fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(plain)
}

fn names_a_file(word: &str) -> bool {
    let ends = |with: [&str; 3]| with.iter().any(|e| word.ends_with(e));
    let in_folder = word.contains('/') && word.starts_with(|c: char| c.is_ascii_lowercase());
    ends(OURS) || (in_folder && ends(COMMON))
}

/// Paths in backticks of a line that are not there.
fn in_prose<'a>(line: &'a str, there: &There<'_>) -> Vec<&'a str> {
    let words = line.split('`').skip(1).step_by(2).filter(|w| is_path(w));
    let dead = words.filter(|w| match there.is_whole(w) {
        true => !there.has(w),
        false => names_a_file(w) && !there.has_tail(w),
    });
    dead.collect()
}

/// Whole paths of files in a line of a code block that are not there.
fn in_block<'a>(line: &'a str, there: &There<'_>) -> Vec<&'a str> {
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || "_-./".contains(c)));
    words.filter(|w| is_path(w) && names_a_file(w) && there.is_whole(w) && !there.has(w)).collect()
}

/// Targets of the links in a line, whole addresses aside.
fn targets(line: &str) -> Vec<&str> {
    let prose: Vec<(usize, usize)> = spans_outside_code(line);
    let inline = line.match_indices("](").filter(|(at, _)| prose.iter().any(|(from, to)| (*from..*to).contains(at)));
    let inline = inline.filter_map(|(at, _)| line[at + 2..].split([')', ' ']).next());
    let listed = line.strip_prefix('[').and_then(|l| l.split_once("]: ")).map(|(_, to)| to.trim());
    inline.chain(listed).filter(|to| !to.contains(':')).collect()
}

/// Byte ranges between the backticks.
fn spans_outside_code(line: &str) -> Vec<(usize, usize)> {
    let mut ticks: Vec<usize> = line.match_indices('`').map(|(at, _)| at).collect();
    ticks.insert(0, 0);
    ticks.push(line.len());
    ticks.chunks(2).filter_map(|c| Some((*c.first()?, *c.get(1)?))).collect()
}

fn dead_link(page: &str, to: &str, there: &There<'_>, anchors: &BTreeMap<&str, BTreeSet<String>>) -> Option<String> {
    let (path, anchor) = to.split_once('#').map_or((to, None), |(path, anchor)| (path, Some(anchor)));
    let target = if path.is_empty() { page.to_owned() } else { joined(page, path) };
    if !there.has(&target) {
        return Some(format!("the link {to} leads to no file"));
    }
    let known = anchor.is_none_or(|a| anchors.get(target.as_str()).is_some_and(|known| known.contains(a)));
    (!known).then(|| format!("the link {to} leads to no heading"))
}

/// A relative path, seen from the folder of `page`.
fn joined(page: &str, path: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// Anchors that a page has: of headings, numbered where one comes again, and its own ids.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut headings: BTreeMap<String, usize> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for (_, _, line) in lines(text).filter(|(_, fenced, _)| !fenced) {
        if line.starts_with('#') {
            let anchor = anchor(line.trim_start_matches('#'));
            let before = headings.entry(anchor.clone()).or_default();
            found.insert(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
            *before += 1;
        }
        found.extend(line.split("id=\"").skip(1).filter_map(|l| l.split('"').next()).map(str::to_owned));
    }
    found
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let seen: String = heading.trim().split("](").enumerate().map(|(i, part)| without_target(i, part)).collect();
    let kept = seen.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    kept.replace(' ', "-")
}

/// What a heading shows of a part that may begin with a link's target.
fn without_target(index: usize, part: &str) -> &str {
    if index == 0 { part } else { part.split_once(')').map_or("", |(_, rest)| rest) }
}

/// (line from 1, whether it is in a code block, text); fences themselves are left out.
fn lines(text: &str) -> impl Iterator<Item = (usize, bool, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(i, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        (!is_fence).then_some((i + 1, fenced, line))
    })
}
