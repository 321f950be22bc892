//! The HTTP reference says what the servers do: routes, methods and fields of `docs/openapi/*.json` are those of the
//! code, both ways. Read by text, since a router cannot list its routes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The documents, and the folder of each server's code.
const SERVERS: [(&str, &str); 3] =
    [("safekeeper", "safekeeper/src"), ("pageserver", "pageserver/src"), ("shim", "walproposer-shim/src")];

/// Folders whose types several servers send.
const SHARED: [&str; 2] = ["proto/src", "libs"];

/// Bodies and words that every server of the repository knows: each one must be in a document.
const BODIES: [&str; 2] = ["proto/src/api.rs", "proto/src/api/state.rs"];

/// Methods, as axum's functions and OpenAPI's keys call them.
const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

type Routes = BTreeSet<(String, String)>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace")
}

/// Text of every product file below `folder`, without its test module; nothing when there is no such folder.
fn texts(folder: &str) -> Vec<String> {
    let mut folders = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|e| e.expect("a directory entry").path()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            if path.is_dir() && name != "tests" {
                folders.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                found.push(product(&path));
            }
        }
    }
    found
}

fn product(path: &PathBuf) -> String {
    let text = std::fs::read_to_string(path).expect("sources are UTF-8");
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// Routes that a file adds to a router: `.route("PATH", get(..).delete(..))`, and the routers that servers share.
fn routes_in(text: &str) -> Routes {
    let mut routes = Routes::new();
    for (_, call) in calls(text, ".route(") {
        let (path, handlers) = literal(call);
        let methods = METHODS.iter().filter(|m| mentions(handlers, m));
        routes.extend(methods.map(|m| (path.to_owned(), (*m).to_owned())));
    }
    let probes = calls(text, "probe_router(").into_iter().map(|(_, call)| literal(call).0.to_owned());
    routes.extend(probes.map(|path| (path, "get".to_owned())));
    if !calls(text, "health_router(").is_empty() {
        routes.extend(["/livez", "/readyz", "/metrics"].map(|path| (path.to_owned(), "get".to_owned())));
    }
    routes
}

/// Arguments of each call of `name`, up to the parenthesis that closes it.
fn calls<'a>(text: &'a str, name: &str) -> Vec<(usize, &'a str)> {
    let arguments = |at: usize| {
        let rest = &text[at + name.len()..];
        let mut depth = 1;
        let end = rest.char_indices().find(|(_, c)| {
            depth += i32::from(*c == '(') - i32::from(*c == ')');
            depth == 0
        });
        (at, &rest[..end.map_or(rest.len(), |(end, _)| end)])
    };
    let is_call = |at: &usize| !text[..*at].ends_with("fn ");
    text.match_indices(name).map(|(at, _)| at).filter(is_call).map(arguments).collect()
}

/// The string at the beginning of a call's arguments, and what follows it.
fn literal(call: &str) -> (&str, &str) {
    let mut parts = call.splitn(3, '"');
    let _before = parts.next();
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// Whether `text` calls the function `name`, which is no end of another name.
fn mentions(text: &str, name: &str) -> bool {
    let call = format!("{name}(");
    let begins = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    text.match_indices(&call).any(|(at, _)| begins(at))
}

fn document(name: &str) -> Value {
    let path = root().join("docs/openapi").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn documented(document: &Value) -> Routes {
    let paths = document["paths"].as_object().expect("paths");
    let of = |(path, item): (&String, &Value)| {
        let there: Vec<_> = METHODS.iter().filter(|m| item.get(**m).is_some()).collect();
        there.into_iter().map(|m| (path.clone(), (*m).to_owned())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

/// Names and fields of the structs in a text that can be JSON; whether a field may be null.
fn structs(text: &str) -> BTreeMap<String, BTreeMap<String, bool>> {
    let mut found = BTreeMap::new();
    let mut lines = text.lines();
    let mut is_json = false;
    while let Some(line) = lines.next() {
        let head = line.strip_suffix(" {").and_then(|l| l.split_once("struct ")).filter(|_| !line.starts_with(' '));
        let Some((_, name)) = head else {
            is_json = line.starts_with("#[") && (is_json || line.contains("erialize"));
            continue;
        };
        if !std::mem::take(&mut is_json) {
            continue;
        }
        let body = lines.by_ref().take_while(|l| *l != "}").filter(|l| !l.trim_start().starts_with(['/', '#']));
        let field = |l: &str| {
            let (name, of) = l.trim().split_once(": ")?;
            let name = name.rsplit(' ').next()?;
            Some((name.to_owned(), of.starts_with("Option<")))
        };
        found.insert(name.to_owned(), body.filter_map(field).collect());
    }
    found
}

/// Words that each enum without fields is in JSON, but the one that stands for all others.
fn enums(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for (at, _) in text.match_indices("\npub enum ") {
        let Some((name, rest)) = text[at + "\npub enum ".len()..].split_once(" {\n") else { continue };
        let head: Vec<&str> = text[..at].lines().rev().take_while(|l| l.starts_with(['#', '/'])).collect();
        let snake = head.iter().any(|l| l.contains("rename_all = \"snake_case\""));
        if !snake && !head.iter().any(|l| l.contains("rename_all = \"lowercase\"")) {
            continue;
        }
        let mut words = BTreeSet::new();
        let mut other = false;
        for line in rest.lines().take_while(|l| *l != "}").map(str::trim) {
            let variant = line.strip_suffix(',').filter(|v| v.chars().all(char::is_alphanumeric));
            words.extend(variant.filter(|_| !other).map(|v| word(v, snake)));
            other = line.contains("serde(other)");
        }
        found.insert(name.to_owned(), words);
    }
    found.extend(text.split("\nwords! {\n").skip(1).filter_map(spelt_words));
    found
}

/// The name and the words of an enum that spells each one: `Name { Variant = "word", }`.
fn spelt_words(text: &str) -> Option<(String, BTreeSet<String>)> {
    let lines = || text.lines().take_while(|l| *l != "}").map(str::trim);
    let name = lines().find_map(|l| l.strip_suffix(" {"))?;
    let words = lines().filter_map(|l| l.strip_suffix("\",")?.split_once(" = \"")).map(|(_, word)| word.to_owned());
    Some((name.to_owned(), words.collect()))
}

/// A variant's name as serde writes it.
fn word(variant: &str, snake: bool) -> String {
    let letter = |(i, c): (usize, char)| {
        let gap = (snake && i > 0 && c.is_uppercase()).then_some('_');
        gap.into_iter().chain(c.to_lowercase())
    };
    variant.chars().enumerate().flat_map(letter).collect()
}

/// Schemas of words that are not those of the enum of their name.
fn other_words(document: &Value, types: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    let listed = schemas.iter().filter_map(|(name, schema)| Some((name, schema["enum"].as_array()?)));
    let differs = |name: &str, list: &[Value]| {
        let words: BTreeSet<String> = list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        types.get(name) != Some(&words)
    };
    listed.filter(|(name, list)| differs(name, list)).map(|(name, _)| format!("{name}: other words")).collect()
}

/// What of the schemas differs from the structs of the same name. The structs of a server's own may have other names:
/// there it is enough that one has these fields.
fn differences(document: &Value, types: &BTreeMap<String, BTreeMap<String, bool>>) -> Vec<String> {
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    let mut found = Vec::new();
    for (name, schema) in schemas.iter().filter(|(_, s)| s["type"] == "object") {
        if let Some(fields) = types.get(name) {
            found.extend(difference(name, schema, fields));
        } else if !types.values().any(|fields| difference(name, schema, fields).is_empty()) {
            found.push(format!("{name}: no struct has this name, and none these fields"));
        }
    }
    found
}

fn difference(name: &str, schema: &Value, fields: &BTreeMap<String, bool>) -> Vec<String> {
    let empty = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    let missing = fields.keys().filter(|f| !properties.contains_key(*f)).map(|f| format!("{name}.{f}: missing"));
    let wrong = properties.iter().filter_map(|(field, property)| match fields.get(field) {
        None => Some(format!("{name}.{field}: no such field")),
        Some(optional) if *optional != is_optional(schema, field, property) => {
            Some(format!("{name}.{field}: null or not?"))
        }
        Some(_) => None,
    });
    missing.chain(wrong).collect()
}

/// Whether a property may be null or left out.
fn is_optional(schema: &Value, field: &str, property: &Value) -> bool {
    let is_null = |v: &Value| v == "null" || v["type"] == "null";
    let null = [&property["type"], &property["anyOf"]]
        .iter()
        .any(|kinds| kinds.as_array().is_some_and(|kinds| kinds.iter().any(is_null)));
    let required = schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == field));
    null || !required
}

/// Goal: nobody has to read the code to know a route. Method: the routes of each server's code against its document.
#[test]
fn every_route_is_documented_and_every_documented_route_is_there() {
    for (name, folder) in SERVERS {
        let code: Routes = texts(folder).iter().flat_map(|text| routes_in(text)).collect();
        let document = documented(&document(name));
        assert!(code.len() >= 6, "{name}: only {code:?}");
        let undocumented: Vec<_> = code.difference(&document).collect();
        let invented: Vec<_> = document.difference(&code).collect();
        assert!(undocumented.is_empty() && invented.is_empty(), "{name}: {undocumented:?} {invented:?}");
    }
}

/// Goal: bodies are documented field by field. Method: each schema against the struct of its name, of the server or
/// shared, and each shared struct against the documents.
#[test]
fn schemas_have_the_fields_of_their_structs() {
    let mut shown = BTreeSet::new();
    for (name, folder) in SERVERS {
        let (mut types, mut words) = (BTreeMap::new(), BTreeMap::new());
        for text in SHARED.iter().flat_map(|folder| texts(folder)).chain(texts(folder)) {
            types.extend(structs(&text));
            words.extend(enums(&text));
        }
        let document = document(name);
        assert_eq!(differences(&document, &types), Vec::<String>::new(), "{name}");
        assert_eq!(other_words(&document, &words), Vec::<String>::new(), "{name}");
        shown.extend(document["components"]["schemas"].as_object().expect("schemas").keys().cloned());
    }
    let texts = BODIES.map(|file| product(&root().join(file)));
    let names = texts.iter().flat_map(|text| structs(text).into_keys().chain(enums(text).into_keys()));
    let bodies: BTreeSet<_> = names.collect();
    let hidden: Vec<_> = bodies.iter().filter(|name| !shown.contains(*name)).collect();
    assert!(bodies.len() > 20 && hidden.is_empty(), "in no document: {hidden:?}");
}

/// Goal: references lead somewhere, and every operation says what it answers.
#[test]
fn documents_are_whole() {
    for (name, _) in SERVERS {
        let document = document(name);
        let mut references = Vec::new();
        collect_references(&document, &mut references);
        for reference in &references {
            let place = reference.strip_prefix('#').expect("references stay in the document");
            assert!(document.pointer(place).is_some(), "{name}: {reference} leads nowhere");
        }
        for (path, method) in documented(&document) {
            let operation = &document["paths"][&path][&method];
            assert!(operation["summary"].is_string(), "{name}: {method} {path} says nothing");
            assert!(operation["responses"].as_object().is_some_and(|r| !r.is_empty()), "{name}: {method} {path}");
        }
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|v| collect_references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| collect_references(v, found)),
        _ => {}
    }
}

/// Goal: the comparison is not blind. Method: a route, a method and a field planted on either side.
#[test]
fn planted_differences_are_found() {
    let code = [
        "fn router() -> Router {",
        "    Router::new()",
        "        .route(\"/a/{id}\", get(one).delete(gone))",
        "        .route(",
        "            \"/b\",",
        "            post(forget),",
        "        )",
        "        .merge(probe_router(\"/up\", f))",
        "        .merge(health_router(g))",
        "}",
        "pub fn health_router(x: X) {}",
    ];
    let route = |path: &str, method: &str| (path.to_owned(), method.to_owned());
    let want = [("/a/{id}", "delete"), ("/a/{id}", "get"), ("/b", "post"), ("/livez", "get"), ("/metrics", "get")];
    let want: Routes = want.into_iter().chain([("/readyz", "get"), ("/up", "get")]).map(|(p, m)| route(p, m)).collect();
    assert_eq!(routes_in(&code.join("\n")), want, "`forget(` is no get, a definition is no call");
    assert_eq!(routes_in("pub fn health_router(x: X) {}"), Routes::new());

    let mut planted = document("shim");
    let before = documented(&planted);
    planted["paths"]["/invented"] = serde_json::json!({"get": {}});
    assert_eq!(documented(&planted).difference(&before).cloned().collect::<Vec<_>>(), [route("/invented", "get")]);

    let types = structs(
        "#[derive(Serialize)]\n#[serde(x)]\npub struct A {\n    /// One.\n    pub one: u64,\n    \
         pub(crate) two: Option<Lsn>,\n}\nstruct B {\n    three: u64,\n}\n",
    );
    assert!(types.len() == 1, "B is no JSON: {types:?}");
    let with = |properties: Value| {
        serde_json::json!({"components": {"schemas": {"A": {"type": "object",
        "properties": properties, "required": ["one", "two"]}}}})
    };
    let (number, either) = (serde_json::json!({"type": "integer"}), serde_json::json!({"type": ["string", "null"]}));
    let right = serde_json::json!({"one": number, "two": either});
    assert_eq!(differences(&with(right.clone()), &types), Vec::<String>::new());
    let cases = [
        (serde_json::json!({"one": number}), "A.two: missing"),
        (serde_json::json!({"one": number, "two": either, "three": number}), "A.three: no such field"),
        (serde_json::json!({"one": number, "two": number}), "A.two: null or not?"),
        (serde_json::json!({"one": either, "two": either}), "A.one: null or not?"),
    ];
    for (properties, finding) in cases {
        assert_eq!(differences(&with(properties), &types), [finding]);
    }
    let renamed = BTreeMap::from([("AStatus".to_owned(), types["A"].clone())]);
    assert_eq!(differences(&with(right), &renamed), Vec::<String>::new());
    let none = ["A: no struct has this name, and none these fields"];
    assert_eq!(differences(&with(serde_json::json!({"one": number})), &renamed), none);

    let text = "\n/// Docs.\n#[serde(rename_all = \"snake_case\")]\npub enum E {\n    /// One.\n    InTime,\n    \
                #[serde(other)]\n    Unknown,\n}\n";
    let words = |list: Value| serde_json::json!({"components": {"schemas": {"E": {"enum": list}}}});
    assert_eq!(other_words(&words(serde_json::json!(["in_time"])), &enums(text)), Vec::<String>::new());
    for list in [serde_json::json!([]), serde_json::json!(["in_time", "unknown"])] {
        assert_eq!(other_words(&words(list), &enums(text)), ["E: other words"]);
    }
    let spelt = "\nwords! {\n    /// Docs.\n    E {\n        /// One.\n        InTime = \"in_time\",\n    }\n}\n";
    assert_eq!(enums(spelt), enums(text));
}
