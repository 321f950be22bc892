//! What the disk under test can write sequentially: the ceiling for everything that writes WAL.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate, fdatasync};

/// Bytes per write, and per fdatasync when there is one for each.
const STEP: usize = 1 << 20;

/// Writes `bytes` to a preallocated file below `dir`, with an fdatasync after each MiB or one at the end; MiB/s.
///
/// # Errors
/// When the disk refuses.
pub fn sequential(dir: &Path, bytes: &Bytes, sync_each: bool) -> Result<f64> {
    let path = dir.join("sequential");
    let file = File::create(&path)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes.len() as u64)?;
    file.sync_all()?;
    let began = Instant::now();
    for (n, step) in bytes.chunks(STEP).enumerate() {
        file.write_all_at(step, (n * STEP) as u64)?;
        if sync_each {
            fdatasync(&file)?;
        }
    }
    fdatasync(&file)?;
    let seconds = began.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(bytes.len() as f64 / f64::from(1 << 20) / seconds)
}
