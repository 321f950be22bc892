//! The repository's files, and the workspace's members out of its manifests.

use std::path::{Path, PathBuf};

use super::graph::{House, Member};
use super::source::Source;

/// Every file below `root` with this ending, in order; build output and hidden folders aside.
pub(crate) fn files(root: &Path, ending: &str) -> Vec<Source> {
    let read = |path: &String| std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let found = paths(root).into_iter().filter(|path| path.ends_with(ending));
    found.map(|path| Source { text: read(&path), path }).collect()
}

/// The path of every file below `root`, in order; build output and hidden folders aside.
pub(crate) fn paths(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|e| e.expect("a directory entry").path()) {
            visit(root, path, &mut folders, &mut found);
        }
    }
    found.sort();
    found
}

fn visit(root: &Path, path: PathBuf, folders: &mut Vec<PathBuf>, found: &mut Vec<String>) {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    if path.is_dir() {
        if !name.starts_with('.') && name != "target" {
            folders.push(path);
        }
    } else {
        found.push(path.strip_prefix(root).expect("below the root").display().to_string());
    }
}

/// The workspace's members whose code ships: all but those below `tests`.
pub(crate) fn members(manifests: &[Source]) -> Vec<Member> {
    let text = |path: &str| manifests.iter().find(|m| m.path == path).map(|m| m.text.as_str());
    let listed = strings_of(text("Cargo.toml").unwrap_or_default(), "members");
    let folders = listed.iter().flat_map(|entry| match entry.strip_suffix("/*") {
        Some(above) => below(manifests, above),
        None => vec![entry.clone()],
    });
    let ships = folders.filter(|f| f != "tests" && !f.starts_with("tests/"));
    let named = ships.map(|folder| {
        let manifest = text(&format!("{folder}/Cargo.toml")).unwrap_or_default();
        let name = strings_of(manifest, "name").into_iter().next().unwrap_or_else(|| folder.clone());
        Member { folder, name }
    });
    named.collect()
}

/// Folders right below `above` that have a manifest.
fn below(manifests: &[Source], above: &str) -> Vec<String> {
    let inside = manifests.iter().filter_map(|m| m.path.strip_suffix("/Cargo.toml"));
    inside.filter(|f| f.rsplit_once('/').is_some_and(|(folder, _)| folder == above)).map(str::to_owned).collect()
}

/// The strings of `key = "..."` or `key = ["...", ...]`, wherever its first line stands.
fn strings_of(manifest: &str, key: &str) -> Vec<String> {
    let starts = |l: &str| l.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
    let Some(at) = manifest.lines().position(starts) else { return Vec::new() };
    let value: Vec<&str> = manifest.lines().skip(at).collect();
    let value = value.join("\n");
    let end = if value.contains(']') && value.lines().next().is_some_and(|l| l.contains('[')) { ']' } else { '\n' };
    let value = value.split(end).next().unwrap_or_default();
    value.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The product code of the repository at `root`.
pub(crate) fn house(root: &Path) -> House {
    House::build(&members(&files(root, "Cargo.toml")), &files(root, ".rs"))
}
