//! Every decision in `docs/adr/` says when it was made and whether it stands, and the index lists it. Compiles with
//! plain `rustc`, as the lint does; that decisions' links and paths lead somewhere, the lint sees to.

use std::collections::BTreeMap;
use std::path::Path;

/// The pages of `docs/adr/` by name, the index among them.
fn pages() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace");
    let entries = std::fs::read_dir(root.join("docs/adr")).expect("the folder of decisions");
    let paths = entries.map(|e| e.expect("a directory entry").path());
    let name = |path: &Path| path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    paths.map(|path| (name(&path), std::fs::read_to_string(&path).expect("pages are UTF-8"))).collect()
}

/// What a decision's head lacks.
fn head_of_decision(name: &str, text: &str) -> Vec<String> {
    let number: Option<u32> = name.get(..4).and_then(|digits| digits.parse().ok());
    let title = number.is_some_and(|n| text.starts_with(&format!("# ADR {n}: ")));
    let mut lines = text.lines().skip(1);
    let head = (lines.next(), lines.next(), lines.next());
    let date = |line: &str| line.strip_prefix("- Date: ").is_some_and(|d| d.len() == 10 && d.matches('-').count() == 2);
    let fine = match head {
        (Some(""), Some(second), Some(third)) => date(second) && third.starts_with("- Status: "),
        _ => false,
    };
    if title && fine { vec![] } else { vec![format!("{name}: expected '# ADR N: ...', '- Date: ', '- Status: '")] }
}

/// Decisions that the index does not link to.
fn unlisted<'a>(index: &str, names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let missing = names.filter(|name| !index.contains(&format!("]({name})")));
    missing.map(|name| format!("{name}: not in docs/adr/README.md")).collect()
}

/// Goal: every decision has a date and a status, and is listed. Method: the files of docs/adr and their index.
#[test]
fn decisions_are_dated_and_listed() {
    let mut decisions = pages();
    let index = decisions.remove("README.md").expect("docs/adr/README.md");
    assert!(decisions.len() > 15, "only {} decisions found", decisions.len());
    let mut findings: Vec<String> = decisions.iter().flat_map(|(name, text)| head_of_decision(name, text)).collect();
    findings.extend(unlisted(&index, decisions.keys()));
    assert_eq!(findings, Vec::<String>::new());
}

/// Goal: neither check is blind. Method: heads with one planted fault each, and a decision that is not listed.
#[test]
fn planted_faults_are_found() {
    let head = "# ADR 7: a thing\n\n- Date: 2026-11-28\n- Status: accepted\n";
    assert_eq!(head_of_decision("0007-a.md", head), Vec::<String>::new());
    for bad in ["# ADR 8: a", "# 7. a", "# ADR 7: a\n\n- Date: today\n- Status: x", "# ADR 7: a\n\nText."] {
        assert_eq!(head_of_decision("0007-a.md", bad).len(), 1, "{bad}");
    }
    let names = ["0007-a.md".to_owned(), "0008-b.md".to_owned()];
    assert_eq!(unlisted("[7](0007-a.md)", names.iter()), ["0008-b.md: not in docs/adr/README.md"]);
}
