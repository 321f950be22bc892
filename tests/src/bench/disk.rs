//! Sequential write speed of the disk under test: the ceiling for everything that writes WAL.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate, fdatasync};

use super::usage;

/// Bytes per write, and per fdatasync when there is one for each.
const STEP: usize = 1 << 20;

/// How fast, and for how much CPU time.
#[derive(Clone, Copy, Debug)]
pub struct Sequential {
    /// MiB per second.
    pub mib_per_second: f64,
    /// CPU milliseconds per MiB: copying to the page cache and handing to the disk, which no writer can save.
    pub cpu_ms_per_mib: f64,
}

/// Writes `bytes` to a preallocated file below `dir`, with an fdatasync after each MiB or one at the end.
///
/// # Errors
/// When the disk refuses.
pub fn sequential(dir: &Path, bytes: &Bytes, sync_each: bool) -> Result<Sequential> {
    let path = dir.join("sequential");
    let file = File::create(&path)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes.len() as u64)?;
    file.sync_all()?;
    let (began, cpu) = (Instant::now(), usage::cpu_seconds_of_this());
    for (n, step) in bytes.chunks(STEP).enumerate() {
        file.write_all_at(step, (n * STEP) as u64)?;
        if sync_each {
            fdatasync(&file)?;
        }
    }
    fdatasync(&file)?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), usage::cpu_seconds_of_this() - cpu);
    std::fs::remove_file(&path)?;
    let mib = bytes.len() as f64 / f64::from(1 << 20);
    Ok(Sequential { mib_per_second: mib / seconds, cpu_ms_per_mib: cpu * 1000.0 / mib })
}
