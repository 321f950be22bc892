//! The page of all settings, made from the structs that read them.

use std::fmt::Write as _;

use clap::CommandFactory;
use node::settings::reference;
use pageserver::PageserverSettings;
use safekeeper::SafekeeperSettings;
use walproposer_shim::ShimSettings;

/// What stands before the lists.
const HEAD: &str = "\
# Settings

Made by `make docs` from the structs that read the settings: change the comments there, not this
page.

Every setting has a flag, a key in the file of `--config` (TOML, `name = value`) and an environment
variable. Flags override the environment, the environment overrides the file, and the file overrides
the defaults. An empty variable counts as not set. An unknown key in the file is refused, and the
known ones are listed. An invalid value is refused with exit code 2; the message says where it
stands and what is allowed. `--check-config` checks all this without starting anything. A list is
written with commas between its values, or as an array in the file. A flag that takes no value is
`true` or `false` in the file and in the environment.

`walfabric safekeeper`, `walfabric pageserver` and `walfabric walproposer-shim` take the same
settings. Every server that is started with a variable reads it, so put variables that are for one
server into its unit, or use its file.
";

/// docs/settings.md as it is to be.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for command in [SafekeeperSettings::command(), PageserverSettings::command(), ShimSettings::command()] {
        let _ = write!(page, "\n{}", reference(&command));
    }
    page
}
