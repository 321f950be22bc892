//! PostgreSQL's own regression tests as a workload, from the nearest major whose sources are available.
//!
//! Only the log that they write matters here, not their output; but a crash of the server fails the recording. Without
//! a `regress.so` for the server, the tests that load it are left out and named.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};

use crate::cluster::Cluster;

/// Tests of a later minor that crash a server without its corrections: (server, test).
const CRASHES: [(&str, &str); 4] =
    [("17.10", "sqljson"), ("18.4", "sqljson"), ("17.10", "hash_part"), ("18.4", "hash_part")];
/// How many tests of one group run at once.
const AT_ONCE: usize = 8;
/// After this a test is given up.
const TEST_MAX: std::time::Duration = std::time::Duration::from_secs(900);

/// The tests for a server.
pub struct Suite {
    dir: PathBuf,
    has_library: bool,
}

impl Suite {
    /// The tests for major `major`, below `target/postgres/regress`: its own, or those of 15 without their library.
    ///
    /// # Errors
    /// When they are not there.
    pub fn find(major: u32) -> Result<Suite> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/postgres/regress");
        let own = root.join(major.to_string());
        let has_library = own.join("regress.so").exists();
        let dir = if has_library { own } else { root.join("15") };
        ensure!(
            dir.join("parallel_schedule").exists(),
            "{} is not there: run scripts/postgres-regress.sh",
            dir.display()
        );
        Ok(Suite { dir: std::path::absolute(dir)?, has_library })
    }

    /// Groups of tests in the order of the schedule, and the tests that are left out.
    ///
    /// # Errors
    /// When the schedule or a test cannot be read.
    fn schedule(&self, server: &str) -> Result<(Vec<Vec<String>>, Vec<String>)> {
        let text = std::fs::read_to_string(self.dir.join("parallel_schedule"))?;
        let (mut groups, mut left_out) = (Vec::new(), Vec::new());
        for line in text.lines().filter_map(|line| line.strip_prefix("test:")) {
            let mut group = Vec::new();
            for test in line.split_whitespace() {
                if self.is_left_out(test)? || CRASHES.contains(&(server, test)) {
                    left_out.push(test.to_owned())
                } else {
                    group.push(test.to_owned())
                }
            }
            groups.push(group);
        }
        Ok((groups, left_out))
    }

    fn is_left_out(&self, test: &str) -> Result<bool> {
        // The first test also makes the tables that all others need.
        if self.has_library || test == "test_setup" {
            return Ok(false);
        }
        let path = self.dir.join("sql").join(format!("{test}.sql"));
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(String::from_utf8_lossy(&text).contains("regresslib"))
    }

    /// Runs the tests; the names of those that were left out.
    ///
    /// # Errors
    /// When the server crashed.
    pub fn run(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let (groups, left_out) = self.schedule(&cluster.version()?)?;
        let out = cluster.root().join("out");
        std::fs::create_dir_all(out.join("results"))?;
        cluster.own(&out)?;
        cluster.own(&out.join("results"))?;
        cluster.query("postgres", "create database regression template template0")?;
        for setting in ["lc_messages = 'C'", "lc_monetary = 'C'", "lc_numeric = 'C'", "lc_time = 'C'"] {
            cluster.query("postgres", &format!("alter database regression set {setting}"))?;
        }
        for group in groups {
            self.run_group(cluster, &out, &group);
            cluster.query("postgres", "select 1").with_context(|| format!("the server is gone after {group:?}"))?;
        }
        Ok(left_out)
    }

    fn run_group(&self, cluster: &Cluster, out: &Path, group: &[String]) {
        let next = AtomicUsize::new(0);
        let given_up = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(group.len()) {
                scope.spawn(|| {
                    while let Some(test) = group.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(e) = self.run_test(cluster, out, test) {
                            given_up.lock().expect("nobody panics while holding it").push(format!("{test}: {e}"));
                        }
                    }
                });
            }
        });
        for test in given_up.into_inner().expect("nobody panics while holding it") {
            println!("regression test given up: {test}");
        }
    }

    /// Runs one test; statements that fail are part of most.
    fn run_test(&self, cluster: &Cluster, out: &Path, test: &str) -> Result<()> {
        let mut command = cluster.careless_psql("regression")?;
        let library = if self.has_library { self.dir.as_path() } else { Path::new("/nonexistent") };
        command
            .args(["-a", "-f"])
            .arg(self.dir.join("sql").join(format!("{test}.sql")))
            .env("PG_ABS_SRCDIR", &self.dir)
            .env("PG_ABS_BUILDDIR", out)
            .env("PG_LIBDIR", library)
            .env("PG_DLSUFFIX", ".so")
            .env("PGTZ", "PST8PDT")
            .env("PGDATESTYLE", "Postgres, MDY")
            .env("PGOPTIONS", "-c intervalstyle=postgres_verbose")
            .stdin(std::process::Stdio::null())
            .stdout(std::fs::File::create(out.join(format!("{test}.out")))?)
            .stderr(std::fs::File::create(out.join(format!("{test}.err")))?);
        harness::wait(&mut command.spawn()?, "the regression test", TEST_MAX).map(drop)
    }
}
