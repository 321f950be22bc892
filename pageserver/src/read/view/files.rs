//! Small files beside the pages: relation maps, prepared transactions, progress of replication origins, each as
//! PostgreSQL has it at the end of a checkpoint.
//!
//! Up to 16 the name of a prepared transaction's file lacks the epoch; of those that are prepared at one LSN the lower
//! halves differ.

use std::collections::BTreeMap;

use bytes::Bytes;
use pgformat::datadir::{FileKind, classify, database_path};
use pgformat::origins::{ORIGINS_FILE_NAME, file_of_origins};
use pgformat::relmap::RELMAP_FILE_NAME;
use pgformat::twophase::{self, TWO_PHASE_DIR};
use pgformat::{Lsn, PgMajor};

use super::ReadView;
use crate::cluster::key::{Key, KeyKind};
use crate::read::{FoundBlob, Problem};

/// Before the state of a prepared transaction: where its record begins.
const RECORD_LEN: usize = 8;

impl ReadView<'_> {
    /// Paths of all of them, below the data directory of a cluster of `version`.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn files(&self, version: PgMajor) -> Result<Vec<String>, Problem> {
        let maps = self.scan(Key::all_of(KeyKind::RelMap))?;
        let mut paths: Vec<String> = maps.iter().map(|(key, _)| map_path(*key, version)).collect();
        paths.extend(self.prepared()?.keys().map(|xid| two_phase_path(*xid, version)));
        paths.push(ORIGINS_FILE_NAME.to_owned());
        paths.sort_unstable();
        Ok(paths)
    }

    /// What is in one of them; none when there is no such file.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn file(&self, path: &str, version: PgMajor) -> Result<Option<Vec<u8>>, Problem> {
        match classify(path, None) {
            FileKind::RelMap(spc, db) => {
                let key = Key::of_database(KeyKind::RelMap, spc, db);
                let found = self.blob(key, self.lsn)?;
                Ok(match found {
                    FoundBlob::Value(_, map) if map_path(key, version) == path => Some(map.to_vec()),
                    _ => None,
                })
            }
            FileKind::TwoPhase(_) => {
                let mut prepared = self.prepared()?.into_iter();
                let found = prepared.find(|(xid, _)| two_phase_path(*xid, version) == path);
                Ok(found.map(|(_, state)| twophase::file_of_state(&state)))
            }
            FileKind::Origins => Ok(Some(file_of_origins(&self.origins()?))),
            _ => Ok(None),
        }
    }

    /// States of prepared transactions by their 64-bit numbers.
    fn prepared(&self) -> Result<BTreeMap<u64, Bytes>, Problem> {
        let found = self.scan(Key::all_of(KeyKind::TwoPhase))?;
        let one = |(key, mut value): (Key, Bytes)| {
            if value.len() < RECORD_LEN {
                return Err(self.malformed(key, format!("a prepared transaction of {} bytes", value.len())));
            }
            Ok((u64::from(key.rel) << 32 | u64::from(key.blk), value.split_off(RECORD_LEN)))
        };
        found.into_iter().map(one).collect()
    }

    fn origins(&self) -> Result<BTreeMap<u16, Lsn>, Problem> {
        let one = |(key, value): (Key, Bytes)| match (u16::try_from(key.blk), value[..].try_into()) {
            (Ok(origin), Ok(remote)) => Ok((origin, Lsn::new(u64::from_le_bytes(remote)))),
            _ => Err(self.malformed(key, format!("progress of {} bytes", value.len()))),
        };
        self.scan(Key::all_of(KeyKind::Origin))?.into_iter().map(one).collect()
    }
}

fn map_path(key: Key, version: PgMajor) -> String {
    format!("{}/{RELMAP_FILE_NAME}", database_path(key.spc, key.db, version))
}

fn two_phase_path(xid: u64, version: PgMajor) -> String {
    format!("{TWO_PHASE_DIR}/{}", twophase::file_name(xid, version))
}

#[cfg(test)]
mod tests {
    use pgformat::origins::parse_origins;
    use pgformat::rel::{PG_DEFAULT, PG_GLOBAL};

    use super::*;
    use crate::read::Io;
    use crate::read::model::ModelVersions;

    #[test]
    fn files_are_those_of_the_lsn_and_the_major() {
        let mut m = ModelVersions::default();
        m.put_blob(Key::of_database(KeyKind::RelMap, PG_GLOBAL, 0), 100, b"shared");
        m.put_blob(Key::of_database(KeyKind::RelMap, PG_DEFAULT, 5), 100, b"five");
        m.put_blob(Key::of_database(KeyKind::RelMap, 1700, 9), 100, b"nine");
        m.put_blob(Key::of_database(KeyKind::RelMap, PG_DEFAULT, 5), 200, b"five again");
        m.put_blob(Key::two_phase(0x1_0000_02BC), 100, b"\0\0\0\0\0\0\0\0state");
        m.put_blob(Key::numbered(KeyKind::Origin, 0, 3), 100, 0x77_u64.to_le_bytes());
        m.end(Key::two_phase(0x1_0000_02BC), 200);
        let at = |lsn: u64| ReadView { versions: &m, lsn: Lsn::new(lsn), latest: Lsn::new(600), io: Io::Files };
        let [of_15, of_18] = [1, 4].map(|n| PgMajor::ALL[n]);

        let (tablespace, old) = ("pg_tblspc/1700/PG_15_202209061/9/pg_filenode.map", "pg_twophase/000002BC");
        let maps = ["base/5/pg_filenode.map", "global/pg_filenode.map"];
        assert_eq!(
            at(100).files(of_15),
            Ok([maps[0], maps[1], ORIGINS_FILE_NAME, tablespace, old].map(str::to_owned).into())
        );
        assert_eq!(at(200).files(of_15).map(|f| f.len()), Ok(4), "it is not prepared any more");
        let wide = "pg_twophase/00000001000002BC".to_owned();
        assert!(at(100).files(of_18).is_ok_and(|f| f.contains(&wide) && !f.contains(&tablespace.to_owned())));

        let file = |lsn, path| at(lsn).file(path, of_15).expect("nothing is damaged");
        assert_eq!(file(100, maps[0]).as_deref(), Some(&b"five"[..]));
        assert_eq!(file(200, maps[0]).as_deref(), Some(&b"five again"[..]));
        assert_eq!(file(100, maps[1]).as_deref(), Some(&b"shared"[..]));
        assert_eq!(file(100, tablespace).as_deref(), Some(&b"nine"[..]));
        assert_eq!(twophase::check_file(&file(100, old).expect("prepared")), Ok(&b"state"[..]));
        let origins = file(100, ORIGINS_FILE_NAME).expect("always there");
        assert_eq!(parse_origins(&origins), Ok(BTreeMap::from([(3, Lsn::new(0x77))])));
        for missing in [old, "base/6/pg_filenode.map", "base/5/PG_VERSION", "pg_tblspc/1700/PG_16_1/9/pg_filenode.map"]
        {
            assert_eq!(file(200, missing), None, "{missing}");
        }
    }

    #[test]
    fn what_is_stored_malformed_is_named() {
        let mut m = ModelVersions::default();
        m.put_blob(Key::two_phase(5), 100, b"short");
        let view = ReadView { versions: &m, lsn: Lsn::new(100), latest: Lsn::new(100), io: Io::Files };
        assert!(matches!(view.files(PgMajor::ALL[1]), Err(Problem::Damaged { .. })));
        m = ModelVersions::default();
        m.put_blob(Key::numbered(KeyKind::Origin, 0, 3), 100, b"short");
        let view = ReadView { versions: &m, lsn: Lsn::new(100), latest: Lsn::new(100), io: Io::Files };
        assert!(matches!(view.file(ORIGINS_FILE_NAME, PgMajor::ALL[1]), Err(Problem::Damaged { .. })));
    }
}
