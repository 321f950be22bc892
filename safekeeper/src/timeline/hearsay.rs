//! Who is asked for its own statement, and how often: whatever strangers claim in a member's name, that member is
//! called at most once at a time, and once per [`PAUSE`].
//!
//! Owner of what each other member said last. Askers that came before a call began share what it brings.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use proto::admission::Statement;
use proto::id::NodeId;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep_until};

/// Between the beginnings of two calls of one member, about one timeline: three a second cost it nothing, and a member
/// that was just opened asks again after 100 ms at the earliest.
const PAUSE: Duration = Duration::from_millis(300);
/// Askers that wait for one member, at most. A working member asks once at a time.
const WAITING_MAX: usize = 16;

/// What was heard of the other members of one timeline.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    /// Of members of the set alone, so that it does not grow.
    lines: PlainMutex<BTreeMap<NodeId, Arc<Line>>>,
}

#[derive(Debug)]
struct Line {
    last: Mutex<Option<Call>>,
    waiting: Semaphore,
}

#[derive(Debug)]
struct Call {
    began: Instant,
    /// `None` when it was broken off: its asker's session ended.
    heard: Option<Result<Statement, String>>,
}

/// Why a member was not heard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unheard {
    /// As many as may wait for it do.
    TooMany(usize),
    /// It did not answer; why, in words.
    Failed(String),
}

impl Hearsay {
    /// What `node` says of itself, by `call`, when it is said to have stated `claim`. What it said within the last
    /// [`PAUSE`] serves again when it is just that.
    pub(crate) async fn hear(
        &self,
        node: NodeId,
        claim: &Statement,
        call: impl AsyncFnOnce() -> Result<Statement, String>,
    ) -> Result<Statement, Unheard> {
        let came = Instant::now();
        let line = self.line(node);
        let _place = line.waiting.try_acquire().map_err(|_| Unheard::TooMany(WAITING_MAX))?;
        let mut last = line.last.lock().await;
        if let Some(Call { began, heard }) = &*last {
            let again = |h: &Result<Statement, String>| began.elapsed() < PAUSE && h.as_ref() == Ok(claim);
            if let Some(heard) = heard.as_ref().filter(|h| *began >= came || again(h)) {
                return heard.clone().map_err(Unheard::Failed);
            }
            sleep_until(*began + PAUSE).await;
        }
        let began = Instant::now();
        *last = Some(Call { began, heard: None });
        let heard = call().await;
        *last = Some(Call { began, heard: Some(heard.clone()) });
        heard.map_err(Unheard::Failed)
    }

    fn line(&self, node: NodeId) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Line { last: Mutex::new(None), waiting: Semaphore::new(WAITING_MAX) });
        Arc::clone(lines.entry(node).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::future::join_all;
    use pgformat::Lsn;
    use proto::id::{Incarnation, Term};

    use super::*;

    fn stated(starts: u64) -> Statement {
        Statement {
            safekeeper_id: NodeId(2),
            incarnation: Incarnation::new([2; 16]),
            starts,
            term: Term::ZERO,
            last_log_term: Term::ZERO,
            flush_lsn: Lsn::new(8),
            committed: false,
            admitted: true,
            readmitted: Term::ZERO,
            fence: None,
            commit_lsn: None,
        }
    }

    #[tokio::test]
    async fn a_flood_of_claims_asks_the_member_three_times_a_second() {
        let (hearsay, calls) = (Hearsay::default(), AtomicU64::new(0));
        let truth = stated(1);
        let hear = async |claim: u64| {
            let call = async || {
                calls.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await; // the others come meanwhile
                Ok(truth.clone())
            };
            hearsay.hear(NodeId(2), &stated(claim), call).await
        };
        let began = Instant::now();
        let mut claim = 100;
        while began.elapsed() < PAUSE * 3 {
            let all = join_all((0..20).map(|n| hear(claim + n))).await;
            let refused = all.iter().filter(|r| **r == Err(Unheard::TooMany(WAITING_MAX))).count();
            assert_eq!((refused, all.iter().filter(|r| **r == Ok(truth.clone())).count()), (4, 16));
            claim += 20;
        }
        let asked = calls.load(Ordering::Relaxed);
        assert!(u128::from(asked - 1) * PAUSE.as_millis() <= began.elapsed().as_millis(), "{asked} calls");
        // What it said just now needs no call.
        let began = Instant::now();
        let told = join_all((0..10).map(|_| hear(1))).await;
        assert!(told.iter().all(|r| *r == Ok(truth.clone())));
        assert!(calls.load(Ordering::Relaxed) <= asked + 1 && began.elapsed() < PAUSE * 10);
    }

    #[tokio::test]
    async fn a_call_that_failed_or_was_broken_off_is_made_again() {
        let (hearsay, claim) = (Hearsay::default(), stated(1));
        let never = hearsay.hear(NodeId(2), &claim, std::future::pending::<Result<Statement, String>>);
        tokio::time::timeout(Duration::from_millis(10), never).await.expect_err("it waits");
        let fails = hearsay.hear(NodeId(2), &stated(1), async || Err("away".to_owned())).await;
        assert_eq!(fails, Err(Unheard::Failed("away".to_owned())));
        let began = Instant::now();
        assert_eq!(hearsay.hear(NodeId(2), &stated(1), async || Ok(stated(1))).await, Ok(stated(1)));
        assert!(began.elapsed() < PAUSE * 10);
    }
}
