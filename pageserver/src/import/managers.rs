//! Custom resource managers (PostgreSQL 15 and later): only their extensions can redo what they log, so a cluster that
//! has some loaded is not imported.

use super::backup::{self, BackupError};

/// The first server that can have them, as PG_VERSION_NUM.
const FIRST_VERSION_NUM: u32 = 150_000;
const LIST: &str = "SELECT rm_name FROM pg_get_wal_resource_managers() WHERE NOT rm_builtin ORDER BY rm_name";

/// The query that lists a server's, one name a row; none where there cannot be any.
pub const fn query(version_num: u32) -> Option<&'static str> {
    if version_num < FIRST_VERSION_NUM { None } else { Some(LIST) }
}

/// Why a cluster with these is refused; none without any.
pub fn refusal(names: &[String]) -> Option<String> {
    let list = names.join(", ");
    (!names.is_empty()).then(|| {
        format!(
            "the cluster has custom resource managers loaded ({list}), whose records only their extensions can redo: \
             remove them from shared_preload_libraries and restart it"
        )
    })
}

/// Why the running cluster at `conninfo` is refused, if it is.
///
/// # Errors
/// When it cannot be asked.
pub(crate) async fn check(conninfo: &str, version_num: u32) -> Result<Option<String>, BackupError> {
    let Some(query) = query(version_num) else { return Ok(None) };
    let mut options = backup::options(conninfo)?;
    // Every cluster has it; without a name it would be the user's.
    options.database = options.database.or(Some("postgres".to_owned()));
    let rows = backup::dial(&options).await?.simple_query(query).await?;
    let names: Vec<String> = rows.into_iter().flat_map(|r| r.rows).flatten().flatten().collect();
    Ok(refusal(&names))
}
