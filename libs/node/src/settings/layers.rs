//! Environment and file, laid under the flags: what they say becomes a flag's default.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::de::{DeTable, DeValue};

use super::error::{SettingError, SettingOrigin, key_of};

/// What is said on the command line or not at all: a choice of the moment, and what asks for words instead of a server.
const FLAGS_ONLY: [&str; 4] = ["check_config", "take_over", "help", "version"];

/// A value, or several of a list, below the flags.
struct Layered {
    values: Vec<String>,
    origin: SettingOrigin,
}

/// What environment and file say, by key.
#[derive(Default)]
pub(super) struct Layers(HashMap<String, Layered>);

/// The key of a setting; none for what is no setting.
pub(super) fn key(arg: &Arg) -> Option<String> {
    let key = arg.get_long()?.replace('-', "_");
    (!FLAGS_ONLY.contains(&key.as_str())).then_some(key)
}

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("WALFABRIC_{}", key.to_ascii_uppercase())
}

/// Whether a key may stand in the file; the file's own path may not.
pub(super) fn is_in_file(key: &str) -> bool {
    key != "config"
}

impl Layers {
    /// Reads the environment, and the file that `flags` or the environment names.
    pub(super) fn read(
        command: &Command,
        flags: &ArgMatches,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Layers, SettingError> {
        let mut layers = Layers::default();
        // An empty variable is as good as none: that is how a service manager takes one back.
        let said = |key: &str| environment(&variable(key)).filter(|value| !value.is_empty());
        let file = flags.get_one::<PathBuf>("config").cloned().or_else(|| said("config").map(PathBuf::from));
        if let Some(path) = file {
            layers.read_file(&path, command)?;
        }
        for key in command.get_arguments().filter_map(key) {
            if let Some(value) = said(&key) {
                let origin = SettingOrigin::Variable(variable(&key));
                layers.0.insert(key, Layered { values: vec![value], origin });
            }
        }
        Ok(layers)
    }

    /// Where the value of a flag stands, if not on the command line.
    pub(super) fn origin(&self, flag: &str) -> Option<SettingOrigin> {
        self.0.get(&key_of(flag)).map(|layered| layered.origin.clone())
    }

    /// The command whose defaults are what the layers say.
    pub(super) fn under(&self, command: Command) -> Command {
        command.mut_args(|arg| {
            let Some(layered) = key(&arg).and_then(|key| self.0.get(&key)) else { return arg };
            arg.required(false).default_values(layered.values.clone())
        })
    }

    fn read_file(&mut self, path: &Path, command: &Command) -> Result<(), SettingError> {
        let error = |problem: String| SettingError::File { path: path.display().to_string(), problem };
        let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
        let line_of = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        // The library's own error shows the line, on which a password may stand.
        let table = DeTable::parse(&text).map_err(|e| {
            let line = e.span().map(|span| format!("line {}: ", line_of(span.start)));
            error(format!("{}{}", line.unwrap_or_default(), e.message()))
        })?;
        for (key, value) in table.get_ref() {
            let (line, key) = (line_of(key.span().start), key.get_ref().to_string());
            let Some(arg) = in_file(command).find(|arg| self::key(arg).as_ref() == Some(&key)) else {
                let known: Vec<_> = in_file(command).filter_map(self::key).map(|key| format!("`{key}`")).collect();
                return Err(error(format!("line {line}: unknown field `{key}`, expected one of {}", known.join(", "))));
            };
            let Some(values) = texts(value.get_ref(), arg) else {
                let expected = if takes_list(arg) { "a value or a list of values" } else { "one value" };
                return Err(error(format!("line {line}: {key}: expected {expected}")));
            };
            let origin = SettingOrigin::File { path: path.to_owned(), line, key: key.clone() };
            self.0.insert(key, Layered { values, origin });
        }
        Ok(())
    }
}

fn in_file(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| key(arg).is_some_and(|key| is_in_file(&key)))
}

/// Whether a flag takes several values with commas between them.
fn takes_list(arg: &Arg) -> bool {
    arg.get_value_delimiter().is_some()
}

/// A value of the file as it would stand on the command line.
fn texts(value: &DeValue<'_>, arg: &Arg) -> Option<Vec<String>> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(is_set) => Some(is_set.to_string()),
        _ => None,
    };
    match value {
        DeValue::Array(list) if takes_list(arg) => list.iter().map(|value| one(value.get_ref())).collect(),
        DeValue::String(_) if matches!(arg.get_action(), ArgAction::SetTrue) => None,
        value => one(value).map(|text| vec![text]),
    }
}
