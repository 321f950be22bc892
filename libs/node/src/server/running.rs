//! A server that runs, and its end in order.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::datadir::DataDir;
use crate::exit;
use crate::parts::{Part, RunningParts};

/// What is done when all parts have ended: bringing to disk, taking keys off the broker.
pub struct LastStep {
    name: &'static str,
    limit: Duration,
    work: BoxFuture<'static, ()>,
}

impl LastStep {
    /// `work` is polled when the steps before it are over, for `limit` at most; `name` says in the log what did not end
    /// in time.
    pub fn new(name: &'static str, limit: Duration, work: impl Future<Output = ()> + Send + 'static) -> LastStep {
        LastStep { name, limit, work: work.boxed() }
    }
}

/// The exit code that a part decides on when it ends the process by itself, with the reason.
#[derive(Clone, Debug, Default)]
pub struct ExitVerdict(Arc<OnceLock<(u8, String)>>);

impl ExitVerdict {
    /// Decides; the first one counts.
    pub fn give(&self, code: u8, reason: impl Into<String>) {
        // Somebody was first: that reason is the one that ends the process.
        let _ = self.0.set((code, reason.into()));
    }
}

/// A server whose ports answer and whose parts work.
pub struct RunningServer {
    name: &'static str,
    http: SocketAddr,
    pg: Option<SocketAddr>,
    parts: RunningParts,
    last: Vec<LastStep>,
    verdict: ExitVerdict,
    data_dir: Option<DataDir>,
}

impl RunningServer {
    /// Starts the parts of the server `name`, whose HTTP port is at `http`. They are to end when `cancel` is cancelled;
    /// then come the `last` steps, in order.
    pub fn start(
        name: &'static str,
        http: SocketAddr,
        parts: Vec<Part>,
        last: Vec<LastStep>,
        cancel: CancellationToken,
    ) -> RunningServer {
        let parts = RunningParts::start(parts, cancel);
        RunningServer { name, http, pg: None, parts, last, verdict: ExitVerdict::default(), data_dir: None }
    }

    /// Keeps the directory locked until the end; its libpq port is at `pg`.
    #[must_use]
    pub fn holding(self, data_dir: DataDir, pg: SocketAddr) -> RunningServer {
        RunningServer { data_dir: Some(data_dir), pg: Some(pg), ..self }
    }

    /// Ends with the code of `verdict`, if one was given.
    #[must_use]
    pub fn judged_by(self, verdict: ExitVerdict) -> RunningServer {
        RunningServer { verdict, ..self }
    }

    /// The bound address of the HTTP port.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// The bound address of the libpq port, if it has one.
    pub fn pg_address(&self) -> Option<SocketAddr> {
        self.pg
    }

    /// Waits until the token given at the start is cancelled, or a part has ended, and everything has stopped; returns
    /// an exit code of [`exit`].
    pub async fn stopped(self) -> u8 {
        let ended = self.parts.ended().await;
        for LastStep { name, limit, work } in self.last {
            if tokio::time::timeout(limit, work).await.is_err() {
                tracing::warn!("{name}: not done within {limit:?}, left as after a kill");
            }
        }
        drop(self.data_dir);
        let (code, reason) = match (ended, self.verdict.0.get()) {
            (Err(died), _) => (exit::ERROR, died.to_string()),
            (Ok(()), Some((code, reason))) => (*code, reason.clone()),
            (Ok(()), None) => (exit::OK, String::new()),
        };
        if code == exit::OK {
            tracing::info!("{} stopped", self.name);
        } else {
            tracing::error!(exit_code = code, reason, "{} ends", self.name);
        }
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn server(parts: Vec<Part>, last: Vec<LastStep>, cancel: &CancellationToken) -> RunningServer {
        RunningServer::start("planted", SocketAddr::from(([127, 0, 0, 1], 1)), parts, last, cancel.clone())
    }

    /// Goal: a step that hangs does not keep the process, and those behind it run.
    #[tokio::test]
    async fn last_steps_run_in_order_each_within_its_limit() {
        let cancel = CancellationToken::new();
        let done: Arc<Mutex<Vec<&str>>> = Arc::default();
        let step = |name: &'static str, hangs: bool| {
            let done = Arc::clone(&done);
            let limit = Duration::from_millis(if hangs { 50 } else { 20_000 });
            LastStep::new(name, limit, async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                done.lock().expect("no panic").push(name);
            })
        };
        let part = Part::until("ear", cancel.clone(), std::future::pending());
        let last = vec![step("flush", false), step("hang", true), step("close", false)];
        let running = server(vec![part], last, &cancel);
        assert!(running.pg_address().is_none());
        cancel.cancel();
        assert_eq!(running.stopped().await, exit::OK);
        assert_eq!(*done.lock().expect("no panic"), ["flush", "close"]);
    }

    #[tokio::test]
    async fn a_part_that_decides_gives_the_exit_code_and_one_that_dies_an_error() {
        let (cancel, verdict) = (CancellationToken::new(), ExitVerdict::default());
        let (ends, decides) = (cancel.clone(), verdict.clone());
        let part = Part::new("judge", async move {
            decides.give(exit::REFUSED, "refused");
            decides.give(exit::OK, "too late");
            ends.cancel();
        });
        assert_eq!(server(vec![part], Vec::new(), &cancel).judged_by(verdict.clone()).stopped().await, exit::REFUSED);
        let dead = Part::new("ear", std::future::ready(()));
        let running = server(vec![dead], Vec::new(), &CancellationToken::new());
        assert_eq!(running.judged_by(verdict).stopped().await, exit::ERROR, "it counts more");
    }
}
