//! Commands and connection strings: any text gives a value or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::command::Command;
use libpq::ConnectOptions;

fuzz_target!(|text: &str| {
    let _ = Command::parse(text);
    let _ = ConnectOptions::from_conninfo(text, &libpq::Environment::none());
    let _ = ConnectOptions::to_address(text, "u");
});
