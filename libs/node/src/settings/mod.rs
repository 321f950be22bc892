//! Settings: each is written once, as a field of a struct that derives a command line.
//!
//! The field's name gives the flag (`--ring-mib`), the key of the file of `--config` (`ring_mib`) and the environment
//! variable (`WALFABRIC_RING_MIB`). Its comment is the help and the entry of docs/settings.md, its parser is the
//! bound. A flag wins over the environment, the environment over the file, the file over the default.
//!
//! File and environment are laid under the flags as defaults (`layers`), so that one parser judges every value, from
//! wherever it comes. Settings that were read are valid: nothing below reads flags, files or the environment.
//!
//! ```
//! use node::settings::{ProcessSettings, ServerSettings, SettingError, mib, read};
//!
//! /// A server with one setting of its own.
//! #[derive(clap::Parser)]
//! #[command(name = "example")]
//! struct ExampleSettings {
//!     #[command(flatten)]
//!     process: ProcessSettings,
//!     /// WAL kept in memory, in MiB.
//!     #[arg(long = "ring-mib", value_name = "MIB", default_value = "64", value_parser = mib(1..=1024))]
//!     ring_bytes: usize,
//! }
//!
//! impl ServerSettings for ExampleSettings {
//!     type Checked = ExampleSettings;
//!     fn process(&mut self) -> &mut ProcessSettings {
//!         &mut self.process
//!     }
//!     fn check(self, _: &dyn Fn(&str) -> Option<String>) -> Result<ExampleSettings, SettingError> {
//!         Ok(self)
//!     }
//! }
//!
//! let environment = |name: &str| (name == "WALFABRIC_RING_MIB").then(|| "8".to_owned());
//! let words = ["--listen-http", "127.0.0.1:0", "--broker", "http://127.0.0.1:2379"];
//! let settings = read::<ExampleSettings, _>(&words, &environment).expect("they are valid");
//! assert_eq!(settings.checked.ring_bytes, 8 << 20);
//! let refused = read::<ExampleSettings, _>(&["--ring-mib", "0"], &environment).map(drop);
//! assert_eq!(refused.expect_err("a ring of nothing").to_string(), "--ring-mib \"0\": expected 1 to 1024");
//! ```

mod common;
mod error;
mod layers;
mod parsers;
mod reference;
#[cfg(test)]
mod tests;

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

pub use common::{LogFormat, NodeSettings, ProcessSettings};
pub use error::{SettingError, SettingOrigin};
pub use parsers::{count, host_port, mib, micros, millis, node_id, socket_address};
pub use reference::reference;

use layers::Layers;

/// The settings of one server, which derive [`clap::Parser`].
pub trait ServerSettings: CommandFactory + FromArgMatches {
    /// Names of settings that nobody is shown, because they may hold a password.
    const SECRETS: &'static [&'static str] = &[];

    /// What the server is made of: these settings, checked, or what follows from them.
    type Checked;

    /// The part that every server has.
    fn process(&mut self) -> &mut ProcessSettings;

    /// Checks what takes two settings to judge. `environment` is for variables that are no settings, as libpq's.
    ///
    /// # Errors
    /// The first setting that cannot be used, named by its flag.
    fn check(self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self::Checked, SettingError>;
}

/// Settings that were read and are valid.
#[derive(Clone, Debug)]
pub struct ValidSettings<C> {
    /// The part that every server has.
    pub process: ProcessSettings,
    /// What the server is made of.
    pub checked: C,
}

/// Reads settings from the words behind the program's name, the environment, and the file that they name.
///
/// # Errors
/// The first setting that is missing or of no use, or a command line that asks for something else.
pub fn read<S: ServerSettings, W: Into<OsString> + Clone>(
    words: &[W],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<ValidSettings<S::Checked>, SettingError> {
    let command = S::command().no_binary_name(true);
    // The flags alone: they name the file, and what is wrong in them is theirs.
    let open = command.clone().mut_args(|arg| arg.required(false));
    let flags = matches(open, words, &Layers::default())?;
    let layers = Layers::read(&command, &flags, environment)?;
    let layered = layers.under(command);
    let matches = matches(layered.clone(), words, &layers)?;
    let mut settings = S::from_arg_matches(&matches)?;
    settings.process().shown = shown(&layered, &matches, S::SECRETS);
    settings.process().typed = typed(&layered, &matches);
    let process = settings.process().clone();
    let checked = settings.check(environment).map_err(|e| found_in(e, &layers, &matches, &layered))?;
    Ok(ValidSettings { process, checked })
}

/// Reads settings from flags alone, for a server within another program.
///
/// # Errors
/// As [`read`].
pub fn from_flags<S: ServerSettings>(flags: &[&str]) -> Result<S::Checked, SettingError> {
    read::<S, _>(flags, &|_| None).map(|settings| settings.checked)
}

fn matches<W: Into<OsString> + Clone>(
    command: Command,
    words: &[W],
    layers: &Layers,
) -> Result<ArgMatches, SettingError> {
    command.try_get_matches_from(words.iter().cloned().map(Into::into)).map_err(|e| told(e, layers))
}

/// What clap refuses, in the words of every other refusal where it is about one setting.
fn told(e: clap::Error, layers: &Layers) -> SettingError {
    let text = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(list)) => list.first().cloned(),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg).and_then(|arg| arg.split_whitespace().next().map(str::to_owned));
    let Some(flag) = flag.filter(|flag| flag.starts_with("--")) else { return e.into() };
    match e.kind() {
        ErrorKind::MissingRequiredArgument => SettingError::Missing { flag },
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let Some(value) = text(ContextKind::InvalidValue).filter(|value| !value.is_empty()) else {
                return e.into();
            };
            let problem = match (e.get(ContextKind::ValidValue), std::error::Error::source(&e)) {
                (Some(ContextValue::Strings(words)), _) => format!("expected {}", words.join(" or ")),
                (_, Some(source)) => source.to_string(),
                _ => return e.into(),
            };
            let origin = layers.origin(&flag).unwrap_or(SettingOrigin::Flag(flag));
            SettingError::Invalid { origin, value, problem }
        }
        _ => e.into(),
    }
}

/// Keys and values of all settings that may be shown, in the order of the help.
fn shown(command: &Command, matches: &ArgMatches, secrets: &[&str]) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    for arg in command.get_arguments() {
        let Some(key) = layers::key(arg).filter(|key| !secrets.contains(&key.as_str())) else { continue };
        let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        rows.push((key, values.join(",")));
    }
    rows
}

/// Keys of what stands on the command line.
fn typed(command: &Command, matches: &ArgMatches) -> Vec<String> {
    let is_typed = |arg: &&clap::Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    command.get_arguments().filter(is_typed).filter_map(layers::key).collect()
}

/// An error about a flag, naming the layer that the flag's value came from.
fn found_in(error: SettingError, layers: &Layers, matches: &ArgMatches, command: &Command) -> SettingError {
    let SettingError::Invalid { origin: SettingOrigin::Flag(flag), value, problem } = error else { return error };
    let id = command.get_arguments().find(|arg| arg.get_long() == flag.strip_prefix("--"));
    let id = id.map(|arg| arg.get_id().as_str());
    let typed = id.and_then(|id| matches.value_source(id)) == Some(ValueSource::CommandLine);
    let layered = layers.origin(&flag).filter(|_| !typed);
    SettingError::Invalid { origin: layered.unwrap_or(SettingOrigin::Flag(flag)), value, problem }
}
