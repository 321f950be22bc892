//! The reference of a server's settings as Markdown, made from the command that its settings derive.

use std::fmt::Write as _;

use clap::error::ContextKind;
use clap::{Arg, ArgAction, Command};

use super::layers::{is_in_file, key, variable};

/// The longest line of prose.
const WIDTH: usize = 98;

/// A value that no parser takes: what it answers names the bound.
const NO_VALUE: &str = "\u{1}";

/// One section: every setting of `command` with flag, key, environment variable, default, bound and meaning.
pub fn reference(command: &Command) -> String {
    let mut out = format!("## {}\n\n", command.get_name());
    if let Some(about) = command.get_about() {
        write_wrapped(&mut out, "", &format!("{}.", about.to_string().trim_end_matches('.')));
    }
    for arg in command.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| long != "help")) {
        let value = arg.get_value_names().filter(|_| arg.get_action().takes_values());
        let value = value.map(|names| format!(" {}", names.join(" "))).unwrap_or_default();
        let _ = write!(out, "\n- `--{}{value}`", arg.get_long().unwrap_or_default());
        out.push_str(&places(arg));
        out.push('\n');
        let sentences = [facts(command, arg), meaning(arg)].into_iter().filter(|text| !text.is_empty());
        write_wrapped(&mut out, "  ", &sentences.collect::<Vec<_>>().join(" "));
    }
    out
}

/// Key and variable; nothing for what is said on the command line alone.
fn places(arg: &Arg) -> String {
    let Some(key) = key(arg) else { return ", on the command line only".to_owned() };
    let variable = format!(", `{}`", variable(&key));
    if is_in_file(&key) { format!(", `{key}`{variable}") } else { variable }
}

/// Whether it is needed, its default and its bound.
fn facts(command: &Command, arg: &Arg) -> String {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return String::new();
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let need = match &defaults[..] {
        [] if arg.is_required_set() => "Required".to_owned(),
        [] => "Optional".to_owned(),
        values => format!("Default `{}`", values.join(",")),
    };
    match bound(command, arg) {
        Some(bound) => format!("{need}, {bound}."),
        None => format!("{need}."),
    }
}

/// What the parser says of a value that is none.
fn bound(command: &Command, arg: &Arg) -> Option<String> {
    let words = arg.get_possible_values();
    if !words.is_empty() {
        let words: Vec<_> = words.iter().map(clap::builder::PossibleValue::get_name).collect();
        return Some(format!("expected {}", words.join(" or ")));
    }
    let alone = Command::new(command.get_name().to_owned()).no_binary_name(true).arg(arg.clone().required(false));
    let refused = alone.try_get_matches_from([format!("--{}={NO_VALUE}", arg.get_long()?)]).err()?;
    refused.get(ContextKind::InvalidValue)?;
    Some(std::error::Error::source(&refused)?.to_string())
}

/// The comment of the field, paragraphs joined; the last one has its full stop.
fn meaning(arg: &Arg) -> String {
    let text = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() || text.ends_with('.') { text } else { format!("{text}.") }
}

fn write_wrapped(out: &mut String, indent: &str, text: &str) {
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && indent.len() + line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(out, "{indent}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(out, "{indent}{line}");
}
