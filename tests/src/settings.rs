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
variable. A flag wins over the environment, the environment over the file, the file over the
default. An empty variable counts as none. Unknown keys in the file are refused with the known ones;
a value of no use is refused with exit code 2, its place and its bound. `--check-config` tells
without starting anything. A list is written with commas between its values, or as an array in the
file. A flag without a value is `true` or `false` in file and environment.

`walfabric safekeeper`, `walfabric pageserver` and `walfabric walproposer-shim` take the same
settings. Variables reach every server that is started with them, so those of one server belong into
its unit or its file.
";

/// docs/settings.md as it is to be.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for command in [SafekeeperSettings::command(), PageserverSettings::command(), ShimSettings::command()] {
        let _ = write!(page, "\n{}", reference(&command));
    }
    page
}
