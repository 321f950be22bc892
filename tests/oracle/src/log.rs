//! Reads the log of a stopped cluster from its segment files, record by record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use pgformat::wal::page::PageHeader;
use pgformat::wal::{ErrorKind, RecordRef, StreamConfig, WalDecoder, next_record_start};
use pgformat::{Lsn, PgMajor, SegSize, Tli};

/// The segments of one folder.
pub struct Log {
    /// The major that wrote it.
    pub version: PgMajor,
    seg: SegSize,
    /// By number; of several tlis the latest, which repeats what it has in common with the one before.
    files: BTreeMap<u64, PathBuf>,
}

impl Log {
    /// Lists the segments in `dir`, a `pg_wal`.
    ///
    /// # Errors
    /// When there is none, or the first is damaged.
    pub fn open(dir: &Path) -> Result<Log> {
        let entries = std::fs::read_dir(dir).with_context(|| format!("{}", dir.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            if name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
                names.push((name, path));
            }
        }
        names.sort();
        let (_, first) = names.first().with_context(|| format!("{} has no WAL segments", dir.display()))?;
        let head = read_head(first)?;
        let header = PageHeader::parse(&head).context("a page header")?;
        let version = PgMajor::from_page_magic(header.magic)
            .with_context(|| format!("{} is of no supported major", first.display()))?;
        let long = header.long.with_context(|| format!("{} has no long header", first.display()))?;
        let seg = SegSize::new(long.seg_size).with_context(|| format!("segments of {} bytes", long.seg_size))?;
        let mut files: BTreeMap<u64, (Tli, PathBuf)> = BTreeMap::new();
        for (name, path) in names {
            let (tli, segno) = seg.parse_file_name(&name).with_context(|| name.clone())?;
            if files.get(&segno).is_none_or(|(other, _)| *other < tli) {
                files.insert(segno, (tli, path));
            }
        }
        Ok(Log { version, seg, files: files.into_iter().map(|(segno, (_, path))| (segno, path)).collect() })
    }

    /// Where the first whole record begins: after what continues from before the first segment.
    ///
    /// # Errors
    /// When the first segment cannot be read.
    pub fn first_record(&self) -> Result<Lsn> {
        let (segno, path) = self.files.first_key_value().context("no segments")?;
        let start = self.seg.start_of(*segno);
        let mut at = next_record_start(start, self.seg);
        let mut left = u64::from(PageHeader::parse(&read_head(path)?).context("a page header")?.rem_len);
        while left > 0 {
            let in_page = (pgformat::WAL_PAGE_SIZE - at.page_offset()).min(left);
            left -= in_page;
            at = at.add(in_page);
            if at.page_offset() == 0 && left > 0 {
                at = next_record_start(at, self.seg);
            }
        }
        Ok(at.align8())
    }

    /// Hands every record from boundary `from` up to `to` (exclusive; none: the end) to `on`. Returns the log's end.
    ///
    /// # Errors
    /// A damaged log, or whatever `on` returns.
    pub fn read(&self, from: Lsn, to: Option<Lsn>, mut on: impl FnMut(&RecordRef<'_>) -> Result<()>) -> Result<Lsn> {
        let cfg = StreamConfig { version: self.version, seg_size: self.seg, system_id: None, tlis: Vec::new() };
        let mut decoder = WalDecoder::new(cfg, from, None);
        let mut failed = None;
        loop {
            let at = decoder.fill_end().unwrap_or(decoder.position());
            let Some(path) = self.files.get(&at.segment_no(self.seg)) else { break };
            let bytes = Bytes::from(std::fs::read(path).with_context(|| format!("{}", path.display()))?);
            let skip = usize::try_from(at.segment_offset(self.seg))?;
            ensure!(bytes.len() as u64 == self.seg.bytes(), "{} has {} bytes", path.display(), bytes.len());
            let result = decoder.feed_records(at, &bytes.slice(skip..), &mut |record| {
                if failed.is_none() && to.is_none_or(|to| record.start < to) {
                    failed = on(&record).with_context(|| format!("record {}", record.start)).err();
                }
            });
            if let Some(e) = failed.take() {
                return Err(e);
            }
            match result {
                Err(e) if e.kind() == ErrorKind::EndOfLog => break,
                Err(e) => bail!("{}: {e}", path.display()),
                Ok(()) if to.is_some_and(|to| decoder.boundary() >= to) => break,
                Ok(()) => {}
            }
        }
        Ok(decoder.boundary())
    }
}

fn read_head(path: &Path) -> Result<[u8; 40]> {
    use std::io::Read as _;
    let mut head = [0; 40];
    std::fs::File::open(path)?.read_exact(&mut head).with_context(|| format!("{}", path.display()))?;
    Ok(head)
}
