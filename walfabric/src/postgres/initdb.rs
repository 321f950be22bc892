//! Options of initdb that a fabric's cluster may be made with.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::usage::UsageError;

/// What `up` decides by itself: where the cluster lies, who its superuser is and how the shim gets in; and what would
/// make no cluster, or one that a crash may take.
const DECIDED: [&str; 13] = [
    "--pgdata",
    "--username",
    "--pwprompt",
    "--pwfile",
    "--auth",
    "--auth-host",
    "--auth-local",
    "--waldir",
    "--no-sync",
    "--sync-only",
    "--show",
    "--version",
    "--help",
];
/// PostgreSQL 18 and later have checksums unless told otherwise, and an option for that.
const CHECKSUMS_BY_DEFAULT: u32 = 18;
const CHECKSUMS: &str = "--data-checksums";
const NO_CHECKSUMS: &str = "--no-data-checksums";

/// Long options of initdb, each `--name` or `--name=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InitdbOptions(Vec<String>);

impl InitdbOptions {
    /// Checks the words.
    ///
    /// # Errors
    /// Names the one that is no long option, decided by `up`, or no possible size of a segment.
    pub fn new(words: Vec<String>) -> Result<InitdbOptions, UsageError> {
        for word in &words {
            let (name, value) = word.split_once('=').map_or((word.as_str(), None), |(n, v)| (n, Some(v)));
            if name.len() < 3 || !name.starts_with("--") {
                return Err(UsageError(format!(
                    "{word:?} is no long option of initdb: --name or --name=value is needed"
                )));
            }
            // initdb takes the beginning of a name for the whole.
            if let Some(decided) = DECIDED.iter().find(|decided| decided.starts_with(name)) {
                return Err(UsageError(format!("initdb's {decided} is not yours to give: `up` decides it")));
            }
            let size = || value.and_then(|v| v.parse::<u32>().ok());
            let possible = |mb: u32| mb.is_power_of_two() && mb <= 1024;
            if name == "--wal-segsize" && !size().is_some_and(possible) {
                return Err(UsageError(format!("{word}: a power of two from 1 to 1024 (MiB) is needed")));
            }
        }
        Ok(InitdbOptions(words))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the initdb of this major takes them. A fabric's cluster has checksums unless they are refused.
    pub(super) fn for_major(&self, major: u32) -> Vec<String> {
        let mut words: Vec<String> = self.0.iter().filter(|w| *w != NO_CHECKSUMS && *w != CHECKSUMS).cloned().collect();
        let refused = self.0.iter().any(|word| word == NO_CHECKSUMS);
        match refused {
            true if major < CHECKSUMS_BY_DEFAULT => {}
            true => words.push(NO_CHECKSUMS.to_owned()),
            false => words.push(CHECKSUMS.to_owned()),
        }
        words
    }
}

impl fmt::Display for InitdbOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "" })?;
        f.write_str(&self.0.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(word: &str) -> String {
        InitdbOptions::new(vec![word.to_owned()]).expect_err("refused").0
    }

    #[test]
    fn what_up_decides_and_impossible_sizes_are_refused() {
        assert!(refused("-D").contains("no long option"));
        assert!(refused("--pgd=/tmp/x").contains("--pgdata"));
        assert!(refused("--auth=md5").contains("--auth"));
        assert!(refused("--wal-segsize=3").contains("power of two"));
        assert!(refused("--wal-segsize").contains("power of two"));
        InitdbOptions::new(vec!["--wal-segsize=1".to_owned(), "--allow-group-access".to_owned()])
            .expect("initdb's own");
    }

    #[test]
    fn checksums_are_the_default_on_every_major() {
        let none = InitdbOptions::default();
        assert_eq!(none.for_major(15), [CHECKSUMS]);
        let without = InitdbOptions::new(vec![NO_CHECKSUMS.to_owned()]).expect("possible");
        assert_eq!(without.for_major(17), Vec::<String>::new());
        assert_eq!(without.for_major(18), [NO_CHECKSUMS]);
    }
}
