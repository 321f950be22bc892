//! What one Rust file says: modules, imports, definitions, the names that its code takes, its docs and its functions.
//!
//! Everything here is product code: what stands under `#[cfg(test)]` is set aside first and only counted in lines.

use super::lex::{Kind, Token, tokens};

/// Words that open an item; what follows them and a name is a definition.
const DEFINING: [&str; 9] = ["struct", "enum", "union", "trait", "type", "fn", "const", "static", "mod"];
/// Further words that an item may start with, so that a comma does not end it.
const OPENING: [&str; 8] = ["impl", "use", "unsafe", "async", "extern", "macro_rules", "let", "pub"];
/// Words that no path starts with.
const NO_PATH: [&str; 34] = [
    "as", "async", "await", "break", "const", "continue", "dyn", "else", "enum", "extern", "false", "fn", "for", "if",
    "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "static", "struct", "trait",
    "true", "type", "unsafe", "use", "where", "while",
];

/// A file of the repository: its path below the root, with `/`, and its text.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Path below the root, with `/` between folders.
    pub(crate) path: String,
    /// The whole text of the file.
    pub(crate) text: String,
}

/// `mod name;`: a module in a file of its own.
#[derive(Debug)]
pub(crate) struct Child {
    /// The inline modules around the declaration, from the file's own module.
    pub(crate) within: Vec<String>,
    /// The module's name.
    pub(crate) name: String,
}

/// One name that a `use` brings in; a group is as many as it has names.
#[derive(Debug)]
pub(crate) struct Import {
    /// The inline modules around the `use`.
    pub(crate) within: Vec<String>,
    /// The path as written, without `as` and without a last `self`.
    pub(crate) path: Vec<String>,
    /// The name that it has in this file; `*` for all of a module.
    pub(crate) name: String,
    /// Whether others may take it from here.
    pub(crate) is_public: bool,
    /// The line, from 1.
    pub(crate) line: usize,
}

/// An item at the level of a module.
#[derive(Debug)]
pub(crate) struct Definition {
    /// The inline modules around it.
    pub(crate) within: Vec<String>,
    /// Its name.
    pub(crate) name: String,
    /// Whether it is a struct, an enum, a union, a trait or a type alias.
    pub(crate) is_type: bool,
    /// The line, from 1.
    pub(crate) line: usize,
}

/// A name or a path in the code, imports apart.
#[derive(Debug)]
pub(crate) struct Mention {
    /// The inline modules around it.
    pub(crate) within: Vec<String>,
    /// The path's parts, as far as they are plain names.
    pub(crate) path: Vec<String>,
    /// The line, from 1.
    pub(crate) line: usize,
}

/// Docs on end: lines of `///` or of `//!` that follow each other.
#[derive(Debug)]
pub(crate) struct Doc {
    /// The line of the first, from 1.
    pub(crate) line: usize,
    /// Whether it is `//!`.
    pub(crate) is_inner: bool,
    /// The lines without their slashes.
    pub(crate) lines: Vec<String>,
}

/// A function with a body.
#[derive(Debug)]
pub(crate) struct Function {
    /// The function's name.
    pub(crate) name: String,
    /// The line of its `fn`, from 1.
    pub(crate) line: usize,
    /// Lines from `fn` to the closing brace, both counted.
    pub(crate) lines: usize,
}

/// What the product part of a file says.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// Lines of the whole file.
    pub(crate) lines: usize,
    /// Lines of them under `#[cfg(test)]`.
    pub(crate) test_lines: usize,
    /// Modules in files of their own.
    pub(crate) children: Vec<Child>,
    /// Modules written in this file, each with those around it.
    pub(crate) inline: Vec<Vec<String>>,
    /// Names that are imported.
    pub(crate) imports: Vec<Import>,
    /// Items of the file's modules.
    pub(crate) definitions: Vec<Definition>,
    /// Names in the code.
    pub(crate) mentions: Vec<Mention>,
    /// Docs in the order of the file.
    pub(crate) docs: Vec<Doc>,
    /// Functions with a body, methods and nested ones too.
    pub(crate) functions: Vec<Function>,
}

impl Parsed {
    /// Reads a file's text.
    pub(crate) fn of(text: &str) -> Parsed {
        let mut parsed = Parsed { lines: text.lines().count(), ..Parsed::default() };
        let all = tokens(text);
        let (product, test_lines) = without_tests(&all, parsed.lines);
        parsed.test_lines = test_lines;
        parsed.docs = docs(&product);
        let code: Vec<Token<'_>> = product.into_iter().filter(|t| t.kind != Kind::Doc).collect();
        parsed.functions = functions(&code);
        Reader { code: &code, at: 0, braces: Vec::new(), parsed: &mut parsed }.run();
        parsed
    }

    /// Lines that ship.
    pub(crate) fn product_lines(&self) -> usize {
        self.lines - self.test_lines
    }
}

/// The tokens outside `#[cfg(test)]`, and how many lines are inside.
fn without_tests<'a>(all: &[Token<'a>], lines: usize) -> (Vec<Token<'a>>, usize) {
    let mut kept: Vec<Token<'a>> = Vec::new();
    let (mut at, mut test_lines) = (0, 0);
    while at < all.len() {
        let inner = usize::from(all[at].is("#") && all.get(at + 1).is_some_and(|t| t.is("!")));
        match attribute_end(all, at, inner) {
            Some(end) if is_test_only(&all[at..end]) => {
                if inner == 1 {
                    return (Vec::new(), lines);
                }
                while kept.last().is_some_and(|t| t.kind == Kind::Doc) {
                    kept.pop();
                    test_lines += 1;
                }
                let first = all[at].line;
                at = item_end(all, end);
                test_lines += all[at - 1].last_line - first + 1;
            }
            _ => {
                kept.push(all[at]);
                at += 1;
            }
        }
    }
    (kept, test_lines)
}

/// Behind the `]` of an attribute that starts at `at`, if one does; `inner` counts the `!` of `#![...]`.
fn attribute_end(all: &[Token<'_>], at: usize, inner: usize) -> Option<usize> {
    let open = at + 1 + inner;
    (all[at].is("#") && all.get(open).is_some_and(|t| t.is("["))).then(|| group_end(all, open))
}

fn is_test_only(attribute: &[Token<'_>]) -> bool {
    let has = |word: &str| attribute.iter().any(|t| t.is(word));
    has("cfg") && has("test") && !has("not")
}

/// Behind the bracket that closes the one at `open`.
fn group_end(all: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in all.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" if token.kind == Kind::Sign => depth += 1,
            ")" | "]" | "}" if token.kind == Kind::Sign => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    all.len()
}

/// Behind the item, field, arm or statement that starts at `at`, its attributes included.
fn item_end(all: &[Token<'_>], mut at: usize) -> usize {
    while at < all.len() && (all[at].kind == Kind::Doc || all[at].is("#")) {
        at = if all[at].kind == Kind::Doc { at + 1 } else { attribute_end(all, at, 0).unwrap_or(at + 1) };
    }
    let mut first = at;
    if all.get(first).is_some_and(|t| t.is("pub")) {
        first += 1;
        if all.get(first).is_some_and(|t| t.is("(")) {
            first = group_end(all, first);
        }
    }
    let opens = |word: &&str| all.get(first).is_some_and(|t| t.is(word));
    let is_item = DEFINING.iter().any(opens) || OPENING.iter().any(opens);
    while at < all.len() {
        let token = all[at];
        match token.text {
            _ if token.kind != Kind::Sign => at += 1,
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            ")" | "]" | "}" => return at,
            "(" | "[" => at = group_end(all, at),
            "{" => {
                at = group_end(all, at);
                return if all.get(at).is_some_and(|t| t.is(";")) { at + 1 } else { at };
            }
            _ => at += 1,
        }
    }
    at
}

fn docs(product: &[Token<'_>]) -> Vec<Doc> {
    let mut found: Vec<Doc> = Vec::new();
    let mut before: Option<usize> = None;
    for (i, token) in product.iter().enumerate().filter(|(_, t)| t.kind == Kind::Doc) {
        let is_inner = token.text.starts_with("//!");
        let line = token.text[3..].to_owned();
        let follows = before.is_some_and(|b| b + 1 == i && product[b].line + 1 == token.line);
        match found.last_mut() {
            Some(doc) if follows && doc.is_inner == is_inner => doc.lines.push(line),
            _ => found.push(Doc { line: token.line, is_inner, lines: vec![line] }),
        }
        before = Some(i);
    }
    found
}

fn functions(code: &[Token<'_>]) -> Vec<Function> {
    let mut found = Vec::new();
    for (i, token) in code.iter().enumerate().filter(|(_, t)| t.is("fn")) {
        let Some(name) = code.get(i + 1).filter(|t| t.is_word()) else { continue };
        let mut at = i + 2;
        while at < code.len() && !code[at].is("{") && !code[at].is(";") {
            at = if code[at].is("(") || code[at].is("[") { group_end(code, at) } else { at + 1 };
        }
        if code.get(at).is_some_and(|t| t.is("{")) {
            let last = code[group_end(code, at) - 1].line;
            found.push(Function { name: name.text.to_owned(), line: token.line, lines: last - token.line + 1 });
        }
    }
    found
}

/// Walks the code once, knowing in which module it stands.
struct Reader<'a, 'p> {
    code: &'a [Token<'a>],
    at: usize,
    /// What each open brace belongs to: the name of a module, or something else.
    braces: Vec<Option<String>>,
    parsed: &'p mut Parsed,
}

impl Reader<'_, '_> {
    fn run(mut self) {
        while self.at < self.code.len() {
            let token = self.code[self.at];
            let text = token.text;
            match token.kind {
                Kind::Sign => self.sign(text),
                Kind::Word if text == "use" && !self.is_next("<") => self.import(),
                Kind::Word if text == "mod" && self.is_word(1) => self.module(),
                Kind::Word if text == "pub" => self.visibility(),
                Kind::Word => self.word(),
                _ => self.at += 1,
            }
        }
    }

    fn token(&self, ahead: usize) -> Option<&str> {
        self.code.get(self.at + ahead).filter(|t| t.kind != Kind::Literal).map(|t| t.text)
    }

    fn is_next(&self, text: &str) -> bool {
        self.token(1) == Some(text)
    }

    fn is_word(&self, ahead: usize) -> bool {
        self.code.get(self.at + ahead).is_some_and(Token::is_word)
    }

    fn within(&self) -> Vec<String> {
        self.braces.iter().flatten().cloned().collect()
    }

    fn sign(&mut self, text: &str) {
        match text {
            "{" => self.braces.push(None),
            "}" => {
                self.braces.pop();
            }
            // Attributes of tools name nothing of ours.
            "#" if self.is_next("[")
                && matches!(self.token(2), Some("allow" | "expect" | "warn" | "deny" | "rustfmt")) =>
            {
                self.at = group_end(self.code, self.at + 1);
                return;
            }
            _ => {}
        }
        self.at += 1;
    }

    fn visibility(&mut self) {
        self.at += 1;
        if self.token(0) == Some("(") && matches!(self.token(1), Some("crate" | "super" | "self" | "in")) {
            self.at = group_end(self.code, self.at);
        }
    }

    fn module(&mut self) {
        let name = self.token(1).unwrap_or_default().to_owned();
        match self.token(2) {
            Some(";") => self.parsed.children.push(Child { within: self.within(), name }),
            Some("{") => {
                self.braces.push(Some(name));
                self.parsed.inline.push(self.within());
            }
            _ => {}
        }
        self.at += 3;
    }

    fn import(&mut self) {
        let before = |n: usize| self.at.checked_sub(n).map(|i| self.code[i]);
        let is_public = before(1).is_some_and(|t| t.is("pub") || t.is(")"));
        let (line, within) = (self.code[self.at].line, self.within());
        self.at += 1;
        let mut found = Vec::new();
        self.tree(&[], &mut found);
        let imports =
            found.into_iter().map(|(path, name)| Import { within: within.clone(), path, name, is_public, line });
        self.parsed.imports.extend(imports);
    }

    /// One branch of a `use`, up to its comma, brace or semicolon.
    fn tree(&mut self, above: &[String], found: &mut Vec<(Vec<String>, String)>) {
        let mut path = above.to_vec();
        let mut name = None;
        // Of another package for certain.
        if path.is_empty() && self.token(0) == Some("::") {
            path.push("::".to_owned());
        }
        while let Some(text) = self.token(0).map(str::to_owned) {
            match text.as_str() {
                ";" | "," | "}" => break,
                "::" => {}
                "*" => name = Some("*".to_owned()),
                "as" => {
                    name = self.token(1).map(str::to_owned);
                    self.at += 1;
                }
                "{" => {
                    self.at += 1;
                    while !matches!(self.token(0), None | Some("}" | ";")) {
                        self.tree(&path, found);
                        if self.token(0) == Some(",") {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                _ => path.push(text),
            }
            self.at += 1;
        }
        if path.len() > 1 && path.last().is_some_and(|l| l == "self") {
            path.pop();
        }
        if let Some(last) = path.last().cloned() {
            found.push((path, name.unwrap_or(last)));
        }
    }

    /// A definition, a path, or a word that is neither.
    fn word(&mut self) {
        let token = self.code[self.at];
        let at_module_level = self.braces.iter().all(Option::is_some);
        if DEFINING.contains(&token.text) && self.is_word(1) {
            let name = self.token(1).unwrap_or_default().to_owned();
            let is_type = matches!(token.text, "struct" | "enum" | "union" | "trait" | "type");
            let is_union = token.text != "union" || matches!(self.token(2), Some("{" | "<"));
            if is_union && !matches!(name.as_str(), "fn" | "unsafe" | "async" | "extern" | "mut" | "_") {
                if at_module_level {
                    let definition = Definition { within: self.within(), name, is_type, line: token.line };
                    self.parsed.definitions.push(definition);
                }
                self.at += 2;
                return;
            }
            self.at += 1;
            return;
        }
        if token.text == "macro_rules" && self.is_next("!") {
            self.at += 3;
            return;
        }
        let before = self.at.checked_sub(1).map(|i| self.code[i]);
        let is_outside = self.is_leading_colons();
        let is_member =
            before.is_some_and(|t| t.is(".") || (t.is("::") && !is_outside) || (t.is("$") && !token.is("crate")));
        let mut path = vec![token.text.to_owned()];
        if is_outside {
            path.insert(0, "::".to_owned());
        }
        self.at += 1;
        while self.token(0) == Some("::") && self.is_word(1) {
            path.extend(self.token(1).map(str::to_owned));
            self.at += 2;
        }
        if !is_member && !NO_PATH.contains(&token.text) && (path.len() > 1 || self.names_an_item(token.text)) {
            self.parsed.mentions.push(Mention { within: self.within(), path, line: token.line });
        }
    }

    /// Whether `::` stands before, and nothing that it could belong to.
    fn is_leading_colons(&self) -> bool {
        let before = |n: usize| self.at.checked_sub(n).map(|i| self.code[i]);
        let belongs = |t: Token<'_>| (t.is_word() && !NO_PATH.contains(&t.text)) || t.is(">") || t.is("]");
        before(1).is_some_and(|t| t.is("::")) && !before(2).is_some_and(belongs)
    }

    /// A single word may be a local variable or a field: types are told by their capital, functions and macros by
    /// what follows.
    fn names_an_item(&self, word: &str) -> bool {
        word.starts_with(|c: char| c.is_ascii_uppercase()) || matches!(self.token(0), Some("(" | "!"))
    }
}
