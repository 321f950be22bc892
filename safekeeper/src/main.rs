//! Thin main: everything is in the library, which `walfabric safekeeper` calls as well.

fn main() -> std::process::ExitCode {
    safekeeper::cli()
}
