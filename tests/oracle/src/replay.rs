//! Judge (a): redoes a log record by record and compares every check image with the page that our redo made.
//!
//! Each change goes through its stored form before it is applied, so the proof covers what a page store replays. A
//! failure counts once: the page is then taken from the image, and later changes start from there.

use anyhow::{Context as _, Result};
use pgformat::control::ControlFile;
use pgformat::effect::{self, Effect};
use pgformat::page::Page;
use pgformat::redo::{self, Change, RedoError, rmid};
use pgformat::rel::{BlockTag, Fork};
use pgformat::wal::RecordRef;
use pgformat::wal::body::{self, BlockRef, RecordBody};
use pgformat::{Lsn, PgMajor};

use crate::allowed::{Case, Verdict};
use crate::effects;
use crate::golden::Golden;
use crate::mask::{Against, Kind};
use crate::pages::Pages;
use crate::plant::Plants;
use crate::report::Report;
use crate::types::RecordType;

/// One change on its way to its page.
pub struct Step<'a> {
    /// The record's type.
    pub t: RecordType,
    /// Start of the record.
    pub at: Lsn,
    /// Which page.
    pub tag: BlockTag,
    /// The change, decoded from its stored form.
    pub change: &'a Change<'a>,
    /// The change as it is stored.
    pub stored: &'a [u8],
    /// Whether the page was restored from an image of the same record.
    pub after_image: bool,
    /// What redo needs beside it.
    pub ctx: redo::Context,
}

fn changes_after_image(change: &Change<'_>) -> bool {
    redo::changes_after_image(change.rmid, change.info, change.block)
}

/// Replays a log.
pub struct Replayer {
    version: PgMajor,
    /// Whether the cluster has data checksums.
    checksums: bool,
    /// Whether it has `wal_log_hints`, as of the last record.
    wal_log_hints: bool,
    /// The pages as of the last record.
    pub pages: Pages,
    /// What was found.
    pub report: Report,
    /// Databases (tablespace, database) that were created with `STRATEGY wal_log`.
    logged_databases: Vec<(u32, u32)>,
    plants: Plants,
    last_image: Option<Lsn>,
    /// Examples of changes, when they are collected.
    pub golden: Option<Golden>,
    only: Option<u8>,
    stored: Vec<u8>,
}

impl Replayer {
    /// Over `pages`. `only`: images of other resource managers are not compared.
    pub fn new(version: PgMajor, pages: Pages, only: Option<u8>, plants: Plants) -> Replayer {
        Replayer {
            version,
            checksums: false,
            wal_log_hints: false,
            pages,
            report: Report::new(version),
            logged_databases: Vec::new(),
            plants,
            last_image: None,
            golden: None,
            only,
            stored: Vec::new(),
        }
    }

    /// The cluster has data checksums, or had `wal_log_hints` before the first record.
    pub fn log_hints(&mut self, control: &ControlFile) {
        self.checksums = control.data_checksum_version != 0;
        self.wal_log_hints = control.parameters.wal_log_hints;
    }

    /// The bugs that were planted.
    pub fn plants(&self) -> &Plants {
        &self.plants
    }

    /// Start of the last record that is nothing but images.
    pub fn last_image(&self) -> Option<Lsn> {
        self.last_image
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// When the record cannot be taken apart. What is wrong with a page goes to the report.
    pub fn record(&mut self, record: &RecordRef<'_>) -> Result<()> {
        let t = RecordType::of(&record.header);
        let body = body::parse(record.data, self.version)?;
        self.report.of(t).records += 1;
        let ctx = redo::Context { version: self.version, end: record.end };
        let effect = effect::of(&record.header, &body, self.version)?;
        match &effect {
            Effect::Parameters(parameters) => self.wal_log_hints = parameters.wal_log_hints,
            Effect::DatabaseCreate(dir) => self.logged_databases.push((dir.spc, dir.db)),
            _ => {}
        }
        effects::apply(&mut self.pages, &effect, &ctx)?;
        effects::clear_bits(&mut self.pages, &record.header, &body, &ctx)?;
        for block in &body.blocks {
            self.report.of(t).blocks += 1;
            // The free space map is not redone: its content is a hint, and PostgreSQL repairs it.
            if block.tag.fork.fork != Fork::Fsm {
                self.block(t, record, &body, block).with_context(|| block.tag.to_string())?;
            }
        }
        Ok(())
    }

    fn block<'a>(
        &mut self,
        t: RecordType,
        record: &RecordRef<'_>,
        body: &RecordBody<'a>,
        block: &BlockRef<'a>,
    ) -> Result<()> {
        let (tag, end) = (block.tag, record.end);
        let ctx = redo::Context { version: self.version, end };
        let mut stored = std::mem::take(&mut self.stored);
        stored.clear();
        Change::of(&record.header, body, block, self.checksums || self.wal_log_hints).encode(&mut stored);
        let change = Change::decode(&stored, tag.fork.fork, tag.blk)?;
        let step = Step { t, at: record.start, tag, change: &change, stored: &stored, after_image: false, ctx };
        if let Some(image) = block.applied_image() {
            self.report.of(t).restored += 1;
            let mut page = Page::zeroed();
            image.restore(&mut page)?;
            if !page.is_new() {
                page.set_lsn(end);
            }
            let before = (self.golden.is_some() && changes_after_image(&change)).then(|| page.clone());
            let result = redo::after_image(&mut page, &change, &ctx);
            if t.rmid == rmid::XLOG && tag.fork.fork == Fork::Main {
                self.last_image = Some(record.start);
                self.plants.restored(&mut page, record.start, tag);
            }
            self.keep(t, record.start, tag, page, result);
            self.keep_example(&Step { after_image: true, ..step }, before);
        } else {
            let expected = self.expected_page(block, end)?;
            self.change(&step, expected);
        }
        self.stored = stored;
        Ok(())
    }

    /// The image that the page is to be compared with, as a page.
    fn expected_page(&self, block: &BlockRef<'_>, end: Lsn) -> Result<Option<Box<Page>>> {
        let Some(image) = block.image else { return Ok(None) };
        let mut page = Page::zeroed();
        image.restore(&mut page)?;
        if !page.is_new() {
            page.set_lsn(end);
        }
        Ok(Some(page))
    }

    fn change(&mut self, step: &Step<'_>, expected: Option<Box<Page>>) {
        let Step { t, at, tag, change, .. } = *step;
        if !change.init && self.pages.get(tag).is_none() {
            // A map page that was never written reads as zeros; a primary makes it without a record.
            if tag.fork.fork == Fork::Vm {
                self.pages.put(tag, Page::zeroed());
            } else if let Some(page) = expected {
                if !self.pages.is_spoilt(tag) {
                    self.report.of(t).seeded += 1;
                }
                self.pages.put(tag, page);
                return;
            } else if t.rmid == rmid::XLOG || self.pages.is_spoilt(tag) {
                return;
            } else {
                self.report.of(t).missing += 1;
                self.report.example(t, || format!("{at} {tag}: the page is not known"));
                return;
            }
        }
        let mut page = self.pages.get(tag).cloned().unwrap_or_default();
        let before = self.golden.is_some().then(|| page.clone());
        let result = self.plants.redo(&mut page, change, &step.ctx, tag, expected.is_some());
        let failed = result.is_err();
        self.report.of(t).redone += 1;
        self.keep(t, at, tag, page, result);
        let Some(expected) = expected else { return };
        if failed {
            self.pages.put(tag, expected);
        } else if t.rmid != rmid::XLOG
            && self.only.is_none_or(|only| only == t.rmid)
            && self.compare(t, at, tag, expected)
        {
            self.keep_example(step, before);
        }
    }

    /// Offers a change to the collection of examples, if there is one.
    fn keep_example(&mut self, step: &Step<'_>, before: Option<Box<Page>>) {
        if let (Some(golden), Some(before), Some(after)) = (&mut self.golden, before, self.pages.get(step.tag)) {
            golden.offer(self.version, step, &before, after);
        }
    }

    fn keep(&mut self, t: RecordType, at: Lsn, tag: BlockTag, page: Box<Page>, result: Result<(), RedoError>) {
        match result {
            Ok(()) => self.pages.put(tag, page),
            Err(e) => {
                self.report.of(t).errors += 1;
                self.report.example(t, || format!("{at} {tag}: {e}"));
                self.pages.forget(tag);
            }
        }
    }

    /// Whether the page is as the image says, but for what is allowed.
    fn compare(&mut self, t: RecordType, at: Lsn, tag: BlockTag, expected: Box<Page>) -> bool {
        let Some(kind) = Kind::of_record(t.rmid, tag) else { return false };
        let Some(ours) = self.pages.get(tag).cloned() else { return false };
        self.report.of(t).compared += 1;
        let case = Case { against: Against::Image, tag, kind, logged_database: self.is_logged_database(tag) };
        match verdict(&ours, &expected, &case) {
            Ok(verdict) if verdict.left.is_empty() => {
                verdict.used.iter().for_each(|n| self.report.allowed[*n] += 1);
                true
            }
            result => {
                self.report.of(t).mismatches += 1;
                self.report.example(t, || format!("{at} {tag}: {}", describe(&result, &ours, &expected)));
                self.pages.put(tag, expected);
                false
            }
        }
    }

    /// Whether the database of a page was created with `STRATEGY wal_log`.
    pub fn is_logged_database(&self, tag: BlockTag) -> bool {
        self.logged_databases.contains(&(tag.fork.rel.spc, tag.fork.rel.db))
    }
}

/// Compares two pages after masking.
///
/// # Errors
/// When one of them cannot be masked: its header contradicts itself.
pub fn verdict(ours: &Page, theirs: &Page, case: &Case) -> Result<Verdict> {
    Ok(pgformat::compare::verdict(ours, theirs, case)?)
}

/// The first bytes that differ, in words.
pub fn describe(result: &Result<Verdict>, ours: &Page, theirs: &Page) -> String {
    let verdict = match result {
        Ok(verdict) => verdict,
        Err(e) => return format!("{e:#}"),
    };
    let bytes: Vec<String> = verdict
        .left
        .iter()
        .take(12)
        .map(|at| format!("{at}: {:02x} instead of {:02x}", ours.0[*at], theirs.0[*at]))
        .collect();
    format!("{} bytes differ: {} (ours {ours:?}, primary's {theirs:?})", verdict.left.len(), bytes.join(", "))
}
