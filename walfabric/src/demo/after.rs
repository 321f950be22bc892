//! The end of the demo: where the time went, and what to try next.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use node::exit;

use crate::fabric::FabricDir;
use crate::supervisor::STOP_PATIENCE_S;
use crate::verbs::{self, Verb};

/// Seconds spent by `make demo` before the demo itself; `None` when it was started by hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    /// Installing what was missing.
    pub setup: Option<f64>,
    /// Building the program.
    pub build: Option<f64>,
}

/// Where the time went, from the first command to the proof.
pub(super) fn spent(before: Before, run: Duration) -> String {
    let run = run.as_secs_f64();
    let (setup, build) = (before.setup.unwrap_or_default(), before.build.unwrap_or_default());
    match before {
        Before { setup: None, build: None } => format!("run {run:.1} s"),
        _ => format!(
            "{:.1} s from the first command to this line: set-up {setup:.1} s, build {build:.1} s, run {run:.1} s",
            setup + build + run
        ),
    }
}

/// Starts PostgreSQL again, which the proof had stopped, and tells how to use what runs.
///
/// # Errors
/// When it does not start.
pub(super) async fn keep_running(root: &Path) -> Result<()> {
    let code = verbs::run(root, Verb::Start, "postgres", STOP_PATIENCE_S).await?;
    ensure!(code == exit::OK, "PostgreSQL does not start again (exit code {code})");
    let fabric = FabricDir::new(root)?.read_fabric()?;
    let pg = fabric.postgres.as_ref().context("the fabric has no PostgreSQL")?;
    let node = fabric.pageservers.first().context("the fabric has no pageserver")?;
    let (me, dir) = (me(), root.display());
    println!("\nEverything is left running. Try next:\n");
    println!("  {} '{}'", pg.bin_dir.join("psql").display(), pg.conninfo());
    println!("  {me} status --dir {dir}");
    println!("  {me} kill --dir {dir} safekeeper-2 && {me} status --dir {dir}");
    println!("  {me} start --dir {dir} safekeeper-2");
    println!(
        "  {me} page get --pageserver {} --tenant {} --timeline {} --rel 1664/0/1262 --block 0 | od -A d -t x1z | head",
        node.pg, fabric.tenant_id, fabric.timeline_id
    );
    println!("\nTo end it, and to remove it:\n\n  {me} down --dir {dir} && rm -r {dir}");
    Ok(())
}

/// What to do after a demo that has tidied up.
pub(super) fn what_next() {
    let (me, dir) = (me(), std::env::temp_dir().join("fabric"));
    let dir = dir.display();
    println!("\nTry next:\n");
    println!("  make demo KEEP=1                 # once more, and everything is left running to look at");
    println!("  {me} up --dir {dir} --detach && {me} status --dir {dir}");
    println!("  {me} down --dir {dir}");
    println!("  make chaos SECONDS=60            # kills at random, and the same proof");
    println!("  make test                        # the whole gate");
    println!("\nFor a PostgreSQL of your own: docs/operations.md.");
}

/// This program, as one would type it here.
fn me() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| "walfabric".into());
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(&path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_of_all_three_parts() {
        let run = Duration::from_millis(6500);
        let before = Before { setup: Some(20.25), build: Some(200.0) };
        let want = "226.8 s from the first command to this line: set-up 20.2 s, build 200.0 s, run 6.5 s";
        assert_eq!(spent(before, run), want);
        assert_eq!(spent(Before::default(), run), "run 6.5 s");
    }
}
