//! Small files beside the pages: relation maps and prepared transactions byte by byte, origins entry by entry.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use pgformat::Lsn;
use pgformat::datadir::{FileKind, classify};
use pgformat::origins::{ORIGINS_FILE_NAME, parse_origins};

use super::report::{PageDifference, PageReport, in_words, show_bytes};
use super::source::PagesAtLsn;
use crate::page::catalogues::Catalogues;
use crate::page::local::Local;

pub(super) async fn compare(
    local: &Local,
    source: &mut impl PagesAtLsn,
    catalogues: &Catalogues,
    report: &mut PageReport,
) -> Result<()> {
    let ours: BTreeSet<String> = source.files().await?.into_iter().collect();
    for path in ours.union(&local.files) {
        if !ours.contains(path)
            && let FileKind::RelMap(spc, db) = classify(path, None)
            && catalogues.is_left_directory(spc, db)
        {
            report.left(path, 0);
            continue;
        }
        report.files += 1;
        let ours = if ours.contains(path) { Some(source.file(path).await?) } else { None };
        let theirs = match local.files.contains(path) {
            true => Some(std::fs::read(local.root.join(path)).with_context(|| path.clone())?),
            false => None,
        };
        if path == ORIGINS_FILE_NAME {
            origins(ours.as_deref(), theirs.as_deref(), report);
            continue;
        }
        let found = match (ours, theirs) {
            (Some(ours), Some(theirs)) => bytes(&ours, &theirs),
            (None, _) => Some(in_words("the pageserver has no such file".to_owned())),
            (_, None) => Some(in_words("the cluster has no such file".to_owned())),
        };
        if let Some(found) = found {
            report.differs(PageDifference { file: path.clone(), ..found });
        }
    }
    Ok(())
}

/// What differs between two files, the first byte of it shown.
fn bytes(ours: &[u8], theirs: &[u8]) -> Option<PageDifference> {
    if ours.len() != theirs.len() {
        return Some(in_words(format!("ours has {} bytes, the file {}", ours.len(), theirs.len())));
    }
    let count = ours.iter().zip(theirs).filter(|(a, b)| a != b).count();
    let at = ours.iter().zip(theirs).position(|(a, b)| a != b)?;
    let mut found = PageDifference { bytes: Some(count), ..in_words(format!("{count} bytes differ")) };
    show_bytes(&mut found, at, ours, theirs);
    Some(found)
}

/// A server writes them in the order of its slots. One that a session merely used is at 0/0 there, and nothing to us.
fn origins(ours: Option<&[u8]>, theirs: Option<&[u8]>, report: &mut PageReport) {
    let mut differs =
        |what: String| report.differs(PageDifference { file: ORIGINS_FILE_NAME.to_owned(), ..in_words(what) });
    let read = |file: Option<&[u8]>| {
        let mut origins = file.map_or_else(|| Ok(BTreeMap::new()), parse_origins)?;
        origins.retain(|_, remote| remote.get() != 0);
        Ok::<BTreeMap<u16, Lsn>, pgformat::origins::OriginsError>(origins)
    };
    let (ours, theirs) = match (read(ours), read(theirs)) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(e), _) => return differs(format!("the pageserver's: {e}")),
        (_, Err(e)) => return differs(format!("the cluster's: {e}")),
    };
    let all: BTreeSet<u16> = ours.keys().chain(theirs.keys()).copied().collect();
    let shown = |lsn: Option<&Lsn>| lsn.map_or_else(|| "none".to_owned(), Lsn::to_string);
    for origin in all.into_iter().filter(|o| ours.get(o) != theirs.get(o)) {
        let (ours, theirs) = (shown(ours.get(&origin)), shown(theirs.get(&origin)));
        differs(format!("progress of origin {origin}: ours {ours}, file's {theirs}"));
    }
}
