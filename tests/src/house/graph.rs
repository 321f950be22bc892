//! The names that each file takes from other files, resolved as by rustc: through modules, imports and re-exports.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::source::{Definition, Import, Parsed, Source};

/// How many imports a name may pass through before it is given up.
const HOPS_MAX: usize = 16;

/// A package of the workspace whose code ships.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Its folder below the root.
    pub(crate) folder: String,
    /// Its name in its manifest.
    pub(crate) name: String,
}

impl Member {
    /// How other crates call its library.
    pub(crate) fn library(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// A product file.
#[derive(Debug)]
pub(crate) struct File {
    /// Path below the root.
    pub(crate) path: String,
    /// What it says.
    pub(crate) parsed: Parsed,
    /// Its package, by its place among the members.
    pub(crate) member: usize,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A module of ours, by its place.
    Module(usize),
    /// An item of ours: its module and its name there.
    Item(usize, String),
    /// Something of another package, by its whole path.
    Foreign(Vec<String>),
    /// A name that is not looked up: a local one, a generic parameter, the prelude's.
    Unknown,
}

#[derive(Debug)]
struct Module {
    file: usize,
    parent: Option<usize>,
    root: usize,
    children: HashMap<String, usize>,
    /// Definitions by their place in the file.
    definitions: HashMap<String, usize>,
    /// Imports by their place in the file.
    imports: HashMap<String, usize>,
    globs: Vec<usize>,
}

/// A name that one file takes from elsewhere.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The file that takes it.
    pub(crate) file: usize,
    /// The line, from 1.
    pub(crate) line: usize,
    /// The names that it has there: the last of an import, all parts of a path.
    pub(crate) names: Vec<String>,
    /// Where it leads.
    pub(crate) found: Found,
    /// Whether the file only hands it on: a `pub use`.
    pub(crate) is_handed_on: bool,
}

/// What one file takes from another.
#[derive(Debug)]
pub(crate) struct Tie {
    /// The first line that takes something, from 1.
    pub(crate) line: usize,
    /// The names that are taken.
    pub(crate) names: BTreeSet<String>,
}

/// The product code of the workspace.
#[derive(Debug, Default)]
pub(crate) struct House {
    /// The packages.
    pub(crate) members: Vec<Member>,
    /// Their product files.
    pub(crate) files: Vec<File>,
    modules: Vec<Module>,
    /// The root module of each library by the crate's name.
    libraries: HashMap<String, usize>,
}

impl House {
    /// Reads the product code of `members` out of the repository's files.
    pub(crate) fn build(members: &[Member], sources: &[Source]) -> House {
        let texts: HashMap<&str, &str> = sources.iter().map(|s| (s.path.as_str(), s.text.as_str())).collect();
        let mut house = House { members: members.to_vec(), ..House::default() };
        for (at, member) in members.iter().enumerate() {
            for root in roots(member, &texts) {
                let module = house.add(&root, None, at, &texts);
                if root.ends_with("/lib.rs") {
                    house.libraries.insert(member.library(), module);
                }
            }
        }
        house
    }

    /// The file and its descendants; gives the file's own module.
    fn add(&mut self, path: &str, parent: Option<usize>, member: usize, texts: &HashMap<&str, &str>) -> usize {
        let parsed = Parsed::of(texts.get(path).copied().unwrap_or_default());
        let children: Vec<(Vec<String>, String)> =
            parsed.children.iter().map(|c| (c.within.clone(), c.name.clone())).collect();
        let inline = parsed.inline.clone();
        self.files.push(File { path: path.to_owned(), parsed, member });
        let file = self.files.len() - 1;
        let own = self.add_module(file, parent);
        for within in inline {
            let (name, above) = within.split_last().expect("an inline module has a name");
            let above = self.inline_module(own, above);
            let module = self.add_module(file, Some(above));
            self.modules[above].children.insert(name.clone(), module);
        }
        self.fill(own, file);
        for (within, name) in children {
            let Some(path) = child_path(path, &within, &name, texts) else { continue };
            let above = self.inline_module(own, &within);
            let child = self.add(&path, Some(above), member, texts);
            self.modules[above].children.insert(name, child);
        }
        own
    }

    fn add_module(&mut self, file: usize, parent: Option<usize>) -> usize {
        let at = self.modules.len();
        let root = parent.map_or(at, |p| self.modules[p].root);
        self.modules.push(Module {
            file,
            parent,
            root,
            children: HashMap::new(),
            definitions: HashMap::new(),
            imports: HashMap::new(),
            globs: Vec::new(),
        });
        at
    }

    /// Lays the file's definitions and imports into its modules.
    fn fill(&mut self, own: usize, file: usize) {
        let parsed = &self.files[file].parsed;
        let definitions: Vec<(usize, String)> = parsed.definitions.iter().map(|d| self.place(own, d)).collect();
        let imports: Vec<(usize, String)> =
            parsed.imports.iter().map(|i| (self.inline_module(own, &i.within), i.name.clone())).collect();
        for (at, (module, name)) in definitions.into_iter().enumerate() {
            // A type wins over a function of the same name: it is the one that paths lead to.
            let is_type = self.files[file].parsed.definitions[at].is_type;
            let known = self.modules[module].definitions.entry(name).or_insert(at);
            if is_type {
                *known = at;
            }
        }
        for (at, (module, name)) in imports.into_iter().enumerate() {
            match name.as_str() {
                "*" => self.modules[module].globs.push(at),
                "_" => {}
                _ => {
                    self.modules[module].imports.insert(name, at);
                }
            }
        }
    }

    fn place(&self, own: usize, definition: &Definition) -> (usize, String) {
        (self.inline_module(own, &definition.within), definition.name.clone())
    }

    /// The module at `within` inside a file, or the innermost one that is known.
    fn inline_module(&self, own: usize, within: &[String]) -> usize {
        within.iter().fold(own, |at, name| self.modules[at].children.get(name).copied().unwrap_or(at))
    }

    /// The file's module, which is the first one made for it.
    fn own_module(&self, file: usize) -> usize {
        self.modules.iter().position(|m| m.file == file).expect("every file has a module")
    }

    /// The file that a module or the item of a module stands in.
    pub(crate) fn file_of(&self, module: usize) -> usize {
        self.modules[module].file
    }

    /// Where `path`, written in `module`, leads.
    fn resolve(&self, module: usize, path: &[String], hops: usize) -> Found {
        let [first, rest @ ..] = path else { return Found::Unknown };
        let start = match first.as_str() {
            "crate" => Found::Module(self.modules[module].root),
            "self" => Found::Module(module),
            "super" => self.modules[module].parent.map_or(Found::Unknown, Found::Module),
            "Self" => Found::Unknown,
            "::" => return self.outside(rest, hops),
            name => match self.lookup(module, name, rest.is_empty(), hops) {
                Some(found) => found,
                None if rest.is_empty() => Found::Unknown,
                None => return self.outside(path, hops),
            },
        };
        self.walk(start, rest, hops)
    }

    /// Where a path leads that starts with a package's name.
    fn outside(&self, path: &[String], hops: usize) -> Found {
        match path {
            [] => Found::Unknown,
            [first, rest @ ..] => match self.libraries.get(first) {
                Some(root) => self.walk(Found::Module(*root), rest, hops),
                None => Found::Foreign(path.to_vec()),
            },
        }
    }

    fn walk(&self, start: Found, rest: &[String], hops: usize) -> Found {
        let mut found = start;
        for (i, part) in rest.iter().enumerate() {
            found = match found {
                Found::Module(m) if part == "super" => self.modules[m].parent.map_or(Found::Unknown, Found::Module),
                Found::Module(m) if part == "self" => Found::Module(m),
                Found::Module(m) => {
                    // What a macro makes has no definition to be seen: it is the module's.
                    let known = self.lookup(m, part, i + 1 == rest.len(), hops);
                    known.unwrap_or_else(|| Found::Item(m, part.clone()))
                }
                Found::Foreign(mut parts) => {
                    parts.push(part.clone());
                    Found::Foreign(parts)
                }
                Found::Item(..) | Found::Unknown => return found,
            };
        }
        found
    }

    /// What `name` is in a module. Before a `::` a module comes first, at the end of a path an item.
    fn lookup(&self, module: usize, name: &str, is_last: bool, hops: usize) -> Option<Found> {
        if hops > HOPS_MAX {
            return None;
        }
        let here = &self.modules[module];
        let child = here.children.get(name).map(|m| Found::Module(*m));
        let item = here.definitions.get(name).map(|_| Found::Item(module, name.to_owned()));
        let own = if is_last { item.or(child) } else { child.or(item) };
        if own.is_some() {
            return own;
        }
        let imports = &self.files[here.file].parsed.imports;
        if let Some(at) = here.imports.get(name) {
            return Some(self.resolve_import(module, &imports[*at], hops + 1));
        }
        here.globs.iter().find_map(|at| match self.resolve_import(module, &imports[*at], hops + 1) {
            Found::Module(m) if m != module => self.lookup(m, name, is_last, hops + 1),
            _ => None,
        })
    }

    fn resolve_import(&self, module: usize, import: &Import, hops: usize) -> Found {
        // `use bytes;` must not find itself.
        match &import.path[..] {
            [only] if *only == import.name => {
                self.libraries.get(only).map_or_else(|| Found::Foreign(vec![only.clone()]), |root| Found::Module(*root))
            }
            path => self.resolve(module, path, hops),
        }
    }

    /// Every name that the product code takes, by import and by path.
    pub(crate) fn taken(&self) -> Vec<Taken> {
        let mut all = Vec::new();
        for (file, of) in self.files.iter().enumerate() {
            let own = self.own_module(file);
            for import in &of.parsed.imports {
                let found = self.resolve_import(self.inline_module(own, &import.within), import, 0);
                let (line, names, is_handed_on) = (import.line, vec![import.name.clone()], import.is_public);
                all.push(Taken { file, line, names, found, is_handed_on });
            }
            for mention in &of.parsed.mentions {
                let found = self.resolve(self.inline_module(own, &mention.within), &mention.path, 0);
                if found != Found::Unknown {
                    let (line, names) = (mention.line, mention.path.clone());
                    all.push(Taken { file, line, names, found, is_handed_on: false });
                }
            }
        }
        all
    }

    /// The ties between files of the whole workspace, from the one that takes to the one that has. What a file only
    /// hands on ties it to nothing.
    pub(crate) fn ties(&self) -> BTreeMap<(usize, usize), Tie> {
        let mut ties: BTreeMap<(usize, usize), Tie> = BTreeMap::new();
        for taken in self.taken().into_iter().filter(|t| !t.is_handed_on) {
            let Found::Item(module, name) = taken.found else { continue };
            let to = self.file_of(module);
            if to != taken.file {
                let tie = ties.entry((taken.file, to)).or_insert(Tie { line: taken.line, names: BTreeSet::new() });
                tie.line = tie.line.min(taken.line);
                tie.names.insert(name);
            }
        }
        ties
    }
}

/// The crate roots of a package: its library, its program, and the further programs in `src/bin`.
fn roots(member: &Member, texts: &HashMap<&str, &str>) -> Vec<String> {
    let folder = &member.folder;
    let mut found: Vec<String> = [format!("{folder}/src/lib.rs"), format!("{folder}/src/main.rs")].into();
    found.retain(|p| texts.contains_key(p.as_str()));
    let bin = format!("{folder}/src/bin/");
    let mut bins: Vec<String> = texts
        .keys()
        .filter(|p| p.strip_prefix(&bin).is_some_and(|name| !name.contains('/') || name.ends_with("/main.rs")))
        .map(|p| (*p).to_owned())
        .collect();
    bins.sort();
    found.extend(bins);
    found
}

/// The file of `mod name;` in the file at `path`, inside the inline modules `within`.
fn child_path(path: &str, within: &[String], name: &str, texts: &HashMap<&str, &str>) -> Option<String> {
    let (folder, file) = path.rsplit_once('/')?;
    let mut folder = match file {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        _ if folder.ends_with("/bin") => folder.to_owned(),
        _ => format!("{folder}/{}", file.trim_end_matches(".rs")),
    };
    for part in within {
        folder = format!("{folder}/{part}");
    }
    let candidates = [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")];
    candidates.into_iter().find(|c| texts.contains_key(c.as_str()) && name != "tests")
}
