//! The ratchet: today's value of each figure. A limit moves towards its goal when the code allows it, and never away
//! from it. Once it reaches the goal, it stays there.

/// Lines of a file's product part; design aim is 200.
pub(crate) const FILE_LINES_MAX: usize = 520;
/// Lines of one function; design aim is 35.
pub(crate) const FUNCTION_LINES_MAX: usize = 70;
/// Modules in circles of imports, in percent; those of [`super::circles::APART`] are not counted.
pub(crate) const IN_CIRCLES_PERCENT_MAX: f64 = 5.0;
/// Modules in the largest of those circles.
pub(crate) const LARGEST_CIRCLE_MAX: usize = 3;
/// Takings of pure code that lead outside.
pub(crate) const IMPURITIES_MAX: usize = 0;
/// Names that more than one type bears.
pub(crate) const SHARED_NAMES_MAX: usize = 25;
/// Those of them under which two types meet in one file.
pub(crate) const MEETING_NAMES_MAX: usize = 0;
/// Lines of test for one of product.
pub(crate) const TEST_RATIO_MIN: f64 = 0.7;
/// Lines of prose in Markdown that are wider than [`super::prose::PROSE_CHARS_MAX`].
pub(crate) const LONG_PROSE_MAX: usize = 0;
/// Rows of tables in Markdown that are wider than [`super::prose::ROW_CHARS_MAX`].
pub(crate) const LONG_ROWS_MAX: usize = 0;
/// Paths and links of Markdown that lead nowhere.
pub(crate) const BROKEN_LINKS_MAX: usize = 0;
/// Doc comments of two words or fewer.
pub(crate) const SHORT_DOCS_MAX: usize = 0;
/// Library crates with an example that runs.
pub(crate) const EXAMPLES_MIN: usize = 12;
