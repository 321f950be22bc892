//! The extension of `tests/extension`, compiled for the installed PostgreSQL.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Bounded as _, PATIENCE};

use anyhow::{Context, Result, ensure};

/// Functions of the extension, in SQL.
const FUNCTIONS: [(&str, &str); 2] = [("log_with_block", "regclass, int"), ("log_without_block", "")];

/// A library that PostgreSQL can load.
pub struct Extension {
    library: PathBuf,
}

impl Extension {
    /// Compiles it for the cluster in `data_dir`, into `dir`, which the server's user can pass through. None for 14,
    /// which has no custom resource managers.
    ///
    /// # Errors
    /// When there are no headers, and with what the compiler said.
    pub fn compile(data_dir: &Path, dir: &Path) -> Result<Option<Extension>> {
        let major = std::fs::read_to_string(data_dir.join("PG_VERSION"))?.trim().to_owned();
        if major == "14" {
            return Ok(None);
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let places = [
            PathBuf::from(format!("/usr/include/postgresql/{major}/server")),
            root.join("../target/postgres/headers").join(&major),
        ];
        let headers = places.iter().find(|p| p.join("postgres.h").is_file());
        let headers =
            headers.with_context(|| format!("no server headers of PostgreSQL {major}: run scripts/setup.sh"))?;
        let library = dir.join("custom_rmgr.so");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-I"]).arg(headers).arg("-o").arg(&library);
        let output = cc.arg(root.join("extension/custom_rmgr.c")).output_within(PATIENCE).context("cannot run cc")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::set_permissions(&library, std::fs::Permissions::from_mode(0o755))?;
        Ok(Some(Extension { library }))
    }

    /// SQL that has the server load it when it starts next.
    pub fn preload(&self) -> String {
        format!("ALTER SYSTEM SET shared_preload_libraries = '{}'", self.library.display())
    }

    /// SQL that makes its functions.
    pub fn functions(&self) -> String {
        let one = |(name, args): &(&str, &str)| {
            let library = self.library.display();
            format!("CREATE FUNCTION {name}({args}) RETURNS pg_lsn AS '{library}', '{name}' LANGUAGE C STRICT;")
        };
        FUNCTIONS.iter().map(one).collect()
    }
}
