//! Prints docs/settings.md, the page of all settings (`make docs`).

fn main() {
    print!("{}", tests::settings::page());
}
