//! Counts of a judge, by type of record, and their table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pgformat::PgMajor;

use crate::allowed::ALLOWED;
use crate::types::{self, RecordType};

/// Counts of one type of record.
#[derive(Clone, Default, Debug)]
pub struct Counts {
    /// Records.
    pub records: u64,
    /// Block references.
    pub blocks: u64,
    /// Pages restored from an image.
    pub restored: u64,
    /// Pages redone from the stored form of a change.
    pub redone: u64,
    /// Images compared with the redone page.
    pub compared: u64,
    /// Pages whose content from before the log was not known: taken from their image.
    pub seeded: u64,
    /// Changes without a page to apply them to, and without an image to take its place.
    pub missing: u64,
    /// Differences outside of the list.
    pub mismatches: u64,
    /// Changes that redo refused.
    pub errors: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.records += other.records;
        self.blocks += other.blocks;
        self.restored += other.restored;
        self.redone += other.redone;
        self.compared += other.compared;
        self.seeded += other.seeded;
        self.missing += other.missing;
        self.mismatches += other.mismatches;
        self.errors += other.errors;
    }

    fn row(&self, name: &str) -> String {
        format!(
            "{name:<38} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7} {:>9} {:>7}",
            self.records,
            self.blocks,
            self.restored,
            self.redone,
            self.compared,
            self.seeded,
            self.missing,
            self.mismatches,
            self.errors
        )
    }
}

/// Examples kept of each type of record.
const EXAMPLES: usize = 5;

/// What a judge found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The major that wrote the log.
    pub version: PgMajor,
    /// By type.
    pub types: BTreeMap<RecordType, Counts>,
    /// Allowed differences, as often as they were needed, in the order of [`ALLOWED`].
    pub allowed: [u64; ALLOWED.len()],
    /// The first failures of each type.
    pub examples: BTreeMap<RecordType, Vec<String>>,
    /// Pages of files compared, and those that differed.
    pub files: Option<Files>,
}

/// What the comparison with a data directory found.
#[derive(Clone, Default, Debug)]
pub struct Files {
    /// Pages compared, by what they belong to.
    pub pages: BTreeMap<&'static str, u64>,
    /// Pages that differ outside of the list.
    pub mismatches: u64,
    /// The first of them.
    pub examples: Vec<String>,
}

impl Report {
    /// An empty one.
    pub fn new(version: PgMajor) -> Report {
        Report { version, types: BTreeMap::new(), allowed: [0; ALLOWED.len()], examples: BTreeMap::new(), files: None }
    }

    /// The counts of a type.
    pub fn of(&mut self, t: RecordType) -> &mut Counts {
        self.types.entry(t).or_default()
    }

    /// Keeps a failure of a type as an example, if there are not enough of them.
    pub fn example(&mut self, t: RecordType, text: impl FnOnce() -> String) {
        let examples = self.examples.entry(t).or_default();
        if examples.len() < EXAMPLES {
            examples.push(text());
        }
    }

    /// The sum over all types.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.types.values().for_each(|counts| total.add(counts));
        total
    }

    /// Adds what another run of the same major found.
    pub fn add(&mut self, other: &Report) {
        for (t, counts) in &other.types {
            self.of(*t).add(counts);
        }
        for (sum, n) in self.allowed.iter_mut().zip(other.allowed) {
            *sum += n;
        }
        for (t, texts) in &other.examples {
            texts.iter().for_each(|text| self.example(*t, || text.clone()));
        }
        if let Some(other) = &other.files {
            let files = self.files.get_or_insert_default();
            other.pages.iter().for_each(|(kind, n)| *files.pages.entry(kind).or_default() += n);
            files.mismatches += other.mismatches;
            files.examples.extend(other.examples.iter().cloned());
        }
    }

    /// Everything that was not right.
    pub fn failures(&self) -> u64 {
        let total = self.total();
        total.mismatches + total.errors + total.missing + self.files.as_ref().map_or(0, |f| f.mismatches)
    }

    /// Whether everything that was compared was right.
    pub fn is_clean(&self) -> bool {
        self.failures() == 0
    }

    /// Types that the major can write and that were never seen, without those that are explained.
    pub fn never_seen(&self) -> Vec<RecordType> {
        let unseen = |t: &RecordType| !self.types.contains_key(t) && types::explained(*t).is_none();
        types::all(self.version).into_iter().filter(unseen).collect()
    }

    /// The table, with the first failures below it.
    pub fn text(&self) -> String {
        let mut out = format!(
            "{:<38} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7} {:>9} {:>7}\n",
            format!("PostgreSQL {}", self.version),
            "records",
            "blocks",
            "restored",
            "redone",
            "compared",
            "seeded",
            "missing",
            "mismatch",
            "errors"
        );
        for (t, counts) in &self.types {
            let _ = writeln!(out, "{}", counts.row(&t.name(self.version)));
        }
        let _ = writeln!(out, "{}", self.total().row("sum"));
        for (allowed, n) in ALLOWED.iter().zip(self.allowed).filter(|(_, n)| *n > 0) {
            let _ = writeln!(out, "allowed {n:>6} x {}: {}", allowed.name, allowed.why);
        }
        if let Some(files) = &self.files {
            let pages: u64 = files.pages.values().sum();
            let kinds: Vec<String> = files.pages.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
            let _ = writeln!(out, "files: {pages} pages ({}), {} mismatches", kinds.join(", "), files.mismatches);
            files.examples.iter().for_each(|text| {
                let _ = writeln!(out, "  {text}");
            });
        }
        let never: Vec<String> = self.never_seen().iter().map(|t| t.name(self.version)).collect();
        let _ = writeln!(out, "never seen: {}", if never.is_empty() { "none".to_owned() } else { never.join(", ") });
        for (t, texts) in &self.examples {
            texts.iter().for_each(|text| {
                let _ = writeln!(out, "{}: {text}", t.name(self.version));
            });
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use pgformat::redo::rmid;

    use super::*;

    #[test]
    fn types_that_were_never_seen_are_named() {
        let version = PgMajor::ALL[1];
        let mut report = Report::new(version);
        let (insert, noop) = (RecordType::new(rmid::HEAP, 0x00), RecordType::new(rmid::XLOG, 0x20));
        assert!(report.never_seen().contains(&insert));
        assert!(!report.never_seen().contains(&noop), "it is explained");
        report.of(insert).records += 1;
        assert!(!report.never_seen().contains(&insert));
        assert_eq!(report.never_seen().len(), types::all(version).len() - 2);
    }

    #[test]
    fn every_kind_of_failure_counts() {
        let version = PgMajor::ALL[0];
        let insert = RecordType::new(rmid::HEAP, 0x00);
        let failing: [fn(&mut Counts); 3] = [|c| c.mismatches += 1, |c| c.errors += 1, |c| c.missing += 1];
        for fail in failing {
            let mut report = Report::new(version);
            assert!(report.is_clean());
            fail(report.of(insert));
            assert!(!report.is_clean());
            let mut sum = Report::new(version);
            sum.add(&report);
            assert_eq!(sum.failures(), 1);
        }
        let mut report = Report::new(version);
        report.files = Some(Files { mismatches: 1, ..Files::default() });
        assert!(!report.is_clean());
    }
}
