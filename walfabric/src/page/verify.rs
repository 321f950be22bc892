//! Whether a pageserver has the pages of a stopped cluster, all of them and no others, as of its last checkpoint.
//!
//! Compared are all forks but free space maps, which are hints, and the main forks and maps of unlogged relations,
//! which WAL does not describe; SLRU segments; the control file; relation maps, prepared transactions and the progress
//! of replication origins (`files`). Pages are compared as the judges of redo compare them
//! ([`pgformat::compare`]), page LSN included. Beyond its list of differences only this is allowed: a server makes
//! forks and segments longer before it logs anything for the new blocks, so its files may end with empty pages that the
//! pageserver does not have; and files that no catalog names were left behind by a crash, and are listed instead of
//! judged (`catalogues`).

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use pgformat::Lsn;
use pgformat::compare::{ALLOWED, Against, Case, INIT_FORK_LSN, Kind, SPGIST_UNUSED, verdict};
use pgformat::compare::{is_init_before_log, is_unused_spgist};
use pgformat::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use pgformat::rel::{BlockNumber, BlockTag, Fork, RelFork};
use pgformat::slru::Slru;

use super::catalogues::Catalogues;
use super::local::{Local, LocalFile};

mod files;
mod report;
mod source;

use report::{in_words, show_bytes};

pub use report::{PageDifference, PageReport};
pub use source::PagesAtLsn;

/// Blocks read and asked for at a time: 1 MiB.
const CHUNK_BLOCKS: usize = 128;

/// Compares `local` with `source`.
///
/// # Errors
/// When a file cannot be read, or the pageserver does not answer. Differences go into the report.
pub async fn verify(local: &Local, source: &mut impl PagesAtLsn) -> Result<PageReport> {
    let mut report = PageReport::new(local.lsn);
    for d in source.control(&local.control_bytes).await? {
        let what = format!("{}: ours {}, file's {}", d.what, d.ours, d.theirs);
        report.differs(PageDifference { file: pgformat::control::CONTROL_FILE_NAME.to_owned(), ..in_words(what) });
    }
    let (ours, logged) = source.relations().await?;
    let unlogged: BTreeSet<_> =
        local.forks.keys().chain(ours.keys()).filter(|f| f.fork == Fork::Init).map(|f| f.rel).collect();
    let is_compared = |fork: &RelFork| match fork.fork {
        Fork::Fsm => false,
        Fork::Init => true,
        Fork::Main | Fork::Vm => !unlogged.contains(&fork.rel),
    };
    let catalogues = Catalogues::read(local);
    report.catalogs_unread.clone_from(&catalogues.unread);
    for (fork, files) in local.forks.iter().filter(|(fork, _)| is_compared(fork)) {
        if catalogues.is_left_file(fork.rel) {
            files.iter().for_each(|file| report.left(&file.path, file.len));
            continue;
        }
        let is_logged = logged.contains(&fork.rel.db);
        compare_fork(local, source, (*fork, is_logged), files, ours.get(fork).copied(), &mut report).await?;
    }
    for (fork, blocks) in ours.iter().filter(|(fork, _)| is_compared(fork) && !local.forks.contains_key(fork)) {
        let what = format!("the pageserver has {blocks} blocks of it, the cluster has no such fork");
        report.differs(PageDifference { file: fork.to_string(), ..in_words(what) });
    }
    for slru in Slru::ALL {
        compare_slru(local, source, slru, &mut report).await?;
    }
    files::compare(local, source, &catalogues, &mut report).await?;
    Ok(report)
}

async fn compare_fork(
    local: &Local,
    source: &mut impl PagesAtLsn,
    (fork, logged_database): (RelFork, bool),
    files: &[LocalFile],
    ours: Option<BlockNumber>,
    report: &mut PageReport,
) -> Result<()> {
    report.forks += 1;
    let mut end = 0;
    for file in files {
        let odd = file.len % PAGE_SIZE as u64;
        if file.first != end || odd != 0 {
            let what = if odd == 0 { "blocks are missing before it" } else { "it ends inside of a page" };
            report.differs(PageDifference { file: file.path.clone(), ..in_words(what.to_owned()) });
        }
        let blocks = u32::try_from(file.len / PAGE_SIZE as u64).context("a file of 2^32 pages")?;
        end = file.first.saturating_add(blocks);
        let content = &mut std::fs::File::open(local.root.join(&file.path)).with_context(|| file.path.clone())?;
        let mut next = file.first;
        while next < end {
            let theirs = read_pages(content, (end - next) as usize).with_context(|| file.path.clone())?;
            let tags: Vec<BlockTag> = (next..end).take(theirs.len()).map(|blk| BlockTag { fork, blk }).collect();
            let here = tags.partition_point(|tag| tag.blk < ours.unwrap_or(0));
            let pages = source.pages(&tags[..here]).await?;
            for ((tag, theirs), ours) in tags.iter().zip(&theirs).zip(pages) {
                compare_page(&file.path, *tag, theirs, ours, logged_database, report);
            }
            for (tag, theirs) in tags.iter().zip(&theirs).skip(here) {
                compare_tail(&file.path, *tag, theirs, report);
            }
            next += tags.len() as u32;
        }
    }
    let first = files.first().map_or_else(|| fork.to_string(), |f| f.path.clone());
    match ours {
        None if end == 0 => {
            report.differs(PageDifference { file: first, ..in_words("the pageserver has no such fork".to_owned()) });
        }
        Some(blocks) if blocks > end => {
            let what = format!("the pageserver has {blocks} blocks, the cluster {end}");
            report.differs(PageDifference { file: first, ..in_words(what) });
        }
        _ => {}
    }
    Ok(())
}

fn read_pages(file: &mut std::fs::File, left: usize) -> std::io::Result<Vec<Box<Page>>> {
    let count = left.min(CHUNK_BLOCKS);
    let mut pages = Vec::with_capacity(count);
    for _ in 0..count {
        let mut page = Page::zeroed();
        file.read_exact(&mut page.0)?;
        pages.push(page);
    }
    Ok(pages)
}

/// A block that the pageserver does not have: nothing may be on it.
fn compare_tail(path: &str, tag: BlockTag, theirs: &Page, report: &mut PageReport) {
    if theirs.0[PAGE_HEADER_LEN..].iter().all(|b| *b == 0) {
        report.empty_tail_pages += 1;
        return;
    }
    if tag.fork.fork == Fork::Main && is_unused_spgist(theirs, tag.blk) {
        return report.allow(SPGIST_UNUSED);
    }
    let what = "the pageserver does not have it, and it is not empty".to_owned();
    let (block, their_lsn) = (Some(tag.blk), Some(theirs.lsn()));
    report.differs(PageDifference { file: path.to_owned(), block, their_lsn, ..in_words(what) });
}

fn compare_page(
    path: &str,
    tag: BlockTag,
    theirs: &Page,
    ours: Result<Bytes, String>,
    logged_database: bool,
    report: &mut PageReport,
) {
    let difference = |ours: Option<Lsn>, what: String| PageDifference {
        file: path.to_owned(),
        block: Some(tag.blk),
        our_lsn: ours,
        their_lsn: Some(theirs.lsn()),
        ..in_words(what)
    };
    let ours = match ours.map(|bytes| Page::from_slice(&bytes)) {
        Ok(Some(page)) => page,
        Ok(None) => return report.differs(difference(None, "the pageserver's page has another length".to_owned())),
        Err(text) => return report.differs(difference(None, format!("the pageserver has no page: {text}"))),
    };
    if theirs.is_new() && ours.is_new() && theirs.0[PAGE_HEADER_LEN..] == ours.0[PAGE_HEADER_LEN..] {
        return report.count("new");
    }
    let Some(kind) = Kind::of_page(theirs, tag.fork.fork) else {
        report.count("unknown");
        let same = ours.0[..8] == theirs.0[..8] && ours.0[10..] == theirs.0[10..];
        if !same && is_init_before_log(&ours, theirs, tag.fork.fork) {
            report.allow(INIT_FORK_LSN);
        } else if !same {
            report.differs(difference(Some(ours.lsn()), "it differs, and is of no known kind".to_owned()));
        }
        return;
    };
    report.count(kind.name());
    let case = Case { against: Against::File, tag, kind, logged_database };
    match verdict(&ours, theirs, &case) {
        Err(e) => report.differs(difference(Some(ours.lsn()), e.to_string())),
        Ok(verdict) => match verdict.left.first() {
            None => verdict.used.iter().for_each(|n| report.allow(ALLOWED[*n].name)),
            Some(at) => {
                let what = format!("{} bytes of a {} page differ", verdict.left.len(), kind.name());
                let mut found = difference(Some(ours.lsn()), what);
                found.bytes = Some(verdict.left.len());
                show_bytes(&mut found, *at, &ours.0, &theirs.0);
                report.differs(found);
            }
        },
    }
}

/// Both sides may lack pages of zeros: they are written when memory is needed.
async fn compare_slru(local: &Local, source: &mut impl PagesAtLsn, slru: Slru, report: &mut PageReport) -> Result<()> {
    let ours: BTreeSet<u32> = source.segments(slru).await?.into_iter().collect();
    let theirs = local.segments.keys().filter(|(s, _)| *s == slru).map(|(_, segno)| *segno);
    let all: BTreeSet<u32> = ours.iter().copied().chain(theirs).collect();
    for segno in all {
        let ours = if ours.contains(&segno) { source.segment(slru, segno).await? } else { Bytes::new() };
        let theirs = match local.segments.get(&(slru, segno)) {
            Some(path) => std::fs::read(local.root.join(path)).with_context(|| path.clone())?,
            None => Vec::new(),
        };
        for n in 0..ours.len().max(theirs.len()).div_ceil(PAGE_SIZE) {
            report.count(slru.directory());
            let (ours, theirs) = (slru_page(&ours, n), slru_page(&theirs, n));
            let differing = || ours.iter().zip(&theirs).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at);
            let Some(at) = differing().next() else { continue };
            let bytes = differing().count();
            let mut found = PageDifference {
                file: slru.path(segno),
                block: Some(n as u32),
                bytes: Some(bytes),
                ..in_words(format!("{bytes} bytes of the page differ"))
            };
            show_bytes(&mut found, at, &ours, &theirs);
            report.differs(found);
        }
    }
    Ok(())
}

fn slru_page(segment: &[u8], n: usize) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    let rest = segment.get(n * PAGE_SIZE..).unwrap_or_default();
    let len = rest.len().min(PAGE_SIZE);
    page[..len].copy_from_slice(&rest[..len]);
    page
}

/// Lists `data_dir` on a thread that may block.
///
/// # Errors
/// See [`Local::read`].
pub async fn read_local(data_dir: &Path) -> Result<Local> {
    let root = data_dir.to_owned();
    tokio::task::spawn_blocking(move || Local::read(&root)).await.context("the data directory cannot be read")?
}
