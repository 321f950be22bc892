//! The options of BASE_BACKUP.

use crate::pg::{SqlError, sqlstate};

/// What the backup shall become.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BackupForm {
    /// An ordinary base backup, which recovers through the WAL beside it: what stock clients get.
    #[default]
    Recover,
    /// `BOOT 'fork'`: a cluster that starts at the LSN itself, without recovery, on a tli of its own. Ours.
    BootFork,
    /// `BOOT 'continue'`: the same on the tli that the log has there, for whoever goes on with that log. Ours.
    BootContinue,
}

/// How files are summed in the manifest (`MANIFEST_CHECKSUMS`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ManifestChecksum {
    /// Files are listed without sums.
    None,
    /// CRC-32C, the default of PostgreSQL.
    #[default]
    Crc32c,
    /// SHA-256, which stands for 224, 384 and 512 as well: a client verifies what the manifest names.
    Sha256,
}

/// `BASE_BACKUP`, in the grammar of 15 and later or that of 14. What says how hard the server shall work (`CHECKPOINT`,
/// `WAIT`, `MAX_RATE`, `VERIFY_CHECKSUMS`) is read and has no effect: nothing is checkpointed or archived here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BaseBackup {
    /// `LABEL`, as it goes into `backup_label`.
    pub label: String,
    /// `PROGRESS`: sizes are told before, and how far it is meanwhile.
    pub progress: bool,
    /// `WAL`: the WAL that recovery needs is in the archive (`-X fetch`).
    pub wal: bool,
    /// `TABLESPACE_MAP`: a file tells where tablespaces were, instead of links.
    pub tablespace_map: bool,
    /// `MANIFEST`, with its sums; none when the client wants no manifest.
    pub manifest: Option<ManifestChecksum>,
    /// `BOOT`: whether the cluster starts at the LSN itself, and on which tli.
    pub form: BackupForm,
}

impl BaseBackup {
    /// From options in their order: lower-case names, values where they had one.
    ///
    /// # Errors
    /// SQLSTATE 42601 for an unknown option, 22023 for a value that is none, 0A000 for what is not offered.
    pub fn from_options(options: &[(String, Option<String>)]) -> Result<BaseBackup, SqlError> {
        let mut backup = BaseBackup::default();
        let (mut manifest, mut sums) = (false, None);
        for (name, value) in options {
            let text = value.as_deref();
            match name.as_str() {
                "label" => backup.label = text.unwrap_or_default().to_owned(),
                "progress" => backup.progress = truth(name, text)?,
                "wal" => backup.wal = truth(name, text)?,
                "tablespace_map" => backup.tablespace_map = truth(name, text)?,
                "manifest" => manifest = text.is_none_or(|t| !is_one_of(t, &["no", "false", "off", "0"])),
                "manifest_checksums" => sums = Some(checksum(text.unwrap_or_default())?),
                "boot" => backup.form = boot(text.unwrap_or_default())?,
                "target" if text.is_some_and(|t| t.eq_ignore_ascii_case("client")) => {}
                "checkpoint" | "wait" | "nowait" | "fast" | "max_rate" | "verify_checksums" | "noverify_checksums" => {}
                "target" | "target_detail" | "compression" | "compression_detail" | "incremental" => {
                    let shown = text.map_or_else(String::new, |t| format!(" {t:?}"));
                    let problem = format!("BASE_BACKUP: {name}{shown} is not offered here");
                    return Err(SqlError::unsupported(problem)
                        .with_hint("Compress on the client (pg_basebackup --compress=client-...)."));
                }
                _ => return Err(SqlError::syntax(format!("BASE_BACKUP: option {name} is not known"))),
            }
        }
        if sums.is_some() && !manifest {
            let problem = "BASE_BACKUP: MANIFEST_CHECKSUMS without MANIFEST".to_owned();
            return Err(SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, problem));
        }
        backup.manifest = manifest.then(|| sums.unwrap_or_default());
        Ok(backup)
    }
}

fn is_one_of(text: &str, words: &[&str]) -> bool {
    words.iter().any(|w| text.eq_ignore_ascii_case(w))
}

/// An option alone means yes.
fn truth(name: &str, text: Option<&str>) -> Result<bool, SqlError> {
    match text {
        None => Ok(true),
        Some(t) if is_one_of(t, &["true", "on", "yes", "1"]) => Ok(true),
        Some(t) if is_one_of(t, &["false", "off", "no", "0"]) => Ok(false),
        Some(t) => Err(SqlError::invalid_value(format!("BASE_BACKUP: {name} is no truth value: {t:?}"))),
    }
}

fn checksum(text: &str) -> Result<ManifestChecksum, SqlError> {
    match text.to_ascii_lowercase().as_str() {
        "none" => Ok(ManifestChecksum::None),
        "crc32c" => Ok(ManifestChecksum::Crc32c),
        "sha224" | "sha256" | "sha384" | "sha512" => Ok(ManifestChecksum::Sha256),
        _ => Err(SqlError::invalid_value(format!("BASE_BACKUP: {text:?} is no manifest checksum"))),
    }
}

fn boot(text: &str) -> Result<BackupForm, SqlError> {
    match text {
        "fork" => Ok(BackupForm::BootFork),
        "continue" => Ok(BackupForm::BootContinue),
        _ => Err(SqlError::invalid_value(format!("BASE_BACKUP: BOOT {text:?} is not known"))
            .with_hint("It is 'fork' or 'continue'.")),
    }
}
