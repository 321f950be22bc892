//! Each measure is shown to find what is planted, and to leave alone what only looks like it.

use super::circles::{between_folders, circles, counted};
use super::docs::{examples, short};
use super::figures::{Figure, Goal};
use super::graph::{House, Member};
use super::links::broken;
use super::names::shared;
use super::prose::{long_prose, long_rows};
use super::purity::{impure_words, impurities, stale};
use super::sizes::{Spread, test_and_product};
use super::source::{Parsed, Source};
use super::workspace::members;

fn sources(files: &[(&str, &str)]) -> Vec<Source> {
    files.iter().map(|(path, text)| Source { path: (*path).to_owned(), text: (*text).to_owned() }).collect()
}

/// The members are the folders before `/src/`.
fn house(files: &[(&str, &str)]) -> House {
    let mut folders: Vec<&str> = files.iter().filter_map(|(path, _)| path.split_once("/src/")).map(|p| p.0).collect();
    folders.dedup();
    let member =
        |f: &&str| Member { folder: (*f).to_owned(), name: f.rsplit('/').next().unwrap_or_default().to_owned() };
    House::build(&folders.iter().map(member).collect::<Vec<_>>(), &sources(files))
}

/// The circles, each as its files without `a/src/`.
fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    circles(&house(files)).iter().map(|c| c.files.join(" ").replace("a/src/", "")).collect()
}

const LIB: &str = "mod x; mod y; mod z;";

/// Goal: a circle is found however its imports are written. Method: x and y import each other in every way there is.
#[test]
fn a_planted_circle_is_found() {
    let ways = [
        "use crate::y::Y;",
        "use super::y::Y;",
        "use super::{y::{self, Y}, z};",
        "use crate::{\n    y::{\n        // Why.\n        Y as Other,\n    },\n};",
        "fn f(y: &crate::y::Y) {}",
        "fn f() { super::y::Y::new() }",
        "use super::y; fn f() { y::make() }",
        "use super::y; fn f() { y::only_a_macro_makes_it() }",
        "mod inner { use super::super::y::Y; }",
        "fn f() { use crate::y::Y; }",
        "use super::y::*; fn f() { make() }",
        "use super::Handed; fn f(h: Handed) {}",
        "use crate::y::Y; // \"",
        "use crate::r#y::Y;",
        "struct S { #[cfg(test)] a: u8, y: crate::y::Y }",
    ];
    for way in ways {
        let lib = format!("{LIB} pub use y::Y as Handed;");
        let y = "use crate::x::X; pub struct Y; pub fn make() {}";
        let x = format!("pub struct X; {way}");
        let files = [("a/src/lib.rs", lib.as_str()), ("a/src/x.rs", &x), ("a/src/y.rs", y), ("a/src/z.rs", "")];
        assert_eq!(circles_of(&files), ["x.rs y.rs"], "{way}");
    }
}

/// Goal: what imports nothing closes no circle. Method: y imports x; x only seems to import y.
#[test]
fn what_only_looks_like_an_import_is_none() {
    let harmless = [
        "// use crate::y::Y;",
        "/* use crate::y::Y; /* nested */ use super::y::Y; */",
        "const S: &str = \"use crate::y::Y;\"; const R: &str = r#\"\" + crate::y::Y + \"\"#;",
        "#[cfg(test)] mod tests { use crate::y::Y; }",
        "#[cfg(test)] use crate::y::Y;",
        "#[cfg(test)] pub(crate) fn f<A, B>() { crate::y::make() }",
        "struct S { #[cfg(test)] y: crate::y::Y, z: u8 }",
        "fn f() { #[cfg(test)] crate::y::look(\"x\", 1); }",
        "use y::Y;",
        "fn f<'y>(y: &'y Y) -> char { 'y' }",
        "fn f(v: V) { v.y::<Y>() }",
        "use crate::z::y; fn f() { y() }",
        "pub use crate::y::Y;",
        "use super::y; use ::y::Y; fn f() { ::y::make() }",
        "pub(crate) use super::y::{Y as Other};",
    ];
    for way in harmless {
        let x = format!("pub struct X; {way}");
        let y = "use crate::x::X; pub struct Y;";
        let files =
            [("a/src/lib.rs", LIB), ("a/src/x.rs", x.as_str()), ("a/src/y.rs", y), ("a/src/z.rs", "pub fn y() {}")];
        assert_eq!(circles_of(&files), [""; 0], "{way}");
    }
}

/// Goal: parents are judged by what they use. Method: a child imports its parent, which hands names on or uses them.
#[test]
fn a_parent_that_only_hands_on_is_in_no_circle() {
    let child = "use super::Shared; pub struct Child;";
    let of =
        |parent: &str| circles_of(&[("a/src/lib.rs", "mod p;"), ("a/src/p/mod.rs", parent), ("a/src/p/c.rs", child)]);
    assert_eq!(of("mod c; pub use c::Child; pub struct Shared;"), [""; 0]);
    assert_eq!(of("mod c; pub use c::Child; pub struct Shared(Child);"), ["p/mod.rs p/c.rs"]);
    assert_eq!(of("mod c; pub struct Shared(c::Child);"), ["p/mod.rs p/c.rs"]);
    // Through the parent to a sibling: the parent is not what is imported.
    let siblings = [
        ("a/src/lib.rs", "mod p;"),
        ("a/src/p/mod.rs", "mod c; mod d; pub use self::d::Shared; fn f(c: c::Child) {}"),
        ("a/src/p/c.rs", child),
        ("a/src/p/d.rs", "pub struct Shared;"),
    ];
    assert_eq!(circles_of(&siblings), [""; 0]);
}

/// Goal: a name is what Rust takes it for. Method: a module and a function of one name; the circle is with the module.
#[test]
fn a_module_and_an_item_of_one_name_are_told_apart() {
    let of = |x: &str| {
        let y = "pub use crate::z::y; use crate::x::X; pub struct Y;";
        let lib = format!("{LIB} pub use z::y;");
        circles_of(&[
            ("a/src/lib.rs", lib.as_str()),
            ("a/src/x.rs", x),
            ("a/src/y.rs", y),
            ("a/src/z.rs", "pub fn y() {}"),
        ])
    };
    assert_eq!(of("pub struct X; use crate::y::Y;"), ["x.rs y.rs"]);
    assert_eq!(of("pub struct X; pub fn y() {} mod y {} fn f(a: super::y::Y) {}"), ["x.rs y.rs"]);
    let parent = |p: &str, c: &str| {
        circles_of(&[
            ("a/src/lib.rs", "mod p;"),
            ("a/src/p.rs", p),
            ("a/src/p/c.rs", c),
            ("a/src/p/d.rs", "pub struct D;"),
        ])
    };
    // The function is the parent's own, the path leads into the child.
    assert_eq!(parent("mod c; mod d; pub fn c() {} fn f() { c() }", "use super::c;"), [""; 0]);
    assert_eq!(parent("mod c; mod d; pub fn c() {} fn f() { c::g() }", "use super::c;"), ["p.rs p/c.rs"]);
}

/// Goal: modules of tests are no product, and what is apart is listed, not counted. Method: a circle of each kind.
#[test]
fn circles_that_do_not_count() {
    let tests = [
        ("a/src/lib.rs", "mod x;"),
        ("a/src/x.rs", "mod tests; pub struct X; fn f() { tests::g() }"),
        ("a/src/x/tests.rs", "use super::X; pub fn g() {}"),
    ];
    assert_eq!(circles_of(&tests), [""; 0]);
    let redo = house(&[
        ("pgformat/src/lib.rs", "mod redo; mod wal;"),
        ("pgformat/src/redo/mod.rs", "mod heap; mod vm; pub struct Context; fn f() { heap::redo() }"),
        ("pgformat/src/redo/heap.rs", "use super::vm::Map; use super::Context; pub fn redo() {}"),
        ("pgformat/src/redo/vm.rs", "use super::heap::redo; pub struct Map;"),
        ("pgformat/src/wal/mod.rs", "mod page; mod link; pub struct Wal; fn f() { page::g() }"),
        ("pgformat/src/wal/page.rs", "use super::Wal; pub fn g() {} use super::link::Link;"),
        ("pgformat/src/wal/link.rs", "use super::page::g; pub struct Link;"),
    ]);
    let all = circles(&redo);
    assert_eq!(all.iter().map(|c| (c.files.len(), c.is_apart())).collect::<Vec<_>>(), [(3, true), (3, false)]);
    assert_eq!(counted(&all).count(), 1);
    // The page and the link remain when the parent's call of its child is left out.
    assert_eq!(between_folders(&redo), 2);
}

/// Goal: a circle is one however long, and two are two. Method: three files in a ring, and two beside them.
#[test]
fn circles_are_told_apart_and_sorted_by_size() {
    let files = [
        ("a/src/lib.rs", "mod b; mod c; mod d; mod e; mod f;"),
        ("a/src/b.rs", "use crate::c::C; pub struct B;"),
        ("a/src/c.rs", "use crate::d::D; use crate::e::E; pub struct C;"),
        ("a/src/d.rs", "use crate::b::B; pub struct D;"),
        ("a/src/e.rs", "use crate::f::F; pub struct E;"),
        ("a/src/f.rs", "use crate::e::E; pub struct F;"),
    ];
    assert_eq!(circles_of(&files), ["b.rs c.rs d.rs", "e.rs f.rs"]);
    let [ring, _] = &circles(&house(&files))[..] else { panic!("two circles") };
    assert_eq!(ring.ties[0], "a/src/b.rs:1 -> a/src/c.rs: C");
}

/// Goal: what is not pure is found on whatever way it comes. Method: a pure folder with one import of each kind.
#[test]
fn planted_impurity_is_found() {
    let of = |text: &str| {
        let core = format!("mod friend; {text}");
        let files = [
            ("a/src/lib.rs", "mod core; mod io; mod calm; mod still; mod desk; pub use tokio::sync::mpsc::Sender;"),
            ("a/src/core/mod.rs", core.as_str()),
            ("a/src/core/friend.rs", "pub struct Friend;"),
            ("a/src/io.rs", "pub struct Door; fn f() { std::fs::read(\"x\") }"),
            ("a/src/calm.rs", "use bytes::Bytes; use crate::still::Still; pub struct Calm;"),
            ("a/src/still.rs", "use crate::calm::Calm; pub struct Still;"),
            ("a/src/desk.rs", "pub use crate::io::Door as Handed; use crate::io::Door; pub struct Desk;"),
            ("b-c/src/lib.rs", "pub struct Other; use std::thread;"),
        ];
        let found = impurities(&house(&files), &["a/src/core"]);
        assert!(found.len() < 2, "{found:?}");
        found.concat()
    };
    let outside = [
        ("use tokio::sync::mpsc;", "tokio::sync::mpsc"),
        ("use tokio::sync::*;", "tokio::sync"),
        ("pub use tokio::sync::mpsc;", "tokio::sync::mpsc"),
        ("fn f() { tracing::info!(\"x\") }", "tracing::info"),
        ("use std::{collections::HashMap, fs::{self}};", "std::fs"),
        ("fn f() { std::env::var(\"x\") }", "std::env::var"),
        ("use std::time::{Duration, Instant}; fn f(now: Instant) { Instant::now() }", "std::time::Instant::now"),
        ("use crate::Sender;", "tokio::sync::mpsc::Sender"),
        ("use std::io; fn f() { io::stdout() }", "std::io::stdout"),
    ];
    for (text, what) in outside {
        assert_eq!(of(text), format!("a/src/core/mod.rs:1: takes {what}"), "{text}");
    }
    // A package that has the name of a module.
    assert_eq!(of("mod tokio {} use ::tokio::spawn;"), "a/src/core/mod.rs:1: takes tokio::spawn");
    assert_eq!(of("mod tokio {} fn f() { ::tokio::spawn() }"), "a/src/core/mod.rs:1: takes tokio::spawn");
    let impure = "a/src/io.rs, whose line 1 takes std::fs::read";
    assert_eq!(of("use crate::io::Door;"), format!("a/src/core/mod.rs:1: takes Door from {impure}"));
    assert_eq!(of("use crate::desk::Handed;"), format!("a/src/core/mod.rs:1: takes Door from {impure}"));
    let way = format!("a/src/desk.rs, whose line 1 takes Door from {impure}");
    assert_eq!(of("use crate::desk::Desk;"), format!("a/src/core/mod.rs:1: takes Desk from {way}"));
    let other = "b-c/src/lib.rs, whose line 1 takes std::thread";
    assert_eq!(of("fn f(o: b_c::Other) {}"), format!("a/src/core/mod.rs:1: takes Other from {other}"));
    let pure = [
        "use crate::calm::Calm; use friend::Friend;",
        "use std::time::{Duration, Instant}; use std::io::Error; use bytes::Bytes; use serde::Serialize;",
        "fn f<T: Calm>() { T::new(); u32::from(1); Vec::new(); Self::f(); str::from_utf8(b) }",
        "#[cfg(test)] mod tests { use tokio::sync::mpsc; }",
        "#[allow(clippy::all)] macro_rules! m { ($x:ident) => { $x::f() } }",
    ];
    assert_eq!(pure.map(of), [""; 5]);
}

/// Goal: what needs no import is found too, and a folder that moved away is not forgotten. Method: one of each.
#[test]
fn planted_words_and_stale_entries_are_found() {
    let words = |path: &str, text: &str| {
        impure_words(&Source { path: path.to_owned(), text: text.to_owned() }, &["a/src/core"]).len()
    };
    let (here, beside) = ("a/src/core/b.rs", "a/src/core_of/b.rs");
    let planted = ["    f().await;", "async fn f() {}", "a: Mutex<u8>,", "t.elapsed()", "println!(\"x\");"];
    assert_eq!(planted.map(|t| words(here, t)), [1; 5]);
    assert_eq!(planted.map(|t| words(beside, t)), [0; 5]);
    assert_eq!(["// f().await", "#[cfg(test)]\nf().await"].map(|t| words(here, t)), [0; 2]);
    let of = house(&[("a/src/lib.rs", "mod core;"), ("a/src/core.rs", "")]);
    assert_eq!(stale(&of, &["a/src/core", "a/src/gone"]).len(), 1);
}

/// Goal: names borne twice are found, and where two of them meet. Method: two crates with a type of one name.
#[test]
fn a_planted_duplicate_is_found() {
    let of = |use_: &str| {
        let lib = format!("mod y; {use_}");
        let files = [
            ("a/src/lib.rs", "pub struct Twin; pub enum Once { Twin } fn f() { struct Local; }"),
            ("b/src/lib.rs", lib.as_str()),
            ("b/src/y.rs", "pub trait Twin { type Once; } struct Local; #[cfg(test)] mod tests { struct Local; }"),
        ];
        let found: Vec<_> = shared(&house(&files)).into_iter().map(|n| (n.name, n.places.len(), n.meetings)).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].0.as_str(), found[0].1), ("Twin", 2));
        found[0].2.clone()
    };
    assert_eq!(of("use a::Twin; fn f(t: &dyn y::Twin) {}"), ["b/src/lib.rs"]);
    assert_eq!(of("use a::Twin; use y::Twin as Other;"), [""; 0]);
    assert_eq!(of("use a::Twin; use a::Once::Twin as T;"), [""; 0]);
}

/// Goal: a doc comment that only repeats a name is found. Method: short ones and long ones.
#[test]
fn a_planted_short_doc_is_found() {
    let text = "//! Two words.\n/// The node.\nstruct A;\n/// The serving node.\nstruct B;\n\
                struct C {\n    /// Its id -\n    /// .\n    id: u8,\n}\n\
                //// Not a doc.\nconst D: &str = \"\n/// No.\n\";\n\
                #[cfg(test)]\nmod tests {\n    /// Short.\n    fn f() {}\n}\n/// Short.\n#[cfg(test)]\nfn g() {}\n\
                /// Ships.\n#[cfg(not(test))]\nfn h() {}\n";
    assert_eq!(
        short(&Parsed::of(text)),
        [(2, "The node.".to_owned()), (7, "Its id -  .".to_owned()), (23, "Ships.".to_owned())]
    );
}

/// Goal: only examples that run count. Method: one fence of each kind.
#[test]
fn only_examples_that_run_count() {
    let fence = |info: &str| format!("//! ```{info}\n//! f();\n//! ```\n");
    let count = |info: &str| examples(&Parsed::of(&fence(info))).len();
    assert_eq!(["", "rust", "should_panic", "rust,edition2024"].map(count), [1; 4]);
    assert_eq!(["text", "ignore", "no_run", "rust,no_run", "sql", "compile_fail"].map(count), [0; 6]);
    assert_eq!(examples(&Parsed::of(&(fence("text") + &fence("") + "fn f() {}"))), [4]);
}

/// Goal: width is measured where a line can break. Method: long lines of each kind.
#[test]
fn planted_wide_lines_are_found() {
    let long = "word ".repeat(21);
    assert_eq!([&long, &format!("- {long}")].map(|t| long_prose(t)), [vec![1], vec![1]]);
    let allowed = [format!("| {long} |"), format!("    {long}"), format!("```\n{long}\n```"), format!("`{long}`")];
    assert_eq!(allowed.map(|t| long_prose(&t)), [const { Vec::new() }; 4]);
    let row = format!("| {} |", "word ".repeat(60));
    assert_eq!(long_rows(&format!("| short |\n{row}\n```\n{row}\n```\n")), [2]);
}

/// Goal: a path or a link that leads nowhere is found, and only that. Method: one page per planted way, beside good
/// ones that look like it.
#[test]
fn planted_dead_paths_and_links_are_found() {
    let files = ["a/src/core/mod.rs", "docs/a.md", "docs/adr/1.md", "scripts/run.sh"].map(str::to_owned);
    let of = |text: &str| {
        let target = "# The `a` [b](https://c) of: it_s\n\n<a id=\"own\"></a>\n\n## Twice\n\n## Twice\n";
        broken(&sources(&[("docs/a.md", target), ("docs/adr/1.md", text)]), &files)
    };
    let bad = [
        "`a/src/core`, `a/src/cores/`",
        "`a/src/core/gone.rs`",
        "`core/gone.rs`",
        "`ore/mod.rs`",
        "`a/testdata/x.bin`",
        "`gone.sh`",
        "`workloads/gone.sql`",
        "```\na/src/gone.rs: what\n```",
        "[x](../b.md)",
        "[x](a.md)",
        "[`x`](2.md), [y](1.md)",
        "[x]: ../b.md",
        "[x](../a.md#gone)",
        "[x](#gone)\n```\n# Gone\n```",
        "[x](../a.md#twice-2)",
    ];
    for text in bad {
        assert_eq!(broken_lines(&of(text)).len(), 1, "{text}: {:?}", of(text));
    }
    let good = [
        "`a/src/core`, `a/src/core/`, `a/src/core/mod.rs`, `core/mod.rs`, `mod.rs`, `run.sh`",
        "`/livez`, `D/fabric.json`, `fabric.json`, `/etc/a.toml`",
        "`T/L/control`, `x.c`, `b/src/`, `{a,b}/src/gone.rs`, `a/src/*.rs`, a/src/gone.rs",
        "```\na/src/core/mod.rs, gone.rs, [x](gone.md)\n```",
        "[x](../a.md), [x](../), [x](../../scripts/run.sh), [x](https://a/b#c), `[x](gone.md)`",
        "[x](../a.md#the-a-b-of-it_s), [x](../a.md#own), [x](../a.md#twice-1), [x](#here)\n## Here!",
    ];
    for text in good {
        assert_eq!(of(text), Vec::<String>::new(), "{text}");
    }
}

/// The findings about the page `docs/adr/1.md`.
fn broken_lines(findings: &[String]) -> Vec<&String> {
    findings.iter().filter(|f| f.starts_with("docs/adr/1.md:")).collect()
}

/// Goal: lengths are those of the product. Method: a file with a function of five lines, a test and a look-alike.
#[test]
fn lengths_leave_tests_out() {
    let text = "//! Docs.\npub(in crate::x) const unsafe fn f(\n    a: fn(u8) -> [u8; 2],\n) -> u8 {\n    \"}{\"\n}\n\
                #[cfg(test)]\nmod tests {\n    fn long() {\n\n\n\n\n    }\n}\ntrait T {\n    fn none(&self);\n}\n";
    let parsed = Parsed::of(text);
    let functions: Vec<_> = parsed.functions.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
    assert_eq!(functions, [("f", 2, 5)]);
    assert_eq!((parsed.lines, parsed.test_lines, parsed.product_lines()), (18, 9, 9));
    assert_eq!(Spread::of((1..=11).collect()), Spread { max: 11, p90: 10, median: 6 });
    let files = [("a/src/lib.rs", text), ("a/src/tests.rs", "//! Docs.\n"), ("tests/src/lib.rs", "//! Docs.\n")];
    assert_eq!(test_and_product(&house(&files[..2]), &sources(&files)), (11, 9));
}

/// Goal: crates are the workspace's own. Method: a manifest with a list, a pattern, and the tests' crates.
#[test]
fn members_come_from_the_manifests() {
    let root = "[workspace]\nmembers = [\n    \"a\",\n    \"libs/*\",\n    \"tests\",\n    \"tests/x\",\n]\n";
    let manifests = sources(&[
        ("Cargo.toml", root),
        ("a/Cargo.toml", "[package]\nname = \"a-b\"\nversion = \"1\"\n"),
        ("libs/c/Cargo.toml", "[package]\nname = \"c\"\n"),
        ("tests/Cargo.toml", "[package]\nname = \"tests\"\n"),
    ]);
    let found: Vec<_> = members(&manifests).iter().map(|m| (m.folder.clone(), m.library())).collect();
    assert_eq!(found, [("a".to_owned(), "a_b".to_owned()), ("libs/c".to_owned(), "c".to_owned())]);
}

/// Goal: the ratchet turns one way. Method: figures at, beyond and far within their limits.
#[test]
fn a_figure_beyond_its_limit_is_a_finding() {
    let says = |value: f64, goal: Goal| {
        let finding = Figure { what: "x", value, today: value.to_string(), goal }.finding().unwrap_or_default();
        ["allows", "asks for", "lower", "raise"].into_iter().find(|w| finding.contains(w)).unwrap_or("")
    };
    let down = |goal: f64, limit: f64| Goal::Down { goal, limit, constant: "MAX" };
    let up = |goal: f64, limit: f64| Goal::Up { goal, limit, constant: "MIN" };
    assert_eq!([10.0, 11.0, 5.0, 4.0].map(|v| says(v, down(0.0, 10.0))), ["", "allows", "", "lower"]);
    assert_eq!([8.0, 7.0].map(|v| says(v, down(8.0, 10.0))), ["lower"; 2]);
    assert_eq!([0.0, 1.0].map(|v| says(v, down(0.0, 0.0))), ["", "allows"]);
    assert_eq!([0.5, 0.4, 0.9, 1.0].map(|v| says(v, up(1.0, 0.5))), ["", "asks for", "", "raise"]);
    assert_eq!(says(9.0, Goal::None), "");
}
