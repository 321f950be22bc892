//! Whether a cluster can be copied at all, asked before anything is made of it.

use libpq::ClientConnection;
use proto::api::ImportCheckRequest;

/// Dials the cluster as the copy will: a replication connection, and an ordinary one.
///
/// # Errors
/// Why it cannot be copied, in PostgreSQL's own words where it has some.
pub(crate) async fn check(request: &ImportCheckRequest) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut ordinary = super::backup::options(&request.from).map_err(|e| text(&e))?;
    // Every cluster has it; without a name it would be the user's.
    ordinary.database = ordinary.database.or(Some("postgres".to_owned()));
    let mut replication = ordinary.clone();
    replication.parameters.push(("replication".to_owned(), "true".to_owned()));
    replication.database = None;
    let target = ordinary.target();
    let refused =
        |e| format!("the primary at {target} does not take a replication connection from this pageserver: {e}");
    let mut connection = ClientConnection::dial(&replication).await.map_err(refused)?;
    let results = connection.simple_query("IDENTIFY_SYSTEM").await.map_err(|e| text(&e))?;
    let row = results.first().and_then(|r| r.rows.first());
    let found = row.and_then(|row| row.first()).and_then(Option::as_deref).unwrap_or_default();
    if found != request.system_id.to_string() {
        return Err(format!("from this pageserver the address leads to cluster {found}, not to {}", request.system_id));
    }
    let refused = |e| format!("the primary at {target} does not take an ordinary connection from this pageserver: {e}");
    ClientConnection::dial(&ordinary).await.map(drop).map_err(refused)
}
