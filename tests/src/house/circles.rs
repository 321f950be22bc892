//! Circles of imports: files of one crate that reach each other, with the names that tie each file to the others.

use std::collections::BTreeSet;

use super::graph::House;

/// Folders whose circle is not counted: redo's own circle is PostgreSQL's, where a change of one kind of page, the map
/// of visible pages say, is part of another's.
pub(crate) const APART: &str = "pgformat/src/redo/";

/// Files that import each other, directly or by way of others.
#[derive(Debug)]
pub(crate) struct Circle {
    /// Their paths, in order.
    pub(crate) files: Vec<String>,
    /// The ties inside, as `file:line -> file: names`.
    pub(crate) ties: Vec<String>,
}

impl Circle {
    /// Whether it is one that is not counted.
    pub(crate) fn is_apart(&self) -> bool {
        self.files.iter().all(|f| f.starts_with(APART))
    }
}

/// The circles that count.
pub(crate) fn counted(circles: &[Circle]) -> impl Iterator<Item = &Circle> {
    circles.iter().filter(|c| !c.is_apart())
}

/// All circles, the largest first.
pub(crate) fn circles(house: &House) -> Vec<Circle> {
    let ties = house.ties();
    let next = imports(house, ties.keys().copied());
    let path = |file: usize| house.files[file].path.clone();
    let mut found: Vec<Circle> = Vec::new();
    for files in components(&next).into_iter().filter(|c| c.len() > 1) {
        let inside = ties.iter().filter(|((a, b), _)| files.contains(a) && files.contains(b));
        let tied =
            inside.map(|((a, b), tie)| format!("{}:{} -> {}: {}", path(*a), tie.line, path(*b), listed(&tie.names)));
        found.push(Circle { ties: tied.collect(), files: files.iter().map(|f| path(*f)).collect() });
    }
    found.sort_by(|a, b| b.files.len().cmp(&a.files.len()).then_with(|| a.files.cmp(&b.files)));
    found
}

/// The imports inside each crate, from file to files.
fn imports(house: &House, ties: impl Iterator<Item = (usize, usize)>) -> Vec<Vec<usize>> {
    let member = |file: usize| house.files[file].member;
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); house.files.len()];
    for (from, to) in ties.filter(|(a, b)| member(*a) == member(*b)) {
        next[from].push(to);
    }
    next
}

/// How many modules are in circles when a parent's use of its own children is left out: those are the circles that
/// reach over a folder, the others end when what parent and children share gets a file of its own.
pub(crate) fn between_folders(house: &House) -> usize {
    let stem = |file: usize| {
        let path = house.files[file].path.as_str();
        ["/mod.rs", "/lib.rs", "/main.rs", ".rs"].iter().find_map(|e| path.strip_suffix(e)).unwrap_or(path)
    };
    let is_below = |a: usize, b: usize| stem(b).strip_prefix(stem(a)).is_some_and(|rest| rest.starts_with('/'));
    let ties = house.ties();
    let next = imports(house, ties.keys().copied().filter(|(a, b)| !is_below(*a, *b)));
    let circles = components(&next).into_iter().filter(|c| c.len() > 1);
    let is_apart = |c: &BTreeSet<usize>| c.iter().all(|f| house.files[*f].path.starts_with(APART));
    circles.filter(|c| !is_apart(c)).map(|c| c.len()).sum()
}

fn listed(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Strongly connected components, by Tarjan's algorithm.
pub(crate) fn components(next: &[Vec<usize>]) -> Vec<BTreeSet<usize>> {
    let mut walk = Walk { next, index: vec![None; next.len()], low: vec![0; next.len()], stack: vec![], found: vec![] };
    for node in 0..next.len() {
        if walk.index[node].is_none() {
            walk.visit(node);
        }
    }
    walk.found
}

struct Walk<'a> {
    next: &'a [Vec<usize>],
    /// When each node was first seen.
    index: Vec<Option<usize>>,
    low: Vec<usize>,
    stack: Vec<usize>,
    found: Vec<BTreeSet<usize>>,
}

impl Walk<'_> {
    /// Recursion is as deep as the longest chain of imports.
    fn visit(&mut self, node: usize) {
        let at = self.index.iter().flatten().count();
        self.index[node] = Some(at);
        self.low[node] = at;
        self.stack.push(node);
        for i in 0..self.next[node].len() {
            let to = self.next[node][i];
            match self.index[to] {
                None => {
                    self.visit(to);
                    self.low[node] = self.low[node].min(self.low[to]);
                }
                Some(seen) if self.stack.contains(&to) => self.low[node] = self.low[node].min(seen),
                Some(_) => {}
            }
        }
        if self.low[node] == at {
            let start = self.stack.iter().position(|n| *n == node).unwrap_or_default();
            self.found.push(self.stack.split_off(start).into_iter().collect());
        }
    }
}
