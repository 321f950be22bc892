//! What a wrong setting is called: where its value stands, the value, and what would be right.

use std::fmt;
use std::path::PathBuf;

/// Where a value stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SettingOrigin {
    /// On the command line, behind this flag.
    Flag(String),
    /// In this environment variable.
    Variable(String),
    /// In a file.
    File {
        /// The file's path, as it was given.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// The key on it.
        key: String,
    },
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingOrigin::Flag(flag) => f.write_str(flag),
            SettingOrigin::Variable(name) => f.write_str(name),
            SettingOrigin::File { path, line, key } => {
                write!(f, "configuration file {}, line {line}: {key}", path.display())
            }
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// A setting without which nothing works.
    #[error("{flag} is missing: give the flag, or {} in the file of --config", key_of(.flag))]
    Missing {
        /// Its flag, with the dashes.
        flag: String,
    },
    /// A setting whose value is of no use.
    #[error("{origin} {value:?}: {problem}")]
    Invalid {
        /// Where the value stands: a flag, a variable, or a key of a file.
        origin: SettingOrigin,
        /// The value; `...` when it may hold a password.
        value: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The file of `--config`. Its text is not repeated, since it may hold a password.
    #[error("configuration file {path}: {problem}")]
    File {
        /// Its path, as it was given.
        path: String,
        /// What is wrong, with the line and the known names.
        problem: String,
    },
    /// The command line is none, or asks for help or the version. To be printed by clap.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
}

impl SettingError {
    /// `flag` has a `value` of no use, for which `problem` says what would be right.
    pub fn invalid(flag: &str, value: impl Into<String>, problem: impl Into<String>) -> SettingError {
        let origin = SettingOrigin::Flag(flag.to_owned());
        SettingError::Invalid { origin, value: value.into(), problem: problem.into() }
    }
}

/// The key of a flag.
pub(super) fn key_of(flag: &str) -> String {
    flag.trim_start_matches('-').replace('-', "_")
}
