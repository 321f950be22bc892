//! Type names of more than one type, and the files in which two of them meet.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Found, House};

/// A name that several types bear.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The name.
    pub(crate) name: String,
    /// Where each is defined, as `path:line`.
    pub(crate) places: Vec<String>,
    /// Files in which two of them meet under this name.
    pub(crate) meetings: Vec<String>,
}

/// Every type of the product code: (name, file, line) at the level of a module.
fn types(house: &House) -> BTreeMap<&str, BTreeSet<(usize, usize)>> {
    let mut all: BTreeMap<&str, BTreeSet<(usize, usize)>> = BTreeMap::new();
    for (file, of) in house.files.iter().enumerate() {
        for definition in of.parsed.definitions.iter().filter(|d| d.is_type) {
            all.entry(&definition.name).or_default().insert((file, definition.line));
        }
    }
    all
}

/// How many names types bear.
pub(crate) fn type_names(house: &House) -> usize {
    types(house).len()
}

/// The names that are used more than once, in the order of the alphabet.
pub(crate) fn shared(house: &House) -> Vec<Shared> {
    let mut here: BTreeMap<(usize, String), BTreeSet<usize>> = BTreeMap::new();
    for taken in house.taken() {
        if let Found::Item(module, name) = taken.found {
            // Renamed, it bears another name here.
            if taken.names.contains(&name) {
                here.entry((taken.file, name)).or_default().insert(house.file_of(module));
            }
        }
    }
    let mut found = Vec::new();
    for (name, places) in types(house).into_iter().filter(|(_, places)| places.len() > 1) {
        let defining: BTreeSet<usize> = places.iter().map(|(file, _)| *file).collect();
        let meets = |file: usize| {
            let mut seen = here.get(&(file, name.to_owned())).cloned().unwrap_or_default();
            seen.extend(defining.contains(&file).then_some(file));
            seen.intersection(&defining).count() > 1
        };
        let path = |file: usize| house.files[file].path.clone();
        found.push(Shared {
            name: name.to_owned(),
            places: places.iter().map(|(file, line)| format!("{}:{line}", path(*file))).collect(),
            meetings: (0..house.files.len()).filter(|f| meets(*f)).map(path).collect(),
        });
    }
    found
}
