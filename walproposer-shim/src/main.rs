//! Thin main: everything is in the library, which `walfabric walproposer-shim` calls as well.

fn main() -> std::process::ExitCode {
    walproposer_shim::cli()
}
