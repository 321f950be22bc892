//! The few fields of a stopped cluster's control file that the judges need.
//!
//! Source: PostgreSQL 14-18, `ControlFileData` in `src/include/catalog/pg_control.h`; `data_checksum_version` follows
//! the fields that describe the build, which begin with a known floating-point number.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use pgformat::Lsn;
use pgformat::read::Take;

/// What a control file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    /// Whether the cluster was shut down cleanly.
    pub is_shut_down: bool,
    /// Where redo starts from the last checkpoint.
    pub redo: Lsn,
    /// Whether it has data checksums.
    pub has_checksums: bool,
    /// Whether the first change of a hint bit is logged without them too.
    pub wal_log_hints: bool,
}

const STATE: usize = 16;
const SHUT_DOWN: u32 = 1;
const CHECKPOINT_REDO: usize = 40;
const WAL_LOG_HINTS: usize = 176;
/// `FLOATFORMAT_VALUE`.
const FLOAT_FORMAT: f64 = 1_234_567.0;
/// From the floating-point number to `data_checksum_version`: itself, eight numbers, a flag with its padding.
const TO_CHECKSUMS: usize = 8 + 8 * 4 + 4;

impl Control {
    /// Reads `global/pg_control` of a data directory.
    ///
    /// # Errors
    /// When it is not there or too short.
    pub fn read(data: &Path) -> Result<Control> {
        let path = data.join("global/pg_control");
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Control::parse(&bytes).with_context(|| path.display().to_string())
    }

    fn parse(bytes: &[u8]) -> Result<Control> {
        let at = |at: usize| bytes.get(at..).map(Take::new).context("it is too short");
        let float = bytes.windows(8).position(|w| *w == FLOAT_FORMAT.to_le_bytes());
        let build = float.context("it does not describe its build")?;
        ensure!(build % 8 == 0, "its build's description is not aligned");
        let checksums = at(build + TO_CHECKSUMS)?.u32()?;
        Ok(Control {
            is_shut_down: at(STATE)?.u32()? == SHUT_DOWN,
            redo: Lsn::new(at(CHECKPOINT_REDO)?.u64()?),
            has_checksums: checksums != 0,
            wal_log_hints: at(WAL_LOG_HINTS)?.bool()?,
        })
    }
}
