//! Cost of redo: every change of pgbench's recorded WAL applied to its page, through `pgformat` alone, in memory.
//!
//! The WAL begins with a checkpoint and has page images, so pages begin as images. Every change is decoded from its
//! stored form, as in the page store. For nanoseconds by type the clock is read around every change, and the cost of
//! reading it is subtracted; the total is measured without it. With two threads, each has half of the pages.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use pgformat::control::ControlFile;
use pgformat::page::Page;
use pgformat::redo::{self, Change, Context, rmid};
use pgformat::rel::{BlockTag, Fork};
use pgformat::wal::body;
use pgformat::wal::record::rmgr_name;
use pgformat::wal::{RecordRef, StreamConfig, WalDecoder};
use pgformat::{Lsn, PgMajor};
use serde_json::json;

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::recorded::Recorded;
use crate::bench::run::Run;
use crate::bench::usage::cpu_seconds_of_thread;
use crate::bench::window::{Crowd, Window};

/// Types with fewer changes than this are not shown.
const SHOWN_MIN: u64 = 1000;
/// As an opcode: whole pages, whatever record they came with.
const IMAGE: (u8, u8) = (u8::MAX, 0);

/// One change of one page.
struct Step {
    page: usize,
    tag: BlockTag,
    end: Lsn,
    kind: (u8, u8),
    /// The stored change, or the page.
    what: What,
}

enum What {
    Image(Box<Page>),
    Change(Box<[u8]>),
}

/// All of the log, taken apart.
struct Work {
    version: PgMajor,
    steps: Vec<Step>,
    pages: usize,
    records: u64,
}

/// Measures.
///
/// # Errors
/// When the WAL cannot be recorded or redone.
pub async fn run(run: &mut Run) -> Result<()> {
    let pairs = run.extent.pick(3, 9, 15);
    let shape = run.extent.pick((2, 24 << 20), (5, 96 << 20), (10, 256 << 20));
    let mut control = None;
    let at_rest = |data: &Path| {
        control = Some(ControlFile::parse(&fs::read(data.join("global/pg_control"))?)?);
        Ok(())
    };
    let recorded = Recorded::pgbench(run.dir(), "redo", shape, true, at_rest).await?;
    let control = control.context("the cluster was at rest")?;
    let wal = read(&recorded, &control)?;
    decoding(run, &recorded, &control, &wal, pairs)?;
    let work = take_apart(&recorded, &control, &wal)?;
    drop(wal);
    println!("{} records, {} changes of {} pages", work.records, work.steps.len(), work.pages);
    by_type(run, &work, pairs)?;
    threads(run, &work, pairs)
}

/// The WAL as one piece.
fn read(recorded: &Recorded, control: &ControlFile) -> Result<Bytes> {
    let seg = control.seg_size;
    let first = recorded.from.segment_no(seg);
    let mut wal = Vec::new();
    for segment in first..=Lsn::new(recorded.to.get() - 1).segment_no(seg) {
        wal.extend(fs::read(recorded.wal_dir().join(seg.file_name(control.checkpoint_copy.tli, segment)))?);
    }
    let skip = recorded.from.bytes_since(seg.start_of(first));
    let end = recorded.to.bytes_since(seg.start_of(first));
    Ok(Bytes::from(wal).slice(usize::try_from(skip)?..usize::try_from(end)?))
}

fn records(
    recorded: &Recorded,
    control: &ControlFile,
    wal: &Bytes,
    mut take: impl FnMut(RecordRef<'_>) -> Result<()>,
) -> Result<()> {
    let tlis = vec![(control.checkpoint_copy.tli, recorded.from)];
    let (version, seg_size) = (control.version, control.seg_size);
    let config = StreamConfig { version, seg_size, system_id: Some(control.system_id), tlis };
    let mut decoder = WalDecoder::new(config, recorded.from, None);
    let mut result = Ok(());
    decoder.feed_records(recorded.from, wal, &mut |record| {
        if result.is_ok() {
            result = take(record);
        }
    })?;
    result
}

/// Finding the records, with their checksums, and taking their block references apart.
fn decoding(run: &mut Run, recorded: &Recorded, control: &ControlFile, wal: &Bytes, rounds: usize) -> Result<()> {
    let mut samples = Vec::new();
    for _ in 0..rounds {
        let (window, cpu) = (Window::open(&[]), cpu_seconds_of_thread()?);
        let mut count = 0u64;
        records(recorded, control, wal, |record| {
            count += 1;
            black_box(body::parse(record.data, control.version)?);
            Ok(())
        })?;
        let cpu = cpu_seconds_of_thread()? - cpu;
        let value = cpu * 1e9 / count as f64;
        let crowd = window.close().crowd;
        run.raw(json!({"what": "decode", "records": count, "bytes": wal.len(), "cpu_seconds": cpu,
            "pressure": crowd.pressure, "foreign": crowd.foreign}))?;
        samples.push(Sample { value, crowd });
    }
    run.figure(Figure::of("decode, check and take apart a record, CPU ns", &samples));
    Ok(())
}

fn take_apart(recorded: &Recorded, control: &ControlFile, wal: &Bytes) -> Result<Work> {
    let version = control.version;
    let (mut steps, mut known, mut count) = (Vec::new(), HashMap::new(), 0);
    records(recorded, control, wal, |record| {
        count += 1;
        let body = body::parse(record.data, version)?;
        for block in body.blocks.iter().filter(|b| b.tag.fork.fork != Fork::Fsm) {
            let change = Change::of(&record.header, &body, block, control.data_checksum_version != 0);
            let (what, kind) = match block.applied_image() {
                Some(image) => {
                    let mut page = Page::zeroed();
                    image.restore(&mut page)?;
                    if redo::changes_after_image(change.rmid, change.info, change.block) {
                        redo::after_image(&mut page, &change, &Context { version, end: record.end })?;
                    }
                    (What::Image(page), IMAGE)
                }
                // A hint that was set needs no redo.
                None if change.rmid == rmid::XLOG => continue,
                // What the load began on is not known without the base; it has an image, or it is made from nothing.
                None if !change.init && !known.contains_key(&block.tag) => continue,
                None => {
                    let mut stored = Vec::new();
                    change.encode(&mut stored);
                    (What::Change(stored.into_boxed_slice()), (change.rmid, change.info))
                }
            };
            let next = known.len();
            let page = *known.entry(block.tag).or_insert(next);
            steps.push(Step { page, tag: block.tag, end: record.end, kind, what });
        }
        Ok(())
    })?;
    ensure!(!steps.is_empty(), "there is nothing to redo");
    Ok(Work { version, steps, pages: known.len(), records: count })
}

/// Applies one step.
fn apply(version: PgMajor, step: &Step, pages: &mut [Box<Page>]) -> Result<()> {
    let page = pages.get_mut(step.page).context("a page of this work")?;
    match &step.what {
        What::Image(image) => page.0.copy_from_slice(&image.0),
        What::Change(stored) => {
            let change = Change::decode(stored, step.tag.fork.fork, step.tag.blk)?;
            let context = Context { version, end: step.end };
            redo::redo(page, &change, &context).with_context(|| format!("{} at {}", step.tag, step.end))?;
        }
    }
    Ok(())
}

fn blank(work: &Work) -> Vec<Box<Page>> {
    (0..work.pages).map(|_| Page::zeroed()).collect()
}

fn by_type(run: &mut Run, work: &Work, rounds: usize) -> Result<()> {
    let clock = clock_ns();
    let mut pages = blank(work);
    let mut samples: BTreeMap<(u8, u8), (u64, Vec<Sample>)> = BTreeMap::new();
    for _ in 0..rounds {
        let window = Window::open(&[]);
        let mut spent: BTreeMap<(u8, u8), (u64, f64)> = BTreeMap::new();
        for step in &work.steps {
            let began = Instant::now();
            apply(work.version, step, &mut pages)?;
            let ns = began.elapsed().as_nanos() as f64 - clock;
            let (count, total) = spent.entry(step.kind).or_default();
            *count += 1;
            *total += ns;
        }
        let crowd = window.close().crowd;
        for (kind, (count, ns)) in spent {
            let value = ns / count as f64;
            run.raw(json!({"what": "type", "type": name(kind), "changes": count, "ns": value, "clock_ns": clock,
                "pressure": crowd.pressure, "foreign": crowd.foreign}))?;
            let known = samples.entry(kind).or_default();
            known.0 = count;
            known.1.push(Sample { value, crowd });
        }
    }
    // Images are copied here from pages that were restored before: what that takes is nothing to show.
    samples.retain(|kind, (count, _)| *kind != IMAGE && *count >= SHOWN_MIN);
    for (kind, (count, samples)) in samples {
        run.figure(Figure::of(format!("{}, ns of each of {count} changes", name(kind)), &samples));
    }
    Ok(())
}

/// What reading the clock costs, so that it can be taken off: the median of many.
fn clock_ns() -> f64 {
    let mut costs: Vec<u64> = (0..10_001)
        .map(|_| {
            let began = Instant::now();
            u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
        })
        .collect();
    costs.sort_unstable();
    costs.get(costs.len() / 2).copied().unwrap_or(0) as f64
}

/// The same work on one thread and on two.
fn threads(run: &mut Run, work: &Work, pairs: usize) -> Result<()> {
    let halves: Vec<Vec<&Step>> =
        (0..2).map(|half| work.steps.iter().filter(|s| s.page % 2 == half).collect()).collect();
    let all: Vec<&Step> = work.steps.iter().collect();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for round in 0..pairs {
        for first in [true, false] {
            let is_one = first == (round % 2 == 0);
            let parts: &[Vec<&Step>] = if is_one { std::slice::from_ref(&all) } else { &halves };
            let (cpu, crowd) = pass(work, parts)?;
            let value = cpu * 1e9 / work.steps.len() as f64;
            run.raw(json!({"what": "threads", "threads": parts.len(), "changes": work.steps.len(), "cpu_ns": value,
                "pressure": crowd.pressure, "foreign": crowd.foreign}))?;
            if is_one { &mut one } else { &mut two }.push(Sample { value, crowd });
        }
    }
    let figure = Figure::against("redo of a change on two threads, CPU ns", &two, "on one", &one);
    run.figure(figure.goal(Goal::AtMost(1.1)));
    Ok(())
}

/// CPU seconds of all threads, each with pages of its own.
fn pass(work: &Work, parts: &[Vec<&Step>]) -> Result<(f64, Crowd)> {
    let mut sets: Vec<Vec<Box<Page>>> = parts.iter().map(|_| blank(work)).collect();
    let window = Window::open(&[]);
    let cpu = std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .iter()
            .zip(&mut sets)
            .map(|(steps, pages)| {
                scope.spawn(move || -> Result<f64> {
                    let cpu = cpu_seconds_of_thread()?;
                    steps.iter().try_for_each(|step| apply(work.version, step, pages))?;
                    Ok(cpu_seconds_of_thread()? - cpu)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("redo does not panic")).sum::<Result<f64>>()
    })?;
    black_box(&sets);
    Ok((cpu, window.close().crowd))
}

fn name((rmid, info): (u8, u8)) -> String {
    match rmgr_name(rmid) {
        Some(rmgr) => format!("{rmgr} {info:#04x}"),
        None => "image of a page".to_owned(),
    }
}
