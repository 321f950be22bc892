//! Measures of the house: circles of imports, names, docs, sizes and purity, from the text of the repository alone.
//!
//! `make house` (`bin/house.rs`) prints them beside their goals, and the lint (`tests/tidy.rs`) keeps them from getting
//! worse. Only the standard library, so that plain `rustc` builds either in a second. Definitions:
//!
//! - Product code is everything that a crate root of a workspace member outside `tests/` reaches by `mod`, without code
//!   under `#[cfg(test)]` and without modules called `tests`.
//! - A module is a file. A file imports another when it names something that is defined there: by `use`, or by a path
//!   in the code. A name is followed to its definition, through re-exports and globs; a file that only passes a name
//!   on (`pub use`, `mod`) imports nothing. Methods are not followed, since a type would have to be known. Parent and
//!   child are two modules like any other: a parent that calls into its child and gives it a type is in a circle with
//!   it, which ends when the type gets a file of its own.
//! - A circle is a strongly connected component of more than one file of one crate.
//! - A type is a struct, an enum, a union, a trait or a type alias at module level; types that a macro makes are not
//!   seen. Two types of one name meet in a file that defines or names both without renaming.
//!
//! | module | what |
//! |---|---|
//! | `lex`, `source` | a file's text as tokens, and its items |
//! | `graph`, `circles` | names followed to their files, and circles of files |
//! | `names`, `docs`, `prose` | names used twice, docs that say nothing, lines that are too wide |
//! | `links` | paths and links of Markdown that lead nowhere |
//! | `purity` | impure names that pure code takes |
//! | `sizes` | lengths of functions and files, lines of test and product |
//! | `figures`, `limits` | the table with its goals, and the ratchet of the lint |
//! | `workspace` | the repository's files and members |

mod circles;
mod docs;
pub(crate) mod figures;
mod graph;
mod lex;
pub(crate) mod limits;
mod links;
mod names;
pub(crate) mod prose;
pub(crate) mod purity;
mod sizes;
pub(crate) mod source;
pub(crate) mod workspace;

#[cfg(test)]
mod tests;
