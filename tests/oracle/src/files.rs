//! Judge (b): compares the files of a cleanly shut down cluster, page by page and with page LSNs, with replayed pages.
//! Replay starts from a copy of the cluster's beginning and gets no help from check images.
//!
//! Every fork counts, except free space maps, which are hints, and the main forks and maps of unlogged relations, which
//! are not in the log. A file that only one side has is a mismatch, too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use pgformat::control::DbState;
use pgformat::page::{PAGE_SIZE, Page};
use pgformat::rel::{BlockTag, Fork, PG_DEFAULT, PG_GLOBAL, RelFork};

use crate::allowed::Case;
use crate::effects::control_file;
use crate::mask::{Against, Kind};
use crate::pages::{BLOCKS_PER_FILE, parse_file_name};
use crate::replay::{Replayer, describe, verdict};
use crate::report::Files;

/// Examples kept of pages that differ.
const EXAMPLES: usize = 20;

/// Compares `data`, the data directory of a cluster that was shut down at the log's end, with the replayed pages.
///
/// # Errors
/// When the cluster was not shut down cleanly, or a file cannot be read. Differences go to the report.
pub fn compare(replayer: &mut Replayer, data: &Path) -> Result<()> {
    ensure!(replayer.pages.has_base(), "files are compared with pages that started from a copy of the files");
    let control = control_file(data, replayer.report.version)?;
    ensure!(control.state == DbState::Shutdown, "{} was not shut down cleanly", data.display());
    let files = relation_files(data)?;
    let unlogged: BTreeSet<_> = files.keys().filter(|(f, _)| f.fork == Fork::Init).map(|(f, _)| f.rel).collect();
    let is_compared = |fork: RelFork| match fork.fork {
        Fork::Fsm => false,
        Fork::Init => true,
        Fork::Main | Fork::Vm => !unlogged.contains(&fork.rel),
    };
    let mut found = Files::default();
    let mut lengths: BTreeMap<RelFork, u32> = BTreeMap::new();
    for ((fork, segment), path) in files.iter().filter(|((fork, _), _)| is_compared(*fork)) {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        ensure!(bytes.len() % PAGE_SIZE == 0, "{} ends inside of a page", path.display());
        for (n, bytes) in (0..).zip(bytes.chunks_exact(PAGE_SIZE)) {
            let tag = BlockTag { fork: *fork, blk: segment * BLOCKS_PER_FILE + n };
            let theirs = Page::from_slice(bytes).context("a page")?;
            page(replayer, tag, &theirs, &mut found);
        }
        *lengths.entry(*fork).or_default() += (bytes.len() / PAGE_SIZE) as u32;
    }
    for fork in replayer.pages.all_forks()?.into_iter().filter(|fork| is_compared(*fork)) {
        let (ours, theirs) = (replayer.pages.blocks(fork), lengths.get(&fork).copied().unwrap_or_default());
        if ours > theirs {
            fail(&mut found, || format!("{fork} has {ours} blocks, its files {theirs}"));
        }
    }
    replayer.report.files = Some(found);
    Ok(())
}

fn page(replayer: &mut Replayer, tag: BlockTag, theirs: &Page, found: &mut Files) {
    let ours = replayer.pages.get(tag).cloned().unwrap_or_default();
    // A block that was never written through the log reads as zeros on both sides.
    if theirs.is_new() && ours.is_new() {
        *found.pages.entry("new").or_default() += 1;
        return;
    }
    let Some(kind) = Kind::of_page(theirs, tag.fork.fork) else {
        fail(found, || format!("{tag}: of no known kind: {theirs:?}, ours {ours:?}"));
        return;
    };
    *found.pages.entry(kind.name()).or_default() += 1;
    let case = Case { against: Against::File, tag, kind, logged_database: replayer.is_logged_database(tag) };
    match verdict(&ours, theirs, &case) {
        Ok(verdict) if verdict.left.is_empty() => {
            verdict.used.iter().for_each(|n| replayer.report.allowed[*n] += 1);
        }
        result => fail(found, || format!("{tag} ({}): {}", kind.name(), describe(&result, &ours, theirs))),
    }
}

fn fail(found: &mut Files, text: impl FnOnce() -> String) {
    found.mismatches += 1;
    if found.examples.len() < EXAMPLES {
        found.examples.push(text());
    }
}

/// Spoils pages in ways that only this judge can see: a page LSN, a page that is not there, a page too much. How many.
///
/// # Errors
/// When the files cannot be listed, or there is no page to spoil.
pub fn plant(replayer: &mut Replayer, data: &Path) -> Result<u64> {
    let mut victims = Vec::new();
    for (fork, _) in relation_files(data)?.into_keys().filter(|(fork, _)| fork.fork == Fork::Main) {
        let blocks = replayer.pages.blocks(fork);
        let tag = BlockTag { fork, blk: blocks.saturating_sub(1) };
        // Kinds without exceptions for page LSNs.
        let is_heap = |page: &Page| Kind::of_page(page, Fork::Main) == Some(Kind::Heap) && !page.is_new();
        if blocks > 0 && replayer.pages.get(tag).is_some_and(|page| is_heap(page)) {
            victims.push(tag);
        }
    }
    let [first, .., second, third] = victims[..] else { bail!("there is nothing to spoil") };
    let page = replayer.pages.get(first).context("a page")?;
    page.set_lsn(page.lsn().add(8));
    let copy = replayer.pages.get(second).context("a page")?.clone();
    replayer.pages.put(BlockTag { blk: second.blk + 1, ..second }, copy);
    replayer.pages.cut(third.fork, third.blk);
    Ok(3)
}

/// The files of relations in a data directory, by fork and number of the file.
///
/// # Errors
/// When a directory cannot be listed.
pub fn relation_files(data: &Path) -> Result<BTreeMap<(RelFork, u32), PathBuf>> {
    let mut found = BTreeMap::new();
    list(&data.join("global"), PG_GLOBAL, 0, &mut found)?;
    databases(&data.join("base"), PG_DEFAULT, &mut found)?;
    for (spc, dir) in numbered(&data.join("pg_tblspc"))? {
        for version in entries(&dir)? {
            databases(&version, spc, &mut found)?;
        }
    }
    Ok(found)
}

fn databases(dir: &Path, spc: u32, found: &mut BTreeMap<(RelFork, u32), PathBuf>) -> Result<()> {
    numbered(dir)?.into_iter().try_for_each(|(db, dir)| list(&dir, spc, db, found))
}

fn list(dir: &Path, spc: u32, db: u32, found: &mut BTreeMap<(RelFork, u32), PathBuf>) -> Result<()> {
    for path in entries(dir)? {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(key) = parse_file_name(name, spc, db) {
            found.insert(key, path);
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    entries.map(|e| Ok(e?.path())).collect()
}

/// Directories whose names are numbers.
fn numbered(dir: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let number = |path: PathBuf| Some((path.file_name()?.to_str()?.parse().ok()?, path));
    Ok(entries(dir)?.into_iter().filter_map(number).collect())
}
