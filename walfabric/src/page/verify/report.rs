//! What a comparison found: counts, what was allowed, and the first differences, as JSON and in words.

use std::collections::BTreeMap;

use pgformat::Lsn;
use pgformat::page::PAGE_SIZE;
use serde::Serialize;

/// Differences told one by one; more are counted.
const EXAMPLES_MAX: usize = 20;
/// Bytes of a difference that are shown.
const SHOWN_BYTES: usize = 16;

/// Something that differs between pageserver and cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PageDifference {
    /// Path below the data directory; of a fork that has no file there, its name.
    pub file: String,
    /// Which block of the fork or segment.
    pub block: Option<u32>,
    /// Page LSN in the pageserver.
    pub our_lsn: Option<Lsn>,
    /// Page LSN in the file.
    pub their_lsn: Option<Lsn>,
    /// First byte of the page that differs.
    pub offset: Option<usize>,
    /// How many bytes differ.
    pub bytes: Option<usize>,
    /// The pageserver's bytes from there on, hexadecimal.
    pub ours: Option<String>,
    /// The file's bytes from there on, hexadecimal.
    pub theirs: Option<String>,
    /// What differs, in words.
    pub what: String,
}

/// What was compared, and what differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PageReport {
    /// Version of this form.
    pub schema: u32,
    /// The state compared: end of the cluster's last checkpoint.
    pub lsn: Lsn,
    /// Whether nothing differs.
    pub equal: bool,
    /// Number of forks compared.
    pub forks: u64,
    /// Pages compared, of forks and segments.
    pub pages: u64,
    /// Of them, by what they belong to.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Relation maps, prepared transactions and files of replication origins compared.
    pub files: u64,
    /// Empty pages at the end of files that the pageserver does not have.
    pub empty_tail_pages: u64,
    /// Pages whose only differences are allowed, by the entry of the list.
    pub allowed: BTreeMap<&'static str, u64>,
    /// Files that a crash left behind, since no catalog names them: not judged.
    pub left_by_crash: u64,
    /// Number of pages in those files.
    pub left_by_crash_pages: u64,
    /// The first of them: paths below the data directory.
    pub left_by_crash_files: Vec<String>,
    /// Catalogs that cannot be read, and why: all files of theirs were judged.
    pub catalogs_unread: Vec<String>,
    /// Number of differences.
    pub differences: u64,
    /// The first of them.
    pub examples: Vec<PageDifference>,
}

impl PageReport {
    pub(super) fn new(lsn: Lsn) -> PageReport {
        PageReport {
            schema: 1,
            lsn,
            equal: true,
            forks: 0,
            pages: 0,
            kinds: BTreeMap::new(),
            files: 0,
            empty_tail_pages: 0,
            allowed: BTreeMap::new(),
            left_by_crash: 0,
            left_by_crash_pages: 0,
            left_by_crash_files: Vec::new(),
            catalogs_unread: Vec::new(),
            differences: 0,
            examples: Vec::new(),
        }
    }

    pub(super) fn differs(&mut self, difference: PageDifference) {
        self.equal = false;
        self.differences += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(difference);
        }
    }

    pub(super) fn left(&mut self, path: &str, len: u64) {
        self.left_by_crash += 1;
        self.left_by_crash_pages += len / PAGE_SIZE as u64;
        if self.left_by_crash_files.len() < EXAMPLES_MAX {
            self.left_by_crash_files.push(path.to_owned());
        }
    }

    pub(super) fn allow(&mut self, name: &'static str) {
        *self.allowed.entry(name).or_default() += 1;
    }

    pub(super) fn count(&mut self, kind: &'static str) {
        self.pages += 1;
        *self.kinds.entry(kind).or_default() += 1;
    }

    /// The report as lines of text.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        let kinds: Vec<String> = self.kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        line(format!("{} pages of {} forks compared at {}: {}", self.pages, self.forks, self.lsn, kinds.join(", ")));
        line(format!("{} files beside them: relation maps, prepared transactions, origins", self.files));
        self.allowed.iter().for_each(|(name, n)| line(format!("allowed: {name}: {n} pages")));
        if self.empty_tail_pages > 0 {
            line(format!("allowed: empty pages at the end of files: {}", self.empty_tail_pages));
        }
        if self.left_by_crash > 0 {
            let (n, pages, named) = (self.left_by_crash, self.left_by_crash_pages, &self.left_by_crash_files);
            let more = if n > named.len() as u64 { ", ..." } else { "" };
            let named = named.join(", ");
            line(format!(
                "left by a crash, not judged: {n} files of {pages} pages that no catalog names: {named}{more}"
            ));
        }
        self.catalogs_unread.iter().for_each(|why| line(format!("cannot be read, so all its files are judged: {why}")));
        for d in &self.examples {
            let block = d.block.map_or_else(String::new, |b| format!(", block {b}"));
            let shown = |lsn: Option<Lsn>| lsn.map_or_else(|| "-".to_owned(), |l| l.to_string());
            let lsns = format!(" (page LSN ours {}, file's {})", shown(d.our_lsn), shown(d.their_lsn));
            let lsns = if d.our_lsn.is_some() || d.their_lsn.is_some() { lsns } else { String::new() };
            let bytes = match (d.offset, &d.ours, &d.theirs) {
                (Some(at), Some(ours), Some(theirs)) => format!(", from byte {at}: ours {ours}, file's {theirs}"),
                _ => String::new(),
            };
            line(format!("DIFFERENT {}{block}: {}{bytes}{lsns}", d.file, d.what));
        }
        let left = self.differences - self.examples.len() as u64;
        if left > 0 {
            line(format!("... and {left} more"));
        }
        line(if self.equal { "equal".to_owned() } else { format!("{} differences", self.differences) });
        out
    }
}

/// A difference that is told in words alone.
pub(super) fn in_words(what: String) -> PageDifference {
    PageDifference {
        file: String::new(),
        block: None,
        our_lsn: None,
        their_lsn: None,
        offset: None,
        bytes: None,
        ours: None,
        theirs: None,
        what,
    }
}

/// Adds the bytes from the first difference on.
pub(super) fn show_bytes(found: &mut PageDifference, at: usize, ours: &[u8], theirs: &[u8]) {
    let hex = |bytes: &[u8]| bytes.iter().skip(at).take(SHOWN_BYTES).map(|b| format!("{b:02x}")).collect::<String>();
    found.offset = Some(at);
    found.ours = Some(hex(ours));
    found.theirs = Some(hex(theirs));
}
