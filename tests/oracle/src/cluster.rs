//! The PostgreSQL cluster of a recording: started, fed with SQL, and stopped. It is never crash-restarted while its log
//! has check images: PostgreSQL's own recovery can refuse them.
//!
//! Owns one directory: `data`, `base` (a copy of `data` from before the first start), the server's socket and log.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// The longest path of a socket that Linux takes, with the name that PostgreSQL gives it.
const SOCKET_DIR_MAX: usize = 107 - "/.s.PGSQL.5432.lock".len();

/// Programs of one PostgreSQL.
#[derive(Clone, Debug)]
pub struct Programs(pub PathBuf);

impl Programs {
    /// Finds PostgreSQL `name`, a major or a minor: below `target/postgres`, or as Debian installs it.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(name: &str) -> Result<Programs> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/postgres").join(name).join("bin");
        let debian = PathBuf::from(format!("/usr/lib/postgresql/{name}/bin"));
        let found = [own, debian].into_iter().find(|dir| dir.join("initdb").exists());
        let found = found.with_context(|| format!("there is no PostgreSQL {name}: run scripts/postgres-majors.sh"))?;
        Ok(Programs(std::path::absolute(found)?))
    }

    /// A command, run as the user `postgres` when we are root: PostgreSQL refuses to run as root.
    fn command(&self, program: &str) -> Result<Command> {
        let mut path = self.0.join(program);
        // psql is not part of every server's package. Another minor's serves, or else any that is installed.
        if !path.exists() {
            let name = self.0.parent().and_then(|dir| dir.file_name()).and_then(|n| n.to_str()).unwrap_or_default();
            let major = name.split('.').next().unwrap_or_default();
            path = self.0.join("../..").join(major).join("bin").join(program);
        }
        if !path.exists() {
            path = PathBuf::from(program);
        }
        let mut command = harness::as_postgres(&path)?;
        command.env("LC_ALL", "C.UTF-8").current_dir("/");
        Ok(command)
    }
}

/// One cluster in its directory.
pub struct Cluster {
    programs: Programs,
    root: PathBuf,
    running: bool,
}

impl Cluster {
    /// Makes a cluster in `root`, which must not exist. `options` are initdb's; `-k` for data checksums.
    ///
    /// # Errors
    /// Says what initdb said.
    pub fn create(programs: Programs, root: &Path, options: &[&str]) -> Result<Cluster> {
        ensure!(!root.exists(), "{} exists already", root.display());
        let root = std::path::absolute(root)?;
        let len = root.as_os_str().len();
        ensure!(len <= SOCKET_DIR_MAX, "{} is too long for a socket's directory: choose a shorter one", root.display());
        std::fs::create_dir_all(&root)?;
        let cluster = Cluster { programs, root, running: false };
        cluster.own(&cluster.root)?;
        let mut initdb = cluster.programs.command("initdb")?;
        initdb.args(["--no-sync", "--auth=trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-D"]);
        initdb.arg(cluster.data()).args(options);
        // 18 has checksums unless told otherwise.
        if !options.contains(&"-k") && cluster.major()? >= 18 {
            initdb.arg("--no-data-checksums");
        }
        run(&mut initdb)?;
        Ok(cluster)
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The copy of it.
    pub fn base(&self) -> PathBuf {
        self.root.join("base")
    }

    /// The directory of both, and of the socket.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The server's version, as `17.11`.
    ///
    /// # Errors
    /// When the server does not say.
    pub fn version(&self) -> Result<String> {
        let text = run(self.programs.command("postgres")?.arg("--version"))?;
        let version = text.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
        version.map(str::to_owned).with_context(|| format!("no version in {text:?}"))
    }

    /// The server's major.
    ///
    /// # Errors
    /// When the server does not say.
    pub fn major(&self) -> Result<u32> {
        let version = self.version()?;
        let major = version.split(|c: char| !c.is_ascii_digit()).next();
        major.and_then(|m| m.parse().ok()).with_context(|| format!("no major in {version}"))
    }

    /// Whether the package has a program.
    pub fn has(&self, program: &str) -> bool {
        self.programs.0.join(program).exists()
    }

    /// Whether the server can compress images with lz4.
    ///
    /// # Errors
    /// When it does not say.
    pub fn has_lz4(&self) -> Result<bool> {
        let mut postgres = self.programs.command("postgres")?;
        postgres.arg("-D").arg(self.data()).args(["-c", "wal_compression=lz4", "-C", "wal_compression"]);
        Ok(harness::output(&mut postgres, harness::PATIENCE)?.status.success())
    }

    /// Gives a file or directory to the server's user.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn own(&self, path: &Path) -> Result<()> {
        harness::give_to_postgres(path)
    }

    /// Changes something offline with `pg_resetwal`.
    ///
    /// # Errors
    /// Says what it said.
    pub fn reset_log(&self, options: &[&str]) -> Result<()> {
        run(self.programs.command("pg_resetwal")?.args(options).arg("-D").arg(self.data())).map(drop)
    }

    /// Copies the stopped cluster: where replay starts.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn keep_base(&self) -> Result<()> {
        ensure!(!self.running, "a base is a copy of a stopped cluster");
        harness::copy_tree(&self.data(), &self.base())
    }

    /// Appends settings.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, settings: &str) -> Result<()> {
        use std::io::Write as _;
        let mut conf = std::fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf"))?;
        writeln!(
            conf,
            "listen_addresses = ''\nunix_socket_directories = '{}'\nport = 5432\nfsync = off\n{settings}",
            self.root.display()
        )?;
        Ok(())
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn start(&mut self) -> Result<()> {
        let log = self.root.join("log");
        let mut start = self.pg_ctl("start")?;
        start.arg("-l").arg(&log).args(["-t", "60"]);
        if let Err(e) = run(&mut start) {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(10).collect();
            bail!("{e:#}; the log ends with {lines:#?}");
        }
        self.running = true;
        Ok(())
    }

    /// Stops the server: `fast` or `immediate`.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self, mode: &str) -> Result<()> {
        run(self.pg_ctl("stop")?.args(["-t", "120", "-m", mode]))?;
        self.running = false;
        Ok(())
    }

    /// Makes a standby the primary.
    ///
    /// # Errors
    /// When it does not become one.
    pub fn promote(&self) -> Result<()> {
        run(self.pg_ctl("promote")?.args(["-t", "60"])).map(drop)
    }

    fn pg_ctl(&self, action: &str) -> Result<Command> {
        let mut command = self.programs.command("pg_ctl")?;
        command.arg(action).arg("-w").arg("-D").arg(self.data());
        Ok(command)
    }

    fn psql(&self, database: &str) -> Result<Command> {
        let mut psql = self.programs.command("psql")?;
        psql.args(["-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        self.connect(&mut psql, database);
        Ok(psql)
    }

    fn connect(&self, psql: &mut Command, database: &str) {
        psql.args(["-X", "-q", "-U", "postgres", "-p", "5432", "-d", database, "-h"]).arg(&self.root);
    }

    /// A psql that goes on after errors.
    ///
    /// # Errors
    /// When there is no user to run it as.
    pub fn careless_psql(&self, database: &str) -> Result<Command> {
        let mut psql = self.programs.command("psql")?;
        self.connect(&mut psql, database);
        Ok(psql)
    }

    /// Runs a script: `n` is its size, `dir` a directory that the server can write to.
    ///
    /// # Errors
    /// With the first statement that failed.
    pub fn script(&self, database: &str, name: &str, text: &str, n: u32) -> Result<()> {
        let file = self.root.join(format!("{name}.sql"));
        std::fs::write(&file, text)?;
        let mut psql = self.psql(database)?;
        psql.args(["-v", &format!("n={n}"), "-v", &format!("dir={}", self.root.display()), "-f"]).arg(&file);
        run(&mut psql).with_context(|| format!("{name}.sql")).map(drop)
    }

    /// Runs one statement; its rows.
    ///
    /// # Errors
    /// With what the server said.
    pub fn query(&self, database: &str, sql: &str) -> Result<String> {
        run(self.psql(database)?.args(["-c", sql])).map(|rows| rows.trim().to_owned())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.running {
            let _ = self.stop("immediate");
        }
    }
}

/// Runs a program to its end; what it printed.
fn run(command: &mut Command) -> Result<String> {
    harness::run_within(command, harness::LONG)
}
