//! `walfabric env`: addresses and ids of a local fabric as shell commands, so that later commands can be pasted.

use std::path::Path;

use anyhow::Result;
use node::exit;

use crate::fabric::{Fabric, FabricDir};

/// Prints the exports of the fabric in `dir`.
///
/// # Errors
/// When there is no fabric.
pub fn run(dir: &Path) -> Result<u8> {
    print!("{}", exports(&FabricDir::new(dir)?.read_fabric()?));
    Ok(exit::OK)
}

/// `text` as one word of a POSIX shell, whatever is in it.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// One line `export NAME='value'` for each address and id that the fabric has, for `eval`.
pub fn exports(fabric: &Fabric) -> String {
    variables(fabric).iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect()
}

/// Names and values. PostgreSQL's own names, so that its programs find the fabric's server; ours for the rest.
fn variables(fabric: &Fabric) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if let Some(pg) = &fabric.postgres {
        all.push(("PGHOST", pg.host.clone()));
        all.push(("PGPORT", pg.port.to_string()));
        all.push(("PGUSER", pg.user.clone()));
        all.push(("PGDATABASE", pg.dbname.clone()));
        // Not PGDATA: initdb and pg_ctl would act on it unasked.
        all.push(("WALFABRIC_PGDATA", pg.data_dir.display().to_string()));
    }
    all.push(("WALFABRIC_BROKER", fabric.broker.endpoint.clone()));
    all.push(("WALFABRIC_TENANT", fabric.tenant_id.to_string()));
    all.push(("WALFABRIC_TIMELINE", fabric.timeline_id.to_string()));
    let safekeepers: Vec<&str> = fabric.safekeepers.iter().map(|s| s.pg.as_str()).collect();
    all.push(("WALFABRIC_SAFEKEEPERS", safekeepers.join(",")));
    all.extend(fabric.pageservers.first().map(|p| ("WALFABRIC_PAGESERVER", p.pg.clone())));
    all.extend(fabric.shim.iter().map(|s| ("WALFABRIC_SHIM", s.http.clone())));
    all
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use harness::{Bounded as _, PATIENCE};
    use serde_json::json;

    use super::*;

    fn fabric(data_dir: &str) -> Fabric {
        let node = |id: u64, pg: &str| json!({"id": id, "pg": pg, "http": "127.0.0.1:9", "data_dir": "/d", "pid": 1});
        let text = json!({
            "schema": 1,
            "broker": {"endpoint": "http://127.0.0.1:1", "prefix": "/walfabric", "embedded": true, "pid": null},
            "tenant_id": "11111111111111111111111111111111",
            "timeline_id": "22222222222222222222222222222222",
            "postgres": {"host": "127.0.0.1", "port": 5, "user": "postgres", "dbname": "postgres",
                         "data_dir": data_dir, "bin_dir": "/b", "pid": null},
            "shim": {"http": "127.0.0.1:4", "pid": null},
            "safekeepers": [node(1, "127.0.0.1:2"), node(2, "127.0.0.1:3")],
            "pageservers": [node(1, "127.0.0.1:6"), node(2, "127.0.0.1:7")],
        });
        serde_json::from_value(text).expect("a fabric's description")
    }

    #[test]
    fn every_address_and_id_is_a_line() {
        let want = "export PGHOST='127.0.0.1'\n\
                    export PGPORT='5'\n\
                    export PGUSER='postgres'\n\
                    export PGDATABASE='postgres'\n\
                    export WALFABRIC_PGDATA='/f/postgres'\n\
                    export WALFABRIC_BROKER='http://127.0.0.1:1'\n\
                    export WALFABRIC_TENANT='11111111111111111111111111111111'\n\
                    export WALFABRIC_TIMELINE='22222222222222222222222222222222'\n\
                    export WALFABRIC_SAFEKEEPERS='127.0.0.1:2,127.0.0.1:3'\n\
                    export WALFABRIC_PAGESERVER='127.0.0.1:6'\n\
                    export WALFABRIC_SHIM='127.0.0.1:4'\n";
        assert_eq!(exports(&fabric("/f/postgres")), want);
    }

    /// Goal: what is not there has no line, so that nobody dials an empty address.
    #[test]
    fn what_a_fabric_lacks_is_left_out() {
        let mut bare = fabric("/d");
        (bare.postgres, bare.shim) = (None, None);
        bare.pageservers.clear();
        let text = exports(&bare);
        for name in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGDATA", "PAGESERVER", "SHIM"] {
            assert!(!text.contains(name), "{name}: {text}");
        }
        assert!(text.contains("WALFABRIC_BROKER") && text.contains("WALFABRIC_SAFEKEEPERS"), "{text}");
    }

    /// Goal: a path is a value and never a command. Method: a real shell evaluates the lines and gives the value back.
    #[test]
    fn odd_paths_survive_a_shell() {
        let odd = [
            "/with blank/and  two",
            "/it's/''quoted''",
            "/\"double\"/$HOME/${PATH}/$(echo no)/`echo no`",
            "/back\\slash\\",
            "/a;b&c|d>e<f(g)!h*i?j[k]~{l}#m",
            "/line\nfeed/\ttab",
            "-n",
            "/ünï/日本",
            "'",
        ];
        for path in odd {
            let script = format!("{}printf %s \"$WALFABRIC_PGDATA\"", exports(&fabric(path)));
            let output = Command::new("sh").args(["-c", &script]).output_within(PATIENCE).expect("sh");
            assert_eq!(String::from_utf8_lossy(&output.stdout), path, "{script}");
            assert!(output.status.success() && output.stderr.is_empty(), "{script}");
        }
    }
}
