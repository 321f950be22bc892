//! How the shim talks to one safekeeper: connection settings, its account of the timeline, WAL to read.
//!
//! No state here; connections belong to who asked for them.

use std::time::Duration;

use bytes::Bytes;
use libpq::{ClientConnection, ConnectOptions, CopyEvent, CopyReader, CopyWriter, NetError};
use pgformat::Lsn;
use proto::api::SafekeeperTimelineStatus;
use proto::consensus::{
    AcceptorGreeting, AcceptorMessage, MemberConf, ProposerGreeting, ProposerMessage, ProtoVersion,
};
use proto::id::{NodeId, SystemId, Term};
use proto::pg::sqlstate;
use tokio::time::timeout;

use crate::config::{ApplySource, CONNECT_TIMEOUT, ShimConfig};
use crate::dial::wal_reader::{StretchError, WalReader};
use crate::status::donors::DonorAnswer;

/// Limit for one question to a safekeeper that accepted the connection.
const QUESTION: Duration = Duration::from_secs(5);

/// Limit for reading WAL back: 64 MiB from a slow disk.
const READ_BACK: Duration = Duration::from_secs(30);

/// application_name towards safekeepers.
const APPLICATION: &str = "walproposer-shim";

/// What a safekeeper says about the timeline.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// Who it is, its member set, its term.
    pub(crate) greeting: AcceptorGreeting,
    /// Positions, histories and what it refuses.
    pub(crate) status: SafekeeperTimelineStatus,
}

/// Connection settings for an address of the list.
pub(crate) fn options(config: &ShimConfig, address: &(String, u16)) -> ConnectOptions {
    ConnectOptions {
        host: address.0.trim_matches(['[', ']']).to_owned(),
        port: address.1,
        user: APPLICATION.to_owned(),
        database: Some("replication".to_owned()),
        application_name: APPLICATION.to_owned(),
        options: vec![
            ("tenant_id".to_owned(), config.ttid.tenant_id.to_string()),
            ("timeline_id".to_owned(), config.ttid.timeline_id.to_string()),
        ],
        timeout: CONNECT_TIMEOUT,
        ..ConnectOptions::default()
    }
}

/// Address for people.
pub(crate) fn shown(address: &(String, u16)) -> String {
    format!("{}:{}", address.0, address.1)
}

/// The command that opens a proposer's session. The timeline must exist: a shim never creates one.
pub(crate) fn push_command(config: &ShimConfig) -> String {
    // Only a reported apply position makes commits wait for a pageserver.
    let feedback = match config.apply_source {
        ApplySource::Flush => "lazy",
        ApplySource::Pageserver => "prompt",
    };
    format!(
        "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false', primary_epoch '{}', \
         feedback '{feedback}')",
        config.primary_epoch
    )
}

/// Why there is no account.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAccount {
    /// No session, or a refusal.
    #[error("{0}")]
    Net(#[from] NetError),
    /// The node answers, but the timeline does not exist there.
    #[error("the timeline does not exist on safekeeper {0}: a member that lost its data does not vote")]
    NoTimeline(NodeId),
}

/// Asks a safekeeper for its account: status first, then its greeting on the same connection, which is then dropped.
pub(crate) async fn account(config: &ShimConfig, address: &(String, u16)) -> Result<Account, NoAccount> {
    let mut connection = ClientConnection::dial(&options(config, address)).await?;
    let asked = timeout(QUESTION, async {
        let answer = match connection.simple_query("SHOW TIMELINE").await {
            Err(e) if is_missing(&e) => return Err(missing(&mut connection, e).await),
            other => other?,
        };
        let text = answer.into_iter().next().and_then(|r| r.rows.into_iter().next()?.into_iter().next()?);
        let status: SafekeeperTimelineStatus = serde_json::from_str(&text.unwrap_or_default())
            .map_err(|e| NetError::Protocol { peer: shown(address), problem: format!("SHOW TIMELINE: {e}") })?;
        let (reader, writer) = connection.copy_both(&push_command(config)).await?;
        let greeting = greet(config, &status, reader, writer).await?;
        Ok(Account { greeting, status })
    });
    let limit = QUESTION;
    asked.await.map_err(|_| NetError::Timeout { peer: shown(address), what: "the state of the timeline", limit })?
}

fn is_missing(e: &NetError) -> bool {
    e.server_error().is_some_and(|e| e.code == sqlstate::TIMELINE_NOT_FOUND)
}

/// The timeline is not there: learns at least which node says so, since an address list must not name strangers.
async fn missing(connection: &mut ClientConnection, said: NetError) -> NoAccount {
    let Ok(answer) = connection.simple_query("SHOW CONFIG").await else { return said.into() };
    let mut rows = answer.into_iter().flat_map(|r| r.rows);
    let id = rows.find(|row| row.first().and_then(Option::as_deref) == Some("id"));
    let id = id.and_then(|row| row.into_iter().nth(1).flatten()?.parse().ok());
    id.map_or_else(|| said.into(), |id| NoAccount::NoTimeline(NodeId(id)))
}

/// Greets without naming a system: what the timeline belongs to was asked before, and is judged by the proof.
async fn greet(
    config: &ShimConfig,
    status: &SafekeeperTimelineStatus,
    mut reader: CopyReader,
    mut writer: CopyWriter,
) -> Result<AcceptorGreeting, NetError> {
    let greeting = ProposerMessage::Greeting(ProposerGreeting {
        ttid: config.ttid,
        mconf: MemberConf::none(),
        pg_version_num: status.pg_version_num,
        system_id: SystemId(0),
        seg_size: status.wal_seg_size,
        tli: None,
    });
    let peer = reader.peer().to_owned();
    writer.queue(&greeting.encode(ProtoVersion::V3), Bytes::new());
    writer.flush().await?;
    let problem = match reader.next().await? {
        CopyEvent::Data(data) => match AcceptorMessage::decode(ProtoVersion::V3, data) {
            Ok(AcceptorMessage::Greeting(greeting)) => return Ok(greeting),
            Ok(_) => "answered the greeting with another message".to_owned(),
            Err(e) => e.to_string(),
        },
        CopyEvent::Error(error) => return Err(NetError::Server { peer, error }),
        CopyEvent::Done | CopyEvent::Closed | CopyEvent::Fail(_) => "closed instead of greeting".to_owned(),
    };
    Err(NetError::Protocol { peer, problem })
}

/// Starts to read `[from, end)`: committed WAL, or with `term` all that was flushed in it.
pub(crate) async fn read(
    config: &ShimConfig,
    address: &(String, u16),
    from: Lsn,
    end: Lsn,
    term: Option<Term>,
) -> Result<WalReader, StretchError> {
    let connection = ClientConnection::dial(&options(config, address)).await?;
    let command = match term {
        Some(term) => format!("START_REPLICATION PHYSICAL {from} (term='{term}')"),
        None => format!("START_REPLICATION PHYSICAL {from}"),
    };
    WalReader::start(connection, &command, from, end).await
}

/// Asks a safekeeper to read back WAL that came from it.
pub(crate) async fn check_wal(config: &ShimConfig, address: &(String, u16), (from, to): (Lsn, Lsn)) -> DonorAnswer {
    let asked = timeout(READ_BACK, async {
        let mut connection = ClientConnection::dial(&options(config, address)).await?;
        connection.simple_query(&format!("CHECK_WAL {from} {to}")).await
    });
    let row = match asked.await {
        Ok(Ok(answer)) => answer.into_iter().next().and_then(|result| result.rows.into_iter().next()),
        Ok(Err(e)) => return DonorAnswer::Unknown(e.to_string()),
        Err(_) => return DonorAnswer::Unknown(format!("no answer within {READ_BACK:?}")),
    };
    let mut cells = row.unwrap_or_default().into_iter();
    match (cells.next(), cells.next()) {
        (Some(None), Some(None)) => DonorAnswer::Sound,
        (Some(Some(at)), Some(Some(problem))) => DonorAnswer::Damaged(format!("at {at}: {problem}")),
        _ => DonorAnswer::Unknown("its answer is not understood".to_owned()),
    }
}
