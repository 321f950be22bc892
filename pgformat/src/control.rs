//! The control file, `global/pg_control`.
//!
//! 14 to 16 share a layout; 17 adds `wal_level` inside the checkpoint, 18 adds a byte before the nonce.
//!
//! Source: PostgreSQL 14-18, `ControlFileData` in `src/include/catalog/pg_control.h`, `WriteControlFile` in `xlog.c`.

use crate::checkpoint::CheckPoint;
use crate::effect::Parameters;
use crate::read::{Short, Take};
use crate::{Lsn, PgMajor, SegSize, Tli, WAL_PAGE_SIZE};

/// Length of the file (`PG_CONTROL_FILE_SIZE`).
pub const CONTROL_FILE_LEN: usize = 8192;
/// Name of the file in a data directory.
pub const CONTROL_FILE_NAME: &str = "global/pg_control";
/// How it says that floating point numbers have the common form.
const FLOAT_FORMAT: f64 = 1_234_567.0;
const MAX_ALIGN: u32 = 8;
/// Blocks in a file of a relation (`RELSEG_SIZE`): 1 GiB.
const RELSEG_BLOCKS: u32 = 131_072;
const NAME_LEN: u32 = 64;
const INDEX_MAX_KEYS: u32 = 32;
const TOAST_MAX_CHUNK: u32 = 1996;
const LARGE_OBJECT_BLOCK: u32 = 2048;

/// What a server was doing when it wrote the file (`DBState`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DbState {
    /// Starting for the first time.
    Startup = 0,
    /// Stopped cleanly (`DB_SHUTDOWNED`): there is nothing to recover.
    Shutdown = 1,
    /// Stopped cleanly while it was a standby.
    ShutdownInRecovery = 2,
    /// Writing the checkpoint that ends a clean stop (`DB_SHUTDOWNING`).
    ShuttingDown = 3,
    /// Recovering from a crash.
    CrashRecovery = 4,
    /// Recovering from an archive, or a standby.
    ArchiveRecovery = 5,
    /// Open for writes (`DB_IN_PRODUCTION`); also what a crash leaves behind.
    Production = 6,
}

impl DbState {
    const ALL: [DbState; 7] = [
        DbState::Startup,
        DbState::Shutdown,
        DbState::ShutdownInRecovery,
        DbState::ShuttingDown,
        DbState::CrashRecovery,
        DbState::ArchiveRecovery,
        DbState::Production,
    ];
}

/// The control file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    /// The major that its layout and catalog version name.
    pub version: PgMajor,
    /// The cluster's identity, drawn by `initdb` (`system_identifier`); long WAL page headers repeat it.
    pub system_id: u64,
    /// What the server was doing.
    pub state: DbState,
    /// When it was written, in seconds since 1970.
    pub time: i64,
    /// The last checkpoint's record.
    pub checkpoint: Lsn,
    /// What that checkpoint's record says (`checkPointCopy`).
    pub checkpoint_copy: CheckPoint,
    /// Positions handed out for unlogged relations.
    pub unlogged_lsn: Lsn,
    /// Recovery must get here before the data are consistent; 0 outside of recovery.
    pub min_recovery_point: Lsn,
    /// The timeline of that.
    pub min_recovery_point_tli: Tli,
    /// Redo point of the base backup that is recovered from.
    pub backup_start: Lsn,
    /// Where that backup, of a standby, ended.
    pub backup_end: Lsn,
    /// Whether the end of that backup must be found in the log.
    pub backup_end_required: bool,
    /// Settings that a standby must know, as of the last start.
    pub parameters: Parameters,
    /// Size of a WAL segment.
    pub seg_size: SegSize,
    /// Whether eight-byte numbers are passed by value.
    pub float8_by_val: bool,
    /// 0 without page checksums.
    pub data_checksum_version: u32,
    /// Whether `char` is signed (18).
    pub char_signed: bool,
    /// What answers to unknown users are made of.
    pub mock_nonce: [u8; 32],
}

/// A control file that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// It is too short.
    #[error("the control file is too short")]
    Short,
    /// The file's layout or the catalogs are of no supported major.
    #[error("the control file has version {control}, catalog version {catalog}: no supported PostgreSQL")]
    Version {
        /// `pg_control_version`: counts layouts of the file.
        control: u32,
        /// `catalog_version_no`: counts layouts of the catalogs, and tells majors apart.
        catalog: u32,
    },
    /// The bytes do not fit their CRC-32C: the file is damaged.
    #[error("the control file's checksum is {found:08X}, expected {expected:08X}")]
    Crc {
        /// In the file.
        found: u32,
        /// Of its content.
        expected: u32,
    },
    /// A server that was built differently.
    #[error("the control file's {what} is {found}, expected {expected}")]
    Build {
        /// The field that tells how the server was built.
        what: &'static str,
        /// In the file.
        found: u64,
        /// As every distribution builds it.
        expected: u64,
    },
    /// A field without meaning.
    #[error("the control file's {what} is {found}")]
    Value {
        /// The field that has the value.
        what: &'static str,
        /// The value, a number without meaning there.
        found: u32,
    },
}

impl From<Short> for ControlError {
    fn from(_: Short) -> ControlError {
        ControlError::Short
    }
}

/// Where the checksum of everything before it lies.
fn crc_at(version: PgMajor) -> usize {
    if version.control_version() >= 1800 { 292 } else { 288 }
}

impl ControlFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is damaged, of another version, or of a server built with other sizes.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlError> {
        let mut take = Take::new(bytes);
        let system_id = take.u64()?;
        let (control, catalog) = (take.u32()?, take.u32()?);
        let version = PgMajor::ALL
            .into_iter()
            .find(|v| v.control_version() == control && v.catalog_version() == catalog)
            .ok_or(ControlError::Version { control, catalog })?;
        let covered = bytes.get(..crc_at(version)).ok_or(ControlError::Short)?;
        let mut crc = Take::new(&bytes[covered.len()..]);
        let (found, expected) = (crc.u32()?, crc32c::crc32c(covered));
        if found != expected {
            return Err(ControlError::Crc { found, expected });
        }
        let state = take.u32()?;
        let state = DbState::ALL.into_iter().find(|s| *s as u32 == state);
        let state = state.ok_or(ControlError::Value { what: "state", found: covered[16].into() })?;
        take.skip(4)?;
        let (time, checkpoint) = (take.i64()?, Lsn::new(take.u64()?));
        let checkpoint_copy = CheckPoint::parse(&take.array()?, version);
        let (unlogged_lsn, min_recovery_point) = (Lsn::new(take.u64()?), Lsn::new(take.u64()?));
        let min_recovery_point_tli = Tli(take.u32()?);
        take.skip(4)?;
        let (backup_start, backup_end) = (Lsn::new(take.u64()?), Lsn::new(take.u64()?));
        let backup_end_required = take.bool()?;
        take.skip(3)?;
        let (wal_level, wal_log_hints) = (take.i32()?, take.bool()?);
        take.skip(3)?;
        let parameters = Parameters {
            wal_level,
            wal_log_hints,
            max_connections: take.i32()?,
            max_worker_processes: take.i32()?,
            max_wal_senders: take.i32()?,
            max_prepared_xacts: take.i32()?,
            max_locks_per_xact: take.i32()?,
            track_commit_timestamp: take.bool()?,
        };
        take.skip(3)?;
        let seg_size = check_build(&mut take)?;
        let float8_by_val = take.bool()?;
        take.skip(3)?;
        let data_checksum_version = take.u32()?;
        let char_signed = version.control_version() < 1800 || take.bool()?;
        let mock_nonce = take.array()?;
        Ok(ControlFile {
            version,
            system_id,
            state,
            time,
            checkpoint,
            checkpoint_copy,
            unlogged_lsn,
            min_recovery_point,
            min_recovery_point_tli,
            backup_start,
            backup_end,
            backup_end_required,
            parameters,
            seg_size,
            float8_by_val,
            data_checksum_version,
            char_signed,
            mock_nonce,
        })
    }

    /// Whether hint bits are logged, so that records may set page LSNs that they otherwise leave.
    pub const fn logs_hints(&self) -> bool {
        self.data_checksum_version != 0 || self.parameters.wal_log_hints
    }

    /// The whole file, with its checksum.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut b = vec![0; CONTROL_FILE_LEN];
        let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.system_id.to_le_bytes());
        put(8, &self.version.control_version().to_le_bytes());
        put(12, &self.version.catalog_version().to_le_bytes());
        put(16, &(self.state as u32).to_le_bytes());
        put(24, &self.time.to_le_bytes());
        put(32, &self.checkpoint.get().to_le_bytes());
        put(40, &self.checkpoint_copy.to_bytes(self.version));
        put(128, &self.unlogged_lsn.get().to_le_bytes());
        put(136, &self.min_recovery_point.get().to_le_bytes());
        put(144, &self.min_recovery_point_tli.0.to_le_bytes());
        put(152, &self.backup_start.get().to_le_bytes());
        put(160, &self.backup_end.get().to_le_bytes());
        put(168, &[u8::from(self.backup_end_required)]);
        let p = &self.parameters;
        put(172, &p.wal_level.to_le_bytes());
        put(176, &[u8::from(p.wal_log_hints)]);
        let limits =
            [p.max_connections, p.max_worker_processes, p.max_wal_senders, p.max_prepared_xacts, p.max_locks_per_xact];
        for (at, limit) in (180..).step_by(4).zip(limits) {
            put(at, &limit.to_le_bytes());
        }
        put(200, &[u8::from(p.track_commit_timestamp)]);
        put(204, &MAX_ALIGN.to_le_bytes());
        put(208, &FLOAT_FORMAT.to_le_bytes());
        put(216, &8192_u32.to_le_bytes());
        put(220, &RELSEG_BLOCKS.to_le_bytes());
        put(224, &8192_u32.to_le_bytes());
        put(228, &self.seg_size.to_u32().to_le_bytes());
        put(232, &NAME_LEN.to_le_bytes());
        put(236, &INDEX_MAX_KEYS.to_le_bytes());
        put(240, &TOAST_MAX_CHUNK.to_le_bytes());
        put(244, &LARGE_OBJECT_BLOCK.to_le_bytes());
        put(248, &[u8::from(self.float8_by_val)]);
        put(252, &self.data_checksum_version.to_le_bytes());
        if self.version.control_version() >= 1800 {
            put(256, &[u8::from(self.char_signed)]);
            put(257, &self.mock_nonce);
        } else {
            put(256, &self.mock_nonce);
        }
        let crc = crc32c::crc32c(&b[..crc_at(self.version)]);
        b[crc_at(self.version)..][..4].copy_from_slice(&crc.to_le_bytes());
        b
    }
}

/// The sizes that a server was built with, of which only the segment size may vary.
fn check_build(take: &mut Take<'_>) -> Result<SegSize, ControlError> {
    let mut expect = |what: &'static str, expected: u32| {
        let found = take.u32()?;
        let (found, expected) = (u64::from(found), u64::from(expected));
        if found == expected { Ok(()) } else { Err(ControlError::Build { what, found, expected }) }
    };
    expect("alignment", MAX_ALIGN)?;
    let float = FLOAT_FORMAT.to_bits();
    expect("floating point format", (float & 0xFFFF_FFFF) as u32)?;
    expect("floating point format", (float >> 32) as u32)?;
    expect("block size", 8192)?;
    expect("blocks of a relation's file", RELSEG_BLOCKS)?;
    expect("WAL block size", WAL_PAGE_SIZE as u32)?;
    let found = take.u32()?;
    let seg_size = SegSize::new(found).ok_or(ControlError::Value { what: "segment size", found })?;
    let mut expect = |what: &'static str, expected: u32| {
        let found = take.u32()?;
        let (found, expected) = (u64::from(found), u64::from(expected));
        if found == expected { Ok(()) } else { Err(ControlError::Build { what, found, expected }) }
    };
    expect("length of names", NAME_LEN)?;
    expect("columns of an index", INDEX_MAX_KEYS)?;
    expect("size of a TOAST chunk", TOAST_MAX_CHUNK)?;
    expect("size of a large object's block", LARGE_OBJECT_BLOCK)?;
    Ok(seg_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(version: PgMajor) -> ControlFile {
        let body = std::array::from_fn(|i| i as u8);
        let checkpoint_copy = CheckPoint { full_page_writes: true, ..CheckPoint::parse(&body, version) };
        ControlFile {
            version,
            system_id: 7,
            state: DbState::Shutdown,
            time: 1_700_000_000,
            checkpoint: Lsn::new(0x0100_0028),
            checkpoint_copy,
            unlogged_lsn: Lsn::new(1000),
            min_recovery_point: Lsn::new(1),
            min_recovery_point_tli: Tli(2),
            backup_start: Lsn::new(3),
            backup_end: Lsn::new(4),
            backup_end_required: true,
            parameters: Parameters { max_connections: 100, wal_level: 1, wal_log_hints: true, ..Default::default() },
            seg_size: SegSize::new(1 << 24).expect("a power of two"),
            float8_by_val: true,
            data_checksum_version: 1,
            char_signed: true,
            mock_nonce: std::array::from_fn(|i| i as u8 ^ 0x5A),
        }
    }

    #[test]
    fn it_reads_as_it_was_written() {
        for version in PgMajor::ALL {
            let control = sample(version);
            let bytes = control.to_bytes();
            assert_eq!(bytes.len(), CONTROL_FILE_LEN);
            assert_eq!(ControlFile::parse(&bytes), Ok(control));
            assert!(ControlFile::parse(&bytes[..290]).is_err());
        }
    }

    #[test]
    fn damage_and_other_builds_are_refused() {
        let good = sample(PgMajor::ALL[4]).to_bytes();
        for at in [0, 16, 40, 100, 257, 290] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(matches!(ControlFile::parse(&bad), Err(ControlError::Crc { .. })), "byte {at}");
        }
        let mut bad = good.clone();
        bad[12] ^= 1;
        assert!(matches!(ControlFile::parse(&bad), Err(ControlError::Version { .. })));
        for (at, what) in [(204, "alignment"), (216, "block size"), (224, "WAL block size"), (244, "large object")] {
            let mut bad = good.clone();
            bad[at] ^= 4;
            let crc = crc32c::crc32c(&bad[..292]);
            bad[292..296].copy_from_slice(&crc.to_le_bytes());
            let error = ControlFile::parse(&bad).expect_err("refused").to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
