//! The page of settings says what the servers read.

use std::path::Path;

#[test]
fn the_page_of_settings_is_what_the_structs_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let page = std::fs::read_to_string(path).expect("docs/settings.md is there");
    let made = tests::settings::page();
    let differs = page.lines().zip(made.lines()).find(|(is, should)| is != should);
    assert!(page == made, "docs/settings.md is not what `make docs` writes, first here: {differs:?}");
}
