//! What the parts of the process share. It starts nothing but the broker session, and knows none of the parts.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use broker::{Broker, BrokerError, Session};
use node::RepeatLog;
use proto::broker::Keys;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::ShimConfig;
use crate::dial::safekeeper;
use crate::metrics::ShimMetrics;
use crate::status::StatusBoard;

/// Time to live of the shim's lease on the broker, seconds; kept alive every third of it.
const LEASE_TTL_S: i64 = 10;

/// One of them for the whole process, behind an [`Arc`] that every part holds.
pub(crate) struct ShimContext {
    pub(crate) config: Arc<ShimConfig>,
    pub(crate) board: StatusBoard,
    pub(crate) metrics: ShimMetrics,
    pub(crate) broker: Session,
    pub(crate) broker_keys: Keys,
    /// From the loss of a session until WAL flows again.
    pub(crate) outage: RepeatLog,
    /// The same for each safekeeper, by the number of its address.
    pub(crate) away: Vec<RepeatLog>,
    /// Tasks that ask doubted donors; they end with the process.
    pub(crate) questions: Questions,
}

impl ShimContext {
    /// The broker session runs until `broker_stop`.
    ///
    /// # Errors
    /// When the broker's address cannot be used.
    pub(crate) fn start(config: ShimConfig, broker_stop: CancellationToken) -> Result<Arc<ShimContext>, BrokerError> {
        let broker = Broker::new(&config.process.broker, &config.process.broker_prefix)?;
        let broker_keys = broker.keys().clone();
        let away = |address| RepeatLog::outage(format!("safekeeper {}: no session", safekeeper::shown(address)));
        Ok(Arc::new(ShimContext {
            outage: RepeatLog::outage("no WAL flows, trying again"),
            away: config.safekeepers.iter().map(away).collect(),
            questions: Questions::default(),
            board: StatusBoard::new(&config),
            metrics: ShimMetrics::new(),
            broker: Session::start(broker, LEASE_TTL_S, broker_stop),
            broker_keys,
            config: Arc::new(config),
        }))
    }

    /// The safekeeper at `index` of the address list, for people: its address.
    pub(crate) fn safekeeper_name(&self, index: usize) -> String {
        self.config.safekeepers.get(index).map(safekeeper::shown).unwrap_or_default()
    }
}

/// Tasks that ask safekeepers something and end with their owner. A task must not keep the context alive.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    tasks: Mutex<JoinSet<()>>,
}

impl Questions {
    /// Starts one, and forgets those that are over.
    pub(crate) fn start(&self, asking: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(asking);
    }
}
