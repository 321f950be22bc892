//! Thin main: everything is in the library, which `walfabric pageserver` calls as well.

fn main() -> std::process::ExitCode {
    pageserver::cli()
}
