//! Which files the catalogs of a stopped cluster name, so that those which a crash left behind are known as such.
//!
//! A server that is killed during CREATE INDEX, REINDEX, VACUUM FULL or CREATE DATABASE leaves files of a transaction
//! that never committed. Recovery does not remove them, and the WAL of their pages may never have been flushed. No
//! catalog names them: rows of `pg_class` and `pg_database` that do were inserted by that transaction.
//!
//! In doubt a file counts as named: a row counts unless `pg_xact` says that its inserter did not commit; deleted rows
//! count; where a catalog cannot be read, all files of its database count.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use pgformat::catalog::{ClassRow, DatabaseRow, Inserter, PG_CLASS, PG_DATABASE, class_rows, database_rows};
use pgformat::datadir::{FileKind, classify};
use pgformat::page::{PAGE_SIZE, Page};
use pgformat::rel::{Fork, PG_GLOBAL, RelFileLocator, RelFork};
use pgformat::relmap::parse_relmap;
use pgformat::slru::{SEGMENT_PAGES, Slru, XidStatus, clog_bits};

use super::local::Local;

/// What the catalogs name.
pub struct Catalogues {
    /// Tablespaces of each database; none when `pg_database` cannot be read.
    databases: Option<BTreeMap<u32, BTreeSet<u32>>>,
    /// Files of each database whose catalog could be read: tablespace, file number.
    files: BTreeMap<u32, BTreeSet<(u32, u32)>>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

impl Catalogues {
    /// Reads the catalogs of a stopped cluster.
    pub fn read(local: &Local) -> Catalogues {
        let mut found = Catalogues { databases: None, files: BTreeMap::new(), unread: Vec::new() };
        let mut xacts = Xacts { local, segments: BTreeMap::new() };
        let map = |spc, db| relation_map(local, spc, db);
        match map(PG_GLOBAL, 0).and_then(|map| databases(local, &map, &mut xacts).map(|rows| (map, rows))) {
            Ok((map, rows)) => {
                found.files.insert(0, map.values().map(|rel| (PG_GLOBAL, *rel)).collect());
                found.databases = Some(rows);
            }
            Err(e) => found.unread.push(format!("pg_database: {e:#}")),
        }
        let has_files: BTreeSet<u32> = local.forks.keys().map(|fork| fork.rel.db).collect();
        // A deleted row counts, but its database is mostly gone.
        for (db, spcs) in found.databases.iter().flatten().filter(|(db, _)| has_files.contains(db)) {
            match files(local, *db, spcs, &mut xacts) {
                Ok(files) => drop(found.files.insert(*db, files)),
                Err(e) => found.unread.push(format!("pg_class of database {db}: {e:#}")),
            }
        }
        found
    }

    /// Whether no catalog names the directory of a database in a tablespace as its own.
    pub fn is_left_directory(&self, spc: u32, db: u32) -> bool {
        db != 0 && self.databases.as_ref().is_some_and(|all| all.get(&db).is_none_or(|spcs| !spcs.contains(&spc)))
    }

    /// Whether no catalog names a file.
    pub fn is_left_file(&self, rel: RelFileLocator) -> bool {
        let is_database = rel.db == 0 || self.databases.as_ref().is_none_or(|all| all.contains_key(&rel.db));
        match self.files.get(&rel.db) {
            Some(named) => !named.contains(&(rel.spc, rel.rel)),
            None => !is_database,
        }
    }
}

/// Relation oid and file number of mapped relations.
fn relation_map(local: &Local, spc: u32, db: u32) -> Result<BTreeMap<u32, u32>> {
    let path = local.files.iter().find(|path| classify(path, None) == FileKind::RelMap(spc, db));
    let path = path.with_context(|| format!("no relation map of {spc}/{db}"))?;
    let bytes = std::fs::read(local.root.join(path)).with_context(|| path.clone())?;
    Ok(parse_relmap(&bytes, local.control.version).with_context(|| path.clone())?.collect())
}

/// Databases with their own tablespaces.
fn databases(local: &Local, map: &BTreeMap<u32, u32>, xacts: &mut Xacts<'_>) -> Result<BTreeMap<u32, BTreeSet<u32>>> {
    let rel = *map.get(&PG_DATABASE).context("the shared relation map does not have it")?;
    let mut found: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let mut named = |DatabaseRow { by, oid, spc }| {
        if xacts.counts(by)? {
            found.entry(oid).or_default().insert(spc);
        }
        Ok(())
    };
    pages(local, RelFileLocator { spc: PG_GLOBAL, db: 0, rel }, |page| {
        database_rows(page, local.control.version)?.into_iter().try_for_each(&mut named)
    })?;
    ensure!(!found.is_empty(), "it has no row");
    Ok(found)
}

/// Files that a database's catalog names.
fn files(local: &Local, db: u32, spcs: &BTreeSet<u32>, xacts: &mut Xacts<'_>) -> Result<BTreeSet<(u32, u32)>> {
    let mut found = BTreeSet::new();
    let mut was_read = false;
    // More than one where the database was moved.
    for own in spcs {
        let Ok(map) = relation_map(local, *own, db) else { continue };
        found.extend(map.values().map(|rel| (*own, *rel)));
        let rel = *map.get(&PG_CLASS).context("the relation map does not have it")?;
        let mut named = |ClassRow { by, filenode, spc }| {
            if xacts.counts(by)? {
                let all = if spc == 0 { spcs.clone() } else { BTreeSet::from([spc]) };
                found.extend(all.into_iter().map(|spc| (spc, filenode)));
            }
            Ok(())
        };
        pages(local, RelFileLocator { spc: *own, db, rel }, |page| {
            class_rows(page)?.into_iter().try_for_each(&mut named)
        })?;
        was_read = true;
    }
    ensure!(was_read, "it has no relation map in its tablespace");
    Ok(found)
}

/// Gives every page of a main fork to `each`.
fn pages(local: &Local, rel: RelFileLocator, mut each: impl FnMut(&Page) -> Result<()>) -> Result<()> {
    let fork = RelFork { rel, fork: Fork::Main };
    for file in local.forks.get(&fork).with_context(|| format!("it has no file {fork}"))? {
        let bytes = std::fs::read(local.root.join(&file.path)).with_context(|| file.path.clone())?;
        for page in bytes.chunks_exact(PAGE_SIZE) {
            let page = Page::from_slice(page).context("exactly a page")?;
            each(&page).with_context(|| file.path.clone())?;
        }
    }
    Ok(())
}

/// How transactions ended, by the files of `pg_xact`.
struct Xacts<'a> {
    local: &'a Local,
    segments: BTreeMap<u32, Option<Vec<u8>>>,
}

impl Xacts<'_> {
    /// Whether a row counts: unless its inserter aborted, or ran when the server was killed.
    fn counts(&mut self, by: Inserter) -> Result<bool> {
        let Inserter::Xid(xid) = by else { return Ok(true) };
        let page = Slru::Xact.page_of(xid);
        let segno = page / SEGMENT_PAGES;
        if !self.segments.contains_key(&segno) {
            let path = self.local.segments.get(&(Slru::Xact, segno));
            let read = path.map(|path| std::fs::read(self.local.root.join(path)).with_context(|| path.clone()));
            self.segments.insert(segno, read.transpose()?);
        }
        // A segment that is gone is of transactions that ended long ago.
        let Some(Some(segment)) = self.segments.get(&segno) else { return Ok(true) };
        let (byte, shift) = clog_bits(xid % Slru::Xact.per_page());
        let at = (page % SEGMENT_PAGES) as usize * PAGE_SIZE + byte;
        let status = u32::from(segment.get(at).copied().unwrap_or(0)) >> shift & 3;
        // A prepared transaction runs, and its files are its own.
        let may_run = self.local.files.iter().any(|path| matches!(classify(path, None), FileKind::TwoPhase(_)));
        Ok(match status {
            s if s == XidStatus::Aborted as u32 => false,
            s if s == XidStatus::InProgress as u32 => may_run,
            _ => true,
        })
    }
}
