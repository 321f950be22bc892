//! A real fabric under test, driven through the `walfabric` binary as a user would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use harness::{Bounded as _, PATIENCE};
use walfabric::fabric::{Fabric, FabricDir};

/// A fabric in a directory of its own; taken down and removed when dropped.
pub struct TestFabric {
    dir: tempfile::TempDir,
    binary: PathBuf,
    /// Environment of everything that the fabric runs.
    variables: Vec<(String, String)>,
}

/// The `walfabric` binary next to the program that runs, or next to its `deps` folder.
///
/// # Errors
/// When it was not built.
pub fn binary() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let found = exe.ancestors().skip(1).take(2).map(|d| d.join("walfabric")).find(|p| p.is_file());
    found.context("the walfabric binary is not built: run `cargo build --workspace --bins` first")
}

impl TestFabric {
    /// Brings up a fabric with `options` after `up --dir D --detach`.
    ///
    /// # Errors
    /// With what the binary said.
    pub fn up(options: &[&str]) -> Result<TestFabric> {
        TestFabric::up_with(options, Vec::new())
    }

    /// As [`TestFabric::up`], with these variables in the environment.
    ///
    /// # Errors
    /// With what the binary said.
    pub fn up_with(options: &[&str], variables: Vec<(String, String)>) -> Result<TestFabric> {
        let dir = tempfile::Builder::new().prefix("walfabric-test-").tempdir()?;
        let fabric = TestFabric { dir, binary: binary()?, variables };
        let mut args = vec!["up", "--detach"];
        args.extend_from_slice(options);
        fabric.ok(&args)?;
        Ok(fabric)
    }

    /// Directory of the fabric.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("f")
    }

    /// Runs a verb with `--dir`.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        let (verb, rest) = args.split_first().context("a verb is needed")?;
        let mut command = Command::new(&self.binary);
        command.arg(verb).arg("--dir").arg(self.path()).args(rest).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.output_within(PATIENCE)
    }

    /// Runs a verb that must exit with 0; gives its standard output.
    ///
    /// # Errors
    /// With the exit code and what it said.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "walfabric {args:?}: {}\n{out}\n{err}", output.status);
        Ok(out.into_owned())
    }

    /// `fabric.json` as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self) -> Result<Fabric> {
        FabricDir::new(&self.path())?.read_fabric()
    }

    /// Takes everything from pageserver 1; gives the command that has it import the running cluster again.
    ///
    /// # Errors
    /// When it cannot be stopped or started, or there is no cluster.
    pub fn forget_pages(&self) -> Result<Command> {
        let fabric = self.read()?;
        let pg = fabric.postgres.context("the fabric has no PostgreSQL")?;
        self.ok(&["stop", "pageserver-1"])?;
        let dir = &fabric.pageservers.first().context("the fabric has no pageserver")?.data_dir;
        std::fs::remove_dir_all(dir)?;
        std::fs::remove_dir_all(dir.with_file_name("remote"))?;
        self.ok(&["start", "pageserver-1"])?;
        let (tenant, timeline) = (fabric.tenant_id.to_string(), fabric.timeline_id.to_string());
        let mut import = Command::new(&self.binary);
        import.args(["timeline", "import", "--from", &pg.conninfo(), "--broker", &fabric.broker.endpoint]);
        import.args(["--broker-prefix", &fabric.broker.prefix, "--tenant-id", &tenant, "--timeline-id", &timeline]);
        Ok(import)
    }

    /// Keeps the directory for a look at it; gives its path.
    pub fn keep(self) -> PathBuf {
        let _ = self.run(&["down"]);
        let mut this = std::mem::ManuallyDrop::new(self);
        this.dir.disable_cleanup(true);
        this.path()
    }

    /// The binary under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }
}

impl Drop for TestFabric {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}
